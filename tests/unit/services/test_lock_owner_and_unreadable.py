"""Who holds a run directory, by a real lock of a real process; and what may not be read."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.run.state import Phase
from ckpt_tui.services.monitor import read_run
from ckpt_tui.services.system import LOCK_NAME, lock_owner
from ckpt_tui.sources.jsonl import JsonlSource
from ckpt_tui.sources.replay import ReplaySource
from tests.builders.event_logs import LogText, worked_example

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("content", "owner"),
    [
        ('{"pid": 77, "pid_started": 5.5, "host": "far"}', ProcessIdentity(77, 5.5, "far")),
        ("", ProcessIdentity()), ("[" * 9999, ProcessIdentity()),
    ],
)  # fmt: skip
def test_a_lock_counts_while_its_owner_lives(tmp_path: Path, content: str, owner: ProcessIdentity) -> None:
    assert lock_owner(str(tmp_path)) is None
    lock = tmp_path / LOCK_NAME
    lock.write_text(content)
    assert lock_owner(str(tmp_path)) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            assert lock_owner(str(tmp_path)) == owner
        finally:
            holder.kill()
    assert lock_owner(str(tmp_path)) is None


def test_a_held_lock_is_life_where_the_process_cannot_be_seen(tmp_path: Path) -> None:
    log = LogText()
    log.add("run_start", pid=5, host="elsewhere")
    (tmp_path / "events.jsonl").write_bytes(log.text)
    assert read_run(str(tmp_path)).phase is Phase.CRASHED
    lock = tmp_path / LOCK_NAME
    lock.touch()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            holder.stdout.readline()
            assert read_run(str(tmp_path)).phase is Phase.STALLED
        finally:
            holder.kill()


def test_a_line_of_50_mb_passes_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b"\n" + worked_example().lines[0])
    source = JsonlSource(str(path))
    tracemalloc.start()
    try:
        events = []
        while not (batch := source.poll()).is_caught_up:
            events += batch.events
        events += batch.events
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(events) == 2
    # The beginning of a line is kept until it is known to be too long (16 MiB), and joined once.
    assert peak < 8_000_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("command", ["status", "tail", "advise"])
def test_a_log_that_may_not_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    (tmp_path / "events.jsonl").touch(0)
    assert main([command, str(tmp_path)]) == 2
    assert "events.jsonl" in capsys.readouterr().err


def test_a_read_error_while_watching_is_a_notice_and_then_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(worked_example().lines[0])
    source = JsonlSource(str(path))
    real_open = os.open

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    assert source.poll().notices == ("the log cannot be read: Permission denied",)
    assert source.poll().notices == ()
    monkeypatch.setattr(os, "open", real_open)
    batch = source.poll()
    assert batch.notices == ("the log can be read again",)
    assert len(batch.events) == 1


def test_a_read_only_directory_is_read_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "events.jsonl").write_bytes(worked_example().text)
    before = [(path, path.stat()) for path in (directory, directory / "events.jsonl")]
    directory.chmod(0o555)
    for command in (["status"], ["status", "--json"], ["tail"], ["advise"]):
        assert main([*command[:1], str(directory), *command[1:]]) == 0
    assert os.listdir(directory) == ["events.jsonl"]
    assert [path.stat().st_mtime_ns for path, _ in before] == [status.st_mtime_ns for _, status in before]
    assert capsys.readouterr().err == ""


def test_a_replay_tells_events_as_their_time_comes(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(worked_example().text)
    now = 0.0
    replay = ReplaySource(JsonlSource(str(path)), speed=2.0, until=1000 + 99 * 3.22, clock=lambda: now)
    first = replay.poll()
    assert [event.step for event in first.events] == [0, 1]  # type: ignore[union-attr]
    now = 3.22
    assert [event.step for event in replay.poll().events] == [2, 3]  # type: ignore[union-attr]
    now = 1e9
    assert replay.poll().events[-1].step == 100  # type: ignore[union-attr]
    assert (replay.poll().events, replay.now()) == ([], 1000 + 99 * 3.22)


def test_a_replay_without_speed_tells_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(worked_example().text)
    assert len(ReplaySource(JsonlSource(str(path)), speed=None).poll().events) == len(worked_example().lines)
