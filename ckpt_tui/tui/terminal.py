"""What a terminal can show, from its environment. Knows no Textual: asked before Textual is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping

# Terminals of 256 colours and more whose names do not say so: over SSH nothing else is known of them.
_MANY_COLOUR_TERMS = ("alacritty", "wezterm", "foot", "contour", "ghostty", "xterm-ghostty", "xterm-kitty", "kitty")
_NO_COLOUR_TERMS = ("vt52", "vt100", "vt102", "vt220", "vt320", "dumb", "unknown")


def num_colours(env: Mapping[str, str]) -> int:
    """How many colours the terminal says it has: 0 (also for NO_COLOR), 16, 256 or 2**24."""
    if env.get("NO_COLOR"):
        return 0
    if is_web(env):
        return 1 << 24
    term = env.get("TERM", "").lower()
    if term.startswith(_NO_COLOUR_TERMS):
        return 0
    if env.get("COLORTERM", "").strip().lower() in ("truecolor", "24bit") or "direct" in term:
        return 1 << 24
    if "256" in term or term.startswith(_MANY_COLOUR_TERMS):
        return 256
    return 16


def colour_system(env: Mapping[str, str]) -> str:
    """The same in the words of $TEXTUAL_COLOR_SYSTEM, which guesses less well: it takes `alacritty` for one of 16."""
    colours = num_colours(env)
    return "truecolor" if colours > 256 else "256" if colours == 256 else "standard"


def settle_colours(environ: MutableMapping[str, str]) -> None:
    """Have Textual send as many colours as we take the terminal to have. Call it before Textual is imported."""
    environ.setdefault("TEXTUAL_COLOR_SYSTEM", colour_system(environ))


def can_draw(env: Mapping[str, str]) -> bool:
    """Whether there is something to draw on: a terminal that is not dumb, or a browser."""
    if is_web(env):
        return True
    return sys.stdout.isatty() and sys.stdin.isatty() and env.get("TERM", "dumb") != "dumb"


def speaks_unicode(env: Mapping[str, str]) -> bool:
    """Whether the locale is UTF-8, and the terminal not the Linux console (whose font has no braille)."""
    if is_web(env):
        return True
    if env.get("TERM") == "linux":
        return False
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    if not locale:
        # Python itself falls back to UTF-8 then (PEP 538), and so do the containers people log in to.
        return True
    return "utf" in locale.lower() or locale in ("C", "POSIX")


def has_light_ground(env: Mapping[str, str]) -> bool:
    """Whether the terminal says that its background is light ($COLORFGBG: rxvt, Konsole and others set it)."""
    return env.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")


def is_web(env: Mapping[str, str]) -> bool:
    """Whether `textual serve` (or another program) draws for us in a browser: there is no terminal then."""
    return bool(env.get("TEXTUAL_DRIVER"))
