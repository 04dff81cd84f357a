"""The alerts of many runs: what `--fail-on` and `--exit-on` ask of a directory of them.

A list looks at the end of each log; what was a spike, or is a save too late, only all of it tells. So the logs of runs
that are not finished are read whole, once, and followed from there.
"""

from __future__ import annotations

from collections.abc import Collection

from ckpt_tui.errors import CkptError
from ckpt_tui.run.alerts import asked_alerts, chosen
from ckpt_tui.run.state import Alert, Phase
from ckpt_tui.services.damage import judge_as_known
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.services.runs import Runs

QUIET = (None, Phase.WAITING, Phase.FINISHED)  # in these phases no alert holds but about a damaged file


class AlertsOfRuns:
    """which: as `--fail-on` names them."""

    def __init__(self, which: Collection[str]) -> None:
        self._which = which
        self._monitors: dict[str, RunMonitor] = {}

    def take(self, runs: Runs) -> dict[str, tuple[Alert, ...]]:
        """The chosen ones that hold now, by the path of the run; only of runs that have one."""
        found: dict[str, tuple[Alert, ...]] = {}
        loud = {one.path for one in runs.runs if one.phase not in QUIET or one.damaged}
        self._monitors = {path: monitor for path, monitor in self._monitors.items() if path in loud}
        for path in (one.path for one in runs.runs if one.path in loud):
            try:
                alerts = self._read(path)
            except (CkptError, OSError):
                continue  # its line in the list says what is wrong
            if alerts:
                found[path] = alerts
        return found

    def _read(self, path: str) -> tuple[Alert, ...]:
        monitor = self._monitors.get(path)
        if monitor is None:
            monitor = self._monitors[path] = RunMonitor(path)
        monitor.poll(1.0)
        while not monitor.is_caught_up:
            monitor.poll(1.0)
        state, judgement = judge_as_known(monitor)
        return chosen((*asked_alerts(state), *judgement.alerts), self._which)
