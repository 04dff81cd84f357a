"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ckpt_tui.events.schema import (
    Best,
    EpochEnd,
    ErrorRaised,
    Eval,
    Nonfinite,
    SignalReceived,
    System,
)
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import state as checkpoint_state
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import Found
from trainer.checkpoint.save import Saver
from trainer.config import Config
from trainer.data import Batches, Corpus, validation_batches
from trainer.model import GPT
from trainer.progress import Progress
from trainer.signals import Signals

SYSTEM_EVERY_S = 10.0
LOSS_HISTORY_LENGTH = 1000


class StopRequested(Exception):  # noqa: N818 - not an error
    """A signal asked to stop; raised where the state is between two steps."""


@dataclass(slots=True)
class Trainer:
    """A training between two steps: everything that a checkpoint holds."""

    config: Config
    corpus: Corpus
    log: EventWriter
    saver: Saver
    signals: Signals
    progress: Progress
    model: GPT = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    scheduler: torch.optim.lr_scheduler.LambdaLR = field(init=False)
    batches: Batches = field(init=False)
    step: int = 0
    last_eval_step: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    best: float | None = None
    epoch_loss_sum: float = 0.0
    epoch_loss_count: int = 0
    tokens_seen: int = 0
    loss_history: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.config
        checkpoint_state.seed_everything(config.seed)
        self.model = GPT(config)
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: lr_factor(config, step))
        self.batches = Batches(self.corpus.train, config.block_size, config.batch_size, config.seed)

    @property
    def epoch(self) -> float:
        """Epochs completed, with the fraction of the running one."""
        return self.batches.epoch + self.batches.position / (self.batches.steps_per_epoch * self.config.batch_size)

    # -- the loop ------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the last step. Raises StopRequested when a signal asked for it."""
        config = self.config
        saved_at = time.monotonic()
        system_at = -math.inf
        if self.step and self.step % config.eval_freq == 0 and self.last_eval_step != self.step:
            self.evaluate()  # the last session stopped between this step and its evaluation
        while self.step < config.max_steps:
            self.look_at_signals()
            started = time.perf_counter()
            loss, grad_norm = self.train_step()
            step_s = time.perf_counter() - started
            self.account(loss)
            if self.step % config.log_freq == 0 or self.step == config.max_steps:
                tokens = config.batch_size * config.block_size
                metrics = {
                    "loss": loss, "lr": self.optimizer.param_groups[0]["lr"], "grad_norm": grad_norm,
                    "tokens_per_s": round(tokens / step_s, 1), "step_seconds": round(step_s, 6),
                }  # fmt: skip
                self.log.step(self.step, epoch=round(self.epoch, 6), **metrics)
                self.progress.step(self.step, metrics, self.val_loss)
            if time.monotonic() - system_at >= SYSTEM_EVERY_S:
                system_at = time.monotonic()
                self.log.emit(system_event(self.step))

            epoch_ended = self.end_epoch() if self.batches.is_epoch_over else None
            is_best = False
            if self.step % config.eval_freq == 0 or self.step == config.max_steps:
                is_best = self.evaluate()
            minutes_due = config.checkpoint_minutes and time.monotonic() - saved_at >= 60 * config.checkpoint_minutes
            steps_due = config.checkpoint_freq and self.step % config.checkpoint_freq == 0
            rolling = bool(steps_due or minutes_due)
            is_last = self.step == config.max_steps
            if rolling or is_best or epoch_ended is not None or is_last or self.signals.save_now:
                self.signals.save_now = False
                saved_at = time.monotonic()
                self.saver.save(self.state(), rolling=rolling, best=is_best, epoch=epoch_ended)

    def train_step(self) -> tuple[float, float]:
        """One optimizer step over one batch. (mean loss, gradient norm); a non-finite one changes no weight."""
        config = self.config
        self.model.train()
        inputs, targets = self.batches.take()
        loss_sum = torch.zeros(())
        for start in range(0, config.batch_size, config.mini_batch_size):
            part = slice(start, start + config.mini_batch_size)
            with self.precision():
                loss = self.model(inputs[part], targets[part]) / config.num_accumulation
            loss.backward()
            loss_sum += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip or math.inf)
        loss_value, norm_value = float(loss_sum), float(norm)
        if math.isfinite(loss_value) and math.isfinite(norm_value):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.step += 1
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            what = "loss" if not math.isfinite(loss_value) else "grad_norm"
            self.log.emit(Nonfinite(step=self.step, what=what, action="skipped"))
        return loss_value, norm_value

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def account(self, loss: float) -> None:
        self.train_loss = loss
        self.tokens_seen += self.config.batch_size * self.config.block_size
        if math.isfinite(loss):
            self.epoch_loss_sum += loss
            self.epoch_loss_count += 1
        self.loss_history.append(loss)
        del self.loss_history[:-LOSS_HISTORY_LENGTH]

    def end_epoch(self) -> int:
        """Tell of the epoch that is over; its number, from 1."""
        mean = self.epoch_loss_sum / self.epoch_loss_count if self.epoch_loss_count else None
        number = self.batches.epoch + 1
        self.log.emit(EpochEnd(step=self.step, epoch=float(number), train_loss=mean, val_loss=self.val_loss))
        self.epoch_loss_sum, self.epoch_loss_count = 0.0, 0
        return number

    @torch.no_grad()
    def evaluate(self) -> bool:
        """Measure the validation loss. Whether it is the best so far."""
        started = time.perf_counter()
        self.model.eval()
        losses: list[Tensor] = []
        config = self.config
        for inputs, targets in validation_batches(
            self.corpus.val, config.block_size, config.mini_batch_size, config.eval_batches
        ):
            self.look_at_signals()
            with self.precision():
                losses.append(self.model(inputs, targets))
        self.val_loss = float(torch.stack(losses).mean()) if losses else None
        self.last_eval_step = self.step
        seconds = time.perf_counter() - started
        if self.val_loss is not None:
            metrics = {"val_loss": self.val_loss, "train_loss": self.train_loss}
            self.log.emit(Eval(step=self.step, epoch=round(self.epoch, 6), seconds=round(seconds, 6), metrics=metrics))
        value = self.val_loss if config.monitor == "val_loss" else self.train_loss
        if value is None or not math.isfinite(value):
            return False
        better = self.best is None or (value < self.best if config.monitor_mode == "min" else value > self.best)
        if better:
            self.log.emit(
                Best(step=self.step, metric=config.monitor, mode=config.monitor_mode, value=value, previous=self.best)
            )
            self.best = value
        return better

    def look_at_signals(self) -> None:
        if self.signals.stop_signal is not None:
            raise StopRequested

    # -- the state -----------------------------------------------------------------------------------------------

    def state(self, checkpoint_type: str = "regular") -> dict[str, Any]:
        """Everything that an exact resume needs. Tensors are the live ones: serialise before the next step."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": {},
            "train_loss": self.train_loss,
            "val_loss": self.val_loss,
            "val_metrics": {"val_loss": self.val_loss, "eval_step": self.last_eval_step},
            "loss_history": list(self.loss_history),
            "rng_state": checkpoint_state.rng_state(),
            "dataloader_state": {
                "train": self.batches.state(), "val": {"position": 0}, "corpus": self.corpus.digest,
                "accumulation_position": 0, "epoch_loss_sum": self.epoch_loss_sum,
                "epoch_loss_count": self.epoch_loss_count, "tokens_seen": self.tokens_seen,
            },
            "args": self.config.as_dict(),
            "best_metric": self.best,
            "checkpoint_type": checkpoint_type,
            **checkpoint_state.stamp(),
        }  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Become what a checkpoint was. ValueError, with nothing changed, when it is of another model or data."""
        mine = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        theirs = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise ValueError(
                    f"the checkpoint's model is another: {name} is {theirs.get(name, 'missing')} there, "
                    f"{mine.get(name, 'not in this model')} here. Take its --n_layer, --n_head, --n_embd, --block_size."
                )
        data = state["dataloader_state"]
        if data["corpus"] != self.corpus.digest:
            raise ValueError("the checkpoint was trained on other text: give the same --data")
        self.batches.load_state(data["train"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(dict(state["scheduler"]))
        self.scheduler.base_lrs = [self.config.lr for _ in self.optimizer.param_groups]
        for group, decay in zip(self.optimizer.param_groups, (self.config.weight_decay, 0.0), strict=True):
            group.update(weight_decay=decay, betas=(self.config.beta1, self.config.beta2), initial_lr=self.config.lr)
            group["lr"] = self.config.lr * lr_factor(self.config, int(state["step"]))
        self.step = int(state["step"])
        self.train_loss, self.val_loss, self.best = state["train_loss"], state["val_loss"], state["best_metric"]
        self.last_eval_step = state["val_metrics"]["eval_step"]
        self.loss_history = list(state["loss_history"])
        self.epoch_loss_sum, self.epoch_loss_count = data["epoch_loss_sum"], data["epoch_loss_count"]
        self.tokens_seen = data["tokens_seen"]
        checkpoint_state.load_rng_state(state["rng_state"])


def lr_factor(config: Config, step: int) -> float:
    """Share of the highest learning rate at `step`: linear warm-up, then cosine to min_lr, or constant."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    done = min((step - config.warmup_steps) / max(config.max_steps - config.warmup_steps, 1), 1.0)
    low = config.min_lr / config.lr
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * done))


def run(
    config: Config, directory: Path, argv: list[str], corpus: Corpus, found: Found | None, registry: Registry, warn: Any
) -> int:
    """One session from its start to its end; the exit code of the process."""
    log = EventWriter(directory)
    progress = Progress(config.max_steps)
    saver = Saver(directory, log, registry, config.keep_checkpoints, config.keep_emergency_checkpoints)
    trainer = Trainer(config, corpus, log, saver, Signals(), progress)
    resumed_from = None
    if found is not None:
        trainer.load(found.state)
        resumed_from = {"path": found.path.name, "digest": found.digest}
        saver.protected.add(found.path.name)
    log.start(
        config=config.as_dict(), argv=argv, run_name=config.run_name or directory.resolve().name,
        total_steps=config.max_steps, steps_per_epoch=trainer.batches.steps_per_epoch, start_step=trainer.step,
        resumed_from=resumed_from, versions=versions(),
        num_parameters=sum(p.numel() for p in trainer.model.parameters()), corpus=corpus.digest,
    )  # fmt: skip
    if found is not None and not (directory / "latest.pt").exists():
        saver.restore_latest(found.path.name, "latest.pt was missing", trainer.step)
    elif found is not None and any(name == "latest.pt" for name, _ in found.rejected):
        warn("latest.pt is damaged; it stays until the next save replaces it")
    status, reason, code = "finished", "all steps done", 0
    try:
        trainer.train()
    except StopRequested:
        number = trainer.signals.stop_signal or signal.SIGTERM
        name = signal.Signals(number).name
        log.emit(SignalReceived(step=trainer.step, signal=name, action="saving an emergency checkpoint"))
        saver.save(trainer.state("emergency"), emergency=True)
        status = "preempted" if number == signal.SIGTERM else "interrupted"
        reason, code = name, 128 + number
    except Exception as error:  # noqa: BLE001 - whatever the loop raises: told, saved, ended
        log.emit(
            ErrorRaised(
                step=trainer.step, type=type(error).__name__, message=str(error), traceback=traceback.format_exc()
            )
        )
        traceback.print_exc()
        saver.save(trainer.state("emergency"), emergency=True)
        status, reason, code = "failed", f"{type(error).__name__}: {error}", 1
    saver.tell_disk(trainer.step)
    log.end(status, reason, step=trainer.step)
    progress.close(f"{status} at step {trainer.step}: {reason}")
    log.close()
    return code


def versions() -> dict[str, str]:
    from ckpt_tui import __version__

    return {"python": sys.version.split()[0], "torch": str(torch.__version__), "ckpt-tui": __version__}


_last_cpu = [0.0, 0.0]


def system_event(step: int) -> System:
    """What the process and the machine are using, from /proc where there is one."""
    used, now = sum(os.times()[:2]), time.monotonic()
    share = (used - _last_cpu[0]) / (now - _last_cpu[1]) * 100 if _last_cpu[1] else None
    _last_cpu[:] = used, now
    memory: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            memory[name] = int(amount.split()[0]) * 1024
    total, available = memory.get("MemTotal"), memory.get("MemAvailable")
    rss: int | None = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with contextlib.suppress(OSError):
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return System(
        step=step, cpu_percent=round(share, 1) if share is not None else None, rss_bytes=rss,
        memory_used_bytes=total - available if total is not None and available is not None else None,
        memory_total_bytes=total,
    )  # fmt: skip
