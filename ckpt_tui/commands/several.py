"""Several runs in the plain commands: a line each, and the JSON of them, the same for `watch` and `status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, replace

from ckpt_tui import text
from ckpt_tui.commands.status import EXIT_CODES, MAX_DAMAGE_LINES, next_start_data
from ckpt_tui.output import Cell, Column, CommandResult, ExitCode, Output, Style, table
from ckpt_tui.run import wording
from ckpt_tui.run.state import Alert, Phase
from ckpt_tui.services.runs import Runs, RunSummary, RunsWatch, count_phases, newly_broken
from ckpt_tui.tui.alerting import BrokenRuns

COLUMNS = (
    Column("run", shrink=True, keep="end"),
    Column("state"),
    Column("done", "right", leaves=4),
    Column("step", "right", leaves=2),
    Column("loss", "right", leaves=3),
    Column("at risk", "right"),
    Column("seen", "right", leaves=1),
)
BADLY = (Phase.CRASHED, Phase.FAILED, Phase.DIVERGED)


def status_of_several(root: str, which: Collection[str] = ()) -> CommandResult:
    """A line for each run below `root`; the exit code is that of the worst: 1 before 2 before 0. which: alerts that
    make it 1 while they hold."""
    from ckpt_tui.services.runs import read_runs

    runs = read_runs(root)
    alerts = _alerts_of(which)(runs)
    codes = {EXIT_CODES[one.phase] if one.phase is not None else ExitCode.TROUBLE for one in runs.runs}
    worst = next((code for code in (ExitCode.DIFFERENT, ExitCode.TROUBLE) if code in codes), ExitCode.OK)
    now = time.time()
    return CommandResult(
        data=runs_data(runs, alerts), exit_code=ExitCode.DIFFERENT if alerts else worst,
        view=lambda style: (*runs_lines(runs, style, now), *_alert_lines(runs, alerts, style)),
    )  # fmt: skip


def watch_several(
    root: str, out: Output, alerting: BrokenRuns, *, interval_s: float, once: bool, exit_on: Collection[str] = ()
) -> int:
    """A table when all are read, then a line for each run that changed, until none of them is alive or one has an
    alert of `exit_on`."""
    watch = RunsWatch(root)
    runs = _read_all(watch)
    style = out.style()
    _tell(runs, runs_lines(runs, style, time.time()), out)
    said = {one.path: changed_line(one, style) for one in runs.runs}
    alerts_of = _alerts_of(exit_on)
    while not (alerts := alerts_of(runs)) and not once and (
        not runs.runs or any(_is_open(one) for one in runs.runs)
    ):  # fmt: skip
        time.sleep(interval_s)
        newer = _read_all(watch)
        if newer is runs:
            continue
        alerting.take(newly_broken({one.path: one for one in runs.runs}, newer.runs))
        runs = newer
        lines = {one.path: changed_line(one, style) for one in runs.runs}
        changed = [line for path, line in lines.items() if said.get(path) != line]
        gone = [f"{text.safe_text(path, 400)}: gone" for path in said if path not in lines]
        said = lines
        if changed or gone:
            _tell(runs, [*changed, *gone], out)
    if not alerts:
        return ExitCode.OK
    _tell(runs, _alert_lines(runs, alerts, style), out, alerts)
    return ExitCode.DIFFERENT


def _alerts_of(which: Collection[str]) -> Callable[[Runs], dict[str, tuple[Alert, ...]]]:
    if not which:
        return lambda _: {}
    from ckpt_tui.services.alerts_of_runs import AlertsOfRuns

    return AlertsOfRuns(which).take


def _alert_lines(runs: Runs, alerts: Mapping[str, tuple[Alert, ...]], style: Style) -> Iterator[str]:
    from ckpt_tui.commands.alert_watch import alert_line

    for one in runs.runs:
        for alert in alerts.get(one.path, ()):
            yield f"{text.safe_text(one.name, 200)}: {alert_line(alert, style)}"


def _is_open(summary: RunSummary) -> bool:
    return summary.is_live or summary.phase is Phase.WAITING


def _read_all(watch: RunsWatch) -> Runs:
    runs = watch.poll(1.0)
    while not watch.is_caught_up:
        runs = watch.poll(1.0)
    return runs


def _tell(
    runs: Runs, lines: Iterable[str], out: Output, alerts: Mapping[str, tuple[Alert, ...]] | None = None
) -> None:  # fmt: skip
    if out.as_json:
        lines = [out.envelope(runs_data(runs, alerts))]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def runs_data(runs: Runs, alerts: Mapping[str, tuple[Alert, ...]] | None = None) -> dict[str, object]:
    """`runs` newest activity first, each with `state` (null where it cannot be read, then `error` says why); `states`
    counts them. `alerts` of each: those that were asked for and hold."""
    chosen, now = alerts or {}, time.time()
    return {
        "path": runs.root,
        "runs": [
            {**_run_data(one, now), "alerts": [asdict(alert) for alert in chosen.get(one.path, ())]}
            for one in runs.runs
        ],
        "states": {phase.value: number for phase, number in count_phases(runs.runs).items()},
        "unreadable_directories": runs.num_unreadable,
        "is_cut": runs.is_cut,
    }


def _run_data(summary: RunSummary, now: float) -> dict[str, object]:
    fields = asdict(replace(summary, next_start=None))
    phase, steps, seconds = fields.pop("phase"), fields.pop("at_risk_steps"), fields.pop("at_risk_s")
    return {
        "path": fields.pop("path"),
        "name": fields.pop("name"),
        "state": phase.value if phase is not None else None,
        "step": fields.pop("step"),
        "total_steps": fields.pop("total_steps") or None,
        "percent": summary.percent,
        "eta_s": fields.pop("eta_s"),
        "loss": fields.pop("last_loss"),
        "best": fields.pop("best_value"),
        "at_risk": {"steps": steps, "seconds": seconds} if steps is not None else None,
        "sessions": fields.pop("num_sessions"),
        "loss_so_far": list(fields.pop("spark")),
        **fields,
        "next_start": next_start_data(summary.next_start, now),
    }


def runs_lines(runs: Runs, style: Style, now: float) -> Iterator[str]:
    """`2 running, 1 crashed, 12 finished`, and a table."""
    if not runs.runs:
        yield f"no run below {text.safe_text(runs.root, 1000)}"
        return
    counted = [(f"{number:,} {phase.value}", wording.phase_role(phase))
               for phase, number in count_phases(runs.runs).items()]  # fmt: skip
    num_odd = sum(one.phase is None for one in runs.runs)
    if num_odd:
        counted.append((f"{num_odd:,} unreadable", "bad"))
    yield ", ".join(style.paint(*words) for words in counted)
    yield from table(COLUMNS, [_cells(one, style, now) for one in runs.runs], style)
    yield from _damage_lines(runs, style)
    if runs.num_unreadable:
        words = text.plural(runs.num_unreadable, "directory", "directories")
        yield style.paint(f"{words} could not be read.", "warn")
    if runs.is_cut:
        yield style.paint("There are more than are looked at: give a directory below.", "warn")


def _damage_lines(runs: Runs, style: Style) -> Iterator[str]:
    bad = [one for one in runs.runs if one.damaged]
    for one in bad[:MAX_DAMAGE_LINES]:
        names = ", ".join(text.safe_text(name, 80) for name in one.damaged[:MAX_DAMAGE_LINES])
        more = len(one.damaged) - MAX_DAMAGE_LINES
        names += f" and {more:,} more" if more > 0 else ""
        verb = "is" if len(one.damaged) == 1 else "are"
        yield style.paint(f"{text.safe_text(one.name, 200)}: {names} {verb} known to be bad.", "bad")
    if len(bad) > MAX_DAMAGE_LINES:
        yield style.paint(f"... and checkpoints of {text.plural(len(bad) - MAX_DAMAGE_LINES, 'more run')}.", "bad")


def _cells(summary: RunSummary, style: Style, now: float) -> list[Cell]:
    name = text.safe_text(summary.name, 400)
    if summary.phase is None:
        return [name, (text.safe_text(summary.error, 60), "bad"), "", "", "", "", ""]
    step = f"{summary.step:,}" + (f" / {summary.total_steps:,}" if summary.total_steps else "")
    return [
        name,
        (f"{wording.phase_glyph(summary.phase, style.unicode)} {state_words(summary, now)}",
         wording.phase_role(summary.phase)),
        f"{summary.percent} %" if summary.percent is not None else "-",
        step,
        text.metric(summary.last_loss),
        risk_words(summary),
        text.short_age(now - summary.last_ts) if summary.last_ts is not None else "-",
    ]  # fmt: skip


def state_words(summary: RunSummary, now: float) -> str:
    """`crashed`; between two sessions `restarting, attempt 3, in 20 s`; before the first event `waiting, now`."""
    if summary.phase is None:
        return "unreadable"
    if summary.next_start is None or not (summary.phase.is_between or summary.phase is Phase.WAITING):
        return summary.phase.value
    return f"{summary.phase.value}, {wording.coming_words(summary.next_start, now)}"


def risk_words(summary: RunSummary) -> str:
    """`162, 8.9 s`: steps and time that would be lost now, or that the end has cost."""
    if summary.at_risk_steps is None or summary.phase is Phase.FINISHED:
        return "-"
    seconds = f", {text.duration(summary.at_risk_s)}" if summary.at_risk_s else ""
    return f"{summary.at_risk_steps:,}{seconds}"


def changed_line(summary: RunSummary, style: Style) -> str:
    """One line without ages: it stays the same as long as nothing happened."""
    name = style.paint(text.safe_text(summary.name, 400), "bold")
    if summary.phase is None:
        return f"{name}   {style.paint(text.safe_text(summary.error, 200), 'bad')}"
    words = f"{wording.phase_glyph(summary.phase, style.unicode)} {summary.phase.value}"
    if summary.next_start is not None and summary.phase.is_between and summary.next_start.attempt:
        words += f", attempt {summary.next_start.attempt:,}"  # without the seconds until then
    facts = [style.paint(words, wording.phase_role(summary.phase)), f"step {summary.step:,}"]
    if summary.total_steps:
        facts[-1] += f" / {summary.total_steps:,}"
        facts.append(f"{summary.percent} %")
    facts.append(f"loss {text.metric(summary.last_loss)}")
    if summary.at_risk_steps:
        word = "lost" if summary.phase in BADLY or summary.phase.is_between else "at risk"
        facts.append(f"{word} {risk_words(summary)}")
    return "   ".join([name, *facts])
