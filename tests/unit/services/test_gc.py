"""What a plan of gc chooses, file by file: only what it was asked for, and it says what each is and why."""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services import journal, validity
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_rollback
from ckpt_tui.services.undo import plan_undo
from ckpt_tui.text import size
from tests.builders.deed_histories import made as made
from tests.builders.deed_histories import random_plan, trained
from tests.builders.deed_histories import run as run
from tests.builders.run_directories import damage, let_age, run_directory, save
from tests.builders.set_aside import chosen, copied, files_of, going, undo_says_truly, valid_steps
from tests.builders.trees import tree_of

DEAD = 2**22 + 1
LONG_AGO = 1_700_000_000


def disk_bytes(directory: Path) -> int:
    files = {path.stat().st_ino: path.stat().st_size for path in directory.rglob("*") if path.is_file()}
    return sum(files.values())


def journals(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("journal.json"))


class TestPlan:
    def test_what_nothing_else_has_stays_and_why_is_said(self, run: Path) -> None:
        before = tree_of(run)
        plan = plan_gc(str(run))
        assert tree_of(run) == before
        files = files_of(plan)
        assert {place: (file.is_chosen, file.why, file.copy) for place, file in files.items()} == {
            "set_aside/1/latest.pt": (True, "damaged", ""),
            "set_aside/1/registry.json": (True, "only a list of the others", ""),
            "set_aside/2/latest.pt": (False, "the only copy", ""),
            "set_aside/2/rolling_step_000400.pt": (True, "has a copy", "set_aside/2/latest.pt"),
            "set_aside/2/rolling_last_backup.pt": (True, "has a copy", "set_aside/2/latest.pt"),
            "set_aside/2/registry.json": (False, "`undo` needs it", ""),
            "set_aside/4/best_model.pt": (True, "has a copy", "rolling_step_000200.pt"),
            "set_aside/4/latest.pt": (
                False,
                "frees nothing, hard link of rolling_step_000200.pt",
                "rolling_step_000200.pt",
            ),
            "set_aside/4/registry.json": (False, "`undo` needs it", ""),
        }
        assert going(plan) == {place for place, file in files.items() if file.is_chosen}
        assert plan.items[1].why == "nothing else here has latest.pt (step 400)"
        assert (plan.no_undo, plan.less_undo) == (
            (1,),
            {2: ("rolling_step_000400.pt", "rolling_last_backup.pt"), 4: ("best_model.pt",)},
        )
        assert "Then `undo` cannot bring back what deed 1 changed." in plan.sentences
        assert "Then `undo --redo` does deed 3 again without best_model.pt." in plan.sentences

    def test_what_it_says_of_undo_is_what_undo_then_says(self, run: Path) -> None:
        collect(plan_gc(str(run)))
        deeds = {deed.number: deed for deed in read_history(str(run)).deeds}
        assert [(deeds[n].state, deeds[n].can_undo, deeds[n].can_redo) for n in (1, 2, 4)] == [
            ("collected", False, False), ("done", True, False), ("done", False, True)
        ]  # fmt: skip
        assert [(one.name, one.copy) for one in deeds[2].freed] == [
            ("rolling_step_000400.pt", "set_aside/2/latest.pt"), ("rolling_last_backup.pt", "set_aside/2/latest.pt")
        ]  # fmt: skip
        assert plan_gc(str(run)).is_empty, "once is enough"
        undo_says_truly(run)
        assert read_catalog(str(run)).resume_would_take == "latest.pt"

    def test_a_hard_link_of_the_run_goes_once_the_run_has_it_no_more_and_a_copy_stays(self, run: Path) -> None:
        assert not files_of(plan_gc(str(run)))["set_aside/4/latest.pt"].is_chosen
        (run / "rolling_step_000200.pt").unlink()  # by the training's retention
        file = files_of(plan_gc(str(run)))["set_aside/4/latest.pt"]
        assert (file.is_chosen, file.copy) == (True, "best_model_previous.pt")

    def test_damage_of_which_nothing_valid_has_the_step_is_said_with_the_way_to_salvage_it(self, run: Path) -> None:
        assert not plan_gc(str(run)).warnings
        for place in (
            "set_aside/2/latest.pt",
            "set_aside/2/rolling_step_000400.pt",
            "set_aside/2/rolling_last_backup.pt",
        ):
            (run / place).unlink()
        plan = plan_gc(str(run))
        file = files_of(plan)["set_aside/1/latest.pt"]
        assert (file.is_chosen, file.is_only, file.why) == (True, True, "damaged, no other of its step")
        assert any(f"ckpt-tui salvage {run}/set_aside/1/latest.pt -o OUT" in warning for warning in plan.warnings)

    def test_bytes_are_those_that_the_disk_gets_back(self, run: Path) -> None:
        for select in (plan_gc, partial(plan_gc, every=True)):
            plan = select(str(run))
            before = disk_bytes(run) - journals(run)
            assert collect(plan).freed_bytes == before - (disk_bytes(run) - journals(run)) == plan.freed_bytes > 0
            assert (
                plan.freed_bytes < sum(item.size_bytes for item in plan.items if item.is_chosen)
                or select is not plan_gc
            )

    def test_bytes_that_have_another_name_elsewhere_stay_and_that_is_said(self, run: Path) -> None:
        for name in ("one more name.pt", "and another.pt"):  # of the same bytes, in the same folder
            (run / "set_aside/1" / name).hardlink_to(run / "set_aside/1/latest.pt")
            deed = journal.read_deed(str(run), 1)
            assert deed is not None
            deed.moves.append(journal.Move(name, "remove"))
            journal.write_deed(str(run), deed)
        size_bytes = (run / "set_aside/1/latest.pt").stat().st_size
        plan = plan_gc(str(run), [1])
        assert not any("hard links" in sentence for sentence in plan.sentences)
        assert size_bytes <= plan.freed_bytes < 2 * size_bytes, "counted once"
        (run / "mine.pt").hardlink_to(run / "set_aside/1/latest.pt")
        plan = plan_gc(str(run), [1])
        assert (
            f"{size(size_bytes)} stay on the disk: the same bytes have other names, too (hard links)." in plan.sentences
        )
        assert plan.freed_bytes < size_bytes

    def test_deeds_by_number_age_and_count(self, run: Path) -> None:
        assert chosen(plan_gc(str(run), [2])) == ["set_aside/2/"]
        assert any("Nothing else here has what is freed" in warning for warning in plan_gc(str(run), [2]).warnings)
        assert chosen(plan_gc(str(run), keep=2)) == ["set_aside/1/"]
        assert chosen(plan_gc(str(run), keep=9)) == []
        assert chosen(plan_gc(str(run), older_than_s=3600)) == []
        assert chosen(plan_gc(str(run), every=True)) == ["set_aside/1/", "set_aside/2/", "set_aside/4/"]
        with pytest.raises(CkptError, match="No such deed"):
            plan_gc(str(run), [7])

    def test_of_several_that_are_aside_one_stays_of_the_newest_deed_and_the_name_that_says_most(
        self, tmp_path: Path
    ) -> None:
        directory = run_directory(tmp_path / "run")
        carry_out(plan_rollback(str(directory), "300"))
        data = (directory / "set_aside/1/rolling_step_000400.pt").read_bytes()
        carry_out(plan_rollback(str(directory), "200"))
        (directory / "set_aside/2/rolling_step_000400.pt").write_bytes(data)
        deed = journal.read_deed(str(directory), 2)
        assert deed is not None
        deed.moves.append(journal.Move("rolling_step_000400.pt", "remove"))
        journal.write_deed(str(directory), deed)
        at_400 = [file for file in files_of(plan_gc(str(directory))).values() if file.step == 400]
        assert {file.place for file in at_400 if not file.is_chosen} == {"set_aside/2/rolling_step_000400.pt"}
        assert {file.place for file in at_400 if file.is_chosen} == {
            "set_aside/1/latest.pt", "set_aside/1/rolling_step_000400.pt", "set_aside/1/rolling_last_backup.pt"
        }  # fmt: skip

    @pytest.mark.parametrize("how", ["damaged", "another session", "weights only", "gone"])
    def test_only_a_valid_copy_of_the_same_session_counts(self, run: Path, how: str) -> None:
        aside = run / "set_aside/4/best_model.pt"  # of step 200, as rolling_step_000200.pt and best_model_previous.pt
        assert "set_aside/4/best_model.pt" in going(plan_gc(str(run)))
        data = aside.read_bytes()
        aside.unlink()
        aside.write_bytes(data)
        for path in run.glob("*.pt"):
            if path.name in ("rolling_step_000200.pt", "best_model_previous.pt"):
                path.unlink()
        good = run / "rolling_step_000200.pt"
        if how == "damaged":
            save(good, 200)
            damage(good)
            let_age(good)
        elif how == "another session":
            good.write_bytes(data)
            status = good.stat()
            row = {
                "path": good.name, "kind": "rolling", "step": 200, "bytes": status.st_size, "mtime": status.st_mtime,
                "session": 2, "session_id": "another",
            }  # fmt: skip
            (run / "registry.json").write_text(json.dumps({"version": 1, "checkpoints": [row]}))
        elif how == "weights only":
            from tests.builders.run_directories import torch_zip, training_state

            good.write_bytes(torch_zip({"model": training_state(200)["model"], "step": 200}))
        (run / "set_aside/4/latest.pt").unlink()
        plan = plan_gc(str(run))
        assert "set_aside/4/best_model.pt" not in going(plan), plan.items

    def test_a_symbolic_link_is_no_copy_of_what_it_leads_to(self, tmp_path: Path) -> None:
        run = run_directory(tmp_path / "run")
        carry_out(plan_rollback(str(run), "300"))
        (run / "good.pt").symlink_to("set_aside/1/latest.pt")
        assert read_catalog(str(run)).entry("good.pt") is not None
        staying = [file.place for file in files_of(plan_gc(str(run))).values() if not file.is_chosen]
        assert staying == ["set_aside/1/latest.pt"]
        for path in run.glob("*.pt"):
            if not path.is_symlink():
                path.unlink()
        assert plan_gc(str(run), [1]).refusals, "what the link leads to is the last one"

    def test_a_symbolic_link_that_was_set_aside_stays_for_undo(self, tmp_path: Path) -> None:
        """Lightning's `last.ckpt`, with `save_last="link"`."""
        for step in (100, 200):
            save(tmp_path / f"step={step}.ckpt", step)
        (tmp_path / "last.ckpt").symlink_to("step=200.ckpt")
        before = tree_of(tmp_path)
        carry_out(plan_rollback(str(tmp_path), "100"))
        plan = plan_gc(str(tmp_path))
        assert plan.is_empty
        assert [(file.name, file.why) for file in files_of(plan).values()] == [
            ("last.ckpt", "frees nothing, a symbolic link"), ("step=200.ckpt", "the only copy")
        ]  # fmt: skip
        assert going(plan_gc(str(tmp_path), [1])) == {"set_aside/1/last.ckpt", "set_aside/1/step=200.ckpt"}
        carry_out(plan_undo(str(tmp_path)))
        assert {name: data for name, data in tree_of(tmp_path).items() if "set_aside" not in name} == before

    @pytest.mark.parametrize("is_trained_on", [False, True])
    def test_a_symbolic_link_goes_with_what_it_leads_to(self, tmp_path: Path, is_trained_on: bool) -> None:
        for step in (100, 200):
            save(tmp_path / f"step={step}.ckpt", step)
        (tmp_path / "last.ckpt").symlink_to("step=200.ckpt")
        carry_out(plan_rollback(str(tmp_path), "100"))
        (tmp_path / "mine.ckpt").write_bytes((tmp_path / "set_aside/1/step=200.ckpt").read_bytes())
        if is_trained_on:
            save(tmp_path / "step=200.ckpt", 200, val_loss=0.5)
        plan = plan_gc(str(tmp_path))
        assert [(file.name, file.is_chosen, file.why) for file in files_of(plan).values()] == [
            ("last.ckpt", False, "frees nothing, a symbolic link") if is_trained_on
            else ("last.ckpt", True, "a link to what goes"),
            ("step=200.ckpt", True, "has a copy"),
        ]  # fmt: skip
        collect(plan)
        if (undo := read_history(str(tmp_path)).next_undo) is not None:
            carry_out(plan_undo(str(tmp_path)))
        assert (undo == 1) == is_trained_on, "nothing is left of what it set aside"
        assert (tmp_path / "last.ckpt").exists(), "a link to nothing would stop a resume"
        assert (tmp_path / "last.ckpt").is_symlink() == is_trained_on

    @pytest.mark.parametrize("how", ["whole", "damaged, its time set back", "decayed for a day", "edited by a person"])
    def test_a_copy_is_valid_now_and_what_the_trainer_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        run = run_directory(tmp_path / "run")
        carry_out(plan_rollback(str(run), "300"))
        name = "latest_edited.pt" if how == "edited by a person" else "rolling_step_000400.pt"
        save(run / name, 400, val_loss=0.123)
        for folder in (run, run / "set_aside/1"):
            rows = [
                {"path": path.name, "kind": "latest", "step": 400, "bytes": path.stat().st_size,
                 "mtime": path.stat().st_mtime, "session": 1, "session_id": "one"}
                for path in (folder.glob("*.pt") if folder != run else [run / name])
            ]  # fmt: skip
            (folder / "registry.json").write_text(json.dumps({"version": 1, "checkpoints": rows}))
        let_age(run / "set_aside/1/registry.json")
        at_400 = {f"set_aside/1/{name}" for name in ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt")}
        if how != "edited by a person":
            assert at_400 <= going(plan_gc(str(run)))
        if how in ("damaged, its time set back", "decayed for a day"):
            times = (run / name).stat()
            damage(run / name)
            os.utime(run / name, ns=(times.st_atime_ns, times.st_mtime_ns))
            known = validity.recall(str(run / name))
            assert known is not None
            assert known.verdict == "valid", "by its size and its time"
        if how == "decayed for a day":
            later = time.time() + 86400
            monkeypatch.setattr(time, "time", lambda: later)  # nothing tells of it, not even the time of its change
            monkeypatch.setattr(validity, "_CLOCK_TICK_NS", -(10**15))
        assert (at_400 <= going(plan_gc(str(run)))) == (how == "whole")
        assert len(at_400 - going(plan_gc(str(run)))) == (how != "whole")

    def test_last_valid_checkpoint_of_a_directory_needs_force(self, run: Path) -> None:
        for path in run.glob("*.pt"):
            path.unlink()
        plan = plan_gc(str(run), every=True)
        assert plan.refusals
        before = tree_of(run)
        with pytest.raises(CkptError, match="No valid checkpoint would be left"):
            collect(plan)
        assert tree_of(run) == before
        collect(plan, force=True)
        assert not list(run.rglob("*.pt"))


class TestWhatIsNotOurs:
    def test_strangers_unreadable_journals_and_other_folders_stay(self, run: Path) -> None:
        (run / "set_aside/1/thesis.txt").write_text("mine")
        (run / "set_aside/photos").mkdir()
        (run / "set_aside/9").mkdir()
        (run / "set_aside/9/only.pt").write_bytes(b"x")
        (run / "set_aside/9/journal.json").write_text("{")
        plan = plan_gc(str(run), every=True)
        assert any("set_aside/1/thesis.txt is not of ckpt-tui" in warning for warning in plan.warnings)
        collect(plan)
        assert (run / "set_aside/1/thesis.txt").read_text() == "mine"
        assert (run / "set_aside/photos").is_dir()
        assert (run / "set_aside/9/only.pt").read_bytes() == b"x"

    def test_link_out_of_the_directory_is_removed_as_a_link(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "precious").write_text("mine")
        (run / "set_aside/1/latest.pt").unlink()
        (run / "set_aside/1/latest.pt").symlink_to(tmp_path / "elsewhere")
        collect(plan_gc(str(run), [1]))
        assert not (run / "set_aside/1/latest.pt").is_symlink()
        assert (tmp_path / "elsewhere" / "precious").read_text() == "mine"

    @pytest.mark.parametrize("name", ["set_aside", "set_aside/1", "quarantine"])
    def test_nothing_is_removed_through_a_link(self, run: Path, tmp_path: Path, name: str) -> None:
        (run / "quarantine").mkdir()
        about = {
            "schema": "ckpt-tui/quarantine/1",
            "path": "latest.pt",
            "to": "quarantine/latest_x.pt",
            "why": "",
            "at": 1,
        }
        (run / "quarantine/latest_x.json").write_text(json.dumps(about))
        (run / "quarantine/latest_x.pt").write_bytes(b"bad")
        (run / name).rename(tmp_path / "elsewhere")
        (run / name).symlink_to(tmp_path / "elsewhere")
        before = tree_of(tmp_path / "elsewhere")
        plan = plan_gc(str(run), every=True, quarantine=True)
        assert any("behind a link" in item.why for item in plan.items)
        assert not [path for item in plan.items if item.is_chosen for path in item.paths if path.startswith(f"{name}/")]
        if name == "set_aside":
            with pytest.raises(CkptError, match="is a link; nothing was freed"):
                collect(plan)
        elif not plan.is_empty:
            collect(plan)
        assert tree_of(tmp_path / "elsewhere") == before

    def test_only_temporary_files_of_processes_that_are_gone(self, run: Path) -> None:
        dead = [f".registry.json.tmp-{DEAD}", f".tmp-latest.pt-{DEAD}-0", f".tmp-rolling_step_000500-{DEAD}-3"]
        alive = [
            f".registry.json.tmp-{os.getpid()}", f".tmp-latest.pt-{os.getpid()}-1", f".thesis.tmp-{DEAD}",
            f"latest.pt.tmp-{DEAD}", f".tmp-thesis.txt-{DEAD}-1", ".tmp-latest.pt", f".launch.json.tmp-{DEAD}",
        ]  # fmt: skip
        for name in (*dead, *alive):
            if name.startswith(".tmp-rolling"):
                (run / name).mkdir()
                (run / name / "model.pt").write_bytes(b"half")
            else:
                (run / name).write_bytes(b"half")
            os.utime(run / name, (LONG_AGO, LONG_AGO))
        os.utime(run / alive[-1])  # of a moment ago
        plan = plan_gc(str(run), keep=9)
        assert chosen(plan) == sorted(dead)
        collect(plan)
        assert not [name for name in dead if (run / name).exists()]
        assert all((run / name).exists() for name in alive)

    def test_what_interrupted_deeds_left_goes_but_not_what_a_live_process_writes(self, run: Path) -> None:
        folder = run / "set_aside/3"
        (folder / "incoming").mkdir()
        (folder / "incoming/latest.pt").write_bytes(b"a copy on its way")
        (folder / f".journal.json.tmp-{DEAD}").write_bytes(b"{")
        (folder / f".journal.json.tmp-{os.getpid()}").write_bytes(b"{")
        plan = plan_gc(str(run), keep=9)
        assert sorted(chosen(plan)) == [f"set_aside/3/.journal.json.tmp-{DEAD}", "set_aside/3/incoming"]
        collect(plan)
        assert {path.name for path in folder.iterdir()} == {"journal.json", f".journal.json.tmp-{os.getpid()}"}
        assert plan_undo(str(run)).takes_back == (2,), "no deed was collected"

    @pytest.mark.parametrize("how", ["another host", "no log", "running"])
    def test_temporary_files_of_whom_nothing_is_certain_stay(self, run: Path, how: str) -> None:
        name = f".tmp-latest.pt-{DEAD}-0"
        (run / name).write_bytes(b"half")
        os.utime(run / name, (LONG_AGO, LONG_AGO))
        assert name in chosen(plan_gc(str(run)))
        if how == "another host":
            log = (run / "events.jsonl").read_text()
            (run / "events.jsonl").write_text(log.replace(f'"{os.uname().nodename}"', '"elsewhere"'))
        elif how == "no log":
            (run / "events.jsonl").unlink()
        (run / "trainer.lock").write_text("{}")
        with open(run / "trainer.lock") as lock:
            if how == "running":
                fcntl.flock(lock, fcntl.LOCK_EX)
            assert name not in chosen(plan_gc(str(run)))


class TestQuarantine:
    @pytest.fixture
    def quarantined(self, run: Path) -> Path:
        from trainer.checkpoint.quarantine import quarantine

        damage(run / "rolling_step_000300.pt")
        quarantine(str(run), "rolling_step_000300.pt", "its checksum differs", "checksum")
        (run / "quarantine" / "mine.pt").write_bytes(b"put here by hand")
        return run

    def test_only_when_asked_and_only_what_the_trainer_put_there(self, quarantined: Path) -> None:
        plan = plan_gc(str(quarantined), keep=9)
        assert chosen(plan) == []
        assert [item.why for item in plan.items if item.kind == "quarantine"] == ["only with --quarantine"] * 2
        plan = plan_gc(str(quarantined), keep=9, quarantine=True)
        assert len(chosen(plan)) == 1
        collect(plan)
        assert [path.name for path in (quarantined / "quarantine").iterdir()] == ["mine.pt"]
        assert plan_gc(str(quarantined), keep=9, quarantine=True).is_empty

    def test_note_without_its_checkpoint_is_a_leftover(self, quarantined: Path) -> None:
        for path in (quarantined / "quarantine").glob("rolling*.pt"):
            path.unlink()
        plan = plan_gc(str(quarantined), keep=9)
        assert [item.kind for item in plan.items if item.is_chosen] == ["leftover"]
        collect(plan)
        assert [path.name for path in (quarantined / "quarantine").iterdir()] == ["mine.pt"]


def test_another_branch_of_a_run_that_tells_no_sessions_is_no_copy(tmp_path: Path) -> None:
    """Rolled back and trained on: the new checkpoint has the step and the name of the one that was set aside."""
    run = run_directory(tmp_path / "run")
    carry_out(plan_rollback(str(run), "300"))
    aside = (run / "set_aside/1/rolling_step_000400.pt").read_bytes()
    save(run / "rolling_step_000400.pt", 400, val_loss=2.1)
    plan = plan_gc(str(run))
    assert not files_of(plan)["set_aside/1/latest.pt"].is_chosen
    assert "nothing else here has" in plan.items[0].why
    (run / "rolling_step_000400.pt").write_bytes(aside)
    assert files_of(plan_gc(str(run)))["set_aside/1/latest.pt"].copy == "rolling_step_000400.pt"


def test_from_the_shell(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["gc", str(run), "--json", "--dry-run"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert [(item["number"], item["chosen"]) for item in data["items"]] == [(1, True), (2, True), (4, True)]
    assert main(["gc", str(run), "set_aside/2", "--yes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["done"], data["num_freed"]) == (True, 1)
    assert main(["gc", str(run), "--older-than", "1w"]) == 0
    assert "not old enough" in capsys.readouterr().out
    for wrong in (["x"], ["--older-than", "soon"], ["--keep", "-1"], ["1", "--all"], ["77"]):
        before = tree_of(run)
        assert main(["gc", str(run), "--yes", *wrong]) == 2, wrong
        assert capsys.readouterr().err.startswith("error: ")
        assert tree_of(run) == before


@pytest.mark.parametrize("seed", range(6))
def test_no_step_is_lost_by_default_in_any_history(memory_path: Path, seed: int) -> None:
    """Deeds, undos, redos, a training that writes and removes, damage, and gc in between, without --all."""
    chance = random.Random(seed)
    directory = run_directory(memory_path / "run")
    for _ in range(16):
        what = chance.choice(["restore", "rollback", "undo", "redo", "train", "damage", "gc", "gc"])
        if what == "train":
            trained(directory, chance.randrange(100, 900))
        elif what == "damage":
            path = chance.choice(sorted(directory.glob("*.pt")))
            data = path.read_bytes()
            path.unlink()  # not through a hard link
            path.write_bytes(data)
            damage(path)
            let_age(path)
        elif what == "gc":
            before = valid_steps(directory)
            plan = plan_gc(str(directory), keep=chance.choice([0, 0, 1]))
            if not plan.is_empty:
                collect(plan)
            assert valid_steps(directory) == before
            undo_says_truly(copied(directory, memory_path / "undone"))
        else:
            try:
                acted = random_plan(what, directory, chance, [])
            except CkptError:
                continue
            if not acted.is_empty:
                carry_out(acted)
    if read_history(str(directory)).size_bytes:
        collect(plan_gc(str(directory), every=True), force=True)
    assert read_history(str(directory)).size_bytes == 0
