"""How a script spells its settings, and which of them makes it resume: from what was recorded, never from a guess.

`--key value`, `--key=value` (nanoGPT wants the `=`), dashes or underscores, `key=value` (Hydra, Ultralytics), and
`--outer.key`. Which option resumes is told by the recorded command, the recorded settings, or the script's own text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from ckpt_tui.records import dataclass
from ckpt_tui.services import command_line
from ckpt_tui.services.launchers.base import Resume, Split

_BARE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*=.*", re.DOTALL)
# What scripts call the option that names the checkpoint to go on from; the most telling first.
RESUME_NAMES = (
    "resume_from_checkpoint", "ckpt_path", "resume_from", "resume_path", "resume_checkpoint", "resume_ckpt", "resume",
    "restore_from", "load_checkpoint",
)  # fmt: skip
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".tar", ".pkl")
_MAX_SCRIPT_BYTES = 1 << 20
_OWN_LIBRARY = re.compile(r"^\s*from trainer(\.\w+)* import |^\s*import trainer", re.MULTILINE)
# As the README has it: `checkpoints.find("auto")`, `ckpt_path=ours.newest()`, `callback.train(trainer)`.
_FINDS_NEWEST = re.compile(r"\.find\(|\.newest\(|\.train\(\s*\w+\s*\)")


@dataclass(frozen=True, slots=True)
class ResumeWay:
    """How a script is told to go on.

    key: the setting that names the checkpoint; "" when it finds the checkpoint by itself. value: what it is set to,
    None for a flag that stands there already, or needs none. known_by: what tells so. not_known: what does not.
    is_own_choice: the script takes the checkpoint that it finds, not one that it is told. replaces: the word that the
    value takes the place of, where that is no option's.
    """

    key: str
    value: str | bool | None
    known_by: str
    not_known: tuple[str, ...] = ()
    is_bare: bool | None = None
    also: Mapping[str, str] | None = None
    is_own_choice: bool = False
    replaces: str = ""


def is_bare_style(options: Sequence[str]) -> bool:
    """Whether settings are written `key=value`: those that there are, but for the options that name a config file."""
    dashed = [word[2:].partition("=")[0] for word in options if word.startswith("--") and len(word) > 2]
    return len(_bare_words(options)) > sum(not name.startswith("config") for name in dashed)


def _bare_words(options: Sequence[str]) -> list[str]:
    before = ["", *options]
    return [
        word
        for previous, word in zip(before, options, strict=False)
        if _BARE.fullmatch(word) and not (previous.startswith("-") and "=" not in previous)
    ]


def set_setting(
    options: Sequence[str], key: str, value: object, *, recorded: object = None, is_bare: bool | None = None
) -> list[str]:
    """A script's `options` with the setting at `value`: changed where it stands, in the spelling of that script."""
    spelt = spelt_in(options, key)
    if spelt is not None and spelt[1]:
        return _set_bare(options, spelt[0], value)
    if spelt is not None:
        return _set_dashed(options, spelt[0], value, recorded)
    if is_bare if is_bare is not None else is_bare_style(options):
        return [*options, f"{key}={_bare_value(value)}"]
    name = _as_others(options, key)
    if _needs_equals(options) and not isinstance(value, (list, tuple)):
        return command_line.insert(list(options), [f"--{name}={_equals_value(value)}"])
    return command_line.set_option(options, name, value, recorded=recorded)


def spelt_in(options: Sequence[str], key: str) -> tuple[str, bool] | None:
    """How the setting stands in the options: its name there, and whether that is `key=value`."""
    last = key.rpartition(".")[2]
    for name in dict.fromkeys((key, last)):
        for word in _bare_words(options):
            if word.partition("=")[0].lstrip("+~") == name:
                return word.partition("=")[0], True
        for form in (name, f"no_{name}"):
            if any(command_line.is_option(word.partition("=")[0], form) for word in options):
                return name, False
    return None


def _set_bare(options: Sequence[str], name: str, value: object) -> list[str]:
    result, is_set = [], False
    for word in options:
        if word.partition("=")[0] != name:
            result.append(word)
        elif not is_set:
            result.append(f"{name}={_bare_value(value)}")
            is_set = True
    return result


def _set_dashed(options: Sequence[str], name: str, value: object, recorded: object) -> list[str]:
    given = command_line.option_value(options, name)
    if isinstance(value, bool) and given in ("True", "False"):  # nanoGPT, and argparse's `type=eval`
        return command_line.set_option(options, name, str(value), recorded="")
    return command_line.set_option(options, name, value, recorded=recorded)


def _needs_equals(options: Sequence[str]) -> bool:
    """Every option that has a value has it behind `=`: a script may understand nothing else."""
    dashed = [word for word in options if word.startswith("--") and len(word) > 2]
    if not dashed or not any("=" in word for word in dashed):
        return False
    separate = any(
        one.startswith("--") and "=" not in one and not other.startswith("-") for one, other in pairwise(options)
    )
    return not separate


def _as_others(options: Sequence[str], key: str) -> str:
    """The key with dashes where the script's other options of several words have them."""
    names = [word[2:].partition("=")[0] for word in options if word.startswith("--")]
    has_dashes = any("-" in name.removeprefix("no-") for name in names) and not any("_" in name for name in names)
    return key.replace("_", "-") if has_dashes else key


def _bare_value(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_bare_value, value))}]"
    text = command_line.word(value)
    # Hydra's grammar reads these; in quotes they are text.
    return (
        "'" + text.replace("'", "\\'") + "'" if isinstance(value, str) and re.search(r"[\s,=\[\]{}()]", text) else text
    )


def _equals_value(value: object) -> str:
    return str(value) if isinstance(value, bool) or value is None else command_line.word(value)


# -- which option resumes -----------------------------------------------------------------------------------------


def resume_way(
    split: Split, wanted: Resume, cwd: str, *, has_resumed_itself: bool, resumed_from: str = ""
) -> ResumeWay | None:
    """How this script is told to go on from `wanted`; None when nothing tells.

    has_resumed_itself: the recorded session went on from a checkpoint; resumed_from: its path, "" if not known.
    """
    if command_line.is_own_trainer(split.head):
        return ResumeWay("resume", wanted.argument, "the bundled trainer", is_bare=False)
    options = split.options
    for name in RESUME_NAMES:
        found = spelt_in(options, name)
        if found is not None:
            return _as_recorded(options, found, wanted)
    init = spelt_in(options, "init_from")
    text = script_text(split, cwd)
    if init is not None or _is_nanogpt(text, wanted.recorded):
        return _nanogpt(wanted)
    named = _checkpoint_in(options, resumed_from)
    if has_resumed_itself and named is not None:
        # Without the path nobody knows whether that word is what it began from: it might begin from there again.
        return _instead_of(options, named, wanted) if resumed_from else None
    if has_resumed_itself:
        return ResumeWay("", None, "it did so before, with the same command", _own_choice(wanted), is_own_choice=True)
    if _OWN_LIBRARY.search(text) and _FINDS_NEWEST.search(text):
        return ResumeWay("", None, "its text: it looks for the newest valid checkpoint", is_own_choice=True)
    if "LightningCLI(" in text or (options[:1] == ("fit",) and "lightning" in text):
        return ResumeWay("ckpt_path", wanted.path, "Lightning's command line has it")
    for name in RESUME_NAMES:
        quoted = re.search(rf"""["']--?{name.replace("_", "[-_]")}["']([^\n]*\n?[^\n]*)""", text)
        if quoted is not None:
            if "store_true" in quoted[1].partition("add_argument")[0]:
                known_by = f"its text has --{name}, a flag"
                return ResumeWay(name, True, known_by, _own_choice(wanted), is_own_choice=True)
            return ResumeWay(name, wanted.path, f"its text has --{name}")
    for name in RESUME_NAMES:
        if name in wanted.recorded:
            return ResumeWay(name, wanted.path, f"{name} is among its recorded settings")
    if "HfArgumentParser" in text and "TrainingArguments" in text:
        unknown = () if "resume_from_checkpoint" in text else ("Whether the script uses --resume_from_checkpoint.",)
        return ResumeWay("resume_from_checkpoint", wanted.path, "it takes Hugging Face's TrainingArguments", unknown)
    return None


def _checkpoint_in(options: Sequence[str], path: str) -> int | None:
    """Where a script's options name the checkpoint at `path`, or, where that is not known, any."""
    name = os.path.basename(path.rstrip("/"))
    for index, word in enumerate(options):
        given = os.path.basename(word.rpartition("=")[2].rstrip("/"))
        if given == name if name else given.endswith(_SUFFIXES) or given.startswith("checkpoint-"):
            return index
    return None


def _instead_of(options: Sequence[str], index: int, wanted: Resume) -> ResumeWay:
    """The word that names the checkpoint of the last resume gets this one's."""
    word = options[index]
    key, equals, _ = word.partition("=")
    before = options[index - 1] if index else ""
    known_by = f"the recorded command names the checkpoint that it went on from: {word}"
    if equals:
        return ResumeWay(key.lstrip("-+~"), wanted.path, known_by, (), not key.startswith("-"))
    if before.startswith("--"):
        return ResumeWay(before[2:], wanted.path, known_by, (), False)
    return ResumeWay("", wanted.path, known_by, replaces=word)


def _as_recorded(options: Sequence[str], found: tuple[str, bool], wanted: Resume) -> ResumeWay:
    name, is_bare = found
    if is_bare:
        given: str | None = next(w.partition("=")[2] for w in options if w.partition("=")[0] == name)
    else:
        given = command_line.option_value(options, name)
    known_by = f"the recorded command has {name if is_bare else '--' + name}"
    is_flag = given is None or given.lower() in ("true", "1", "yes")
    if is_flag or (given in ("auto", "latest", "last") and wanted.is_automatic):
        return ResumeWay(name, None, known_by, _own_choice(wanted), is_bare, is_own_choice=True)
    return ResumeWay(name, wanted.path, known_by, (), is_bare)


def _own_choice(wanted: Resume) -> tuple[str, ...]:
    return (
        f"Which checkpoint it takes is the script's own choice; that it is {os.path.basename(wanted.name)} is not"
        " known.",
    )


def _is_nanogpt(text: str, recorded: Mapping[str, object]) -> bool:
    return ("configurator.py" in text and "init_from" in text) or {"init_from", "out_dir"} <= recorded.keys()


def _nanogpt(wanted: Resume) -> ResumeWay:
    """`init_from=resume` takes `ckpt.pt` of its `out_dir`."""
    return ResumeWay(
        "init_from", "resume", "nanoGPT's way: it takes ckpt.pt of its out_dir", (), False,
        {"out_dir": os.path.dirname(wanted.path)}, is_own_choice=os.path.basename(wanted.path) != "ckpt.pt",
    )  # fmt: skip


def script_text(split: Split, cwd: str) -> str:
    """What the script says, as far as it can be read."""
    places = [split.script]
    if split.is_module:
        path = split.script.replace(".", "/")
        places = [f"{path}.py", f"{path}/__main__.py", f"src/{path}.py", f"src/{path}/__main__.py"]
    for place in places:
        try:
            with open(os.path.join(cwd, place), "rb") as file:
                return file.read(_MAX_SCRIPT_BYTES).decode("utf-8", "replace")
        except (OSError, ValueError):
            continue
    return ""


def with_resume(options: Sequence[str], way: ResumeWay) -> list[str]:
    result = list(options)
    for key, value in (way.also or {}).items():
        if spelt_in(result, key) is None:
            result = set_setting(result, key, value, recorded="", is_bare=way.is_bare)
    if way.replaces:
        return [str(way.value) if word == way.replaces else word for word in result]
    if not way.key or way.value is None:
        return result
    if way.also is not None and not result:
        return [f"--{way.key}={way.value}"]  # nanoGPT reads no other form
    recorded: object = False if way.value is True else ""
    return set_setting(result, way.key, way.value, recorded=recorded, is_bare=way.is_bare)
