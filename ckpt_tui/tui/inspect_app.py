"""The inspect screen by itself, for a checkpoint of no run: `ckpt-tui inspect PATH --screen`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from textual.binding import BindingType

from ckpt_tui.errors import CkptError
from ckpt_tui.settings import Settings
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import BaseApp
from ckpt_tui.tui.screens.inspect import InspectScreen
from ckpt_tui.tui.screens.work import WorkScreen


class InspectApp(BaseApp):
    """Ends when its screen is left. Nothing in it changes anything."""

    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(key for key in keys.APP_KEYS if key.id != "app.palette")
    readonly = True
    has_overview = False  # the help leaves its keys out
    reachable_screens: ClassVar[tuple[str, ...]] = ("inspect", "validate")  # and has the keys of these

    def __init__(self, path: str, *, settings: Settings | None = None, env: Mapping[str, str] | None = None) -> None:
        super().__init__(settings=settings, env=env)
        self.path = path
        self._shown: WorkScreen[Any] | None = None

    def on_mount(self) -> None:
        self._shown = self.only_screen()
        self.push_screen(self._shown, self._left)

    @property
    def run_directory(self) -> str | None:
        return os.path.dirname(os.path.abspath(self.path))  # noqa: PTH100, PTH120

    @property
    def problem(self) -> CkptError | None:
        """Why there was nothing to show."""
        return None if self._shown is None else self._shown.problem

    def only_screen(self) -> WorkScreen[Any]:
        """What it shows; the comparison by itself is another."""
        return InspectScreen(self.path)

    def _left(self, _: Any) -> None:
        self.exit()

    def action_help(self) -> None:
        from ckpt_tui.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())
