"""Watch a run live: is it fine, how its curves go, what is at risk; and after a crash, what is lost and what to do.

PATH is a run directory, its log, or a directory that holds several runs: then they are listed, newest activity first,
and Enter opens one. The training is never touched: leaving the watch (q) does not stop it.
With --plain the same facts are printed as lines, until the run ends or Ctrl+C; with --json, too, each line is an object
with the `data` of `status --json`.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.commands import alert_watch
from ckpt_tui.errors import CkptError
from ckpt_tui.output import ExitCode, Output, Style
from ckpt_tui.settings import MAX_INTERVAL_S, MIN_INTERVAL_S, THEME_NAMES, Settings, read_settings, theme_of_flag
from ckpt_tui.text import safe_text
from ckpt_tui.tui.terminal import can_draw, settle_colours

if TYPE_CHECKING:
    from ckpt_tui.run.state import RunState
    from ckpt_tui.services.damage import Judgement
    from ckpt_tui.services.monitor import RunMonitor

EXAMPLES = (
    "ckpt-tui watch runs/gpt",
    "ckpt-tui watch runs",
    "ckpt-tui watch runs/gpt --readonly",
    "ckpt-tui watch runs/gpt --bell --on-alert 'ntfy publish gpt \"$CKPT_TUI_ALERT_TITLE\"'",
    "ckpt-tui watch runs/gpt --plain --exit-on error",
)
JSON_OBJECTS = "a JSON object a line"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a run directory, a directory of runs, or a log")
    parser.add_argument("--plain", action="store_true", help="print lines instead of opening the screen")
    parser.add_argument("--once", action="store_true", help="with --plain: print the facts once and end")
    parser.add_argument("--readonly", action="store_true", help="take every act away: only look")
    parser.add_argument("--interval", metavar="S", type=float, default=None, help="seconds between looks (1)")
    parser.add_argument(
        "--slow-link", action="store_true", help="send less: a picture every 5 s, and no tracking of the mouse"
    )
    parser.add_argument("--theme", metavar="NAME", default=None, help=f"colours: {', '.join(THEME_NAMES)}")
    parser.add_argument("--ascii", action="store_true", help="draw with plain characters, for fonts without braille")
    alert_watch.add_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    is_plain = bool(args.plain or args.once or out.as_json)
    alert_watch.check_arguments(args, is_plain=is_plain)
    settings = settings_for(args, os.environ)
    args.interval = settings.interval_s
    if not Path(args.path).exists():
        raise CkptError(
            "Not found",
            f"there is nothing at {safe_text(args.path, 1000)}",
            "Give the run directory, or its events.jsonl.",
        )
    if is_plain:
        return watch_plain(args, out, settings)
    if not can_draw(os.environ):
        raise CkptError(
            "No terminal",
            "the watch draws on a terminal, and this is not one (or TERM is dumb)",
            "`ckpt-tui watch PATH --plain` prints the same facts as lines; `ckpt-tui status PATH` prints them once.",
        )
    settle_colours(os.environ)
    gc.disable()  # 20 ms of the start; the app switches it on again when it is shown (tui/base_app.py)
    from ckpt_tui.tui.app import CkptTuiApp

    app = CkptTuiApp(args.path, settings=settings)
    app.run(mouse=not settings.slow_link)
    return int(app.return_code or ExitCode.OK)


def settings_for(args: argparse.Namespace, env: Mapping[str, str]) -> Settings:
    """The flags that were given over the person's file over what is built in. Raises CkptError."""
    given: dict[str, object] = {}
    if args.interval is not None:
        if not MIN_INTERVAL_S <= args.interval <= MAX_INTERVAL_S:
            raise CkptError("Usage", f"--interval must be between {MIN_INTERVAL_S:g} and {MAX_INTERVAL_S:g} seconds")
        given["interval_s"] = args.interval
    if args.theme is not None:
        given["theme"] = theme_of_flag(args.theme)
    if args.ascii:
        given["unicode"] = False
    if args.readonly:
        given["readonly"] = True
    if args.slow_link:
        given["slow_link"] = True
    if args.bell:
        given["bell"] = True
    if args.on_alert is not None:
        given["alert_command"] = args.on_alert
    return replace(read_settings(env), **given)  # type: ignore[arg-type]


def watch_plain(args: argparse.Namespace, out: Output, settings: Settings) -> int:
    """What `status` says when the log is read, then a line a tick in which something changed, until the run is over, or
    an alert of --exit-on is there."""
    from ckpt_tui.commands.status import status_lines
    from ckpt_tui.run.state import Phase
    from ckpt_tui.services.damage import judge_run
    from ckpt_tui.services.monitor import RunMonitor
    from ckpt_tui.services.run_places import holds_runs

    if holds_runs(args.path):
        from ckpt_tui.commands.several import watch_several
        from ckpt_tui.run.alerts import read_which

        broken = alert_watch.of_several(settings)
        try:
            which = read_which(args.exit_on, "--exit-on") if args.exit_on else frozenset[str]()
            return watch_several(
                args.path, out, broken, interval_s=args.interval, once=args.once, exit_on=which
            )  # fmt: skip
        finally:
            alert_watch.close(broken)
    monitor = RunMonitor(args.path)
    style = out.style()
    state, judgement = judge_run(monitor, _read_all(monitor))
    alerts = alert_watch.PlainAlerts(settings, args.exit_on, monitor.directory)
    alerts.take(state)
    _tell(state, judgement, list(status_lines(state, style, judgement)), out)
    said = tick_line(state, style)
    try:
        while not args.once and not _is_over(state) and not alerts.ends_at(state):
            time.sleep(args.interval)
            state = _read_all(monitor)
            if state.phase is not Phase.WAITING:
                state, judgement = judge_run(monitor, state)
            new = [alert_watch.alert_line(alert, style) for alert in alerts.take(state)]
            if _is_over(state):
                _tell(state, judgement, list(status_lines(state, style, judgement)), out)
            elif (line := tick_line(state, style)) != said or new:
                lines = [line] if line != said else []
                said = line
                _tell(state, judgement, [*new, *lines], out)
    finally:
        alerts.close()
    return ExitCode.DIFFERENT if alerts.ends_at(state) else ExitCode.OK


def _is_over(state: RunState) -> bool:
    """Whether nothing will come any more: a supervisor starts a training again that has crashed."""
    if not state.phase.is_over:
        return False
    from ckpt_tui.services.supervisor_record import live_supervisor

    return live_supervisor(state.directory) is None


def _tell(state: RunState, judgement: Judgement, lines: list[str], out: Output) -> None:
    if out.as_json:
        from ckpt_tui.commands.status import status_data

        lines = [out.envelope(status_data(state, judgement))]
    _print(lines)


def _read_all(monitor: RunMonitor) -> RunState:
    state = monitor.poll(1.0)
    while not monitor.is_caught_up:
        state = monitor.poll(1.0)
    return state


def tick_line(state: RunState, style: Style) -> str:
    """One line, without ages: it stays the same as long as nothing happened.

    `● running   step 8,412 / 12,700   66 %   eta 3m 54s ...   loss 1.482   at risk 162 steps, 8.9 s`.
    """
    from ckpt_tui.run import wording
    from ckpt_tui.text import duration, plural

    header = wording.header_lines(state, style.unicode)
    spans = list(header[0][1:]) + (list(header[1]) if len(header) > 1 else [])
    if state.at_risk is not None:
        # No time is told where nobody knows the pace.
        seconds = f", {duration(state.at_risk.seconds)}" if state.at_risk.seconds > 0 or not state.at_risk.steps else ""
        risk = f"at risk {plural(state.at_risk.steps, safe_text(state.step_unit, 10))}{seconds}"
        spans.append((risk, "plain"))
    return "   ".join(style.paint(*span) for span in spans)


def _print(lines: list[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
