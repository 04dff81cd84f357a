"""The training, from top to bottom: begin or resume, step, evaluate, save, and end in a way that can be told.

`step` counts batches taken: step N means that batches 0..N-1 are in the weights. A batch whose loss or gradient is
not finite is taken, too, and leaves the weights as they are; so the position in the data always follows the step.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from ckpt_tui.events.schema import Best, EpochEnd, ErrorRaised, Nonfinite, SignalReceived
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.lock import DirectoryLock
from trainer.checkpoint.publish import remove_leftovers
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import Source, find, put_latest_back
from trainer.checkpoint.save import Saver
from trainer.checkpoint.state import restore_rng_state, rng_state, seed_all
from trainer.config import SHAPE_SETTINGS, Request
from trainer.data import Corpus, TrainData, corpus_files
from trainer.errors import UsageError
from trainer.machine import Machine
from trainer.model import GPT, apply_settings, make_optimizer
from trainer.schedule import Schedule
from trainer.signals import STATUS, Signals
from trainer.terminal import Terminal

HISTORY_LENGTH = 100
# So many batches in a row without a finite loss, and the training has diverged.
MAX_NONFINITE = 50
SYSTEM_SECONDS = 10.0


@dataclass
class Progress:
    """What changes from step to step besides weights, optimizer, schedule and data position; all of it is saved."""

    step: int = 0
    train_loss: float | None = None
    val_loss: float | None = None
    val_metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    history: deque[list[float]] = field(default_factory=lambda: deque(maxlen=HISTORY_LENGTH))
    epoch_loss_sum: float = 0.0
    epoch_num_steps: int = 0
    recent_loss_sum: float = 0.0  # since the last evaluation, for --monitor train_loss
    recent_num_steps: int = 0
    # The work after a step (evaluation, end of an epoch, save) was cut short by a signal: a resume does it first.
    is_step_unfinished: bool = False


def run(request: Request, signals: Signals) -> int:
    """Train as asked; gives the exit code: 0 at the end, 1 on failure, 128 + signal. Raises UsageError."""
    directory = request.out
    try:
        os.makedirs(directory, exist_ok=True)
        lock = DirectoryLock(directory)
    except OSError as error:
        raise UsageError(f"--out {directory}: {error.strerror}") from error
    try:
        remove_leftovers(directory)
        return Training(request, signals).run()
    finally:
        lock.release()


class Training:
    """One session."""

    def __init__(self, request: Request, signals: Signals) -> None:
        config = request.config
        self.config, self.signals, self.directory = config, signals, request.out
        self.terminal = Terminal()
        self.progress = Progress()
        self.machine = Machine()
        if config.threads:
            torch.set_num_threads(config.threads)
        registry = Registry(self.directory)
        registry.sync()
        source = self._source(request, registry)
        seed_all(config.seed)
        corpus = Corpus(corpus_files(config.data), config.block_size, config.batch_size)
        self.data = TrainData(corpus, config.batch_size, config.seed)
        self.val_batches = corpus.val_batches(config.mini_batch_size or config.batch_size, config.eval_batches)
        self.model = GPT(config)
        self.optimizer = make_optimizer(self.model, config)
        self.schedule = Schedule(config)
        if source is not None:
            self._load(source, corpus)
        self.log = EventWriter(self.directory)
        if request.resume:
            put_latest_back(self.directory, registry, self.log)
        self.saver = Saver(
            self.directory, config, self.log, registry,
            protected={source.name} if source is not None else (),
            unproven={name for name, _ in source.rejected} if source is not None else (),
        )  # fmt: skip
        if source is not None:
            self.saver.last_step = self.progress.step
        self._log_start(request, source)
        # Whether the optimizer is at work on the weights: then they belong to no step.
        self._is_updating = False
        self._before_step: tuple[int, int, torch.Tensor] | None = None
        self._num_nonfinite = 0
        self._last_timed_save = self._last_system = time.monotonic()
        self._paced_steps, self._paced_seconds = 0, 0.0

    def run(self) -> int:
        """Until the end, a signal or an error; gives the exit code."""
        try:
            return self._run()
        except Exception as error:  # noqa: BLE001  whatever it is: tell of it and save what can be saved
            return self._end_failed(error)

    def _run(self) -> int:
        progress, config = self.progress, self.config
        if progress.is_step_unfinished:
            self._after_step()
        while progress.step < config.max_steps and not self.signals.stop:
            self._train_step()
            if self._num_nonfinite >= MAX_NONFINITE:
                reason = f"{MAX_NONFINITE} batches in a row had no finite loss or gradient"
                self.terminal.say(f"diverged at step {progress.step}: {reason}")
                self.log.end("diverged", reason, step=progress.step)
                return 1
            self._after_step()
            if self.signals.take_save_request():
                self._signalled("SIGUSR1", "saved")
                self.saver.save(self._state(), {"emergency"}, "emergency")
        if self.signals.stop:
            return self._end_signalled()
        if self.saver.last_step != progress.step:
            self.saver.save(self._state(), ())
        self.terminal.say(f"finished at step {progress.step}")
        self.log.end("finished", f"{config.max_steps} steps", step=progress.step)
        return 0

    def _train_step(self) -> None:
        """One batch: forward and backward in passes, clip, update."""
        progress, config = self.progress, self.config
        started = time.perf_counter()
        self._before_step = (self.data.epoch, self.data.position, torch.get_rng_state())
        lr = self.schedule.lr(progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        inputs, targets = self.data.next_batch()
        passes = config.passes_per_step
        loss = 0.0
        for some_inputs, some_targets in zip(inputs.chunk(passes), targets.chunk(passes), strict=True):
            with self._precision():
                part = self.model.loss(some_inputs, some_targets) / passes
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip or math.inf).item()
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if is_finite:
            self._is_updating = True
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        self._is_updating = False
        self._before_step = None

        self._paced_steps += 1
        self._paced_seconds += time.perf_counter() - started
        progress.train_loss = loss
        if is_finite:
            self._num_nonfinite = 0
            progress.epoch_loss_sum += loss
            progress.epoch_num_steps += 1
            progress.recent_loss_sum += loss
            progress.recent_num_steps += 1
        else:
            self._num_nonfinite += 1
            what = "grad_norm" if math.isfinite(loss) else "loss"
            self.log.emit(Nonfinite(step=progress.step, what=what, action="skipped"))
        if progress.step % config.log_freq == 0:
            self._log_step(loss, lr, norm)

    def _after_step(self) -> None:
        """What is due at this step: evaluation, end of an epoch, save. Cut short by a signal, a resume does it anew."""
        progress, config = self.progress, self.config
        kinds: set[str] = set()
        progress.is_step_unfinished = False
        if progress.step % config.eval_freq == 0 or progress.step == config.max_steps:
            started = time.perf_counter()
            metrics = self._evaluate()
            if metrics is None:
                progress.is_step_unfinished = True
                return
            if self._evaluated(metrics, time.perf_counter() - started):
                kinds.add("best")
        if self.data.is_at_epoch_end:
            kinds.add("epoch")
            self._end_epoch()
        now = time.monotonic()
        minutes = (now - self._last_timed_save) / 60
        is_due = config.checkpoint_freq and progress.step % config.checkpoint_freq == 0
        if is_due or (config.checkpoint_minutes and minutes >= config.checkpoint_minutes):
            kinds.add("rolling")
            self._last_timed_save = now
        if kinds:
            self.saver.save(self._state(), kinds)
        if now - self._last_system >= SYSTEM_SECONDS:
            self._last_system = now
            self.log.emit(self.machine.read(progress.step))

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float] | None:
        """Mean loss over the evaluation batches, without random numbers; None when a signal asked to stop meanwhile."""
        self.model.eval()
        try:
            total, num = 0.0, 0
            for inputs, targets in self.val_batches:
                if self.signals.stop:
                    return None
                with self._precision():
                    total += self.model.loss(inputs, targets).item() * len(inputs)
                num += len(inputs)
            return {"val_loss": total / num}
        finally:
            self.model.train()

    def _evaluated(self, metrics: dict[str, float], seconds: float) -> bool:
        """Take note of an evaluation; whether it is the best so far. A loss that is not finite never is."""
        progress, config = self.progress, self.config
        progress.val_metrics, progress.val_loss = metrics, metrics["val_loss"]
        self.log.eval(progress.step, epoch=round(self.data.epochs_done, 6), seconds=round(seconds, 6), **metrics)
        self.schedule.evaluated(metrics["val_loss"])
        value = metrics["val_loss"]
        if config.monitor == "train_loss":
            value = progress.recent_loss_sum / progress.recent_num_steps if progress.recent_num_steps else math.nan
        progress.recent_loss_sum, progress.recent_num_steps = 0.0, 0
        self.terminal.say(f"step {progress.step}  val_loss {metrics['val_loss']:.4f}")
        previous = progress.best
        sign = 1.0 if config.monitor_mode == "min" else -1.0
        if not math.isfinite(value) or (previous is not None and sign * value >= sign * previous):
            return False
        progress.best = value
        self.log.emit(
            Best(step=progress.step, metric=config.monitor, mode=config.monitor_mode, value=value, previous=previous)
        )
        return True

    def _end_epoch(self) -> None:
        progress = self.progress
        mean = progress.epoch_loss_sum / progress.epoch_num_steps if progress.epoch_num_steps else None
        epoch = self.data.epoch + 1
        self.log.emit(EpochEnd(step=progress.step, epoch=epoch, train_loss=mean, val_loss=progress.val_loss))
        progress.epoch_loss_sum, progress.epoch_num_steps = 0.0, 0
        # The checkpoint says: this many epochs are complete, and the next one has not begun.
        self.data.begin_epoch(epoch)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _log_step(self, loss: float, lr: float, norm: float) -> None:
        progress, config = self.progress, self.config
        seconds = self._paced_seconds / self._paced_steps
        tokens_per_s = config.batch_size * config.block_size / max(seconds, 1e-9)
        self._paced_steps, self._paced_seconds = 0, 0.0
        progress.history.append([progress.step, loss])
        self.log.step(
            progress.step, epoch=round(self.data.epochs_done, 6), loss=loss, lr=lr, grad_norm=norm,
            tokens_per_s=round(tokens_per_s, 1), step_seconds=round(seconds, 6),
        )  # fmt: skip
        pace = f"{1 / max(seconds, 1e-9):.1f} steps/s"
        self.terminal.progress(f"step {progress.step}/{config.max_steps}  loss {loss:.4f}  lr {lr:.2e}  {pace}")

    def _signalled(self, name: str, action: str) -> None:
        self.log.emit(SignalReceived(step=self.progress.step, signal=name, action=action))

    def _end_signalled(self) -> int:
        stop = self.signals.stop
        assert stop is not None
        step = self.progress.step
        self._signalled(stop.name, "saves and stops")
        saved = self.saver.save(self._state(), {"emergency"}, "emergency")
        told = f"saved {saved}" if saved else "could not save"
        self.terminal.say(f"{stop.name}: stopped at step {step}, {told}")
        self.log.end(STATUS[stop], f"{stop.name}, {told}", step=step)
        return 128 + stop

    def _end_failed(self, error: Exception) -> int:
        step = self.progress.step
        text = "".join(traceback.format_exception(error))
        self.terminal.say(text)
        self.log.emit(ErrorRaised(step=step, type=type(error).__name__, message=str(error), traceback=text))
        if self._is_updating:
            told = "not saved: the error came while the weights were being updated"
        else:
            if self._before_step is not None:
                # The batch was begun and is not in the weights: the checkpoint says where it begins.
                epoch, position, generator = self._before_step
                self.data.begin_epoch(epoch)
                self.data.position = position
                torch.set_rng_state(generator)
            saved = self.saver.save(self._state(), {"emergency"}, "emergency")
            told = f"saved {saved}" if saved else "could not save"
        self.terminal.say(f"failed at step {step}: {type(error).__name__}: {error}; {told}")
        self.log.end("failed", f"{type(error).__name__}: {error}; {told}", step=step)
        return 1

    def _state(self) -> dict[str, Any]:
        """The whole training state at this step (SPEC section 3), without what describes the checkpoint itself."""
        progress = self.progress
        sums = {name: getattr(progress, name) for name in _SUMS}
        return {
            "step": progress.step, "epoch": self.data.epoch,
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(progress.step), "scaler": None, "ema": None,
            "train_loss": progress.train_loss, "val_loss": progress.val_loss, "val_metrics": dict(progress.val_metrics),
            "loss_history": [list(point) for point in progress.history], "rng_state": rng_state(),
            "dataloader_state": {**self.data.state_dict(), "sums": sums},
            "args": self.config.as_args(), "best_metric": progress.best,
        }  # fmt: skip

    def _source(self, request: Request, registry: Registry) -> Source | None:
        if not request.resume:
            if registry.entries:
                raise UsageError(
                    f"{self.directory} holds checkpoints of a training. Go on with `--resume auto`, or choose another"
                    " --out."
                )
            return None
        source = find(self.directory, request.resume, registry)
        if source is None:
            self.terminal.say("nothing to resume from: starting at step 0")
            return None
        for name, why in source.rejected:
            self.terminal.say(f"rejected {name}: {why}")
        return source

    def _load(self, source: Source, corpus: Corpus) -> None:
        """The state of a checkpoint into everything that was built; random numbers last, building draws them."""
        state, args, mine = source.state, source.state["args"], self.config.as_args()
        differing = [
            f"--{key} {args.get(key)} (now {mine[key]})" for key in SHAPE_SETTINGS if args.get(key) != mine[key]
        ]
        if differing:
            raise UsageError(f"{source.name} was trained with {', '.join(differing)}: it does not fit")
        for key in sorted(set(mine) - set(SHAPE_SETTINGS)):
            if key in args and args[key] != mine[key]:
                self.terminal.say(f"changed --{key}: {args[key]} -> {mine[key]}")
        if state["dataloader_state"].get("corpus") != corpus.identity:
            self.terminal.say("the training data are not those of the checkpoint: the resume is not exact")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            apply_settings(self.optimizer, self.config)
            self.schedule.load_state_dict(state["scheduler"])
            self.data.load_state_dict(state["dataloader_state"])
            self.progress = Progress(
                step=state["step"], train_loss=state["train_loss"], val_loss=state["val_loss"],
                val_metrics=dict(state["val_metrics"]), best=state["best_metric"],
                history=deque(state["loss_history"], maxlen=HISTORY_LENGTH),
                **{name: state["dataloader_state"]["sums"][name] for name in _SUMS},
            )  # fmt: skip
            restore_rng_state(state["rng_state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{source.name} does not fit this trainer: {type(error).__name__}: {error}") from error

    def _log_start(self, request: Request, source: Source | None) -> None:
        config, step = self.config, self.progress.step
        self.log.start(
            config=config.as_args(), total_steps=config.max_steps, run_name=config.run_name,
            argv=[sys.executable, "-m", "trainer", *sys.argv[1:]], start_step=step,
            steps_per_epoch=self.data.steps_per_epoch,
            resumed_from={"path": source.name, "digest": source.digest} if source is not None else None,
            versions={"torch": str(torch.__version__)},
        )  # fmt: skip
        if source is not None:
            self.terminal.say(f"resumed from step {step} ({source.name})")
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.terminal.say(
            f"{num_parameters:,} parameters, {self.data.steps_per_epoch:,} steps an epoch, writing to {self.directory}"
        )


_SUMS = ("epoch_loss_sum", "epoch_num_steps", "recent_loss_sum", "recent_num_steps", "is_step_unfinished")
