"""A stall is believed late: an evaluation, a long save, a machine that slept and a clock that jumped are none."""

from __future__ import annotations

import os
from pathlib import Path

from ckpt_tui.events.schema import CheckpointSaved, Eval, RunEnd, RunStart, Step
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.run.health import Rhythm
from ckpt_tui.services.session_follower import SessionFollower
from ckpt_tui.services.stall_watch import MIN_AUTO_S, StallWatch, Work, evidence, work_of

EVERY_S = 2.0
STEADY = Rhythm(1.0, 0.0)


def silent_until(
    watch: StallWatch, *, begin: float = 0.0, rhythm: Rhythm = STEADY, cores: float = 0.0, written_per_s: int = 0,
    patience_s: float = 20_000.0,
) -> float | None:  # fmt: skip
    """When it is called stalled, looked at every two seconds without a sign of life; None for never."""
    now = begin
    while now < begin + patience_s:
        now += EVERY_S
        work = Work(cores * now, int(written_per_s * now))
        if watch.look(now, has_sign=False, work=lambda work=work: work, rhythm=rhythm) is not None:
            return now
    return None


def test_a_silence_beyond_the_limit_is_a_stall_and_signs_of_life_begin_it_anew() -> None:
    watch = StallWatch(60.0, 0.0)
    for number in range(100):
        assert watch.look(number * EVERY_S, has_sign=True, work=Work, rhythm=STEADY) is None
    at = silent_until(watch, begin=198.0)
    assert at is not None
    assert 258 < at <= 258 + 2 * EVERY_S


def test_the_longest_evaluation_it_came_back_from_is_added_to_the_limit() -> None:
    at = silent_until(StallWatch(60.0, 0.0), rhythm=Rhythm(1.0, 600.0))
    assert at is not None
    assert at > 660


def test_while_it_computes_it_gets_more_time_but_not_for_ever() -> None:
    idle, busy = silent_until(StallWatch(60.0, 0.0)), silent_until(StallWatch(60.0, 0.0), cores=1.0)
    assert idle is not None
    assert busy is not None
    assert idle < 70 < 120 < busy < 130


def test_a_long_save_is_a_sign_of_life() -> None:
    assert silent_until(StallWatch(60.0, 0.0), written_per_s=50_000_000, patience_s=3600) is None


def test_by_its_own_rhythm_as_the_header_judges_but_never_hasty() -> None:
    for rhythm, least in ((Rhythm(0.01, 0.0), MIN_AUTO_S), (Rhythm(60.0, 500.0), 680.0), (Rhythm(None, 0.0), 300.0)):
        at = silent_until(StallWatch(None, 0.0), rhythm=rhythm)
        assert at is not None
        assert least < at <= least + 3 * EVERY_S
    busy = silent_until(StallWatch(None, 0.0), rhythm=Rhythm(60.0, 500.0), cores=1.0)
    assert busy is not None
    assert busy > 4 * 680


def test_time_in_which_we_did_not_run_is_not_held_against_it() -> None:
    watch = StallWatch(60.0, 0.0)
    assert watch.look(2.0, has_sign=True, work=Work, rhythm=STEADY) is None
    assert watch.look(50_000.0, has_sign=False, work=Work, rhythm=STEADY) is None
    at = silent_until(watch, begin=50_000.0)
    assert at is not None
    assert at < 50_070


def test_a_process_of_it_that_ended_is_news() -> None:
    watch = StallWatch(60.0, 0.0)

    def look(now: float, work: Work) -> float | None:
        return watch.look(now, has_sign=False, work=lambda: work, rhythm=STEADY)

    many, few = Work(5.0, 9_000_000), Work(1.0, 100)
    assert [look(20.0, many), look(40.0, many), look(59.0, few)] == [None] * 3
    assert [look(now, few) for now in (80.0, 100.0, 118.0)] == [None] * 3
    assert look(120.0, few) == 61.0


def test_what_the_processes_do_is_not_asked_for_while_there_are_signs_of_life() -> None:
    watch = StallWatch(60.0, 0.0)
    asked: list[float] = []

    def work() -> Work:
        asked.append(1.0)
        return Work()

    for number in range(100):
        watch.look(number * EVERY_S, has_sign=number % 5 == 0, work=work, rhythm=STEADY)
    assert not asked


def test_what_this_process_does_is_seen() -> None:
    before = work_of([os.getpid()])
    sum(range(2_000_000))
    with open(os.devnull, "wb") as file:
        file.write(b"x" * 2_000_000)
    after = work_of([os.getpid()])
    assert after.cpu_s >= before.cpu_s
    assert after.written_bytes - before.written_bytes >= 2_000_000
    told = "\n".join(evidence([os.getpid()]))
    assert f"process {os.getpid()}: " in told
    assert "State:" in told
    assert work_of([2**22 - 1]) == Work()


def test_the_follower_keeps_the_rhythm_of_this_session_over_jumps_of_the_clock(tmp_path: Path) -> None:
    times = iter([0.0, 1.0, 2.0, 3.0, 4.0, 50_000.0, 50_001.0, 100.0, 101.0, 102.0])
    log = EventWriter(tmp_path, clock=lambda: next(times))
    follower = SessionFollower(str(tmp_path))
    log.emit(RunStart(pid=7, start_step=10))
    for step in (11, 12, 13):
        log.emit(Step(step=step))
    log.emit(Eval(step=13, seconds=20.0))
    log.emit(Step(step=14))
    log.emit(CheckpointSaved(step=14, save_seconds=31.0))
    for step in (15, 16):
        log.emit(Step(step=step))
    assert follower.poll()
    assert not follower.poll()
    assert (follower.step, follower.session, follower.process.pid) == (16, 1, 7)
    assert follower.rhythm.interval_s == 1.0
    assert follower.rhythm.longest_pause_s == 31.0
    log.emit(RunEnd(step=16, status="preempted", reason="SIGTERM"))
    follower.poll()
    assert (follower.status, follower.reason) == ("preempted", "SIGTERM")


def test_the_follower_of_a_new_session_knows_nothing_of_the_end_of_the_last_one(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as log:
        log.emit(RunStart(pid=7))
        log.emit(RunEnd(step=5, status="finished"))
    assert SessionFollower(str(tmp_path)).status == ""
    assert SessionFollower(str(tmp_path), {99}).status == ""  # it runs, and has not told of its start yet
    assert SessionFollower(str(tmp_path), {7}).status == "finished"
    assert SessionFollower(str(tmp_path / "missing")).step is None
