"""The fold: the worked example to the digit, batches of any partition, sessions, alerts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.events.codec import decode, decode_lines
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.run import timeline
from ckpt_tui.run.advice import advise
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import MAX_METRICS, RunFold
from ckpt_tui.run.folded import MAX_SAVES, MAX_SESSIONS
from ckpt_tui.run.series import MAX_SEGMENTS
from ckpt_tui.run.state import Phase
from ckpt_tui.run.wording import end_sentences, header_lines
from tests.builders.event_logs import LogText, worked_example


def fold_of(log: LogText) -> RunFold:
    fold = RunFold()
    fold.apply_all([decode(line) for line in log.lines])
    return fold


def test_worked_example_comes_out_to_the_digit() -> None:
    state = fold_of(worked_example()).state(20000.0)
    assert state.phase is Phase.FINISHED
    assert state.lost.steps == 400
    assert f"{state.lost.seconds / 60:.1f}" == "21.5"
    assert f"{state.lost.overhead:.0%}" == "31%"
    trained = [899, 769]
    assert f"{sum(trained) * 3.22 / 60:.1f}" == "89.5"
    assert f"{1269 * 3.22 / 60:.1f}" == "68.1"
    assert state.lost.overhead == pytest.approx(sum(trained) / 1269 - 1, abs=1e-6)
    rows = advise(state).what_if
    assert [f"{row.seconds / 60:.0f}" for row in rows[:3]] == ["27", "11", "68"]
    # What saves and failures cost together is least at the recommended interval.
    assert rows[3].steps == advise(state).recommended_steps
    assert rows[3].overhead == min(row.overhead for row in rows if row.overhead is not None)
    assert [s.phase for s in state.sessions] == [Phase.CRASHED, Phase.FINISHED]
    assert [s.retrained_steps for s in state.sessions] == [0, 400]
    assert [s.abandoned_after for s in state.series["loss"].segments] == [500, None]


def test_no_time_is_said_to_be_lost_where_the_pace_is_not_known() -> None:
    log = LogText()
    log.add("run_start", total_steps=100)
    log.add("nonfinite", 4, what="loss", action="skipped")
    log.add("run_end", 4, status="diverged", reason="no finite loss")
    words = [sentence for sentence, _ in end_sentences(fold_of(log).state(log.ts))]
    assert words[1] == "Lost 4 steps: there is no checkpoint."


def test_the_best_that_was_put_back_is_the_best_again() -> None:
    log = LogText()
    log.add("run_start", total_steps=500)
    for step, value in ((100, 3.0), (200, 0.5)):
        log.add("best", step, metric="val_loss", mode="min", value=value)
    assert fold_of(log).state(log.ts).best_value == 0.5
    log.add("checkpoint_restored", 100, path="latest.pt", source="rolling_step_000100.pt", by="viewer")
    assert fold_of(log).state(log.ts).best_value == 0.5
    log.add("checkpoint_restored", 100, path="best_model.pt", source="best_model_previous.pt", by="viewer")
    state = fold_of(log).state(log.ts)
    assert (state.best_value, state.best_step) == (3.0, 100)
    log.add("checkpoint_restored", 200, path="best_model.pt", source="set_aside/1/best_model.pt", by="viewer")
    assert fold_of(log).state(log.ts).best_value == 0.5


def test_crash_banner() -> None:
    state = fold_of(worked_example(first_part_only=True)).state(1000 + 899 * 3.22 + 60, Beside(is_process_alive=False))
    assert state.phase is Phase.CRASHED
    words = [sentence for sentence, _ in end_sentences(state)]
    assert words[0].startswith("Killed: the process is gone without a word (last line: step 900, ")
    assert words[1:] == [
        "Lost 400 steps, 21m 28s of training since rolling 500.",
        "A resume skips 0-499, redoes 500-899, then trains 370 new: about 41m 20s.",
    ]
    assert state.lost.steps == 400
    assert state.lost.overhead is None


@pytest.mark.parametrize(
    ("silence_s", "alive", "phase"),
    [
        (1.0, True, Phase.RUNNING), (12.0, True, Phase.RUNNING), (14.0, True, Phase.STALLED),
        (1.0, False, Phase.CRASHED), (500.0, None, Phase.STALLED), (601.0, None, Phase.CRASHED),
    ],
)  # fmt: skip
def test_phase_by_silence_and_process(silence_s: float, alive: bool | None, phase: Phase) -> None:
    fold = fold_of(worked_example(first_part_only=True))
    assert fold.state(1000 + 899 * 3.22 + silence_s, Beside(is_process_alive=alive)).phase is phase


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 1674), max_size=12))
def test_any_partition_into_batches_gives_the_same_state(cuts: list[int]) -> None:
    events = [decode(line) for line in worked_example().lines]
    fold, start = RunFold(), 0
    for cut in [*sorted(cuts), len(events)]:
        fold.apply_all(events[start:cut])
        fold.state(0.0)
        start = cut
    whole = RunFold()
    whole.apply_all(events)
    a, b = dataclasses.asdict(fold.state(2e4)), dataclasses.asdict(whole.state(2e4))
    assert a.keys() == b.keys()
    for key in a:
        assert repr(a[key]) == repr(b[key]) or a[key] == pytest.approx(b[key]), key


def test_a_clock_that_jumps_back_gives_no_negative_time() -> None:
    log = LogText()
    log.add("run_start", total_steps=100)
    for step, ts in enumerate([1000, 1001, 1002, 400, 401, 402], start=1):
        log.add("step", step, ts=ts, loss=1.0)
    state = fold_of(log).state(300.0, Beside(is_process_alive=True))
    assert state.phase is Phase.RUNNING
    assert state.at_risk is not None
    assert state.at_risk.seconds >= 0
    assert state.eta is not None
    assert 0 <= state.eta.low_s <= state.eta.seconds <= state.eta.high_s


def test_at_risk_names_the_newest_checkpoint_that_is_there_and_not_known_bad() -> None:
    log = LogText()
    log.add("run_start")
    for step in (10, 20, 30):
        log.add("step", step, ts=1000.0 + step, loss=1.0)
        log.add("checkpoint_saved", step, path=f"r{step}.pt", kind="rolling", names=[f"r{step}.pt", "latest.pt"])
    fold = fold_of(log)
    assert fold.state(1030.0).at_risk.checkpoint == "r30.pt"  # type: ignore[union-attr]
    bad = fold.state(1030.0, Beside(invalid_checkpoints={"r30.pt", "latest.pt"})).at_risk
    assert (bad.checkpoint, bad.steps) == ("r20.pt", 10)  # type: ignore[union-attr]
    there = fold.state(1030.0, Beside(existing_names={"r10.pt"}))
    assert there.at_risk.checkpoint == "r10.pt"  # type: ignore[union-attr]
    assert [save.removed for save in there.saves] == [False, True, True]


def test_missing_lines_are_counted_and_a_loss_of_nan_is_an_alert() -> None:
    log = LogText()
    log.add("run_start")
    log.seq = 5
    log.add("step", 1, loss="NaN")
    state = fold_of(log).state(1001.0, Beside(is_process_alive=True))
    assert state.missing_lines == 4
    assert [(alert.kind, alert.step) for alert in state.alerts] == [("nonfinite", 1)]
    assert any("loss nan" in words for line in header_lines(state) for words, _ in line)


def test_two_lines_of_one_step_are_no_step_back_and_a_step_back_is_a_loss() -> None:
    log = LogText()
    log.add("run_start")
    for number, step in enumerate([1, 2, 2, 3, 4, 3, 4, 5]):
        log.add("step", step, ts=1000.0 + number, loss=float(number))
    state = fold_of(log).state(1008.0, Beside(is_process_alive=True))
    assert state.lost.steps == 2
    assert [segment.abandoned_after for segment in state.series["loss"].segments] == [2, None]


def test_what_the_viewer_did_afterwards_is_no_sign_of_life() -> None:
    log = worked_example(first_part_only=True)
    before = fold_of(log).state(90000.0, Beside(is_process_alive=False))
    log.add("checkpoint_restored", 500, 7, ts=80000.0, path="latest.pt", source="latest_backup.pt", by="viewer")
    after = fold_of(log).state(90000.0, Beside(is_process_alive=False))
    assert (after.last_ts, len(after.sessions), after.phase) == (before.last_ts, 1, Phase.CRASHED)
    assert after.sessions[0].last_ts == before.sessions[0].last_ts
    assert after.feed[-1].name == "checkpoint_restored"


def test_every_event_moves_the_run_on_and_an_emergency_save_is_the_newest() -> None:
    """Step events come every 10 steps: the save and the end at 10,702 tell of steps that none of them tells of."""
    log = LogText()
    log.add("run_start", total_steps=12_700)
    for step in range(10_600, 10_701, 10):
        log.add("step", step, ts=1000.0 + (step - 10_600) / 10, loss=1.0)
    log.add("checkpoint_saved", 10_700, ts=1010.1, path="rolling_step_010700.pt", kind="rolling")
    log.add("checkpoint_saved", 10_702, ts=1010.3, path="emergency_step_010702.pt", kind="emergency",
            names=["emergency_step_010702.pt", "latest.pt"])  # fmt: skip
    log.add("run_end", 10_702, ts=1010.4, status="preempted", reason="SIGTERM")
    state = fold_of(log).state(1011.0)
    assert (state.step, state.sessions[-1].last_step) == (10_702, 10_702)
    assert (state.at_risk.checkpoint, state.at_risk.steps) == ("emergency_step_010702.pt", 0)  # type: ignore[union-attr]
    assert "Nothing was lost: emergency 10,702 holds the last step." in [words for words, _ in end_sentences(state)]
    assert state.steps_per_s == pytest.approx(10.0)
    kept = fold_of(log).state(1011.0, Beside(invalid_checkpoints={"emergency_step_010702.pt", "latest.pt"}))
    assert kept.at_risk.steps == 2  # type: ignore[union-attr]


def test_lost_seconds_are_those_of_the_lost_steps() -> None:
    """Steps 1-50 take 1 s, 51-80 take 10 s; the save of 50 is durable, and told of, two steps later."""
    log, ts = LogText(), 1000.0
    log.add("run_start", total_steps=100)
    for step in range(1, 81):
        ts += 1 if step <= 50 else 10
        log.add("step", step, ts=ts, loss=1.0)
        if step == 52:
            log.add("checkpoint_saved", 50, path="r50.pt", kind="rolling")
    crashed = fold_of(log).state(ts, Beside(is_process_alive=False))
    assert (crashed.at_risk.steps, crashed.at_risk.seconds) == (30, pytest.approx(300.0))  # type: ignore[union-attr]
    assert (crashed.lost.steps, crashed.lost.seconds) == (30, pytest.approx(300.0))
    log.add("run_start", 50, 2, ts=5000.0, start_step=50)
    log.add("step", 51, 2, ts=5001.0, loss=1.0)
    resumed = fold_of(log).state(5001.0, Beside(is_process_alive=True))
    assert (resumed.sessions[0].lost_steps, resumed.sessions[0].lost_s) == (30, pytest.approx(300.0))
    assert resumed.lost.seconds == pytest.approx(300.0)
    without = fold_of(log).state(5001.0, Beside(is_process_alive=False, existing_names=()))
    assert without.at_risk.seconds > 50  # type: ignore[union-attr]


def test_going_back_twice_in_one_session_counts_each_second_once() -> None:
    log, ts = LogText(), 1000.0
    log.add("run_start", total_steps=100)
    for step in [*range(1, 21), *range(11, 21), *range(11, 31)]:
        ts += 2.0
        log.add("step", step, ts=ts, loss=1.0)
        if step == 10:
            log.add("checkpoint_saved", 10, path="r10.pt", kind="rolling")
    state = fold_of(log).state(ts, Beside(is_process_alive=True))
    assert (state.lost.steps, state.lost.seconds) == (20, pytest.approx(40.0))
    assert (state.at_risk.steps, state.at_risk.seconds) == (20, pytest.approx(40.0))  # type: ignore[union-attr]


def test_a_step_that_no_machine_integer_holds_is_a_bad_line_and_other_integers_are_cut() -> None:
    log = LogText()
    log.add("run_start", total_steps=10**400)
    log.add("step", 1, ts=1001.0, loss=1.0)
    log.add("step", 10**400, ts=1002.0, loss=1.0)
    log.add("eval", 10**401, ts=1003.0, val_loss=1.0)
    log.add("checkpoint_saved", 1, ts=1003.0, path="a.pt", bytes=10**400)
    state = fold_of(log).state(1004.0, Beside(is_process_alive=False))
    header_lines(state)
    assert (state.bad_lines.count, state.step, state.total_steps) == (2, 1, 2**63 - 1)


def test_machine_load_becomes_series_beside_the_metrics() -> None:
    log = LogText()
    log.add("run_start")
    log.add("step", 10, loss=1.0)
    log.add("system", 10, ts=1001.0, cpu_percent=180.5, rss_bytes=400_000_000)
    log.add("system", 20, ts=1002.0, cpu_percent=None, rss_bytes=500_000_000)
    series = fold_of(log).state(1002.0, Beside(is_process_alive=True)).series
    assert list(series) == ["loss", "cpu_percent", "rss_bytes"]
    assert (series["cpu_percent"].num_points, series["cpu_percent"].last) == (1, 180.5)
    log.add("system", 30, ts=1003.0, gpus=[{"utilization_percent": 93, "memory_used_bytes": 7}, {"index": 1}])
    series = fold_of(log).state(1003.0, Beside(is_process_alive=True)).series
    assert (series["gpu0_percent"].last, series["gpu0_memory_bytes"].last) == (93.0, 7.0)
    assert "gpu1_percent" not in series
    (segment,) = series["rss_bytes"].segments
    assert (list(segment.steps), list(segment.last)) == ([10, 20], [4e8, 5e8])


def test_what_did_not_change_is_not_made_again() -> None:
    log = long_saving(num_saves=30)
    fold = fold_of(log)
    names, bad = frozenset({"r29.pt", "r30.pt"}), frozenset({"r30.pt"})
    first = fold.state(1.0, Beside(existing_names=names, invalid_checkpoints=bad))
    fold.apply(decode(log.add("step", 31, ts=log.ts + 1, loss=1.0)))
    second = fold.state(2.0, Beside(existing_names=names, invalid_checkpoints=bad))
    assert second.saves is first.saves
    assert (first.at_risk.checkpoint, second.at_risk.checkpoint) == ("r29.pt", "r29.pt")  # type: ignore[union-attr]
    assert fold.state(3.0, Beside(existing_names=names)).at_risk.checkpoint == "r30.pt"  # type: ignore[union-attr]
    assert sum(not save.removed for save in fold.state(3.0, Beside(existing_names=frozenset({"r1.pt"}))).saves) == 1
    fold.apply(decode(log.add("checkpoint_removed", 31, path="r30.pt")))
    assert fold.state(4.0, Beside(existing_names=names)).at_risk.checkpoint == "r29.pt"  # type: ignore[union-attr]
    fold.apply(decode(log.add("run_start", 10, 2, start_step=10)))
    assert fold.state(5.0).at_risk.checkpoint == "r10.pt"  # type: ignore[union-attr]
    fold.apply(decode(log.add("checkpoint_restored", 10, 2, path="latest.pt", source="r10.pt")))
    restored = fold.state(6.0, Beside(existing_names={"latest.pt"}))
    assert restored.at_risk.checkpoint == "latest.pt"  # type: ignore[union-attr]


def long_saving(num_saves: int) -> LogText:
    log = LogText()
    log.add("run_start", total_steps=num_saves)
    for step in range(1, num_saves + 1):
        log.add("step", step, ts=log.ts + 1, loss=1.0)
        log.add("checkpoint_saved", step, path=f"r{step}.pt", kind="rolling", names=[f"r{step}.pt", "latest.pt"])
    return log


def test_a_hundred_saves_more_than_are_kept_leave_no_names_behind() -> None:
    fold = fold_of(long_saving(num_saves=MAX_SAVES + 100))
    state = fold.state(1e9, Beside(is_process_alive=True))
    assert (len(state.saves), state.saves[0].step) == (MAX_SAVES, 101)
    assert state.at_risk.checkpoint == f"r{MAX_SAVES + 100}.pt"  # type: ignore[union-attr]
    assert len(state.sessions[0].save_steps) == MAX_SAVES
    assert fold.state(1e9, Beside(existing_names={"r100.pt", "r101.pt"})).at_risk.checkpoint == "r101.pt"  # type: ignore[union-attr]


def test_two_processes_that_write_one_log_are_two_sessions_and_said(tmp_path: Path) -> None:
    """The log was removed, or a second training started beside the first: their lines alternate from then on."""
    first = EventWriter(tmp_path, clock=iter(range(1000, 9000)).__next__)
    first.start(total_steps=100)
    for step in range(1, 11):
        first.step(step, loss=1.0)
    second = EventWriter(tmp_path, clock=iter(range(1100, 9000)).__next__)
    second.start(total_steps=100, start_step=10)
    for step in range(11, 31):
        first.step(step, loss=9.0)
        second.step(step, loss=1.0)
    fold = RunFold()
    fold.apply_all(decode_lines((tmp_path / "events.jsonl").read_bytes().rstrip(b"\n")))
    state = fold.state(1200.0)
    assert [session.number for session in state.sessions] == [1, 2]
    assert (state.step, state.last_loss, state.num_events) == (30, 1.0, 52)
    assert state.lost.steps == 0
    assert state.notices == ("session 1 went on after session 2 began: two trainings write this log",)


def test_a_line_with_an_absurd_session_number_changes_no_session(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", total_steps=100)
    for step in range(1, 5):
        log.add("step", step, ts=log.ts + 1, loss=1.0)
        log.add("eval", step, session=10**9, val_loss=1.0)
        log.add("step", step, session=10**12, ts=log.ts + 1, loss=1.0)
    log.add("run_start", 4, 2, start_step=4)
    state = fold_of(log).state(log.ts)
    assert [session.number for session in state.sessions] == [1, 2]
    (tmp_path / "events.jsonl").write_bytes(log.text + log.add("eval", 5, session=10**9))
    assert EventWriter(tmp_path).session == 3


def test_thousands_of_sessions_and_metrics_stay_bounded_and_their_pace_is_that_of_all() -> None:
    log, step = LogText(), 0
    for session in range(1, MAX_SESSIONS + 101):
        log.add("run_start", step, session, start_step=step, total_steps=10**6)
        for _ in range(3):
            step += 1
            log.add("step", step, session, ts=log.ts + session % 7, loss=1.0, **{f"only_in_{session}": 1.0})
        step -= session % 2
        if session == 50:
            paced = fold_of(log)
            assert paced._folded.pace() == pytest.approx(timeline.pace_of(paced._folded.sessions))
    state = fold_of(log).state(1e12)
    assert (len(state.sessions), state.session, state.step) == (MAX_SESSIONS, MAX_SESSIONS + 100, step)
    assert (len(state.series), len(state.series["loss"].segments)) == (MAX_METRICS, MAX_SEGMENTS)
    assert state.at_risk is not None
    assert state.lost.steps == (MAX_SESSIONS + 100) // 2 + state.at_risk.steps
