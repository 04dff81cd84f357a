"""A recorded command made to run again: options replaced as they were spelt, interpreter and places that still exist.

Only what the log or a checkpoint recorded is used; where something had to be put in its place, a note says so.
"""

from __future__ import annotations

import itertools
import re
import shlex
import sys
from collections.abc import Mapping, Sequence

TRAINER_MODULE = "trainer"
# Options of a start that must not be repeated by a resume.
_ONCE = ("list_checkpoints", "fault", "kill_at_step")
_NUMBER = re.compile(r"-\d|-\.\d|-inf|-nan", re.IGNORECASE)


def quoted(command: Sequence[str]) -> str:
    """The command as a person would type it into a shell."""
    return shlex.join(command)


def set_option(argv: Sequence[str], key: str, value: object, *, recorded: object = None) -> list[str]:
    """`argv` with the option `--key` at `value`: replaced where it stands, as it is spelt there, or appended.

    Understands `--key value`, `--key=value`, dashes for underscores, flags without a value, and lists of values
    when `recorded` (the value that the log tells) is a list. A boolean is a flag: `--key`, or `--no-key` for False.
    """
    if isinstance(value, bool) and (isinstance(recorded, bool) or recorded is None):
        return _set_flag(argv, key, value, recorded)
    words = [word(item) for item in value] if isinstance(value, (list, tuple)) else [word(value)]
    is_joined = len(words) == 1 and _starts_option(words[0])  # `--note --x` would be two options
    num_values = None if isinstance(recorded, (list, tuple)) else 1
    result: list[str] = []
    is_set = False
    index, end = 0, _end_of_options(argv)
    while index < len(argv):
        token = argv[index]
        index += 1
        name, equals, _ = token.partition("=")
        if index > end or not is_option(name, key):
            result.append(token)
            continue
        if not equals:
            taken = 0
            while index < end and (num_values is None or taken < num_values) and not _starts_option(argv[index]):
                index, taken = index + 1, taken + 1
        if is_set:
            continue  # it stood there twice: the last one won, now there is one
        is_set = True
        result += [f"{name}={words[0]}"] if is_joined or (equals and len(words) == 1) else [name, *words]
    return result if is_set else insert(result, [f"--{key}={words[0]}"] if is_joined else [f"--{key}", *words])


def remove_option(argv: Sequence[str], key: str, *, has_value: bool) -> list[str]:
    """`argv` without `--key` and, when it has one, its value."""
    result: list[str] = []
    index = 0
    while index < len(argv):
        token = argv[index]
        index += 1
        if not is_option(token.partition("=")[0], key):
            result.append(token)
        elif has_value and "=" not in token and index < len(argv) and not _starts_option(argv[index]):
            index += 1
    return result


def option_value(argv: Sequence[str], key: str) -> str | None:
    """The value of `--key`, the last one where it stands twice; None when it is not there or has none."""
    found = None
    for index, token in enumerate(argv):
        name, equals, value = token.partition("=")
        if is_option(name, key):
            following = argv[index + 1] if index + 1 < len(argv) else None
            found = value if equals else following if following and not _starts_option(following) else None
    return found


def is_own_trainer(argv: Sequence[str]) -> bool:
    """Whether a command starts the bundled trainer (`python -m trainer`)."""
    return any(pair == ("-m", TRAINER_MODULE) for pair in itertools.pairwise(argv))


def own_trainer_command(directory: str, settings: Mapping[str, object]) -> list[str]:
    """The bundled trainer's command for a directory whose log is lost, from the settings in its checkpoint."""
    command = [sys.executable, "-m", TRAINER_MODULE, "--out", directory]
    for key, value in settings.items():
        if key in ("out", "resume", *_ONCE) or value is None or not re.fullmatch(r"\w+", key):
            continue
        if isinstance(value, bool):
            command += [f"--{key}"] if value else []
        elif isinstance(value, (list, tuple)):
            command += [f"--{key}", *map(word, value)] if value else []
        elif isinstance(value, (int, float, str)) and value != "":
            command += [f"--{key}", word(value)]
    return command


def without_once(argv: Sequence[str]) -> list[str]:
    """A recorded start without what was meant for that start only."""
    result = list(argv)
    for key in _ONCE:
        result = remove_option(result, key, has_value=key != "list_checkpoints")
    return result


def typed_value(text: str, recorded: object) -> object:
    """What a person typed, as the kind of value that was recorded; as a number or word where nothing was."""
    lowered = text.strip().lower()
    if isinstance(recorded, str):
        return text
    if isinstance(recorded, (list, tuple)):
        return [typed_value(part, recorded[0] if recorded else None) for part in text.replace(",", " ").split()]
    if lowered in ("true", "yes", "on") and (recorded is None or isinstance(recorded, bool)):
        return True
    if lowered in ("false", "no", "off") and (recorded is None or isinstance(recorded, bool)):
        return False
    if isinstance(recorded, bool) and lowered in ("0", "1"):
        return lowered == "1"
    if lowered in ("none", "null", ""):
        return None
    for kind in (int, float):
        try:
            return kind(lowered)
        except ValueError:
            continue
    return text


def _set_flag(argv: Sequence[str], key: str, value: bool, recorded: object) -> list[str]:
    spelt = next((token for token in argv if is_option(token.partition("=")[0], key)), None)
    given = option_value(argv, key)
    if given is not None and given.lower() in ("true", "false", "0", "1", "yes", "no"):
        return set_option(argv, key, "true" if value else "false", recorded="")
    result = [token for token in argv if not is_option(token, key) and not is_option(token, f"no_{key}")]
    if value:
        return insert(result, [spelt or f"--{key}"])
    # A flag that was given is simply left out; one that is on by itself has to be turned off.
    return result if spelt is not None or not recorded else insert(result, [f"--no-{key}"])


def is_option(name: str, key: str) -> bool:
    """Whether `name` is `--key`, dashes and underscores alike."""
    return name.startswith("--") and name[2:].replace("-", "_") == key.replace("-", "_")


def _starts_option(token: str) -> bool:
    return token.startswith("-") and len(token) > 1 and _NUMBER.match(token) is None


def _end_of_options(argv: Sequence[str]) -> int:
    return list(argv).index("--") if "--" in argv else len(argv)


def insert(argv: list[str], words: list[str]) -> list[str]:
    """With more options, before the `--` that ends them."""
    end = _end_of_options(argv)
    return [*argv[:end], *words, *argv[end:]]


def word(value: object) -> str:
    """A value as one word of a command."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
