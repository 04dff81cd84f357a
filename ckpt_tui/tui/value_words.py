"""Keys and values of a checkpoint's state in a few words, for rows of a table."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import OpaqueObject, TensorRef
from ckpt_tui.text import metric, plural, safe_text


def key_text(key: object) -> str:
    """A key of a dict in a file, for eyes."""
    if isinstance(key, str):
        return safe_text(key, 500) if key else '""'
    return summary(key)


def summary(value: object, limit: int = 200) -> str:
    """A value in a few words: numbers and texts as they are, containers by their size."""
    if isinstance(value, TensorRef):
        return f"{shape_text(value.info.shape)} {value.info.dtype}"
    if isinstance(value, str):
        return safe_text(value, limit) if value else '""'
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        # Python refuses to print integers of more than 4,300 digits, and nobody reads one of 100.
        return str(value) if value.bit_length() < 400 else f"an integer of {value.bit_length():,} bits"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (bytes, bytearray)):
        return plural(len(value), "byte")
    if isinstance(value, dict):
        return plural(len(value), "entry", "entries")
    if isinstance(value, (list, tuple)):
        if 0 < len(value) <= 8 and all(isinstance(item, (int, float, str, bool, type(None))) for item in value):
            brackets = "[]" if isinstance(value, list) else "()"
            return safe_text(brackets[0] + ", ".join(summary(item, 40) for item in value) + brackets[1], limit)
        return plural(len(value), "item")
    if isinstance(value, (set, frozenset)):
        return plural(len(value), "item")
    if isinstance(value, OpaqueObject):
        return safe_text(value.type_name, limit)
    return safe_text(value, limit)


def number(value: float) -> str:
    """A float as it was written, shortened only where it is longer than a person reads."""
    text = repr(value)
    return text if len(text) <= 10 else metric(value)


def shape_text(shape: tuple[int, ...]) -> str:
    """`384 x 128`; a tensor without dimensions is a scalar."""
    return " x ".join(map(str, shape)) if shape else "scalar"
