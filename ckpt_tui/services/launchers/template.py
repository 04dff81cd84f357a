"""A command of a person's own, with places for what a resume puts in; kept in the run directory until it is forgotten.

The words of the command stay the words of the process: nothing is read by a shell, unless the command itself says
`sh -c '...'`. There, what is put in is quoted for that shell.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular
from ckpt_tui.services import command_line, files
from ckpt_tui.services.launchers import split_command
from ckpt_tui.services.launchers.base import Built, Resume, Where
from ckpt_tui.services.launchers.moved import renamed, where_from
from ckpt_tui.services.launchers.recorded import head_now
from ckpt_tui.services.launchers.spelling import set_setting, spelt_in
from ckpt_tui.text import run_word, safe_text

FILE_NAME = "resume_command.json"
FORGOTTEN_NAME = "resume_command.forgotten.json"  # the last one that was let go: it can be had again
PLACES = ("checkpoint", "checkpoint_name", "step", "directory", "settings")
_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w.-]*)\}")
_OF_A_SHELL = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"})
_SHELLS = frozenset({"sh", "bash", "zsh", "dash", "ksh"})
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Template:
    """words: of the command, with `{checkpoint}` and others in them. cwd: where it runs. home: the directory for which
    it was kept, "" where nobody says."""

    words: tuple[str, ...]
    cwd: str
    is_kept: bool = False
    home: str = ""

    @property
    def line(self) -> str:
        return command_line.quoted(self.words)


def parse_template(text: str, cwd: str) -> Template:
    """A command as a person typed it. Raises CkptError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CkptError("Usage", f"--command cannot be read: {error}", _EXAMPLE) from None
    if not words:
        raise CkptError("Usage", "--command is empty", _EXAMPLE)
    if any("\0" in word for word in words):
        raise CkptError("Usage", "--command holds a zero byte", _EXAMPLE)
    return Template(tuple(words), cwd)


_EXAMPLE = "For instance: --command 'python train.py --ckpt {checkpoint} {settings}'"


def read_template(directory: str) -> Template | None:
    """The command that is kept for a directory. Raises CkptError when there is one that cannot be read."""
    return _read(directory, FILE_NAME)


def forgotten_template(directory: str) -> Template | None:
    """The command that was forgotten last; None where there is none that could be kept again."""
    try:
        return _read(directory, FORGOTTEN_NAME) if not os.path.lexists(os.path.join(directory, FILE_NAME)) else None
    except CkptError:
        return None


def _read(directory: str, name: str) -> Template | None:
    path = os.path.join(directory, name)
    try:
        with open_regular(path) as file:
            fields = json.loads(file.read(_MAX_BYTES))
        words, cwd, home = fields["command"], fields.get("cwd", ""), str(fields.get("directory") or "")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        words, cwd, home = None, "", ""
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise CkptError(
            "Not a command",
            f"{path} does not hold a command",
            f"Forget it: `ckpt-tui resume {run_word(directory)} --forget-command`."
            if name == FILE_NAME
            else "Give the command anew: `--command '...'` keeps it for the next resumes.",
        )
    return Template(tuple(words), cwd if isinstance(cwd, str) else "", is_kept=True, home=home)


def keep_template(directory: str, template: Template) -> None:
    """Keep the command for the next resumes of a directory: whole or not at all."""
    fields = {
        "command": list(template.words), "cwd": template.cwd, "ts": time.time(),
        "directory": os.path.realpath(directory),
    }  # fmt: skip
    path = os.path.join(directory, FILE_NAME)
    try:
        files.write_file(path, json.dumps(fields, indent=1).encode() + b"\n", files.mode_as_log(directory))
    except OSError as error:
        raise from_os_error(error, path, "write to") from error


def forget_template(directory: str, *, is_tried: bool = False) -> str | None:
    """Let the kept command go; gives its line, None when none was kept. It lies beside, for `keep_again`, and so does
    what was let go before. is_tried: nothing is done."""
    path = os.path.join(directory, FILE_NAME)
    try:
        kept = read_template(directory)
        line = kept.line if kept is not None else None
    except CkptError:
        line = ""
    if line is None or is_tried:
        return line
    try:
        _set_aside(directory)
        os.replace(path, os.path.join(directory, FORGOTTEN_NAME))
        files.sync_directory(directory)
    except FileNotFoundError:
        return None  # somebody else has just forgotten it
    except OSError as error:
        raise from_os_error(error, path, "rename") from error
    return line


def _set_aside(directory: str) -> None:
    """Let what was forgotten before lie beside under a number: nothing is written over."""
    stem, end = os.path.splitext(FORGOTTEN_NAME)
    earlier = os.path.join(directory, FORGOTTEN_NAME)
    if os.path.lexists(earlier):
        names = (os.path.join(directory, f"{stem}.{number}{end}") for number in itertools.count(1))
        os.rename(earlier, next(name for name in names if not os.path.lexists(name)))


def keep_again(directory: str, *, is_tried: bool = False) -> str | None:
    """Keep the command that was forgotten last; gives its line, None when there is none. Raises CkptError where another
    one is kept by now. is_tried: nothing is done."""
    path = os.path.join(directory, FILE_NAME)
    if os.path.lexists(path):
        raise CkptError(
            "A command is kept",
            f"{path} is there: another command was kept since",
            f"Forget that one first: `ckpt-tui resume {run_word(directory)} --forget-command`.",
        )
    forgotten = _read(directory, FORGOTTEN_NAME)
    if forgotten is None or is_tried:
        return forgotten.line if forgotten is not None else None
    try:
        os.replace(os.path.join(directory, FORGOTTEN_NAME), path)
        files.sync_directory(directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error, path, "rename") from error
    return forgotten.line


def named_places(template: Template) -> set[str]:
    """What its `{...}` name."""
    return {match[1] for word in template.words for match in _PLACE.finditer(word) if match[1]}


def build_template(template: Template, wanted: Resume, places: Sequence[str] = ()) -> Built:
    """The command with everything in its place. places: directories to look for the script in, after its own.

    Raises CkptError for a place that nobody knows.
    """
    named = named_places(template)
    values = {
        "checkpoint": wanted.path, "checkpoint_name": wanted.name, "directory": wanted.directory,
        "step": str(wanted.step) if wanted.step is not None else "",
    }  # fmt: skip
    settings = {**wanted.recorded, **wanted.settings}
    for name in sorted(named - {*PLACES}):
        if name not in settings:
            raise _unknown_place(name, settings)
        values[name] = _text(settings[name])
    missing: list[str] = []
    if "step" in named and wanted.step is None:
        missing.append("the command wants {step}, and the step of this checkpoint is not known")
    words, extra, homeless = _with_settings(template.words, wanted, named)
    if homeless:
        keys = ", ".join(homeless)
        missing.append(f"the command has no place for {keys}: give it {{settings}} or {{{homeless[0]}}}")
    command: list[str] = []
    for index, word in enumerate(words):
        if word == "{settings}" and not _is_for_a_shell(words, index):
            command += extra
            continue
        quote = shlex.quote if _is_for_a_shell(words, index) else str
        command.append(_filled(word, {**{k: quote(v) for k, v in values.items()}, "settings": shlex.join(extra)}))
    split = split_command(command)
    cwd = next(
        (place for place in (template.cwd, *places) if place and os.path.exists(os.path.join(place, split.script))),
        template.cwd if os.path.isdir(template.cwd) else os.path.dirname(wanted.directory),
    )
    moved = where_from(wanted.directory, template.home, template.cwd, split)
    cwd = moved.cwd or cwd
    options, said, elsewhere = renamed(split.options, moved, cwd, wanted.directory)
    head, notes, gone, not_known = head_now(split, Where(cwd))
    if not named & {"checkpoint", "checkpoint_name", "step", "directory"}:
        not_known.append("Which checkpoint the command takes is its own choice: it has no {checkpoint}.")
    for_a_shell = [word for word in template.words if word in _OF_A_SHELL]
    if for_a_shell:
        said.append(f"{for_a_shell[0]} is an argument like any other here: no shell reads it. `sh -c '...'` would.")
    return Built(
        "template", (*head, *options), cwd, {}, (*notes, *said), tuple(not_known), (*gone, *missing, *elsewhere),
        known_by="a command of your own", is_own=command_line.is_own_trainer(split.head),
    )  # fmt: skip


def _with_settings(words: Sequence[str], wanted: Resume, named: set[str]) -> tuple[list[str], list[str], list[str]]:
    """The words with the settings that stand in them changed; words for `{settings}`; keys that have no place."""
    split = split_command(words)
    options = list(split.options)
    plain = [word for word in options if not _PLACE.search(word)]
    extra: list[str] = []
    homeless: list[str] = []
    for key, value in wanted.settings.items():
        if key in named:
            continue
        recorded = wanted.recorded.get(key)
        if spelt_in(options, key) is not None:
            options = set_setting(options, key, value, recorded=recorded)
        elif "settings" in named:
            extra += set_setting(plain, key, value, recorded=recorded)[len(plain) :]
        else:
            homeless.append(key)
    return [*split.head, *options], extra, homeless


def _is_for_a_shell(words: Sequence[str], index: int) -> bool:
    """`sh -c '...'`: that word is read by a shell once more."""
    return index >= 2 and words[index - 1] in ("-c", "-lc", "-ec") and os.path.basename(words[index - 2]) in _SHELLS


def _filled(word: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: values[match[1]] if match[1] else match[0][0], word)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return "" if value is None else command_line.word(value)


def _unknown_place(name: str, settings: Mapping[str, object]) -> CkptError:
    known = [*PLACES, *settings]
    near = get_close_matches(name, known, n=2)
    meant = f"Did you mean {' or '.join(f'{{{one}}}' for one in near)}? " if near else ""
    places = ", ".join(f"{{{one}}}" for one in PLACES)
    return CkptError(
        "No such place",
        f"nothing is known to put into {{{safe_text(name, 60)}}} of the command",
        f"{meant}There are {places}, and every recorded setting by its name; {{{{ and }}}} are braces.",
    )
