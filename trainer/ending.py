"""How a session ends: done, diverged, by a signal, by an error. Each is saved as far as it can be, and told."""

from __future__ import annotations

import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.events.schema import ErrorRaised, SignalReceived
from trainer.failures import advice, let_go_of_memory
from trainer.parallel.session import leave_lost, tell_lost
from trainer.parallel.sharing import left_rng_state, rng_states_left
from trainer.signals import STATUS

if TYPE_CHECKING:
    from trainer.loop import Training


class Ending:
    """Of one session. Each way gives the exit code."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def finished(self) -> int:
        """All steps are taken. Fails when their result cannot be saved."""
        training = self._training
        checkpoints, world, step = training.checkpoints, training.world, training.progress.step
        checkpoints.wait()
        if world.broadcast(checkpoints.last_step) != step:
            # With what waited for a finite loss: a best, an epoch.
            checkpoints.save_now(training.state.gather(), training.owed_kinds, "regular")
        durable = world.broadcast(checkpoints.last_step)
        if durable != step:
            # Who waits for this run must not take it for one whose result is there.
            kept = f"the newest checkpoint is of step {durable}" if durable >= 0 else "there is no checkpoint"
            reason = f"the state of step {step}, the last one, could not be saved: {kept}"
            self._log_end("failed", reason)
            training.terminal.say(reason, "error")
            return 1
        self._log_end("finished", f"{training.config.max_steps} steps")
        training.terminal.say(f"finished at step {step}", "good")
        return 0

    def diverged(self, reason: str) -> int:
        """What is in the weights is not worth saving."""
        self._log_end("diverged", reason)
        self._training.terminal.say(f"diverged at step {self._training.progress.step}: {reason}", "error")
        return 1

    def signalled(self, stop: signal.Signals) -> int:
        """Between two steps, on all ranks at the same one."""
        training = self._training
        step = training.progress.step
        training.checkpoints.wait()
        self._tell_signal(stop.name, f"saves and stops{self._missing_grace()}")
        # Without a step there is nothing that the checkpoint does not have which this session began with.
        if training.num_steps == 0 and training.world.broadcast(training.checkpoints.last_step) == step:
            told = "which was saved before"
        else:
            saved = training.checkpoints.save_now(training.state.gather(), {"emergency"}, "emergency")
            told = f"saved {saved}" if saved else "could not save"
        self._log_end(STATUS[stop], f"{stop.name}, {told}")
        training.terminal.say(f"{stop.name}: stopped at step {step}, {told}")
        # torchrun ends all others as soon as the first one is gone.
        training.world.barrier()
        return 128 + stop

    def interrupted(self) -> int:
        """A KeyboardInterrupt, anywhere: there were no `Signals`, or a library had its own handler."""
        training = self._training
        self._tell_signal("SIGINT", "saves and stops")
        told = self._save_what_is_whole()
        self._log_end("interrupted", f"KeyboardInterrupt, {told}")
        training.terminal.say(f"interrupted at step {training.progress.step}, {told}")
        return 128 + signal.SIGINT

    def failed(self, error: Exception) -> int:
        """An error, anywhere."""
        training = self._training
        world, step = training.world, training.progress.step
        if not world.is_alone and not training.stepper.is_updating:
            self._rewind()
            world.leave_words(left_rng_state(step))
        if (lost := world.lost(error)) is not None:
            told = f"; {self._save_what_is_whole()}" if world.is_main else ""
            tell_lost(lost, training.directory, world, session=training.session, saved=told)
            training.terminal.close()
            world.let_others_look()
            leave_lost(training.checkpoints)
        if not world.is_main:
            print(f"trainer: rank {world.rank} failed at step {step}", file=sys.stderr, flush=True)
            traceback.print_exception(error)
            return 1
        trace = "".join(traceback.format_exception(error))
        training.terminal.say(trace)
        training.log.emit(ErrorRaised(step=step, type=type(error).__name__, message=str(error), traceback=trace))
        let_go_of_memory(error)
        reason = f"{type(error).__name__}: {error}; {self._save_what_is_whole()}"
        if to_do := advice(error, training.config):
            reason += f". {to_do}"
        self._log_end("failed", reason)
        training.terminal.say(f"failed at step {step}: {reason}", "error")
        return 1

    def _save_what_is_whole(self) -> str:
        """Save the last state that belongs to a step, wherever it was left; in words, what came of it. Never raises."""
        training = self._training
        rng = None
        if not training.world.is_alone:
            if training.config.parallel == "fsdp" or training.config.checkpoint_format == "dcp":
                return "not saved: each rank has only its part"
            rng = rng_states_left(training.world, training.progress.step)
            if rng is None:
                return "not saved: not every rank left its random numbers of this step"
        if training.stepper.is_updating:
            return "not saved: it came while the weights were being updated"
        try:
            self._rewind()
            saved = training.checkpoints.save_now(training.state.gather(rng), {"emergency"}, "emergency")
        except Exception as error:  # noqa: BLE001  what it is told with must not hide the first error
            return f"could not save: {type(error).__name__}: {error}"
        return f"saved {saved}" if saved else "could not save"

    def _rewind(self) -> None:
        """To where the batch begins that was begun and is not in the weights."""
        training = self._training
        if training.mark is not None:
            training.state.rewind(training.mark)
            training.mark = None

    def _missing_grace(self) -> str:
        """In words, when the emergency save will hardly be done before the process is killed. It is tried all the same.

        Told before the save: afterwards there may be nobody to tell it.
        """
        training = self._training
        stopped_at, grace, save_s = training.signals.stopped_at, training.config.grace_seconds, training.save_seconds
        left = grace - (time.monotonic() - stopped_at if stopped_at else 0.0)
        if save_s <= left:
            return ""
        return (
            f"; emergency_missed: a save takes {text.duration(save_s)}, {text.duration(max(left, 0.0))} are left of"
            f" --grace_seconds {grace:g}"
        )

    def _log_end(self, status: str, reason: str) -> None:
        training = self._training
        training.checkpoints.wait()  # nothing comes after `run_end`
        training.costs.end(training.progress.step)
        training.log.end(status, reason, step=training.progress.step)

    def _tell_signal(self, name: str, action: str) -> None:
        training = self._training
        training.log.emit(SignalReceived(step=training.progress.step, signal=name, action=action))
