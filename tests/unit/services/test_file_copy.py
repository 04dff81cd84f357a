"""A copy of a file is written anew, read back from the device and held against its source, whatever comes between."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.errors import Cancelled
from ckpt_tui.services import file_copy
from ckpt_tui.services.copies import copy_verified
from ckpt_tui.services.file_copy import WINDOW_BYTES

SIZES = (0, 1, WINDOW_BYTES - 1, WINDOW_BYTES, WINDOW_BYTES + 1, 2 * WINDOW_BYTES, 2 * WINDOW_BYTES + 4097)
LARGE = 2 * WINDOW_BYTES + 4097


@pytest.fixture(params=["past the cache", "refused when asked for", "refused when used"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the file system takes O_DIRECT: tmpfs, ext4, NFS and FUSE each do something else."""
    if request.param == "refused when asked for":
        real = fcntl.fcntl

        def refuse(descriptor: int, command: int, value: int = 0) -> int:
            if command == fcntl.F_SETFL and value & os.O_DIRECT:
                raise OSError(errno.EINVAL, "no O_DIRECT here")
            return real(descriptor, command, value)

        monkeypatch.setattr(fcntl, "fcntl", refuse)
    if request.param == "refused when used":
        for name in ("pwrite", "preadv"):
            monkeypatch.setattr(os, name, _refusing_direct(getattr(os, name)))
    return str(request.param)


def _refusing_direct(real: Callable[..., int]) -> Callable[..., int]:
    def call(descriptor: int, *rest: object) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT for this")
        return real(descriptor, *rest)

    return call


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(LARGE))
    return path


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "write" or thread.name.startswith("work_")]


@pytest.mark.parametrize("num_bytes", SIZES)
def test_every_size_is_copied_to_the_byte(tmp_path: Path, way: str, num_bytes: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(num_bytes))
    source.chmod(0o640)
    os.utime(source, ns=(1_700_000_000_000_000_001, 1_700_000_000_000_000_002))
    told: list[int] = []
    content = copy_verified(str(source), str(target), told.append)
    assert target.read_bytes() == source.read_bytes()
    status = target.stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 1_700_000_000_000_000_002)
    assert (content.size_bytes, content.mtime_ns, content.inode) == (num_bytes, status.st_mtime_ns, status.st_ino)
    assert sum(told) == 2 * num_bytes, "copied, and read back"
    assert no_thread_is_left()


def test_a_large_file_goes_past_the_cache_where_that_can_be(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    direct: list[str] = []

    def seen(name: str, real: Callable[..., int]) -> Callable[..., int]:
        def call(descriptor: int, *rest: object) -> int:
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
                direct.append(name)
            return real(descriptor, *rest)

        return call

    for name in ("pwrite", "preadv"):
        monkeypatch.setattr(os, name, seen(name, getattr(os, name)))
    probe = os.open(source, os.O_RDONLY)
    is_possible = file_copy._go_past_cache(probe)
    os.close(probe)
    if not is_possible:
        pytest.skip("this file system has no O_DIRECT")
    copy_verified(str(source), str(source.with_name("target")))
    assert direct.count("pwrite") == 2, "two whole windows; the rest begins a block that is not whole"
    assert direct.count("preadv") == 3, "all of it is read back from the device"


@pytest.mark.parametrize("at", [0, WINDOW_BYTES - 1, WINDOW_BYTES, LARGE - 1])
def test_a_byte_that_reads_back_otherwise_is_noticed(
    source: Path, way: str, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, fsync, spoiled = source.with_name("target"), os.fsync, []

    def spoil(descriptor: int) -> None:
        fsync(descriptor)
        with open(target, "r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
        spoiled.append(at)

    monkeypatch.setattr(os, "fsync", spoil)
    with pytest.raises(OSError, match="does not read back the same") as told:
        copy_verified(str(source), str(target))
    assert told.value.errno == errno.EIO
    assert spoiled == [at]
    assert not target.exists()
    assert no_thread_is_left()


@pytest.mark.parametrize("length", [LARGE - 1, LARGE + 1, WINDOW_BYTES])
def test_a_copy_that_is_longer_or_shorter_afterwards_is_noticed(
    source: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, fsync = source.with_name("target"), os.fsync

    def cut(descriptor: int) -> None:
        os.truncate(target, length)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(OSError, match="does not read back the same"):
        copy_verified(str(source), str(target))
    assert not target.exists()


@pytest.mark.parametrize("calls_before", [1, 4])
@pytest.mark.parametrize("change", ["grown", "written"])
def test_a_source_that_is_written_meanwhile_has_no_copy(source: Path, calls_before: int, change: str) -> None:
    calls: list[int] = []

    def meddle(num_bytes: int) -> None:
        calls.append(num_bytes)
        if len(calls) == calls_before:
            with open(source, "ab" if change == "grown" else "r+b") as file:
                file.write(b"more")
            os.utime(source, (1_700_000_000, 1_700_000_000))  # the clock may not have ticked

    target = source.with_name("target")
    with pytest.raises(OSError, match="it was written while it was copied") as told:
        copy_verified(str(source), str(target), meddle)
    assert told.value.errno == errno.EBUSY
    assert not target.exists()


def test_a_source_that_is_written_on_and_on_does_not_fill_the_disk(source: Path) -> None:
    told: list[int] = []

    def write_on(num_bytes: int) -> None:
        told.append(num_bytes)
        if len(told) < 40:
            with source.open("ab") as file:
                file.write(bytes(num_bytes))

    before = source.stat().st_size
    with pytest.raises(OSError, match="it was written while it was copied"):
        copy_verified(str(source), str(source.with_name("target")), write_on)
    assert sum(told) <= before + 2 * WINDOW_BYTES
    assert no_thread_is_left()


@pytest.mark.parametrize("name", ["pwrite", "preadv"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_error_on_the_way_leaves_no_copy_and_no_thread(
    source: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(os, name), []

    def fail(*arguments: object) -> int:
        calls.append(name)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(real(*arguments))

    monkeypatch.setattr(os, name, fail)
    target = source.with_name("target")
    with pytest.raises(OSError, match="No space left") as told:
        copy_verified(str(source), str(target))
    assert told.value.errno == errno.ENOSPC
    assert not target.exists()
    assert no_thread_is_left()


@pytest.mark.parametrize("calls_before", range(1, 7))
@pytest.mark.parametrize("interrupt", [Cancelled, KeyboardInterrupt])
def test_a_copy_that_is_ended_leaves_no_thread(source: Path, calls_before: int, interrupt: type[BaseException]) -> None:
    calls: list[int] = []

    def end(num_bytes: int) -> None:
        calls.append(num_bytes)
        # Ctrl-C comes to the main thread only, wherever the work is done.
        is_meant = interrupt is Cancelled or threading.current_thread() is threading.main_thread()
        if len(calls) == calls_before and is_meant:
            raise interrupt

    target = source.with_name("target")
    try:
        copy_verified(str(source), str(target), end)
    except interrupt:
        pass
    else:
        assert interrupt is KeyboardInterrupt, "who cancels is heard in any thread"
    assert no_thread_is_left()


def test_writes_and_reads_that_are_cut_short_make_a_whole_copy(
    source: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:1_000_003], at))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:700_001]], at))
    target = source.with_name("target")
    copy_verified(str(source), str(target))
    assert target.read_bytes() == source.read_bytes()
