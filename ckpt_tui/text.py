"""Text for eyes: hostile text made safe, sizes, durations, counts, terminal cell widths.

Every name, message and log line that comes from a file goes through `safe_text()` before it reaches a terminal:
no widget and no `print` filters control bytes, and an OSC sequence in a tensor's name would reach the terminal raw.

Why not `humanize`: it costs 20 ms to import, more than the rest of `inspect` together.
"""

from __future__ import annotations

import os
import unicodedata

ELLIPSIS = "…"

# Categories that move the cursor, reorder text, or cannot be seen: control, format (bidi and zero-width are Cf),
# surrogates, line and paragraph separators. Private use and unassigned are escaped too: no terminal agrees on them.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"})

_MAX_COUNT_BITS = 1000


def safe_text(value: object, limit: int = 200) -> str:
    """`value` as one line of visible characters, at most `limit` of them; everything else is shown escaped.

    The result never holds C0, C1, DEL, bidi or zero-width characters, nor a newline, so that printing it can
    neither move the cursor nor speak to the terminal. It is not markup-safe: pass it with `markup=False`.
    """
    text = value if isinstance(value, str) else str(value)
    # Cut first, so that a name of 50 MB costs nothing; escapes only make it longer, cut again after.
    cut = len(text) > limit
    if cut:
        text = text[:limit]
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_escape, text))
    if cut or len(text) > limit:
        text = text[: max(limit - 1, 0)] + ELLIPSIS
    return text


def shell_word(path: str) -> str:
    """A path as a command that is suggested must have it: `ckpt-tui validate 'a b.pt'`."""
    shown = safe_text(path, 1000)
    if shown and shown[0] != "~" and all(char.isalnum() or char in "@%+=:,./-_~" for char in shown):
        return shown
    return "'" + shown.replace("'", "'\\''") + "'"


def run_word(directory: str) -> str:
    """A run directory, or what is in one, in a command that is suggested: from where the person is, as it was typed."""
    try:
        near = os.path.relpath(directory)
    except (OSError, ValueError):  # the current directory is gone
        near = ".."
    is_below = near != ".." and not near.startswith(("../", "-"))
    return shell_word(near if is_below else directory)


def _escape(char: str) -> str:
    if " " <= char <= "~":
        return char
    if unicodedata.category(char) in _UNSAFE_CATEGORIES:
        code = ord(char)
        if code < 0x100:
            return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char, f"\\x{code:02x}")
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return char


def cell_width(text: str) -> int:
    """Terminal cells that `text` takes; combining marks take none, wide East Asian characters two."""
    if text.isascii():
        return len(text)
    width = 0
    for char in text:
        if unicodedata.combining(char):
            continue
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
    return width


def fit(text: str, width: int, align: str = "left", keep: str = "start") -> str:
    """`text` in exactly `width` cells: padded, or cut with an ellipsis.

    `keep="end"` cuts the start instead, for paths and dotted names whose end tells them apart.
    """
    have = cell_width(text)
    if have > width:
        if width <= 1:
            return ELLIPSIS[:width]
        chars = list(text) if keep == "start" else list(reversed(text))
        kept: list[str] = []
        used = 0
        for char in chars:
            char_width = cell_width(char)
            if used + char_width > width - 1:
                break
            kept.append(char)
            used += char_width
        text = "".join(kept) + ELLIPSIS if keep == "start" else ELLIPSIS + "".join(reversed(kept))
        have = used + 1
    padding = " " * (width - have)
    return padding + text if align == "right" else text + padding


def size(num_bytes: float) -> str:
    """Bytes for eyes, powers of 1000 as disks and `ls --si` count: `10.4 MB`."""
    value = float(num_bytes)
    if abs(value) < 1000:
        return f"{value:.0f} B"
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if abs(value) < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units: `6.5 s`, `3m 54s`, `6h 31m`, `2d 4h`; `-` when not known."""
    if seconds is None or seconds != seconds or seconds in (float("inf"), float("-inf")):
        return "-"
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60}h {minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d {hours % 24}h"


def elapsed(seconds: float) -> str:
    """How long something is over, as `duration` writes it, but never more than it is: as clocks count."""
    unit = 3600 if seconds >= 48 * 3600 else 60 if seconds >= 3600 else 1 if seconds >= 9.95 else 0
    return duration(seconds // unit * unit if unit else seconds)


def short_age(seconds: float | None) -> str:
    """Age in one unit, at most four cells: `9 s`, `3 m`, `6 h`, `12 d`."""
    if seconds is None or seconds != seconds:
        return "-"
    seconds = max(seconds, 0.0)
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "m"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // divisor)} {unit}"
    return f"{int(seconds // 86400)} d"


def count(number: int | float | None) -> str:
    """A count with thousands separated: `12,700`."""
    if isinstance(number, int):  # a file can claim one that no float holds, and that Python does not print
        return f"{number:,}" if number.bit_length() < _MAX_COUNT_BITS else "more than 10^300"
    return "-" if number is None else f"{number:,.0f}"


def short_count(number: float) -> str:
    """A count in at most five cells: `950`, `8.4k`, `2.6M`."""
    for divisor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= divisor * 0.9995:
            scaled = number / divisor
            return f"{scaled:.0f}{unit}" if abs(scaled) >= 99.5 else f"{scaled:.3g}{unit}"
    return f"{number:.0f}"


def percent(fraction: float | None) -> str:
    """`31 %`, `0.07 %`: whole above one, two digits below; `-` when not known."""
    if fraction is None or fraction - fraction != 0:
        return "-"
    value = 100 * fraction
    return f"{value:,.0f} %" if abs(value) >= 0.95 or not value else f"{value:.2g} %"


def plural(number: int, noun: str, plural_noun: str | None = None) -> str:
    """`1 step`, `162 steps`."""
    return f"{number:,} {noun if number == 1 else plural_noun or noun + 's'}"


def metric(value: float | None) -> str:
    """A metric in four significant digits without losing what makes it odd: `1.482`, `6e-4`, `nan`."""
    if value is None:
        return "-"
    if value != value:
        return "nan"
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    magnitude = abs(value)
    if magnitude != 0 and (magnitude < 1e-3 or magnitude >= 1e6):
        mantissa, exponent = f"{value:.3g}".split("e") if "e" in f"{value:.3g}" else (f"{value:.3g}", "")
        if not exponent:
            mantissa, exponent = f"{value:.2e}".split("e")
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    if magnitude >= 1000:
        return f"{value:,.0f}"
    decimals = 3 if magnitude < 100 else 1
    return f"{value:.{decimals}f}"
