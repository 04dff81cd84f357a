"""The whole state of a training as one dict (SPEC section 3), and back into the objects that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from trainer.checkpoint.fit import load_optimizer
from trainer.config import Config
from trainer.data import TrainData
from trainer.guard import Guard
from trainer.model import apply_settings
from trainer.parallel.sharded import spread, whole
from trainer.parallel.sharing import restore_rng_states, rng_states
from trainer.progress import Progress
from trainer.schedule import Schedule
from trainer.step import Stepper


@dataclass(frozen=True)
class Mark:
    """Where a batch begins: what taking it changes before the weights are touched."""

    epoch: int
    position: int
    generator: Tensor
    cuda_generators: list[Tensor]


@dataclass(frozen=True)
class TrainingState:
    """The parts of a training that a checkpoint holds."""

    config: Config
    stepper: Stepper
    schedule: Schedule
    data: TrainData
    progress: Progress
    guard: Guard

    def gather(self, rng: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Everything at this step, without what describes the checkpoint itself. Tensors are the live ones.

        rng: every rank's random numbers, where the ranks cannot gather them any more; then nothing is gathered.
        With dcp each rank gives its part of weights that are spread; otherwise main gets the whole of them.
        """
        progress, stepper = self.progress, self.stepper
        random_numbers = rng_states(stepper.world) if rng is None else dict(rng)
        state = {
            "step": progress.step, "epoch": self.data.epoch,
            "model": stepper.model.state_dict(), "optimizer": stepper.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(progress.step), "scaler": stepper.precision.state_dict(),
            "ema": stepper.ema.state_dict() if stepper.ema is not None else None,
            "train_loss": progress.train_loss, "val_loss": progress.val_loss, "val_metrics": dict(progress.val_metrics),
            "loss_history": [list(point) for point in progress.history], "rng_state": random_numbers,
            "dataloader_state": {
                **self.data.state_dict(), "sums": progress.sums(), "guard": self.guard.state_dict(),
            },
            "args": self.config.as_args(), "best_metric": progress.best,
        }  # fmt: skip
        if stepper.world.is_alone or self.config.checkpoint_format == "dcp" or rng is not None:
            return state
        # All ranks gather at the same time: where weights are spread over them, each has to give its part.
        return cast(dict[str, Any], whole(state))

    def load(self, state: Mapping[str, Any]) -> None:
        """A checkpoint's state into all parts. Random numbers last: what comes before may draw some.

        Raises KeyError, TypeError, ValueError or RuntimeError when it does not fit.
        """
        stepper = self.stepper
        if not stepper.world.is_alone:
            state = spread(state, stepper.model, stepper.optimizer)
        stepper.model.load_state_dict(state["model"])
        load_optimizer(stepper.optimizer, state["optimizer"])
        apply_settings(stepper.optimizer, self.config)
        stepper.precision.load_state_dict(state["scaler"])
        if stepper.ema is not None:
            stepper.ema.load_state_dict(state["ema"])
        self.schedule.load_state_dict(state["scheduler"])
        self.data.load_state_dict(state["dataloader_state"])
        self.progress.load(state)
        self.guard.load_state_dict(state["dataloader_state"].get("guard"), self.progress.step)
        restore_rng_states(state["rng_state"], stepper.world, self.config.seed, self.progress.step)

    def go_back(self, state: Mapping[str, Any]) -> None:
        """To an earlier checkpoint of this training, with the data that come next now: those in between are skipped.

        With the same data it would come to the same, bit by bit.
        """
        if self.data.is_at_epoch_end:
            self.data.begin_epoch(self.data.epoch + 1)
        epoch, position, num_rollbacks = self.data.epoch, self.data.position, self.guard.num_rollbacks
        self.load(state)
        if epoch != self.data.epoch:
            self.progress.epoch_loss_sum, self.progress.epoch_num_steps = 0.0, 0
        self.data.begin_epoch(epoch)
        self.data.position = position
        self.progress.is_step_unfinished = False
        self.guard.went_back(self.progress.step, num_rollbacks + 1)

    def mark(self) -> Mark:
        """To be taken before a batch is."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return Mark(self.data.epoch, self.data.position, torch.get_rng_state(), cuda)

    def rewind(self, mark: Mark) -> None:
        """To where a batch begins that was started and is not in the weights."""
        self.data.begin_epoch(mark.epoch)
        self.data.position = mark.position
        torch.set_rng_state(mark.generator)
        if mark.cuda_generators:
            torch.cuda.set_rng_state_all(mark.cuda_generators)
