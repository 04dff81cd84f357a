"""Which colours and glyphs a terminal can show, decided before the app is made.

Over SSH there are 256 colours as a rule (`COLORTERM` is not forwarded), so every colour of our own theme is one of
the 256 and they all differ there: what a colour means survives. With fewer colours, or with NO_COLOR, the
terminal's own sixteen are used, and nothing but the default colours is painted as background.
A state is always said by glyph, word and colour, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.style import Style
from textual.theme import Theme

OWN_THEME = Theme(
    name="ckpt-dark",
    primary="#5fafff",  # 75
    secondary="#d787ff",  # 177
    accent="#5fd7ff",  # 81
    success="#5fd787",  # 78
    warning="#ffaf5f",  # 215
    error="#ff5f5f",  # 203
    foreground="#dadada",  # 253
    background="#121212",  # 233
    surface="#1c1c1c",  # 234
    panel="#262626",  # 235
    dark=True,
    variables={
        "text-success": "#5fd787",
        "text-warning": "#ffaf5f",
        "text-error": "#ff5f5f",
        "text-accent": "#5fd7ff",
        "foreground-muted": "#8a8a8a",  # 245
        "block-cursor-background": "#005f87",  # 24
        "block-cursor-foreground": "#eeeeee",  # 255
        "block-cursor-blurred-background": "#303030",  # 236
        "block-cursor-blurred-foreground": "#dadada",
        "footer-background": "#1c1c1c",
        "footer-key-foreground": "#5fd7ff",
        "footer-description-foreground": "#a8a8a8",  # 248
    },
)
ANSI_THEME_NAME = "ansi-dark"

# What a role looks like: in our own theme (colours of the 256), and in a terminal's own sixteen.
_ROLES = {
    "good": ("#5fd787", "green"),
    "warning": ("#ffaf5f", "yellow"),
    "error": ("bold #ff5f5f", "bold red"),
    "accent": ("#5fd7ff", "cyan"),
    "dim": ("#8a8a8a", "dim"),
    "strong": ("bold", "bold"),
    "track": ("#626262", "dim"),
    "train": ("#5fafff", "blue"),
    "val": ("#d787ff", "magenta"),
    "abandoned": ("#767676", "dim"),
    "train_raw": ("#005f87", "dim"),  # under its smoothed line
    "val_raw": ("#875f87", "dim"),
    # Runs on top of each other; each has a letter besides, so that no colour is needed to tell them apart.
    "run1": ("#5fafff", "blue"),
    "run2": ("#ffaf5f", "yellow"),
    "run3": ("#5fd787", "green"),
    "run4": ("#d787ff", "magenta"),
    "run5": ("#5fd7ff", "cyan"),
    "run6": ("#ff8787", "red"),
    "bad": ("bold #ff5f5f", "bold red"),
    "cursor": ("#ffaf5f", "yellow"),
    "axis": ("#8a8a8a", "dim"),
}

_MANY_COLOUR_TERMS = ("kitty", "alacritty", "wezterm", "ghostty", "foot", "contour")


@dataclass(frozen=True, slots=True)
class Look:
    """theme_name: what the app starts with. ansi: only the terminal's own colours. unicode: braille and glyphs."""

    theme_name: str = OWN_THEME.name
    ansi: bool = False
    unicode: bool = True


def num_colours(env: Mapping[str, str]) -> int:
    """How many colours the terminal says it has: 0 (NO_COLOR), 16, 256 or 2**24."""
    if env.get("NO_COLOR"):
        return 0
    if env.get("COLORTERM", "").strip().lower() in ("truecolor", "24bit"):
        return 1 << 24
    term = env.get("TERM", "").lower()
    if "direct" in term:
        return 1 << 24
    if "256" in term or term.startswith(tuple(f"{name}" for name in _MANY_COLOUR_TERMS)) or "kitty" in term:
        return 256
    return 16


def speaks_unicode(env: Mapping[str, str]) -> bool:
    """Whether the locale is UTF-8, and the terminal not the Linux console (whose font has no braille)."""
    if env.get("TERM") == "linux":
        return False
    locale = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    if not locale:
        # Python itself falls back to UTF-8 then (PEP 538), and so do the containers people log in to.
        return True
    return "utf" in locale.lower() or locale in ("C", "POSIX")


def choose(env: Mapping[str, str]) -> Look:
    """The look for this terminal. Call it before the app is made: a theme set later has sent colours already."""
    ansi = num_colours(env) <= 16
    return Look(
        theme_name=ANSI_THEME_NAME if ansi else OWN_THEME.name,
        ansi=ansi,
        unicode=speaks_unicode(env),
    )


def role_styles(look: Look) -> Mapping[str, Style]:
    """How each role is drawn."""
    return {role: Style.parse(styles[1 if look.ansi else 0]) for role, styles in _ROLES.items()}
