"""The alerts of the run that is watched, of its events and of its checkpoints: kept, acknowledged, rung and told.

What a person has acknowledged is no longer in the header, and stays in the list, dim. A bell or a command is for what
comes after the watch began, never for what the log held before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckpt_tui.run.state import Alert, RunState

if TYPE_CHECKING:
    from ckpt_tui.services.alerting import Acknowledged, AlertCommand, NewAlerts
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.services.runs import RunSummary

BELL_INTERVAL_S = 10.0
MAX_KEPT = 300


class Teller:
    """Rings the bell, and runs a command for alerts. ring: sounds it; None: nobody wants it. command: "" where none
    is to be run. directory: of the run, where there is one only."""

    def __init__(self, ring: Callable[[], object] | None, command: str, directory: str = "") -> None:
        self._ring = ring
        self._command_text = command
        self._directory = directory
        self._command: AlertCommand | None = None

    def _start_command(self, alerts: Iterable[Alert], run_name: str, directory: str = "") -> None:
        if self._command is None:
            from ckpt_tui.services.alerting import AlertCommand

            self._command = AlertCommand(self._command_text, directory=self._directory)
        self._command.start(alerts, run_name, directory)

    @property
    def command_problem(self) -> str:
        return self._command.problem if self._command is not None else ""

    def finish(self, timeout_s: float) -> None:
        """Wait for the command that runs, at most so long."""
        if self._command is not None:
            self._command.finish(timeout_s)


class Alerting(Teller):
    """Of one run. ring: sounds the bell; None: nobody wants it. command: "" where none is to be run."""

    def __init__(
        self, directory: str, *, ring: Callable[[], object] | None = None, command: str = "",
        clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        super().__init__(ring, command, directory)
        self._clock, self._now = clock, now
        self._kept: dict[str, Alert] = {}  # all that this watch has seen: what a newer state no longer tells is over
        self._of_events: NewAlerts | None = None
        self._of_checkpoints: NewAlerts | None = None
        self._acknowledged: Acknowledged | None = None
        self._rung_at = -BELL_INTERVAL_S
        self._has_begun = False  # the log was read to its end once

    # -- what the threads tell ----------------------------------------------------------------------------------

    def take(self, state: RunState, *, is_caught_up: bool) -> None:
        if state.alerts or self._kept:  # of most runs there is none: nothing is imported for them
            if not self._has_begun:
                # Of a log that is still being read: the whole of it may tell something else.
                self._kept = {key: alert for key, alert in self._kept.items() if alert.kind == "checkpoint"}
            self._keep(state.alerts, of_checkpoints=False)
            if self._is_wanted:
                if self._of_events is None:
                    self._of_events = _new_alerts(self._has_begun)
                new = self._of_events.take(state.alerts, is_caught_up=is_caught_up, num_events=state.num_events)
                self._tell(new, state.name)
        self._has_begun = self._has_begun or is_caught_up

    def take_catalog(self, catalog: Catalog, run_name: str) -> None:
        from ckpt_tui.services.damage import checkpoint_alerts

        alerts = checkpoint_alerts(catalog.entries, self._now())
        self._keep(alerts, of_checkpoints=True)
        if self._is_wanted:
            if self._of_checkpoints is None:
                self._of_checkpoints = _new_alerts(False)  # what the first look finds was there before
            self._tell(self._of_checkpoints.take(alerts), run_name)

    def _keep(self, told: Iterable[Alert], *, of_checkpoints: bool) -> None:
        now = {alert.key: alert for alert in told}
        for key, alert in self._kept.items():
            if key not in now and (alert.kind == "checkpoint") is of_checkpoints and not alert.is_over:
                self._kept[key] = replace(alert, is_over=True)
        self._kept.update(now)
        while len(self._kept) > MAX_KEPT:
            del self._kept[min(self._kept, key=lambda key: self._kept[key].ts)]

    @property
    def _is_wanted(self) -> bool:
        return self._ring is not None or bool(self._command_text)

    def _tell(self, new: Sequence[Alert], run_name: str) -> None:
        if not new:
            return
        if self._ring is not None and self._clock() - self._rung_at >= BELL_INTERVAL_S:
            self._rung_at = self._clock()
            self._ring()
        if self._command_text:
            self._start_command(new, run_name)

    # -- what the screens ask -----------------------------------------------------------------------------------

    @property
    def alerts(self) -> list[Alert]:
        """All, the newest first."""
        return sorted(self._kept.values(), key=lambda alert: (alert.ts, alert.last_ts), reverse=True)

    @property
    def is_kept(self) -> bool:
        """Whether acknowledgements will be known the next time."""
        return self._acknowledged is None or self._acknowledged.is_kept

    def is_acknowledged(self, alert: Alert) -> bool:
        return self._book().holds(alert)

    def unacknowledged(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Of `alerts` those for the header."""
        return [alert for alert in alerts if not alert.is_over and not self.is_acknowledged(alert)]

    def acknowledge(self, alerts: Iterable[Alert], is_acknowledged: bool = True) -> None:
        self._book().set(alerts, is_acknowledged)

    def _book(self) -> Acknowledged:
        if self._acknowledged is None:
            from ckpt_tui.services.alerting import Acknowledged

            self._acknowledged = Acknowledged(self._directory, os.environ)
        return self._acknowledged


class BrokenRuns(Teller):
    """Of several runs: tells of those that came to a bad end while they were watched."""

    def take(self, broken: Sequence[RunSummary]) -> None:
        if broken and self._ring is not None:
            self._ring()
        if not broken or not self._command_text:
            return
        from ckpt_tui.services.runs import alert_of

        for one in broken:
            if (alert := alert_of(one)) is not None:
                self._start_command([alert], one.title or one.name, one.path)


def _new_alerts(has_begun: bool) -> NewAlerts:
    from ckpt_tui.services.alerting import NewAlerts

    return NewAlerts(has_begun=has_begun)
