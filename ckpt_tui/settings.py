"""What a person always wants the same way, from one TOML file: theme, keys, pace, alarms.

Flags hold over the file, the file over what is built in. A file with anything wrong in it is refused as a whole, with
its line: half of somebody's settings would be worse than none. Read by the watch and by whatever opens a screen.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from types import MappingProxyType

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.text import safe_text

THEME_NAMES = ("auto", "dark", "light", "colour-blind", "ansi")
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.1, 3600.0
_THEME_SPELLINGS = {"color-blind": "colour-blind", "colorblind": "colour-blind", "colourblind": "colour-blind"}
SLOW_LINK_TICK_S = 5.0
_MAX_BYTES = 256 << 10
PIPE_PATIENCE_S = 2.0
_MAX_PINS = 8
_HELP = "Mend that line, or take it away: what is built in holds then. `ckpt-tui config --keys` has every key."


@dataclass(frozen=True, slots=True)
class Settings:
    """theme: one of THEME_NAMES. unicode: braille and glyphs, None = as the terminal's locale says. keymap: key ids to
    Textual's names of keys. interval_s: between two looks at the log. alert_command: run by a shell at a new alert.
    smoothing: 0 is off, of the charts at their start. pins: metrics that get a chart of their own.
    """

    theme: str = "auto"
    unicode: bool | None = None
    slow_link: bool = False
    interval_s: float = 1.0
    readonly: bool = False
    bell: bool = False
    alert_command: str = ""
    smoothing: float = 0.0
    pins: tuple[str, ...] = ()
    keymap: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def tick_s(self) -> float:
        """Between two pictures that come by themselves."""
        return max(self.interval_s, SLOW_LINK_TICK_S) if self.slow_link else self.interval_s


class _Wrong(Exception):  # noqa: N818 - never leaves this module
    """A value that cannot hold; says what would."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the file: what it means to a person, an example, and what a value must be."""

    name: str
    meaning: str
    example: str
    check: Callable[[object], object]


def _theme(value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"must be one of {', '.join(THEME_NAMES)}")
    return theme_name(value)


def theme_name(word: str) -> str:
    """The theme that is meant by a word from a flag or the file."""
    name = _THEME_SPELLINGS.get(word.lower(), word.lower())
    if name not in THEME_NAMES:
        raise _Wrong(f"is no theme: there are {', '.join(THEME_NAMES)}{_did_you_mean(name, THEME_NAMES)}")
    return name


def theme_of_flag(word: str) -> str:
    """The same for a flag. Raises CkptError."""
    try:
        return theme_name(word)
    except _Wrong as wrong:
        raise CkptError("Usage", f"--theme {safe_text(word, 40)} {wrong}") from None


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("must be true or false, without quotes")
    return value


def _bool_or_auto(value: object) -> bool | None:
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise _Wrong('must be true, false or "auto"')
    return value


def _number(low: float, high: float) -> Callable[[object], float]:
    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise _Wrong(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return check


def _string(value: object) -> str:
    if not isinstance(value, str) or "\x00" in value:
        raise _Wrong("must be text in quotes")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _Wrong('must be a list of names: ["grad_norm", "lr"]')
    if len(value) > _MAX_PINS:
        raise _Wrong(f"names {len(value)} metrics; {_MAX_PINS} have room")
    return tuple(dict.fromkeys(value))


# The order of `ckpt-tui config` and of the example.
ROWS: tuple[Row, ...] = (
    Row("theme", "dark, light, colour-blind, ansi or auto", '"auto"', _theme),
    Row("unicode", "braille and glyphs: true, false or auto", '"auto"', _bool_or_auto),
    Row("slow_link", "send less, for a slow line", "false", _bool),
    Row("interval_s", "seconds between two looks at the log", "1.0", _number(MIN_INTERVAL_S, MAX_INTERVAL_S)),
    Row("readonly", "take every act away: only look", "false", _bool),
    Row("bell", "ring the terminal at a new alert", "false", _bool),
    Row("alert_command", "shell command to run at a new alert", '""', _string),
    Row("smoothing", "of the curves at the start: 0 to 0.99", "0.0", _number(0.0, 0.99)),
    Row("pins", "metrics with a chart of their own", "[]", _names),
)


def settings_path(env: Mapping[str, str]) -> str:
    """Where the file is, or would be: $CKPT_TUI_CONFIG, $XDG_CONFIG_HOME/ckpt-tui/config.toml, or under ~/.config."""
    named = env.get("CKPT_TUI_CONFIG")
    if named:
        return named
    base = env.get("XDG_CONFIG_HOME", "")
    if not base.startswith("/"):  # the XDG standard: a relative one is to be ignored
        base = str(Path(env.get("HOME") or Path.home(), ".config"))
    return os.path.join(base, "ckpt-tui", "config.toml")


def read_settings(env: Mapping[str, str]) -> Settings:
    """What the file says over what is built in. No file: what is built in. Raises CkptError."""
    return Settings(**read_file(env))  # type: ignore[arg-type]


def read_file(env: Mapping[str, str]) -> dict[str, object]:
    """Only what the file says, by field of Settings, checked."""
    path = settings_path(env)
    try:
        content = _content(path)
    except FileNotFoundError as error:
        if env.get("CKPT_TUI_CONFIG"):
            raise from_os_error(error, f"{safe_text(path, 1000)} ($CKPT_TUI_CONFIG)") from None
        return {}
    except IsADirectoryError:
        raise _refused(path, "", "is a directory: name the file in it") from None
    except OSError as error:
        if isinstance(error, PermissionError) and not env.get("CKPT_TUI_CONFIG") and not _is_own(path):
            return {}  # `sudo -u other` keeps HOME: somebody else's settings, and no reason not to look at a run
        raise from_os_error(error, safe_text(path, 1000)) from None
    if len(content) > _MAX_BYTES:
        raise _refused(path, "", f"is longer than {_MAX_BYTES >> 10} kB: these are no settings")
    import tomllib

    try:
        text = content.decode("utf-8-sig")
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(path, f"line {line}", "is not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _refused(path, "", f"{safe_text(error, 200)}: this is not TOML") from None
    return _checked(table, path, text)


def _content(path: str) -> bytes:
    """At most a byte more than settings may have. A pipe is waited for, but not for ever. Raises OSError, CkptError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return _from_pipe(descriptor, path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_BYTES + 1) or b""
    finally:
        os.close(descriptor)


def _from_pipe(descriptor: int, path: str) -> bytes:
    """As `CKPT_TUI_CONFIG=<(...)` gives one."""
    from select import select

    content = b""
    while len(content) <= _MAX_BYTES:
        if not select([descriptor], [], [], PIPE_PATIENCE_S)[0]:
            raise _refused(path, "", f"is a pipe that nothing came out of for {PIPE_PATIENCE_S:g} s")
        piece = os.read(descriptor, _MAX_BYTES)
        if not piece:
            break
        content += piece
    return content


def _is_own(path: str) -> bool:
    try:
        return Path(path).stat().st_uid == os.geteuid()
    except OSError:
        return False


def _checked(table: Mapping[str, object], path: str, text: str) -> dict[str, object]:
    rows = {row.name: row for row in ROWS}
    found: dict[str, object] = {}
    for name, value in table.items():
        try:
            if name == "keys":
                found["keymap"] = _keymap(value, path, text)
            elif name in rows:
                found[name] = rows[name].check(value)
            else:
                raise _Wrong(f"is not a setting{_did_you_mean(name, [*rows, 'keys'])}")
        except _Wrong as wrong:
            raise _refused(path, _place(text, name), f"`{safe_text(name, 60)}` {wrong}") from None
    return found


def _keymap(value: object, path: str, text: str) -> Mapping[str, str]:
    """The table [keys]: ids of keys.py to keys. Two acts on one key of a screen are refused."""
    if not isinstance(value, dict):
        raise _Wrong('must be a table: [keys], then for instance "checkpoint.inspect" = "f3"')
    from ckpt_tui.tui.keymap import checked_keymap

    flat: dict[str, object] = {}
    for name, item in value.items():
        if isinstance(item, dict):  # `checkpoint.inspect = "enter"` without quotes is a table in TOML: as meant
            flat.update({f"{name}.{last}": keys for last, keys in item.items()})
        else:
            flat[name] = item
    for name, keys in flat.items():
        if not isinstance(keys, str) or not keys:
            where = _place(text, name)
            raise _refused(path, where, f'key `{safe_text(name, 60)}` must be text: "f5", "ctrl+n" or "j,down"')
    try:
        return MappingProxyType(checked_keymap({name: str(keys) for name, keys in flat.items()}))
    except KeyError as error:
        name, reason = error.args
        raise _refused(path, _place(text, name), f"key `{safe_text(name, 60)}` {reason}") from None


def _place(text: str, name: str) -> str:
    """`line 7`, found by its look: TOML's parser keeps no lines."""
    for quoted in (f'"{name}"', f"'{name}'", name):
        for number, line in enumerate(text.splitlines(), 1):
            head = line.lstrip().lstrip("[").lstrip()
            if head.startswith(quoted) and head[len(quoted) :].lstrip()[:1] in ("=", "]", "."):
                return f"line {number}"
    for number, line in enumerate(text.splitlines(), 1):  # in a table on one line
        if any(f"{quoted}{gap}=" in line for quoted in (f'"{name}"', f"'{name}'") for gap in ("", " ")):
            return f"line {number}"
    last = name.rpartition(".")[2]
    return _place(text, last) if last != name else ""


def _refused(path: str, where: str, what: str) -> CkptError:
    place = f"{safe_text(path, 1000)}, {where}" if where else safe_text(path, 1000)
    return CkptError("Wrong settings", f"{place}: {what}", _HELP)


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=2)
    return f". Did you mean {' or '.join(near)}?" if near else ""
