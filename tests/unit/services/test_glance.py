"""The newest facts from a bounded read are those of the whole log, or they are left out."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.run.beside import Beside
from ckpt_tui.run.state import Lost, Phase, RunState
from ckpt_tui.services import glance as glance_module
from ckpt_tui.services import monitor as monitor_module
from ckpt_tui.services.glance import Newest, glance
from ckpt_tui.services.monitor import RunMonitor, read_run
from ckpt_tui.sources import bounded
from tests.builders.event_logs import LogText

SAME = (
    "name", "phase", "session", "step", "total_steps", "steps_per_epoch", "epoch", "start_ts", "last_ts", "pid", "host",
    "config", "last_loss", "directory",
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a tail of 4 KB were far shorter than the log."""
    monkeypatch.setattr(bounded, "TAIL_BYTES", 4096)
    monkeypatch.setattr(bounded, "_CHUNK_BYTES", 16 * 1024)
    monkeypatch.setattr(bounded, "_PROBE_BYTES", 2048)
    monkeypatch.setattr(bounded, "HEAD_BYTES", 8192)
    monkeypatch.setattr(bounded.tail_start, "__defaults__", (4096,))
    monkeypatch.setattr(glance_module, "LONG_LOG_BYTES", 20_000)
    monkeypatch.setattr(monitor_module, "LONG_LOG_BYTES", 20_000)
    monkeypatch.setattr(monitor_module, "READ_BYTES", 20_000)


def long_run(seed: int, num_sessions: int = 5) -> LogText:
    """Sessions of 100 to 400 steps; each goes on from one of the last saves, some end with a word."""
    draw, log, step, saves = random.Random(seed), LogText(), 0, [0]
    for session in range(1, num_sessions + 1):
        log.ts += 60.0
        log.add("run_start", step, session, run_name="gpt", total_steps=5000 + session, steps_per_epoch=700,
                start_step=step, config={"lr": session}, pid=session, host="elsewhere",
                resumed_from={"path": "latest.pt"} if session > 1 else None)  # fmt: skip
        for _ in range(draw.randint(100, 400)):
            step += 1
            log.ts += 1.0
            log.add("step", step, session, loss=5.0 - step / 1000, epoch=step / 700, lr=1e-3)
            if step % 97 == 0:
                log.ts += 2.0
                log.add("eval", step, session, val_loss=6.0 - step / 1000, seconds=2.0)
            if step % 60 == 0:
                log.add("checkpoint_saved", step, session, path=f"rolling_{step}.pt", kind="rolling", bytes=10,
                        stall_seconds=0.1, names=[f"rolling_{step}.pt", "latest.pt"])  # fmt: skip
                saves.append(step)
        if draw.random() < 0.5:
            log.add("run_end", step, session, status="interrupted", reason="SIGINT")
        if draw.random() < 0.8:
            step = draw.choice(saves[-3:])
            saves = [save for save in saves if save <= step]
    return log


def write(directory: Path, lines: list[bytes]) -> None:
    (directory / "events.jsonl").write_bytes(b"".join(lines))
    for line in lines:
        if b'"checkpoint_saved"' in line:
            name = line.split(b'"path": "')[1].split(b'"')[0].decode()
            (directory / name).touch()


def assert_agrees(known: RunState, whole: RunState) -> None:
    for name in SAME:
        assert getattr(known, name) == getattr(whole, name), name
    if known.at_risk is not None:
        assert whole.at_risk is not None
        assert (known.at_risk.steps, known.at_risk.checkpoint) == (whole.at_risk.steps, whole.at_risk.checkpoint)
        assert known.at_risk.seconds == pytest.approx(whole.at_risk.seconds, rel=0.1, abs=5.0)
    assert known.best_value in (None, whole.best_value)
    assert (known.lost, known.bad_lines.count, known.missing_lines) == (Lost(), 0, 0)
    assert [s.number for s in known.sessions] == [whole.session]
    assert known.sessions[0].start_step == whole.sessions[-1].start_step


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_from_the_end_is_what_the_whole_log_tells(seed: int, tmp_path: Path) -> None:
    log = long_run(seed)
    draw = random.Random(seed)
    num_at_risk = 0
    for end in sorted(draw.sample(range(300, len(log.lines)), 25)):
        write(tmp_path, log.lines[:end])
        whole = read_run(str(tmp_path))
        known = glance(str(tmp_path), whole.now)
        assert not known.is_whole
        assert whole.is_whole
        assert_agrees(known, whole)
        num_at_risk += known.at_risk is not None
    assert num_at_risk == 25


def test_a_look_at_the_end_reads_no_more_however_long_the_log_is(tmp_path: Path) -> None:
    """Bytes are counted where they are read: by the process's own counter of what `read` and `pread` gave it."""

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])

    log = LogText()
    log.add("run_start", total_steps=10**6)
    taken = []
    for num_steps in (2_000, 40_000):
        while log.seq < num_steps:
            log.add("step", log.seq, ts=log.ts + 1, loss=1.0)
        write(tmp_path, log.lines)
        before = bytes_read()
        Newest(str(tmp_path / "events.jsonl"))
        taken.append(bytes_read() - before)
    size = (tmp_path / "events.jsonl").stat().st_size
    assert taken[1] < size + 100_000  # no save is in it: all of it, below the 8 MB that are looked through, once
    log.add("checkpoint_saved", log.seq, path="a.pt")
    for _ in range(100):
        log.add("step", log.seq, ts=log.ts + 1, loss=1.0)
    write(tmp_path, log.lines)
    before = bytes_read()
    Newest(str(tmp_path / "events.jsonl"))
    assert bytes_read() - before < 120_000 < size / 10


def test_a_save_of_a_branch_that_was_left_is_not_what_a_resume_takes(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", total_steps=9999)
    for step in range(1, 301):
        log.add("step", step, ts=log.ts + 1, loss=1.0)
        if step in (100, 290):
            log.add("checkpoint_saved", step, path=f"r{step}.pt", kind="rolling")
    log.add("nonfinite", 300, what="loss", action="rolled back to r100.pt", rolled_back_to=100)
    for step in range(101, 296):
        log.add("step", step, ts=log.ts + 1, loss=1.0)
    write(tmp_path, log.lines)
    whole = read_run(str(tmp_path))
    assert whole.at_risk is not None
    assert whole.at_risk.checkpoint == "r100.pt"
    known = glance(str(tmp_path), whole.now)
    assert known.at_risk is None
    assert (known.step, known.phase) == (whole.step, whole.phase)


def test_a_silence_that_an_evaluation_may_take_is_no_stall_before_all_is_read(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", total_steps=9999)
    for step in range(1, 401):
        log.add("step", step, ts=log.ts + (1 if step != 50 else 250), loss=1.0)
    write(tmp_path, log.lines)
    newest = Newest(str(tmp_path / "events.jsonl"))
    assert newest.state(log.ts + 200, Beside(is_process_alive=True)).phase is Phase.RUNNING
    assert newest.state(log.ts + 400, Beside(is_process_alive=True)).phase is Phase.STALLED
    assert newest.state(log.ts + 200, Beside(is_process_alive=False)).phase is Phase.CRASHED


def test_a_process_found_far_before_is_not_believed_dead_while_lines_come(tmp_path: Path) -> None:
    """A writer that calls every session 1: bisection finds the first, whose process is long gone."""
    log = LogText()
    for pid in (11, 12):
        log.add("run_start", run_name="x", pid=pid, total_steps=9999)
        for step in range(1, 301):
            log.add("step", step, ts=log.ts + 1, loss=1.0)
        log.add("checkpoint_saved", step, path="a.pt")
    write(tmp_path, log.lines)
    newest = Newest(str(tmp_path / "events.jsonl"))
    assert newest.state(log.ts + 1, Beside(is_process_alive=False)).phase is Phase.RUNNING


def test_lines_longer_than_a_tail_and_an_end_without_events(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", total_steps=99)
    for step in range(1, 201):
        log.add("step", step, ts=log.ts + 1, loss=1.0)
    log.add("error", 200, type="X", message="y", traceback="z" * 10_000)
    write(tmp_path, log.lines)
    assert glance(str(tmp_path), log.ts).step == 200
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b"x" * (5 << 20))
    known = glance(str(tmp_path), log.ts)
    assert (known.phase, known.is_whole, known.step) == (Phase.WAITING, False, 0)


def test_the_watch_tells_the_newest_first_and_then_all_of_it(tmp_path: Path) -> None:
    log = long_run(9)
    end = len(log.lines) - 40
    write(tmp_path, log.lines[:end])
    monitor = RunMonitor(str(tmp_path), newest_first=True)
    first = monitor.poll(0.0)
    assert (monitor.is_caught_up, monitor.progress, first.is_whole) == (False, 0.0, False)
    assert_agrees(first, read_run(str(tmp_path)))
    assert first.series["loss"].num_points < 60
    second = monitor.poll(0.0)
    assert 0 < monitor.progress < 1
    assert second.series["loss"].num_points > first.series["loss"].num_points
    with open(tmp_path / "events.jsonl", "ab") as file:  # what comes meanwhile is told at once
        file.write(b"".join(log.lines[end:]))
    seen = [monitor.poll(0.0)]
    assert seen[0].step == read_run(str(tmp_path)).step
    while not monitor.is_caught_up:
        assert_agrees(seen[-1], read_run(str(tmp_path)))
        seen.append(monitor.poll(0.0))
    whole = read_run(str(tmp_path))
    assert seen[-1].is_whole
    assert len(seen) > 3
    for name in (
        *SAME,
        "lost",
        "saves",
        "markers",
        "best_value",
        "series",
        "bad_lines",
        "feed",
        "alerts",
        "num_events",
    ):
        assert getattr(seen[-1], name) == getattr(whole, name), name
    points = [state.series["loss"].num_points for state in seen]
    assert points == sorted(points)


def test_a_log_that_is_replaced_while_it_is_read_is_told_anew(tmp_path: Path) -> None:
    write(tmp_path, long_run(1).lines)
    monitor = RunMonitor(str(tmp_path), newest_first=True)
    monitor.poll(0.0)
    monitor.poll(0.0)
    other = LogText(5000.0)
    other.add("run_start", run_name="other", total_steps=7)
    (tmp_path / "events.jsonl").unlink()
    write(tmp_path, other.lines)
    state = monitor.poll(0.0)
    while not monitor.is_caught_up:
        state = monitor.poll(0.0)
    assert (state.name, state.step, state.total_steps, state.num_events) == ("other", 0, 7, 1)
    assert any("replaced" in notice or "truncated" in notice for notice in state.notices)


def test_steps_that_went_back_without_a_word_leave_the_saves_above_them(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", total_steps=9999)
    for step in (*range(1, 301), *range(290, 300)):
        log.add("step", step, ts=log.ts + 1, loss=1.0)
        if step == 100 or log.seq == 297:
            log.add("checkpoint_saved", step, path=f"r{step}.pt", kind="rolling")
    write(tmp_path, log.lines)
    whole = read_run(str(tmp_path))
    known = glance(str(tmp_path), whole.now)
    assert len(whole.saves) == 2
    for state in (whole, known):
        assert state.at_risk is not None
        assert (state.at_risk.checkpoint, state.at_risk.steps) == ("r100.pt", 199)


def test_a_line_longer_than_a_chunk_before_the_end_is_not_looked_at_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor printed into the log, and no save after it: the watch hung before its first picture."""
    log, num_reads = LogText(), 0
    log.add("run_start", run_name="gpt", total_steps=5000)
    log.add("checkpoint_saved", 0, path="rolling_0.pt", kind="rolling")
    log.add("note", text="x" * 40_000)
    for step in range(1, 200):
        log.add("step", step, ts=log.ts + 1.0, loss=1.0)
    (tmp_path / "events.jsonl").write_bytes(log.text)
    read = os.preadv

    def counted(*args: Any) -> int:
        nonlocal num_reads
        num_reads += 1
        assert num_reads < 100, "it reads the same place again and again"
        return read(*args)

    monkeypatch.setattr(os, "preadv", counted)
    state = glance(str(tmp_path), log.ts)
    assert (state.step, state.is_whole, state.at_risk) == (199, False, None)


def test_a_session_that_ended_with_a_word_before_the_end_of_the_log_is_told_of_no_crash(tmp_path: Path) -> None:
    """Its last save is looked for and found, its `run_end` is not."""
    log = LogText()
    log.add("run_start", run_name="gpt", total_steps=5000)
    for step in range(1, 200):
        log.add("step", step, ts=log.ts + 1.0, loss=1.0)
    log.add("checkpoint_saved", 199, path="rolling_199.pt", kind="rolling")
    log.add("run_end", 199, status="finished")
    log.add("run_start", 199, 2, run_name="gpt", total_steps=5000, start_step=199)
    for step in range(200, 300):
        log.add("step", step, 2, ts=log.ts + 1.0, loss=1.0)
    (tmp_path / "events.jsonl").write_bytes(log.text)
    (tmp_path / "rolling_199.pt").touch()
    state = glance(str(tmp_path), log.ts)
    assert (state.step, state.is_whole) == (299, False)
    assert state.at_risk is not None
    assert state.at_risk.checkpoint == "rolling_199.pt"
    assert state.alerts == ()
