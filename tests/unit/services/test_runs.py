"""A list of runs: one line each, newest activity first, looked at again only where something happened."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events import codec, schema
from ckpt_tui.run.state import AtRisk, Phase, RunState
from ckpt_tui.services import runs as module
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.services.run_places import Place
from ckpt_tui.services.runs import PHASE_ORDER, RunSummary, RunsWatch, count_phases, newly_broken, read_runs
from tests.builders.run_states import NOW, falling, resumed_series, running, series


def write_log(directory: Path, num_steps: int, *, ended: str = "", ts: float = NOW, **fields: object) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    start = schema.RunStart(seq=1, ts=ts, session=1, run_name=directory.name, total_steps=100, **fields)  # type: ignore[arg-type]
    events: list[schema.Event] = [start]
    for at in range(1, num_steps + 1):
        events.append(schema.Step(seq=at + 1, ts=ts + at, session=1, step=at, metrics={"loss": 5.0 / at}))
    if ended:
        events.append(schema.RunEnd(seq=num_steps + 2, ts=ts + num_steps, session=1, step=num_steps, status=ended))
    (directory / schema.LOG_NAME).write_bytes(b"".join(codec.encode(event) for event in events))
    return directory


class Ticks:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def settle(watch: RunsWatch) -> module.Runs:
    runs = watch.poll(5.0)
    while not watch.is_caught_up:
        runs = watch.poll(5.0)
    return watch.poll(5.0) if not runs.is_whole else runs


def test_reads_real_logs_newest_activity_first(tmp_path: Path) -> None:
    write_log(tmp_path / "old", 50, ended="finished", ts=NOW - 9000)
    write_log(tmp_path / "deep" / "new", 40, ended="interrupted", ts=NOW - 900)
    runs = read_runs(str(tmp_path))
    assert [one.name for one in runs.runs] == ["deep/new", "old"]
    assert (runs.is_whole, runs.num_found) == (True, 2)
    new, old = runs.runs
    assert (new.phase, new.step, new.total_steps, new.percent) == (Phase.INTERRUPTED, 40, 100, 40)
    assert (old.phase, old.title, old.last_loss) == (Phase.FINISHED, "old", 0.1)
    assert len(old.spark) == 24
    assert old.spark[0] > old.spark[-1]


def test_those_that_train_come_first_and_keep_their_places() -> None:
    def one(name: str, phase: Phase, start: float, last: float) -> RunSummary:
        return RunSummary(f"/r/{name}", name, phase=phase, start_ts=start, last_ts=last)

    ended, early, late = (
        one("ended", Phase.CRASHED, 1, 500), one("early", Phase.RUNNING, 100, 490), one("late", Phase.RUNNING, 200, 480)
    )  # fmt: skip
    stalled, unknown = one("stalled", Phase.STALLED, 300, 400), RunSummary("/r/odd", "odd", error="Not a log")
    order = sorted([unknown, stalled, ended, early, late], key=module.by_activity)
    assert [summary.name for summary in order] == ["late", "early", "ended", "stalled", "odd"]
    moved_on = sorted([ended, replace(early, last_ts=495), replace(late, last_ts=494)], key=module.by_activity)
    assert [summary.name for summary in moved_on] == ["late", "early", "ended"]


def test_nothing_is_read_again_while_nothing_happens(tmp_path: Path) -> None:
    for index in range(20):
        write_log(tmp_path / f"run{index}", 5, ended="finished")
    ticks = Ticks()
    watch = RunsWatch(str(tmp_path), ticks=ticks)
    first = settle(watch)
    assert (len(first.runs), watch.num_glances) == (20, 20)
    for _ in range(10):
        ticks.now += 60
        assert watch.poll() is first
    assert watch.num_glances == 20
    write_log(tmp_path / "run7", 9, ended="finished")
    ticks.now += 60
    second = watch.poll()
    assert watch.num_glances == 21
    assert {one.name: one.step for one in second.runs}["run7"] == 9


def test_a_run_that_appears_and_one_that_vanishes(tmp_path: Path) -> None:
    write_log(tmp_path / "a", 5, ended="finished")
    ticks = Ticks()
    watch = RunsWatch(str(tmp_path), ticks=ticks)
    assert [one.name for one in settle(watch).runs] == ["a"]
    write_log(tmp_path / "b", 5, ended="finished")
    ticks.now += 60
    assert sorted(one.name for one in settle(watch).runs) == ["a", "b"]
    (tmp_path / "a" / schema.LOG_NAME).unlink()
    ticks.now += 60
    assert [one.name for one in settle(watch).runs] == ["b"]


def test_an_empty_directory_waits_and_may_become_a_run_itself(tmp_path: Path) -> None:
    ticks = Ticks()
    watch = RunsWatch(str(tmp_path), ticks=ticks)
    runs = settle(watch)
    assert (runs.runs, runs.is_whole, runs.is_run) == ((), True, False)
    write_log(tmp_path, 1)
    ticks.now += 60
    assert settle(watch).is_run


def test_a_killed_process_is_seen_though_it_writes_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        now = time.time()
        write_log(tmp_path / "a", 5, ts=now - 5, pid=process.pid, host=socket.gethostname())
        ticks = Ticks()
        watch = RunsWatch(str(tmp_path), clock=lambda: now, ticks=ticks)
        before = settle(watch)
        assert before.runs[0].phase is Phase.RUNNING
        process.kill()
        process.wait()
    ticks.now += module.ALIVE_EVERY_S + 0.1
    after = watch.poll()
    assert after.runs[0].phase is Phase.CRASHED
    assert [one.name for one in newly_broken({one.path: one for one in before.runs}, after.runs)] == ["a"]
    assert newly_broken({one.path: one for one in after.runs}, after.runs) == []


@pytest.mark.parametrize("error", [CkptError("Not a log", "it is odd"), OSError(5, "I/O error"), ValueError("bug")])
def test_a_run_that_cannot_be_looked_at_keeps_its_line(tmp_path: Path, error: Exception) -> None:
    for name in ("good", "odd"):
        write_log(tmp_path / name, 1)

    def glance(path: str, now: float) -> RunState:
        if path.endswith("odd"):
            raise error
        return running(now=now)

    ticks = Ticks()
    watch = RunsWatch(str(tmp_path), glance=glance, ticks=ticks)
    by_name = {one.name: one for one in settle(watch).runs}
    assert by_name["good"].phase is Phase.RUNNING
    assert by_name["odd"].phase is None
    assert by_name["odd"].error
    # It is tried again.
    num_glances = watch.num_glances
    watch.poll()
    assert watch.num_glances == num_glances
    ticks.now += module.LOOK_AGAIN_EVERY_S
    watch.poll()
    assert watch.num_glances > num_glances


def test_500_runs_are_listed_while_they_are_read(tmp_path: Path) -> None:
    for index in range(500):
        write_log(tmp_path / f"run{index:03d}", 0)
        os.utime(tmp_path / f"run{index:03d}" / schema.LOG_NAME, (index, index))
    looked: list[str] = []

    def glance(path: str, now: float) -> RunState:
        looked.append(path[-3:])
        return running(now=now)

    watch = RunsWatch(str(tmp_path), glance=glance)
    first = watch.poll(0.0)
    while not first.runs:
        first = watch.poll(0.001)
    assert first.num_found == 500
    assert 0 < len(first.runs) < 500
    assert not first.is_whole
    assert len(settle(watch).runs) == 500
    assert looked[:3] == ["499", "498", "497"]  # the log that was written last is read first


def test_what_a_summary_says_of_a_state() -> None:
    state = running(at_risk=AtRisk(100, 8.9, "x.pt"), series={"val_loss": series("val_loss", falling(1, 50))})
    summary = module.summarize(Place("/r/a", "/r/a/events.jsonl", "a"), state)
    assert (summary.at_risk_steps, summary.at_risk_s, summary.percent, summary.eta_s) == (100, 8.9, 40, 234)
    assert len(summary.spark) == 24
    assert module.summarize(Place("/r/a", "", "a"), RunState(NOW)).percent is None


def test_the_sparkline_leaves_out_what_was_trained_again_and_what_is_no_number() -> None:
    resumed = resumed_series("loss", [(1, 9.0), (2, 8.0), (3, 777.0)], 2, [(3, 7.0), (4, float("nan")), (5, 6.0)])
    assert module.spark_of(RunState(NOW, series={"loss": resumed})) == (9.0, 8.0, 7.0, 6.0)
    flat = series("loss", [(step, float(step)) for step in range(1, 49)])
    assert module.spark_of(RunState(NOW, series={"loss": flat}), 4) == (6.5, 18.5, 30.5, 42.5)


def test_phases_are_counted_in_an_order_that_holds_all_of_them() -> None:
    assert set(PHASE_ORDER) == set(Phase)
    runs = [RunSummary(str(i), str(i), phase=phase) for i, phase in enumerate([Phase.FINISHED, Phase.CRASHED] * 2)]
    assert list(count_phases([*runs, RunSummary("x", "x")]).items()) == [(Phase.CRASHED, 2), (Phase.FINISHED, 2)]


def test_a_long_log_is_looked_at_in_part_with_its_loss_from_all_of_it(tmp_path: Path) -> None:
    write_log(tmp_path / "a", 3000, ended="finished")
    assert (tmp_path / "a" / schema.LOG_NAME).stat().st_size > 3 * module.LONG_LOG_BYTES
    (summary,) = read_runs(str(tmp_path)).runs
    assert (summary.phase, summary.step, summary.title) == (Phase.FINISHED, 3000, "a")
    assert len(summary.spark) == 24
    assert summary.spark[0] > 1.0
    assert summary.spark[-1] < 0.01
    assert list(summary.spark) == sorted(summary.spark, reverse=True)


def test_losses_are_sampled_from_whatever_is_in_the_file(tmp_path: Path) -> None:
    log = tmp_path / schema.LOG_NAME
    log.write_bytes(b"\x00" * 9000 + b"\xff\xfe\n" * 4000 + b'{"loss": "x"}\n{"event":"step","loss":NaN}\n' * 300)
    assert module.sampled_losses(str(log)) == ()
    assert module.sampled_losses(str(tmp_path / "none")) == ()


def test_a_slow_first_search_does_not_put_off_the_next_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Ticks()
    watch = RunsWatch(str(tmp_path), ticks=ticks)
    real = time.monotonic
    monkeypatch.setattr(module.time, "monotonic", lambda: real() * 1000)  # as if every search took seconds
    for _ in range(3):
        watch.poll(1e9)
    write_log(tmp_path / "a", 1)
    ticks.now += module.FIND_EVERY_S
    assert [one.name for one in watch.poll(1e9).runs] == ["a"]
    write_log(tmp_path / "b", 1)
    ticks.now += module.LONGEST_PAUSE_S
    assert len(watch.poll(1e9).runs) == 2


def test_a_silent_run_is_called_what_a_watch_of_it_alone_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is longer than what the list reads of one, and no pause in it is as long as its silence."""
    monkeypatch.setattr("ckpt_tui.services.surroundings.process_is_alive", lambda *_: True)
    directory = write_log(tmp_path / "silent", 1000, pid=4242, pid_started=1.0, host=socket.gethostname())
    assert (directory / schema.LOG_NAME).stat().st_size > module.LONG_LOG_BYTES
    for silence_s, phase in ((8, Phase.RUNNING), (30, Phase.STALLED)):
        now = NOW + 1000 + silence_s
        monitor = RunMonitor(str(directory), clock=lambda now=now: now)  # type: ignore[misc]
        while not monitor.is_caught_up:
            monitor.poll(1.0)
        alone, in_list = monitor.state(), module.look(str(directory), now)
        assert not in_list.is_whole
        assert (in_list.phase, in_list.reason) == (alone.phase, alone.reason) == (phase, alone.reason)


def test_a_long_silent_log_is_read_on_until_it_is_known_whether_that_is_usual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a log too long to be read at one look; a pause of 100 s near its beginning makes such a silence usual."""
    monkeypatch.setattr("ckpt_tui.services.surroundings.process_is_alive", lambda *_: True)
    monkeypatch.setattr(module, "process_is_alive", lambda *_: True)
    monkeypatch.setattr(module, "READ_WHOLE_BYTES", module.LONG_LOG_BYTES)
    who: dict[str, object] = {"pid": 4242, "pid_started": 1.0, "host": socket.gethostname()}
    write_log(tmp_path / "even", 1000, **who)
    paused = write_log(tmp_path / "paused", 1000, **who) / schema.LOG_NAME
    lines = paused.read_bytes().splitlines(keepends=True)
    paused.write_bytes(b"".join([*(_earlier(line, 100.0) for line in lines[:20]), *lines[20:]]))
    clock, ticks = Ticks(), Ticks()
    for silence_s, even, usual in ((8, Phase.RUNNING, Phase.RUNNING), (60, Phase.STALLED, Phase.RUNNING)):
        clock.now, ticks.now = NOW + 1000 + silence_s, ticks.now + 1000
        watch = RunsWatch(str(tmp_path), clock=clock, ticks=ticks)
        runs = {one.name: one for one in settle(watch).runs}
        assert (runs["even"].phase, runs["paused"].phase) == (even, usual)
        for name, one in runs.items():
            alone = RunMonitor(str(tmp_path / name), clock=clock)
            while not alone.is_caught_up:
                alone.poll(1.0)
            assert (one.phase, one.reason) == (alone.state().phase, alone.state().reason)
    num = watch.num_glances
    with (tmp_path / "even" / schema.LOG_NAME).open("ab") as log:  # it goes on
        log.write(codec.encode(schema.Step(seq=1002, ts=clock.now, session=1, step=1001, metrics={"loss": 1.0})))
    ticks.now += 100.0
    assert {one.name: one.phase for one in settle(watch).runs} == {"even": Phase.RUNNING, "paused": Phase.RUNNING}
    assert watch.num_glances > num


def _earlier(line: bytes, seconds: float) -> bytes:
    event = codec.decode(line)
    assert isinstance(event, schema.Event)
    return codec.encode(msgspec.structs.replace(event, ts=event.ts - seconds))
