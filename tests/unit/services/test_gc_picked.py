"""What gc frees when a person picks it thing by thing: just that, and of each it says what it is."""

from __future__ import annotations

import contextlib
import json
import random
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services import journal
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_rollback
from tests.builders.crashing import dies_at, file_operations
from tests.builders.deed_histories import made as made
from tests.builders.deed_histories import random_plan, trained
from tests.builders.deed_histories import run as run
from tests.builders.run_directories import run_directory
from tests.builders.set_aside import copied, files_of, going, undo_says_truly
from tests.builders.trees import tree_of


def test_just_these_go_and_each_says_what_it_is(run: Path) -> None:
    default = plan_gc(str(run))
    place, only = "set_aside/2/rolling_step_000400.pt", "set_aside/2/latest.pt"
    plan = plan_gc(str(run), picked=[only])
    files = files_of(plan)
    assert going(plan) == {only}
    assert (files[only].why, files[only].copy) == ("has a copy", place), "which stays now"
    assert files["set_aside/1/latest.pt"].why == "you keep it; damaged"
    assert not plan.warnings
    plan = plan_gc(str(run), picked=[only, place, "set_aside/2/rolling_last_backup.pt"])
    assert any("Nothing else here has what is freed with set_aside/2/" in warning for warning in plan.warnings)
    assert {file.is_only for file in files_of(plan).values() if file.is_chosen} == {True}
    assert going(plan_gc(str(run), picked=going(default))) == going(default)
    before = tree_of(run)
    collect(plan_gc(str(run), picked=[only]))
    gone = set(before) - set(tree_of(run))
    assert gone == {only}
    assert [one.name for one in read_history(str(run)).deeds[1].freed] == ["latest.pt"]


def test_what_may_not_go_stays_and_what_is_not_there_is_an_error(run: Path) -> None:
    (run / "quarantine").mkdir()
    (run / "quarantine/mine.pt").write_bytes(b"put here by hand")
    plan = plan_gc(str(run), picked=["quarantine/mine.pt"])
    assert plan.is_empty
    with pytest.raises(CkptError, match="Nothing of that name lies aside"):
        plan_gc(str(run), picked=["set_aside/2/../../latest.pt"])


def test_from_the_shell(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree_of(run)
    for wrong in (["set_aside/2/none.pt"], ["2", "set_aside/2/latest.pt"], ["set_aside/2/latest.pt", "--all"]):
        assert main(["gc", str(run), "--yes", *wrong]) == 2
        assert tree_of(run) == before
    capsys.readouterr()
    assert main(["gc", str(run), "set_aside/1/latest.pt", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["done"]
    assert set(before) - set(tree_of(run)) == {"set_aside/1/latest.pt"}


def test_a_path_as_a_shell_completes_it(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    (run.parent / "elsewhere.pt").write_bytes(b"mine")
    before = tree_of(run)
    for wrong in ("elsewhere.pt", "./elsewhere.pt", f"{run.name}/latest.pt", f"{run.name}/set_aside", run.name, "."):
        assert main(["gc", run.name, wrong, "--yes"]) == 2, wrong
        assert tree_of(run) == before
    assert main(["gc", run.name, f"{run.name}/set_aside/1/latest.pt", "--yes"]) == 0
    assert set(before) - set(tree_of(run)) == {"set_aside/1/latest.pt"}
    (run / "set_aside/1/latest.pt").symlink_to(run / "latest.pt")
    assert main(["gc", run.name, str(run / "set_aside/1/latest.pt"), "--yes"]) == 0
    assert not (run / "set_aside/1/latest.pt").is_symlink()
    assert (run / "latest.pt").exists()
    capsys.readouterr()
    assert main(["gc", run.name, f"./{run.name}/set_aside/2/", "--dry-run", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["data"]["items"]
    assert [item["number"] for item in items if item["chosen"]] == [2]


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_kill_at_file_operations(made: Path, memory_path: Path, every: int) -> None:
    """What was not picked is as it was; what was is there, or said to be gone; and picked again it goes."""
    picked = {"set_aside/2/latest.pt", "set_aside/2/registry.json", "set_aside/4/best_model.pt"}
    run = copied(made, memory_path / "run")
    start = {name: data for name, data in tree_of(run).items() if not name.endswith("journal.json")}
    operations = file_operations(partial(collect, plan_gc(str(run), picked=picked)))
    assert operations.count("unlink") == len(picked)
    for number in range(1, len(operations) + 1, every):
        run = copied(made, memory_path / "run")
        assert dies_at(number, partial(collect, plan_gc(str(run), picked=picked)))
        now = tree_of(run)
        assert set(start) - set(now) <= picked
        assert {name: now[name] for name in set(start) - picked} == {name: start[name] for name in set(start) - picked}
        told = {f"set_aside/{deed.number}/{one.name}" for deed in journal.read_deeds(str(run)) for one in deed.freed}
        assert set(start) - set(now) <= told <= picked
        undo_says_truly(copied(run, memory_path / "undone"))
        if rest := picked & set(now):
            collect(plan_gc(str(run), picked=rest))
        assert not picked & set(tree_of(run))


def contents(directory: Path) -> set[bytes]:
    return {path.read_bytes() for path in directory.rglob("*.pt")}


@pytest.mark.parametrize("seed", range(3))
def test_what_is_said_to_have_a_copy_has_one_in_any_history(memory_path: Path, seed: int) -> None:
    """A person picks at random, of what any deeds and a training left, and gc is killed now and then."""
    chance = random.Random(seed)
    run = run_directory(memory_path / "run")
    carry_out(plan_rollback(str(run), "200"))
    for _ in range(14):
        what = chance.choice(["restore", "rollback", "undo", "redo", "train", "pick", "pick"])
        if what == "train":
            trained(run, chance.randrange(100, 900))
        elif what == "pick":
            there = [file.place for item in plan_gc(str(run), every=True).items for file in item.files]
            picked = chance.sample(there, chance.randrange(len(there) + 1))
            if (plan := plan_gc(str(run), picked=picked)).is_empty:
                continue
            assert going(plan) <= set(picked)
            chosen = [file for file in files_of(plan).values() if file.is_chosen]
            told = {(run / file.place).read_bytes() for file in chosen if file.is_only}
            before = contents(run)
            dies_at(chance.randrange(1, 40), partial(collect, plan, force=True))
            assert before - contents(run) <= told
        else:
            with contextlib.suppress(CkptError):
                if not (plan_of_deed := random_plan(what, run, chance, [])).is_empty:
                    before = contents(run)
                    carry_out(plan_of_deed)
                    assert before <= contents(run)
