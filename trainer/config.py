"""The settings of a training: flags -> a validated, frozen `Config`. Loads no torch, so that usage errors are quick."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from trainer.checkpoint.policy import FORMATS, Policy
from trainer.command_line import EXAMPLES, HelpFormatter, Parser
from trainer.errors import UsageError


def _setting(default: Any, text: str, **options: Any) -> Any:
    return field(default=default, metadata={"help": text, **options})


@dataclass(frozen=True)
class Config:
    """Every hyperparameter, under its flag's name. Recorded in `run_start.config` and in each checkpoint's `args`."""

    n_layer: int = _setting(4, "transformer blocks", group="model", least=1)
    n_head: int = _setting(4, "attention heads; divides n_embd", group="model", least=1)
    n_embd: int = _setting(160, "width of the residual stream", group="model", least=1)
    block_size: int = _setting(64, "tokens (bytes) of context", group="model", least=1)
    dropout: float = _setting(0.0, "probability of dropping an activation", group="model", least=0.0, below=1.0)

    init_from: str = _setting("", "checkpoint whose weights a new run begins with, of a model of the same shape",
                              group="model")  # fmt: skip

    data: tuple[str, ...] = _setting((), "text files; default: the source of Python's standard library", group="data")
    batch_size: int = _setting(8, "sequences in one step", group="data", least=1)
    mini_batch_size: int = _setting(
        0, "sequences in one pass, the rest is accumulation; divides batch_size; 0: all at once", group="data", least=0
    )
    seed: int = _setting(1, "of weights, dropout and order of the data", group="data", least=0, most=2**64 - 1)

    max_steps: int = _setting(10_000, "optimizer steps in all", group="optimization", least=1)
    lr: float = _setting(2e-3, "peak learning rate", group="optimization", least=0.0)
    min_lr: float = _setting(2e-4, "learning rate at the end of cosine, and the least of plateau",
                             group="optimization", least=0.0)  # fmt: skip
    schedule: str = _setting("cosine", "of the learning rate after warm-up", group="optimization",
                             choices=("cosine", "constant", "plateau"))  # fmt: skip
    warmup_steps: int = _setting(100, "steps of linear warm-up", group="optimization", least=0)
    plateau_patience: int = _setting(5, "evaluations without a better val_loss before plateau lowers the learning rate",
                                     group="optimization", least=1)  # fmt: skip
    plateau_factor: float = _setting(0.5, "what plateau multiplies the learning rate by", group="optimization",
                                     least=0.0, below=1.0)  # fmt: skip
    weight_decay: float = _setting(0.1, "of matrices; biases and norms have none", group="optimization", least=0.0)
    beta1: float = _setting(0.9, "AdamW", group="optimization", least=0.0, below=1.0)
    beta2: float = _setting(0.95, "AdamW", group="optimization", least=0.0, below=1.0)
    grad_clip: float = _setting(1.0, "largest gradient norm; 0: no clipping", group="optimization", least=0.0)
    optimizer: str = _setting("adamw", "sgd has momentum", group="optimization", choices=("adamw", "sgd"))
    momentum: float = _setting(0.9, "of sgd", group="optimization", least=0.0, below=1.0)
    precision: str = _setting("fp32", "of matrix products; fp16 comes with a loss scaler", group="optimization",
                              choices=("fp32", "bf16", "fp16"))  # fmt: skip
    scaler_growth_interval: int = _setting(500, "steps without an infinite gradient after which fp16 doubles its scale",
                                           group="optimization", least=1)  # fmt: skip
    ema: float = _setting(0.0, "decay of an average of the weights, which is then what is evaluated; 0: none",
                          group="optimization", least=0.0, below=1.0)  # fmt: skip
    grad_checkpointing: bool = _setting(False, "compute activations again in the backward pass: less memory",
                                        group="optimization")  # fmt: skip
    lora_rank: int = _setting(0, "train additions of this rank to the linear layers, nothing else; 0: all weights",
                              group="optimization", least=0)  # fmt: skip
    lora_alpha: float = _setting(16.0, "the additions are scaled by alpha / rank", group="optimization", least=0.0)
    compile: bool = _setting(False, "torch.compile the model", group="optimization")

    max_nonfinite: int = _setting(10, "batches in a row without a finite loss or gradient, which are skipped, before"
                                  " training goes back to a checkpoint", group="optimization", least=1)  # fmt: skip
    max_rollbacks: int = _setting(3, "times that training goes back, with other data, before it has diverged",
                                  group="optimization", least=0)  # fmt: skip
    spike_guard: float = _setting(0.0, "skip batches whose loss is so many (robust) standard deviations above"
                                  " the newest ones; 0: none", group="optimization", least=0.0)  # fmt: skip

    eval_freq: int = _setting(250, "steps between evaluations", group="evaluation", least=1)
    eval_batches: int = _setting(16, "batches of one evaluation", group="evaluation", least=1)
    monitor: str = _setting("val_loss", "what the best model is best at", group="evaluation",
                            choices=("val_loss", "train_loss"))  # fmt: skip
    monitor_mode: str = _setting("min", "whether less or more of it is better", group="evaluation",
                                 choices=("min", "max"))  # fmt: skip

    checkpoint_freq: int = _setting(250, "steps between rolling checkpoints; 0: none by steps", group="checkpoints",
                                    least=0)  # fmt: skip
    checkpoint_minutes: float = _setting(0.0, "minutes between rolling checkpoints; 0: none by time",
                                         group="checkpoints", least=0.0)  # fmt: skip
    checkpoint_auto: bool = _setting(False, "rolling checkpoints as often as the measured cost of saving and failing"
                                     " advises, instead of by steps and minutes", group="checkpoints")  # fmt: skip
    checkpoint_format: str = _setting("file", "one file, a directory with a file for each part, or torch's distributed"
                                      " format, to which each process gives its part", group="checkpoints",
                                      choices=FORMATS)  # fmt: skip
    keep_checkpoints: int = _setting(10, "rolling checkpoints that are kept", group="checkpoints", least=1)
    keep_emergency_checkpoints: int = _setting(10, "emergency checkpoints that are kept", group="checkpoints", least=1)
    keep_every: int = _setting(0, "rolling checkpoints at multiples of so many steps are kept besides; 0: none",
                               group="checkpoints", least=0)  # fmt: skip
    keep_best: int = _setting(0, "rolling checkpoints with the best --monitor are kept besides", group="checkpoints",
                              least=0)  # fmt: skip
    keep_checkpoints_when_full: int = _setting(
        0, "rolling checkpoints that are kept where the disk is full; 0: as many as ever, and no save",
        group="checkpoints", least=0,
    )  # fmt: skip
    save_best_only: bool = _setting(False, "no rolling and epoch checkpoints: the best, emergencies and the end",
                                    group="checkpoints")  # fmt: skip
    min_improvement: float = _setting(0.0, "by which a new best is better than the last one", group="checkpoints",
                                      least=0.0)  # fmt: skip
    best_safetensors: bool = _setting(False, "write best_model.safetensors with each best: weights alone",
                                      group="checkpoints")  # fmt: skip
    sync_saves: bool = _setting(False, "training waits until each save is durable", group="checkpoints")

    grace_seconds: float = _setting(30.0, "that are left after a SIGTERM before the process is killed; a save that does"
                                    " not fit is told in the log", group="run", least=0.0)  # fmt: skip
    log_freq: int = _setting(10, "steps between two `step` events", group="run", least=1)
    print_seconds: float = _setting(10.0, "least time between two lines of progress where stdout is no terminal",
                                    group="run", least=0.0)  # fmt: skip
    run_name: str = _setting("", "default: the name of the run directory", group="run")
    threads: int = _setting(0, "CPU threads; 0: what torch takes", group="run", least=0, most=1024)
    parallel: str = _setting("ddp", "on several processes (torchrun): copies of the model, or shards of it",
                             group="run", choices=("ddp", "fsdp"))  # fmt: skip
    timeout_seconds: float = _setting(300.0, "how long processes wait for one that does not come", group="run",
                                      least=1.0)  # fmt: skip
    device: str = _setting("auto", "auto: a GPU when there is one", group="run", choices=("auto", "cpu", "cuda"))
    use_tensorboard: bool = _setting(False, "write TensorBoard's event files, too; needs the extra tensorboard",
                                     group="run")  # fmt: skip
    use_mlflow: bool = _setting(False, "log to MLflow, too; needs the extra mlflow", group="run")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, rules = getattr(self, setting.name), setting.metadata
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{setting.name} {value}: must be a finite number")
            if "least" in rules and value < rules["least"]:
                raise ValueError(f"--{setting.name} {value}: must be at least {rules['least']}")
            if "most" in rules and value > rules["most"]:
                raise ValueError(f"--{setting.name} {value}: must be at most {rules['most']}")
            if "below" in rules and value >= rules["below"]:
                raise ValueError(f"--{setting.name} {value}: must be below {rules['below']}")
        if self.n_embd % self.n_head:
            raise ValueError(f"--n_embd {self.n_embd} cannot be divided among --n_head {self.n_head} heads")
        if self.mini_batch_size and self.batch_size % self.mini_batch_size:
            raise ValueError(
                f"--batch_size {self.batch_size} is not a multiple of --mini_batch_size {self.mini_batch_size}"
            )
        for path in self.data:
            if not os.path.isfile(path):
                raise ValueError(f"--data {path}: no such file")

    def as_args(self) -> dict[str, Any]:
        """Plain types only, as checkpoints and the log hold them."""
        return {**asdict(self), "data": list(self.data)}

    def checkpoint_policy(self) -> Policy:
        return Policy(
            keep_rolling=self.keep_checkpoints, keep_emergency=self.keep_emergency_checkpoints,
            monitor=self.monitor, monitor_mode=self.monitor_mode, checkpoint_format=self.checkpoint_format,
            keep_every=self.keep_every, keep_best=self.keep_best, min_improvement=self.min_improvement,
            keep_rolling_when_full=self.keep_checkpoints_when_full, save_best_only=self.save_best_only,
            best_safetensors=self.best_safetensors, is_async=not self.sync_saves,
        )  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line. resume: "", auto, latest, best, a name in the run directory, a path."""

    out: str
    config: Config
    resume: str = ""
    list_checkpoints: bool = False
    as_json: bool = False
    is_check: bool = False


def parse(argv: Sequence[str]) -> Request:
    """Flags into a request. Raises UsageError when they make no sense; `--help` ends the process."""
    parser = Parser(
        prog="python -m trainer",
        usage="%(prog)s --out DIR [--resume auto] [FLAGS]",
        description="Train a small GPT on text, and lose nothing whatever happens to it.\n"
        "In parentheses: what holds without the flag. `--no-X` turns X off again.",
        epilog=EXAMPLES,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the run directory")
    parser.add_argument(
        "--resume", default="", metavar="WHAT",
        help="go on from a checkpoint: auto (the newest valid one, or start), latest, best, a name in DIR or a path",
    )  # fmt: skip
    parser.add_argument("--list_checkpoints", action="store_true", help="list the checkpoints of DIR and end")
    parser.add_argument("--check", action="store_true", help="check the flags and end: 0, or 2 for what cannot be")
    parser.add_argument("--json", action="store_true", help="with --list_checkpoints: as one JSON object")
    groups: dict[str, Any] = {}
    for setting in fields(Config):
        rules = setting.metadata
        if rules["group"] not in groups:
            groups[rules["group"]] = parser.add_argument_group(rules["group"])
        options: dict[str, Any] = {"default": setting.default, "help": rules["help"]}
        if setting.name == "data":
            options.update(nargs="*", metavar="FILE")
        elif "choices" in rules:
            options["choices"] = rules["choices"]
        elif isinstance(setting.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            options.update(type=type(setting.default), metavar=type(setting.default).__name__.upper())
        groups[rules["group"]].add_argument(f"--{setting.name}", **options)
    given = vars(parser.parse_args(argv))
    out, resume = given.pop("out"), given.pop("resume")
    list_checkpoints, as_json, is_check = given.pop("list_checkpoints"), given.pop("json"), given.pop("check")
    given["data"] = tuple(given["data"])
    try:
        config = Config(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Request(out, config, resume, list_checkpoints=list_checkpoints, as_json=as_json, is_check=is_check)
