"""How sessions follow each other in what is folded: where one begins, from where it goes on, and what it loses so."""

from __future__ import annotations

from itertools import pairwise

from ckpt_tui.events.blocks import StepRow
from ckpt_tui.events.schema import Event, RunStart, Step
from ckpt_tui.run import timeline
from ckpt_tui.run.folded import Folded
from ckpt_tui.run.state import Lost, Phase
from ckpt_tui.run.step_columns import Row
from ckpt_tui.run.timeline import SessionRecord

MAX_SESSION_GAP = 1000  # sessions that may be missing from a log between two lines


def session_of(folded: Folded, event: Event | StepRow, start_step: int) -> SessionRecord:
    """The record of an event's session; a session whose start the log does not tell begins here."""
    if folded.sessions:
        last = folded.sessions[-1]
        begins_one = event.session != last.number if isinstance(event, Step | StepRow) else event.session > last.number
        if not begins_one or event.session <= 0 or getattr(event, "by", "") == "viewer":
            return last
        if event.session > last.number + MAX_SESSION_GAP:
            return last  # a number that went wrong: sessions count on
    return begin_session(folded, event, max(start_step, 0))


def is_last(folded: Folded, number: int) -> bool:
    """Whether the session of that number is the one that goes on."""
    return bool(folded.sessions) and folded.sessions[-1].number == number


def is_of_another_process(folded: Folded, row: Row) -> bool:
    """Whether a step is of a session that another one followed: its process goes on, and two write one log."""
    last = folded.sessions[-1] if folded.sessions else None
    if last is None or not 0 < row.session < last.number:
        return False
    return any(record.number == row.session for record in folded.sessions)


def tell_of_another_process(folded: Folded, session: int) -> None:
    last = folded.sessions[-1].number
    notice = f"session {session} went on after session {last} began: two trainings write this log"
    if notice not in folded.notices:
        folded.notices.append(notice)


def begin_session(folded: Folded, event: Event | StepRow, start_step: int) -> SessionRecord:
    if folded.sessions:
        before = folded.sessions[-1]
        if before.phase is Phase.RUNNING:
            before.phase, before.reason = Phase.CRASHED, "the next session began without its end"
            folded.mark("crash", before.last_step, before.last_ts, before.number, "crashed")
        folded.alarms.session_ended(before.phase, before.number, before.reason, before.last_step, before.last_ts)
    record = SessionRecord(event.session, start_step, event.ts, start_step, event.ts)
    folded.add_session(record)
    folded.recent.clear()
    folded.alarms.end_session()
    folded.alarms.begin_session(record.number)
    return record


def forget_what_came_before(folded: Folded, event: RunStart) -> None:
    """A session of which something was told before its start is one session, and not two."""
    last = folded.sessions[-1] if folded.sessions else None
    if last is not None and last.number == event.session and not last.is_started and last.first_step is None:
        folded.sessions.pop()


def continue_from(folded: Folded, session: SessionRecord, step: int) -> None:
    """What earlier sessions trained above `step` is trained again."""
    if len(folded.sessions) < 2 or folded.sessions[-1] is not session:
        return
    folded.leave_after(step)
    session.retrained_steps = max(session.retrained_steps, session.reached_before - max(step, 0))
    lost, lost_s = timeline.lose_after(folded.sessions[:-1], max(step, 0), folded.pace())
    if lost > 0:
        _lose(folded, step, lost, lost_s)
        folded.num_session_changes += 1


def go_back(folded: Folded, session: SessionRecord, step: int, ts: float) -> None:
    """Steps went back without a new session: a roll-back in the loop."""
    lost = session.last_step - max(step, 0)
    folded.leave_after(step)
    _lose(folded, step, lost, session.go_back(step, folded.pace()))
    folded.alarms.begin_session(session.number)
    folded.mark("resume", step, ts, session.number, f"went back to step {step:,}")
    folded.recent.clear()


def _lose(folded: Folded, step: int, steps: int, seconds: float) -> None:
    """Count what was trained above `step`, and leave its curves as a branch."""
    folded.retrained = Lost(folded.retrained.steps + steps, folded.retrained.seconds + seconds)
    for builder in folded.series.values():
        builder.abandon_after(step)


def net_s_at(folded: Folded, session: SessionRecord, step: int) -> float:
    """When the session reached `step`. A save is told of after it is durable: later steps are there already."""
    recent = folded.recent
    since = [ts for reached, ts in reversed(recent) if reached >= step]
    seconds = sum(max(later - earlier, 0.0) for later, earlier in pairwise(since))
    if since and len(since) == recent.maxlen:  # it was longer ago than the steps that are remembered
        seconds += (recent[0][0] - step) * (session.seconds_per_step or 0.0)
    return max(session.net_s - seconds, 0.0)
