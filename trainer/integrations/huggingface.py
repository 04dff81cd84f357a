"""Hugging Face's Trainer: its checkpoints made durable and verified, its run in the event log, signals and errors too.

    trainer = transformers.Trainer(..., callbacks=[callback := HuggingFaceCallback()])
    callback.train(trainer)          # begins, or goes on from the newest checkpoint that proves to be whole

The checkpoints stay Hugging Face's own `checkpoint-N/`: `from_pretrained` loads them, adapters, FSDP and DeepSpeed
write theirs in there, and Trainer goes on exactly from them. What it does not do, this does:

- Every file is flushed and digested after Trainer has written it, in a thread; `manifest.json` comes last and says so.
  A directory that a kill left half written has none, and is never taken.
- The newest one that is whole is found by step and by its digests; damaged ones are moved to `quarantine/`.
- `save_total_limit` is ours while it trains: Trainer removes by modification time, before the new one is durable; this
  removes by step, after, and neither the best one nor that which it was resumed from.
- A save that fails (full disk) is told, its half is removed, and the training goes on.
- SIGTERM and SIGINT save and stop; a second one stops at once.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import TrainOutput

from ckpt_tui.events.schema import (
    Best,
    CheckpointFailed,
    CheckpointRemoved,
    CheckpointSaved,
    EpochEnd,
    ErrorRaised,
    SignalReceived,
)
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.lock import DirectoryLock
from trainer.checkpoint.publish import remove_leftovers
from trainer.checkpoint.publish_directory import MANIFEST_NAME, remove_directory, unseal
from trainer.integrations.sealing import Choice, Sealed, Sealer, newest_valid
from trainer.signals import STATUS, Signals

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_STATE_FILE = "trainer_state.json"
# What Trainer logs once at the end; none of it is of a step.
_SUMMARY = "train_runtime"


def _is_loaded_at_once(trainer: Trainer) -> bool:
    """Weights that are spread over processes are loaded only once training has wrapped the model."""
    return not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def step_of(name: str) -> int | None:
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else None


class HuggingFaceCallback(TrainerCallback):
    """One for one Trainer.

    say: gets lines for a person. handles_signals: SIGTERM and SIGINT save and stop.
    log: the event log in `output_dir`; None before the training begins, and in processes other than the first.
    """

    def __init__(self, *, say: Callable[[str], None] = print, handles_signals: bool = True) -> None:
        self.log: EventWriter | None = None
        self._say = say
        self._handles_signals = handles_signals
        self._signals: Signals | None = None
        self._lock: DirectoryLock | None = None
        self._sealer = Sealer()
        self._choice: Choice | None = None
        self._keep: int | None = None  # checkpoints, as save_total_limit said
        self._val_loss: float | None = None
        self._best: float | None = None
        self._failed_save: int | None = None
        self._stopped_by: signal.Signals | None = None
        self._last_call = self._last_log = time.monotonic()
        self._last_log_step = 0
        self._save_seconds: dict[int, float] = {}

    # --- what a person calls

    def train(self, trainer: Trainer, **options: Any) -> Any:
        """`trainer.train()` from the newest checkpoint that is whole, from the start when there is none.

        Gives what that gives; of a training whose `max_steps` are done, its state, and trains nothing. Raises what it
        raises, after it was logged; SystemExit(128 + signal) when a signal ended the training, with everything saved;
        UsageError when another process trains in the same directory.
        """
        args = trainer.args
        is_main = args.should_save
        if is_main:
            self._own(args.output_dir)
        try:
            self._choice = self._choose(args, is_main)
            if (
                self._choice.path is not None
                and 0 < args.max_steps <= self._choice.step
                and _is_loaded_at_once(trainer)
            ):
                return self._finished(trainer, self._choice.path)
            with self._failing_saves(trainer):
                result = trainer.train(resume_from_checkpoint=self._choice.path, **options)
        except BaseException as error:
            self._end_failed(error, trainer)
            raise
        finally:
            self._let_go(args)
        if self._stopped_by is not None:
            raise SystemExit(128 + self._stopped_by)
        return result

    # --- what Trainer calls

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.should_save:
            self._own(args.output_dir)
        self._keep, args.save_total_limit = args.save_total_limit, None
        self._best = state.best_metric
        self._last_log_step = state.global_step
        self._last_call = self._last_log = time.monotonic()
        if self._handles_signals and self._signals is None:
            self._signals = Signals()
        if not state.is_world_process_zero:
            return
        self.log = EventWriter(args.output_dir)
        choice = self._choice if self._choice is not None and self._choice.step == state.global_step else None
        source = choice.path if choice is not None else None
        self.log.start(
            config={**_plain(args.to_dict()), "save_total_limit": self._keep}, total_steps=state.max_steps,
            run_name=str(args.run_name or ""),
            start_step=state.global_step, steps_per_epoch=math.ceil(state.max_steps / max(state.num_train_epochs, 1)),
            resumed_from={"path": os.path.basename(source), "digest": choice.digest} if source and choice else None,
            versions={"torch": str(torch.__version__), "transformers": transformers.__version__},
            world_size=args.world_size,
        )  # fmt: skip

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        self._tell_seals(args, state)
        stop = self._signals.stop if self._signals is not None else None
        if _agreed(args, stop is not None):
            if self._stopped_by is None:
                self._stopped_by = stop or signal.SIGTERM
                if self.log is not None:
                    event = SignalReceived(
                        step=state.global_step, signal=self._stopped_by.name, action="saves and stops"
                    )
                    self.log.emit(event)
            control.should_save = control.should_training_stop = True
        elif self._signals is not None and self._signals.take_save_request() and args.world_size == 1:
            control.should_save = True
            if self.log is not None:
                self.log.emit(SignalReceived(step=state.global_step, signal="SIGUSR1", action="saves"))
        self._last_call = time.monotonic()
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        now = time.monotonic()
        if self.log is not None and logs and _SUMMARY not in logs and not any(key.startswith("eval_") for key in logs):
            metrics = {key: value for key, value in logs.items() if key != "epoch"}
            if "learning_rate" in metrics:
                metrics["lr"] = metrics.pop("learning_rate")
            num_steps = state.global_step - self._last_log_step
            if num_steps > 0:
                metrics["step_seconds"] = round((now - self._last_log) / num_steps, 6)
            self.log.step(state.global_step, epoch=state.epoch, **metrics)
        self._last_log, self._last_log_step, self._last_call = now, state.global_step, now

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        found = {key.removeprefix("eval_"): value for key, value in (metrics or {}).items() if key != "epoch"}
        seconds = found.pop("runtime", None)
        loss = found.pop("loss", None)
        self._val_loss = loss if isinstance(loss, float) else self._val_loss
        if self.log is not None:
            self.log.eval(state.global_step, epoch=state.epoch, seconds=seconds, val_loss=loss, **found)
        self._last_log = self._last_call = time.monotonic()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.log is not None:
            losses = [row["loss"] for row in state.log_history if "loss" in row and row["epoch"] > state.epoch - 1]
            mean = sum(losses) / len(losses) if losses else None
            self.log.emit(EpochEnd(step=state.global_step, epoch=state.epoch, train_loss=mean, val_loss=self._val_loss))
        self._last_call = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, stall_seconds = state.global_step, time.monotonic() - self._last_call
        if args.world_size > 1:
            torch.distributed.barrier()  # every process has written its part
        if self._failed_save == step or not args.should_save:
            return
        if self.log is not None and state.best_metric is not None and state.best_metric != self._best:
            mode = "max" if args.greater_is_better else "min"
            self.log.emit(
                Best(
                    step=step, metric=str(args.metric_for_best_model), mode=mode, value=state.best_metric,
                    previous=self._best,
                )
            )  # fmt: skip
            self._best = state.best_metric
        self._save_seconds[step] = stall_seconds
        facts = {"step": step, "epoch": state.epoch, "metrics": {"val_loss": self._val_loss}, "time": time.time()}
        self._sealer.begin(
            os.path.join(args.output_dir, f"checkpoint-{step}"), step, {"format": "hf-trainer", "facts": facts}
        )
        self._tell_seals(args, state)  # of the one before
        self._last_call = time.monotonic()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._sealer.wait()
        self._tell_seals(args, state)
        if self.log is not None:
            if self._stopped_by is not None:
                self.log.end(STATUS[self._stopped_by], f"{self._stopped_by.name}, saved", step=state.global_step)
            else:
                self.log.end("finished", f"{state.global_step} steps", step=state.global_step)
        self._let_go(args)

    # --- how

    def _own(self, directory: str) -> None:
        """One trainer in a directory; what a dead one left half published is removed. Raises UsageError."""
        if self._lock is None:
            os.makedirs(directory, exist_ok=True)
            self._lock = DirectoryLock(directory)
            remove_leftovers(directory)

    def _let_go(self, args: TrainingArguments) -> None:
        self._sealer.wait()
        if self._keep is not None:
            args.save_total_limit, self._keep = self._keep, None
        if self._signals is not None:
            self._signals.release()
            self._signals = None
        if self.log is not None:
            self.log.close()
            self.log = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _choose(self, args: TrainingArguments, is_main: bool) -> Choice:
        """The same in every process: the first one looks and moves what is bad, the others take what is left."""
        with args.main_process_first(local=False, desc="choosing the checkpoint to resume from"):
            choice = newest_valid(args.output_dir, step_of, required=[_STATE_FILE], quarantines=is_main)
        if is_main:
            for name, why, moved in choice.rejected:
                self._say(f"rejected {name}: {why}; it is now {moved}")
            if choice.path is not None:
                self._say(f"resumed from step {choice.step} ({os.path.basename(choice.path)})")
        return choice

    def _finished(self, trainer: Trainer, path: str) -> TrainOutput:
        """As it was at the end. Trainer itself would take one step more at each start."""
        trainer._load_from_checkpoint(path)
        trainer.state = TrainerState.load_from_json(os.path.join(path, _STATE_FILE))
        step = trainer.state.global_step
        if trainer.args.should_save:
            self._say(f"finished before: all {trainer.args.max_steps} steps are done, nothing is trained")
        return TrainOutput(step, math.nan, {})

    @contextmanager
    def _failing_saves(self, trainer: Trainer) -> Iterator[None]:
        """Trainer ends when a save fails; with this it goes on, where no other process waits for the same save."""
        save = trainer._save_checkpoint

        def guarded(*arguments: Any, **options: Any) -> None:
            step = trainer.state.global_step
            path = os.path.join(trainer.args.output_dir, f"checkpoint-{step}")
            self._sealer.wait()
            self._failed_save = None
            try:
                if os.path.exists(os.path.join(path, MANIFEST_NAME)):
                    unseal(path)
                save(*arguments, **options)
            except Exception as error:
                if trainer.args.world_size > 1 or not _is_of_disk(error):
                    raise
                self._failed_save = step
                self._tell_failure(f"checkpoint-{step}", "write", str(error), step, trainer.args.output_dir)
                if os.path.isdir(path):
                    remove_directory(path)

        trainer._save_checkpoint = guarded
        try:
            yield
        finally:
            del trainer._save_checkpoint

    def _tell_seals(self, args: TrainingArguments, state: TrainerState) -> None:
        """What the thread finished: into the log, and what retention removes now that something newer is durable."""
        for sealed in self._sealer.take():
            name = os.path.basename(sealed.path)
            if sealed.published is None or sealed.error is not None:
                reason = sealed.error.reason if sealed.error else ""
                stage = sealed.error.stage if sealed.error else "sync"
                self._tell_failure(name, stage, reason, sealed.step, args.output_dir)
                continue
            self._tell_saved(name, sealed)
            self._remove_old(args, state, sealed.step)

    def _tell_saved(self, name: str, sealed: Sealed) -> None:
        stall_seconds = self._save_seconds.pop(sealed.step, 0.0)
        if self.log is not None and sealed.published is not None:
            self.log.emit(
                CheckpointSaved(
                    step=sealed.step, path=name, kind="rolling", bytes=sealed.published.size_bytes,
                    digest=sealed.published.digest, save_seconds=round(stall_seconds + sealed.seconds, 6),
                    stall_seconds=round(stall_seconds, 6), val_loss=self._val_loss, names=[name],
                )
            )  # fmt: skip

    def _tell_failure(self, name: str, stage: str, reason: str, step: int, directory: str) -> None:
        self._say(f"save of {name} failed ({stage}): {reason}")
        if self.log is not None:
            kept = max((other for other in _sealed_steps(directory) if other != step), default=None)
            kept_name = f"checkpoint-{kept}" if kept is not None else ""
            self.log.emit(CheckpointFailed(step=step, path=name, stage=stage, error=reason, kept=kept_name))

    def _remove_old(self, args: TrainingArguments, state: TrainerState, newest: int) -> None:
        """As save_total_limit says, by step. Never the newest durable one, the best, or what this was resumed from."""
        if not self._keep or self._keep < 1:
            return
        kept = {newest, self._choice.step if self._choice is not None else -1}
        best = os.path.basename(state.best_model_checkpoint or "")
        steps = sorted(step for step in _sealed_steps(args.output_dir) if step <= newest)
        for step in steps[: max(len(steps) - self._keep, 0)]:
            name = f"checkpoint-{step}"
            if step in kept or name == best:
                continue
            try:
                remove_directory(os.path.join(args.output_dir, name))
            except OSError as error:
                self._say(f"{name} could not be removed: {error.strerror}")
                continue
            if self.log is not None:
                self.log.emit(CheckpointRemoved(step=newest, path=name, reason=f"save_total_limit {self._keep}"))

    def _end_failed(self, error: BaseException, trainer: Trainer) -> None:
        if self.log is None:
            return
        step = trainer.state.global_step
        self._sealer.wait()
        self._tell_seals(trainer.args, trainer.state)
        text = "".join(traceback.format_exception(error))
        self.log.emit(ErrorRaised(step=step, type=type(error).__name__, message=str(error), traceback=text))
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.log.end(status, f"{type(error).__name__}: {error}", step=step)


def _agreed(args: TrainingArguments, stops: bool) -> bool:
    """Whether any process was asked to stop: all do so after the same step, or one waits for the others forever."""
    if args.world_size == 1:
        return stops
    flag = torch.tensor(int(stops), device=args.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _is_of_disk(error: Exception) -> bool:
    """Whether a save failed for what the disk does; torch and safetensors wrap the system's error in their own."""
    return (
        isinstance(error, OSError) or type(error).__name__ == "SafetensorError" or "PytorchStreamWriter" in str(error)
    )


def _sealed_steps(directory: str) -> list[int]:
    return [
        step
        for name in os.listdir(directory)
        if (step := step_of(name)) is not None and os.path.exists(os.path.join(directory, name, MANIFEST_NAME))
    ]


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """What JSON can hold as it is, the rest as text."""
    plain = {}
    for key, value in settings.items():
        try:
            json.dumps(value)
            plain[key] = value
        except (TypeError, ValueError):
            plain[key] = str(value)
    return plain
