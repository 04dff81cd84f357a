"""Alerts of `watch --plain`: printed as they come, rung, told to a command, or the end of the watch."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

if TYPE_CHECKING:
    from ckpt_tui.output import Style
    from ckpt_tui.run.state import Alert, RunState
    from ckpt_tui.settings import Settings
    from ckpt_tui.tui.alerting import Alerting, BrokenRuns

LAST_COMMAND_WAIT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bell", action="store_true", help="ring the terminal's bell at a new alert")
    parser.add_argument(
        "--on-alert", metavar="COMMAND", default=None,
        help="run by a shell at a new alert: it is in $CKPT_TUI_ALERT_TITLE, _DETAIL, _KIND, _STEP ..., JSON on stdin",
    )  # fmt: skip
    parser.add_argument(
        "--exit-on", metavar="WHICH", default="",
        help="with --plain: end with 1 at such an alert: any, error, warning, or kinds with commas (spike,no_save)",
    )  # fmt: skip


def check_arguments(args: argparse.Namespace, *, is_plain: bool) -> None:
    """Raises CkptError where flags do not go together."""
    if args.on_alert and args.readonly:
        raise CkptError("Usage", "--readonly runs nothing, so --on-alert has no use", "Leave one of the two away.")
    if args.exit_on and not is_plain:
        raise CkptError("Usage", "--exit-on is for a watch that nobody looks at", "Give --plain, too.")
    if args.exit_on:
        from ckpt_tui.run.alerts import read_which

        read_which(args.exit_on, "--exit-on")


class PlainAlerts:
    """Of one run that is watched without a screen."""

    def __init__(self, settings: Settings, exit_on: str, directory: str) -> None:
        from ckpt_tui.run.alerts import read_which
        from ckpt_tui.services.alerting import NewAlerts
        from ckpt_tui.tui.alerting import Alerting

        self._which = read_which(exit_on, "--exit-on") if exit_on else frozenset[str]()
        self._new = NewAlerts()
        self._alerting = Alerting(directory, ring=_ring if settings.bell else None, command=_command(settings))

    def take(self, state: RunState) -> tuple[Alert, ...]:
        """The new ones of a state whose log is read to its end; rung and told already."""
        self._alerting.take(state, is_caught_up=True)
        return self._new.take(state.alerts, num_events=state.num_events)

    def ends_at(self, state: RunState) -> bool:
        from ckpt_tui.run.alerts import asked_alerts, chosen

        return bool(self._which) and bool(chosen(asked_alerts(state), self._which))

    def close(self) -> None:
        close(self._alerting)


def of_several(settings: Settings) -> BrokenRuns:
    """Of the runs of a directory."""
    from ckpt_tui.tui.alerting import BrokenRuns

    return BrokenRuns(_ring if settings.bell else None, _command(settings))


def close(alerting: Alerting | BrokenRuns) -> None:
    """The last alert is often why the watch ends: its command is waited for."""
    alerting.finish(LAST_COMMAND_WAIT_S)
    if alerting.command_problem:
        sys.stderr.write(f"The command of --on-alert {alerting.command_problem}.\n")


def _command(settings: Settings) -> str:
    return "" if settings.readonly else settings.alert_command


def alert_line(alert: Alert, style: Style) -> str:
    """`▲ Loss spike: loss up to 41.2, usual were 1.482 (step 5,120)`."""
    glyph = ("✖" if alert.severity == "error" else "▲") if style.unicode else "!"
    detail = f": {safe_text(alert.detail, 300)}" if alert.detail else ""
    words = f"{glyph} {safe_text(alert.title, 100)}{detail} (step {alert.step:,})"
    return style.paint(words, "bad" if alert.severity == "error" else "warn")


def _ring() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\a")
        sys.stderr.flush()
