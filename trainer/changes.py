"""Settings that differ from those that a checkpoint was trained with, and what each does to a resume.

The same classes as the viewer's `diff` and `resume` have (`ckpt_tui/checkpoints/hparams.py`): a contract test holds
every setting of `Config` against them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from trainer.config import Config


class Effect(StrEnum):
    """What a changed setting does to a training that goes on with it."""

    SAFE = "safe"  # the weights come out the same
    COURSE = "course"  # it goes on from the same state, and takes another course
    EXACTNESS = "exactness"  # other batches, random numbers or roundings
    IMPOSSIBLE = "impossible"  # the state does not fit


EFFECTS: Mapping[str, Effect] = {
    name: effect
    for effect, names in {
        Effect.IMPOSSIBLE: "n_layer n_head n_embd block_size optimizer lora_rank",
        Effect.EXACTNESS: "data batch_size mini_batch_size seed precision ema compile threads parallel device",
        Effect.COURSE: """
            dropout max_steps lr min_lr schedule warmup_steps plateau_patience plateau_factor weight_decay beta1 beta2
            grad_clip momentum scaler_growth_interval lora_alpha max_nonfinite max_rollbacks spike_guard
        """,
        Effect.SAFE: """
            grad_checkpointing eval_freq eval_batches monitor monitor_mode checkpoint_freq checkpoint_minutes
            checkpoint_auto min_improvement checkpoint_format keep_checkpoints keep_emergency_checkpoints
            keep_every keep_best
            keep_checkpoints_when_full save_best_only best_safetensors sync_saves grace_seconds log_freq print_seconds
            run_name init_from timeout_seconds use_tensorboard use_mlflow
        """,
    }.items()
    for name in names.split()
}
_REASONS = {
    "n_layer": "the checkpoint has other blocks",
    "n_head": "the weights would fit, and be read as other heads",
    "n_embd": "every weight has another shape",
    "block_size": "there are other positions to embed",
    "optimizer": "its state is that of another kind",
    "lora_rank": "its adapters have another shape",
}


@dataclass(frozen=True)
class Change:
    """A setting that is not as it was."""

    name: str
    old: Any
    new: Any
    effect: Effect

    @property
    def words(self) -> str:
        return f"--{self.name} {self.old} -> {self.new}"


@dataclass(frozen=True)
class Changes:
    """All that differ, in the order of `Config`. unknown: settings of the checkpoint that there are none of here."""

    every: tuple[Change, ...] = ()
    unknown: tuple[str, ...] = ()

    def of(self, effect: Effect) -> list[Change]:
        return [change for change in self.every if change.effect is effect]

    @property
    def is_exact(self) -> bool:
        """Whether training goes on as it would have, as far as settings go."""
        return not self.of(Effect.COURSE) and not self.of(Effect.EXACTNESS)

    @property
    def refusal(self) -> str:
        """Why no training can go on with these settings, "" when one can."""
        return "; ".join(
            f"it was trained with --{change.name} {change.old}, and this is {change.new}: {_REASONS[change.name]}"
            for change in self.of(Effect.IMPOSSIBLE)
        )

    @property
    def is_other_best(self) -> bool:
        """Whether the best so far is of another metric, so that no new value can be held against it."""
        return any(change.name in ("monitor", "monitor_mode") for change in self.every)

    def sentences(self) -> list[str]:
        told = [f"changed {change.words}: breaks exactness" for change in self.of(Effect.EXACTNESS)]
        told += [f"changed {change.words}: changes the course" for change in self.of(Effect.COURSE)]
        safe = self.of(Effect.SAFE)
        if safe:
            told.append(f"changed, safe: {', '.join(change.words for change in safe)}")
        if self.is_other_best:
            told.append("the best so far is of another metric: the next evaluation begins anew")
        if self.unknown:
            told.append(f"the checkpoint has settings that this trainer does not know: {', '.join(self.unknown)}")
        return told


def changes(args: Mapping[str, Any], config: Config, *, is_same_data: bool | None = None) -> Changes:
    """What differs between the settings in a checkpoint and `config`.

    A setting that the checkpoint does not know had its default. is_same_data: whether the training data are the same
    by content, whatever the paths; None: not known.
    """
    mine = config.as_args()
    found = []
    for setting in fields(Config):
        name = setting.name
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        old, new = args.get(name, default), mine[name]
        if name == "data" and is_same_data is not None:
            if is_same_data:
                continue
            found.append(Change(name, _files(old), _files(new) if old != new else "other content", Effect.EXACTNESS))
        elif old != new or isinstance(old, bool) != isinstance(new, bool):
            found.append(Change(name, old, new, _effect(name, args, mine)))
    return Changes(tuple(found), tuple(sorted(f"--{name}" for name in args if name not in mine)))


def _effect(name: str, args: Mapping[str, Any], mine: Mapping[str, Any]) -> Effect:
    if name in ("eval_freq", "eval_batches") and "plateau" in (args.get("schedule"), mine["schedule"]):
        return Effect.COURSE  # that schedule goes by evaluations
    return EFFECTS[name]


def _files(paths: Any) -> str:
    return " ".join(map(str, paths)) if isinstance(paths, (list, tuple)) and paths else "the standard library"
