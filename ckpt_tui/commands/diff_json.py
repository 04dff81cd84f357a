"""A comparison as `ckpt-tui diff --json` prints it. The names are a promise (SPEC section 11): add, never rename."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.diff import Diff
    from ckpt_tui.checkpoints.hparams import HparamChange
    from ckpt_tui.checkpoints.tensor_changes import TensorChange


def diff_data(diff: Diff) -> dict[str, object]:
    """Two checkpoints."""
    return {
        "a": diff.path_a,
        "b": diff.path_b,
        "same": diff.is_same,
        "with_values": diff.with_values,
        "prefix_a": diff.prefix_a,
        "prefix_b": diff.prefix_b,
        "unwrapped": diff.is_unwrapped,
        "hyperparameters": _settings_data(diff.hyperparameters),
        "parts": [
            {
                "part": part.part,
                "only_in": part.side,
                "num_tensors": part.num_tensors,
                "bytes": part.size_bytes,
                "names": list(part.names),
            }
            for part in diff.parts
        ],
        "modules": [
            {
                "name": module.name,
                "num_tensors": module.num_tensors,
                "num_changed": module.num_changed,
                "relative_l2": module.relative_l2,
                "max_abs": module.max_abs,
            }
            for module in diff.modules
        ],
        "tensors": [_tensor_data(change) for change in diff.tensors],
        "other": [{"path": c.path, "change": c.change, "a": c.a, "b": c.b} for c in diff.other],
        "num_other": diff.num_other,
        "bytes_read": diff.bytes_read,
        "seconds": diff.seconds,
    }


def settings_data(path: str, other: str, changes: list[HparamChange]) -> dict[str, object]:
    """A checkpoint and the settings of a new run. effect: the gravest of all, null when nothing changes."""
    return {
        "a": path,
        "b": other,
        "same": not changes,
        "with_values": False,
        "effect": changes[0].effect.value if changes else None,
        "hyperparameters": _settings_data(changes),
        "tensors": [],
        "other": [],
    }


def plain(value: object) -> object:
    """Python refuses to spell integers of thousands of digits."""
    from ckpt_tui.checkpoints.hparams import key_text

    return key_text(value) if isinstance(value, int) and value.bit_length() > 256 else value


def _settings_data(changes: Iterable[HparamChange]) -> list[dict[str, object]]:
    return [
        {
            "key": c.key,
            "change": c.change,
            "a": plain(c.a),
            "b": plain(c.b),
            "effect": c.effect.value,
            "words": c.effect.words,
        }
        for c in changes
    ]


def _tensor_data(change: TensorChange) -> dict[str, object]:
    return {
        "name": change.name,
        "name_b": change.name_b,
        "change": change.change,
        "part": change.part,
        "parameter": change.parameter,
        "tied": change.is_tied,
        "shape_a": change.shape_a,
        "shape_b": change.shape_b,
        "dtype_a": change.dtype_a,
        "dtype_b": change.dtype_b,
        "relative_l2": change.relative_l2,
        "max_abs": change.max_abs,
        "cosine": change.cosine,
        "nonfinite_pairs": change.num_nonfinite,
        "bytes": change.size_bytes,
        "reason": change.reason,
    }
