"""The training, from top to bottom: begin or resume, step, evaluate, save, and end in a way that can be told."""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from typing import cast

import torch
from torch import nn

from ckpt_tui.events.schema import Best, EpochEnd, ErrorRaised, Nonfinite, SignalReceived
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.lock import DirectoryLock
from trainer.checkpoint.publish import remove_leftovers
from trainer.checkpoint.resume import Source
from trainer.checkpoint.state import NEEDED, seed_all
from trainer.config import SHAPE_SETTINGS, Request
from trainer.data import Corpus, TrainData, corpus_files
from trainer.device import choose_device
from trainer.errors import UsageError
from trainer.evaluation import evaluate, is_better
from trainer.machine import Machine
from trainer.model import GPT, make_optimizer
from trainer.progress import Progress
from trainer.schedule import Schedule
from trainer.signals import STATUS, Signals
from trainer.step import Stepper, StepResult
from trainer.terminal import Terminal
from trainer.training_state import Mark, TrainingState

# So many batches in a row without a finite loss, and the training has diverged.
MAX_NONFINITE = 50
SYSTEM_SECONDS = 10.0


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
        self.terminal = Terminal(config.print_seconds)
        self.progress = Progress()
        self.machine = Machine()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.log = EventWriter(self.directory, on_event=self.terminal.on_event)
        self.checkpoints = Checkpointer(
            self.directory, config.checkpoint_policy(), log=self.log, needed=NEEDED, takes_lock=False,
            say=self.terminal.say,
        )  # fmt: skip
        source = self._source(request)
        seed_all(config.seed)
        corpus = Corpus(corpus_files(config.data), config.block_size, config.batch_size)
        self.data = TrainData(corpus, config.batch_size, config.seed)
        self.val_batches = corpus.val_batches(config.mini_batch_size or config.batch_size, config.eval_batches)
        self.device = choose_device(config.device)
        self.model = GPT(config).to(self.device)
        self.optimizer = make_optimizer(self.model, config)
        self.schedule = Schedule(config)
        network = cast(nn.Module, torch.compile(self.model)) if config.compile else None
        self.stepper = Stepper(self.model, self.optimizer, config, self.device, network=network)
        self.state = TrainingState(config, self.stepper, self.schedule, self.data, self.progress)
        if source is not None:
            self._load(source, corpus)
        self._log_start(request, source)
        self._mark: Mark | None = None  # where the batch begins that is being taken
        self._num_nonfinite = 0
        self._last_timed_save = self._last_system = time.monotonic()
        self._paced_steps, self._paced_seconds = 0, 0.0

    def run(self) -> int:
        """Until the end, a signal or an error; gives the exit code."""
        try:
            return self._run()
        except Exception as error:  # noqa: BLE001  whatever it is: tell of it and save what can be saved
            return self._end_failed(error)
        finally:
            self.checkpoints.close()
            self.terminal.close()

    def _run(self) -> int:
        progress, config = self.progress, self.config
        if progress.is_step_unfinished:
            self._after_step()
        while progress.step < config.max_steps and not self.signals.stop:
            self._train_step()
            if self._num_nonfinite >= MAX_NONFINITE:
                reason = f"{MAX_NONFINITE} batches in a row had no finite loss or gradient"
                self.checkpoints.wait()
                self.terminal.say(f"diverged at step {progress.step}: {reason}")
                self.log.end("diverged", reason, step=progress.step)
                return 1
            self._after_step()
            self.checkpoints.poll()
            if self.signals.take_save_request():
                self._signalled("SIGUSR1", "saved")
                self.checkpoints.save(self.state.gather(), {"emergency"}, "emergency")
        if self.signals.stop:
            return self._end_signalled()
        self.checkpoints.wait()
        if self.checkpoints.last_step != progress.step:
            self.checkpoints.save_now(self.state.gather(), (), "regular")
        self.terminal.say(f"finished at step {progress.step}")
        self.log.end("finished", f"{config.max_steps} steps", step=progress.step)
        return 0

    def _train_step(self) -> None:
        progress = self.progress
        self._mark = self.state.mark()
        inputs, targets = self.data.next_batch()
        result = self.stepper.take(inputs, targets, self.schedule.lr(progress.step))
        progress.step += 1
        self._mark = None
        self.terminal.at_step(progress.step)

        self._paced_steps += 1
        self._paced_seconds += result.seconds
        progress.train_loss = result.loss
        if not result.is_trouble:
            self._num_nonfinite = 0
            progress.count_loss(result.loss)
        else:
            self._num_nonfinite += 1
            what = "grad_norm" if math.isfinite(result.loss) else "loss"
            self.log.emit(Nonfinite(step=progress.step, what=what, action="skipped"))
        if progress.step % self.config.log_freq == 0:
            self._log_step(result)

    def _after_step(self) -> None:
        """What is due at this step: evaluation, end of an epoch, save. Cut short by a signal, a resume does it anew."""
        progress, config = self.progress, self.config
        kinds: set[str] = set()
        progress.is_step_unfinished = False
        if progress.step % config.eval_freq == 0 or progress.step == config.max_steps:
            started = time.perf_counter()
            metrics = evaluate(self.stepper, self.val_batches, lambda: self.signals.stop is not None)
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
            self.checkpoints.save(self.state.gather(), kinds)
        if now - self._last_system >= SYSTEM_SECONDS:
            self._last_system = now
            self.log.emit(self.machine.read(progress.step))

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
        previous = progress.best
        if not is_better(value, previous, config.monitor_mode):
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

    def _log_step(self, result: StepResult) -> None:
        progress, config = self.progress, self.config
        seconds = self._paced_seconds / self._paced_steps
        tokens_per_s = config.batch_size * config.block_size / max(seconds, 1e-9)
        self._paced_steps, self._paced_seconds = 0, 0.0
        progress.history.append([progress.step, result.loss])
        self.log.step(
            progress.step, epoch=round(self.data.epochs_done, 6), loss=result.loss, lr=result.lr,
            grad_norm=result.grad_norm, tokens_per_s=round(tokens_per_s, 1), step_seconds=round(seconds, 6),
            **({"loss_scale": self.stepper.precision.scale} if config.precision == "fp16" else {}),
        )  # fmt: skip

    def _signalled(self, name: str, action: str) -> None:
        self.log.emit(SignalReceived(step=self.progress.step, signal=name, action=action))

    def _end_signalled(self) -> int:
        stop = self.signals.stop
        assert stop is not None
        step = self.progress.step
        self._signalled(stop.name, "saves and stops")
        saved = self.checkpoints.save_now(self.state.gather(), {"emergency"}, "emergency")
        told = f"saved {saved}" if saved else "could not save"
        self.terminal.say(f"{stop.name}: stopped at step {step}, {told}")
        self.log.end(STATUS[stop], f"{stop.name}, {told}", step=step)
        return 128 + stop

    def _end_failed(self, error: Exception) -> int:
        step = self.progress.step
        text = "".join(traceback.format_exception(error))
        self.terminal.say(text)
        self.log.emit(ErrorRaised(step=step, type=type(error).__name__, message=str(error), traceback=text))
        if self.stepper.is_updating:
            told = "not saved: the error came while the weights were being updated"
        else:
            if self._mark is not None:
                # The batch was begun and is not in the weights: the checkpoint says where it begins.
                self.state.rewind(self._mark)
            saved = self.checkpoints.save_now(self.state.gather(), {"emergency"}, "emergency")
            told = f"saved {saved}" if saved else "could not save"
        self.terminal.say(f"failed at step {step}: {type(error).__name__}: {error}; {told}")
        self.log.end("failed", f"{type(error).__name__}: {error}; {told}", step=step)
        return 1

    def _source(self, request: Request) -> Source | None:
        if not request.resume:
            if self.checkpoints.registry.entries:
                raise UsageError(
                    f"{self.directory} holds checkpoints of a training. Go on with `--resume auto`, or choose another"
                    " --out."
                )
            return None
        source = self.checkpoints.find(request.resume)
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
            self.state.load(state)
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
        durable_step = step if source is not None else None
        self.terminal.begin(config.run_name, config.max_steps, step, durable_step=durable_step)
