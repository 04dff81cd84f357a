"""The weights that a new run begins with, from a checkpoint of another: to train on, or to adapt with LoRA."""

from __future__ import annotations

from trainer.checkpoint.formats import load_checkpoint
from trainer.checkpoint.state import BadCheckpointError
from trainer.errors import UsageError
from trainer.model import GPT


def begin_with(model: GPT, path: str) -> int:
    """Load the weights at `path`; what LoRA adds stays as it is. Gives the step that they are of.

    Raises UsageError, with the model unchanged or not to be used.
    """
    try:
        state = load_checkpoint(path).state
        weights = dict(state["model"])
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except (BadCheckpointError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        words = str(error.strerror or error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"--init_from {path}: {' '.join(words.split())[:400]}") from error
    missing = [name for name in missing if "lora_" not in name]
    if missing or unexpected:
        one = f"it lacks {missing[0]}" if missing else f"{unexpected[0]} has no place here"
        raise UsageError(f"--init_from {path}: {one}. It must be of a model of the same shape, without LoRA.")
    return int(state.get("step", 0))
