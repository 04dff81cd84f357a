"""What is at the cursor, to a person's own clipboard: through SSH by OSC 52, in tmux by tmux itself.

tmux takes OSC 52 from a program only with `set-clipboard on`, which is not its default; `load-buffer -w` it takes
always, and hands it on to the terminal around it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

if TYPE_CHECKING:
    from textual.screen import Screen

# xterm takes no more than 74,994 bytes of base64, and others took that over.
MAX_CHARS = 50_000
_MAX_SAID_CHARS = 60


class Copied(NamedTuple):
    """What a screen gives to copy: what it is in a word or two, and the text."""

    what: str
    text: str


def copied_error(error: CkptError) -> Copied:
    return Copied("message", "\n".join(part for part in (error.title, error.message, error.hint) if part))


def at_cursor(screen: Screen[Any]) -> Copied | None:
    """What `to_copy()` of the screen says; where it says nothing, the row under the cursor, as it is drawn."""
    from ckpt_tui.tui.widgets.virtual_list import VirtualList

    own = getattr(screen, "to_copy", None)
    if own is not None and (found := own()) is not None:
        assert isinstance(found, Copied)
        return found
    lists = [screen.focused, *screen.query(VirtualList)]
    for one in lists:
        if isinstance(one, VirtualList) and one.display and (text := one.row_text()):
            return Copied("row", text)
    return None


def clipboard_text(copied: Copied) -> str:
    """The text as it goes out: lines kept, everything else that is not to be seen escaped. Never longer than
    MAX_CHARS."""
    lines = copied.text[: MAX_CHARS + 1].split("\n")
    return "\n".join(safe_text(line, MAX_CHARS) for line in lines)[:MAX_CHARS]


def said(copied: Copied) -> str:
    """`Copied the path: /runs/gpt/latest.pt`."""
    text = " ".join(clipboard_text(copied).split())
    shown = text if len(text) <= _MAX_SAID_CHARS else f"{text[: _MAX_SAID_CHARS - 1]}…"
    cut = f" (its first {MAX_CHARS:,} characters)" if len(copied.text) > MAX_CHARS else ""
    return f"Copied the {copied.what}{cut}: {shown}"


def to_tmux(text: str, env: Mapping[str, str]) -> bool:
    """Give it to the tmux around us; False where there is none. May take a moment: call it in a thread."""
    if not env.get("TMUX"):
        return False
    try:
        done = subprocess.run(
            ["tmux", "load-buffer", "-w", "-"],
            input=text.encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
