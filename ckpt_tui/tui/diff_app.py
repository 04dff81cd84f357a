"""The diff screen by itself, for two checkpoints of no run: `ckpt-tui diff A B --screen`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_tui.settings import Settings
from ckpt_tui.tui.inspect_app import InspectApp
from ckpt_tui.tui.screens.diff import DiffScreen
from ckpt_tui.tui.screens.work import WorkScreen


class DiffApp(InspectApp):
    """Ends when its screen is left. Nothing in it changes anything."""

    reachable_screens = ("diff",)

    def __init__(
        self,
        path_a: str,
        path_b: str,
        *,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path_a, settings=settings, env=env)
        self.path_b = path_b

    def only_screen(self) -> WorkScreen[Any]:
        return DiffScreen(self.path, self.path_b)
