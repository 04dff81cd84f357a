"""A checkpoint that the trainer moved to quarantine comes back under its name, validated, and that can be undone."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.put_back import plan_put_back
from ckpt_tui.services.quarantine import read_quarantine
from ckpt_tui.services.restore import carry_out, plan_restore
from ckpt_tui.services.undo import plan_undo
from tests.builders.crashing import dies_at, file_operations
from tests.builders.run_directories import damage, let_age, run_directory, save
from tests.builders.trees import tree_of
from trainer.checkpoint.quarantine import quarantine

GROWS = ["events.jsonl", "set_aside"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = run_directory(tmp_path / "run")
    save(directory / "emergency_step_000500_20260101_101010.pt", 500)
    return directory


def moved(directory: Path, name: str) -> str:
    return quarantine(str(directory), name, "rank 1 could not read it", "unreadable")


def test_what_lies_there_is_told_with_what_it_was(run: Path) -> None:
    size = (run / "best_model.pt").stat().st_size
    place = moved(run, "best_model.pt")
    (run / "quarantine" / "by_hand.pt").write_bytes(b"x")
    (one,) = [one for one in read_quarantine(str(run)) if one.place == place]
    assert (one.name, one.why, one.size_bytes) == ("best_model.pt", "rank 1 could not read it", size)
    assert sorted(one.name for one in read_quarantine(str(run))) == ["", "best_model.pt"]


@pytest.mark.parametrize("name", ["best_model.pt", "emergency_step_000500_20260101_101010.pt"])
def test_valid_one_comes_back_and_undo_takes_it_away_again(run: Path, name: str) -> None:
    data = (run / name).read_bytes()
    place = moved(run, name)
    before = tree_of(run, without=GROWS)
    plan = plan_restore(str(run), [place])
    assert tree_of(run, without=GROWS) == before
    assert [(step.action, step.source, step.target) for step in plan.steps] == [("copy", place, name)]
    carry_out(plan)
    assert (run / name).read_bytes() == data
    assert (run / place).read_bytes() == data, "and stays in quarantine until gc frees it"
    if name.startswith("emergency"):
        assert (plan.resume_takes, plan.resume_step) == (name, 500)
        assert read_catalog(str(run)).resume_would_take == name
    carry_out(plan_undo(str(run)))
    assert tree_of(run, without=GROWS) == before


def test_what_has_its_name_by_now_is_set_aside(run: Path) -> None:
    place = moved(run, "latest.pt")
    newer = save(run / "latest.pt", 600)
    plan = plan_put_back(str(run), [place])
    assert any("the present latest.pt" in sentence for sentence in plan.sentences)
    outcome = carry_out(plan)
    assert (run / outcome.set_aside[0]).read_bytes() == newer


def test_one_that_is_still_bad_needs_force(run: Path) -> None:
    damage(run / "latest.pt")
    let_age(run / "latest.pt")
    data = (run / "latest.pt").read_bytes()
    place = moved(run, "latest.pt")
    before = tree_of(run, without=GROWS)
    with pytest.raises(CkptError, match="Still not valid") as caught:
        plan_restore(str(run), [place])
    assert "salvage" in caught.value.hint
    assert tree_of(run, without=GROWS) == before
    plan = plan_restore(str(run), [place], force=True)
    assert any("a resume finds that again" in warning for warning in plan.warnings)
    assert plan.resume_step == 500, "a resume does not take it"
    carry_out(plan)
    assert (run / "latest.pt").read_bytes() == data
    carry_out(plan_undo(str(run)))
    assert tree_of(run, without=GROWS) == before


@pytest.mark.parametrize("recheck", [False, True])
def test_what_was_found_before_it_was_touched_is_not_believed(run: Path, recheck: bool) -> None:
    place = moved(run, "latest.pt")
    let_age(run / place)
    num_read: list[int] = []
    plan_restore(str(run), [place])
    plan_restore(str(run), [place], recheck=recheck, on_bytes=num_read.append)
    assert bool(num_read) == recheck, "what was read a moment ago does, unless it is asked for"
    status = (run / place).stat()
    damage(run / place)
    os.utime(run / place, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CkptError, match="Still not valid"):
        plan_restore(str(run), [place], recheck=recheck)


def test_what_is_not_there_or_not_known_is_refused(run: Path) -> None:
    place = moved(run, "latest.pt")
    (run / "quarantine" / "by_hand.pt").write_bytes((run / place).read_bytes())
    before = tree_of(run)
    for name, match in (("nowhere.pt", "Not in quarantine"), ("by_hand.pt", "Not known what it was")):
        with pytest.raises(CkptError, match=match):
            plan_restore(str(run), [f"quarantine/{name}"])
    with pytest.raises(CkptError, match="by itself"):
        plan_restore(str(run), [place, "best_model_previous.pt"])
    assert tree_of(run) == before


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_kill_at_any_file_operation_loses_nothing(run: Path, memory_path: Path, every: int) -> None:
    place = moved(run, "latest.pt")
    save(run / "latest.pt", 600)
    start = copied(run, memory_path / "start")
    directory = copied(start, memory_path / "run")
    operations = file_operations(partial(carry_out, plan_put_back(str(directory), [place])))
    after = tree_of(directory, without=GROWS)
    for number in range(1, len(operations) + 1, every):
        directory = copied(start, memory_path / "run")
        before = tree_of(directory, without=GROWS)
        assert dies_at(number, partial(carry_out, plan_put_back(str(directory), [place])))
        plan_undo(str(directory))
        assert tree_of(directory, without=GROWS) in (before, after), operations[number - 1]


def copied(start: Path, directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    return shutil.copytree(start, directory)


def test_from_the_shell_by_path_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = moved(run, "best_model.pt")
    assert main(["restore", str(run), str(run / place), "--yes"]) == 0
    assert f"{place} (step 300, valid) was copied to best_model.pt" in " ".join(capsys.readouterr().out.split())
    assert main(["restore", str(run), "quarantine/no.pt", "--yes"]) == 2
    assert "Not in quarantine" in capsys.readouterr().err
