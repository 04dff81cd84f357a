"""Saves that are told of steps after their own, and training that goes back: risk, timeline, lists."""

from __future__ import annotations

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.run.alerts import chosen
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.run.timeline import seconds_above
from tests.builders.event_logs import LogText

PACE = 0.5


def folded(log: LogText, *, alive: bool = True, now: float | None = None) -> RunState:
    fold = RunFold()
    fold.apply_all([decode(line) for line in log.lines])
    return fold.state(log.ts if now is None else now, Beside(is_process_alive=alive))


def train(log: LogText, first: int, last: int, *, session: int = 1, late: int = 0, saves: tuple[int, ...] = ()) -> None:
    """Steps at 0.5 s; each save of `saves` is told of `late` steps after its own."""
    for step in range(first, last + 1):
        log.add("step", step, session, ts=log.ts + PACE, loss=4.0 - step / 1000)
        if step - late in saves:
            log.add("checkpoint_saved", step - late, session, path=f"rolling_step_{step - late:06d}.pt",
                    kind="rolling", names=[f"rolling_step_{step - late:06d}.pt", "latest.pt"], bytes=1000,
                    stall_seconds=0.01, save_seconds=0.01 + late * PACE)  # fmt: skip


def test_until_it_is_durable_a_save_does_not_count() -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 219, late=20, saves=(100, 200))
    before = folded(log).at_risk
    assert before is not None
    assert (before.checkpoint_step, before.steps, before.seconds) == (100, 119, pytest.approx(119 * PACE))
    train(log, 220, 220, late=20, saves=(200,))
    after = folded(log).at_risk
    assert after is not None
    assert (after.checkpoint_step, after.steps, after.seconds) == (200, 20, pytest.approx(20 * PACE))
    crashed = folded(log, alive=False)
    assert (crashed.lost.steps, crashed.lost.seconds) == (20, pytest.approx(20 * PACE))


def test_marks_list_and_feed_carry_the_step_of_the_save() -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 250, late=30, saves=(100, 200))
    state = folded(log)
    assert state.step == 250
    assert [(mark.kind, mark.step) for mark in state.markers] == [("save", 100), ("save", 200)]
    assert [save.step for save in state.saves] == [100, 200]
    assert state.sessions[0].save_steps == (100, 200)
    assert state.feed[-1].text == "rolling_step_000200.pt 1.0 kB: stalled 10 ms, durable after 15 s"
    # Only the stall is a pause of the training.
    assert state.eta is not None
    assert state.eta.seconds == pytest.approx(750 * PACE, rel=0.02)


def test_a_save_that_took_longer_than_the_steps_that_are_remembered() -> None:
    log = LogText()
    log.add("run_start", total_steps=5000)
    train(log, 1, 1100, late=1000, saves=(100,))
    at_risk = folded(log).at_risk
    assert at_risk is not None
    assert (at_risk.steps, at_risk.seconds) == (1000, pytest.approx(1000 * PACE, rel=0.01))


def test_a_resume_after_a_late_save_dims_what_was_lost_and_nothing_else() -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 230, late=20, saves=(100, 200))
    log.add("run_start", 200, 2, ts=log.ts + 60, start_step=200, resumed_from={"path": "latest.pt"})
    train(log, 201, 240, session=2)
    state = folded(log)
    first, second = state.series["loss"].segments
    assert (first.abandoned_after, second.abandoned_after) == (200, None)
    assert (state.sessions[0].lost_steps, state.sessions[0].lost_s) == (30, pytest.approx(30 * PACE))
    assert state.sessions[1].retrained_steps == 30


def test_what_was_saved_on_a_branch_that_was_left_is_no_safety() -> None:
    """Session 2 begins at 100 although 200 was saved: past 200 again, that save is still of the other branch."""
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 230, saves=(100, 200))
    log.add("run_start", 100, 2, ts=log.ts + 60, start_step=100, resumed_from={"path": "rolling_step_000100.pt"})
    train(log, 101, 260, session=2)
    at_risk = folded(log).at_risk
    assert at_risk is not None
    assert (at_risk.checkpoint, at_risk.steps) == ("rolling_step_000100.pt", 160)
    # It is there all the same, and its name counts again when it is written anew.
    assert [save.removed for save in folded(log).saves] == [False, False]
    train(log, 261, 300, session=2, saves=(300,))
    at_risk = folded(log).at_risk
    assert at_risk is not None
    assert (at_risk.checkpoint_step, at_risk.steps) == (300, 0)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_roll_back_inside_a_session(is_told: bool) -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 230, saves=(100, 200))
    fields = {"rolled_back_to": 100} if is_told else {}
    log.add("nonfinite", 230, what="loss", action="rolled back to rolling_step_000100.pt", **fields)
    if is_told:  # at once, before a step of the new branch
        state = folded(log)
        assert state.at_risk is not None
        assert (state.step, state.at_risk.steps, state.at_risk.checkpoint_step) == (100, 0, 100)
        assert (state.lost.steps, state.lost.seconds) == (130, pytest.approx(130 * PACE))
    train(log, 101, 210)
    state = folded(log)
    assert len(state.sessions) == 1
    assert (state.sessions[0].gone_back, state.sessions[0].retrained_steps) == (((100, 230),), 0)
    assert state.at_risk is not None
    assert (state.step, state.at_risk.checkpoint_step, state.at_risk.steps) == (210, 100, 110)
    assert state.at_risk.seconds == pytest.approx(110 * PACE, rel=0.01)
    assert (state.lost.steps, state.lost.seconds) == (130, pytest.approx(130 * PACE, rel=0.01))
    assert [segment.abandoned_after for segment in state.series["loss"].segments] == [100, None]
    assert [(mark.kind, mark.step) for mark in state.markers][-2:] == [("nonfinite", 230), ("resume", 100)]


def test_a_roll_back_that_makes_no_sense_changes_nothing() -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 20)
    for step in (-5, 20, 10**12, None):
        log.add("nonfinite", 20, what="loss", action="", rolled_back_to=step)
    state = folded(log)
    assert (state.step, state.lost.steps) == (20, 0)


def test_what_a_session_tells_before_its_start_makes_no_session_of_its_own() -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 100)
    log.add("run_end", 100, status="preempted")
    log.add("checkpoint_restored", 0, 2, path="latest.pt")
    log.add("run_start", 100, 2, total_steps=1000, start_step=100)
    train(log, 101, 150, session=2)
    state = folded(log)
    assert [(one.number, one.start_step, one.last_step) for one in state.sessions] == [(1, 0, 100), (2, 100, 150)]
    assert state.sessions[0].phase is Phase.PREEMPTED


@pytest.mark.parametrize("num_failures", [1, 3])
def test_saves_that_go_on_to_fail_are_one_alert_that_says_since_when_there_is_none(num_failures: int) -> None:
    log = LogText()
    log.add("run_start", total_steps=9000)
    train(log, 1, 600, saves=(100, 200, 300, 400, 500, 600))
    for failure in range(num_failures):
        train(log, 601 + failure * 100, 700 + failure * 100)
        log.add("checkpoint_failed", 700 + failure * 100, path="latest.pt", stage="write", error="no space left")
    failed_at = log.ts
    (at_first,) = folded(log).alerts
    assert (at_first.kind, at_first.also, "no save for" in at_first.detail) == ("save_failed", (), False)
    train(log, 601 + num_failures * 100, 1000 + num_failures * 100)
    (alert,) = folded(log).alerts
    assert (alert.key, alert.kind, alert.severity, alert.also) == (at_first.key, "save_failed", "error", ("no_save",))
    assert f"; no save for {400 + num_failures * 100} steps, " in alert.detail
    assert "since step 600; usual were 100 steps" in alert.detail
    assert chosen([alert], {"no_save"}) == chosen([alert], {"save_failed"}) == (alert,)
    assert alert.last_ts == failed_at
    log.add("checkpoint_saved", 1000 + num_failures * 100, path="latest.pt", kind="latest", names=["latest.pt"])
    (over,) = folded(log).alerts
    assert (over.is_over, over.also) == (True, ())
    assert chosen([over], {"no_save"}) == ()


def test_a_step_to_go_back_to_costs_what_the_lanes_say_once_it_is_done() -> None:
    """A plan said 9.0 s, by the pace, of what the lanes then called 9.4 s."""
    log = LogText()
    log.add("run_start", total_steps=1000)
    train(log, 1, 100, saves=(100,))
    log.ts += 60.0  # something else was at work, between two saves
    train(log, 101, 300, saves=(200, 300))
    train(log, 301, 330)
    fold = RunFold()
    fold.apply_all([decode(line) for line in log.lines])
    before = fold.state(log.ts, Beside(is_process_alive=False))
    for step, seconds in ((300, 30 * PACE), (200, 130 * PACE), (100, 230 * PACE + 60.0)):
        kept = frozenset(f"rolling_step_{kept:06d}.pt" for kept in (100, 200, 300) if kept <= step)
        after = fold.state(log.ts, Beside(is_process_alive=False, existing_names=kept))
        assert after.at_risk is not None
        assert seconds_above(before, step) == after.at_risk.seconds == after.lost.seconds == pytest.approx(seconds)
