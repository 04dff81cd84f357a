"""A deed that is killed at any file operation leaves every file whole, and the next run completes or cancels it."""

from __future__ import annotations

import errno
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.services import journal
from ckpt_tui.services.files import content_of
from ckpt_tui.services.journal import Deed, Move
from tests.builders.crashing import dies_at, failing_at, file_operations
from tests.builders.trees import tree_of

FILES = {
    "latest.pt": b"damaged latest" * 100,
    "latest_backup.pt": b"good backup" * 100,
    "rolling_step_000300.pt": b"rolling 300" * 100,
    "registry.json": b'{"checkpoints": []}',
}
AFTER = {
    "latest.pt": FILES["latest_backup.pt"],
    "latest_backup.pt": FILES["latest_backup.pt"],
    "best_model.pt": FILES["latest_backup.pt"],
    "registry.json": b'{"checkpoints": ["new"]}',
}
KNOWN_BYTES = {*FILES.values(), *AFTER.values()}


def build(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    return directory


def new_deed(directory: Path) -> Deed:
    """A copy over a file, a copy where none was, a file that only leaves, and a small file that is written."""

    def before(name: str) -> object:
        return content_of(str(directory / name))

    moves = [
        Move("latest.pt", "copy", before=before("latest.pt"), source="latest_backup.pt"),
        Move("best_model.pt", "copy", source="latest_backup.pt"),
        Move("rolling_step_000300.pt", "remove", before=before("rolling_step_000300.pt")),
        Move("registry.json", "write", before=before("registry.json"), data=AFTER["registry.json"]),
    ]
    return Deed(number=0, act="restore", state="intent", moves=moves)


def perform(directory: Path, finished: list[int] | None = None) -> Deed:
    return journal.perform(
        str(directory),
        new_deed(directory),
        finish=lambda deed: finished.append(deed.number) if finished is not None else None,
    )


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def recover(directory: Path) -> list[str]:
    return journal.recover(str(directory), lambda deed: None)


def number_of_operations(memory_path: Path) -> int:
    directory = build(memory_path / "counting")
    return len(file_operations(partial(perform, directory)))


def test_deed_does_what_its_moves_say_and_sets_the_rest_aside(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    finished: list[int] = []
    deed = perform(directory, finished)
    assert files_of(directory) == AFTER
    assert finished == [1]
    aside = tree_of(directory / "set_aside" / "1", without=["journal.json"])
    assert aside == {name: FILES[name] for name in ("latest.pt", "rolling_step_000300.pt", "registry.json")}
    assert deed.state == journal.DONE
    assert journal.unfinished(str(directory)) == []
    assert (directory / "latest.pt").stat().st_ino != (directory / "latest_backup.pt").stat().st_ino


# What lies there after an operation is what lies there before the next one: to die there is the same death twice.
@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.long)])
def test_kill_at_every_file_operation_leaves_every_file_whole_and_is_recovered(memory_path: Path, when: str) -> None:
    total = number_of_operations(memory_path)
    assert total > 25
    outcomes = set()
    for number in range(1, total + 1):
        directory = build(memory_path / "run")
        assert dies_at(number, partial(perform, directory), when=when), number
        now = files_of(directory)
        assert set(now.values()) <= KNOWN_BYTES, f"a torn file after a kill {when} operation {number}"
        assert "latest.pt" in now, f"no latest.pt after a kill {when} operation {number}"
        said = recover(directory)
        now = files_of(directory)
        assert now in (FILES, AFTER), f"half a deed after a kill {when} operation {number}"
        outcomes.add("completed" if now == AFTER else "cancelled")
        if now == FILES:
            assert tree_of(directory, without=["set_aside"]) == FILES
            assert tree_of(directory / "set_aside") == {}, number
        assert recover(directory) == [], "a second recovery finds nothing to do"
        assert len(said) <= 1
        assert perform(directory) if now == FILES else True, "the deed can be done again after it was cancelled"
    assert outcomes == {"completed", "cancelled"}


@pytest.mark.parametrize("every", [19, pytest.param(9, marks=pytest.mark.long)])
def test_kill_during_the_recovery_is_recovered_too(memory_path: Path, every: int) -> None:
    total = number_of_operations(memory_path)
    for first in range(1, total + 1, every):
        second = 1
        while True:
            directory = build(memory_path / "run")
            dies_at(first, partial(perform, directory))
            if not dies_at(second, partial(recover, directory)):
                break
            recover(directory)
            assert files_of(directory) in (FILES, AFTER), (first, second)
            second += 1


@pytest.mark.parametrize(
    ("code", "forever"),
    [
        (errno.ENOSPC, True),
        (errno.EIO, False),
        pytest.param(errno.ENOSPC, False, marks=pytest.mark.long),
        pytest.param(errno.EIO, True, marks=pytest.mark.long),
    ],
)
def test_error_at_every_file_operation_changes_nothing_or_is_completed_later(
    memory_path: Path, code: int, forever: bool
) -> None:
    total = number_of_operations(memory_path)
    for number in range(1, total + 1):
        directory = build(memory_path / "run")
        with failing_at(number, OSError(code, os.strerror(code)), forever=forever):
            try:
                perform(directory)
            except CkptError as error:
                said = error
            else:
                said = None
        now = files_of(directory)
        assert set(now.values()) <= KNOWN_BYTES, number
        if said is None:
            assert now == AFTER, number
        elif "nothing was changed" in said.message:
            assert now == FILES, number
        recover(directory)
        assert files_of(directory) in (FILES, AFTER), number


# Every fourth of them: before, between and after the renames.
@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_file_written_by_somebody_else_since_the_crash_is_left_alone(memory_path: Path, every: int) -> None:
    total = number_of_operations(memory_path)
    seen = 0
    for number in range(1, total + 1, every):
        directory = build(memory_path / "run")
        dies_at(number, partial(perform, directory))
        (directory / "fresh").write_bytes(b"a trainer went on and wrote a new latest")
        (directory / "fresh").replace(directory / "latest.pt")
        said = recover(directory)
        assert (directory / "latest.pt").read_bytes() == b"a trainer went on and wrote a new latest"
        seen += any("left alone" in sentence for sentence in said)
    assert seen > 0


def test_second_viewer_is_refused_while_one_is_at_work(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    with journal.locked(str(directory)), pytest.raises(CkptError, match="Another viewer"):
        perform(directory)
    assert files_of(directory) == FILES


def test_held_trainer_lock_refuses_and_force_goes_on(memory_path: Path) -> None:
    import fcntl

    directory = build(memory_path / "run")
    (directory / "trainer.lock").write_text("{}")
    before = tree_of(directory)
    with open(directory / "trainer.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CkptError, match="A training is running"):
            perform(directory)
        assert tree_of(directory) == before
        journal.perform(str(directory), new_deed(directory), force=True, finish=lambda deed: None)
    assert (directory / "latest.pt").read_bytes() == AFTER["latest.pt"]


def test_plan_that_no_longer_fits_is_refused(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    deed = new_deed(directory)
    (directory / "latest.pt").write_bytes(b"newer")
    before = tree_of(directory)
    with pytest.raises(CkptError, match="has changed"):
        journal.perform(str(directory), deed, finish=lambda deed: None)
    assert {name: data for name, data in tree_of(directory).items() if name != "set_aside"} == before


def test_journal_that_names_files_outside_is_not_ours(memory_path: Path) -> None:
    directory = build(memory_path / "run")
    perform(directory)
    path = directory / "set_aside" / "1" / "journal.json"
    path.write_bytes(
        path.read_bytes().replace(b'"done"', b'"prepared"').replace(b"rolling_step_000300.pt", b"../outside.pt")
    )
    assert journal.read_deeds(str(directory)) == []
    assert recover(directory) == []
