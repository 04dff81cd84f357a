"""Undo, redo and gc of checkpoints that are directories, of names at any depth, and of any bytes."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.services import journal
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.journal import Deed, Move
from ckpt_tui.services.restore import carry_out
from ckpt_tui.services.undo import plan_redo, plan_undo
from tests.builders.crashing import dies_at, file_operations
from tests.builders.trees import tree_of
from tests.unit.services.test_directory_deeds import build, names_of, perform


def times_of(directory: Path) -> dict[str, tuple[int, int]]:
    """Mode and time of every file that is not set aside."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_mode, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and "set_aside" not in path.parts
    }


def test_undo_and_redo_give_back_every_file_of_every_directory(tmp_path: Path) -> None:
    directory = build(tmp_path / "run")
    (directory / "latest/parts/0.distcp").chmod(0o640)
    start, start_times = names_of(directory), times_of(directory)
    perform(directory)
    end, end_times = names_of(directory), times_of(directory)
    assert start != end
    for _ in range(2):
        plan = plan_undo(str(directory))
        assert not [warning for warning in plan.warnings if "written since" in warning], plan.warnings
        carry_out(plan)
        assert (names_of(directory), times_of(directory)) == (start, start_times)
        carry_out(plan_redo(str(directory)))
        assert (names_of(directory), times_of(directory)) == (end, end_times)


def test_write_into_a_directory_since_is_said_and_kept(tmp_path: Path) -> None:
    directory = build(tmp_path / "run")
    perform(directory)
    (directory / "latest/parts/0.distcp").write_bytes(b"trained on")
    plan = plan_undo(str(directory))
    assert any("latest" in warning and "written since" in warning for warning in plan.warnings)
    number = carry_out(plan).number
    assert (directory / f"set_aside/{number}/latest/parts/0.distcp").read_bytes() == b"trained on"


def test_copy_of_the_run_is_undone_without_false_words(tmp_path: Path) -> None:
    perform(build(tmp_path / "run"))
    directory = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    plan = plan_undo(str(directory))
    assert not [warning for warning in plan.warnings if "written since" in warning], plan.warnings
    carry_out(plan)
    assert names_of(directory) == names_of(build(tmp_path / "again"))


def test_names_of_any_bytes_are_undone(tmp_path: Path) -> None:
    name = os.fsdecode(b"checkpoint\xff-5\n")
    (tmp_path / name).write_bytes(b"x")
    before = journal.content_of(str(tmp_path / name))
    deed = Deed(number=0, act="rollback", state="intent", moves=[Move(name, "remove", before=before)])
    journal.perform(str(tmp_path), deed, finish=lambda deed: None)
    (past,) = read_history(str(tmp_path)).deeds
    assert (past.held[0].name, past.strangers, past.can_undo) == (name, (), True)
    carry_out(plan_undo(str(tmp_path)))
    assert (tmp_path / name).read_bytes() == b"x"
    carry_out(plan_redo(str(tmp_path)))
    collect(plan_gc(str(tmp_path), every=True), force=True)
    assert not list((tmp_path / "set_aside").rglob("checkpoint*"))


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_gc_killed_at_file_operations_leaves_journals_and_nothing_outside_changed(
    memory_path: Path, every: int
) -> None:
    start = build(memory_path / "start")
    perform(start)
    directory = copied(start, memory_path / "run")
    outside = names_of(directory)
    operations = file_operations(partial(collect, plan_gc(str(directory), every=True), force=True))
    assert set(tree_of(directory / "set_aside/1")) == {"journal.json"}, "also the directories made for names in some"
    for number in range(1, len(operations) + 1, every):
        directory = copied(start, memory_path / "run")
        held = tree_of(directory / "set_aside/1", without=["journal.json"])
        assert dies_at(number, partial(collect, plan_gc(str(directory), every=True), force=True))
        now = tree_of(directory / "set_aside/1", without=["journal.json"])
        (deed,) = read_history(str(directory)).deeds
        assert {n: d for n, d in now.items() if ".tmp-" not in n} == held or deed.state == "collected"
        assert deed.can_undo or "freed by gc" in deed.why_not or now, operations[number - 1]
        assert names_of(directory) == outside
        rest = plan_gc(str(directory), every=True)
        if not rest.is_empty:
            collect(rest, force=True)
        left = {name for name, data in tree_of(directory / "set_aside/1").items() if data is not None}
        assert {name for name in left if not name.startswith(".journal")} == {"journal.json"}, operations[number - 1]


def copied(start: Path, directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return shutil.copytree(start, directory)
