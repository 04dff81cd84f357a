"""Is the run fine? Its state on one screen: progress, what is at risk, why it ended and what that cost.

Exit code 0: waiting, running, finished, or stopped on purpose with its state saved (interrupted, preempted); also
between two sessions, while a live supervisor starts it again (restarting, starting): that is being mended;
1: crashed, failed or diverged; 2: stalled, silent (as the copy of a run that goes on elsewhere is), or it could not be
judged (nothing there, not a log). Of a directory that holds several runs: a line each, and 1 if any of them is 1, else
2 if any is 2. With --fail-on also 1 while an alert of that kind holds, in any of them: for a script or a cron job that
is to tell somebody. `--fail-on restart` is for a crash that a supervisor is mending: `any`, `error` and `crash` are for
what nobody mends.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.output import CommandResult, Output, Style, wrapped
from ckpt_tui.run.state import NextStart, Phase, RunState

if TYPE_CHECKING:
    from ckpt_tui.services.damage import Judgement

EXAMPLES = (
    "ckpt-tui status runs/gpt",
    "ckpt-tui status runs/gpt --json",
    "ckpt-tui status runs/gpt --at 8250",
    "ckpt-tui status runs/gpt --fail-on error,no_save || mail -s 'gpt needs you' me@example.org </dev/null",
)

MAX_DAMAGE_LINES = 3

EXIT_CODES = {
    Phase.WAITING: 0, Phase.RUNNING: 0, Phase.FINISHED: 0, Phase.INTERRUPTED: 0, Phase.PREEMPTED: 0,
    Phase.CRASHED: 1, Phase.FAILED: 1, Phase.DIVERGED: 1,
    Phase.STALLED: 2, Phase.SILENT: 2, Phase.RESTARTING: 0, Phase.STARTING: 0,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="run directory, directory of runs, or log file")
    parser.add_argument(
        "--fail-on", metavar="WHICH", default="",
        help="exit with 1 while such an alert holds: any, error, warning, or kinds with commas (spike,no_save)",
    )  # fmt: skip
    parser.add_argument(
        "--at", metavar="STEP", default="",
        help="what happened at that step, and which checkpoint is from before it; `spike`: at the worst one",
    )  # fmt: skip


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.run.alerts import asked_alerts, chosen, read_which
    from ckpt_tui.services.damage import read_judged_run
    from ckpt_tui.services.run_places import holds_runs

    which = read_which(args.fail_on, "--fail-on") if args.fail_on else frozenset[str]()
    if holds_runs(args.path):
        from ckpt_tui.commands.several import status_of_several

        return status_of_several(args.path, which)
    state, judgement = read_judged_run(args.path)
    exit_code = EXIT_CODES[state.phase]
    if state.phase is Phase.WAITING and _is_given_up(state.directory):
        exit_code = 1  # it died before its first event, each time
    if which and chosen((*asked_alerts(state), *judgement.alerts), which):
        exit_code = 1
    if args.at:
        from ckpt_tui.commands.moment import checked_as_listed, moment_at, moment_data, moment_text, read_at

        validity = checked_as_listed(state.directory)
        told = moment_at(state, judgement, read_at(args.at))
        data = {**status_data(state, judgement), "moment": moment_data(told)}
        return CommandResult(data=data, view=lambda style: moment_text(told, validity, style), exit_code=exit_code)
    return CommandResult(
        data=status_data(state, judgement),
        view=lambda style: status_lines(state, style, judgement),
        exit_code=exit_code,
    )


def status_data(state: RunState, judgement: Judgement) -> dict[str, object]:
    """What SPEC section 11 promises, and more. `lost.overhead` is null until a lost step was trained again;
    `damaged` holds what was found in checkpoints, once the run is over by reading what a resume would take and before
    that as far as it is remembered (`checking_note` says so); `instead` is the valid backup or null. `advice` and
    `failures` are what the trainer itself said: the newest advice event, and each lost_work event with what was
    predicted."""
    from msgspec import to_builtins

    at_risk, eta = state.at_risk, state.eta
    return {
        "state": state.phase.value,
        "reason": state.reason,
        "trains_in": state.trains_in or None,
        "next_start": next_start_data(state.next_start, state.now),
        "name": state.name,
        "step": state.step,
        "total_steps": state.total_steps or None,
        "epoch": state.epoch,
        "source": state.source,
        "step_unit": state.step_unit,
        "eta_s": eta.seconds if eta else None,
        "eta_range_s": [eta.low_s, eta.high_s] if eta else None,
        "steps_per_s": state.steps_per_s,
        "loss": state.last_loss,
        "best": state.best_value,
        "best_is_within_noise": state.best_is_within_noise,
        "at_risk": asdict(at_risk) if at_risk else None,
        "saves_that_fit": state.saves_that_fit,
        "disk_full_in_s": max(state.disk_full_ts - state.now, 0.0) if state.disk_full_ts is not None else None,
        "lost": asdict(state.lost),
        "sessions": [asdict(session) for session in state.sessions],
        "alerts": [asdict(alert) for alert in (*state.alerts, *judgement.alerts)],
        "bad_lines": asdict(state.bad_lines),
        "missing_lines": state.missing_lines,
        "notices": list(state.notices),
        "damaged": [asdict(damage) for damage in judgement.damaged],
        "checking_note": judgement.note,
        "newest_checkpoint": asdict(judgement.newest) if judgement.newest is not None else None,
        "advice": to_builtins(state.advice),
        "failures": [to_builtins(lost) for lost in state.lost_work],
        "supervisor": _supervisor_data(state),
    }


def next_start_data(start: NextStart | None, now: float) -> dict[str, object] | None:
    """Of a run between two sessions: when the next one is due, or who was started for it; else null. `words` as
    the sentence of `status` has them."""
    if start is None:
        return None
    from ckpt_tui.run.wording import coming_words

    in_s = max(start.due_at - now, 0.0) if start.due_at is not None else None
    return {**asdict(start), "in_s": in_s, "words": coming_words(start, now)}


def _is_given_up(directory: str) -> bool:
    from ckpt_tui.services.supervisor_record import SupervisorState, read_supervisor

    supervisor = read_supervisor(directory)
    return supervisor is not None and supervisor.state is SupervisorState.GAVE_UP


def _supervisor_data(state: RunState) -> dict[str, object] | None:
    from ckpt_tui.services.supervisor_record import read_supervisor, supervisor_words

    supervisor = read_supervisor(state.directory)
    if supervisor is None:
        return None
    return {
        **asdict(supervisor), "is_in_charge": supervisor.is_in_charge, "words": supervisor_words(supervisor, state.now)
    }  # fmt: skip


def _supervisor_lines(state: RunState, style: Style) -> Iterator[str]:
    from ckpt_tui.services.supervisor_record import read_supervisor, supervisor_words

    supervisor = read_supervisor(state.directory)
    words = supervisor_words(supervisor, state.now) if supervisor is not None else ""
    if supervisor is None or not words:
        return
    role = "plain" if supervisor.is_in_charge else "warn"
    sentence = words[:1].upper() + words[1:]
    if supervisor.told and (supervisor.restarts or supervisor.state == "gave up"):
        sentence += f": {text.safe_text(supervisor.told, 300)}"
    yield from _painted(f"{sentence}.", role, style)


def status_lines(state: RunState, style: Style, judgement: Judgement) -> Iterator[str]:
    """The header, the banner and what is wrong with the log, as text."""
    from ckpt_tui.run import timeline, wording

    for line in wording.header_lines(state, style.unicode):
        yield from _in_width(line, style)
    yield from _supervisor_lines(state, style)
    if judgement.newest is not None:
        yield from _painted(judgement.newest.words(state.now), "plain", style)
    damage = [(damaged.words, "bad") for damaged in judgement.damaged[:MAX_DAMAGE_LINES]]
    if len(judgement.damaged) > MAX_DAMAGE_LINES:
        num_more = len(judgement.damaged) - MAX_DAMAGE_LINES
        damage.append((f"{text.plural(num_more, 'more damaged checkpoint')}: ckpt-tui list shows them.", "bad"))
    if judgement.note and (damage or state.phase.is_over):
        damage.append((judgement.note, "warn"))
    for words, role in wording.end_sentences(state, damage):
        yield from _painted(words, role, style)
    # Of one session, too, where it went back by itself.
    if state.lost.steps and (len(state.sessions) > 1 or any(session.gone_back for session in state.sessions)):
        overhead = ""
        if state.lost.overhead is not None:
            overhead = f", {text.percent(state.lost.overhead)} overhead, goodput {text.percent(state.lost.goodput)}"
        lost = f"{text.plural(state.lost.steps, 'step')}, {text.duration(state.lost.seconds)}{overhead}"
        predicted = [one.predicted_seconds for one in state.lost_work if one.predicted_seconds is not None]
        if predicted:
            lost += f"; {text.duration(sum(predicted) / len(predicted))} a failure was predicted"
        yield from _painted(f"Lost in {text.plural(len(state.sessions), 'session')}: {lost}.", "dim", style)
    if state.phase.is_over and wording.resume_sentence(state) is not None:
        yield "".join(
            style.paint(*span)
            for span in wording.resume_bar(timeline.resume_outlook(state), style.width or 80, style.unicode)
        )
    for words, role in wording.alert_sentences(state):
        yield from _painted(words, role, style)
    for words, role in wording.log_sentences(state):
        yield from _painted(words, role, style)


def _painted(sentence: str, role: str, style: Style) -> list[str]:
    return [style.paint(line, role) for line in wrapped(sentence, style)]


def _in_width(spans: tuple[tuple[str, str], ...], style: Style) -> Iterator[str]:
    """Spans side by side, in more lines where the terminal is narrow."""
    gap, line, width = "   ", "", 0
    for words, role in spans:
        needed = text.cell_width(words)
        if line and style.width is not None and width + len(gap) + needed > style.width:
            yield line
            line, width = "", 0
        line += (gap if line else "") + style.paint(words, role)
        width += (len(gap) if width else 0) + needed
    if line:
        yield line
