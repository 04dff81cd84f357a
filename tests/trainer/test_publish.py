"""Whatever fails or dies at whichever file operation: every name holds the whole old content or the whole new one."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
        monkeypatch.setattr(publishing, "os", _Os(faults))
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
