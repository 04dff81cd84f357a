"""A training on another host of a shared file system counts while its log says so, and no longer than that."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import main
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.run.health import MIN_FAR_BEYOND_S
from ckpt_tui.services.owner import Owner, owner_of, run_state
from ckpt_tui.services.supervisor_record import write_record
from tests.builders.run_directories import save


def log_of_another_host(directory: Path, ago_s: float) -> None:
    """Of a loop that is not our trainer's, ten steps a second, up to that long ago."""
    begun = time.time() - ago_s - 2
    clock = iter(begun + number / 10 for number in range(1000))
    with EventWriter(directory, clock=lambda: next(clock)) as log:
        log.start(total_steps=100)
        for step in range(1, 21):
            log.step(step, loss=1.0)
    path = directory / "events.jsonl"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(json.dumps({**json.loads(first), "host": "node3", "pid": 77, "pid_birth": ""}) + "\n" + rest)
    save(directory / "rolling_step_000010.pt", 10)


def owner(directory: Path) -> Owner | None:
    return owner_of(str(directory), run_state(str(directory)))


def test_one_that_writes_its_log_is_not_joined_by_a_second_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_of_another_host(tmp_path, ago_s=1)
    found = owner(tmp_path)
    assert found is not None
    assert (found.words, found.told_by) == ("process 77 on node3", "events.jsonl")
    ran = tmp_path / "ran"
    for words in (
        ["supervise", str(tmp_path), "--as-is", "--", "touch", str(ran)],
        ["resume", str(tmp_path), "--yes", "--command", f"touch {ran} {{checkpoint}}"],
        ["rollback", str(tmp_path), "--to", "10", "--yes"],
    ):
        assert main(words) == 2
        assert "node3" in capsys.readouterr().err
    assert main(["supervise", str(tmp_path), "--as-is", "--dry-run", "--", "touch", str(ran)]) == 1
    assert not ran.exists()


def test_one_that_has_been_silent_for_long_or_whose_lock_is_free_is_gone(tmp_path: Path) -> None:
    log_of_another_host(tmp_path, ago_s=MIN_FAR_BEYOND_S + 60)
    assert owner(tmp_path) is None
    other = tmp_path / "other"
    other.mkdir()
    log_of_another_host(other, ago_s=1)
    (other / "trainer.lock").write_text('{"pid": 77, "pid_started": 1.0, "host": "node3"}')
    assert owner(other) is None


@pytest.mark.parametrize(("due_in_s", "is_there"), [(30.0, True), (-30.0, True), (-3600.0, False), (None, False)])
def test_a_supervisor_elsewhere_counts_until_its_next_start_is_overdue(
    tmp_path: Path, due_in_s: float | None, is_there: bool
) -> None:
    said = {
        "pid": 9, "pid_started": 1.0, "host": "node3", "state": "waiting",
        "next_try_at": time.time() + due_in_s if due_in_s is not None else None,
    }  # fmt: skip
    (tmp_path / "supervisor.json").write_text(json.dumps(said))
    found = owner(tmp_path)
    assert (found is not None and found.is_supervisor) == is_there


def test_a_person_who_knows_that_its_host_is_dead_can_resume_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_of_another_host(tmp_path, ago_s=1)
    ran = tmp_path / "ran"
    words = ["resume", str(tmp_path), "--yes", "--command", f"touch {ran} {{checkpoint}}", "--wait", "600"]
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "A training may be running here still (process 77 on node3, events.jsonl says so)" in said
    assert f"resume {tmp_path} --force" in said
    assert main([*words, "--force"]) == 0
    assert ran.exists()
    assert "--force says that it is not" in " ".join(capsys.readouterr().out.split())


def test_supervise_is_told_the_same_by_force(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log_of_another_host(tmp_path, ago_s=1)
    ran = tmp_path / "ran"
    words = ["--as-is", "--quiet", "--", "touch", str(ran)]
    assert main(["supervise", str(tmp_path), *words]) == 2
    assert f"`ckpt-tui supervise {tmp_path} --force`" in " ".join(capfd.readouterr().err.split())
    assert main(["supervise", str(tmp_path), "--dry-run", "--json", *words]) == 1
    plan = json.loads(capfd.readouterr().out)["data"]
    assert f"`ckpt-tui supervise {tmp_path} --force`" in plan["refusals"][0]
    assert main(["supervise", str(tmp_path), "--dry-run", "--force", "--json", *words]) == 0
    plan = json.loads(capfd.readouterr().out)["data"]
    assert (plan["refusals"], plan["takes_over"]) == ([], None)
    assert "Process 77 on node3 may be training here (events.jsonl says so)" in plan["warnings"][0]
    assert main(["supervise", str(tmp_path), "--dry-run", "--force", *words]) == 0
    assert "--force says that it is not." in " ".join(capfd.readouterr().out.split())
    assert not ran.exists()
    assert main(["supervise", str(tmp_path), "--force", *words]) == 0
    assert ran.exists()
    assert "--force says that it is not." in " ".join(capfd.readouterr().err.split())


def test_supervise_waits_for_a_supervisor_elsewhere_unless_it_is_forced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "rolling_step_000010.pt", 10)
    said = {
        "pid": 9, "pid_started": 1.0, "host": "node3", "state": "waiting", "next_try_at": time.time() + 3600.0,
    }  # fmt: skip
    (tmp_path / "supervisor.json").write_text(json.dumps(said))
    ran = tmp_path / "ran"
    words = ["--as-is", "--quiet", "--", "touch", str(ran)]
    assert main(["supervise", str(tmp_path), "--dry-run", *words]) == 1
    assert "supervisor.json says so" in " ".join(capsys.readouterr().out.split())
    assert main(["supervise", str(tmp_path), *words]) == 2
    assert "--force" in capsys.readouterr().err
    assert json.loads((tmp_path / "supervisor.json").read_text()) == said, "all is as it was"
    assert not ran.exists()
    assert main(["supervise", str(tmp_path), "--force", *words]) == 0
    assert ran.exists()


def test_force_never_joins_one_that_is_seen_to_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_of_another_host(tmp_path, ago_s=1)
    ran = tmp_path / "ran"
    words = ["resume", str(tmp_path), "--yes", "--force", "--command", f"touch {ran} {{checkpoint}}"]
    lock = os.open(tmp_path / "trainer.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, b'{"pid": 77, "pid_started": 1.0, "host": "node3"}')
    assert main(words) == 2, "its lock is held: on a network mount by another host"
    capsys.readouterr()
    assert main(["supervise", str(tmp_path), "--force", "--as-is", "--quiet", "--", "touch", str(ran)]) == 2
    assert "--force" not in capsys.readouterr().err, "where it is of no use"
    os.close(lock)
    (tmp_path / "trainer.lock").unlink()
    child = subprocess.Popen(["sleep", "600"])
    try:
        write_record(str(tmp_path), {
            "pid": child.pid, "pid_started": psutil.Process(child.pid).create_time(), "host": os.uname().nodename,
            "state": "waiting",
        })  # fmt: skip
        assert main(words) == 2, "a supervisor of this host is in charge"
    finally:
        child.kill()
        child.wait()
    assert "A training is running here already" in " ".join(capsys.readouterr().err.split())
    assert not ran.exists()
