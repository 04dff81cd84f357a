"""The training, from top to bottom: begin or resume, step, evaluate, save, and end in a way that can be told."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from ckpt_tui import text
from ckpt_tui.events.lineage import as_plain
from ckpt_tui.events.schema import Best, CheckpointSaved, EpochEnd, Event, Nonfinite, SignalReceived
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.resume import Source
from trainer.checkpoint.state import NEEDED, seed_all
from trainer.config import Request
from trainer.costs import Costs
from trainer.data import Corpus, TrainData, corpus_files
from trainer.device import choose_device
from trainer.distributed import World
from trainer.ending import Ending
from trainer.errors import UsageError
from trainer.evaluation import evaluate
from trainer.guard import Guard
from trainer.history import read_history
from trainer.initial_weights import begin_with
from trainer.machine import Machine
from trainer.model import GPT, make_optimizer
from trainer.observers import observers_for
from trainer.observers.observed_log import ObservedLog
from trainer.parallel.follower import FollowedCheckpoints, SilentLog
from trainer.parallel.launcher import launch_argv
from trainer.parallel.network import replicate, settle, shard
from trainer.parallel.session import run_session, tell_lost
from trainer.parallel.sharing import seed_rank, shared_source
from trainer.progress import Progress
from trainer.resuming import Resumed, go_on_from
from trainer.schedule import Schedule
from trainer.signals import Signals
from trainer.step import Stepper, StepResult
from trainer.terminal import Terminal
from trainer.training_state import Mark, TrainingState

SYSTEM_SECONDS = 10.0


def run(request: Request, signals: Signals) -> int:
    """Train as asked; gives the exit code: 0 at the end, 1 on failure, 128 + signal. Raises UsageError."""

    def train(world: World) -> int:
        # A group that torchrun started anew goes on by itself.
        resume = request.resume or ("auto" if world.restart_count else "")
        return Training(replace(request, resume=resume), signals, world).run()

    return run_session(request, train)


class Training:
    """One session."""

    def __init__(self, request: Request, signals: Signals, world: World | None = None) -> None:
        world = World() if world is None else world
        config = request.config
        self.config, self.signals, self.directory, self.world = config, signals, request.out, world
        self.terminal = Terminal(config.print_seconds, is_quiet=not world.is_main)
        self.progress = Progress()
        self.machine = Machine()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.log: EventWriter = SilentLog(self.directory)
        self.checkpoints: Checkpointer
        if world.is_main:
            self.log = ObservedLog(self.directory, observers_for(self.directory, config), self.terminal.say)
            self.checkpoints = Checkpointer(
                self.directory, config.checkpoint_policy(), log=self.log, needed=NEEDED, takes_lock=False,
                say=self.terminal.say,
            )  # fmt: skip
        else:
            self.checkpoints = FollowedCheckpoints(self.directory, config.checkpoint_policy())
        self.session = world.broadcast(self.log.session)
        world.on_lost = lambda lost: tell_lost(lost, self.directory, world, session=self.session)
        source = shared_source(world, lambda: self._source(request))
        seed_all(config.seed)
        corpus = Corpus(corpus_files(config.data), config.block_size, config.batch_size)
        self.data = TrainData(corpus, config.batch_size, config.seed)
        self.val_batches = corpus.val_batches(config.mini_batch_size or config.batch_size, config.eval_batches)
        self.device = choose_device(config.device, world.local_rank)
        self.model = GPT(config)
        if source is None and config.init_from:
            step = begin_with(self.model, config.init_from)
            self.terminal.say(f"beginning with the weights of step {step} of {config.init_from}")
        self.model.to(self.device)
        shard(self.model, config, world, self.device)
        self.optimizer = make_optimizer(self.model, config)
        self.schedule = Schedule(config)
        self.guard = Guard(config)
        network = cast(nn.Module, torch.compile(self.model)) if config.compile else self.model
        network = replicate(network, config, world, self.device)
        self.stepper = Stepper(self.model, self.optimizer, config, self.device, network=network, world=world)
        self.state = TrainingState(config, self.stepper, self.schedule, self.data, self.progress, self.guard)
        settle(network, self.stepper.loss, world, config.block_size)
        seed_rank(config.seed, world)
        resumed = go_on_from(source, self.state, corpus, self.terminal.say) if source is not None else None
        world.at(self.progress.step)
        history = read_history(self.directory)
        self._log_start(request, resumed)
        self.costs = Costs(
            self.log, history, self.progress.step, is_chosen=source is not None and not source.is_found,
            seconds_per_step=source.seconds_per_step if source is not None else None,
        )  # fmt: skip
        self.log.on_event = self._on_event
        if source is not None:
            self.checkpoints.settle(source)
        self._stop: signal.Signals | None = None  # what all ranks were told to stop by
        self._is_time_to_save = False
        self.save_seconds = 0.0  # the newest save, until it was durable
        self.mark: Mark | None = None  # where the batch begins that is being taken
        self.num_steps = 0  # that this session took
        self.ending = Ending(self)
        self.owed_kinds: set[str] = set()  # saves that wait for a finite loss
        self._last_timed_save = self._last_system = time.monotonic()
        self._paced_steps, self._paced_seconds = 0, 0.0

    def run(self) -> int:
        """Until the end, a signal or an error; gives the exit code."""
        try:
            return self._run()
        except KeyboardInterrupt:  # without `Signals`, or from within a library
            return self.ending.interrupted()
        except Exception as error:  # noqa: BLE001  whatever it is: tell of it and save what can be saved
            return self.ending.failed(error)
        finally:
            self.checkpoints.close()
            self.terminal.close()
            self.log.close()

    def _run(self) -> int:
        progress, config = self.progress, self.config
        if progress.is_step_unfinished:
            self._after_step()
        while not self._is_told_to_stop() and progress.step < config.max_steps:
            if not self._train_step():
                continue
            if self.guard.is_too_much:
                if not self._go_back():
                    return 1
                continue
            self._after_step()
            self.checkpoints.poll()
        if self._stop is not None:
            return self.ending.signalled(self._stop)
        return self.ending.finished()

    def _is_told_to_stop(self) -> bool:
        """Do what any rank was asked, all of them at the same step; whether to stop is one of it."""
        self.world.at(self.progress.step)
        is_due = 0 < self._seconds_between_saves() <= time.monotonic() - self._last_timed_save
        stop, save, due = self.world.agree([self.signals.stop or 0, self.signals.take_save_request(), is_due])
        self._stop, self._is_time_to_save = signal.Signals(int(stop)) if stop else None, bool(due)
        if save:
            self.log.emit(SignalReceived(step=self.progress.step, signal="SIGUSR1", action="saved"))
            self.checkpoints.save(self.state.gather(), {"emergency"}, "emergency")
        return self._stop is not None

    def _is_stopped(self) -> bool:
        """Whether any rank was asked to stop, in the midst of a step's work."""
        [stop] = self.world.agree([self.signals.stop or 0])
        return stop != 0

    def _is_stopped_alone(self) -> bool:
        # Several ranks do not leave a step in its midst: one may be done with it.
        return self.world.is_alone and self.signals.stop is not None

    def _seconds_between_saves(self) -> float:
        """0 when none are due by time."""
        if not self.config.checkpoint_auto:
            return self.config.checkpoint_minutes * 60
        return self.costs.save_every_s if self.world.is_main else 0.0  # main has measured, the others follow

    def _train_step(self) -> bool:
        """False when a signal came in its midst: then the batch was not taken."""
        progress = self.progress
        self.mark = self.state.mark()
        inputs, targets = self.data.next_batch()
        result = self.stepper.take(
            inputs, targets, self.schedule.lr(progress.step), self._is_stopped_alone, self.guard.accepts
        )
        if result is None:
            self.state.rewind(self.mark)
            self.mark = None
            return False
        progress.step += 1
        self.mark = None
        self.terminal.at_step(progress.step)
        self.costs.took_step(progress.step, result.seconds)

        self.num_steps += 1
        self._paced_steps += 1
        self._paced_seconds += result.seconds
        progress.train_loss = result.loss
        if result.is_spike:
            z = self.guard.robust_z(result.loss)
            self.log.emit(Nonfinite(step=progress.step, what="spike", action=f"skipped (robust z {z:.1f})"))
        if result.is_trouble:
            what = "grad_norm" if math.isfinite(result.loss) else "loss"
            self.log.emit(Nonfinite(step=progress.step, what=what, action="skipped"))
        else:
            progress.count_loss(result.loss)
        self.guard.took(progress.step, result.loss, is_trouble=result.is_trouble, is_spike=result.is_spike)
        if progress.step % self.config.log_freq == 0:
            self._log_step(result)
        return True

    def _go_back(self) -> bool:
        """To a checkpoint from before the trouble, with other data; False when training has diverged."""
        guard, step = self.guard, self.progress.step
        reason = f"{guard.num_nonfinite} batches in a row had no finite loss or gradient"
        self.checkpoints.wait()
        source = None
        if guard.may_go_back:
            at_most = guard.target(self.world.broadcast(self.checkpoints.last_step))
            source = shared_source(self.world, lambda: self.checkpoints.go_back(at_most))
            if source is None:
                reason += f", and there is no checkpoint of step {at_most} or before"
        elif guard.num_rollbacks:
            reason += f", after going back {text.plural(guard.num_rollbacks, 'time')}"
        if source is None:
            self.ending.diverged(reason)
            return False
        self.state.go_back(source.state)
        self.owed_kinds.clear()
        action = (
            f"rolled back to {source.name} (step {source.step}), {guard.num_rollbacks} of {self.config.max_rollbacks}"
        )
        lineage = as_plain(self.checkpoints.lineage)
        self.log.emit(
            Nonfinite(step=step, what="loss", action=action, rolled_back_to=source.step, extra={"lineage": lineage})
        )
        self.terminal.say(f"step {step}: {reason}: {action}, the data in between are skipped", "warning")
        return True

    def _after_step(self) -> None:
        """What is due at this step: evaluation, end of an epoch, save. Cut short by a signal, a resume does it anew."""
        progress, config = self.progress, self.config
        kinds: set[str] = set()
        # Until it is: an error in the midst of it leaves it to the resume, too.
        progress.is_step_unfinished = True
        if progress.step % config.eval_freq == 0 or progress.step == config.max_steps:
            started = time.perf_counter()
            metrics = evaluate(self.stepper, self.val_batches, self._is_stopped)
            if metrics is None:
                return
            if self._evaluated(metrics, time.perf_counter() - started):
                kinds.add("best")
        if self.data.is_at_epoch_end:
            kinds.add("epoch")
            self._end_epoch()
        progress.is_step_unfinished = False
        now = time.monotonic()
        is_due = not config.checkpoint_auto and config.checkpoint_freq and progress.step % config.checkpoint_freq == 0
        if is_due or self._is_time_to_save:
            kinds.add("rolling")
            self._last_timed_save, self._is_time_to_save = now, False
        if self.guard.is_in_doubt:
            # Not what to come back to; with the next finite loss it is.
            self.owed_kinds |= kinds
            kinds = set()
        elif self.owed_kinds:
            kinds, self.owed_kinds = kinds | self.owed_kinds, set()
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
        if not self.checkpoints.policy.is_better(value, previous):
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

    def _on_event(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved) and event.save_seconds is not None:
            self.save_seconds = event.save_seconds
        self.terminal.on_event(event)
        self.costs.on_event(event)

    def _source(self, request: Request) -> Source | None:
        if not request.resume:
            if self.checkpoints.registry.entries:
                raise UsageError(
                    f"{self.directory} holds checkpoints of a training. Go on with `--resume auto`, or choose another"
                    " --out."
                )
            return None
        source = self.checkpoints.find(request.resume, settles=False)
        if source is None:
            self.terminal.say("nothing to resume from: starting at step 0")
            return None
        for line in source.sentences():
            self.terminal.say(line)
        return source

    def _log_start(self, request: Request, resumed: Resumed | None) -> None:
        config, step = self.config, self.progress.step
        self.log.start(
            config=config.as_args(), total_steps=config.max_steps, run_name=config.run_name,
            argv=launch_argv(), start_step=step, world_size=self.world.size,
            steps_per_epoch=self.data.steps_per_epoch,
            resumed_from=resumed.as_event() if resumed is not None else None,
            rejected=[one.as_event() for one in resumed.source.rejected] if resumed is not None else [],
            lineage=as_plain(self.checkpoints.lineage),
            versions={"torch": str(torch.__version__)},
        )  # fmt: skip
        if resumed is not None:
            self.terminal.say(resumed.words)
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.terminal.say(
            f"{num_parameters:,} parameters, {self.data.steps_per_epoch:,} steps an epoch, writing to {self.directory}"
        )
        durable_step = step if resumed is not None else None
        self.terminal.begin(config.run_name, config.max_steps, step, durable_step=durable_step)
