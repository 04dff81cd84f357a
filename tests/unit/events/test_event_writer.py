from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import CheckpointRestored, Event, Step
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.process_identity import process_started


def events(directory: Path) -> list[Event]:
    decoded = [decode(line) for line in (directory / "events.jsonl").read_bytes().splitlines()]
    assert all(isinstance(event, Event) for event in decoded), decoded
    return decoded  # type: ignore[return-value]


def test_three_lines_of_a_foreign_loop(tmp_path: Path) -> None:
    log = EventWriter(tmp_path / "new" / "run", clock=lambda: 12.5)
    log.start(config={"lr": 3e-4}, total_steps=2)
    log.step(1, loss=2.5)
    log.end("finished")
    start, step, end = events(tmp_path / "new" / "run")
    assert [event.seq for event in (start, step, end)] == [1, 2, 3]
    assert (start.config, start.total_steps, start.run_name, start.pid) == ({"lr": 3e-4}, 2, "run", os.getpid())
    assert (step.ts, step.step, step.session, step.metrics) == (12.5, 1, 1, {"loss": 2.5})
    assert (end.status, end.step) == ("finished", 1)


def test_sessions_and_sequence_numbers_continue(tmp_path: Path) -> None:
    for _ in range(3):
        with EventWriter(tmp_path) as log:
            log.step(1)
            log.step(2)
    assert [(event.seq, event.session) for event in events(tmp_path)] == [
        (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3),
    ]  # fmt: skip
    EventWriter(tmp_path, session=3).emit(CheckpointRestored(path="latest.pt"))
    assert (events(tmp_path)[-1].seq, events(tmp_path)[-1].session) == (7, 3)


def test_a_torn_last_line_is_left_and_a_fresh_one_begun(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as log:
        log.step(1)
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b'{"v":1,"event":"step","seq":2,"ts":1')
    with EventWriter(tmp_path) as log:
        log.step(2)
        log.step(3)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert lines[1] == b'{"v":1,"event":"step","seq":2,"ts":1'
    assert [(decode(line).seq, decode(line).session) for line in lines[2:]] == [(2, 2), (3, 2)]  # type: ignore[union-attr]


def test_only_the_tail_of_a_long_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventWriter(tmp_path) as log:
        log.step(1)
    with open(tmp_path / "events.jsonl", "r+b") as file:
        file.truncate(10 << 30)  # a hole of 10 GB
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + b'{"event":"step","seq":77,"ts":1,"session":4,"step":5}\n' * 3)
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: read.append(size) or pread(fd, size, at))
    log = EventWriter(tmp_path)
    assert (log.seq, log.session) == (77, 5)
    assert sum(read) <= 1 << 17


def test_an_event_before_a_long_garbage_line_is_found(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as log:
        log.step(1)
        log.step(2)
    with open(tmp_path / "events.jsonl", "ab") as file:
        file.write(b"x" * 3_000_000)
    log = EventWriter(tmp_path)
    assert (log.seq, log.session) == (2, 2)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"garbage", b"\x00" * 5000, b"{}\n[]\n", b'{"event":"x","seq":1e99}\n']
)
def test_whatever_is_in_the_log_it_goes_on(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(content)
    with EventWriter(tmp_path) as log:
        assert log.step(1)
    data = (tmp_path / "events.jsonl").read_bytes()
    assert data.startswith(content)
    assert isinstance(decode(data.splitlines()[-1]), Step)


def test_two_writers_do_not_repeat_numbers(tmp_path: Path) -> None:
    first, second = EventWriter(tmp_path, session=1), EventWriter(tmp_path, session=1)
    for _ in range(3):
        first.step(1)
        second.step(1)
    assert [event.seq for event in events(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_directory_that_cannot_be_written_never_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = EventWriter(tmp_path / "file" / "run")
    assert not log.start(config={"a": object()})
    assert not log.step(1, loss=1.0)
    assert not log.end()
    log.close()
    assert log.dropped == 3
    assert "NotADirectoryError" in log.last_error


def test_a_fifo_or_a_directory_in_its_place_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    assert not EventWriter(tmp_path).step(1)
    assert stat.S_ISFIFO((tmp_path / "events.jsonl").stat().st_mode)
    (tmp_path / "other" / "events.jsonl").mkdir(parents=True)
    assert not EventWriter(tmp_path / "other").step(1)


def test_a_full_disk_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventWriter(tmp_path)
    write = os.write
    log.step(1)
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    assert not log.step(2)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert not log.step(3)
    assert log.dropped == 2
    assert "No space left" in log.last_error
    monkeypatch.undo()
    assert log.step(4)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert len(lines) == 3
    assert [decode(line).seq for line in (lines[0], lines[2])] == [1, 2]  # type: ignore[union-attr]


def test_a_log_that_was_removed_or_cut_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckpt_tui.events.writer.LOOK_SECONDS", 0.0)
    log = EventWriter(tmp_path)
    log.step(1)
    (tmp_path / "events.jsonl").unlink()
    assert log.step(2)
    assert [event.seq for event in events(tmp_path)] == [2]
    os.truncate(tmp_path / "events.jsonl", 0)
    assert log.step(3)
    assert [event.seq for event in events(tmp_path)] == [3]


def test_any_value_can_be_logged(tmp_path: Path) -> None:
    class Scalar:
        def item(self) -> float:
            return 1.5

    log = EventWriter(tmp_path)
    assert log.step(1, loss=Scalar(), bad=float("nan"), odd=object(), text="\udc80")
    assert log.start(config={"path": tmp_path, "betas": (0.9, 0.95), 3: {"deep": [Scalar()]}})
    step, start = events(tmp_path)
    assert step.metrics["loss"] == 1.5
    assert step.metrics["bad"] != step.metrics["bad"]
    assert start.config["3"] == {"deep": [1.5]}
    json.loads((tmp_path / "events.jsonl").read_bytes().splitlines()[1])


def test_start_time_of_this_process_is_that_of_psutil() -> None:
    psutil = pytest.importorskip("psutil")
    assert process_started() == pytest.approx(psutil.Process().create_time(), abs=0.05)
    assert process_started(2**22 + 5) == 0.0
