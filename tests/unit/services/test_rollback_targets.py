"""Roll back to whatever a person may mean, in whatever layout: and what is taken next is that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import CheckpointRestored
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.owner import run_state
from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback, plan_undo
from ckpt_tui.services.resume import plan_resume
from tests.builders.distributed import deepspeed
from tests.builders.frameworks import accelerate, hf_trainer, write_json
from tests.builders.run_directories import damage, run_directory, save
from tests.builders.trees import tree_of
from tests.trainer.faults.states import state_at
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.state import NEEDED

GROWS = ["events.jsonl", "set_aside", "registry.json", "trainer.lock"]


def train(run: Path, steps: Sequence[int], wanted: str | None = None, form: str = "dir") -> str | None:
    """One session of the trainer's own checkpoints; gives what it started from."""
    with Checkpointer(
        run, Policy(is_async=False, checkpoint_format=form), needed=NEEDED, say=lambda line: None
    ) as checkpoints:
        source = checkpoints.find(wanted) if wanted is not None else None
        for step in steps:
            checkpoints.save(state_at(step, width=200), {"rolling", "best"})
    return source.name if source is not None else None


def inode(path: Path) -> int:
    return (path / "model.pt" if path.is_dir() else path).stat().st_ino


def acts(plan: Plan) -> list[tuple[str, str, str]]:
    return [(step.action, step.source, step.target) for step in plan.steps]


class TestDirectoriesOfOurTrainer:
    def test_damaged_latest_and_what_shared_its_bytes_come_back_from_the_backup(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        train(run, (10, 20, 30))
        assert inode(run / "latest") == inode(run / "rolling_step_000030")
        with open(run / "latest" / "model.pt", "r+b") as file:
            file.truncate(400)
        before = tree_of(run, without=GROWS)
        plan = plan_restore(str(run))
        assert acts(plan) == [
            ("copy", "rolling_last_backup", "latest"),
            ("link", "latest", "rolling_step_000030"),
            ("copy", "best_model_backup", "best_model"),
        ]
        assert "rolling_last_backup holds at every level: structure, integrity, numbers, resume." in plan.sentences
        assert "rolling_step_000030 becomes one more name of the new latest, as it was." in plan.sentences
        carry_out(plan, force=True)  # this very process wrote the log
        assert inode(run / "latest") == inode(run / "rolling_step_000030") != inode(run / "rolling_last_backup")
        assert inode(run / "best_model") != inode(run / "best_model_backup")
        assert tree_of(run / "latest") == tree_of(run / "rolling_last_backup")
        assert train(run, (), "auto") == plan.resume_takes == "latest"
        carry_out(plan_undo(str(run)), force=True)
        assert tree_of(run, without=GROWS) == before

    def test_missing_latest_is_put_back(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        train(run, (10, 20))
        shutil.rmtree(run / "latest")
        plan = plan_restore(str(run))
        assert [step.target for step in plan.steps] == ["latest"]
        carry_out(plan, force=True)
        assert train(run, (), "auto") == "latest"

    def test_latest_after_a_rollback_is_an_independent_copy_and_the_trainer_goes_on_from_it(
        self, tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        train(run, (10, 20, 30))
        before = tree_of(run, without=GROWS)
        plan = plan_rollback(str(run), "10")
        assert ("copy", "rolling_step_000010", "latest") in acts(plan)
        carry_out(plan, force=True)
        assert inode(run / "latest") != inode(run / "rolling_step_000010")
        rows = {row["path"]: row for row in json.loads((run / "registry.json").read_text())["checkpoints"]}
        assert {name: row["step"] for name, row in rows.items()} == {"latest": 10, "rolling_step_000010": 10}
        assert (rows["latest"]["kind"], rows["rolling_step_000010"]["kind"]) == ("latest", "rolling")
        carry_out(plan_undo(str(run)), force=True)
        assert tree_of(run, without=GROWS) == before
        carry_out(plan_rollback(str(run), "rolling_step_000010/"), force=True)
        assert train(run, (15,), "auto") == "latest"
        assert read_catalog(str(run)).resume_would_take == "latest"


class TestCopyOrName:
    def test_where_another_set_of_bytes_stays_latest_is_one_more_name(self, tmp_path: Path) -> None:
        run = run_directory(tmp_path / "run")  # of step 300: rolling, latest_backup, best and its backup, each its own
        plan = plan_rollback(str(run), "rolling_step_000300.pt")
        assert ("link", "rolling_step_000300.pt", "latest.pt") in acts(plan)
        assert plan.bytes_needed == 0
        carry_out(plan)
        assert inode(run / "latest.pt") == inode(run / "rolling_step_000300.pt") != inode(run / "latest_backup.pt")

    def test_a_damaged_one_is_no_other_set_of_bytes(self, tmp_path: Path) -> None:
        run = run_directory(tmp_path / "run")
        for name in ("latest_backup.pt", "best_model.pt", "best_model_backup.pt"):
            damage(run / name)
        assert ("copy", "rolling_step_000300.pt", "latest.pt") in acts(
            plan_rollback(str(run), "rolling_step_000300.pt")
        )

    def test_without_room_for_a_copy_it_is_one_more_name_and_that_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = run_directory(tmp_path / "run")
        (run / "best_model_previous.pt").unlink()
        usage = shutil.disk_usage(run)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        plan = plan_rollback(str(run), "200")
        assert ("link", "rolling_step_000200.pt", "latest.pt") in acts(plan)
        assert any("a bad sector would take both" in warning for warning in plan.warnings)
        carry_out(plan)
        assert plan_rollback(str(run), "200").is_empty


class TestWhatAPersonMayWrite:
    @pytest.mark.parametrize(
        "to", ["1200", "1,200", "1_200", "1'200", "1 200", "1.200", "step 1200", "epoch 3", "EPOCH_3"]
    )
    def test_step_and_epoch(self, tmp_path: Path, to: str) -> None:
        run = run_directory(tmp_path / "run")
        save(run / "epoch_00003.pt", 1200)
        save(run / "latest.pt", 1300)
        assert plan_rollback(str(run), to).resume_step == 1200

    def test_a_name_is_a_name_before_it_is_a_number(self, tmp_path: Path) -> None:
        save(tmp_path / "300.pt", 100)
        save(tmp_path / "last.pt", 300)
        assert plan_rollback(str(tmp_path), "300.pt").resume_step == 100

    def test_a_step_of_several_branches_that_were_left_has_to_be_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from dataclasses import replace

        from ckpt_tui.services import rollback

        run = run_directory(tmp_path / "run")
        catalog = read_catalog(str(run))
        branch = {"rolling_step_000200.pt": "a", "best_model_previous.pt": "b"}
        entries = tuple(
            replace(e, is_abandoned=e.name in branch, session_id=branch.get(e.name, "c")) for e in catalog.entries
        )
        monkeypatch.setattr(rollback, "read_catalog", lambda directory: replace(catalog, entries=entries))
        with pytest.raises(CkptError, match=r"Which one\?.*rolling_step_000200\.pt"):
            plan_rollback(str(run), "200")

    def test_weights_only_are_no_target(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file
        from torch import ones

        run = run_directory(tmp_path / "run")
        save_file({"w": ones(3)}, run / "best_model.safetensors")
        with pytest.raises(CkptError, match=r"weights only|Step not known"):
            plan_rollback(str(run), "best_model.safetensors")


class TestFromOutside:
    def test_a_path_is_copied_in_becomes_latest_and_the_trainer_goes_on_from_it(self, tmp_path: Path) -> None:
        other, run = tmp_path / "other", tmp_path / "run"
        train(other, (15,), form="file")
        train(run, (10, 20), form="file")
        before = tree_of(run, without=GROWS)
        plan = plan_rollback(str(run), str(other / "best_model.pt"))
        assert ("copy", str(other / "best_model.pt"), "rolling_step_000015.pt") in acts(plan)
        assert ("link", "rolling_step_000015.pt", "latest.pt") in acts(plan)
        carry_out(plan, force=True)
        assert (run / "latest.pt").read_bytes() == (other / "best_model.pt").read_bytes()
        assert inode(run / "latest.pt") == inode(run / "rolling_step_000015.pt") != inode(other / "best_model.pt")
        # Also where nothing is known of where it came from.
        assert train(run, (), "auto") == plan.resume_takes == read_catalog(str(run)).resume_would_take == "latest.pt"
        carry_out(plan_undo(str(run)), force=True)
        assert tree_of(run, without=GROWS) == before
        assert train(run, (), "auto") == read_catalog(str(run)).resume_would_take

    def test_a_directory_into_a_run_of_directories(self, tmp_path: Path) -> None:
        other, run = tmp_path / "other", tmp_path / "run"
        train(other, (15,))
        train(run, (10,))
        carry_out(plan_rollback(str(run), str(other / "latest")), force=True)
        assert tree_of(run / "latest") == tree_of(run / "rolling_step_000015") == tree_of(other / "latest")
        assert train(run, (16,), "auto") == "latest"

    def test_what_was_set_aside_can_be_the_target(self, tmp_path: Path) -> None:
        run = run_directory(tmp_path / "run")
        carry_out(plan_rollback(str(run), "200"))
        plan = plan_rollback(str(run), "set_aside/1/rolling_step_000300.pt")
        assert plan.resume_step == 300
        carry_out(plan)
        assert {e.name: e.step for e in read_catalog(str(run)).entries}["rolling_step_000300.pt"] == 300

    def test_a_taken_name_gets_a_number_as_the_trainer_gives_them(self, tmp_path: Path) -> None:
        run = run_directory(tmp_path / "run")
        save(tmp_path / "mine.pt", 300, val_loss=1.0)
        plan = plan_rollback(str(run), str(tmp_path / "mine.pt"))
        assert ("copy", str(tmp_path / "mine.pt"), "rolling_step_000300_session_1.pt") in acts(plan)

    @pytest.mark.parametrize("kind", ["damaged", "text", "nothing", "fifo"])
    def test_what_is_no_good_checkpoint_is_refused(self, tmp_path: Path, kind: str) -> None:
        run = run_directory(tmp_path / "run")
        path = tmp_path / "other.pt"
        if kind == "damaged":
            save(path, 300)
            damage(path)
        elif kind == "text":
            path.write_text("not a checkpoint")
        elif kind == "fifo":
            os.mkfifo(path)
        before = tree_of(run)
        with pytest.raises(CkptError):
            plan_rollback(str(run), str(path))
        assert tree_of(run) == before


class TestOtherPeoplesLayouts:
    def hugging_face(self, directory: Path, steps: Sequence[int]) -> Path:
        for step in steps:
            path = directory / f"checkpoint-{step}"
            path.mkdir(parents=True)
            hf_trainer(path)
            write_json(path / "trainer_state.json", {"global_step": step, "epoch": 0.5, "log_history": []})
        return directory

    @pytest.mark.parametrize("rule", ["its words", pytest.param("its code", marks=pytest.mark.long)])
    def test_hugging_face(self, tmp_path: Path, rule: str) -> None:
        def get_last_checkpoint(directory: str) -> str:
            if rule == "its code":  # 10 s to import
                from transformers import trainer_utils

                return str(trainer_utils.get_last_checkpoint(directory))
            names = [name for name in os.listdir(directory) if name.startswith("checkpoint-")]
            return os.path.join(directory, max(names, key=lambda name: int(name.split("-")[1])))

        run = self.hugging_face(tmp_path / "run", (100, 500, 1000))
        before = tree_of(run)
        carry_out(plan_rollback(str(run), "500"))
        assert get_last_checkpoint(str(run)) == str(run / "checkpoint-500")
        assert sorted(os.listdir(run)) == ["checkpoint-100", "checkpoint-500", "set_aside"]
        outside = self.hugging_face(tmp_path / "other", (700,)) / "checkpoint-700"
        carry_out(plan_rollback(str(run), str(outside)))
        assert get_last_checkpoint(str(run)) == str(run / "checkpoint-700")
        carry_out(plan_undo(str(run)))
        carry_out(plan_undo(str(run)))
        assert tree_of(run, without=["set_aside"]) == before

    def test_lightning_takes_the_last_that_was_written(self, tmp_path: Path) -> None:
        place = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
        place.mkdir(parents=True)
        (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").write_text("step,loss\n1,2.0\n")
        for step in (100, 200, 300):
            save(place / f"epoch={step // 100}-step={step}.ckpt", step)
        save(place / "last.ckpt", 300)
        save(place / "last-v1.ckpt", 250)
        before = tree_of(tmp_path)
        carry_out(plan_rollback(str(tmp_path), "200"))
        there = {path.name: path for path in place.iterdir()}
        assert sorted(there) == ["epoch=1-step=100.ckpt", "epoch=2-step=200.ckpt", "last.ckpt"]
        assert there["last.ckpt"].read_bytes() == there["epoch=2-step=200.ckpt"].read_bytes()
        taken = read_catalog(str(tmp_path)).resume_would_take
        assert taken == "lightning_logs/version_0/checkpoints/last.ckpt"
        carry_out(plan_undo(str(tmp_path)))
        assert tree_of(tmp_path, without=["set_aside"]) == before

    def test_deepspeeds_and_megatrons_pointers_follow(self, tmp_path: Path) -> None:
        for name in ("global_step3", "global_step5"):
            deepspeed(tmp_path / name)
        (tmp_path / "latest").write_text("global_step5")
        plan = plan_rollback(str(tmp_path), "global_step3")
        assert "latest names global_step3 instead of global_step5." in plan.sentences
        assert [(step.action, step.target) for step in plan.steps if step.action == "write"] == [("write", "latest")]
        carry_out(plan)
        assert (tmp_path / "latest").read_text() == "global_step3"
        carry_out(plan_undo(str(tmp_path)))
        assert (tmp_path / "latest").read_text() == "global_step5"
        (tmp_path / "global_step3").rename(tmp_path / "iter_0000003")
        (tmp_path / "latest_checkpointed_iteration.txt").write_text("5\n")
        carry_out(plan_rollback(str(tmp_path), "iter_0000003"))
        assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "3\n"

    def test_accelerate_takes_the_highest_number(self, tmp_path: Path) -> None:
        for number in (8, 9, 10):
            (tmp_path / f"checkpoint_{number}").mkdir()
            accelerate(tmp_path / f"checkpoint_{number}")
        carry_out(plan_rollback(str(tmp_path), "checkpoint_9"))
        assert sorted(os.listdir(tmp_path)) == ["checkpoint_8", "checkpoint_9", "set_aside"]

    def test_nothing_of_ours_comes_among_what_accelerate_counts_and_deletes(self, tmp_path: Path) -> None:
        place = tmp_path / "project" / "checkpoints"
        for number in (0, 1, 2):
            (place / f"checkpoint_{number}").mkdir(parents=True)
            accelerate(place / f"checkpoint_{number}")
        before = tree_of(place)
        for plan in (partial(plan_rollback, to="checkpoint_1"), plan_restore):
            with pytest.raises(CkptError, match="accelerate takes everything in") as caught:
                plan(str(place))
            assert caught.value.hint.startswith(f"Give the directory above: {place.parent};")
        refusals = plan_resume(str(place), "auto", command="python train.py {checkpoint}").refusals
        assert any("accelerate takes everything in" in refusal for refusal in refusals)
        assert tree_of(place) == before
        carry_out(plan_rollback(str(place.parent), "checkpoints/checkpoint_1"))
        assert sorted(os.listdir(place)) == ["checkpoint_0", "checkpoint_1"]
        carry_out(plan_undo(str(place.parent)))
        assert tree_of(place) == before
        # What only has such names is no business of accelerate's.
        for path in place.rglob("random_states_*"):
            path.unlink()
        assert not plan_rollback(str(place), "checkpoint_1").is_empty

    def test_behind_a_link_is_refused(self, tmp_path: Path) -> None:
        run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
        run.mkdir()
        elsewhere.mkdir()
        for step in (100, 200):
            save(elsewhere / f"step_{step}.pt", step)
        (run / "checkpoints").symlink_to(elsewhere)
        before = tree_of(elsewhere)
        try:
            plan = plan_rollback(str(run), "checkpoints/step_100.pt")
        except CkptError:
            plan = None  # not listed at all: it leads outside
        if plan is not None and not plan.is_empty:
            with pytest.raises(CkptError, match="Behind a link"):
                carry_out(plan)
        assert tree_of(elsewhere) == before


class TestNamesOfAnyBytes:
    @pytest.mark.parametrize("name", [b"step_400\xff.pt", b"step_400\n.pt", b"step_400\x1b[31m.pt"])
    def test_they_are_set_aside_logged_and_come_back(self, tmp_path: Path, name: bytes) -> None:
        run = run_directory(tmp_path / "run")
        for other in run.glob("*400*"):
            other.unlink()
        save(run / "latest.pt", 300)
        save(run / os.fsdecode(name), 400)
        before = tree_of(run, without=GROWS)
        plan = plan_rollback(str(run), "300")
        assert all(character.isprintable() for sentence in plan.sentences for character in sentence)
        outcome = carry_out(plan)
        assert os.path.lexists(run / "set_aside" / "1" / os.fsdecode(name))
        assert outcome.set_aside
        carry_out(plan_undo(str(run)))
        assert tree_of(run, without=GROWS) == before
        events = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
        assert sum(isinstance(event, CheckpointRestored) for event in events) >= 2


def test_a_rollback_that_only_sets_aside_is_seen_on_the_watch(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    for name in ("best_model.pt", "rolling_last_backup.pt"):
        (run / name).unlink()
    save(run / "latest.pt", 300)
    plan = plan_rollback(str(run), "300")
    assert {step.action for step in plan.steps} == {"set aside"}
    carry_out(plan)
    state = run_state(str(run))
    assert state is not None
    assert [(mark.kind, mark.step) for mark in state.markers if mark.kind == "rollback"] == [("rollback", 300)]
