"""What each view of the inspect screen lists: facts of a `Checkpoint` as rows of text. No widgets, no judgement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from ckpt_tui.checkpoints.model import (
    Checkpoint,
    Finding,
    GlobalRef,
    OpaqueObject,
    TensorInfo,
    TensorRef,
    Verdict,
)
from ckpt_tui.checkpoints.moments import moments_of
from ckpt_tui.checkpoints.weights_only import is_taken
from ckpt_tui.text import metric, plural, safe_text, short_count, size
from ckpt_tui.tui.judgement import severity_words
from ckpt_tui.tui.state_tree import Node, StateTree
from ckpt_tui.tui.styled import bar
from ckpt_tui.tui.tensor_table import LARGEST_FIRST, TensorTable
from ckpt_tui.tui.value_words import key_text, shape_text, summary
from ckpt_tui.tui.widgets.virtual_list import Cell, Column

BAR_CELLS = 8
MAX_FLAT_ROWS = 20_000
MAX_FLAT_DEPTH = 8


class Fact(NamedTuple):
    """One line of the settings and optimizer views; a section's heading has no value."""

    key: str
    value: str
    full: str = ""
    is_heading: bool = False


TREE_COLUMNS = (
    Column("name", 27, grows=True, keep="middle", most=80),
    Column("value", 18, grows=True, keep="start", most=64),
    Column("elements", 8, align="right", priority=1),
    Column("size", 8, align="right"),
    Column("of all", BAR_CELLS, priority=2),
)
# In their order; `sort` of a column is what the table calls it.
_TENSOR_COLUMNS = {
    "name": Column("name", 28, grows=True, keep="middle", most=96),
    "file": Column("file", 20, keep="middle", priority=4),
    "shape": Column("shape", 14, align="right", keep="start"),
    "dtype": Column("dtype", 8),
    "elements": Column("elements", 10, align="right", priority=3),
    "size": Column("size", 8, align="right", priority=1),
    "of all": Column("of all", BAR_CELLS, priority=2),
}
TENSOR_COLUMNS = tuple(column for name, column in _TENSOR_COLUMNS.items() if name != "file")
FACT_COLUMNS = (Column("name", 28, keep="middle"), Column("value", 8, grows=True))
GLOBAL_COLUMNS = (
    Column("verdict", 11),
    Column("name", 20, grows=True, keep="middle", most=64),
    Column("weights_only", 12, priority=1),
    Column("why", 24, priority=2),
    Column("named in", 14, grows=True, keep="end", priority=3),
)
FINDING_COLUMNS = (
    Column("severity", 9),
    Column("where", 18, keep="middle"),
    Column("what", 20, grows=True),
)


def tree_columns(sort: str = "", is_reversed: bool = False, *, has_files: bool = False) -> tuple[Column, ...]:
    """The columns of the tree; the one that it is sorted by says so. Names of shards differ in their middle only, so
    they get the room of the bars where there is little."""
    mark = " ↓" if (sort in LARGEST_FIRST) != is_reversed else " ↑"
    short = {"elements": "elems"}
    return tuple(
        replace(
            column,
            title=short.get(sort, sort) + mark if column.title == sort else column.title,
            width=36 if has_files and column.title == "name" else column.width,
        )
        for column in TREE_COLUMNS
    )


def tree_cells(tree: StateTree, total_bytes: int, node: Node) -> tuple[Cell, ...]:
    """A row of the tree: indented by depth, opened with a mark that says whether there is more below."""
    mark = ("▾ " if node.is_open else "▸ ") if node.can_open else "  "
    weight = tree.weight(node)
    tensor = node.tensor
    if tensor is not None:
        layout = "" if tensor.layout == "strided" else f" {tensor.layout}"
        value: Cell = f"{shape_text(tensor.shape)} {tensor.dtype}{layout}"
    elif node.file is not None:
        value = (node.file.fault, "error") if node.file.fault else (", ".join(node.file.roles), "dim")
    elif node.is_module:
        value = ("", "dim")
    elif node.can_open:
        value = (summary(node.value, 80), "dim")
    else:
        value = value_text(node.label, node.value, 400)
    label = "  " * min(node.depth, 20) + mark + node.label
    name: Cell = (label, "strong") if node.can_open else label
    num_bytes = tensor.size_bytes if tensor is not None else weight.size_bytes
    return (
        name,
        value,
        (short_count(weight.num_elements) if weight.num_elements else "", "dim"),
        size(num_bytes) if num_bytes else "",
        (bar(num_bytes / total_bytes, BAR_CELLS) if total_bytes else "", "dim"),
    )


def tensor_columns(table: TensorTable, sort: str = "", is_reversed: bool = False) -> tuple[Column, ...]:
    """The columns of the list of tensors; the one that it is sorted by says so: `size ↓`."""
    mark = " ↓" if (sort in LARGEST_FIRST) != is_reversed else " ↑"
    widths = {"dtype": max(min(table.longest_dtype, 16), 8), "shape": max(min(table.longest_shape, 14), 7)}
    return tuple(
        replace(column, title=name + (mark if name == sort else ""), width=widths.get(name, column.width))
        for name, column in _TENSOR_COLUMNS.items()
        if name != "file" or table.has_files
    )


def sort_of_column(table: TensorTable, index: int) -> str | None:
    """What a press on the title of a column sorts by."""
    names = [name for name in _TENSOR_COLUMNS if name != "file" or table.has_files]
    return {"of all": "size"}.get(names[index], names[index]) if index < len(names) else None


def tensor_cells(
    table: TensorTable, total_bytes: int, tensor: TensorInfo, *, in_file_order: bool = True
) -> tuple[Cell, ...]:
    """A row of the list of tensors. total_bytes: of all tensors, as in the tree: one bar means the same in both."""
    name: Cell = tensor.name
    if tensor.is_component:  # what a sparse or nested tensor is made of: below it, a little to the right
        name = ("  " * in_file_order + tensor.name, "dim")
    layout = "" if tensor.layout == "strided" else tensor.layout
    return (
        name,
        *([(tensor.file, "dim")] if table.has_files else []),
        shape_text(tensor.shape),
        f"{tensor.dtype} {layout}" if layout else tensor.dtype,
        (short_count(tensor.num_elements), "dim"),
        size(tensor.size_bytes),
        (bar(tensor.size_bytes / total_bytes, BAR_CELLS) if total_bytes else "", "dim"),
    )


def fact_cells(fact: Fact) -> tuple[Cell, ...]:
    if fact.is_heading:
        return ((fact.key, "accent"), "")
    return ("  " + fact.key, fact.value)


def global_cells(ref: GlobalRef) -> tuple[Cell, ...]:
    glyph, role = {
        Verdict.KNOWN: ("✓", "good"),
        Verdict.UNKNOWN: ("?", "warning"),
        Verdict.DANGEROUS: ("✖", "error"),
    }[ref.verdict]
    word = "DANGEROUS" if ref.verdict is Verdict.DANGEROUS else ref.verdict.value
    taken: Cell = ("takes", "dim") if is_taken(ref.name) else "refuses"
    return ((f"{glyph} {word}", role), ref.name, taken, (ref.reason, "dim"), (ref.where, "dim"))


def finding_cells(finding: Finding) -> tuple[Cell, ...]:
    return (severity_words(finding.severity), finding.where, finding.message)


def sorted_globals(checkpoint: Checkpoint) -> list[GlobalRef]:
    """Dangerous first, then unknown, then the harmless ones; by name within each."""
    order = {Verdict.DANGEROUS: 0, Verdict.UNKNOWN: 1, Verdict.KNOWN: 2}
    return sorted(checkpoint.globals, key=lambda ref: (order[ref.verdict], ref.name))


def setting_facts(checkpoint: Checkpoint) -> list[Fact]:
    """Progress, hyperparameters by name, versions: each under its heading, aligned by the list."""
    rows: list[Fact] = []
    sections: tuple[tuple[str, Mapping[str, object], bool], ...] = (
        ("progress", checkpoint.progress, False),
        ("hyperparameters", checkpoint.hyperparameters, True),
        ("file", checkpoint.metadata, True),
    )
    for title, mapping, is_sorted in sections:
        if not mapping:
            continue
        rows.append(Fact(title, "", is_heading=True))
        facts = flatten(mapping)
        rows.extend(sorted(facts, key=lambda fact: fact.key) if is_sorted else facts)
    return rows


def optimizer_facts(checkpoint: Checkpoint) -> list[Fact]:
    """The optimizer as the reader describes it: its kind, its groups with their settings, what it remembers."""
    rows: list[Fact] = []
    scalars = {key: value for key, value in checkpoint.optimizer.items() if not _is_container(value)}
    if scalars:
        rows.append(Fact("optimizer", "", is_heading=True))
        rows.extend(flatten(scalars))
    for key, value in checkpoint.optimizer.items():
        if not _is_container(value):
            continue
        if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                title = "group" if key in ("groups", "param_groups") else safe_text(key, 60)
                rows.append(Fact(f"{title} {index}", "", is_heading=True))
                rows.extend(flatten(item))
        else:
            rows.append(Fact(safe_text(key, 60), "", is_heading=True))
            rows.extend(flatten(value if isinstance(value, dict) else {key: value}))
        if len(rows) >= MAX_FLAT_ROWS:
            break
    return (rows + moment_facts(checkpoint))[:MAX_FLAT_ROWS]


def moment_facts(checkpoint: Checkpoint) -> list[Fact]:
    """What the optimizer remembers of each parameter: its step, its moments, their shape and dtype."""
    moments, have_names = moments_of(checkpoint)
    if not moments:
        return []
    how = "by parameter" if have_names else "by number: names cannot be told"
    rows = [Fact(f"moments {how}", "", is_heading=True)]
    for entry in moments:
        tensors = entry.tensors
        info = next(iter(tensors.values()), None)
        shape = f"{shape_text(info.shape)} {info.dtype}  " if info else ""
        others = [f"{key_text(key)} {summary(value, 40)}" for key, value in entry.values.items() if key not in tensors]
        words = f"{shape}{', '.join(tensors)}" + (f"  {', '.join(others)}" if others else "")
        rows.append(Fact(safe_text(entry.parameter, 500), safe_text(words, 400), safe_text(words, 1500)))
    return rows


def _is_container(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value)
    )


def flatten(mapping: Mapping[str, object] | dict[object, object]) -> list[Fact]:
    """Leaves of nested dicts as dotted keys, in order; bounded in number and depth, so a cycle ends."""
    rows: list[Fact] = []
    stack: list[tuple[str, Iterator[tuple[object, object]]]] = [("", iter(mapping.items()))]
    while stack and len(rows) < MAX_FLAT_ROWS:
        prefix, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        key, value = entry
        path = f"{prefix}.{key_text(key)}" if prefix else key_text(key)
        if isinstance(value, OpaqueObject) and isinstance(value.state, dict) and value.state:
            value = value.state  # a Namespace and its like
        if isinstance(value, dict) and value and len(stack) < MAX_FLAT_DEPTH:
            stack.append((path, iter(value.items())))
        else:
            rows.append(Fact(path, value_text(path, value, 120), value_text(path, value, 1500)))
    return rows


def value_text(key: str, value: object, limit: int) -> str:
    """A value for eyes; moments in time as such, where the name and the number both say it is one."""
    if isinstance(value, TensorRef):
        return summary(value)
    if key in ("saved_at", "timestamp") and isinstance(value, (int, float)):
        return when(value) or summary(value, limit)
    return summary(value, limit)


def when(ts: object) -> str:
    """`2026-11-21 02:11:40` in local time for a plausible Unix time, else an empty string."""
    if not isinstance(ts, (int, float)) or isinstance(ts, bool) or not 946_684_800 <= ts <= 4_102_444_800:
        return ""
    return datetime.fromtimestamp(ts).strftime("%Y-%m-%d %H:%M:%S")


def safety_words(checkpoint: Checkpoint) -> tuple[str, str]:
    """(words with their glyph, role) for whether it may be opened with a full unpickler."""
    if checkpoint.safety == "dangerous":
        return "✖ DANGEROUS to load", "error"
    if checkpoint.safety == "unknown":
        unknown = [ref.name for ref in checkpoint.globals if ref.verdict is Verdict.UNKNOWN]
        return f"? not safe to load: {plural(len(unknown), 'unknown name')}", "warning"
    return "✓ safe to open", "good"


def progress_words(checkpoint: Checkpoint) -> list[str]:
    """`step 8,250`, `epoch 4`, `train 1.481`, `val 1.467`: what is known of how far training was."""
    progress = checkpoint.progress
    words: list[str] = []
    step = progress.get("step")
    if isinstance(step, int) and not isinstance(step, bool):
        words.append(f"step {step:,}" if abs(step) < 10**15 else "step beyond 10^15")
    epoch = progress.get("epoch")
    if isinstance(epoch, (int, float)) and not isinstance(epoch, bool):
        words.append(f"epoch {summary(epoch, 12)}")
    for key, word in (("train_loss", "train"), ("val_loss", "val")):
        value = progress.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            words.append(f"{word} {metric(float(value))}" if abs(value) < 1e300 or value != value else f"{word} huge")
    return words
