"""gc of checkpoints that are directories: each goes or stays as one, and a kill at any moment loses no step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.services import journal
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from tests.builders.crashing import dies_at, file_operations
from tests.builders.set_aside import copied, files_of, undo_says_truly, valid_steps
from tests.builders.trees import tree_of
from tests.unit.services.test_directory_acts_killed import checkpoints_in, damaged_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The damaged latest (step 20) was replaced, then all was rolled back to step 10."""
    run = damaged_run(tmp_path_factory.mktemp("made") / "run")
    carry_out(plan_restore(str(run)))
    carry_out(plan_rollback(str(run), "10"))
    return run


def test_each_directory_is_chosen_as_one(made: Path, tmp_path: Path) -> None:
    run = copied(made, tmp_path / "run")
    steps = valid_steps(run)
    plan = plan_gc(str(run))
    files = files_of(plan).values()
    directories = [file for file in files if file.is_directory]
    assert {file.is_chosen for file in directories} == {True, False}
    assert all(file.copy or file.validity == "damaged" for file in directories if file.is_chosen)
    assert [file.step for file in directories if file.is_only and not file.is_chosen] == [20]
    collect(plan)
    for file in files:
        assert (run / file.place).exists() != file.is_chosen, file
    assert valid_steps(run) == steps
    undo_says_truly(run)


def test_a_directory_of_links_is_no_copy_of_what_they_lead_to(made: Path, tmp_path: Path) -> None:
    run = copied(made, tmp_path / "run")
    (only,) = (file for file in files_of(plan_gc(str(run))).values() if file.is_only and not file.is_chosen)
    (run / "epoch_00001").mkdir()
    for path in (run / only.place).iterdir():
        (run / "epoch_00001" / path.name).symlink_to(path)
    entry = read_catalog(str(run)).entry("epoch_00001")
    assert entry is not None
    assert entry.step == only.step
    assert not files_of(plan_gc(str(run)))[only.place].is_chosen


@pytest.mark.long
def test_killed_at_every_file_operation_no_step_is_lost_and_undo_says_truly(made: Path, memory_path: Path) -> None:
    run = copied(made, memory_path / "run")
    steps, everything = valid_steps(run), checkpoints_in(run)
    outside = tree_of(run, without=["set_aside"])
    operations = file_operations(partial(collect, plan_gc(str(run))))
    after = set(checkpoints_in(run))
    assert operations.count("rmdir") >= 1
    for number, operation in enumerate(operations, start=1):
        where = f"operation {number} ({operation})"
        run = copied(made, memory_path / "run")
        assert dies_at(number, partial(collect, plan_gc(str(run)))), where
        assert tree_of(run, without=["set_aside"]) == outside, where
        assert valid_steps(run) == steps, where
        told = {f"set_aside/{deed.number}/{one.name}" for deed in journal.read_deeds(str(run)) for one in deed.freed}
        for name, content in everything.items():
            is_whole = (run / name).is_dir() and tree_of(run / name) == content
            assert is_whole or name in told, f"{name} is not whole, and nothing says so: {where}"
        undo_says_truly(copied(run, memory_path / "undone"))
        rest = plan_gc(str(run))
        if not rest.is_empty:
            collect(rest)
        assert set(checkpoints_in(run)) == after, where
