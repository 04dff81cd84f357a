"""gc frees only what it was asked for, says what that costs, and is whole or plainly told where it is interrupted."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.services import journal
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import GcPlan, collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from ckpt_tui.text import size
from tests.builders.crashing import failing_at, file_operations, killed_at
from tests.builders.run_directories import damage, let_age, run_directory, save
from tests.builders.trees import tree_of
from tests.unit.services.test_undo_of_any_depth import random_plan, three_deeds, trained

DEAD = 2**22 + 1
LONG_AGO = 1_700_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four deeds: a restore, two rollbacks, and an undo of the second one; of what the first set aside there is a copy,
    what the second one did is the only one of step 400."""
    directory = tmp_path_factory.mktemp("made") / "run"
    three_deeds(directory)
    carry_out(plan_undo(str(directory)))
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path / "run")


def copied(start: Path, directory: Path) -> Path:
    """With the hard links that a run has."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    known: dict[int, Path] = {}
    for path in sorted(start.rglob("*")):
        new = directory / path.relative_to(start)
        if path.is_dir():
            new.mkdir()
        elif path.stat().st_ino in known:
            os.link(known[path.stat().st_ino], new)
        else:
            shutil.copy2(path, new)
            known[path.stat().st_ino] = new
    return directory


def chosen(plan: GcPlan) -> list[str]:
    return [item.name for item in plan.items if item.is_chosen]


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
        assert chosen(plan) == ["set_aside/1/", "set_aside/4/"]
        (stays,) = [item for item in plan.items if not item.is_chosen]
        assert stays.why.startswith("nothing else here has latest.pt (step 400)")
        assert plan.no_undo == (1, 4)
        assert "Then `undo` cannot bring back what deed 1 changed." in plan.sentences
        assert "Then `undo --redo` cannot do deed 3 again." in plan.sentences

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
        assert chosen(plan_gc(str(run), keep=1)) == ["set_aside/1/"]
        assert chosen(plan_gc(str(run), keep=9)) == []
        assert chosen(plan_gc(str(run), older_than_s=3600)) == []
        assert chosen(plan_gc(str(run), every=True)) == ["set_aside/1/", "set_aside/2/", "set_aside/4/"]
        with pytest.raises(CkptError, match="No such deed"):
            plan_gc(str(run), [7])

    def test_of_two_that_are_aside_the_newer_one_stays(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        carry_out(plan_rollback(str(directory), "300"))
        data = (directory / "set_aside/1/rolling_step_000400.pt").read_bytes()
        carry_out(plan_rollback(str(directory), "200"))
        (directory / "set_aside/2/rolling_step_000400.pt").write_bytes(data)
        deed = journal.read_deed(str(directory), 2)
        assert deed is not None
        deed.moves.append(journal.Move("rolling_step_000400.pt", "remove"))
        journal.write_deed(str(directory), deed)
        assert chosen(plan_gc(str(directory))) == ["set_aside/1/"]

    @pytest.mark.parametrize("how", ["damaged", "another session", "weights only", "gone"])
    def test_only_a_valid_copy_of_the_same_session_counts(self, run: Path, how: str) -> None:
        aside = run / "set_aside/4/best_model.pt"  # of step 200, as rolling_step_000200.pt and best_model_previous.pt
        assert "set_aside/4/" in chosen(plan_gc(str(run)))
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
        assert "set_aside/4/" not in chosen(plan), plan.items

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


class TestBesideOthers:
    def test_deeds_are_freed_beside_a_live_training_and_the_quarantine_is_not(self, run: Path) -> None:
        (run / "quarantine").mkdir()
        (run / "quarantine/latest_x.pt").write_bytes(b"bad")
        (run / "trainer.lock").write_text("{}")
        with open(run / "trainer.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plan = plan_gc(str(run), quarantine=True)
            assert chosen(plan) == ["set_aside/1/", "set_aside/4/"]
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
            assert whole == before[number] or deed.state == journal.COLLECTED, number
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

    def test_kill_at_every_file_operation(self, made: Path, memory_path: Path) -> None:
        directory = copied(made, memory_path / "run")
        before, outside = self.held(directory), self.outside(directory)
        operations = file_operations(partial(collect, plan_gc(str(directory), every=True)))
        after = self.held(directory)
        assert operations.count("unlink") == 9
        undoable = 0
        for number, operation in enumerate(operations, start=1):
            directory = copied(made, memory_path / "run")
            assert killed_at(number, partial(collect, plan_gc(str(directory), every=True))), operation
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
            rest = plan_gc(str(directory), every=True)
            if not rest.is_empty:
                collect(rest)
            assert {n: set(files) for n, files in self.held(directory).items()} == {
                n: set(files) for n, files in after.items()
            }, f"the next gc frees the rest: {operation}"
        assert 0 < undoable < len(operations)

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
    assert any("no longer there" in warning for warning in plan.warnings)
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


def test_from_the_shell(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["gc", str(run), "--json", "--dry-run"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert [(item["number"], item["chosen"]) for item in data["items"]] == [(1, True), (2, False), (4, True)]
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


def valid_steps(directory: Path) -> set[int | None]:
    folders = [directory, *(directory / "set_aside").glob("[0-9]*")]
    entries = [entry for folder in folders for entry in read_catalog(str(folder), check="full").entries]
    return {entry.step for entry in entries if entry.validity == "valid"}


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


def test_another_branch_of_a_run_that_tells_no_sessions_is_no_copy(tmp_path: Path) -> None:
    """Rolled back and trained on: the new checkpoint has the step and the name of the one that was set aside."""
    run = run_directory(tmp_path / "run")
    carry_out(plan_rollback(str(run), "300"))
    aside = (run / "set_aside/1/rolling_step_000400.pt").read_bytes()
    save(run / "rolling_step_000400.pt", 400, val_loss=2.1)
    plan = plan_gc(str(run))
    assert plan.is_empty
    assert "nothing else here has" in plan.items[0].why
    (run / "rolling_step_000400.pt").write_bytes(aside)
    assert chosen(plan_gc(str(run))) == ["set_aside/1/"]


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
