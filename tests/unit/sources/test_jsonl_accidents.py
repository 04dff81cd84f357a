"""Every accident of a log, on a real file: each bad line counted, no good one lost or read twice."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events.schema import BadLine, Event
from ckpt_tui.sources.jsonl import JsonlSource
from ckpt_tui.sources.registry import open_source
from tests.builders.event_logs import LogText
from tests.builders.pace import cpu_time


def log_of(num_steps: int, start: int = 1) -> LogText:
    log = LogText()
    log.seq = start - 1
    for step in range(start, start + num_steps):
        log.add("step", step, loss=1.0)
    return log


def seqs(events: list[Event | BadLine]) -> list[int]:
    return [event.seq for event in events if isinstance(event, Event)]


def drain(source: JsonlSource, max_bytes: int = 1 << 20) -> list[Event | BadLine]:
    events = []
    while True:
        batch = source.poll(max_bytes)
        events += batch.events
        if batch.is_caught_up:
            return events


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_torn_lines_wait_for_their_newline(tmp_path: Path, piece: int) -> None:
    path, text = tmp_path / "events.jsonl", log_of(20).text
    path.touch()
    source, events = JsonlSource(str(path)), []
    for start in range(0, len(text), piece):
        with path.open("ab") as file:
            file.write(text[start : start + piece])
        events += source.poll().events
    assert seqs(events) == list(range(1, 21))
    assert len(events) == 20


@pytest.mark.parametrize("max_bytes", [13, 1 << 20])
def test_bad_lines_are_counted_where_they_are(tmp_path: Path, max_bytes: int) -> None:
    path, lines = tmp_path / "events.jsonl", log_of(5).lines
    path.write_bytes(
        lines[0] + b"garbage\n" + lines[1] + b"\x00" * 50 + lines[2] + b'{"v":1,"eve' + lines[3] + b"\xff\xfe\n"
        + b'{"event": "st{"event": "step", "loss": NaN, "seq": 99, "from": {"step": 3}}\n\n' + lines[4]
    )  # fmt: skip
    events = drain(JsonlSource(str(path)), max_bytes)
    bad = [event for event in events if isinstance(event, BadLine)]
    assert seqs(events) == [1, 2, 3, 4, 99, 5]
    assert len(bad) == 5
    assert bad[0].offset == len(lines[0])
    assert path.read_bytes()[bad[3].offset :].startswith(b"\xff\xfe\n")


def test_a_line_of_50_mb_is_skipped_and_counted(tmp_path: Path) -> None:
    path, lines = tmp_path / "events.jsonl", log_of(2).lines
    path.write_bytes(lines[0] + b"x" * 50_000_000 + b"\n" + lines[1])
    events = drain(JsonlSource(str(path)))
    (bad,) = [event for event in events if isinstance(event, BadLine)]
    assert seqs(events) == [1, 2]
    assert (bad.num_bytes, bad.offset, len(bad.start)) == (50_000_000, len(lines[0]), 200)


@pytest.mark.parametrize("accident", ["truncated", "replaced", "longer", "recreated"])
def test_another_log_in_its_place_is_read_from_its_start(tmp_path: Path, accident: str) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(log_of(10).text)
    source = JsonlSource(str(path))
    assert len(drain(source)) == 10
    new = log_of(20 if accident == "longer" else 3, start=100)
    if accident == "replaced":
        other = tmp_path / "other"
        other.write_bytes(new.text)
        other.replace(path)
    elif accident == "recreated":
        path.unlink()
        gone = source.poll()
        assert gone.notices == ("the log is gone: it was deleted or moved",)
        assert source.poll().notices == ()
        path.write_bytes(new.text)
    else:
        path.write_bytes(new.text)
    batch = source.poll()
    assert batch.restarted
    assert seqs(batch.events) == list(range(100, 100 + len(new.lines)))
    assert any("read again from its start" in notice for notice in batch.notices)
    assert source.poll().events == []


def test_a_copy_with_the_same_bytes_is_read_on(tmp_path: Path) -> None:
    path, text = tmp_path / "events.jsonl", log_of(12).text
    path.write_bytes(log_of(10).text)
    source = JsonlSource(str(path))
    drain(source)
    copy = tmp_path / "copy"
    copy.write_bytes(text)
    copy.replace(path)
    batch = source.poll()
    assert seqs(batch.events) == [11, 12]
    assert (batch.restarted, batch.notices) == (False, ())


def test_open_source_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="Not found"):
        open_source(str(tmp_path / "nothing"))
    other = tmp_path / "notes.txt"
    other.write_text("hello")
    with pytest.raises(CkptError, match="Not a log"):
        open_source(str(other))
    assert open_source(str(tmp_path)).poll().events == []


def test_what_was_written_before_a_rotation_is_read_to_its_end(tmp_path: Path) -> None:
    path, lines = tmp_path / "events.jsonl", log_of(12).lines
    path.write_bytes(b"".join(lines[:4]))
    source = JsonlSource(str(path))
    assert len(drain(source)) == 4
    with path.open("ab") as old:
        old.write(b"".join(lines[4:7]) + lines[7][:20])
        path.rename(tmp_path / "events.1.jsonl")
        path.write_bytes(b"".join(lines[8:10]))
    first, second = source.poll(), source.poll()
    assert (seqs(first.events), first.restarted, first.is_caught_up) == ([5, 6, 7], False, False)
    assert [event.reason for event in first.events if isinstance(event, BadLine)] == ["torn: the line has no end"]
    assert (seqs(second.events), second.restarted, second.is_caught_up) == ([9, 10], True, True)
    with path.open("ab") as new:
        new.write(lines[10])
    assert seqs(source.poll().events) == [11]


def test_a_deleted_log_that_is_written_on_is_read_on(tmp_path: Path) -> None:
    path, lines = tmp_path / "events.jsonl", log_of(9).lines
    with path.open("ab", buffering=0) as file:
        file.write(lines[0])
        source = JsonlSource(str(path))
        assert seqs(drain(source)) == [1]
        path.unlink()
        file.write(lines[1] + lines[2][:9])
        batch = source.poll()
        assert seqs(batch.events) == [2]
        assert batch.notices == ("the log is gone: it was deleted or moved",)
        file.write(lines[2][9:])
        batch = source.poll()
        assert (seqs(batch.events), batch.notices) == ([3], ())
    path.write_bytes(b"".join(lines[3:5]))
    batch = source.poll()
    assert (seqs(batch.events), batch.restarted) == ([4, 5], True)
    assert "the log can be read again" in batch.notices


def test_a_directory_in_its_place_is_said_and_nothing_is_read_twice_when_it_is_back(tmp_path: Path) -> None:
    path, lines = tmp_path / "events.jsonl", log_of(5).lines
    path.write_bytes(b"".join(lines[:3]))
    source = JsonlSource(str(path))
    assert seqs(drain(source)) == [1, 2, 3]
    path.rename(tmp_path / "aside")
    path.mkdir()
    assert source.poll().notices == ("the log cannot be read: it is not a regular file",)
    assert source.poll().notices == ()
    path.rmdir()
    (tmp_path / "aside").rename(path)
    with path.open("ab") as file:
        file.write(lines[3])
    batch = source.poll()
    assert (seqs(batch.events), batch.restarted, batch.notices) == ([4], False, ("the log can be read again",))


def test_an_input_error_of_the_disk_is_said_and_read_on_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lines = tmp_path / "events.jsonl", log_of(5).lines
    path.write_bytes(b"".join(lines[:2]))
    source = JsonlSource(str(path))
    drain(source)
    with path.open("ab") as file:
        file.write(lines[2])
    real = os.pread
    monkeypatch.setattr(os, "pread", failing_read)
    assert source.poll().notices == ("the log cannot be read: Input/output error",)
    assert source.poll().events == []
    monkeypatch.setattr(os, "pread", real)
    batch = source.poll()
    assert (seqs(batch.events), batch.restarted, batch.notices) == ([3], False, ("the log can be read again",))


def failing_read(*_: object) -> bytes:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_no_file_stays_open_when_nobody_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(log_of(5).text)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        drain(JsonlSource(str(path)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_very_many_lines_that_are_no_events_do_not_hold_the_watch(tmp_path: Path) -> None:
    """A terminal's output, or empty lines, in the log: it took 60 us a line, a poll many seconds."""
    path = tmp_path / "events.jsonl"
    lines = log_of(2).lines
    path.write_bytes(lines[0] + b"garbage\n" * 30_000 + b"\n" * 1_000_000 + lines[1])
    with cpu_time(time.thread_time) as took:
        events = drain(JsonlSource(str(path)), 1 << 18)
    assert took.seconds < 3
    assert (len(events), seqs(events)) == (30_002, [1, 2])
