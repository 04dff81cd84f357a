"""The settings of a run that is still to start, held against those that a checkpoint was trained with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.hparams import HparamChange, compare_hparams, flat_settings
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.errors import CkptError
from ckpt_tui.services.command_line import typed_value
from ckpt_tui.text import count, safe_text

_MAX_BYTES = 16 << 20
_SUFFIXES = (".json", ".yaml", ".yml", ".toml")


def is_settings_file(path: str) -> bool:
    """Whether `path` names settings and not a checkpoint: a file whose name says so, and that holds no tensors."""
    if not path.lower().endswith(_SUFFIXES) or not os.path.isfile(path):
        return False
    from ckpt_tui.checkpoints.registry import open_checkpoint, sniff

    if sniff(path) is None:
        return True
    try:
        found = open_checkpoint(path)
    except CkptError:
        return True
    return not found.tensors and "model" not in found.has


def read_settings(path: str) -> dict[str, object]:
    """The settings in a JSON, YAML or TOML file. Raises CkptError when it holds none."""
    with RegularFile(path) as file:
        if file.file_bytes > _MAX_BYTES:
            message = f"{safe_text(path, 1000)}: {count(file.file_bytes)} bytes are too many for settings"
            raise CkptError("Not settings", message)
        content = read_exactly(file.descriptor, file.file_bytes, 0, path)
    try:
        settings = _parsed(path.lower(), content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CkptError("Not settings", f"{safe_text(path, 1000)}: {safe_text(error, 200)}", _HINT) from None
    if not isinstance(settings, dict) or not settings:
        raise CkptError("Not settings", f"{safe_text(path, 1000)} holds no names with values", _HINT)
    return settings


_HINT = "Settings are an object of names and values, or KEY=VALUE after --set."


def _parsed(name: str, content: str) -> object:
    if name.endswith(".toml"):
        import tomllib

        return tomllib.loads(content)
    if name.endswith(".json"):
        import json

        return json.loads(content)
    from ckpt_tui.checkpoints.simple_yaml import SimpleYaml

    return SimpleYaml(content).entries


def settings_changes(
    checkpoint: Checkpoint, settings: Mapping[str, object] | None, assignments: Sequence[str]
) -> list[HparamChange]:
    """What a resume from `checkpoint` would have changed, gravest effect first.

    settings: all of the new run, None when only what `assignments` (KEY=VALUE) name is new. Raises CkptError when the
    checkpoint records no settings, or an assignment is none.
    """
    recorded = flat_settings(checkpoint.hyperparameters)
    if not recorded:
        message = f"{safe_text(checkpoint.path, 1000)} records no hyperparameters: there is nothing to compare with"
        raise CkptError(
            "No settings", message, "Compare with the checkpoint's run: `ckpt-tui inspect` shows what it has."
        )
    wanted = dict(recorded) if settings is None else flat_settings(settings)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        key = key.strip().lstrip("-")
        if not equals or not key:
            message = f"--set {safe_text(assignment, 60)} is not KEY=VALUE"
            raise CkptError("Usage", message, "For instance: --set lr=3e-4")
        known = _known_key(key, recorded)
        wanted[known] = typed_value(value, recorded.get(known))
    return compare_hparams(recorded, wanted)


def _known_key(key: str, recorded: Mapping[str, object]) -> str:
    """The recorded key that is meant: itself, or the only one that ends with it, `-` and `_` alike."""
    if key in recorded:
        return key
    words = key.replace("-", "_").lower()
    same = [name for name in recorded if name.replace("-", "_").lower() == words]
    ending = [name for name in recorded if name.replace("-", "_").lower().endswith(f".{words}")]
    found = same or ending
    return found[0] if len(found) == 1 else key
