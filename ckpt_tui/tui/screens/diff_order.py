"""The orders in which the diff screen shows tensors and modules, and the titles of columns that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from ckpt_tui.checkpoints.module_changes import ModuleChange
from ckpt_tui.checkpoints.tensor_changes import TensorChange
from ckpt_tui.tui.picked_rows import natural
from ckpt_tui.tui.widgets.virtual_list import Column

Change = TypeVar("Change", TensorChange, ModuleChange)

BY_CHANGE, BY_NAME, BY_SIZE = "change", "name", "size"
SORTS = (BY_CHANGE, BY_NAME, BY_SIZE)
# What a press on the title of a column sorts by; the rest are not sorted by.
_OF_TITLE = {"tensor": BY_NAME, "module": BY_NAME, "relative L2": BY_CHANGE, "shape": BY_SIZE, "changed": BY_SIZE}


def in_order(changes: Sequence[Change], sort: str, *, is_reversed: bool) -> list[Change]:
    """`changes`, which come most changed first; the largest first by size."""
    if sort == BY_NAME:
        return sorted(changes, key=lambda change: natural(change.name), reverse=is_reversed)
    if sort == BY_SIZE:
        return sorted(changes, key=_size, reverse=not is_reversed)
    return list(changes[::-1] if is_reversed else changes)


def _size(change: TensorChange | ModuleChange) -> int:
    return change.size_bytes if isinstance(change, TensorChange) else change.num_tensors


def columns_in_order(columns: Sequence[Column], sort: str, *, is_reversed: bool) -> tuple[Column, ...]:
    """The one that it is sorted by says so, but for the order in which the changes come."""
    if sort == BY_CHANGE and not is_reversed:
        return tuple(columns)
    mark = " ↑" if (sort == BY_NAME) != is_reversed else " ↓"
    # `relative L2` fills its column.
    return tuple(
        replace(column, title={"relative L2": "rel. L2"}.get(column.title, column.title) + mark)
        if _OF_TITLE.get(column.title) == sort
        else column
        for column in columns
    )


def sort_of_column(columns: Sequence[Column], index: int) -> str | None:
    """What a press on the title of a column sorts by."""
    return _OF_TITLE.get(columns[index].title)
