"""How far a training was, wherever its framework wrote that down: in the state, one level down, or in the name only.

Light on purpose: `inspect` loads it every time.
"""

from __future__ import annotations

from collections.abc import Callable

from ckpt_tui.checkpoints.model import OpaqueObject, TensorRef
from ckpt_tui.checkpoints.plain import entries_of, plain_value

# Optimizer steps before iterations: litgpt and others count both, and accumulate several of the latter into a step.
_STEPS = (
    "step", "global_step", "global_steps", "step_count", "num_updates", "iteration", "iter", "iter_num", "steps_run",
    "num_timesteps", "current_step", "current_iter", "cur_iter", "global_iter", "train_step", "train_steps",
    "training_step", "n_iter", "steps", "it",
)  # fmt: skip
_VALUES = {
    "epoch": ("epoch", "current_epoch", "epochs_run", "epoch_idx"),
    "train_loss": ("train_loss", "loss", "training_loss"),
    "val_loss": ("val_loss", "valid_loss", "eval_loss", "validation_loss"),
    "best_val_loss": ("best_val_loss", "best_valid_loss", "best_loss", "min_val_loss"),
    "best_metric": (
        "best_metric", "best_score", "best_fitness", "best_acc1", "best_acc", "best_prec1", "best_accuracy", "best",
        "metric", "_best_ema",
    ),
    "best_checkpoint": ("best_model_checkpoint", "best_model_path", "best_ckpt"),
    "max_steps": ("max_steps", "max_iters"),
    "checkpoint_type": ("checkpoint_type", "kind"),
}  # fmt: skip
_IN_WORDS = ("best_checkpoint", "checkpoint_type")
_WORDS, _NUMBERS = (str,), (int, float)
_TIMES = ("timestamp", "saved_at", "time", "created_at", "date", "datetime", "save_time")
# Where frameworks keep it below the top: torchtitan, HF, mmengine, detectron2, fairseq, and what people call it.
_NESTED = ("train_state", "trainer_state", "training_state", "progress", "meta", "trainer", "extra_state", "counters")
_MAX_METRICS = 100
PROGRESS_KEYS = frozenset({*_STEPS, *(key for keys in _VALUES.values() for key in keys), *_TIMES})

_STEP_WORDS = frozenset({"step", "steps", "globalstep", "iter", "iters", "iteration", "iterations", "ba", "batch"})
_EPOCH_WORDS = frozenset({"epoch", "epochs", "ep"})
_VAGUE_WORDS = frozenset({"checkpoint", "ckpt"})  # of steps for most, of epochs for some


def add_progress(
    progress: dict[str, object], state: dict[object, object], read: Callable[[object], object] | None = None
) -> None:
    """Take step, epoch, losses and time from a state, but for what is known already. read: gives the number in a
    tensor, for scripts that save a loss without `.item()`."""

    def taken(place: dict[object, object], key: str) -> object:
        value = place.get(key)
        return read(value) if read is not None and isinstance(value, TensorRef) else value

    places = _places(state)
    for place in places:
        for key in _STEPS:
            if "step" not in progress and (step := _whole(taken(place, key))) is not None:
                progress["step"] = step
    for word, keys in _VALUES.items():
        for place in places:
            for key in keys:
                value = None if word in progress else taken(place, key)
                if word not in progress and type(value) in (_WORDS if word in _IN_WORDS else _NUMBERS):
                    progress[word] = value
    for place in places:
        metrics = place.get("val_metrics")
        if isinstance(metrics, dict):
            for name, value in list(metrics.items())[:_MAX_METRICS]:
                if type(value) in (int, float) and isinstance(name, str):
                    progress.setdefault(name, value)
        for key in _TIMES:
            saved_at = _seconds(place.get(key))
            if saved_at is not None:
                progress.setdefault("saved_at", saved_at)


def add_progress_of_name(progress: dict[str, object], path: str, counts_saves: bool = False) -> None:
    """Take the step from the name where the state has none: `step_source` then says so. counts_saves: `checkpoint_3`
    is the third save, as Accelerate names them."""
    if "step" in progress:
        return
    found = numbers_in_name(path.rstrip("/").rpartition("/")[2])
    step = found.get("step")
    if step is None and "epoch" not in progress and "epoch" not in found and not counts_saves:
        step = found.get("checkpoint")  # `checkpoint_12.pth` beside an epoch is the epoch's number
    if step is None and counts_saves:
        step = found.get("checkpoint-")
    if step is not None:
        progress["step"] = step
        progress["step_source"] = "name"
    elif "epoch" in found and "epoch" not in progress:
        progress["epoch"] = found["epoch"]
        progress["epoch_source"] = "name"


def numbers_in_name(name: str) -> dict[str, int]:
    """The numbers in a file's name by the word before them: step, epoch, checkpoint (`checkpoint-` with a hyphen too).

    Without `re`, which costs a tenth of what `inspect` may take.
    """
    found: dict[str, int] = {}
    lowered, at = name.lower()[:255], 0
    while at < len(lowered):
        if not "0" <= lowered[at] <= "9":
            at += 1
            continue
        end = at
        while end < len(lowered) and "0" <= lowered[end] <= "9":
            end += 1
        head = lowered[:at].rstrip("_=- ")
        separator = lowered[len(head) : at]
        start = len(head)
        while start and "a" <= head[start - 1] <= "z":
            start -= 1
        word = head[start:]
        digits = lowered[at:end]
        is_fraction = lowered[end : end + 2].strip("0123456789") == "." and end - at < 3 and end + 1 < len(lowered)
        if len(digits) <= 15 and not (is_fraction and word not in _STEP_WORDS) and not _is_date(digits):
            if word in _STEP_WORDS:
                found["step"] = int(digits)
            elif word in _EPOCH_WORDS:
                found["epoch"] = int(digits)
            elif word in _VAGUE_WORDS:
                found["checkpoint"] = int(digits)
                if separator == "-":
                    found["checkpoint-"] = int(digits)
        at = end
    return found


def _is_date(digits: str) -> bool:
    """Whether eight digits are a day of this century: 20261121."""
    return len(digits) == 8 and digits[:2] == "20" and "01" <= digits[4:6] <= "12" and "01" <= digits[6:] <= "31"


def _places(state: dict[object, object]) -> list[dict[object, object]]:
    """Where to look, in order: the state itself, then what frameworks put below it."""
    places = [state]
    timestamp = entries_of(state.get("timestamp"))
    if timestamp is not None:  # Composer: its `iteration` is something else
        counted = entries_of(timestamp.get("Timestamp")) or timestamp
        return [{"step": counted.get("batch"), "epoch": counted.get("epoch")}]
    for key in _NESTED:
        inner = entries_of(state.get(key))
        if inner is not None:
            places.append(inner)
            iterator = entries_of(inner.get("train_iterator"))  # fairseq
            if iterator is not None:
                places.append({"epoch": iterator.get("epoch")})
    history = state.get("optimizer_history")  # fairseq
    if isinstance(history, list) and history and isinstance(history[-1], dict):
        places.append({"step": history[-1].get("num_updates")})
    return places


def _whole(value: object) -> int | None:
    """A count; some frameworks keep it as a float."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return None


def _seconds(value: object) -> float | None:
    """Unix seconds of a time as trainers store it: a number, ISO text, or a datetime."""
    if type(value) in (int, float):
        return float(value) if 1e8 < value < 1e11 else None  # type: ignore[operator, arg-type]
    if isinstance(value, OpaqueObject) and value.type_name == "datetime.datetime":
        value = plain_value(value)
    if type(value) is str and 10 <= len(value) <= 40 and value[:4].isdecimal():
        from datetime import datetime

        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return None
