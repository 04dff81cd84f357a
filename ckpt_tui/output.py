"""The only writer of stdout and stderr: text for eyes, the versioned JSON envelope, exit codes, progress.

stdout is data, stderr is talk. A command returns a `CommandResult` and prints nothing itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from enum import IntEnum
from types import TracebackType

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass


class ExitCode(IntEnum):
    """Promised in SPEC section 11."""

    OK = 0  # it holds
    DIFFERENT = 1  # it does not: damage found, differences found, run failed
    TROUBLE = 2  # it could not be judged: not found, not a checkpoint, usage
    INTERRUPTED = 130


# What a colour means. The same roles as the theme of the screens; 16 colours only, so that it works everywhere.
_ROLES = {
    "good": "32", "bad": "31", "warn": "33", "accent": "36", "dim": "2", "bold": "1", "plain": "",
}  # fmt: skip

Cell = str | tuple[str, str]  # text, or text with a role


@dataclass(frozen=True, slots=True)
class Style:
    """How text for eyes is laid out. `width` is what a line may take; None when nobody looks (a pipe)."""

    width: int | None = None
    colour: bool = False
    unicode: bool = True

    def paint(self, string: str, role: str) -> str:
        code = _ROLES[role]
        return f"\x1b[{code}m{string}\x1b[0m" if self.colour and code and string else string

    def glyph(self, fancy: str, plain: str) -> str:
        return fancy if self.unicode else plain


def wrapped(sentence: str, style: Style, indent: int = 0) -> list[str]:
    """A sentence in lines that leave `indent` of the terminal's width; whole where nobody looks."""
    if not style.width or style.width <= indent + 20 or len(sentence) <= style.width - indent:
        return [sentence]
    from textwrap import wrap  # compiles its patterns when it is imported: 2 ms

    return wrap(sentence, style.width - indent)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `shrink` columns give way when the line is too long; `keep` is the end they keep.
    leaves: where that is not enough it is left out, 1 before 2; 0: it stays. Where even that is not enough, columns
    that shrink become as narrow as it takes."""

    title: str
    align: str = "left"
    shrink: bool = False
    keep: str = "start"
    leaves: int = 0


SHRUNK_CELLS, LEAST_CELLS = 12, 5  # of a column that shrinks: before others leave, and at the last


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], style: Style, indent: str = "") -> list[str]:
    """Aligned lines with a dim heading. Cells must be safe already (`safe_text`)."""
    body = [[cell if isinstance(cell, tuple) else (cell, "plain") for cell in row] for row in rows]
    widths = [text.cell_width(column.title) for column in columns]
    for row in body:
        for index, (string, _) in enumerate(row):
            widths[index] = max(widths[index], text.cell_width(string))
    if style.width is not None:
        excess = text.cell_width(indent) + sum(widths) + 2 * (len(columns) - 1) - style.width
        leaving = sorted((c.leaves, i) for i, c in enumerate(columns) if c.leaves)
        for least in (SHRUNK_CELLS,) if leaving else (SHRUNK_CELLS, LEAST_CELLS):
            for index in sorted((i for i, c in enumerate(columns) if c.shrink), key=lambda i: -widths[i]):
                if excess > 0:
                    cut = min(excess, widths[index] - min(widths[index], least))
                    widths[index] -= cut
                    excess -= cut
        if excess > 0 and leaving:
            index = leaving[0][1]
            fewer = [[cell for i, cell in enumerate(row) if i != index] for row in body]
            return table([c for i, c in enumerate(columns) if i != index], fewer, style, indent)
    lines = []
    if any(column.title for column in columns):
        heading = [text.fit(c.title, w, c.align) for c, w in zip(columns, widths, strict=True)]
        lines.append(indent + style.paint("  ".join(heading).rstrip(), "dim"))
    for row in body:
        cells = []
        for position, ((string, role), column, width) in enumerate(zip(row, columns, widths, strict=True)):
            fitted = text.fit(string, width, column.align, column.keep)
            if position == len(columns) - 1:
                fitted = fitted.rstrip()
            cells.append(style.paint(fitted, role))
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


@dataclass(slots=True)
class CommandResult:
    """What a command found or did. `view` makes the text for eyes, only when it is wanted."""

    data: dict[str, object]
    view: Callable[[Style], Iterable[str]] | None = None
    exit_code: int = ExitCode.OK
    errors: list[CkptError] = field(default_factory=list)


class Output:
    """Handed to every command for what it says while it works; prints its result at the end."""

    def __init__(self, command: str, as_json: bool = False) -> None:
        self.command = command
        self.as_json = as_json

    def note(self, line: str) -> None:
        """One line of talk, to stderr."""
        print(line, file=sys.stderr, flush=True)

    def line(self, line: str) -> None:
        """One line of data to stdout at once, for a command whose data goes on and on."""
        _write(line + "\n")
        sys.stdout.flush()

    def progress(self, label: str, total_bytes: int | None = None) -> Progress:
        """Progress of long work in bytes: silent for the first second, and when stderr is not a terminal."""
        return Progress(label, total_bytes, enabled=sys.stderr.isatty())

    def style(self) -> Style:
        """How stdout wants its text."""
        is_terminal = sys.stdout.isatty()
        colour = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
        # A pipe gets whole lines, unless somebody says how wide it is to be.
        width = terminal_width() if is_terminal or os.environ.get("COLUMNS") else None
        return Style(width=width, colour=colour, unicode="utf" in encoding)

    def envelope(self, data: dict[str, object], errors: Sequence[CkptError] = (), *, is_ok: bool = True) -> str:
        """The JSON that is promised, on one line. A command that goes on and on prints one for each thing it tells."""
        import json

        envelope = {
            "schema": f"ckpt-tui/{self.command}/1",
            "ok": is_ok,
            "data": data,
            "errors": [error.as_json() for error in errors],
        }
        try:
            return json.dumps(envelope, allow_nan=False, default=_json_default)
        except ValueError:
            return json.dumps(_finite(envelope), allow_nan=False, default=_json_default)

    def emit(self, result: CommandResult) -> int:
        """Print a result and give its exit code."""
        if self.as_json:
            is_ok = result.exit_code == ExitCode.OK
            _write(self.envelope(result.data, result.errors, is_ok=is_ok) + "\n")
        else:
            if result.view is not None:
                _write("".join(line + "\n" for line in result.view(self.style())))
            for error in result.errors:
                self.error(error)
        return int(result.exit_code)

    def fail(self, error: CkptError, exit_code: int = ExitCode.TROUBLE) -> int:
        """Say an error in the way that was asked for."""
        if self.as_json:
            return self.emit(CommandResult(data={}, exit_code=exit_code, errors=[error]))
        self.error(error)
        return int(exit_code)

    def error(self, error: CkptError) -> None:
        """What, where, what to do, on stderr: two lines, or more where a terminal is narrow."""
        is_terminal = sys.stderr.isatty()
        colour = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        style = Style(terminal_width(2) if is_terminal or os.environ.get("COLUMNS") else None, colour)
        title, message, hint = (text.safe_text(part, 2000) for part in (error.title, error.message, error.hint))
        first, *others = _said(f"error: {title}" + (f": {message}" if message else ""), style)
        print(style.paint("error:", "bad") + first.removeprefix("error:"), file=sys.stderr)
        for line in [*others, *(_said(f"  {hint}", style) if hint else ())]:
            print(line, file=sys.stderr)


def _said(sentence: str, style: Style) -> list[str]:
    """In lines that break between words; a path stays whole, to be copied. Imports nothing: it is said when that may
    fail, too."""
    first, *words = sentence.lstrip().split(" ")
    lines = [sentence[: len(sentence) - len(sentence.lstrip())] + first]
    for word in words:
        if style.width is None or text.cell_width(lines[-1]) + 1 + text.cell_width(word) <= style.width:
            lines[-1] += f" {word}"
        else:
            lines.append(f"  {word}")
    return lines


class Progress:
    """`validate big.pt  41 %  3.9 GB/s`, redrawn in place at most five times a second."""

    def __init__(self, label: str, total_bytes: int | None, enabled: bool) -> None:
        self.label = label
        self.total_bytes = total_bytes
        self.done_bytes = 0
        self._enabled = enabled
        self._started = time.monotonic()
        self._next_draw = self._started + 1.0
        self._drawn = False

    def advance(self, num_bytes: int) -> None:
        self.done_bytes += num_bytes
        if self._enabled:
            now = time.monotonic()
            if now >= self._next_draw:
                self._next_draw = now + 0.2
                self._draw(now)

    def _draw(self, now: float) -> None:
        rate = text.size(self.done_bytes / max(now - self._started, 1e-9)) + "/s"
        share = f"  {100 * self.done_bytes // self.total_bytes:3d} %" if self.total_bytes else ""
        line = f"{self.label}{share}  {text.size(self.done_bytes)}  {rate}"
        width = terminal_width(sys.stderr.fileno())
        sys.stderr.write("\r\x1b[K" + text.fit(line, min(text.cell_width(line), width - 1)))
        sys.stderr.flush()
        self._drawn = True

    def close(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def terminal_width(descriptor: int = 1) -> int:
    """Columns of the terminal, 80 when it does not say."""
    try:
        columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(descriptor).columns
    except (ValueError, OSError):
        try:
            columns = os.get_terminal_size(descriptor).columns
        except OSError:
            columns = 80
    return max(columns, 20)


def _write(string: str) -> None:
    """To stdout, whatever its encoding can hold."""
    try:
        sys.stdout.write(string)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(string.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _finite(value: object) -> object:
    """Strict JSON has no NaN: the same strings as in the event log stand for them."""
    if isinstance(value, float) and value - value != 0:
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _json_default(value: object) -> object:
    """Frozen types of ours as objects; whatever else a checkpoint holds as a string."""
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    fields = getattr(value, "__struct_fields__", None)
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value)
