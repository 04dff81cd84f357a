"""Text with meaning for static widgets: parts with a role in, `Content` out. Never markup, always safe.

Roles are the ones of the virtual list: good, warning, error, accent, dim, strong. A theme says what they look
like; the words and glyphs beside them say the same without colour.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from ckpt_tui.errors import CkptError
from ckpt_tui.text import cell_width, safe_text

ROLE_STYLES = {
    "": "",
    "good": "$text-success",
    "warning": "$text-warning",
    "error": "bold $text-error",
    "accent": "$text-accent",
    "dim": "$foreground-muted",
    "strong": "bold",
}

Part = str | tuple[str, str]


def line(*parts: Part, limit: int = 2000) -> Content:
    """One line of `parts`, each its text or (text, role)."""
    pieces: list[Content] = []
    for part in parts:
        text, role = (part, "") if isinstance(part, str) else part
        pieces.append(Content.styled(safe_text(text, limit), ROLE_STYLES[role]))
    return Content("").join(pieces)


def lines(*rows: Content) -> Content:
    """Several lines under each other."""
    return Content("\n").join(rows)


def spread(left: Sequence[Part], right: Sequence[Part], width: int) -> Content:
    """`left` at the left edge and `right` at the right one; if both do not fit, `right` goes."""
    left_width, right_width = parts_width(left), parts_width(right)
    gap = width - left_width - right_width
    if gap < 1:
        return line(*left)
    return line(*left, " " * gap, *right)


def parts_width(parts: Sequence[Part]) -> int:
    return sum(cell_width(part if isinstance(part, str) else part[0]) for part in parts)


# One cell for one cell, for terminals and fonts without these glyphs.
PLAIN_GLYPHS = str.maketrans(
    {
        "✓": "+",
        "✖": "x",
        "▲": "!",
        "▸": ">",
        "▾": "v",
        "·": ".",
        "…": "~",
        "≠": "!",
        "─": "-",
        "━": "-",
        "↑": "^",
        "↓": "v",
        "↻": ">",
        "↺": "<",
        "⇤": "b",
        "↶": "u",
        "↷": "d",
    }
    | dict.fromkeys("█▉▊▋▌", "#")
    | dict.fromkeys("▍▎▏", ".")
    | dict(zip("▁▂▃▄▅▆▇", "._-=+*#", strict=True))
)


def for_terminal(app: object, content: Content) -> Content:
    """`content` as the terminal of `app` can show it: its glyphs by plain characters where it has no others."""
    if has_glyphs(app) or content.plain.isascii():
        return content
    return Content(content.plain.translate(PLAIN_GLYPHS), spans=list(content.spans))


def has_glyphs(app: object) -> bool:
    """Whether the terminal can show more than ASCII, as far as the app knows (`theme.Look`)."""
    return bool(getattr(getattr(app, "look", None), "unicode", True))


def error_content(error: CkptError) -> Content:
    """What is wrong, where and why, what to do: three paragraphs."""
    rows = [line(("✖ ", "error"), (error.title, "error"))]
    if error.message:
        rows.append(line(error.message))
    if error.hint:
        rows.append(line(("-> ", "accent"), error.hint))
    return lines(*rows)


def bar(fraction: float, width: int) -> str:
    """A bar in eighths of a cell; anything above zero shows at least its thinnest."""
    eighths = round(max(0.0, min(fraction, 1.0)) * width * 8)
    if fraction > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def histogram_bars(counts: Sequence[int], height: int = 1) -> list[str]:
    """Counts as `height` lines of blocks, the highest first; empty buckets stay empty, the smallest of the others is
    still seen. No lines where there is nothing to draw."""
    highest = max(counts, default=0)
    if highest <= 0:
        return []
    steps = [max(-(-count * 8 * height // highest), 0) for count in counts]  # eighths of a line, rounded up
    return [
        "".join(" ▁▂▃▄▅▆▇█"[max(0, min(step - 8 * below, 8))] for step in steps) for below in range(height - 1, -1, -1)
    ]
