"""The tools that the fault tests are made of do what they say: each finds the mistake that it is there to find."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.builders.unsynced import Journal, materialise
from tests.builders.unsynced_recording import recorded

OLD, NEW = b"old" * 700, b"NEW!" * 900


def trees(journal: Journal, scratch: Path, *, at_end: bool = False) -> list[dict[str, bytes]]:
    """What each crash leaves, as {path: content}; at_end: only of crashes after the last operation."""
    found = []
    first = len(journal.operations) if at_end else 0
    for number, crash in enumerate(journal.crashes(per_cut=40, first=first)):
        materialise(journal, crash, scratch / str(number))
        files = [path for path in (scratch / str(number)).rglob("*") if path.is_file()]
        found.append({str(path.relative_to(scratch / str(number))): path.read_bytes() for path in files})
    return found


def flush_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def in_place(root: Path) -> None:
    (root / "a").write_bytes(NEW)


def renamed(root: Path) -> None:
    (root / "t").write_bytes(NEW)
    (root / "t").rename(root / "a")
    flush_directory(root)


def flushed_too_early(root: Path) -> None:
    """The mistake of torch's DCP: fsync while the bytes are still in Python's buffer."""
    with open(root / "t", "wb") as file:
        file.write(NEW)
        os.fsync(file.fileno())
    (root / "t").rename(root / "a")
    flush_directory(root)


def not_the_directory(root: Path) -> None:
    with open(root / "t", "wb") as file:
        file.write(NEW)
        file.flush()
        os.fsync(file.fileno())
    (root / "t").rename(root / "a")


def right(root: Path) -> None:
    not_the_directory(root)
    flush_directory(root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_bytes(OLD)
    return tmp_path / "root"


@pytest.mark.parametrize("wrong", [in_place, renamed, flushed_too_early])
def test_a_half_file_is_found(root: Path, tmp_path: Path, wrong: Callable[[Path], None]) -> None:
    with recorded(root) as journal:
        wrong(root)
    (tmp_path / "crashes").mkdir()
    assert any(tree["a"] not in (OLD, NEW) for tree in trees(journal, tmp_path / "crashes"))


def test_a_name_that_is_not_durable_is_found(root: Path, tmp_path: Path) -> None:
    with recorded(root) as journal:
        not_the_directory(root)
    (tmp_path / "crashes").mkdir()
    left = trees(journal, tmp_path / "crashes", at_end=True)
    assert {tree["a"] for tree in left} == {OLD, NEW}


def test_what_is_done_right_leaves_nothing_half(root: Path, tmp_path: Path) -> None:
    with recorded(root) as journal:
        right(root)
    (tmp_path / "crashes").mkdir()
    assert {tree["a"] for tree in trees(journal, tmp_path / "crashes")} == {OLD, NEW}
    (tmp_path / "end").mkdir()
    assert trees(journal, tmp_path / "end", at_end=True) == [{"a": NEW}]


def test_a_rename_loses_no_file_and_may_leave_both_names(root: Path, tmp_path: Path) -> None:
    with recorded(root) as journal:
        (root / "a").rename(root / "b")
    (tmp_path / "crashes").mkdir()
    left = trees(journal, tmp_path / "crashes")
    assert sorted(sorted(tree) for tree in left) == [["a"], ["a", "b"], ["b"]]


def test_names_come_back_in_any_order(root: Path, tmp_path: Path) -> None:
    with recorded(root) as journal:
        (root / "b").hardlink_to(root / "a")
        (root / "a").unlink()
        (root / "directory").mkdir()
        (root / "directory" / "c").write_bytes(b"")
    (tmp_path / "crashes").mkdir()
    left = [set(tree) for tree in trees(journal, tmp_path / "crashes", at_end=True)]
    for expected in ({"a"}, {"a", "b"}, {"b"}, set(), {"b", "directory/c"}):
        assert expected in left


def test_writes_past_python_are_not_overlooked(root: Path) -> None:
    with pytest.raises(AssertionError, match="not journalled"), recorded(root):
        torch.save({"a": torch.zeros(3)}, root / "b.pt")  # C++ opens the file


def test_the_same_seed_gives_the_same_crashes(root: Path) -> None:
    with recorded(root) as journal:
        flushed_too_early(root)
    told = [[crash.told for crash in journal.crashes(seed=seed, per_cut=5)] for seed in (1, 1, 2)]
    assert told[0] == told[1] != told[2]
