"""Rolled back, taken back, done again: what each framework's own loader then starts from, by its own rule.

Every training here is a real one that saves in its own way. After each act a new training of that framework is told to
go on, with no path given where it knows how to find one; what it has loaded before its first step is compared.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.builders import deepspeed_training
from tests.builders.distributed import dcp, torchtitan_state
from tests.builders.shell import cli
from tests.builders.trees import tree_of
from tests.trainer.faults.states import state_at
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.state import NEEDED

pytestmark = pytest.mark.long


@dataclass(frozen=True)
class Loaded:
    """What a training has before its first step."""

    step: int
    weights: dict[str, torch.Tensor]
    moments: list[torch.Tensor]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Loaded)
            and (self.step, self.weights.keys()) == (other.step, other.weights.keys())
            and all(torch.equal(tensor, other.weights[name]) for name, tensor in self.weights.items())
            and len(self.moments) == len(other.moments) > 0
            and all(torch.equal(mine, theirs) for mine, theirs in zip(self.moments, other.moments, strict=True))
        )


def now(step: int, model: torch.nn.Module, optimizer: Any) -> Loaded:
    """A copy of the state of a training in this process."""
    state = optimizer.state_dict()["state"]
    moments = [moment["exp_avg"].clone() for _, moment in sorted(state.items())]
    return Loaded(step, {name: tensor.clone() for name, tensor in model.state_dict().items()}, moments)


def act(*words: str) -> Any:
    return cli(*words, "--yes")


def act_plan(*words: str) -> Any:
    return cli(*words, "--dry-run")


def links_in(directory: Path) -> dict[str, str]:
    return {path.name: str(path.readlink()) for path in directory.iterdir() if path.is_symlink()}


def damage(path: Path) -> None:
    """As a full disk or a kill leaves a file."""
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "transformers", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)


class TestHuggingFaceTrainer:
    def train(self, run: Path, max_steps: int, *, first: int = 0, is_resumed: bool = False) -> dict[int, Loaded]:
        """Saves every second step. Gives what it started from, as step 0's without a checkpoint, and what it saved."""
        pytest.importorskip("transformers")
        from transformers import Trainer, TrainerCallback, TrainingArguments

        from tests.frameworks.test_transformers import tiny_model

        seen: dict[int, Loaded] = {}

        class Looking(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, args: Any, state: Any, control: Any, **held: Any) -> None:
                if is_resumed:
                    seen[state.global_step] = now(state.global_step, held["model"], held["optimizer"])

            def on_save(self, args: Any, state: Any, control: Any, **held: Any) -> None:
                seen.setdefault(state.global_step, now(state.global_step, held["model"], held["optimizer"]))

        samples = [{"input_ids": torch.arange(8) + n, "labels": torch.arange(8) + n} for n in range(first, first + 10)]
        arguments = TrainingArguments(
            output_dir=str(run), max_steps=max_steps, save_steps=2, logging_steps=1, per_device_train_batch_size=4,
            report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-2,
        )  # fmt: skip
        trainer = Trainer(model=tiny_model(), args=arguments, train_dataset=samples, callbacks=[Looking()])
        trainer.train(resume_from_checkpoint=is_resumed or None)
        return seen

    def starts_from(self, run: Path, tmp_path: Path) -> Loaded:
        """In a copy, so that looking changes nothing."""
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        steps = [int(name.split("-")[1]) for name in os.listdir(copy) if name.startswith("checkpoint-")]
        seen = self.train(copy, max(steps) + 1, is_resumed=True)
        shutil.rmtree(copy)
        return seen[min(seen)]

    def test_rolled_back_trained_on_undone_and_done_again(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        saved = self.train(run, 6)
        before = tree_of(run)
        assert self.starts_from(run, tmp_path) == saved[6]
        act("rollback", str(run), "--to", "4")
        branch = self.train(run, 6, first=12, is_resumed=True)
        assert branch[4] == saved[4]
        assert branch[6] != saved[6]
        act("undo", str(run))
        assert tree_of(run, without=["set_aside"]) == before
        assert self.starts_from(run, tmp_path) == saved[6]
        act("undo", str(run), "--redo")
        assert self.starts_from(run, tmp_path) == branch[6]

    def test_a_damaged_newest_and_one_from_another_run(self, tmp_path: Path) -> None:
        run, other = tmp_path / "run", tmp_path / "other"
        saved = self.train(run, 6)
        elsewhere = self.train(other, 4, first=12)
        damage(run / "checkpoint-6" / "model.safetensors")
        before = tree_of(run)
        assert "damaged" in cli("rollback", str(run), "--to", "6", expect=2)["message"]
        assert tree_of(run) == before
        act("rollback", str(run), "--to", "4")
        assert self.starts_from(run, tmp_path) == saved[4]
        act("rollback", str(run), "--to", "2")
        assert self.starts_from(run, tmp_path) == saved[2]
        act("rollback", str(run), "--to", str(other / "checkpoint-4"))
        assert self.starts_from(run, tmp_path) == elsewhere[4]
        for _ in range(3):
            act("undo", str(run))
        assert tree_of(run, without=["set_aside"]) == before


class TestLightning:
    def train(
        self,
        run: Path,
        max_steps: int,
        *,
        scale: float = 1.0,
        is_resumed: bool = False,
        save_last: Any = True,
    ) -> dict[int, Loaded]:
        """Saves every second step, and `last.ckpt`."""
        lightning = pytest.importorskip("lightning")
        from lightning.pytorch.callbacks import Callback, ModelCheckpoint

        from tests.frameworks.test_lightning import Regression

        torch.manual_seed(0)
        seen: dict[int, Loaded] = {}

        class Looking(Callback):  # type: ignore[misc]
            def on_train_start(self, trainer: Any, module: Any) -> None:
                if is_resumed:
                    seen[trainer.global_step] = now(trainer.global_step, module, trainer.optimizers[0])

            def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
                seen.setdefault(trainer.global_step, now(trainer.global_step, module, trainer.optimizers[0]))

        keeping = ModelCheckpoint(
            run, every_n_train_steps=2, save_top_k=-1, save_last=save_last, filename="{epoch}-{step}"
        )
        trainer = lightning.Trainer(
            max_steps=max_steps, accelerator="cpu", logger=False, enable_progress_bar=False, limit_val_batches=0,
            enable_model_summary=False, callbacks=[keeping, Looking()], default_root_dir=run,
        )  # fmt: skip
        data = torch.utils.data.DataLoader(scale * torch.rand(8, 4), batch_size=2)
        trainer.fit(Regression(), data, ckpt_path="last" if is_resumed else None)
        return seen

    def starts_from(self, run: Path, tmp_path: Path, **settings: Any) -> Loaded:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-a", str(run), str(copy)], check=True, timeout=60)
        seen = self.train(copy, 9, is_resumed=True, **settings)
        shutil.rmtree(copy)
        return seen[min(seen)]

    @pytest.mark.parametrize("save_last", [True, "link"])
    def test_rolled_back_trained_on_undone_and_done_again(self, tmp_path: Path, save_last: Any) -> None:
        run = tmp_path / "run"
        saved = self.train(run, 6, save_last=save_last)
        before, links = tree_of(run), links_in(run)
        assert bool(links) == (save_last == "link")
        assert self.starts_from(run, tmp_path) == saved[6]
        act("rollback", str(run), "--to", "4")
        branch = self.train(run, 6, scale=3, is_resumed=True, save_last=save_last)
        assert branch[4] == saved[4]
        assert branch[6] != saved[6]
        act("undo", str(run))
        assert (tree_of(run, without=["set_aside"]), links_in(run)) == (before, links)
        assert self.starts_from(run, tmp_path) == saved[6]
        act("undo", str(run), "--redo")
        assert self.starts_from(run, tmp_path) == branch[6]

    def test_a_damaged_last(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        saved = self.train(run, 6)
        for name in ("last.ckpt", "epoch=1-step=6.ckpt"):
            damage(run / name)
        before = tree_of(run)
        assert not act_plan("restore", str(run))["steps"], "Lightning keeps no backup"
        act("rollback", str(run), "--to", "4")
        assert self.starts_from(run, tmp_path) == saved[4]
        act("undo", str(run))
        assert tree_of(run, without=["set_aside"]) == before

    def test_checkpoints_that_are_directories(self, tmp_path: Path) -> None:
        """As the strategies that shard save them. Those want GPUs: here their method saves what a training had."""
        pytest.importorskip("lightning")
        from lightning.fabric.utilities.load import _load_distributed_checkpoint
        from lightning.pytorch.strategies import FSDPStrategy

        run, files = tmp_path / "run", tmp_path / "files"
        strategy: Any = SimpleNamespace(broadcast=lambda path: path, _state_dict_type="sharded", global_rank=0)
        saved = self.train(files, 6)
        for file in files.iterdir():
            FSDPStrategy.save_checkpoint(strategy, torch.load(file, weights_only=False), run / file.name)
        before = tree_of(run)

        def last() -> Loaded:
            loaded = _load_distributed_checkpoint(run / "last.ckpt")
            moments = loaded["optimizer_0"]["state"]
            return Loaded(loaded["global_step"], loaded["model"], [moments[key]["exp_avg"] for key in sorted(moments)])

        assert last() == saved[6]
        act("rollback", str(run), "--to", "4")
        assert last() == saved[4]
        assert sorted(path.name for path in run.glob("epoch*")) == ["epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt"]
        act("undo", str(run))
        assert last() == saved[6]
        assert tree_of(run, without=["set_aside"]) == before


class TestAccelerate:
    def prepared(self, project: Path) -> tuple[Any, Any, Any]:
        pytest.importorskip("accelerate")
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration

        torch.manual_seed(len(os.listdir(project)) if project.exists() else 0)
        naming = ProjectConfiguration(project_dir=str(project), automatic_checkpoint_naming=True, total_limit=4)
        model = torch.nn.Linear(4, 3)
        accelerator = Accelerator(cpu=True, project_config=naming)
        return accelerator, *accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))

    def train(self, project: Path, num_saves: int, *, first: int = 0, scale: float = 1.0, is_resumed: bool = False,
              ) -> dict[int, Loaded]:  # fmt: skip
        """Gives what was loaded as -1, and what was saved by the number of the save: accelerate counts no steps."""
        accelerator, model, optimizer = self.prepared(project)
        seen = {}
        if is_resumed:
            accelerator.load_state()
            seen[-1] = now(0, model, optimizer)
        accelerator.project_configuration.iteration = first
        for number in range(first, first + num_saves):
            optimizer.zero_grad()
            accelerator.backward(model(scale * torch.ones(2, 4)).square().sum())
            optimizer.step()
            accelerator.save_state()
            seen[number] = now(0, model, optimizer)
        return seen

    def test_rolled_back_trained_on_undone_and_done_again(self, tmp_path: Path) -> None:
        project = tmp_path / "project"
        saved = self.train(project, 3)
        before = tree_of(project)
        assert self.train(project, 0, is_resumed=True)[-1] == saved[2]
        act("rollback", str(project), "--to", "checkpoints/checkpoint_1")
        branch = self.train(project, 1, first=2, scale=3, is_resumed=True)
        assert branch[-1] == saved[1]
        assert branch[2] != saved[2]
        act("undo", str(project))
        assert tree_of(project, without=["set_aside"]) == before
        assert self.train(project, 0, is_resumed=True)[-1] == saved[2]
        act("undo", str(project), "--redo")
        assert self.train(project, 0, is_resumed=True)[-1] == branch[2]
        # It counts what lies beside its checkpoints, too, and deletes by that: nothing of ours may lie there.
        error = cli("rollback", str(project / "checkpoints"), "--to", "checkpoint_1", "--yes", expect=2)
        assert "accelerate takes everything" in error["message"]
        self.train(project, 2, first=3, is_resumed=True)
        assert sorted(os.listdir(project / "checkpoints")) == [f"checkpoint_{number}" for number in range(1, 5)]


class TestDeepSpeed:
    @pytest.mark.usefixtures("deepspeed_starts")
    @pytest.mark.parametrize("stage", [2, 3])
    def test_rolled_back_trained_on_undone_and_done_again(self, tmp_path: Path, stage: int) -> None:
        run, out = tmp_path / "run", tmp_path / "told.pt"

        def train(steps: int, scale: float = 1.0) -> dict[int, Loaded]:
            found = deepspeed_training.train(run, out, stage=stage, steps=steps, scale=scale)
            return {step: Loaded(step, weights, moments) for step, (weights, moments) in found.items()}

        saved = train(6)
        before = tree_of(run)
        act("rollback", str(run), "--to", "4")
        branch = train(2, scale=3.0)
        assert branch[4] == saved[4]
        assert branch[6] != saved[6]
        act("undo", str(run))
        assert tree_of(run, without=["set_aside"]) == before
        assert train(0) == {6: saved[6]}
        act("undo", str(run), "--redo")
        assert train(0) == {6: branch[6]}


class TestTorchDistributedCheckpoint:
    def test_step_directories_of_torchtitan(self, tmp_path: Path) -> None:
        """Its loader takes the directory with the highest step that has a `.metadata`."""
        run, saved = tmp_path / "run", {}
        for step in (10, 20, 30):
            saved[step] = self.state(step)
            dcp(run / f"step-{step}", {**saved[step]})
        before = tree_of(run)
        act("rollback", str(run), "--to", "20")
        assert self.newest(run) == 20
        self.check(run / "step-20", saved[20])
        dcp(run / "step-30", branch := self.state(31))
        act("undo", str(run))
        assert tree_of(run, without=["set_aside"]) == before
        self.check(run / "step-30", saved[30])
        act("undo", str(run), "--redo")
        self.check(run / "step-30", branch)
        damage(next((run / "step-30").glob("*.distcp")))
        act("rollback", str(run), "--to", "10")
        assert self.newest(run) == 10
        self.check(run / "step-10", saved[10])

    def state(self, step: int) -> dict[str, Any]:
        state = torchtitan_state()
        state["layers.weight"] = torch.full((8, 4), float(step))
        state["train_state"] = {"step": torch.tensor(step, dtype=torch.int32), "ntokens_seen": torch.tensor(step * 8)}
        return state

    def newest(self, run: Path) -> int:
        return max(
            int(found[1]) for name in os.listdir(run)
            if (found := re.search(r"step-(\d+)", name)) and (run / name / ".metadata").is_file()
        )  # fmt: skip

    def check(self, directory: Path, saved: dict[str, Any]) -> None:
        """torch's loader fills the tensors that it is given."""
        import torch.distributed.checkpoint as checkpoint
        from torch.utils._pytree import tree_flatten_with_path, tree_map

        given = tree_map(lambda leaf: torch.zeros_like(leaf) if isinstance(leaf, torch.Tensor) else leaf, saved)
        checkpoint.load(given, checkpoint_id=directory, no_dist=True)
        num_compared = 0
        for (path, mine), (_, theirs) in zip(
            *(tree_flatten_with_path(tree)[0] for tree in (given, saved)), strict=True
        ):
            if isinstance(mine, torch.Tensor):
                assert torch.equal(mine, theirs), path
                num_compared += 1
        assert num_compared > 10

    def test_checkpoints_of_our_trainer_restored_and_rolled_back(self, tmp_path: Path) -> None:
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

        run = tmp_path / "run"
        with Checkpointer(
            run, Policy(is_async=False, checkpoint_format="dcp"), needed=NEEDED, say=lambda line: None
        ) as checkpoints:
            for step in (10, 20, 30):
                checkpoints.save(state_at(step, width=50), {"rolling", "best"})

        def latest(name: str = "latest") -> Any:
            dcp_to_torch_save(run / name, tmp_path / "whole.pt")
            return torch.load(tmp_path / "whole.pt", weights_only=False)

        def model_of(step: int) -> Any:
            return state_at(step, width=50)["model"]

        def is_of(step: int) -> bool:
            found = latest()
            expected = model_of(step)
            return found["step"] == step and all(torch.equal(found["model"][key], expected[key]) for key in expected)

        assert is_of(30)
        growing = ["events.jsonl", "set_aside", "registry.json", "trainer.lock"]
        before = tree_of(run, without=growing)
        damage(run / "latest" / "__0_0.distcp")
        damaged = tree_of(run, without=growing)
        with pytest.raises(CheckpointException):
            is_of(30)
        act("restore", str(run), "--force")  # this very process wrote the log
        assert is_of(30)
        act("undo", str(run), "--force")
        assert tree_of(run, without=growing) == damaged
        act("undo", str(run), "--redo", "--force")
        act("rollback", str(run), "--to", "10", "--force")
        assert is_of(10)
        act("undo", str(run), "--force")
        assert is_of(30)
        assert tree_of(run, without=growing) == before
