"""TensorBoard and MLflow, on request: fed with the events of the log, and never in the training's way.

Each observer works in a thread of its own, from a queue that a full disk or a dead server can only make longer up to
a bound: then events are dropped and counted. What it raises is told once, and the training goes on without it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.config import Config
    from trainer.observers.observed_log import Observer


def check_installed(config: Config) -> None:
    """Raises UsageError for an observer whose library is not there."""
    for name, is_wanted in (("tensorboard", config.use_tensorboard), ("mlflow", config.use_mlflow)):
        # The module and the extra of pyproject.toml have the flag's name.
        if is_wanted and find_spec(name) is None:
            raise UsageError(f"--use_{name}: {name} is not installed. Install it: pip install 'ckpt-tui[{name}]'")


def observers_for(directory: str, config: Config) -> dict[str, Callable[[], Observer]]:
    """What builds the observers that were asked for; called in their threads, for their libraries load slowly."""

    def tensorboard() -> Observer:
        from trainer.observers.tensorboard import TensorBoard

        return TensorBoard(directory)

    def mlflow() -> Observer:
        from trainer.observers.mlflow import MLflow

        return MLflow(directory)

    wanted: dict[str, Callable[[], Observer]] = {}
    if config.use_tensorboard:
        wanted["TensorBoard"] = tensorboard
    if config.use_mlflow:
        wanted["MLflow"] = mlflow
    return wanted
