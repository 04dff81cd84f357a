"""What interruptions, other writers and full disks do to gc: it is whole, or plainly told, and `undo` says truly what
can and cannot come back."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.services import journal
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from tests.builders.crashing import dies_at, failing_at, file_operations
from tests.builders.deed_histories import made as made
from tests.builders.deed_histories import run as run
from tests.builders.run_directories import damage, let_age, run_directory
from tests.builders.set_aside import chosen, copied, going, undo_says_truly, valid_steps
from tests.builders.trees import tree_of


class TestBesideOthers:
    def test_deeds_are_freed_beside_a_live_training_and_the_quarantine_is_not(self, run: Path) -> None:
        (run / "quarantine").mkdir()
        (run / "quarantine/latest_x.pt").write_bytes(b"bad")
        (run / "trainer.lock").write_text("{}")
        with open(run / "trainer.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plan = plan_gc(str(run), quarantine=True)
            assert chosen(plan) == ["set_aside/1/", "set_aside/2/", "set_aside/4/"]
            assert [item.why for item in plan.items if item.kind == "quarantine"] == ["a training is running here"]
            collect(plan)
        assert not (run / "set_aside/1/latest.pt").exists()

    def test_refused_while_another_viewer_is_at_work(self, run: Path) -> None:
        plan = plan_gc(str(run))
        before = tree_of(run)
        with journal.locked(str(run)), pytest.raises(CkptError, match="Another viewer"):
            collect(plan)
        assert tree_of(run) == before

    @pytest.mark.parametrize("what", ["aside", "stands in", "undone since"])
    def test_plan_that_does_not_fit_any_more_frees_nothing(self, run: Path, what: str) -> None:
        plan = plan_gc(str(run))
        if what == "aside":
            (run / "set_aside/4/best_model.pt").write_bytes(b"changed")
        elif what == "stands in":
            (run / "rolling_step_000200.pt").unlink()  # by the training's retention
        else:
            carry_out(plan_redo(str(run)))
        before = tree_of(run)
        with pytest.raises(CkptError, match="has changed"):
            collect(plan)
        assert tree_of(run) == before


def test_cancelled_plans_and_deeds_leave_everything(run: Path) -> None:
    before = tree_of(run)
    for plan_it in (plan_gc, partial(plan_undo, to=1), plan_redo):
        with pytest.raises(Cancelled):
            plan_it(str(run), is_cancelled=lambda: True)
    with pytest.raises(Cancelled):
        collect(plan_gc(str(run)), is_cancelled=lambda: True)
    assert tree_of(run) == before


class TestInterrupted:
    def outside(self, directory: Path) -> dict[str, bytes | None]:
        return tree_of(directory, without=["set_aside"])

    def held(self, directory: Path) -> dict[int, dict[str, bytes | None]]:
        aside = directory / "set_aside"
        return {int(path.name): tree_of(path, without=["journal.json"]) for path in sorted(aside.iterdir())}

    def is_told(self, directory: Path, before: dict[int, dict[str, bytes | None]]) -> None:
        """Each deed still has everything, or says that it cannot be taken back."""
        for number, files in self.held(directory).items():
            deed = journal.read_deed(str(directory), number)
            assert deed is not None
            whole = {name: data for name, data in files.items() if ".tmp-" not in name}
            freed = {one.name for one in deed.freed}
            assert set(before[number]) - set(whole) <= freed, number
            assert deed.state != journal.COLLECTED or freed == set(before[number]), number
            assert set(whole.items()) <= set(before[number].items()), "no file is torn"

    def says_freed(self, directory: Path) -> None:
        try:
            plan = plan_undo(str(directory))
        except CkptError as error:
            said = error.message
        else:
            assert plan.is_empty
            said = plan.sentences[0]
        assert "freed by gc" in said

    @pytest.mark.parametrize(
        ("only_in_part", "every"),
        [
            (False, 7),
            (True, 7),
            pytest.param(False, 1, marks=pytest.mark.long),
            pytest.param(True, 1, marks=pytest.mark.long),
        ],
    )
    def test_kill_at_file_operations(self, made: Path, memory_path: Path, only_in_part: bool, every: int) -> None:
        plan_it = partial(plan_gc, every=not only_in_part)
        directory = copied(made, memory_path / "run")
        before, outside = self.held(directory), self.outside(directory)
        steps = valid_steps(directory)
        operations = file_operations(partial(collect, plan_it(str(directory))))
        after = self.held(directory)
        assert operations.count("unlink") == (5 if only_in_part else 9)
        undoable = 0
        for number in range(1, len(operations) + 1, every):
            operation = operations[number - 1]
            directory = copied(made, memory_path / "run")
            assert dies_at(number, partial(collect, plan_it(str(directory)))), operation
            self.is_told(directory, before)
            assert self.outside(directory) == outside
            history = read_history(str(directory))
            for deed in history.deeds:
                assert deed.can_undo or deed.can_redo or deed.why_not, (operation, deed)
            if history.next_undo is not None:
                undoable += 1
                assert plan_undo(str(directory)).takes_back == (history.next_undo,)
            else:
                self.says_freed(directory)
            undo_says_truly(copied(directory, memory_path / "undone"))
            rest = plan_it(str(directory))
            if not rest.is_empty:
                collect(rest)
            assert {n: set(files) for n, files in self.held(directory).items()} == {
                n: set(files) for n, files in after.items()
            }, f"the next gc frees the rest: {operation}"
            assert not only_in_part or valid_steps(directory) == steps, operation
        assert undoable if only_in_part else 0 < undoable < len(operations)

    @pytest.mark.parametrize("forever", [False, True])
    def test_error_at_every_file_operation(self, made: Path, memory_path: Path, forever: bool) -> None:
        directory = copied(made, memory_path / "run")
        before, outside = self.held(directory), self.outside(directory)
        total = len(file_operations(partial(collect, plan_gc(str(directory), every=True))))
        num_failed = 0
        for number in range(1, total + 1, 5 if forever else 2):
            directory = copied(made, memory_path / "run")
            plan = plan_gc(str(directory), every=True)
            with failing_at(number, OSError(errno.EIO, os.strerror(errno.EIO)), forever=forever):
                try:
                    collect(plan)
                except CkptError as error:
                    num_failed += 1
                    said = error
            assert said.title
            assert said.hint
            self.is_told(directory, before)
            assert self.outside(directory) == outside
            assert not plan_gc(str(directory), every=True).is_empty or number > total - 4
        assert num_failed >= (total - 2) // (5 if forever else 2)


def test_after_gc_undo_says_what_is_gone_and_goes_beyond_it(run: Path) -> None:
    damaged = (run / "set_aside/1/latest.pt").read_bytes()
    collect(plan_gc(str(run), [2]))
    with pytest.raises(CkptError, match=r"Cannot be taken back.*what set_aside/2/ held was freed by gc") as caught:
        plan_undo(str(run))
    assert "--to 1" in caught.value.hint
    plan = plan_undo(str(run), to=1)
    (said,) = [warning for warning in plan.warnings if warning.startswith("Freed by gc at")]
    assert said.endswith("rolling_last_backup.pt, rolling_step_000400.pt do not come back.")
    carry_out(plan)
    assert (run / "latest.pt").read_bytes() == damaged


def test_after_everything_is_freed_there_is_nothing_to_undo_and_new_deeds_work(run: Path) -> None:
    collect(plan_gc(str(run), every=True))
    plan = plan_undo(str(run))
    assert plan.is_empty
    assert "freed by gc" in plan.sentences[0]
    damage(run / "latest.pt")
    let_age(run / "latest.pt")
    outcome = carry_out(plan_restore(str(run), ["latest.pt"]))
    assert outcome.number == 5, "numbers are never used again"
    carry_out(plan_undo(str(run)))
    assert [deed.state for deed in read_history(str(run)).deeds][:2] == ["collected", "collected"]


def test_on_a_full_disk_what_goes_makes_the_room_to_say_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_deed, plan = journal.write_deed, plan_gc(str(run), [2])
    (paths,) = [item.paths for item in plan.items if item.is_chosen]

    def full(directory: str, deed: journal.Deed) -> None:
        if all((run / path).exists() for path in paths):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_deed(directory, deed)

    monkeypatch.setattr(journal, "write_deed", full)
    collect(plan)
    assert not [path for path in paths if (run / path).exists()]
    assert read_history(str(run)).deeds[1].state == "collected"


def test_a_disk_that_stays_full_is_said(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(directory: str, deed: journal.Deed) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "write_deed", full)
    with pytest.raises(CkptError, match="No space left"):
        collect(plan_gc(str(run), [2]))
    assert "no longer there" in read_history(str(run)).deeds[1].why_not


def test_what_a_copy_in_another_deed_is_freed_for_has_to_be_there_still(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    carry_out(plan_rollback(str(run), "300"))
    shutil.copy2(run / "set_aside/1/rolling_step_000400.pt", run / "rolling_step_000400.pt")
    carry_out(plan_rollback(str(run), "300"))
    plan = plan_gc(str(run))
    assert chosen(plan) == ["set_aside/1/"]  # for what the second one set aside
    collect(plan_gc(str(run), [2]), force=True)
    with pytest.raises(CkptError, match=r"set_aside/2/rolling_step_000400\.pt is not what it was"):
        collect(plan)
    assert (run / "set_aside/1/rolling_step_000400.pt").exists()


def test_undo_of_what_gc_freed_in_part_does_not_bring_the_score_of_a_best_back_that_is_gone(run: Path) -> None:
    """With the score of a best that is no longer there, no later best would ever be one."""
    registry = run / "registry.json"
    registry.write_text(json.dumps({"version": 1, "checkpoints": [], "best": {"metric": "val_loss", "value": 1.5}}))
    shutil.copy2(run / "best_model.pt", run / "best_of_all.pt")  # the copy for which the other may go
    carry_out(plan_rollback(str(run), "200"))
    told = json.loads(registry.read_text())
    (number,) = [one.number for one in read_history(str(run)).deeds if one.can_undo and one.number > 4]
    (run / f"set_aside/{number}/best_of_all.pt").rename(run / "best_of_all.pt")
    best = run / f"set_aside/{number}/best_model.pt"
    plan = plan_gc(str(run))
    assert best.relative_to(run).as_posix() in going(plan)
    collect(plan)
    undo = plan_undo(str(run))
    carry_out(undo)
    assert any("best_model.pt stays as it is" in warning for warning in undo.warnings)
    assert json.loads(registry.read_text())["best"] == told["best"] != {"metric": "val_loss", "value": 1.5}
