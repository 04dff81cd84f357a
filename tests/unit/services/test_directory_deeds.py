"""Deeds on checkpoints that are directories: whole at any kill, and independent, verified copies."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.services import copies, files, journal
from ckpt_tui.services.files import content_of
from ckpt_tui.services.journal import Deed, Move
from tests.builders.crashing import cut_at, dies_at, failing_at, file_operations, killed_at
from tests.builders.trees import tree_of

Tree = dict[str, bytes | None]


def checkpoint(path: Path, word: str) -> None:
    (path / "parts" / "empty").mkdir(parents=True)
    (path / "model.pt").write_bytes(f"model {word}".encode() * 300)
    (path / "parts" / "0.distcp").write_bytes(f"part {word}".encode() * 20)
    (path / "manifest.json").write_bytes(f'{{"of": "{word}"}}'.encode())


def build(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    for word in ("latest", "latest_backup", "rolling_step_000300", "inner/epoch=3.ckpt"):
        checkpoint(directory / word, word)
    (directory / "pointer").write_bytes(b"global_step300")
    (directory / "was_file").write_bytes(b"a file that becomes a directory")
    return directory


def new_deed(directory: Path) -> Deed:
    """A copy over a directory, over a file and to a free name, a shared one, two that leave, and a written file."""

    def before(name: str) -> files.Content | None:
        return content_of(str(directory / name))

    moves = [
        Move("latest", "copy", before=before("latest"), source="latest_backup"),
        Move("best_model", "copy", source="latest_backup"),
        Move("was_file", "copy", before=before("was_file"), source="latest_backup"),
        Move("shared", "link", source="latest_backup"),
        Move("rolling_step_000300", "remove", before=before("rolling_step_000300")),
        Move("inner/epoch=3.ckpt", "remove", before=before("inner/epoch=3.ckpt")),
        Move("pointer", "write", before=before("pointer"), data=b"global_step200"),
    ]
    return Deed(number=0, act="rollback", state="intent", moves=moves)


def perform(directory: Path) -> Deed:
    return journal.perform(str(directory), new_deed(directory), finish=lambda deed: None)


def recover(directory: Path) -> list[str]:
    return journal.recover(str(directory), lambda deed: None)


def names_of(directory: Path) -> dict[str, Tree | bytes]:
    """Every checkpoint, and every file beside them, with all that is in it; what is set aside is not looked at."""
    found: dict[str, Tree | bytes] = {}
    for path in [*directory.iterdir(), *directory.glob("inner/*")]:
        if path.name not in ("set_aside", "inner"):
            found[path.name] = tree_of(path) if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture
def memory_path(memory_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: what is flushed thousands of times here need not come to a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield memory_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ckpt-tui-tests-") as place:
        yield Path(place)


@pytest.fixture
def before_and_after(memory_path: Path) -> tuple[dict[str, Tree | bytes], dict[str, Tree | bytes]]:
    directory = build(memory_path / "model")
    before = names_of(directory)
    perform(directory)
    return before, names_of(directory)


@pytest.fixture(params=["exchanged", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On a file system that exchanges two names in one step, and on one that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "exchange", lambda a, b: False)
    return str(request.param)


def test_deed_does_what_its_moves_say(memory_path: Path, way: str) -> None:
    directory = build(memory_path / "run")
    before = tree_of(directory)
    deed = perform(directory)
    backup = tree_of(directory / "latest_backup")
    for name in ("latest", "best_model", "was_file", "shared"):
        assert tree_of(directory / name) == backup, name
    assert (directory / "pointer").read_bytes() == b"global_step200"
    assert tree_of(directory / "set_aside" / "1", without=["journal.json"]) == {
        name: data
        for name, data in before.items()
        if name.split("/")[0] in ("latest", "was_file", "rolling_step_000300", "inner", "pointer")
    }
    assert list((directory / "inner").iterdir()) == []
    inode_of = {name: (directory / name / "model.pt").stat().st_ino for name in ("latest_backup", "latest", "shared")}
    assert inode_of["latest"] != inode_of["latest_backup"] == inode_of["shared"]
    assert deed.state == journal.DONE
    assert recover(directory) == []


def test_modes_and_times_of_everything_are_kept(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    backup = directory / "latest_backup"
    (backup / "model.pt").chmod(0o640)
    (backup / "parts").chmod(0o750)
    for number, path in enumerate(sorted(backup.rglob("*"), reverse=True)):
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    os.utime(backup, ns=(10**18, 10**18))
    perform(directory)
    for path in [backup, *backup.rglob("*")]:
        copy = directory / "latest" / path.relative_to(backup)
        assert stat.S_IMODE(copy.stat().st_mode) == stat.S_IMODE(path.stat().st_mode)
        assert copy.stat().st_mtime_ns == path.stat().st_mtime_ns, path


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_kill_at_every_file_operation_is_completed_or_cancelled(
    memory_path: Path, way: str, when: str, before_and_after: tuple[dict[str, Tree | bytes], dict[str, Tree | bytes]]
) -> None:
    before, after = before_and_after
    total = len(file_operations(partial(perform, build(memory_path / "counting"))))
    outcomes = set()
    for number in range(1, total + 1):
        directory = build(memory_path / "run")
        assert dies_at(number, partial(perform, directory), when=when), number
        for name, content in names_of(directory).items():
            assert content in (before.get(name), after.get(name)), f"{name} is torn by a kill at {number}"
        if way == "exchanged":
            assert "latest" in names_of(directory), number
        said = recover(directory)
        now = names_of(directory)
        assert now in (before, after), f"half a deed after a kill at {number}: {said}"
        outcomes.add(now == after)
        assert recover(directory) == []
        if now == before:
            assert tree_of(directory / "set_aside") == {}, number
        else:
            aside = tree_of(directory / "set_aside/1")
            assert {name.split("/")[0] for name in aside} == {
                "latest", "was_file", "rolling_step_000300", "inner", "pointer", "journal.json",
            }  # fmt: skip
    assert outcomes == {False, True}


def what_lies_there(directory: Path) -> dict[str, object]:
    """With what is half done; a journal tells its time, and the name of what is being written a process."""
    found = {re.sub(r"tmp-\d+", "tmp", name): data for name, data in tree_of(directory).items()}
    return {name: None if "journal.json" in name else data for name, data in found.items()}


@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_cut_leaves_what_a_kill_leaves(memory_path: Path, way: str, when: str, every: int) -> None:
    """What `cut_at` is good for: most of the deaths in these tests are told by it."""
    total = len(file_operations(partial(perform, build(memory_path / "counting"))))
    open_before = len(os.listdir("/proc/self/fd"))
    for number in range(every, total + 1, every):
        left = []
        for die in (killed_at, cut_at):
            directory = build(memory_path / "run")
            assert die(number, partial(perform, directory), when=when)
            left.append(what_lies_there(directory))
        assert left[0] == left[1], number
    assert len(os.listdir("/proc/self/fd")) == open_before, "nor does it hold a lock"


@pytest.mark.long
def test_kill_during_the_recovery_is_recovered_too(
    memory_path: Path, way: str, before_and_after: tuple[dict[str, Tree | bytes], dict[str, Tree | bytes]]
) -> None:
    total = len(file_operations(partial(perform, build(memory_path / "counting"))))
    for first in range(2, total + 1, 19):
        second = 1
        while True:
            directory = build(memory_path / "run")
            killed_at(first, partial(perform, directory))
            if not killed_at(second, partial(recover, directory)):
                break
            recover(directory)
            assert names_of(directory) in before_and_after, (first, second)
            second += 1


@pytest.mark.parametrize(
    ("code", "forever"),
    [
        (errno.ENOSPC, True),
        (errno.EIO, False),
        pytest.param(errno.EACCES, False, marks=pytest.mark.long),
        pytest.param(errno.EIO, True, marks=pytest.mark.long),
    ],
)
def test_error_at_every_file_operation_changes_nothing_or_is_completed_later(
    memory_path: Path,
    way: str,
    code: int,
    forever: bool,
    before_and_after: tuple[dict[str, Tree | bytes], dict[str, Tree | bytes]],
) -> None:
    before, after = before_and_after
    total = len(file_operations(partial(perform, build(memory_path / "counting"))))
    for number in range(1, total + 1):
        directory = build(memory_path / "run")
        said = ""
        with failing_at(number, OSError(code, os.strerror(code)), forever=forever):
            try:
                perform(directory)
            except CkptError as error:
                said = error.message
        now = names_of(directory)
        if not said:
            assert now == after, number
        elif "nothing was changed" in said:
            assert now == before, number
        recover(directory)
        assert names_of(directory) in (before, after), number


def test_exchange_that_fails_in_the_middle_is_taken_back(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = build(memory_path / "run")
    before = names_of(directory)
    exchange, calls = files.exchange, [0]

    def second_one_fails(a: str, b: str) -> bool:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), b)
        return exchange(a, b)

    monkeypatch.setattr(files, "exchange", second_one_fails)
    with pytest.raises(CkptError, match="nothing was changed"):
        perform(directory)
    assert names_of(directory) == before
    assert not (directory / "set_aside").exists()


def test_write_into_a_directory_since_the_plan_is_noticed(memory_path: Path) -> None:
    def in_place(directory: Path) -> None:
        with open(directory / "latest" / "parts" / "0.distcp", "r+b") as file:
            file.write(b"other")

    for change in (
        in_place,
        lambda directory: (directory / "latest" / "parts" / "more").write_bytes(b"x"),
        lambda directory: (directory / "latest" / "model.pt").unlink(),
        lambda directory: (directory / "latest" / "parts" / "empty").rmdir(),
    ):
        directory = build(memory_path / "run")
        deed = new_deed(directory)
        change(directory)
        now = tree_of(directory)
        with pytest.raises(CkptError, match="has changed"):
            journal.perform(str(directory), deed, finish=lambda deed: None)
        assert tree_of(directory) == now


def test_source_that_changed_since_the_plan_is_noticed(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    deed = new_deed(directory)
    deed.moves[0].source_was = content_of(str(directory / "latest_backup"))
    (directory / "latest_backup" / "model.pt").write_bytes(b"another training's")
    with pytest.raises(CkptError, match="latest_backup is not what it was"):
        journal.perform(str(directory), deed, finish=lambda deed: None)


def test_source_that_is_written_while_it_is_copied_is_no_copy(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    before = names_of(directory)
    grown: list[int] = []

    def grow(num_bytes: int) -> None:
        if not grown:
            (directory / "latest_backup" / "one_more").write_bytes(b"1")
        grown.append(num_bytes)

    with pytest.raises(CkptError, match="written while it was copied"):
        journal.perform(str(directory), new_deed(directory), on_bytes=grow, finish=lambda deed: None)
    assert names_of(directory) == {**before, "latest_backup": tree_of(directory / "latest_backup")}


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_directory_with_something_that_has_no_copy_is_refused(memory_path: Path, kind: str) -> None:
    directory = build(memory_path / "run")
    odd = directory / "latest_backup" / "parts" / "odd"
    odd.symlink_to(directory / "pointer") if kind == "link" else os.mkfifo(odd)
    before = set(os.listdir(directory))
    with pytest.raises(CkptError, match="has no copy"):
        perform(directory)
    assert set(os.listdir(directory)) == before
    # It may leave for the folder of what is set aside all the same.
    moves = [Move("latest_backup", "remove", before=content_of(str(directory / "latest_backup")))]
    deed = Deed(number=0, act="rollback", state="intent", moves=moves)
    journal.perform(str(directory), deed, finish=lambda deed: None)
    assert os.path.lexists(directory / "set_aside/1/latest_backup/parts/odd")


def test_too_many_and_too_deep_is_refused_and_never_followed(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_TREE_ENTRIES", 50)
    many = memory_path / "many"
    many.mkdir()
    for number in range(60):
        (many / str(number)).write_bytes(b"")
    with pytest.raises(files.TooLargeTreeError, match="more than 50 files"):
        copies.bytes_to_copy(str(many))
    found = content_of(str(many))
    assert found is not None
    assert found.tree == ""
    deep = memory_path / "deep"
    deep.joinpath(*["d"] * 40).mkdir(parents=True)
    with pytest.raises(files.TooLargeTreeError, match="directories deep"):
        copies.bytes_to_copy(str(deep))


def test_bytes_that_read_back_otherwise_are_noticed(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = memory_path / "source", memory_path / "target"
    source.write_bytes(b"weights" * 400_000)
    posix_fadvise, spoiled = os.posix_fadvise, []

    def spoil(descriptor: int, *rest: int) -> None:
        if not spoiled and rest[-1] == os.POSIX_FADV_SEQUENTIAL:
            os.pwrite(descriptor, b"W", 2_000_000)
            spoiled.append(True)
        posix_fadvise(descriptor, *rest)

    monkeypatch.setattr(os, "posix_fadvise", spoil)
    with pytest.raises(OSError, match="does not read back the same"):
        copies.copy_verified(str(source), str(target))
    assert spoiled
    assert not target.exists()


def test_names_of_any_bytes_and_at_any_depth_come_through_the_journal(memory_path: Path) -> None:
    directory = memory_path / "run"
    hostile = [b"line\nbreak", b"esc\x1b[31m", b"not utf-8 \xff\xfe", b'quote"\\', "käse".encode()]
    for name in hostile:
        inside = directory / "inner" / os.fsdecode(name)
        inside.mkdir(parents=True)
        (inside / "model.pt").write_bytes(name)
    before = tree_of(directory)
    names = [f"inner/{os.fsdecode(name)}" for name in hostile]

    def deed() -> Deed:
        moves = [Move(name, "remove", before=content_of(str(directory / name))) for name in names]
        return Deed(number=0, act="rollback", state="intent", moves=moves)

    def work() -> None:
        journal.perform(str(directory), deed(), finish=lambda deed: None)

    # The kill is after the journal says `prepared`: the next one completes it by what the journal holds.
    number = file_operations(work).index("rename") + 2
    (told,) = journal.read_deeds(str(directory))
    assert [move.target for move in told.moves] == names
    shutil.rmtree(directory / "inner")
    shutil.move(directory / "set_aside/1/inner", directory / "inner")
    shutil.rmtree(directory / "set_aside")
    assert tree_of(directory) == before
    assert killed_at(number, work)
    assert recover(directory) != []
    assert tree_of(directory / "set_aside/1", without=["journal.json"]) == before
