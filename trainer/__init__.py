"""A fault-tolerant PyTorch trainer: `python -m trainer --out DIR`; and its checkpointing, for any training loop:

    from trainer import Checkpointer, Policy, restore_rng_state, rng_state, seed_all

Importing this package loads nothing; torch comes with the first of these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.checkpoint.checkpointer import Checkpointer
    from trainer.checkpoint.policy import Policy
    from trainer.checkpoint.resume import Source
    from trainer.checkpoint.state import restore_rng_state, rng_state, seed_all
    from trainer.errors import UsageError

__all__ = ["Checkpointer", "Policy", "Source", "UsageError", "restore_rng_state", "rng_state", "seed_all"]

_MODULES = {
    "Checkpointer": "trainer.checkpoint.checkpointer",
    "Policy": "trainer.checkpoint.policy",
    "Source": "trainer.checkpoint.resume",
    "UsageError": "trainer.errors",
    "restore_rng_state": "trainer.checkpoint.state",
    "rng_state": "trainer.checkpoint.state",
    "seed_all": "trainer.checkpoint.state",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
