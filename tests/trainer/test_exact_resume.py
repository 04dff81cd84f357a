"""Stopped after any step and resumed, a training comes out bit by bit as if nothing had happened.

In one process: each session is built anew from the file that the one before wrote, with the global generators
disturbed in between. Equal means: the fingerprint of the whole final state, and each loss on the way as hex.
"""

from __future__ import annotations

import contextlib
import copy
import math
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from msgspec.structs import replace

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Best, EpochEnd, Eval, Event, RunEnd, Step
from tests.builders.held import Hold
from tests.trainer.conftest import Trainer
from trainer.checkpoint.state import fingerprint, load
from trainer.config import parse
from trainer.errors import UsageError
from trainer.loop import Training

NUM_STEPS = 8
# An epoch has 6 steps, evaluations come after 3 and 6: stops hit an epoch's end, an evaluation, both and neither.
TINY = (
    "--n_layer", "1", "--n_head", "2", "--n_embd", "8", "--block_size", "8", "--batch_size", "4", "--max_steps",
    str(NUM_STEPS), "--eval_freq", "3", "--eval_batches", "2", "--checkpoint_freq", "0", "--log_freq", "1",
    "--threads", "1", "--warmup_steps", "3", "--seed", "5",
)  # fmt: skip
# The scale rises at every step, until gradients are infinite and it falls.
FP16 = ("--precision", "fp16", "--scaler_growth_interval", "1")
PLATEAU = ("--schedule", "plateau", "--plateau_patience", "1", "--eval_freq", "2", "--lr", "0.3", "--warmup_steps", "0")
CONFIGURATIONS = {
    "plain": (),
    "dropout": ("--dropout", "0.3"),
    "accumulation": ("--dropout", "0.3", "--mini_batch_size", "1"),
    "bf16": ("--precision", "bf16"),
    "fp16": FP16,
    "ema": ("--ema", "0.9", "--monitor", "train_loss"),
    "plateau": PLATEAU,
    "lora": ("--lora_rank", "2", "--dropout", "0.1"),
    "gradient checkpointing": ("--grad_checkpointing", "--dropout", "0.3"),
    "sgd": ("--optimizer", "sgd"),
    "everything": (
        *FP16, *PLATEAU, "--dropout", "0.3", "--mini_batch_size", "2", "--ema", "0.9", "--lora_rank", "2",
        "--grad_checkpointing", "--monitor", "train_loss", "--checkpoint_freq", "3", "--eval_freq", "1", "--lr", "1.0",
    ),
}  # fmt: skip


class StopAtPoll:
    """As a SIGTERM that is seen when the session asks for the n-th time: anywhere that it asks."""

    stopped_at = 0.0

    def __init__(self, num_polls: int) -> None:
        self._num_left = num_polls

    @property
    def stop(self) -> signal.Signals | None:
        self._num_left -= 1
        return signal.SIGTERM if self._num_left < 0 else None

    def take_save_request(self) -> bool:
        return False

    def watch(self, training: Training) -> None:
        pass


class StopAt:
    """As a SIGTERM that comes at a step: in the work after it (the next poll may be within an evaluation), or then."""

    stopped_at = 0.0

    def __init__(self, step: int = 10**9, *, is_after_work: bool = False) -> None:
        self._step, self._is_after_work = step, is_after_work
        self.training: Training | None = None
        self.num_done = 0

    @property
    def stop(self) -> signal.Signals | None:
        assert self.training is not None
        step = self.num_done if self._is_after_work else self.training.progress.step
        return signal.SIGTERM if step >= self._step else None

    def take_save_request(self) -> bool:
        return False

    def watch(self, training: Training) -> None:
        self.training = training
        if not training.progress.is_step_unfinished:
            self.num_done = training.progress.step
        work = training._after_step

        def work_and_count() -> None:
            work()
            self.num_done = training.progress.step

        training._after_step = work_and_count  # type: ignore[method-assign]


class Runs:
    """Trains in directories below `path` on a corpus of 6 steps an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.courses: dict[Path, list[Any]] = {}  # of resumed ones, by where they were stopped
        self.corpus = path / "corpus.txt"
        words = random.Random(3).choices(["to ", "be ", "or ", "not ", "that ", "is "], k=75)
        self.corpus.write_text("".join(words)[:240])

    def session(self, out: Path, options: tuple[str, ...], stop: StopAt | StopAtPoll | None = None) -> int:
        disturb()
        signals = stop or StopAt()
        out.mkdir(exist_ok=True)
        resume = ("--resume", "auto")
        training = Training(parse(["--out", str(out), "--data", str(self.corpus), *TINY, *options, *resume]), signals)  # type: ignore[arg-type]
        signals.watch(training)
        return training.run()

    def new_state(self, out: Path, options: tuple[str, ...]) -> dict[str, Any]:
        """Of a training that has not begun; its generators are those of any process."""
        out.mkdir()
        training = Training(parse(["--out", str(out), "--data", str(self.corpus), *TINY, *options]), StopAt())  # type: ignore[arg-type]
        disturb()
        return training.state.gather()

    def straight(self, name: str, options: tuple[str, ...]) -> tuple[str, dict[int, str]]:
        out = self.path / f"straight {name}"
        if not out.exists():
            assert self.session(out, options) == 0
        return result(out)


def disturb() -> None:
    """A new process has other generators than the one that died."""
    for seed in (random.seed, numpy.random.seed, torch.manual_seed):
        seed(random.SystemRandom().randrange(2**32))


def events(out: Path) -> list[Event]:
    return [
        event for line in (out / "events.jsonl").read_bytes().splitlines() if isinstance(event := decode(line), Event)
    ]


def losses(out: Path) -> dict[int, str]:
    """Of each step, as hex; two sessions that trained the same step must agree."""
    found: dict[int, str] = {}
    for event in events(out):
        if isinstance(event, Step):
            value = float(event.metrics["loss"]).hex()
            assert found.setdefault(event.step, value) == value, f"step {event.step}"
    return found


def result(out: Path) -> tuple[str, dict[int, str]]:
    return fingerprint(load(str(out / "latest.pt"))), losses(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("exact"))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_stop_after_any_step_changes_no_bit(name: str, runs: Runs, tmp_path: Path) -> None:
    options = CONFIGURATIONS[name]
    expected = runs.straight(name, options)
    assert len(expected[1]) == NUM_STEPS
    for step in range(NUM_STEPS):
        # Of all but the last, only steps 3 and 6 have work after them that a stop can cut short.
        for is_after_work in (False, True) if name == "everything" or step % 3 == 0 else (True,):
            out = tmp_path / f"{step} {is_after_work}"
            assert runs.session(out, options, StopAt(step, is_after_work=is_after_work)) == 128 + signal.SIGTERM
            assert load(str(out / "latest.pt"))["step"] == step
            assert runs.session(out, options) == 0
            assert result(out) == expected, f"stopped at {step}, after its work: {is_after_work}"
            shutil.rmtree(out)


def test_a_signal_is_seen_everywhere_and_changes_no_bit(runs: Runs, tmp_path: Path) -> None:
    """Between two passes of a step, in an evaluation, between steps; and then in the next session, too."""
    options = (*CONFIGURATIONS["accumulation"], "--mini_batch_size", "2")
    expected = runs.straight("two passes", options)
    num_polls = 0
    unfinished = set()
    while True:
        out = tmp_path / str(num_polls)
        if runs.session(out, options, StopAtPoll(num_polls)) == 0:
            break
        state = load(str(out / "latest.pt"))
        unfinished.add((state["step"], state["dataloader_state"]["sums"]["is_step_unfinished"]))
        runs.session(out, options, StopAtPoll(num_polls % 3))
        assert runs.session(out, options) == 0
        assert result(out) == expected, f"seen at poll {num_polls}"
        num_polls += 1
    # Before each step, once in its midst, in each of 3 evaluations (of one batch), and at the end.
    assert num_polls == NUM_STEPS * (1 + 1) + 3 + 1
    assert unfinished == {(step, False) for step in range(NUM_STEPS + 1)} | {(step, True) for step in (3, 6, 8)}


def test_the_configurations_do_what_they_are_for(runs: Runs) -> None:
    """Else the equality above would say little."""
    straight = {name: runs.straight(name, options) for name, options in CONFIGURATIONS.items()}
    assert straight["gradient checkpointing"] == straight["dropout"]
    assert len({outcome[0] for outcome in straight.values()}) == len(CONFIGURATIONS) - 1
    steps = {
        name: [event.metrics for event in events(runs.path / f"straight {name}") if isinstance(event, Step)]
        for name in CONFIGURATIONS
    }
    for name in ("fp16", "everything"):
        scales = [metrics["loss_scale"] for metrics in steps[name]]
        assert min(scales[1:]) < max(scales)
        assert scales[-1] > min(scales)
        assert not all(math.isfinite(metrics["grad_norm"]) for metrics in steps[name])
        # That is a scaler at work, and no trouble.
        assert not [event for event in events(runs.path / f"straight {name}") if event.name == "nonfinite"]
    for name in ("plateau", "everything"):
        assert steps[name][-1]["lr"] < steps[name][0]["lr"]


ONLY_FOR_CONTROLS = {
    "slow scaler": ("--precision", "fp16", "--scaler_growth_interval", "6"),
    "patient plateau": (*PLATEAU, "--plateau_patience", "2", "--eval_freq", "1"),
}

# What is taken out of a checkpoint, and where that must show: (configuration, step, whether its work was done).
# "*" stands for each of several. What is not listed describes the checkpoint and is not read by a resume.
CONTROLS = {
    "model/*": ("plain", 4, True),
    "optimizer/state/*/exp_avg": ("plain", 4, True),
    "optimizer/state/*/exp_avg_sq": ("plain", 4, True),
    "optimizer/state/*/step": ("plain", 4, True),
    "optimizer/state/*/momentum_buffer": ("sgd", 4, True),
    "scheduler/scale": ("plateau", 6, True),
    "scheduler/best": ("plateau", 4, True),
    "scheduler/num_bad": ("patient plateau", 6, True),
    "scaler/scale": ("fp16", 4, True),
    "scaler/_growth_tracker": ("slow scaler", 4, True),
    "ema/weights/*": ("ema", 4, True),
    "ema/num_updates": ("ema", 4, True),
    "rng_state/torch": ("dropout", 4, True),
    "rng_state/python": ("plain", 4, True),
    "rng_state/numpy": ("plain", 4, True),
    "dataloader_state/train/position": ("plain", 4, True),
    "dataloader_state/train/epoch": ("plain", 7, True),
    "dataloader_state/sums/epoch_loss_sum": ("plain", 4, True),
    "dataloader_state/sums/epoch_num_steps": ("plain", 4, True),
    "dataloader_state/sums/recent_loss_sum": ("ema", 4, True),
    "dataloader_state/sums/recent_num_steps": ("ema", 4, True),
    "dataloader_state/sums/is_step_unfinished": ("plain", 3, False),
    "step": ("plain", 4, True),
    "best_metric": ("plateau", 4, True),
    "train_loss": ("plain", 3, False),
    "val_loss": ("plain", 4, True),
    "val_metrics": ("plain", 4, True),
    "loss_history": ("plain", 4, True),
}


def leaves(state: Any, pattern: str) -> list[str]:
    """The paths in `state` that a pattern with "*" stands for."""
    head, star, rest = pattern.partition("/*")
    return [f"{head}/{key}{rest}" for key in at(state, head)] if star else [pattern]


def at(state: Any, path: str) -> Any:
    for key in path.split("/"):
        state = state[int(key) if key.isdigit() else key]
    return state


def without(state: dict[str, Any], path: str, new: dict[str, Any]) -> dict[str, Any]:
    """`state` with one component as if it had not been saved: as a new training has it, moments at zero."""
    state = copy.deepcopy(state)
    *above, name = path.split("/")
    parent = at(state, "/".join(above)) if above else state
    value = parent[name]
    if above[:1] == ["optimizer"]:
        parent[name] = torch.zeros_like(value)
    elif above == ["model"]:
        # A tied weight is in the state under each of its names.
        for other in [key for key in parent if parent[key].data_ptr() == value.data_ptr()]:
            parent[other] = new["model"][name].clone()
    else:
        parent[name] = at(new, path)
    return state


def course(out: Path) -> list[Any]:
    """All that a session did: the state after each step, and what the log says."""
    timed = {"step_seconds", "tokens_per_s"}
    told = [
        (event.name, event.step, {key: value for key, value in event.metrics.items() if key not in timed})
        if isinstance(event, (Step, Eval))
        else event.name if isinstance(event, RunEnd)
        else replace(event, seq=0, ts=0.0, session=0)
        for event in events(out)
        if isinstance(event, (Step, Eval, EpochEnd, Best, RunEnd))
    ]  # fmt: skip
    return told + [(path.name, fingerprint(load(str(path)))) for path in sorted(out.glob("rolling_step_*.pt"))]


@pytest.mark.parametrize("pattern", CONTROLS)
def test_what_is_left_out_of_a_checkpoint_shows(pattern: str, runs: Runs, tmp_path: Path) -> None:
    """The comparison above sees each component of the state, and nothing is saved that no resume needs."""
    name, step, is_after_work = CONTROLS[pattern]
    options = (*{**CONFIGURATIONS, **ONLY_FOR_CONTROLS}[name], "--checkpoint_freq", "1")
    stopped = runs.path / f"stopped {name} {step} {is_after_work}"
    if not stopped.exists():
        runs.session(stopped, options, StopAt(step, is_after_work=is_after_work))
    state = load(str(stopped / "latest.pt"))
    assert state["step"] == step
    new = runs.new_state(tmp_path / "new", options)

    def resumed(state: dict[str, Any], out: Path) -> list[Any]:
        out.mkdir()
        torch.save(state, out / "latest.pt")
        with contextlib.suppress(UsageError):
            runs.session(out, options)
            return course(out)
        return []

    # What has to come out is the same for each part that is left out of the same state.
    expected = runs.courses.get(stopped) or resumed(state, tmp_path / "whole")
    runs.courses[stopped] = expected
    assert expected
    paths = leaves(state, pattern)
    assert paths
    for path in paths:
        assert resumed(without(state, path, new), tmp_path / path.replace("/", " ")) != expected, (
            f"{path} changes nothing"
        )


def test_saving_changes_nothing(runs: Runs, tmp_path: Path) -> None:
    options = CONFIGURATIONS["everything"]
    assert runs.session(tmp_path / "always", (*options, "--checkpoint_freq", "1")) == 0
    assert runs.session(tmp_path / "never", (*options, "--checkpoint_freq", "0")) == 0
    assert len(list((tmp_path / "always").glob("rolling_step_*.pt"))) == NUM_STEPS
    assert not list((tmp_path / "never").glob("rolling_step_*.pt"))
    assert result(tmp_path / "always") == result(tmp_path / "never") == runs.straight("everything", options)


def test_stopped_again_and_again_within_an_epoch(runs: Runs, tmp_path: Path) -> None:
    for name in ("accumulation", "everything"):
        options = CONFIGURATIONS[name]
        out = tmp_path / name
        for step in (1, 1, 2, 4, 5, 6, 6, 7):
            assert runs.session(out, options, StopAt(step, is_after_work=True)) == 128 + signal.SIGTERM
        assert runs.session(out, options) == 0
        assert result(out) == runs.straight(name, options)


def test_fresh_processes_come_to_the_same_bits(trainer: Trainer, tmp_path: Path) -> None:
    """As above, with everything at once; the stop comes in the midst of a step, and a save may be in flight."""
    options = (*CONFIGURATIONS["everything"], "--max_steps", "60", "--lr", "0.01", "--log_freq", "1")
    assert trainer.run(tmp_path / "straight", *options).code == 0
    at_step_20 = Hold(tmp_path, "step 20")
    stopped = trainer.run_until(at_step_20, signal.SIGTERM, tmp_path / "run", *options, "--resume", "auto")
    assert stopped.code == 128 + signal.SIGTERM, stopped.output
    done = trainer.run(tmp_path / "run", *options, "--resume", "auto")
    assert done.code == 0, done.output
    assert result(tmp_path / "run") == result(tmp_path / "straight")


@pytest.mark.long
def test_a_compiled_model_is_resumed_exactly_and_saved_under_its_own_names(runs: Runs, tmp_path: Path) -> None:
    options = ("--compile", "--dropout", "0.3", "--ema", "0.9")
    expected = runs.straight("compiled", options)
    assert not [name for name in load(str(runs.path / "straight compiled" / "latest.pt"))["model"] if "_orig" in name]
    for step in (2, 5):
        out = tmp_path / str(step)
        assert runs.session(out, options, StopAt(step, is_after_work=True)) == 128 + signal.SIGTERM
        assert runs.session(out, options) == 0
        assert result(out) == expected


def test_saves_by_minutes(runs: Runs, tmp_path: Path) -> None:
    options = ("--checkpoint_minutes", "1e-9", "--eval_freq", "100")
    assert runs.session(tmp_path / "often", options) == 0
    saved = [event.path for event in events(tmp_path / "often") if event.name == "checkpoint_saved"]
    assert [name for name in saved if name.startswith("rolling")] == [
        f"rolling_step_{step:06d}.pt" for step in range(1, NUM_STEPS + 1)
    ]
    assert runs.session(tmp_path / "seldom", ("--checkpoint_minutes", "60", "--eval_freq", "100")) == 0
    assert not list((tmp_path / "seldom").glob("rolling_step_*.pt"))
