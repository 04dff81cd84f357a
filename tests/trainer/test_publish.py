"""Whatever fails or dies at whichever file operation: every name holds the whole old content or the whole new one."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint import proven
from trainer.checkpoint import publish as publishing
from trainer.checkpoint.publish import PublishError, publish, remove_leftovers

OLD, NEW, OLDER = b"old" * 5000, b"new!" * 70_000, b"older"
OPERATIONS = ("open", "fchmod", "write", "fsync", "preadv", "link", "rename", "close")


class Killed(BaseException):
    """The process is gone: nothing runs after this, not even cleaning up."""


class Faults:
    """Counts file operations and lets the one with the number `fatal` end in `failure`, before or after its work."""

    def __init__(self, fatal: int, failure: Callable[[], BaseException], *, after: bool) -> None:
        self.fatal, self.failure, self.after = fatal, failure, after
        self.num_done = 0
        self.is_dead = False
        self.log: list[str] = []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if self.is_dead and name != "close":
                raise Killed
            number, self.num_done = self.num_done, self.num_done + 1
            self.log.append(name)
            if number != self.fatal:
                return real(*args, **options)
            failure = self.failure()
            self.is_dead = isinstance(failure, Killed)
            if self.after or name == "close":
                real(*args, **options)
            raise failure

        return operation


class _Os:
    """The `os` that publish sees."""

    def __init__(self, faults: Faults) -> None:
        for name in OPERATIONS:
            setattr(self, name, faults.wrap(name, getattr(os, name)))
        real_unlink = os.unlink

        def unlink(path: str) -> None:
            if not faults.is_dead:
                real_unlink(path)

        self.unlink = unlink

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _directory(tmp_path: Path, number: object) -> Path:
    directory = tmp_path / str(number)
    directory.mkdir()
    (directory / "latest.pt").write_bytes(OLD)
    (directory / "latest_backup.pt").write_bytes(OLDER)
    return directory


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["kill", "error"])
def test_a_fault_at_every_file_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, after: bool
) -> None:
    for number in range(100):
        directory = _directory(tmp_path, number)
        faults = Faults(number, Killed if kind == "kill" else lambda: OSError(5, "Input/output error"), after=after)
        for module in (publishing, proven):
            monkeypatch.setattr(module, "os", _Os(faults))
        ended = None
        try:
            publish(str(directory), ["rolling.pt", "latest.pt"], NEW, previous={"latest_backup.pt": "latest.pt"})
        except (Killed, PublishError) as error:
            ended = error
        finally:
            monkeypatch.undo()
        # Some content is there under each name, and all of it is whole.
        assert (directory / "latest.pt").read_bytes() in (OLD, NEW)
        assert (directory / "latest_backup.pt").read_bytes() in (OLDER, OLD)
        if (directory / "rolling.pt").exists():
            assert (directory / "rolling.pt").read_bytes() == NEW
        # What was replaced is never the last copy of the newest state.
        contents = {(directory / name).read_bytes() for name in ("latest.pt", "latest_backup.pt")}
        assert contents & {OLD, NEW}
        if ended is None and number < faults.num_done:
            # An error that it could work around, as a missing link() is.
            assert (directory / "latest.pt").read_bytes() == NEW
        if number >= faults.num_done:
            assert ended is None
            assert faults.num_done >= 12
            assert faults.log.count("fsync") == 2
            assert faults.log[-2:] == ["fsync", "close"]
            break
        left = [name for name in os.listdir(directory) if name.startswith(".tmp-")]
        assert kind == "kill" or not left
        assert remove_leftovers(str(directory)) == sorted(left)
    else:
        pytest.fail("it never came to an end")
    assert (directory / "latest_backup.pt").read_bytes() == OLD
    assert (directory / "rolling.pt").read_bytes() == NEW


def test_names_share_one_file_and_backups_do_not(tmp_path: Path) -> None:
    directory = _directory(tmp_path, "run")
    done = publish(str(directory), ["rolling.pt", "latest.pt"], NEW)
    publish(str(directory), ["rolling_last_backup.pt"], NEW)
    assert done.digest == f"crc32:{zlib.crc32(NEW):08x}"
    assert done.size_bytes == len(NEW)
    inode = {name: (directory / name).stat().st_ino for name in os.listdir(directory)}
    assert inode["rolling.pt"] == inode["latest.pt"] != inode["rolling_last_backup.pt"]


def test_bytes_that_the_disk_changed_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _directory(tmp_path, "run")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:-1]) + b"?"))
    with pytest.raises(PublishError, match="memory holds") as caught:
        publish(str(directory), ["latest.pt"], NEW)
    assert caught.value.stage == "verify"
    assert (directory / "latest.pt").read_bytes() == OLD
    assert sorted(os.listdir(directory)) == ["latest.pt", "latest_backup.pt"]


def test_permissions_of_the_replaced_file_are_kept(tmp_path: Path) -> None:
    directory = _directory(tmp_path, "run")
    (directory / "latest.pt").chmod(0o640)
    publish(str(directory), ["rolling.pt", "latest.pt"], NEW)
    assert (directory / "latest.pt").stat().st_mode & 0o777 == 0o640


def test_only_our_leftovers_are_removed(tmp_path: Path) -> None:
    for name in (".tmp-latest.pt-123-4", ".tmp-notes", "latest.pt", ".restore-tmp-1", "tmp-latest.pt-1-2"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "set_aside").mkdir()
    (tmp_path / "set_aside" / ".tmp-latest.pt-1-2").write_bytes(b"")
    assert remove_leftovers(str(tmp_path)) == [".tmp-latest.pt-123-4"]
    assert (tmp_path / "set_aside" / ".tmp-latest.pt-1-2").exists()


LARGE = (1 << 20) + 12_345  # past the page cache, and not a multiple of a block


def _in_pages(data: bytes) -> memoryview:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memoryview(memory)


def test_a_large_file_is_written_past_the_page_cache_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[bool] = []
    real = os.write

    def write(fd: int, data: memoryview) -> int:
        modes.append(bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT))
        return real(fd, data)

    monkeypatch.setattr(proven.os, "write", write)
    data = random.Random(1).randbytes(LARGE)
    done = publish(str(tmp_path), ["latest.pt"], _in_pages(data))
    assert (tmp_path / "latest.pt").read_bytes() == data
    assert done.digest == f"crc32:{zlib.crc32(data):08x}"
    assert set(done.seconds) == {"write", "sync", "verify", "publish"}
    if modes[0]:  # where the filesystem has it: all but the piece of a block at the end
        assert modes == [True, False]


def test_a_filesystem_that_knows_no_direct_way_gets_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(2).randbytes(LARGE)

    def refused(fd: int, is_direct: bool) -> bool:
        return False

    monkeypatch.setattr(proven, "_set_direct", refused)
    publish(str(tmp_path), ["a.pt"], _in_pages(data))
    monkeypatch.undo()
    # It promises, and fails at the first write and at the first read.
    real_write, real_read = os.write, os.preadv

    def write(fd: int, piece: memoryview) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(fd, piece)

    def read(fd: int, buffers: list[memoryview], at: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_read(fd, buffers, at)

    monkeypatch.setattr(proven.os, "write", write)
    monkeypatch.setattr(proven.os, "preadv", read)
    publish(str(tmp_path), ["b.pt"], _in_pages(data))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes() == data


@pytest.mark.parametrize("is_waited", [False, True])
def test_reads_and_writes_that_end_early_are_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_waited: bool
) -> None:
    """Network filesystems may give and take fewer bytes than there are, wherever they like."""
    data = os.urandom(3_000_001)
    real_write, real_read = os.write, os.preadv
    monkeypatch.setattr(proven.os, "write", lambda fd, piece: real_write(fd, piece[:700_001]))
    monkeypatch.setattr(proven.os, "preadv", lambda fd, buffers, at: real_read(fd, [buffers[0][:100_001]], at))
    assert publish(str(tmp_path), ["latest.pt"], _in_pages(data), is_waited=is_waited).retried == ""
    assert (tmp_path / "latest.pt").read_bytes() == data


@pytest.mark.parametrize("call", ["write", "fsync", "preadv"])
def test_a_device_that_fails_once_gets_a_new_file_and_no_second_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real, failed, opened = getattr(os, call), [], []

    def failing(fd: int, *rest: Any) -> Any:
        name = str(Path(f"/proc/self/fd/{fd}").readlink())
        if not failed and ".tmp" in name:
            failed.append(name)
            raise OSError(errno.EIO, "Input/output error")
        if ".tmp" in name:
            opened.append(name)
        return real(fd, *rest)

    monkeypatch.setattr(proven.os, call, failing)
    done = publish(str(tmp_path), ["latest.pt"], NEW)
    assert (tmp_path / "latest.pt").read_bytes() == NEW
    assert "Input/output error" in done.retried
    assert failed[0] not in opened
    assert os.listdir(tmp_path) == ["latest.pt"]


def test_a_device_that_goes_on_failing_fails_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(proven.os, "fsync", failing)
    with pytest.raises(PublishError) as caught:
        publish(str(tmp_path), ["latest.pt"], NEW)
    assert (caught.value.stage, caught.value.errno) == ("sync", errno.EIO)
    assert os.listdir(tmp_path) == []


def test_while_somebody_waits_it_goes_through_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quicker, and with the same checks: bytes that were changed on their way are found."""
    data = random.Random(3).randbytes(20 << 20)
    begun = []
    real = proven._begin_flush
    monkeypatch.setattr(proven, "_begin_flush", lambda fd, at, num: (begun.append((at, num)), real(fd, at, num)))
    monkeypatch.setattr(proven, "_set_direct", lambda fd, is_direct: pytest.fail("past the page cache"))
    publish(str(tmp_path), ["latest.pt"], _in_pages(data), is_waited=True)
    assert (tmp_path / "latest.pt").read_bytes() == data
    assert begun == [(0, 8 << 20), (8 << 20, 8 << 20), (16 << 20, 4 << 20)]
    write = os.write
    monkeypatch.setattr(proven.os, "write", lambda fd, piece: write(fd, bytes(piece[:-1]) + b"?"))
    with pytest.raises(PublishError, match="memory holds"):
        publish(str(tmp_path), ["latest.pt"], _in_pages(data), is_waited=True)
    assert (tmp_path / "latest.pt").read_bytes() == data
