"""What the diff screen's lists and lines say: columns, cells, and one difference in full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.content import Content

from ckpt_tui.text import cell_width, duration, metric, plural, size
from ckpt_tui.tui.judgement import effect_role
from ckpt_tui.tui.styled import bar, line, lines
from ckpt_tui.tui.value_words import shape_text, summary
from ckpt_tui.tui.widgets.virtual_list import Cell, Column

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.diff import Diff, PartChange
    from ckpt_tui.checkpoints.hparams import HparamChange
    from ckpt_tui.checkpoints.module_changes import ModuleChange
    from ckpt_tui.checkpoints.state_diff import ValueChange
    from ckpt_tui.checkpoints.tensor_changes import TensorChange

SETTING_COLUMNS = (
    Column("setting", 16, grows=True, keep="middle", most=40),
    Column("a", 14, grows=True),
    Column("b", 14, grows=True),
    Column("a resume with it", 18),
)
TENSOR_COLUMNS = (
    Column("tensor", 30, grows=True, keep="middle", most=96),
    Column("change", 9),
    Column("relative L2", 11, align="right"),
    Column("max abs", 9, align="right", priority=1),
    Column("cosine", 9, align="right", priority=2),
    Column("", 10, priority=3),
    Column("shape", 14, align="right", priority=4),
)
MODULE_COLUMNS = (
    Column("module", 24, grows=True, keep="middle", most=80),
    Column("changed", 14, align="right"),
    Column("relative L2", 11, align="right"),
    Column("max abs", 9, align="right", priority=1),
    Column("", 10, priority=2),
)
OTHER_COLUMNS = (
    Column("value", 24, grows=True, keep="middle"),
    Column("change", 9),
    Column("a", 18, grows=True),
    Column("b", 18, grows=True),
)
CHANGE_ROLES = {"added": "good", "removed": "error", "shape": "error", "dtype": "warning", "unknown": "warning"}


def as_wide_as_told(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> tuple[Column, ...]:
    """`columns` of which those that grow do so up to their widest text: what belongs together stands together."""
    widest = [cell_width(column.title) for column in columns]
    for row in rows:
        for index, cell in enumerate(row):
            widest[index] = max(widest[index], cell_width(cell if isinstance(cell, str) else cell[0]))
    return tuple(
        replace(column, most=most) if column.grows else column for column, most in zip(columns, widest, strict=True)
    )


def short_path(path: str, other: str) -> str:
    """Its name where that tells the two apart, else the whole path."""
    name = Path(path).name
    return name if name and name != Path(other).name else path


def setting_cells(change: HparamChange) -> tuple[Cell, ...]:
    a = ("(not there)", "dim") if change.change == "added" else summary(change.a)
    b = ("(not there)", "dim") if change.change == "removed" else summary(change.b)
    return (change.key, a, b, (change.effect.words, effect_role(change.effect.value)))


def module_cells(module: ModuleChange, share: float) -> tuple[Cell, ...]:
    """share: of the largest change, for its bar."""
    changed = f"{module.num_changed:,} of {module.num_tensors:,}"
    return (
        module.name or "(the whole model)",
        (changed, "" if module.num_changed else "dim"),
        metric(module.relative_l2),
        metric(module.max_abs),
        (bar(share, 10), "dim"),
    )


def part_words(part: PartChange) -> str:
    """What there is of a part that only one side has."""
    if part.num_tensors:
        return f"{plural(part.num_tensors, 'tensor')}, {size(part.size_bytes)}"
    return ", ".join(part.names)


def other_cells(change: ValueChange | PartChange) -> tuple[Cell, ...]:
    from ckpt_tui.checkpoints.diff import PartChange

    if isinstance(change, PartChange):
        words = part_words(change)
        a, b = (words, "") if change.side == "a" else ("", words)
        return (change.part, (f"only in {change.side}", "warning"), a, b)
    before: Cell = "" if change.change == "added" else summary(change.a)
    after: Cell = "" if change.change == "removed" else summary(change.b)
    return (change.path, (change.change, CHANGE_ROLES.get(change.change, "")), before, after)


def verdict_content(diff: Diff) -> Content:
    """The answer in one line: the same, or how much differs; what was read for it."""
    read = f"  {size(diff.bytes_read)} read in {duration(diff.seconds)}"
    num_unknown = sum(tensor.change == "unknown" for tensor in diff.tensors)
    num_tensors = sum(not tensor.is_in_absent_part for tensor in diff.tensors)
    if diff.is_same and not num_unknown:
        return line(("= the same in every setting, tensor and value", "good"), (read, "dim"))
    words = [
        plural(len(diff.hyperparameters), "setting"),
        f"{len(diff.changed_tensors) - num_unknown:,} of {plural(num_tensors, 'tensor')}",
        plural(diff.num_other, "other value"),
    ]
    unknown = f", {num_unknown:,} could not be compared" if num_unknown else ""
    return line(("≠ ", "warning"), f"{', '.join(words)} differ{unknown}", (read, "dim"))


def note_content(diff: Diff) -> Content | None:
    """What was taken off names so that they agree, and what only one side has; None when there is neither."""
    notes = []
    for side, prefix in (("a", diff.prefix_a), ("b", diff.prefix_b)):
        if prefix:
            notes.append(f"names of {side} without {prefix}")
    if diff.is_unwrapped:
        notes.append("names without _orig_mod and the like")
    for side in ("a", "b"):
        parts = [part.part for part in diff.parts if part.side == side]
        if parts:
            notes.append(f"only in {side}: {', '.join(parts)}")
    return line(("; ".join(notes), "dim")) if notes else None


def row_content(row: Any) -> Content:
    """One difference in full."""
    from ckpt_tui.checkpoints.diff import PartChange
    from ckpt_tui.checkpoints.hparams import HparamChange
    from ckpt_tui.checkpoints.module_changes import ModuleChange
    from ckpt_tui.checkpoints.tensor_changes import TensorChange

    if isinstance(row, TensorChange):
        return _tensor_content(row)
    if isinstance(row, HparamChange):
        values = line(summary(row.a, 900), (" -> ", "dim"), summary(row.b, 900))
        return lines(line((row.key, "strong")), values, line((row.effect.explanation, effect_role(row.effect.value))))
    if isinstance(row, ModuleChange):
        what = f"{row.num_changed:,} of {plural(row.num_tensors, 'tensor')} changed"
        figures = f"relative L2 {metric(row.relative_l2)}, max abs {metric(row.max_abs)}"
        return lines(line((row.name or "the whole model", "strong")), line(what), line((figures, "dim")))
    if isinstance(row, PartChange):
        return lines(line((row.part, "strong")), line(f"only in {row.side}"), line((part_words(row), "dim")))
    a, b = summary(row.a, 900), summary(row.b, 900)
    return lines(line((row.path, "strong")), line(("a  ", "dim"), a), line(("b  ", "dim"), b))


def _tensor_content(row: TensorChange) -> Content:
    sides = [
        f"{side}: {shape_text(shape)} {dtype}" if shape is not None else f"{side}: not there"
        for side, shape, dtype in (("a", row.shape_a, row.dtype_a), ("b", row.shape_b, row.dtype_b))
    ]
    is_alike = (row.shape_a, row.dtype_a) == (row.shape_b, row.dtype_b)
    notes = [row.reason] if row.reason else []
    if row.num_nonfinite:
        notes.append(f"{row.num_nonfinite:,} pairs are not finite")
    if row.is_tied:
        notes.append(f"one side has it only through its tie, as {row.name_b}")
    elif row.name_b not in ("", row.name):
        notes.append(f"in b {row.name_b}")
    if row.parameter:
        notes.append(f"of {row.parameter}")
    figures = line(sides[1][3:] if is_alike else "  ".join(sides))
    return lines(line((row.name, "strong")), figures, line("; ".join(notes)))
