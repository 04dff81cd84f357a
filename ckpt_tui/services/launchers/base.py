"""What a launcher is: it knows its own part of a recorded command, what that needs to run now, and what it cannot know.

A command is read from its front: each launcher takes its program and its options (`nohup`, `uv run`, `torchrun
--nproc_per_node 2`), the last one takes the script, too, and what follows are the script's own arguments. A setting of
the training is changed among these only: a launcher may have an option of the same name (`--seed`, `--config_file`).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from typing import Protocol

from ckpt_tui.records import dataclass

PYTHON = re.compile(r"(python|pypy)[\d.]*")
_PYTHON_VALUES = frozenset({"-W", "-X", "--check-hash-based-pycs"})
DEFAULT_PORT = 29500  # where the processes of one node meet: torch's, accelerate's and deepspeed's own default


@dataclass(frozen=True, slots=True)
class Taken:
    """The front of a command that one launcher understands.

    num_words: how many words that is. script: what it runs, when the command ends with it ("" while another launcher
    follows): a path, or a module where is_module. num_script_words: how many of the words name it.
    """

    num_words: int
    script: str = ""
    is_module: bool = False
    num_script_words: int = 0


@dataclass(frozen=True, slots=True)
class Where:
    """What a command is made to run in. environment: of the launcher as it was recorded."""

    cwd: str
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str = ""


@dataclass(frozen=True, slots=True)
class Now:
    """A launcher's part of a command as it can run now.

    notes: what had to be put in place of something. missing: what is not there, so that it cannot run.
    not_known: what nobody recorded, or what no one can see from here.
    """

    words: tuple[str, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    not_known: tuple[str, ...] = ()


class Launcher(Protocol):
    """One file of this package; registered in `LAUNCHERS`."""

    name: str

    def take(self, words: Sequence[str]) -> Taken | None:
        """Its part of `words`, from the first on; None when another one's program stands there."""

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        """The words that it took, made to run again here."""


@dataclass(frozen=True, slots=True)
class Split:
    """A command in two: `head` is launchers with their options and the script, `options` are the script's own.

    launcher: the name of the one that starts the script's processes: python, torchrun, accelerate, ...
    """

    parts: tuple[tuple[Launcher, tuple[str, ...], Taken], ...]
    options: tuple[str, ...]
    launcher: str
    script: str
    is_module: bool

    @property
    def head(self) -> tuple[str, ...]:
        return tuple(word for _, words, _ in self.parts for word in words)


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that has to be written before the command can run. name: in the run directory."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Built:
    """The command of a resume, and what a person has to know of it.

    known_by: what tells that the script goes on from the checkpoint like this, for a person to judge.
    hints: how it is done by hand, where no command is known.
    """

    launcher: str
    command: tuple[str, ...]
    cwd: str
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    not_known: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    files: tuple[PlannedFile, ...] = ()
    hints: tuple[str, ...] = ()
    known_by: str = ""
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Resume:
    """What a command is to do. argument: how our own trainer is told which checkpoint (`auto`, a name, a path).

    is_automatic: nobody chose the checkpoint: it is the newest valid one. settings: those to change.
    recorded: all settings as they were recorded, flat.
    """

    directory: str
    name: str
    path: str
    step: int | None
    argument: str
    is_automatic: bool = True
    settings: Mapping[str, object] = field(default_factory=dict)
    recorded: Mapping[str, object] = field(default_factory=dict)
    session: int = 1


def num_option_words(words: Sequence[str], start: int, flags: Collection[str]) -> int:
    """How many words from `start` on are options, as argparse reads them up to the first word that is none.

    flags: the options without a value, `-` for `_`; every other one has its value behind `=` or in the next word.
    """
    index = start
    while index < len(words) and words[index].startswith("-") and len(words[index]) > 1:
        word = words[index]
        index += 1
        if word == "--":
            break
        is_flag = word.replace("_", "-") in flags or "=" in word
        is_joined = len(word) > 2 and word[0] == "-" != word[1] and word.replace("_", "-") not in flags  # -n2
        index += 0 if is_flag or is_joined else 1
    return min(index, len(words)) - start


def option(words: Sequence[str], *names: str) -> str | None:
    """The value of an option in a launcher's part, whichever way it is spelt; the last one wins."""
    found = None
    wanted = {name.replace("_", "-") for name in names}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") in wanted:
            found = value if equals else words[index + 1] if index + 1 < len(words) else None
    return found


def without(words: Sequence[str], *names: str) -> list[str]:
    """The words without these options and their values."""
    wanted = {name.replace("_", "-") for name in names}
    kept: list[str] = []
    index = 0
    while index < len(words):
        name, equals, _ = words[index].partition("=")
        if name.replace("_", "-") in wanted:
            index += 1 if equals else 2
            continue
        kept.append(words[index])
        index += 1
    return kept


def with_option(words: Sequence[str], name: str, value: str) -> list[str]:
    """The words with the value of an option replaced where it stands."""
    result = list(words)
    for index, word in enumerate(words):
        given, equals, _ = word.partition("=")
        if given.replace("_", "-") != name.replace("_", "-"):
            continue
        if equals:
            result[index] = f"{given}={value}"
        elif index + 1 < len(words):
            result[index + 1] = value
    return result


def with_own_option(words: Sequence[str], taken: Taken, name: str, value: str) -> list[str]:
    """The launcher's words with an option at a value: replaced where it stands, else put in before the script."""
    if option(words, name) is not None:
        return with_option(words, name, value)
    return before_script(words, taken, "--" + name[2:].replace("-", "_"), value)


def before_script(words: Sequence[str], taken: Taken, *more: str) -> list[str]:
    """The launcher's words with some more behind its options."""
    at = len(words) - taken.num_script_words
    return [*words[:at], *more, *words[at:]]


def after_interpreter(words: Sequence[str]) -> int | None:
    """Where the script, or its `-m`, stands behind a Python interpreter and its flags; None when none is first."""
    if not words or PYTHON.fullmatch(os.path.basename(words[0])) is None:
        return None
    index = 1
    while index < len(words) and words[index].startswith("-") and words[index] not in ("-m", "-c", "-"):
        index += 2 if words[index] in _PYTHON_VALUES else 1
    return index if index < len(words) else None


def find_program(program: str, where: Where) -> str | None:
    """A program of a recorded command as it is found now: where it was, in its environment, or on the path."""
    if os.path.dirname(program):
        path = os.path.join(where.cwd, program)
        return program if os.path.isfile(path) and os.access(path, os.X_OK) else None
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        place = where.environment.get(name)
        if place and os.access(path := os.path.join(place, "bin", program), os.X_OK):
            return path if shutil.which(program) != path else program
    return program if shutil.which(program) else None


def program_now(words: Sequence[str], where: Where) -> tuple[list[str], list[str], list[str]]:
    """The words with a program that is there; notes, and what is missing."""
    program = words[0]
    found = find_program(program, where)
    if found is not None:
        return [found, *words[1:]], [], []
    name = os.path.basename(program)
    if PYTHON.fullmatch(name):
        return [sys.executable, *words[1:]], [f"{program} is no longer there: {sys.executable} runs it."], []
    if os.path.dirname(program) and (other := shutil.which(name)):
        return [other, *words[1:]], [f"{program} is no longer there: {other} runs it."], []
    return list(words), [], [f"the program {program} that started it is not found"]


def is_free(port: int) -> bool:
    """Whether a launcher could listen on that port of this host now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError):
            return False
    return True


def number(text: str | None, otherwise: int) -> int:
    """A whole number in an option, `otherwise` where there is none."""
    try:
        return int(text) if text is not None else otherwise
    except ValueError:
        return otherwise


def python_part(words: Sequence[str], modules: Collection[str], programs: Collection[str]) -> tuple[int, bool] | None:
    """Where a launcher's own options begin: behind `torchrun`, `python .../torchrun` or `python -m module`.

    The second is whether `python` stands first.
    """
    index = after_interpreter(words)
    if index is None:
        return (1, False) if words and os.path.basename(words[0]) in programs else None
    if words[index] == "-m":
        return (index + 2, True) if index + 1 < len(words) and words[index + 1] in modules else None
    return (index + 1, True) if os.path.basename(words[index]) in programs else None


def take_script(words: Sequence[str], start: int, flags: Collection[str], *, modules: Collection[str]) -> Taken | None:
    """A launcher with options and then a script. modules: its flags that say that the script is a module."""
    index = start + num_option_words(words, start, flags)
    if index >= len(words):
        return None
    is_module = any(word in modules for word in words[start:index])
    return Taken(index + 1, words[index], is_module, 1)


def script_now(words: Sequence[str], taken: Taken, where: Where) -> tuple[str, ...]:
    """What is missing of the script."""
    if not taken.script or taken.is_module or taken.script in ("-", "-c"):
        return ()
    path = os.path.join(where.cwd, taken.script)
    if os.path.exists(path) or not (taken.script.endswith(".py") or os.path.dirname(taken.script)):
        return ()
    return (f"the script {taken.script} is not there (looked in {where.cwd})",)
