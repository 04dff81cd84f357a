"""Losses that are not finite or jump: what is skipped, what is gone back to, with which data, and what the log says."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import Phase, Segment
from trainer import step
from trainer.checkpoint.state import fingerprint, load
from trainer.config import Config, parse
from trainer.guard import LEAST_LENGTH, MAX_SPIKES, Guard
from trainer.loop import Training

TINY = (
    "--n_layer", "1", "--n_head", "1", "--n_embd", "8", "--block_size", "8", "--batch_size", "2", "--max_steps", "20",
    "--eval_freq", "10", "--eval_batches", "1", "--checkpoint_freq", "5", "--threads", "1", "--log_freq", "1",
    "--max_nonfinite", "3", "--dropout", "0.2", "--resume", "auto",
)  # fmt: skip

Change = Callable[[Training, torch.Tensor], torch.Tensor]


class Signals:
    """stop: asked for when `is_due` of the training says so."""

    stopped_at = 0.0

    def __init__(self, is_due: Callable[[Training], bool] = lambda _: False) -> None:
        self._is_due = is_due
        self.training: Training | None = None

    @property
    def stop(self) -> signal.Signals | None:
        assert self.training is not None
        return signal.SIGTERM if self._is_due(self.training) else None

    def take_save_request(self) -> bool:
        return False


class Sessions:
    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = path
        self._patch = patch
        self._corpus = path / "corpus.txt"
        self._corpus.write_text("to be or not to be, " * 300)
        self._loss = step.next_byte_loss

    def session(
        self,
        name: str,
        change: Change = lambda _, loss: loss,
        *options: str,
        signals: Signals | None = None,
    ) -> tuple[int, Training]:
        """change: what becomes of a training batch's loss."""
        (self.path / name).mkdir(exist_ok=True)
        signals = signals or Signals()
        request = parse(["--out", str(self.path / name), "--data", str(self._corpus), *TINY, *options])
        training = signals.training = Training(request, signals)  # type: ignore[arg-type]

        def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            value = self._loss(logits, targets)
            return change(training, value) if training.model.training else value

        self._patch.setattr(step, "next_byte_loss", loss)
        return training.run(), training

    def events(self, name: str) -> list[Event]:
        lines = (self.path / name / "events.jsonl").read_bytes().splitlines()
        return [event for line in lines if isinstance(event := decode(line), Event)]

    def result(self, name: str) -> str:
        return fingerprint(load(str(self.path / name / "latest.pt")))


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    return Sessions(tmp_path, monkeypatch)


def bad_data(training: Training, loss: torch.Tensor) -> torch.Tensor:
    """Four batches in a row are bad, those of steps 13 to 16 of a run that nothing happened to."""
    return loss * math.nan if 24 < training.data.position <= 32 else loss


def test_bad_data_are_gone_around(sessions: Sessions) -> None:
    code, training = sessions.session("run", bad_data)
    assert code == 0
    told = [(event.step, event.what, event.action) for event in sessions.events("run") if event.name == "nonfinite"]
    rolled_back = "rolled back to latest.pt (step 10), 1 of 3"
    # The fourth bad batch is the first one after the rollback.
    assert told == [
        (13, "loss", "skipped"), (14, "loss", "skipped"), (15, "loss", "skipped"), (15, "loss", rolled_back),
        (11, "loss", "skipped"),
    ]  # fmt: skip
    state = load(str(sessions.path / "run" / "latest.pt"))
    assert (state["step"], state["dataloader_state"]["train"]["position"]) == (20, 2 * (20 + 5))
    assert state["dataloader_state"]["guard"]["num_rollbacks"] == 1
    # Nothing was saved while the losses were not finite, step 15 of the first branch for instance.
    saved = [event.path for event in sessions.events("run") if event.name == "checkpoint_saved"]
    assert [name for name in saved if "rolling" in name] == [f"rolling_step_{step:06d}.pt" for step in (5, 10, 15, 20)]
    assert training.guard.last_good_step == 20


def test_a_save_that_is_due_meanwhile_waits_for_a_finite_loss(sessions: Sessions) -> None:
    def bad_for_two(training: Training, loss: torch.Tensor) -> torch.Tensor:
        return loss * math.nan if 24 < training.data.position <= 28 else loss

    assert sessions.session("run", bad_for_two, "--checkpoint_freq", "7")[0] == 0
    saved = [event.path for event in sessions.events("run") if event.name == "checkpoint_saved"]
    assert [name for name in saved if "rolling" in name] == ["rolling_step_000007.pt", "rolling_step_000015.pt"]


def test_a_best_that_waits_for_a_finite_loss_is_saved_at_the_end(sessions: Sessions) -> None:
    """The evaluation at the last step finds a new best, and the last batch was not finite."""
    code, training = sessions.session("run", lambda t, loss: loss * math.nan if t.progress.step == 19 else loss)
    assert code == 0
    best = [event for event in sessions.events("run") if event.name == "best"]
    assert best[-1].step == 20
    assert load(str(Path(training.directory, "best_model.pt")))["step"] == 20


@pytest.mark.parametrize("log_freq", ["1", "10"])
def test_the_viewer_understands_the_step_that_goes_back(log_freq: str, sessions: Sessions) -> None:
    sessions.session("run", bad_data, "--log_freq", log_freq)
    fold = RunFold()
    fold.apply_all(sessions.events("run"))
    state = fold.state(1e12, Beside(is_process_alive=False))
    assert state.phase is Phase.FINISHED
    assert (state.step, len(state.sessions), state.lost.steps) == (20, 1, 5)
    assert [(marker.step, marker.label) for marker in state.markers if marker.kind == "resume"] == [
        (10, "went back to step 10")
    ]
    live = [step for part in state.series["loss"].segments for step in part.steps if _is_live(part, step)]
    assert live == (list(range(1, 21)) if log_freq == "1" else [10, 20])


def _is_live(part: Segment, step: int) -> bool:
    return part.abandoned_after is None or step <= part.abandoned_after


@pytest.mark.parametrize("moment", ["in the streak", "right after the rollback", "later"])
def test_a_stop_around_a_rollback_changes_no_bit(moment: str, sessions: Sessions) -> None:
    sessions.session("straight", bad_data)
    is_due: dict[str, Callable[[Training], bool]] = {
        "in the streak": lambda training: training.guard.num_nonfinite == 2,
        "right after the rollback": lambda training: training.guard.num_rollbacks == 1,
        "later": lambda training: training.guard.num_rollbacks == 1 and training.progress.step == 13,
    }
    code, stopped = sessions.session("run", bad_data, signals=Signals(is_due[moment]))
    assert code == 128 + signal.SIGTERM
    assert stopped.progress.step == {"in the streak": 14, "right after the rollback": 10, "later": 13}[moment]
    code, resumed = sessions.session("run", bad_data)
    assert code == 0
    assert resumed.guard.num_rollbacks == 1
    assert sessions.result("run") == sessions.result("straight")


def test_a_kill_after_a_rollback_goes_on_from_the_new_branch(sessions: Sessions) -> None:
    """What was saved on the abandoned branch has a higher step, and is not what a resume takes."""

    class Killed(BaseException):
        pass

    def bad_until_it_goes_back(training: Training, loss: torch.Tensor) -> torch.Tensor:
        if training.guard.num_rollbacks and training.progress.step == 17:
            raise Killed
        return loss * math.nan if training.progress.step >= 12 and training.guard.num_rollbacks == 0 else loss

    signals = Signals()
    # Saved on request in the streak: on the branch that is abandoned, at step 19.
    signals.take_save_request = lambda: signals.training.guard.num_nonfinite == 7  # type: ignore[method-assign,union-attr]
    options = ("--max_nonfinite", "8", "--max_steps", "30")
    with pytest.raises(Killed):
        sessions.session("run", bad_until_it_goes_back, *options, signals=signals)
    abandoned = list((sessions.path / "run").glob("emergency_step_000019*.pt"))
    assert len(abandoned) == 1
    code, resumed = sessions.session("run", lambda _, loss: loss, *options)
    assert code == 0
    start = [event for event in sessions.events("run") if event.name == "run_start"][-1]
    assert start.start_step == 15
    assert resumed.guard.num_rollbacks == 1
    assert abandoned[0].exists()
    # So it is where the log alone tells.
    (sessions.path / "run" / "registry.json").unlink()
    for path in (sessions.path / "run").glob("*.pt"):
        if path != abandoned[0] and load(str(path))["step"] > 15:
            path.unlink()
    code, _ = sessions.session("run", lambda _, loss: loss, *options)
    assert [event for event in sessions.events("run") if event.name == "run_start"][-1].start_step == 15


def test_weights_that_were_bad_when_they_were_saved_are_gone_behind(sessions: Sessions) -> None:
    """The newest checkpoint before the onset leads to the same trouble: then an older one is taken."""

    def spoil(training: Training) -> bool:
        if training.progress.step == 7 and training.guard.num_rollbacks == 0:
            with torch.no_grad():
                training.model.norm.weight[0] = 100.0
        return False

    def spoiled(training: Training, loss: torch.Tensor) -> torch.Tensor:
        return loss * math.nan if training.model.norm.weight[0] > 50 and training.progress.step >= 12 else loss

    code, _ = sessions.session("run", spoiled, signals=Signals(spoil))
    assert code == 0
    actions = [event.action for event in sessions.events("run") if event.name == "nonfinite"]
    assert [action for action in actions if action != "skipped"] == [
        "rolled back to latest.pt (step 10), 1 of 3",
        "rolled back to rolling_step_000005.pt (step 5), 2 of 3",
    ]
    assert load(str(sessions.path / "run" / "latest.pt"))["model"]["norm.weight"][0] < 50


def test_trouble_without_end_ends_as_diverged(sessions: Sessions) -> None:
    code, training = sessions.session(
        "run", lambda training, loss: loss * (math.nan if training.progress.step > 7 else 1)
    )
    assert code == 1
    end = sessions.events("run")[-1]
    assert (end.name, end.status) == ("run_end", "diverged")
    assert (
        end.reason
        == "3 batches in a row had no finite loss or gradient, and there is no checkpoint of step 4 or before"
    )
    assert training.guard.num_rollbacks == 1
    code, _ = sessions.session("other", lambda training, loss: loss * (math.nan if training.progress.step > 7 else 1),
                               "--checkpoint_freq", "1")  # fmt: skip
    assert code == 1
    assert sessions.events("other")[-1].reason.endswith("no finite loss or gradient, after going back 3 times")


def test_infinite_gradients_are_trouble_once_the_scale_is_used_up(sessions: Sessions) -> None:
    """65,536 is halved 16 times: that is the scaler at work. Then it has nothing left to do with it."""
    code, _ = sessions.session("run", lambda _, loss: loss * 1e36, "--precision", "fp16", "--max_rollbacks", "0")
    assert code == 1
    told = [(event.step, event.what) for event in sessions.events("run") if event.name == "nonfinite"]
    assert told == [(17, "grad_norm"), (18, "grad_norm"), (19, "grad_norm")]
    assert sessions.events("run")[-1].reason == "3 batches in a row had no finite loss or gradient"


def test_a_spike_is_skipped_when_asked_for(sessions: Sessions) -> None:
    def spike(training: Training, loss: torch.Tensor) -> torch.Tensor:
        return loss * 3 if training.progress.step == 17 else loss

    before: dict[int, torch.Tensor] = {}

    def watched(training: Training, loss: torch.Tensor) -> torch.Tensor:
        before[training.progress.step] = training.model.norm.weight.detach().clone()
        return spike(training, loss)

    assert sessions.session("guarded", watched, "--spike_guard", "8")[0] == 0
    [told] = [event for event in sessions.events("guarded") if event.name == "nonfinite"]
    assert (told.step, told.what) == (18, "spike")
    assert told.action.startswith("skipped (robust z ")
    assert torch.equal(before[17], before[18])
    assert not torch.equal(before[16], before[17])
    assert sessions.session("free", watched)[0] == 0
    assert not [event for event in sessions.events("free") if event.name == "nonfinite"]
    assert not torch.equal(before[17], before[18])


def test_a_new_level_is_no_spike_for_long() -> None:
    guard = Guard(Config(spike_guard=5.0))
    for number in range(LEAST_LENGTH - 1):
        assert guard.accepts(1000.0)  # too few to say
        guard.took(number + 1, 2.0 + number % 3 * 0.1, is_trouble=False, is_spike=False)
    guard.took(LEAST_LENGTH, 2.1, is_trouble=False, is_spike=False)
    assert guard.accepts(2.3)
    assert guard.accepts(0.1)
    skipped = 0
    while not guard.accepts(4.0):
        skipped += 1
        guard.took(LEAST_LENGTH + skipped, 4.0, is_trouble=False, is_spike=True)
    assert skipped == MAX_SPIKES
    guard.took(100, 4.0, is_trouble=False, is_spike=False)
    # As it is after a resume, too.
    other = Guard(Config(spike_guard=5.0))
    other.load_state_dict(guard.state_dict(), 100)
    assert other.state_dict() == guard.state_dict()
    assert other.accepts(4.1)


def spikes(training: Training, loss: torch.Tensor) -> torch.Tensor:
    return loss * 3 if 17 <= training.progress.step < 17 + MAX_SPIKES + 2 else loss


CONTROLS: dict[str, tuple[Change, Callable[[Training], bool]]] = {
    "num_nonfinite": (bad_data, lambda training: training.guard.num_nonfinite == 2),
    "last_good_step": (bad_data, lambda training: training.guard.num_nonfinite == 2),
    "num_rollbacks": (bad_data, lambda training: training.progress.step == 12 and training.guard.num_rollbacks == 1),
    "rolled_back_to": (bad_data, lambda training: training.progress.step == 12 and training.guard.num_rollbacks == 1),
    "window": (spikes, lambda training: training.progress.step == 16),
    "num_spikes": (spikes, lambda training: training.progress.step == 19),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_what_the_guard_knows_counts_after_a_resume(name: str, sessions: Sessions) -> None:
    """Left out of the checkpoint, the run comes to another end."""
    change, is_due = CONTROLS[name]
    options = ("--spike_guard", "8", "--max_steps", "30")
    assert sessions.session("stopped", change, *options, signals=Signals(is_due))[0] == 128 + signal.SIGTERM
    state = load(str(sessions.path / "stopped" / "latest.pt"))
    new = Guard(Config()).state_dict()
    assert set(CONTROLS) == set(new)
    results = []
    for out in ("whole", "without"):
        (sessions.path / out).mkdir()
        shutil.copy(sessions.path / "stopped" / "rolling_step_000010.pt", sessions.path / out)
        if out == "without":
            state["dataloader_state"]["guard"][name] = new[name]
        torch.save(state, sessions.path / out / "latest.pt")
        code, _ = sessions.session(out, change, *options)
        results.append((code, sessions.result(out)))
    assert results[0][0] == 0
    assert results[0] != results[1]
