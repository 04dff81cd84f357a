"""A deed that was killed in its renames, in a copy of the directory: completed there, or named as what it is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.services import journal
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback, plan_undo
from tests.builders.crashing import file_operations, killed_at
from tests.builders.run_directories import damage, let_age, run_directory
from tests.builders.trees import tree_of
from tests.unit.services.test_directory_acts_killed import checkpoints_in, damaged_run

Act = Callable[[Path], Plan]
ACTS: dict[str, Act] = {
    "restore": lambda run: plan_restore(str(run)),
    "rollback": lambda run: plan_rollback(str(run), "300"),
}


def trained(run: Path) -> Path:
    run_directory(run)
    damage(run / "latest.pt")
    damage(run / "best_model.pt")
    let_age(run)
    return run


def checkpoints_of(run: Path) -> dict[str, bytes]:
    """What the run's own names hold."""
    return {path.name: path.read_bytes() for path in run.glob("*.pt")}


def renames(act: Act, run: Path) -> list[int]:
    """The numbers of the operations of an act that change names; it is done."""
    names = file_operations(partial(carry_out, act(run)))
    return [number for number, name in enumerate(names, start=1) if name in ("rename", "replace", "link", "unlink")]


def cp(how: str, source: Path, target: Path) -> Path:
    subprocess.run(["cp", how, str(source), str(target)], check=True, timeout=60)
    return target


@pytest.mark.parametrize("act", [pytest.param("restore", marks=pytest.mark.long), "rollback"])
def test_a_copy_with_its_times_is_completed_or_cleaned_up(tmp_path: Path, act: str) -> None:
    start = trained(tmp_path / "start")
    whole = cp("-a", start, tmp_path / "whole")
    before = checkpoints_of(whole)
    numbers = renames(ACTS[act], whole)
    after = checkpoints_of(whole)
    assert after != before
    num_completed = 0
    for number in numbers:
        run, copy = tmp_path / f"run{number}", tmp_path / f"copy{number}"
        cp("-a", start, run)
        assert killed_at(number, partial(carry_out, ACTS[act](run)))
        cp("-a", run, copy)
        _, said = begin(str(copy))
        assert checkpoints_of(copy) in (before, after), (number, said)
        assert not any("somebody" in sentence for sentence in said), said
        if any("now completed here" in sentence for sentence in said):
            num_completed += 1
            assert checkpoints_of(copy) == after
            carry_out(plan_undo(str(copy)))
            assert checkpoints_of(copy) == before
    assert num_completed > 2


def test_a_copy_without_its_times_is_left_alone_and_said_to_be_one(tmp_path: Path) -> None:
    start = trained(tmp_path / "start")
    numbers = renames(ACTS["restore"], cp("-a", start, tmp_path / "whole"))
    num_told = 0
    for number in numbers[::2]:
        run, copy = tmp_path / f"run{number}", tmp_path / f"copy{number}"
        cp("-a", start, run)
        killed_at(number, partial(carry_out, plan_restore(str(run))))
        cp("-r", run, copy)
        for path in copy.rglob("*"):
            os.utime(path, ns=(number, number))
        held = {name: data for name, data in tree_of(copy).items() if not name.endswith("journal.json")}
        _, said = begin(str(copy))
        if any("keeps no times" in sentence for sentence in said):
            num_told += 1
            now = tree_of(copy)
            assert now.items() >= held.items(), "nothing changed its name"
            assert [deed.state for deed in read_history(str(copy)).deeds] == ["conflict"]
            assert begin(str(copy))[1] == [], "it is said once"
    assert num_told > 1


def test_a_directory_that_tar_moved_is_completed(tmp_path: Path) -> None:
    """Which keeps the times to the second."""
    start = trained(tmp_path / "start")
    before = checkpoints_of(start)
    whole = cp("-a", start, tmp_path / "whole")
    numbers = renames(ACTS["rollback"], whole)
    run, moved = start, tmp_path / "moved"
    for number in numbers[len(numbers) // 3 :]:
        run = cp("-a", start, tmp_path / f"run{number}")
        killed_at(number, partial(carry_out, ACTS["rollback"](run)))
        if checkpoints_of(run) not in (before, checkpoints_of(whole)):
            break
    assert checkpoints_of(run) not in (before, checkpoints_of(whole))
    moved.mkdir()
    subprocess.run(f"tar -C {run} -cf - . | tar -C {moved} -xf -", shell=True, check=True, timeout=60)
    _, said = begin(str(moved))
    assert "now completed here" in said[0]
    assert checkpoints_of(moved) == checkpoints_of(whole)
    carry_out(plan_undo(str(moved)))
    assert checkpoints_of(moved) == before
    again = tmp_path / "again"
    again.mkdir()
    subprocess.run(f"tar -C {whole} -cf - . | tar -C {again} -xf -", shell=True, check=True, timeout=60)
    plan = plan_undo(str(again))
    assert not any("while it lay aside" in warning or "written since" in warning for warning in plan.warnings), (
        plan.warnings
    )
    carry_out(plan)
    assert checkpoints_of(again) == before


def test_a_copy_whose_journal_is_older_than_its_files_is_left_alone_and_refuses_nothing(tmp_path: Path) -> None:
    start = trained(tmp_path / "start")
    numbers = renames(ACTS["rollback"], cp("-a", start, tmp_path / "whole"))
    run = cp("-a", start, tmp_path / "run")
    killed_at(numbers[len(numbers) // 2], partial(carry_out, ACTS["rollback"](run)))
    copy = cp("-a", run, tmp_path / "copy")
    deed = journal.read_deed(str(copy), 1)
    assert deed is not None
    deed.state = journal.INTENT
    journal.write_deed(str(copy), deed)
    held = {name: data for name, data in tree_of(copy).items() if not name.endswith("journal.json")}
    _, said = begin(str(copy))
    assert "its journal here is older than its files" in said[0]
    assert tree_of(copy).items() >= held.items(), "nothing was removed, and nothing changed its name"
    assert begin(str(copy))[1] == [], "it is said once"
    carry_out(plan_rollback(str(copy), "200"))


@pytest.mark.long
@pytest.mark.parametrize("act", ["restore", "rollback"])
def test_a_copy_of_directories_is_completed_or_cleaned_up(tmp_path: Path, act: str) -> None:
    start = damaged_run(tmp_path / "start")
    plan_it: Act = ACTS["restore"] if act == "restore" else lambda run: plan_rollback(str(run), "10")
    whole = cp("-a", start, tmp_path / "whole")
    before = checkpoints_in(whole)
    names = file_operations(partial(carry_out, plan_it(whole)))
    after = {name: held for name, held in checkpoints_in(whole).items() if "set_aside" not in name}
    num_completed = 0
    for number in range(1, len(names) + 1):
        run, copy = tmp_path / f"run{number}", tmp_path / f"copy{number}"
        cp("-a", start, run)
        assert killed_at(number, partial(carry_out, plan_it(run)))
        cp("-a", run, copy)
        _, said = begin(str(copy))
        assert not any("somebody" in sentence for sentence in said), said
        now = {name: held for name, held in checkpoints_in(copy).items() if "set_aside" not in name}
        assert now in (before, after), (number, said)
        num_completed += any("now completed here" in sentence for sentence in said)
        shutil.rmtree(run)
        shutil.rmtree(copy)
    assert num_completed > 2
