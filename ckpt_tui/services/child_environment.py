"""The environment that a training is started with: the person's own, without what was true of the viewer only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

# Of a terminal that the training does not have: how wide it is, which pane of tmux, where to ask for a passphrase.
_OF_THE_TERMINAL = frozenset({"COLUMNS", "LINES", "TMUX", "TMUX_PANE", "STY", "WINDOWID", "SSH_TTY", "GPG_TTY", "_"})
_OF_THE_VIEWER = ("TEXTUAL", "CKPT_TUI_")


def training_environment(
    command: Sequence[str], added: Mapping[str, str] | None = None, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What `command` gets. added: what its launcher needs besides; it wins.

    A virtual environment that is active for the viewer is not the training's when the recorded interpreter lies in
    another one: what it starts by name (`torchrun`, `python`) is to come from where it comes from itself.
    """
    kept = {
        key: value
        for key, value in environment.items()
        if key not in _OF_THE_TERMINAL and not key.startswith(_OF_THE_VIEWER)
    }
    if "SSH_CONNECTION" in kept and not kept.get("DISPLAY", ":").startswith((":", "/")):
        del kept["DISPLAY"]  # forwarded through a connection that it is to outlive
    # Else the last lines before a crash, and a progress that is printed, stay in a buffer.
    kept.setdefault("PYTHONUNBUFFERED", "1")
    if command:
        _enter_venv(kept, _program(command))
    return {**kept, **(added or {})}


def _program(command: Sequence[str]) -> str:
    """What runs in the end of `env A=1 B=2 python -m trainer`."""
    words = list(command)
    if os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if "=" not in word and not word.startswith("-")] or words
    return words[0]


def _enter_venv(environment: dict[str, str], program: str) -> None:
    """Make the virtual environment of `program` the active one; none, where it lies in none."""
    if os.sep not in program:
        return  # found by the PATH that is active
    folder = os.path.dirname(os.path.abspath(program))
    root = os.path.dirname(folder)
    venv = root if os.path.isfile(os.path.join(root, "pyvenv.cfg")) else None
    if not venv and not os.path.basename(program).startswith(("python", "torchrun", "accelerate", "deepspeed")):
        return  # a shell, env: what they start is found by the PATH that is active
    active = environment.get("VIRTUAL_ENV")
    if not _is_same(folder, os.path.dirname(sys.executable)):
        environment.pop("PYTHONHOME", None)
        environment.pop("__PYVENV_LAUNCHER__", None)
    if active and (venv is None or not _is_same(active, venv)):
        del environment["VIRTUAL_ENV"]
        environment.pop("VIRTUAL_ENV_PROMPT", None)
        bin_folder = os.path.join(active, "bin")
        path = environment.get("PATH", os.defpath).split(os.pathsep)
        environment["PATH"] = os.pathsep.join(part for part in path if not _is_same(part, bin_folder))
        if venv:
            environment["VIRTUAL_ENV"] = venv
    if venv:
        path = environment.get("PATH", os.defpath).split(os.pathsep)
        if not any(_is_same(part, folder) for part in path):
            environment["PATH"] = os.pathsep.join([folder, *path])


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)
