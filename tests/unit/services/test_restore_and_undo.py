"""Restore, roll back, undo: the plan says what is done, the deed does it, and undo gives back the very same bytes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import CheckpointRestored
from ckpt_tui.services import validity
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback, plan_undo
from tests.builders.crashing import dies_at, file_operations
from tests.builders.run_directories import damage, let_age, run_directory, save
from tests.builders.trees import tree_of

# What an act may add to: the log, and the folder of what was set aside.
GROWS = ["events.jsonl", "set_aside"]


def damaged_run(directory: Path) -> Path:
    run_directory(directory)
    damage(directory / "latest.pt")
    let_age(directory / "latest.pt")
    return directory


def restored_events(directory: Path) -> list[CheckpointRestored]:
    lines = (directory / "events.jsonl").read_bytes().splitlines()
    return [event for event in map(decode, lines) if isinstance(event, CheckpointRestored)]


def with_registry(directory: Path) -> Path:
    rows = []
    for path in sorted(directory.glob("*.pt")):
        entry = read_catalog(str(directory)).entry(path.name)
        assert entry is not None
        status = path.stat()
        rows.append(
            {
                "path": path.name,
                "kind": entry.kind,
                "step": entry.step,
                "bytes": status.st_size,
                "mtime": status.st_mtime,
            }
        )
    (directory / "registry.json").write_text(json.dumps({"version": 1, "checkpoints": rows}))
    return directory


def test_plans_say_what_a_resume_takes_by_what_is_in_the_files(tmp_path: Path) -> None:
    """Whatever was remembered of them: a damaged file that an undo puts back is damaged again."""
    directory = damaged_run(tmp_path / "run")
    for name in ("rolling_step_000400.pt", "rolling_last_backup.pt", "best_model.pt", "best_model_backup.pt"):
        (directory / name).unlink(missing_ok=True)
    plan = plan_restore(str(directory), ["latest.pt"])
    assert (plan.resume_takes, plan.resume_step) == ("latest.pt", 300)
    assert "A resume then starts from latest.pt, step 300." in plan.sentences, "before it was rolling 300"
    carry_out(plan)
    undo = plan_undo(str(directory))
    assert (undo.resume_takes, undo.resume_step) == ("rolling_step_000300.pt", 300)


def test_what_a_plan_has_found_to_be_bad_it_does_not_let_a_resume_start_from(tmp_path: Path) -> None:
    """It was passed over as a source, and two lines above a resume started from it."""
    directory = damaged_run(tmp_path / "run")
    for path in directory.glob("*_backup.pt"):
        if path.name != "latest_backup.pt":
            path.unlink()
    damage(directory / "rolling_step_000400.pt")
    let_age(directory / "rolling_step_000400.pt")
    plan = plan_restore(str(directory))
    assert [warning for warning in plan.warnings if "rolling_step_000400.pt" in warning] == [
        "Passed over: rolling_step_000400.pt is damaged."
    ]
    assert plan.resume_takes != "rolling_step_000400.pt"
    assert not any("starts from rolling_step_000400.pt" in sentence for sentence in plan.sentences)


class TestRestore:
    def test_damaged_latest_comes_back_from_a_valid_file_of_the_same_step(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        before = tree_of(directory)
        plan = plan_restore(str(directory))
        assert tree_of(directory) == before, "a plan changes nothing"
        assert [(s.action, s.source, s.target, s.replaces) for s in plan.steps] == [
            ("copy", "rolling_step_000400.pt", "latest.pt", True)
        ]
        assert "latest.pt (step 400) is damaged" in plan.sentences[0]
        assert "rolling_step_000400.pt (step 400, valid) is copied to latest.pt." in plan.sentences
        outcome = carry_out(plan)
        assert outcome.set_aside == ("set_aside/1/latest.pt",)
        assert (directory / "latest.pt").read_bytes() == before["rolling_step_000400.pt"]
        assert (directory / "set_aside/1/latest.pt").read_bytes() == before["latest.pt"]
        assert (directory / "latest.pt").stat().st_ino != (directory / "rolling_step_000400.pt").stat().st_ino
        assert plan_restore(str(directory)).is_empty

    def test_without_a_file_of_the_same_step_the_backup_is_taken(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        for name in ("rolling_step_000400.pt", "rolling_last_backup.pt"):
            (directory / name).unlink()
        plan = plan_restore(str(directory))
        assert [(s.source, s.target) for s in plan.steps] == [("latest_backup.pt", "latest.pt")]

    def test_missing_file_is_put_back(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        (directory / "best_model.pt").unlink()
        plan = plan_restore(str(directory))
        assert [(s.source, s.target, s.replaces) for s in plan.steps] == [
            ("best_model_backup.pt", "best_model.pt", False)
        ]
        carry_out(plan)
        assert (directory / "best_model.pt").read_bytes() == (directory / "best_model_backup.pt").read_bytes()

    def test_damaged_backup_is_passed_over_for_the_next_one(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        damage(directory / "best_model.pt")
        damage(directory / "best_model_backup.pt")
        plan = plan_restore(str(directory), ["best_model.pt"])
        assert [s.source for s in plan.steps] == ["best_model_previous.pt"]
        assert any("best_model_backup.pt is damaged" in warning for warning in plan.warnings)

    def test_nothing_valid_to_restore_from_is_said_and_refused(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        for name in ("best_model.pt", "best_model_backup.pt", "best_model_previous.pt"):
            damage(directory / name)
        before = tree_of(directory)
        with pytest.raises(CkptError, match="No valid backup"):
            plan_restore(str(directory), ["best_model.pt"])
        plan = plan_restore(str(directory))
        assert plan.is_empty
        assert any("best_model.pt is damaged and stays so" in warning for warning in plan.warnings)
        assert plan.sentences == ("Nothing can be put back; a resume passes over what is damaged.",)
        assert tree_of(directory) == before

    def test_backup_named_by_a_person_replaces_even_a_valid_file(self, tmp_path: Path) -> None:
        """A lucky best that was a spike: the best before it comes back."""
        directory = run_directory(tmp_path / "run")
        before = tree_of(directory)
        assert plan_restore(str(directory), ["best_model.pt"]).is_empty
        carry_out(plan_restore(str(directory), ["best_model_previous.pt"]))
        assert (directory / "best_model.pt").read_bytes() == before["best_model_previous.pt"]
        assert (directory / "set_aside/1/best_model.pt").read_bytes() == before["best_model.pt"]

    def test_name_that_is_not_there_lists_what_is(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        with pytest.raises(CkptError, match="No such checkpoint") as caught:
            plan_restore(str(directory), ["lates.pt"])
        assert "latest.pt (step 400)" in caught.value.hint

    def test_nothing_damaged_is_an_empty_plan_that_cannot_be_carried_out(self, tmp_path: Path) -> None:
        plan = plan_restore(str(run_directory(tmp_path / "run")))
        assert plan.is_empty
        assert plan.sentences == ("Nothing to restore: no file with a backup is damaged or missing.",)
        with pytest.raises(CkptError, match="Nothing to do"):
            carry_out(plan)


class TestRollback:
    def test_newer_ones_of_every_kind_go_and_latest_becomes_the_target(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        save(directory / "emergency_step_000437_20260101_101010.pt", 437)
        before = tree_of(directory)
        plan = plan_rollback(str(directory), "200")
        assert plan.steps_given_up == 237
        assert plan.seconds_given_up == pytest.approx(237 * 0.5)
        assert "Given up: 237 steps, 1m 58s of training (steps 200 to 437)." in plan.sentences
        assert (plan.resume_takes, plan.resume_step) == ("latest.pt", 200)
        outcome = carry_out(plan)
        assert {path.name: read_catalog(str(directory)).entry(path.name).step for path in directory.glob("*.pt")} == {
            "latest.pt": 200, "rolling_step_000200.pt": 200, "best_model.pt": 200, "best_model_previous.pt": 200,
        }  # fmt: skip
        assert read_catalog(str(directory)).resume_would_take == plan.resume_takes == outcome.resume_would_take
        after = tree_of(directory / "set_aside" / "1", without=["journal.json"])
        gone = {
            name: data for name, data in before.items() if name.endswith(".pt") and tree_of(directory).get(name) != data
        }
        assert after == gone, "everything that left its name is set aside, byte for byte"
        assert plan_rollback(str(directory), "200").is_empty

    @pytest.mark.parametrize("to", ["300", "rolling_step_000300.pt", "best", "1,000", "3e2", "nowhere.pt", "../x.pt"])
    def test_target_by_step_name_or_word(self, tmp_path: Path, to: str) -> None:
        directory = run_directory(tmp_path / "run")
        if to in ("300", "rolling_step_000300.pt", "best"):
            assert plan_rollback(str(directory), to).resume_step == 300
        else:
            with pytest.raises(CkptError, match="No such checkpoint") as caught:
                plan_rollback(str(directory), to)
            assert "rolling_step_000200.pt (step 200)" in caught.value.hint

    def test_damaged_target_is_refused(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        damage(directory / "rolling_step_000200.pt")
        before = tree_of(directory)
        with pytest.raises(CkptError, match="Not good to resume from"):
            plan_rollback(str(directory), "rolling_step_000200.pt")
        assert tree_of(directory) == before

    def test_damaged_latest_of_the_targets_step_is_replaced(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        plan = plan_rollback(str(directory), "400")
        assert [(s.source, s.target) for s in plan.steps] == [("rolling_step_000400.pt", "latest.pt")]

    def test_directory_of_other_people_gets_no_latest(self, tmp_path: Path) -> None:
        for step in (100, 200, 300):
            save(tmp_path / f"epoch={step // 100}-step={step}.ckpt", step)
        plan = plan_rollback(str(tmp_path), "200")
        assert [(s.action, s.target) for s in plan.steps] == [("set aside", "epoch=3-step=300.ckpt")]
        carry_out(plan)
        assert read_catalog(str(tmp_path)).resume_would_take == "epoch=2-step=200.ckpt"


class TestUndo:
    @pytest.mark.parametrize("registry", [False, True])
    def test_gives_back_the_very_bytes_of_everything_at_any_depth(self, tmp_path: Path, registry: bool) -> None:
        directory = damaged_run(tmp_path / "run")
        if registry:
            with_registry(directory)
        states = []
        for plan_next in (plan_restore, lambda d: plan_rollback(d, "300"), lambda d: plan_rollback(d, "200")):
            states.append(tree_of(directory, without=GROWS))
            carry_out(plan_next(str(directory)))
            assert tree_of(directory, without=GROWS) != states[-1]
        for state in reversed(states):
            plan = plan_undo(str(directory))
            assert not plan.is_empty
            carry_out(plan)
            assert tree_of(directory, without=GROWS) == state
        last = plan_undo(str(directory))
        assert last.is_empty
        assert last.sentences == ("There is nothing to undo.",)

    def test_after_an_undo_a_new_deed_can_be_undone_again(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        before = tree_of(directory, without=GROWS)
        for _ in range(3):
            carry_out(plan_restore(str(directory)))
            carry_out(plan_undo(str(directory)))
            assert tree_of(directory, without=GROWS) == before

    def test_what_was_written_since_is_set_aside_not_lost(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        old = (directory / "latest.pt").read_bytes()
        carry_out(plan_restore(str(directory)))
        newer = save(directory / "new.pt", 500)
        (directory / "new.pt").replace(directory / "latest.pt")
        plan = plan_undo(str(directory))
        assert any("latest.pt was written since" in warning for warning in plan.warnings)
        outcome = carry_out(plan)
        assert (directory / "latest.pt").read_bytes() == old
        assert (directory / outcome.set_aside[0]).read_bytes() == newer

    def test_set_aside_file_that_somebody_removed_is_said(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        carry_out(plan_restore(str(directory)))
        (directory / "set_aside/1/latest.pt").unlink()
        with pytest.raises(CkptError, match=r"Cannot be taken back.*set_aside/1/latest.pt is no longer there"):
            plan_undo(str(directory))


class TestRecords:
    def test_each_deed_is_in_the_log_in_the_last_session(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        num_before = len((directory / "events.jsonl").read_bytes().splitlines())
        carry_out(plan_restore(str(directory)))
        (event,) = restored_events(directory)
        assert (event.path, event.source, event.by, event.session, event.step) == (
            "latest.pt", "rolling_step_000400.pt", "viewer", 1, 400,
        )  # fmt: skip
        assert event.seq == num_before + 1
        carry_out(plan_undo(str(directory)))
        assert [e.why for e in restored_events(directory)] == ["damaged or missing", "undo of a restore"]

    def test_directory_without_a_log_gets_none(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run", log=False)
        carry_out(plan_rollback(str(directory), "300"))
        assert not (directory / "events.jsonl").exists()

    def test_registry_follows_the_files(self, tmp_path: Path) -> None:
        directory = with_registry(run_directory(tmp_path / "run"))
        carry_out(plan_rollback(str(directory), "200"))
        rows = json.loads((directory / "registry.json").read_text())["checkpoints"]
        assert {row["path"]: row["step"] for row in rows} == {path.name: 200 for path in directory.glob("*.pt")}
        assert {row["path"]: row["kind"] for row in rows}["best_model.pt"] == "best"
        for row in rows:
            assert row["bytes"] == (directory / row["path"]).stat().st_size


class TestRefusals:
    def refused(self, directory: Path, plan: Plan, match: str) -> None:
        before = tree_of(directory)
        with pytest.raises(CkptError, match=match):
            carry_out(plan)
        assert tree_of(directory) == before

    def test_live_trainer(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        plan = plan_restore(str(directory))
        import psutil

        me = {
            "pid": os.getpid(),
            "pid_started": psutil.Process().create_time(),
            "host": os.uname().nodename,
            "started_at": 0.0,
        }
        (directory / "trainer.lock").write_text(json.dumps(me))
        with open(directory / "trainer.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refused(directory, plan, "A training is running here")
            assert any("has to be stopped first" in warning for warning in plan_restore(str(directory)).warnings)
            carry_out(plan, force=True)
        assert plan_restore(str(directory)).is_empty

    def test_another_viewer_that_holds_the_lock_of_a_dead_training_is_not_called_a_training(
        self, tmp_path: Path
    ) -> None:
        directory = damaged_run(tmp_path / "run")
        plan = plan_restore(str(directory))
        gone = {"pid": 2**22 + 7, "pid_started": 1.0, "host": os.uname().nodename, "started_at": 0.0}
        (directory / "trainer.lock").write_text(json.dumps(gone))
        with open(directory / "trainer.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # as `deed_lock.locked` does for the time of a copy
            self.refused(directory, plan, "Somebody else is at work here")
        carry_out(plan)

    def test_not_enough_space(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = damaged_run(tmp_path / "run")
        usage = shutil.disk_usage(directory)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        self.refused(directory, plan_restore(str(directory)), "Not enough space")

    def test_cancelled_at_any_moment_before_the_renames(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        plan = plan_restore(str(directory))
        before = tree_of(directory)
        asked: list[int] = []
        carry_out(plan, is_cancelled=lambda: asked.append(1) is not None)
        carry_out(plan_undo(str(directory)))
        plan, before, num_asked = plan_restore(str(directory)), tree_of(directory), len(asked)
        assert num_asked >= 3, "while it is copied, while it is read back, and before the first rename"
        for last in range(num_asked):
            asked.clear()
            with pytest.raises(Cancelled):
                carry_out(plan, is_cancelled=lambda last=last: (asked.append(1), len(asked) > last)[1])
            assert tree_of(directory) == before, last
        carry_out(plan)

    def test_cancelled_while_it_is_planned(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        before = tree_of(directory)
        for plan_it in (plan_restore, partial(plan_rollback, to="200")):
            with pytest.raises(Cancelled):
                plan_it(str(directory), is_cancelled=lambda: True)
            assert tree_of(directory) == before

    def test_read_only_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        directory = damaged_run(tmp_path / "run")
        plan = plan_restore(str(directory))
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        self.refused(directory, plan, "Read-only directory")

    def test_plan_that_is_out_of_date(self, tmp_path: Path) -> None:
        directory = damaged_run(tmp_path / "run")
        plan = plan_restore(str(directory))
        save(directory / "latest.pt", 401)
        before = tree_of(directory)
        with pytest.raises(CkptError, match="has changed"):
            carry_out(plan)
        assert tree_of(directory, without=["set_aside"]) == before

    def test_directory_that_went_after_the_plan(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        plan = plan_rollback(str(directory), "200")
        directory.rename(tmp_path / "moved")
        with pytest.raises(CkptError, match=r"Not found: .*is gone since this was planned"):
            carry_out(plan)
        assert [path.name for path in tmp_path.iterdir()] == ["moved"]

    def test_directory_that_is_not_there(self, tmp_path: Path) -> None:
        for plan_it in (plan_restore, plan_undo, lambda d: plan_rollback(d, "1")):
            with pytest.raises(CkptError, match="Not found"):
                plan_it(str(tmp_path / "nowhere"))


# Every third of them: the journal's own steps are walked one by one in `test_journal_crashes`.
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
def test_acts_killed_at_every_file_operation_lose_nothing(memory_path: Path, every: int) -> None:
    """Each act, really killed before file operations; then the next plan completes or cancels it, and says so."""
    original = with_registry(damaged_run(memory_path / "original"))
    rolled_back = memory_path / "rolled_back"
    shutil.copytree(original, rolled_back)
    carry_out(plan_rollback(str(rolled_back), "200"))
    acts = ((original, plan_restore), (original, partial(plan_rollback, to="200")), (rolled_back, plan_undo))
    for start, plan_it in acts:
        directory = copied(start, memory_path / "run")
        before = tree_of(directory, without=GROWS)
        checkpoints = {data for name, data in tree_of(directory).items() if name.endswith(".pt")}
        operations = file_operations(partial(carry_out, plan_it(str(directory))))
        after = tree_of(directory, without=GROWS)
        num_logged = len(restored_events(directory))
        for number, operation in [*enumerate(operations, start=1)][::every]:
            where = f"{plan_it}, operation {number} ({operation})"
            directory = copied(start, memory_path / "run")
            assert dies_at(number, partial(carry_out, plan_it(str(directory)))), where
            now = tree_of(directory, without=GROWS)
            assert {data for name, data in now.items() if name.endswith(".pt")} <= checkpoints, f"torn: {where}"
            assert "latest.pt" in now, where
            said = plan_undo(str(directory)).warnings
            now = tree_of(directory, without=GROWS)
            assert now in (before, after), f"half a deed: {where}"
            if now == after:
                assert len(restored_events(directory)) == num_logged, f"logged once: {where}"
            assert sum("interrupted" in sentence for sentence in said) <= 1, where
            assert checkpoints <= set(tree_of(directory).values()), f"lost: {where}"


def copied(start: Path, directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(start, directory)
    return directory


@pytest.mark.parametrize("act", ["restore", "rollback"])
def test_what_is_put_in_place_is_valid_now_and_not_only_by_what_is_remembered(tmp_path: Path, act: str) -> None:
    run = damaged_run(tmp_path / "run")

    def planned() -> Plan:
        return plan_restore(str(run), ["latest.pt"]) if act == "restore" else plan_rollback(str(run), "300")

    source = run / planned().sources[0].name
    times = source.stat()
    damage(source)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    known = validity.recall(str(source))
    assert known is not None
    assert known.verdict == "valid", "by its size and its time"
    found = planned()
    assert found.sources[0].name != source.name, "another one of its step"
    assert all(step.source != source.name for step in found.steps)
