"""From a run back to the list that it was opened from, and to other runs beside it."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Any

from ckpt_tui.tui.base_app import OfTheWatch


class RunListActions(OfTheWatch):
    """Mixed into the overview, before what moves the chart's cursor: Esc hides the cursor first, and then goes back."""

    chart: Any

    @property
    def listed_as(self) -> str:
        """What the list that this run was opened from calls it; "" where there is none."""
        if not self.cockpit.lists_runs:
            return ""
        found = os.path.relpath(self.cockpit.directory, self.cockpit.root)
        return "" if found == os.curdir else found

    async def action_hide_cursor(self) -> None:
        if not self.chart.hide_cursor():
            await self.cockpit.close_run()

    async def action_runs(self) -> None:
        await self.cockpit.close_run()

    def action_compare(self) -> None:
        """Pick others from the list that this run is of, or from the directory that it is in."""
        if self.cockpit.lists_runs:
            self.cockpit.open_screen("runs", self.cockpit.root, self.cockpit.path)
            return
        directory = Path(self.cockpit.directory).resolve()
        self.cockpit.open_screen("runs", str(directory.parent), str(directory))
