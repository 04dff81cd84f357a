"""The validated settings of a training. Every field is a flag of the same name, recorded in log and checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


def _flag(default: Any, help_text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **more})


_AT_LEAST_ONE = (
    "n_layer", "n_head", "n_embd", "block_size", "batch_size", "mini_batch_size", "max_steps", "eval_freq",
    "eval_batches", "log_freq", "keep_checkpoints", "keep_emergency_checkpoints",
)  # fmt: skip
_NOT_NEGATIVE = (
    "checkpoint_freq", "checkpoint_minutes", "warmup_steps", "grad_clip", "weight_decay", "threads", "min_lr",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes are in tokens (bytes of text), layers, heads; times in the unit that the name says."""

    n_layer: int = _flag(4, "transformer blocks")
    n_head: int = _flag(4, "attention heads in a block")
    n_embd: int = _flag(128, "width of the residual stream")
    block_size: int = _flag(128, "tokens of context")
    dropout: float = _flag(0.1, "share of activations dropped while training")
    batch_size: int = _flag(16, "sequences in one optimizer step")
    mini_batch_size: int = _flag(16, "sequences in one pass; the rest of a batch is accumulated")
    max_steps: int = _flag(6000, "optimizer steps to train")
    eval_freq: int = _flag(250, "steps between evaluations")
    eval_batches: int = _flag(20, "mini-batches in one evaluation")
    seed: int = _flag(1337, "of weights, dropout and data order")
    lr: float = _flag(1e-3, "highest learning rate")
    min_lr: float = _flag(1e-4, "learning rate at the end of the cosine")
    weight_decay: float = _flag(0.1, "AdamW's, on matrices only")
    beta1: float = _flag(0.9, "AdamW's")
    beta2: float = _flag(0.95, "AdamW's")
    warmup_steps: int = _flag(100, "steps of linear warm-up")
    schedule: str = _flag("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    grad_clip: float = _flag(1.0, "largest norm of the gradient; 0 is no limit")
    precision: str = _flag("fp32", "of the passes", choices=("fp32", "bf16"))
    checkpoint_freq: int = _flag(250, "steps between rolling checkpoints; 0 is none")
    checkpoint_minutes: float = _flag(0.0, "minutes between rolling checkpoints; 0 is none")
    keep_checkpoints: int = _flag(10, "rolling checkpoints kept")
    keep_emergency_checkpoints: int = _flag(10, "emergency checkpoints kept, a pool of their own")
    monitor: str = _flag("val_loss", "metric that says which checkpoint is best", choices=("val_loss", "train_loss"))
    monitor_mode: str = _flag("min", "whether less or more of it is better", choices=("min", "max"))
    log_freq: int = _flag(1, "steps between step events")
    threads: int = _flag(0, "CPU threads; 0 leaves it to torch")
    run_name: str = _flag("", "name of the run; the directory's by default")
    data: tuple[str, ...] = _flag((), "text files to train on; Python's own standard library by default")

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, it is {getattr(self, name)}")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} cannot be negative, it is {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout is a share from 0 to below 1, it is {self.dropout}")
        if self.lr <= 0:
            raise ValueError(f"--lr must be above 0, it is {self.lr}")
        if self.n_embd % self.n_head:
            raise ValueError(f"--n_embd {self.n_embd} does not divide into --n_head {self.n_head} heads")
        if self.batch_size % self.mini_batch_size:
            raise ValueError(
                f"--batch_size {self.batch_size} is not a multiple of --mini_batch_size {self.mini_batch_size}"
            )

    @property
    def num_accumulation(self) -> int:
        """Passes in one optimizer step."""
        return self.batch_size // self.mini_batch_size

    def as_dict(self) -> dict[str, Any]:
        """Every hyperparameter under its flag's name, in types that JSON and `weights_only` loading know."""
        return {**asdict(self), "data": list(self.data)}


@dataclass(frozen=True, slots=True)
class Invocation:
    """What this start was asked to do besides the hyperparameters."""

    out: str
    resume: str | None
    list_checkpoints: bool


def parse(arguments: Sequence[str]) -> tuple[Config, Invocation]:
    """Flags to settings. A usage error ends the program with exit code 2 and one clear line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Train a byte-level GPT, losing nothing. `python -m trainer hash DIR` prints a fingerprint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="run directory")
    parser.add_argument(
        "--resume", metavar="WHICH", help="auto (newest valid of any kind, or a fresh start), latest, best, or a path"
    )
    parser.add_argument("--list_checkpoints", action="store_true", help="list what is there, and end")
    for item in fields(Config):
        name, choices = item.name, item.metadata.get("choices")
        if name == "data":
            parser.add_argument("--data", nargs="+", default=[], metavar="FILE", help=item.metadata["help"])
        else:
            parser.add_argument(
                f"--{name}", type=type(item.default), default=item.default, choices=choices, help=item.metadata["help"]
            )
    options = parser.parse_args(arguments)
    values: dict[str, Any] = {item.name: getattr(options, item.name) for item in fields(Config)}
    values["data"] = tuple(options.data)
    try:
        config = Config(**values)
    except ValueError as error:
        parser.error(str(error))
    return config, Invocation(options.out, options.resume, options.list_checkpoints)
