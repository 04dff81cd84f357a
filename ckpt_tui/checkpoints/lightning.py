"""What only Lightning's checkpoints say: where its loops stand, the best so far, the state of the data module.

Its `epoch` counts from 0 and is the one running; `global_step` counts the steps of every optimizer.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, Part
from ckpt_tui.checkpoints.scalar import number_of

_OWN_KEYS = frozenset(
    {"state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers", "hyper_parameters", "MixedPrecision",
     "MixedPrecisionPlugin"}
)  # fmt: skip


def is_lightning(state: object) -> bool:
    """Whether a decoded state is one of Lightning's, of any version since 1.0."""
    return isinstance(state, dict) and "pytorch-lightning_version" in state and "global_step" in state


def add_lightning(checkpoint: Checkpoint, state: dict[object, object], file: str = "") -> None:
    """Fill what `facts` does not know: the position in the epoch, the best checkpoint, the data module's state."""
    progress = checkpoint.progress
    loop = _dict(_dict(state.get("loops")).get("fit_loop"))
    epochs = _dict(_dict(loop.get("epoch_progress")).get("current")).get("completed")
    batches = _dict(_dict(loop.get("epoch_loop.batch_progress")).get("current")).get("processed")
    for word, value in (("epochs_completed", epochs), ("batch_in_epoch", batches)):
        if type(value) is int:
            progress.setdefault(word, value)
    for name, callback in list(_dict(state.get("callbacks")).items())[:100]:
        kept = _dict(callback)
        if isinstance(name, str) and name.startswith("ModelCheckpoint") and kept.get("best_model_path"):
            for word, key in (("best_checkpoint", "best_model_path"), ("monitor", "monitor")):
                if isinstance(kept.get(key), str):
                    progress.setdefault(word, kept[key])
            score = number_of(checkpoint, kept.get("best_model_score"))
            if score is not None and kept.get("monitor"):
                progress.setdefault("best_metric", score)
    if "optimizer_states" not in state:
        return  # weights only: they have loops too, and nothing to resume
    if loop:
        checkpoint.parts.append(Part("dataloader", file, "loops.fit_loop.", loop))
    known = {part.prefix for part in checkpoint.parts}
    for place, held in list(state.items())[:1000]:
        # A data module is kept under the name of its class.
        is_class = isinstance(place, str) and place[:1].isupper() and place not in _OWN_KEYS
        if is_class and isinstance(held, dict) and held and f"{place}." not in known:
            checkpoint.parts.append(Part("dataloader", file, f"{place}.", held))


def _dict(value: object) -> dict[object, object]:
    return value if isinstance(value, dict) else {}
