"""One trainer per directory: also when two start at once, the owner died, or the lock file is odd."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ckpt_tui.process_identity import process_started
from trainer.checkpoint import lock as lock_module
from trainer.checkpoint.lock import LOCK_NAME, DirectoryLock
from trainer.errors import UsageError

REPO = Path(__file__).parents[3]
# Waits for the gun, takes the lock as often as it is told, and says each time whether it got it.
RACER = """
import sys, time
from trainer.checkpoint.lock import DirectoryLock
from trainer.errors import UsageError
print("ready", flush=True)
for line in sys.stdin:
    directory, at = line.split()
    time.sleep(max(float(at) - time.time(), 0))
    try:
        lock = DirectoryLock(directory)
    except UsageError as error:
        print("refused", error, flush=True)
    else:
        print("got it", flush=True)
        sys.stdin.readline()
        lock.release()
"""


def test_of_two_that_start_at_once_one_gets_the_directory(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for number in range(10):
            (tmp_path / str(number)).mkdir()
            at = time.time() + 0.02
            answers = [ask(racer, f"{tmp_path / str(number)} {at}") for racer in racers]
            got = [racer.stdout.readline() for racer in racers if racer.stdout]
            assert answers == [None, None]
            assert sorted(answer.split()[0] for answer in got) == ["got", "refused"], got
            winner = racers[0] if got[0].startswith("got") else racers[1]
            refusal = next(answer for answer in got if answer.startswith("refused"))
            assert f"process {winner.pid} on" in refusal
            ask(winner, "release")
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def ask(racer: subprocess.Popen[str], line: str) -> None:
    assert racer.stdin is not None
    racer.stdin.write(line + "\n")
    racer.stdin.flush()


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    def flock(fd: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def write_owner(directory: Path, **fields: object) -> None:
    me = {"pid": os.getpid(), "pid_started": process_started(), "host": socket.gethostname(), "started_at": 0.0}
    (directory / LOCK_NAME).write_text(json.dumps({**me, **fields}))


def test_a_dead_owners_lock_is_not_in_the_way(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", RACER], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    ask(child, f"{tmp_path} 0")
    assert child.stdout.readline() == "got it\n"
    with pytest.raises(UsageError, match=f"process {child.pid} on"):
        DirectoryLock(str(tmp_path))
    child.kill()
    child.communicate()
    DirectoryLock(str(tmp_path)).release()


@pytest.mark.parametrize("is_directory", [False, True])
def test_who_only_looks_keeps_no_training_from_starting(
    tmp_path: Path, is_directory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch, or a second `resume` that finds itself second, holds it for as long as its process waits for a core."""
    monkeypatch.setattr(lock_module, "_MOMENT_SECONDS", 120.0)  # the one that looks is a thread, which may wait, too
    write_owner(tmp_path, pid_started=1.0)  # the training before, which has ended
    looking = os.open(tmp_path if is_directory else tmp_path / LOCK_NAME, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    moment = threading.Timer(0.6, os.close, [looking])
    moment.start()
    DirectoryLock(str(tmp_path)).release()
    moment.join()


FORKS = """
import os, sys, time
from trainer.checkpoint.lock import DirectoryLock
lock = DirectoryLock(sys.argv[1])
worker = os.fork()
if worker == 0:
    time.sleep(600)
print(worker, flush=True)
time.sleep(600)
"""


def test_a_worker_that_outlives_its_training_holds_no_lock(tmp_path: Path) -> None:
    """As a data loader's does for some seconds after its training was killed."""
    child = subprocess.Popen([sys.executable, "-c", FORKS, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    worker = int(child.stdout.readline())
    try:
        with pytest.raises(UsageError, match=f"process {child.pid} on"):
            DirectoryLock(str(tmp_path))
        child.kill()
        child.wait()
        DirectoryLock(str(tmp_path)).release()
    finally:
        os.kill(worker, signal.SIGKILL)
        child.kill()
        child.communicate()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_kernel_locks_a_living_owner_is_still_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_flock(monkeypatch, number)
    lock = DirectoryLock(str(tmp_path))
    assert "no file locks" in lock.warning
    with pytest.raises(UsageError, match="Another process trains"):
        DirectoryLock(str(tmp_path))
    lock.release()
    DirectoryLock(str(tmp_path)).release()


@pytest.mark.parametrize(
    "fields",
    [
        {"pid_started": 1.0},  # our pid, given to us after its owner died
        {"pid": 2**22 - 3},  # nobody has it
        {"host": "elsewhere"},  # cannot be known: the warning says so
        {"pid": "much"},
    ],
)
def test_without_kernel_locks_a_dead_owner_is_not_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    without_flock(monkeypatch)
    write_owner(tmp_path, **fields)
    DirectoryLock(str(tmp_path)).release()


def test_a_pid_in_the_file_counts_for_nothing_where_the_kernel_knows(tmp_path: Path) -> None:
    write_owner(tmp_path)  # says that this very process holds it
    DirectoryLock(str(tmp_path)).release()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\x00", b"[" * 5000])
def test_any_content_of_a_lock_file_is_fine(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    lock = DirectoryLock(str(tmp_path))
    with pytest.raises(UsageError, match=f"process {os.getpid()}"):
        DirectoryLock(str(tmp_path))
    lock.release()


def test_a_lock_that_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises(UsageError, match=r"trainer\.lock is not a file"):
        DirectoryLock(str(tmp_path))
    (tmp_path / LOCK_NAME).rmdir()
    os.mkfifo(tmp_path / LOCK_NAME)
    with pytest.raises(UsageError, match=r"trainer\.lock is not a file"):
        DirectoryLock(str(tmp_path))


def test_a_lock_file_that_may_only_be_read_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "_MOMENT_SECONDS", 0.3)
    write_owner(tmp_path, pid=1)
    open_ = os.open

    def opened(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_RDWR and path.endswith(LOCK_NAME):  # root may write what has mode 0444
            raise PermissionError(errno.EACCES, "Permission denied")
        return open_(path, flags, *rest)

    monkeypatch.setattr(os, "open", opened)
    lock = DirectoryLock(str(tmp_path))
    assert "does not say who holds it" in lock.warning
    with pytest.raises(UsageError, match="Another process trains"):
        DirectoryLock(str(tmp_path))
    lock.release()


def test_a_full_disk_does_not_keep_a_trainer_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    lock = DirectoryLock(str(tmp_path))
    assert "No space left" in lock.warning
    lock.release()


def test_a_lock_that_was_refused_leaves_no_file_open(tmp_path: Path) -> None:
    lock = DirectoryLock(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(UsageError):
            DirectoryLock(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    lock.release()


def test_a_lock_file_that_was_removed_lets_no_second_trainer_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rm trainer.lock`, because it looks forgotten: its owner lives."""
    monkeypatch.setattr(lock_module, "_MOMENT_SECONDS", 0.3)
    lock = DirectoryLock(str(tmp_path))
    (tmp_path / LOCK_NAME).unlink()
    with pytest.raises(UsageError, match="Another process trains"):
        DirectoryLock(str(tmp_path))
    lock.release()
    DirectoryLock(str(tmp_path)).release()
