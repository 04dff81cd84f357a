"""Lightning: checkpoints that are durable and verified, resumes that are exact in the middle of an epoch, the run in
the event log, and signals.

    ours = LightningCallback("runs/mine")
    trainer = lightning.Trainer(
        callbacks=[ours, ModelCheckpoint(dirpath="runs/mine", every_n_train_steps=500, save_top_k=-1)],
        plugins=[ours.checkpoint_io],
    )
    trainer.fit(model, ckpt_path=ours.newest())      # begins, or goes on from the newest that proves to be whole

What is saved and which are kept stays ModelCheckpoint's business, how is `lightning_io`'s. What makes a resume exact
and Lightning does not save, this adds: the random numbers of Python, NumPy and torch, those that the epoch's order was
drawn with, and how many batches of it are done. A resume draws the same order again and leaves these batches out, which
takes as long as loading them does. Validation leaves the training's random numbers as they were.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from ckpt_tui.events.schema import EpochEnd, ErrorRaised, SignalReceived
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.lock import DirectoryLock
from trainer.checkpoint.publish import make_directory, remove_leftovers
from trainer.checkpoint.state import restore_rng_state, rng_state
from trainer.integrations.lightning_io import DurableCheckpointIO, Newest
from trainer.signals import STATUS, Signals


class LightningCallback(Callback):
    """One for one run directory.

    is_async: a save returns when its copy is made. handles_signals: SIGTERM, SIGINT and SIGHUP save, and end the
    process with 128 + signal. say: gets lines for a person.
    checkpoint_io: the plugin to give to the Trainer. log: the event log, None while nothing trains, and in processes
    other than the first.
    """

    def __init__(
        self,
        directory: str,
        *,
        is_async: bool = True,
        handles_signals: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.directory = directory
        self.checkpoint_io = DurableCheckpointIO(directory, is_async=is_async, say=say)
        self.log: EventWriter | None = None
        self._say = say
        self._handles_signals = handles_signals
        self._signals: Signals | None = None
        self._lock: DirectoryLock | None = None
        self._newest: Newest | None = None
        self._trainer: Any = None
        self._epoch_rng: dict[str, Any] | None = None  # what this epoch's order was drawn with
        self._restored: dict[str, Any] | None = None
        self._between_epochs: dict[str, Any] | None = None  # resumed there, and no epoch was begun yet
        self._before_validation: dict[str, Any] | None = None
        self._val_loss: float | None = None
        self._last_log = time.monotonic()
        self._last_log_step = 0
        self._has_begun = False

    def newest(self) -> str | None:
        """For `ckpt_path`: the newest checkpoint that proves to be whole, None when there is none.

        Raises UsageError when another process trains in the directory.
        """
        is_main = rank_zero_only.rank in (None, 0)
        if is_main:
            self._own()
        self._newest = found = self.checkpoint_io.newest(quarantines=is_main)
        if is_main:
            for name, why, moved in found.rejected:
                self._say(f"rejected {name}: {why}" + (f"; it is now {moved}" if moved != name else ""))
            if found.path is not None:
                self._say(f"resumed from step {found.step} ({found.path})")
        return found.path

    # --- what is saved besides

    def state_dict(self) -> dict[str, Any]:
        loop = self._trainer.fit_loop
        return {
            "rng_state": rng_state(), "epoch_rng_state": self._epoch_rng,
            "num_batches": loop.epoch_loop.batch_progress.current.ready,
            "batches_per_epoch": _finite(self._trainer.num_training_batches),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict

    # --- what Lightning calls

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._trainer = trainer
        if stage == "fit" and trainer.is_global_zero:
            self._own()
            self._has_begun = False
            self.log = self.checkpoint_io.log = EventWriter(self.directory)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        _let_validation_draw_its_own(trainer)
        if self._restored is not None:
            self._reposition(trainer, self._restored)
            self._restored = None
        if self._handles_signals and self._signals is None:
            self._signals = Signals()  # after Lightning's own, which would wait for the end of the epoch
        self._last_log, self._last_log_step = time.monotonic(), trainer.global_step
        if self.log is None:
            return
        self._has_begun = True
        source = self._newest if self._newest is not None and trainer.ckpt_path == self._newest.path else None
        path = trainer.ckpt_path
        self.log.start(
            config=_config(trainer, pl_module), total_steps=_finite(trainer.estimated_stepping_batches) or 0,
            start_step=trainer.global_step, steps_per_epoch=_steps_per_epoch(trainer),
            resumed_from={"path": str(path), "digest": source.digest if source is not None else ""} if path else None,
            versions={"torch": str(torch.__version__), "lightning": lightning.__version__},
            world_size=trainer.world_size,
        )  # fmt: skip

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember what the order of this epoch is drawn with. Lightning makes the iterator of the first epoch of a
        session long before; it is made once more, so that a resume can make the same."""
        if self._between_epochs is not None:
            restore_rng_state(self._between_epochs)
            self._between_epochs = None
        self._epoch_rng = rng_state()
        loop = trainer.fit_loop
        makes_its_own = trainer.current_epoch > 0 and not loop.is_resuming and not loop.epoch_loop.restarting
        if not makes_its_own:
            iter(loop._data_fetcher)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        self._between_epochs = None
        self._forget_failed(trainer)
        if self.log is not None and step > self._last_log_step and step % trainer.log_every_n_steps == 0:
            self._log_step(trainer, outputs, batch_idx)
        self._before_validation = None
        if _validates_after(trainer, batch_idx):
            self._before_validation = rng_state()
        if self._signals is None or not _is_step_complete(trainer, batch_idx):
            return  # gradients that are being accumulated are not saved
        if trainer.strategy.reduce_boolean_decision(self._signals.stop is not None, all=False):
            self._stop(trainer, self._signals.stop)
        elif self._signals.take_save_request() and trainer.world_size == 1:
            self._tell_signal(step, "SIGUSR1", "saves")
            trainer.save_checkpoint(f"{self.directory}/emergency-step={step}.ckpt")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        if self._before_validation is not None:
            # Lightning does not validate anew when it goes on from the end of an epoch: what validation draws must
            # not change what comes after it.
            restore_rng_state(self._before_validation)
        if self.log is None:
            return
        found = {key: _number(value) for key, value in trainer.callback_metrics.items()}
        found = {key: value for key, value in found.items() if key.startswith(("val", "eval")) and value is not None}
        self._val_loss = found.get("val_loss", self._val_loss)
        self.log.eval(trainer.global_step, epoch=_epoch(trainer), **found)
        self._last_log = time.monotonic()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.log is not None:
            loss = _number(trainer.callback_metrics.get("train_loss_epoch", trainer.callback_metrics.get("train_loss")))
            event = EpochEnd(
                step=trainer.global_step, epoch=trainer.current_epoch + 1, train_loss=loss, val_loss=self._val_loss
            )
            self.log.emit(event)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.checkpoint_io.wait()
        if self.log is not None:
            self.log.end("finished", f"{trainer.global_step} steps", step=trainer.global_step)
        self._let_go()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.checkpoint_io.wait()
        step = trainer.global_step
        if not self._has_begun and self._newest is not None and trainer.ckpt_path == self._newest.path:
            step = self._newest.step or 0  # nothing that is there was trained away by a start that failed
        stop = self._signals.stop if self._signals is not None else None
        if self.log is not None:
            if isinstance(exception, SystemExit) and stop is not None:
                self.log.end(STATUS[stop], f"{stop.name}, saved", step=step)
            elif isinstance(exception, KeyboardInterrupt):
                self.log.end("interrupted", "KeyboardInterrupt", step=step)
            else:
                text = "".join(traceback.format_exception(exception))
                kind, message = type(exception).__name__, str(exception)
                self.log.emit(ErrorRaised(step=step, type=kind, message=message, traceback=text))
                self.log.end("failed", f"{kind}: {message}", step=step)
        self._let_go()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.checkpoint_io.wait()
            self._let_go()

    # --- how

    def _own(self) -> None:
        if self._lock is None:
            make_directory(self.directory)
            self._lock = DirectoryLock(self.directory)
            remove_leftovers(self.directory)

    def _let_go(self) -> None:
        if self._signals is not None:
            self._signals.release()
            self._signals = None
        if self.log is not None:
            self.log.close()
            self.log = self.checkpoint_io.log = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _reposition(self, trainer: Any, state: dict[str, Any]) -> None:
        """In the middle of an epoch: its order drawn again, and the batches that are done left out."""
        num_done, per_epoch = state["num_batches"], state["batches_per_epoch"]
        self._epoch_rng = state["epoch_rng_state"]
        if num_done % trainer.accumulate_grad_batches and num_done != per_epoch:
            self._say("saved in the midst of a step: the gradients accumulated then are lost, the resume is not exact")
        fetcher = trainer.fit_loop._data_fetcher
        if self._epoch_rng is None or not num_done or num_done == per_epoch:
            # Between two epochs. Lightning does not always say that the next one begins.
            restore_rng_state(state["rng_state"])
            self._between_epochs = self._epoch_rng = state["rng_state"]
            iter(fetcher)
            return
        self._set_epoch_of_samplers(trainer)
        restore_rng_state(self._epoch_rng)
        iter(fetcher)
        for _ in range(num_done):
            next(fetcher)
        fetcher.fetched -= num_done  # Lightning adds them, to know which is the last
        restore_rng_state(state["rng_state"])

    def _set_epoch_of_samplers(self, trainer: Any) -> None:
        """Lightning does so later, and a distributed sampler's order depends on it."""
        loop = trainer.fit_loop
        for loader in loop._combined_loader.flattened:
            for holder in (loader, getattr(loader, "batch_sampler", None)):
                sampler: Any = getattr(holder, "sampler", None)
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(loop.epoch_progress.current.processed)

    def _log_step(self, trainer: Any, outputs: Any, batch_idx: int) -> None:
        step, now = trainer.global_step, time.monotonic()
        metrics = {key: _number(value) for key, value in trainer.callback_metrics.items()}
        loss = _number(outputs.get("loss") if isinstance(outputs, dict) else outputs)
        metrics = {key: value for key, value in metrics.items() if value is not None and not key.startswith("val")}
        if loss is not None:
            metrics["loss"] = loss * trainer.accumulate_grad_batches
        if trainer.optimizers:
            metrics["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        metrics["step_seconds"] = round((now - self._last_log) / max(step - self._last_log_step, 1), 6)
        self._last_log, self._last_log_step = now, step
        assert self.log is not None
        self.log.step(step, epoch=_epoch(trainer, batch_idx), **metrics)

    def _stop(self, trainer: Any, stop: Any) -> None:
        """Save, wait until it is durable, and end as a process does that was asked to."""
        step, stop = trainer.global_step, stop or next(iter(STATUS))
        self._tell_signal(step, stop.name, "saves and stops")
        trainer.save_checkpoint(f"{self.directory}/emergency-step={step}.ckpt")
        self.checkpoint_io.wait()
        raise SystemExit(128 + stop)

    def _tell_signal(self, step: int, name: str, action: str) -> None:
        if self.log is not None:
            self.log.emit(SignalReceived(step=step, signal=name, action=action))

    def _forget_failed(self, trainer: Any) -> None:
        """ModelCheckpoint counts a file as saved when the save began: take those off that were not."""
        while self.checkpoint_io.failed:
            path = self.checkpoint_io.failed.pop()
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and path in callback.best_k_models:
                    del callback.best_k_models[path]
                    best = min if callback.mode == "min" else max
                    worst = max if callback.mode == "min" else min
                    scores = callback.best_k_models
                    callback.best_model_path = best(scores, key=scores.__getitem__, default="")
                    callback.best_model_score = scores.get(callback.best_model_path)
                    callback.kth_best_model_path = worst(scores, key=scores.__getitem__, default="")


def _let_validation_draw_its_own(trainer: Any) -> None:
    """Each iterator of a loader draws a seed from the global random numbers; Lightning makes one of the validation's
    when it goes on after a batch that is followed by one, and no hook comes after that and before the next batch."""
    loaders = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    for loader in loaders.flattened if loaders is not None else ():
        if isinstance(loader, torch.utils.data.DataLoader) and loader.generator is None:
            loader.generator = torch.Generator()


def _validates_after(trainer: Any, batch_idx: int) -> bool:
    """Whether validation may come after this batch; to keep random numbers at every batch would cost too much."""
    every, batches = trainer.val_check_batch, trainer.num_training_batches
    if not trainer.enable_validation:
        return False
    return every is None or batch_idx + 1 == batches or (math.isfinite(every) and (batch_idx + 1) % every == 0)


def _is_step_complete(trainer: Any, batch_idx: int) -> bool:
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or batch_idx + 1 == trainer.num_training_batches


def _steps_per_epoch(trainer: Any) -> int:
    batches = _finite(trainer.num_training_batches)
    return math.ceil(batches / trainer.accumulate_grad_batches) if batches else 0


def _epoch(trainer: Any, batch_idx: int | None = None) -> float:
    batches = _finite(trainer.num_training_batches)
    if batch_idx is None or not batches:
        return float(trainer.current_epoch)
    return round(trainer.current_epoch + (batch_idx + 1) / batches, 6)


def _finite(value: float) -> int | None:
    return int(value) if math.isfinite(value) and value >= 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        return float(value.item()) if value.numel() == 1 else None
    return float(value) if isinstance(value, (int, float)) else None


def _config(trainer: Any, module: Any) -> dict[str, Any]:
    """The hyperparameters of module and data, and what of the Trainer decides the training."""
    found = {**dict(getattr(trainer.datamodule, "hparams", None) or {}), **dict(module.hparams or {})}
    names = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "precision", "world_size")
    found.update({name: getattr(trainer, name, None) for name in names})
    plain = (bool, int, float, str, type(None))
    return {str(key): value if isinstance(value, plain) else str(value) for key, value in found.items()}
