"""Which colours and glyphs a screen starts with, decided before the app is made: a theme that is set later has sent
colours already.

Where a terminal has 256 colours or more, the themes of palettes.py; with fewer, or with NO_COLOR, the terminal's own
sixteen or none, and nothing but the default colours is painted as background.
A state is always said by glyph, word and colour, never by colour alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rich.style import Style
from textual.theme import Theme

from ckpt_tui.records import dataclass
from ckpt_tui.settings import Settings
from ckpt_tui.tui import palettes, terminal

_FULL = ("dark", "light", "colour-blind")
_ANSI_OF = {"auto": "ansi", "ansi": "ansi", "dark": "ansi", "light": "ansi-light", "colour-blind": "ansi-colour-blind"}

# Where there is no colour the row under the cursor is turned around, as everywhere on such terminals.
_NO_COLOUR_CURSOR = {
    "block-cursor-background": "ansi_default", "block-cursor-foreground": "ansi_default",
    "block-cursor-text-style": "reverse", "block-cursor-blurred-background": "ansi_default",
    "block-cursor-blurred-foreground": "ansi_default", "block-cursor-blurred-text-style": "bold",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """palette: of palettes.ROLES. ansi: only the terminal's own colours. unicode: braille and glyphs.
    choices: palettes that `T` goes through on this terminal."""

    palette: str = "dark"
    unicode: bool = True
    choices: tuple[str, ...] = _FULL

    @property
    def theme_name(self) -> str:
        """What Textual calls the theme."""
        return f"ckpt-{self.palette}"

    @property
    def ansi(self) -> bool:
        return self.palette not in palettes.GROUNDS


def choose(env: Mapping[str, str], settings: Settings | None = None) -> Look:
    """The look for this terminal, as far as it can show what is wished for."""
    wanted = settings or Settings()
    unicode = terminal.speaks_unicode(env) if wanted.unicode is None else wanted.unicode
    colours = terminal.num_colours(env)
    if colours == 0:
        return Look("none", unicode, ("none",))
    choices = (*_FULL, "ansi") if colours > 16 else ("ansi", "ansi-light", "ansi-colour-blind")
    is_light = terminal.has_light_ground(env)
    if colours <= 16 or wanted.theme == "ansi":
        palette = "ansi-light" if is_light and wanted.theme in ("auto", "ansi") else _ANSI_OF[wanted.theme]
        return Look(palette, unicode, choices if palette in choices else (*_FULL, palette))
    return Look("dark" if wanted.theme == "auto" else wanted.theme, unicode, choices)


def theme_of(look: Look) -> Theme:
    """Textual's theme for a look."""
    return _ansi_theme(look.palette) if look.ansi else _theme(look.palette, palettes.GROUNDS[look.palette])


def _meanings(roles: dict[str, str]) -> dict[str, Any]:
    """What Textual calls the colours of some of our roles."""
    return {
        "primary": roles["train"], "secondary": roles["val"], "accent": roles["accent"], "success": roles["good"],
        "warning": roles["warning"], "error": roles["error"],
    }  # fmt: skip


def _theme(name: str, grounds: palettes.Grounds) -> Theme:
    roles = {role: style.rpartition(" ")[2] for role, style in palettes.ROLES[name].items()}
    return Theme(
        name=f"ckpt-{name}",
        **_meanings(roles),
        foreground=grounds.foreground,
        background=grounds.background,
        surface=grounds.surface,
        panel=grounds.panel,
        dark=grounds.is_dark,
        variables={
            "text-success": roles["good"],
            "text-warning": roles["warning"],
            "text-error": roles["error"],
            "text-accent": roles["accent"],
            "foreground-muted": roles["dim"],
            "block-cursor-background": grounds.cursor,
            "block-cursor-foreground": grounds.cursor_text,
            "block-cursor-blurred-background": grounds.dull_cursor,
            "block-cursor-blurred-foreground": grounds.foreground,
            "footer-background": grounds.footer,
            "footer-key-foreground": roles["accent"],
            "footer-description-foreground": grounds.footer_text,
        },
    )


def _ansi_theme(name: str) -> Theme:
    """Textual's own theme of sixteen colours, with what good, warning and error look like here."""
    from textual.theme import BUILTIN_THEMES

    base = BUILTIN_THEMES["ansi-light" if name == "ansi-light" else "ansi-dark"]
    roles = {role: f"ansi_{style.rpartition(' ')[2] or 'default'}" for role, style in palettes.ROLES[name].items()}
    if name == "none":
        roles = dict.fromkeys(roles, "ansi_default")
    return Theme(
        name=f"ckpt-{name}",
        **_meanings(roles),
        foreground=base.foreground,
        background=base.background,
        surface=base.surface,
        panel=base.panel,
        boost=base.boost,
        dark=base.dark,
        ansi=True,
        variables={
            **base.variables,
            "footer-background": "ansi_default",
            "footer-key-foreground": roles["accent"],
            "footer-description-foreground": "ansi_default",
            "text-success": roles["good"],
            "text-warning": roles["warning"],
            "text-error": roles["error"],
            "text-accent": roles["accent"],
            **(_NO_COLOUR_CURSOR if name == "none" else {}),
        },
    )


@lru_cache(maxsize=8)
def role_styles(look: Look) -> Mapping[str, Style]:
    """How each role is drawn."""
    return _styles_of(look.palette)


@lru_cache(maxsize=8)
def _styles_of(palette: str) -> Mapping[str, Style]:
    return {role: Style.parse(style) for role, style in palettes.ROLES[palette].items()}
