"""What the watch and the screens of single files have in common: settings, colours, keys, copying, pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from textual.app import App
from textual.binding import Binding

from ckpt_tui.settings import Settings
from ckpt_tui.tui import keys, terminal, theme


class BaseApp(App[None]):
    """settings: what holds, flags and file together. env: for tests; the process's own otherwise."""

    TITLE = "ckpt-tui"

    def __init__(self, *, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> None:
        env = os.environ if env is None else env
        self.is_served = terminal.is_web(env)
        self.settings = for_visitors(settings or Settings()) if self.is_served else settings or Settings()
        self.look = theme.choose(env, self.settings)
        with _no_color(self.look.palette == "none"):
            # Said before the theme is set: which filter takes colours out is decided here.
            super().__init__(ansi_color=True if self.look.ansi else None)
        self._wear(self.look)
        self.animation_level = "none"
        if self.settings.keymap:
            self.set_keymap(dict(self.settings.keymap))

    def _wear(self, look: theme.Look) -> None:
        self.look = look
        self.register_theme(theme.theme_of(look))
        self.theme = look.theme_name

    def get_key_display(self, binding: Binding) -> str:
        """A key as the footer writes it: words and characters, no glyphs that a font may lack."""
        return binding.key_display or keys.key_words(binding.key)

    def action_theme(self) -> None:
        """The next palette that this terminal can show."""
        choices = self.look.choices
        if len(choices) < 2:
            self.notify("NO_COLOR is set: there is one look only.", markup=False, timeout=3)
            return
        at = choices.index(self.look.palette) if self.look.palette in choices else -1
        self.ansi_color = None  # as the theme says
        self._wear(replace(self.look, palette=choices[(at + 1) % len(choices)]))
        for screen in self.screen_stack:
            for widget in screen.walk_children():
                forget = getattr(widget, "look_changed", None)
                if forget is not None:
                    forget()
        self.notify(f"Theme: {self.look.palette}. To keep it: theme in `ckpt-tui config`.", markup=False, timeout=3)


@contextmanager
def _no_color(is_wished: bool) -> Iterator[None]:
    """What Textual reads of $NO_COLOR while the app is made. For Textual an empty one counts too, which is against
    no-color.org, and a terminal that never had colours gets some."""
    before = os.environ.pop("NO_COLOR", None)
    if is_wished:
        os.environ["NO_COLOR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("NO_COLOR", None)
        if before is not None:
            os.environ["NO_COLOR"] = before


def for_visitors(settings: Settings) -> Settings:
    """Settings for a page in somebody's browser (`textual serve`): nothing in it acts on this machine."""
    return replace(settings, readonly=True, bell=False, alert_command="")


def app_of(node: Any) -> BaseApp:
    """The app of a widget or screen, as what it is."""
    app: BaseApp = node.app
    return app
