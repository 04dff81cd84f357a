"""What a plan has read of a long log is not read again by its act; what a log says is never what it said before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.events.writer import EventWriter
from ckpt_tui.services import monitor, owner
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.launch import refuse_second
from ckpt_tui.services.monitor import read_run
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.restore import carry_out, plan_rollback
from ckpt_tui.services.resume import plan_resume
from ckpt_tui.sources.jsonl import JsonlSource
from tests.builders.run_directories import save, write_log


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A crashed run whose log counts as a long one."""
    monkeypatch.setattr(monitor, "LONG_LOG_BYTES", 1000)
    monkeypatch.setattr(owner, "_kept", [])
    directory = tmp_path / "run"
    directory.mkdir()
    for step in (100, 200):
        save(directory / f"rolling_step_{step:06d}.pt", step)
    write_log(directory, last_step=250, saves=[(step, f"rolling_step_{step:06d}.pt") for step in (100, 200)])
    return directory


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes of logs were folded, by piece."""
    told: list[int] = []
    take = JsonlSource._take

    def count(self: JsonlSource, chunk: bytes, *rest: object) -> None:
        told.append(len(chunk))
        take(self, chunk, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(JsonlSource, "_take", count)
    return told


def said(directory: Path) -> tuple[object, ...]:
    state = run_state(str(directory))
    assert state is not None
    again = read_run(str(directory))
    told = (state.phase, state.step, state.pid, state.num_events, len(state.saves), state.bad_lines)
    assert told == (again.phase, again.step, again.pid, again.num_events, len(again.saves), again.bad_lines)
    return told


def test_an_act_folds_no_more_than_its_plan_did(run: Path, read_bytes: list[int]) -> None:
    carry_out(plan_rollback(str(run), "100"))
    size = (run / "events.jsonl").stat().st_size
    assert 0 < sum(read_bytes) <= size
    read_bytes.clear()
    collect(plan_gc(str(run), every=True), force=True)
    assert sum(read_bytes) < 2000, "gc begins where the act ended: at the line that it wrote itself"


def test_a_start_folds_no_more_than_its_plan_did(run: Path, read_bytes: list[int]) -> None:
    plan_resume(str(run))
    refuse_second(str(run))
    assert sum(read_bytes) <= (run / "events.jsonl").stat().st_size


def test_only_what_is_new_is_read_and_a_training_that_began_is_seen(run: Path, read_bytes: list[int]) -> None:
    assert owner_of(str(run), run_state(str(run))) is None
    read_bytes.clear()
    with EventWriter(run) as log:
        log.start(total_steps=1000)
        log.step(251, loss=1.0)
    state = run_state(str(run))
    assert sum(read_bytes) < 4000
    found = owner_of(str(run), state)
    assert found is not None
    assert found.pid == os.getpid()
    said(run)


def _truncated(log: Path) -> None:
    os.truncate(log, 0)
    write_log(log.parent, last_step=3)


def _cut(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def _replaced(log: Path) -> None:
    other = log.parent / "other"
    other.mkdir()
    write_log(other, last_step=900)
    (other / "events.jsonl").replace(log)


def _rewritten_in_place(log: Path) -> None:
    with open(log, "r+b") as file:
        longer = b'{"type": "step", "seq": 1, "ts": 1790000000.0, "session": 7, "step": 9, "loss": 1.0}\n'
        file.write(longer * (log.stat().st_size // len(longer) + 10))
        file.truncate()


def _deleted_and_back(log: Path) -> None:
    log.unlink()
    assert run_state(str(log.parent)) is None
    write_log(log.parent, last_step=600)


@pytest.mark.parametrize("accident", [_truncated, _cut, _replaced, _rewritten_in_place, _deleted_and_back])
def test_a_log_that_is_not_what_it_was_is_read_anew(run: Path, accident: Callable[[Path], None]) -> None:
    before = said(run)
    accident(run / "events.jsonl")
    assert said(run) != before


def test_another_directory_is_told_by_its_own_log(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_log(other, last_step=90)
    assert [said(directory)[1] for directory in (run, other, run)] == [250, 90, 250]


def test_nothing_is_held_open_and_of_a_short_log_nothing_is_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_state(str(run))
    assert len(owner._kept) == 1
    held = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert str(run / "events.jsonl") not in held
    monkeypatch.setattr(monitor, "LONG_LOG_BYTES", 1 << 30)
    run_state(str(run))
    assert not owner._kept


def test_a_long_wait_for_an_answer_makes_no_dead_training_live(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another host nobody can look whether it lives: only the age of its last line tells."""
    clock = iter(time.time() - 5 + number / 10 for number in range(1000))
    log = run / "events.jsonl"
    log.unlink()
    with EventWriter(run, clock=lambda: next(clock)) as writer:
        writer.start(total_steps=100)
        for step in range(1, 21):
            writer.step(step, loss=1.0)
    first, rest = log.read_text().split("\n", 1)
    log.write_text(json.dumps({**json.loads(first), "host": "node3", "pid": 77}) + "\n" + rest)
    assert owner_of(str(run), run_state(str(run))) is not None
    later = time.time() + 3600
    monkeypatch.setattr(owner._kept[0][2], "_clock", lambda: later)
    assert owner_of(str(run), run_state(str(run))) is None
