"""The comparison of runs by itself: `ckpt-tui compare RUN RUN --screen`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckpt_tui.errors import CkptError
from ckpt_tui.settings import Settings
from ckpt_tui.tui.inspect_app import InspectApp
from ckpt_tui.tui.screens.compare import CompareScreen


class CompareApp(InspectApp):
    """Ends when its screen is left. Nothing in it changes anything. metric: what is compared first."""

    reachable_screens = ("compare",)
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal"), (110, "-wide")]  # noqa: RUF012 - Textual's way
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-medium"), (34, "-tall")]  # noqa: RUF012

    def __init__(
        self,
        paths: Sequence[str],
        names: Sequence[str],
        *,
        metric: str | None = None,
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(paths[0], settings=settings, env=env)
        self._paths, self._names, self._metric = list(paths), list(names), metric
        self.interval_s = self.settings.interval_s

    @property
    def problem(self) -> CkptError | None:
        return None

    def only_screen(self) -> Any:
        return CompareScreen(self._paths, self._names, metric=self._metric)
