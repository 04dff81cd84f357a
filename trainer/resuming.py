"""From a checkpoint that was found whole into everything that was built: what fits, what differs, what is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ckpt_tui import text
from trainer.changes import Changes, Effect, changes
from trainer.checkpoint.environment import differences, environment
from trainer.checkpoint.fit import MisfitError, check_fit
from trainer.checkpoint.resume import Source
from trainer.data import Corpus
from trainer.errors import UsageError
from trainer.training_state import TrainingState


@dataclass(frozen=True)
class Resumed:
    """A resume that worked. differences: where it was computed before and is now, in words; none: the same place."""

    source: Source
    changes: Changes
    differences: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether everything that decides the bits is as it was."""
        return self.changes.is_exact and not self.differences

    @property
    def words(self) -> str:
        told = f"resumed from step {self.source.step} ({self.source.name})"
        if self.is_exact:
            return f"{told}, exactly"
        if not self.changes.is_exact:
            names = [f"--{one.name}" for one in self.changes.every if one.effect in (Effect.COURSE, Effect.EXACTNESS)]
            told += f", with other {', '.join(names)}"
        if self.differences:
            told += f"; the resume may differ in the last bits: {'; '.join(self.differences)}"
        return told

    def as_event(self) -> dict[str, Any]:
        """For `run_start`."""
        return {**self.source.as_event(), "is_exact": self.is_exact, "differences": list(self.differences)}


def go_on_from(source: Source, training: TrainingState, corpus: Corpus, say: Callable[[str], None]) -> Resumed:
    """Load `source` into `training`. Raises UsageError, with nothing loaded, when it does not fit."""
    state, stepper = source.state, training.stepper
    is_same_data = state["dataloader_state"].get("corpus") == corpus.identity
    changed = changes(state["args"], training.config, is_same_data=is_same_data)
    advice = "Resume with the settings it was trained with, or begin anew in another --out."
    if changed.refusal:
        raise UsageError(f"{source.name} does not fit: {changed.refusal}. {advice}")
    for line in changed.sentences():
        say(line)
    try:
        check_fit(state, stepper.model, stepper.optimizer)
        training.load(state)
    except MisfitError as error:
        raise UsageError(f"{source.name} does not fit: {error}. {advice}") from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{source.name} does not fit this trainer: {type(error).__name__}: {error}") from error
    if changed.is_other_best:
        training.progress.best = None
    return Resumed(source, changed, tuple(_differences(source, training, say)))


def _differences(source: Source, training: TrainingState, say: Callable[[str], None]) -> list[str]:
    here = environment()
    if training.config.threads != source.state["args"].get("threads", 0):
        del here["threads"]  # named among the settings
    num_ranks, size = len(source.state["rng_state"].get("ranks") or "1"), training.stepper.world.size
    if num_ranks != size:
        say(
            f"saved by {text.plural(num_ranks, 'process', 'processes')}, resumed by {size}: the resume is not exact to"
            " the bit (random numbers, and the order in which gradients are added)"
        )
    return differences(source.state.get("environment"), here)
