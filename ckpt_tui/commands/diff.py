"""What differs between two checkpoints: settings with their effect on a resume, weights by value, other state.

exit codes: 0 the same, 1 different, 2 could not be compared
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.output import Cell, Column, CommandResult, ExitCode, Output, Style, table

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.diff import Diff
    from ckpt_tui.checkpoints.model import Checkpoint
    from ckpt_tui.checkpoints.tensor_changes import TensorChange

EXAMPLES = (
    "ckpt-tui diff rolling_step_000250.pt rolling_step_000500.pt",
    "ckpt-tui diff a.safetensors b.safetensors --no-values",
    "ckpt-tui diff a.pt b.pt --all --json",
)
_MAX_ROWS = 20
_MAX_PARTS = 6
_MAX_ROWS_ELSEWHERE = 3  # of the optimizer: all of it changes at every step
_EFFECT_ROLES = {"safe": "good", "unknown": "warn", "course": "warn", "exactness": "warn", "impossible": "bad"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="checkpoint")
    parser.add_argument("b", metavar="B", help="checkpoint to compare with it")
    parser.add_argument("--no-values", action="store_true", help="compare names, shapes and dtypes only")
    parser.add_argument("--all", action="store_true", help=f"show every difference, not only the {_MAX_ROWS} largest")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.checkpoints.diff import diff_checkpoints
    from ckpt_tui.checkpoints.registry import open_checkpoint

    a, b = open_checkpoint(args.a), open_checkpoint(args.b)
    total = None if args.no_values else a.size_bytes + b.size_bytes
    with out.progress("diff", total) as progress:
        diff = diff_checkpoints(a, b, with_values=not args.no_values, on_bytes=progress.advance)
    return CommandResult(
        data=_as_data(diff),
        view=lambda style: _lines(a, b, diff, style, show_all=args.all),
        exit_code=ExitCode.OK if diff.is_same else ExitCode.DIFFERENT,
    )


def _as_data(diff: Diff) -> dict[str, object]:
    return {
        "a": diff.path_a,
        "b": diff.path_b,
        "same": diff.is_same,
        "with_values": diff.with_values,
        "hyperparameters": [
            {
                "key": c.key,
                "change": c.change,
                "a": _plain(c.a),
                "b": _plain(c.b),
                "effect": c.effect.value,
                "words": c.effect.words,
            }
            for c in diff.hyperparameters
        ],
        "tensors": [_tensor_data(change) for change in diff.tensors],
        "other": [{"path": c.path, "change": c.change, "a": c.a, "b": c.b} for c in diff.other],
        "num_other": diff.num_other,
        "bytes_read": diff.bytes_read,
        "seconds": diff.seconds,
    }


def _plain(value: object) -> object:
    """Python refuses to spell integers of thousands of digits."""
    from ckpt_tui.checkpoints.hparams import key_text

    return key_text(value) if isinstance(value, int) and value.bit_length() > 256 else value


def _tensor_data(change: TensorChange) -> dict[str, object]:
    return {
        "name": change.name,
        "change": change.change,
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


def _lines(a: Checkpoint, b: Checkpoint, diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    from ckpt_tui.checkpoints.resumable import step_of

    for label, checkpoint in (("a", a), ("b", b)):
        step = step_of(checkpoint)
        facts = text.size(checkpoint.size_bytes)
        if step is not None:
            facts += f", step {step:,}"
        yield f"{style.paint(label, 'bold')}  {text.safe_text(checkpoint.path, 1000)}  {style.paint(facts, 'dim')}"
    if diff.is_same:
        num_unknown = sum(tensor.change == "unknown" for tensor in diff.tensors)
        mark = style.paint(style.glyph("✓", "ok"), "good")
        compared = text.plural(len(diff.tensors) - num_unknown, "tensor")
        yield f"{mark} no difference: settings, {compared}, other state"
        if num_unknown:
            yield f"  the values of {text.plural(num_unknown, 'tensor')} were not compared"
        return
    yield from _setting_lines(diff, style)
    yield from _tensor_lines(diff, style, show_all)
    yield from _other_lines(diff, style, show_all)


def _setting_lines(diff: Diff, style: Style) -> Iterator[str]:
    if not diff.hyperparameters:
        yield style.paint("settings: the same", "dim")
        return
    yield f"settings: {text.plural(len(diff.hyperparameters), 'difference')}, and what each does to a resume"
    columns = [Column("setting"), Column("a", shrink=True), Column("b", shrink=True), Column("a resume with it")]
    rows: list[list[Cell]] = [
        [
            text.safe_text(change.key, 60),
            "(not there)" if change.change == "added" else text.safe_text(_plain(change.a), 60),
            "(not there)" if change.change == "removed" else text.safe_text(_plain(change.b), 60),
            (change.effect.words, _EFFECT_ROLES[change.effect.value]),
        ]
        for change in diff.hyperparameters
    ]
    yield from table(columns, rows, style, indent="  ")


def _tensor_lines(diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    from ckpt_tui.checkpoints.facts import MODEL_KEYS

    counts = Counter(change.change for change in diff.tensors)
    words = {"removed": "only in a", "added": "only in b", "shape": "of other shape", "dtype": "of other dtype",
             "value": "changed", "unknown": "not compared", "same": "the same"}  # fmt: skip
    yield "tensors: " + (", ".join(f"{counts[k]:,} {word}" for k, word in words.items() if counts[k]) or "none")
    # Optimizer moments always change more than weights: each part of the state has a table of its own.
    parts: dict[str, list[TensorChange]] = {}
    for change in diff.changed_tensors:
        parts.setdefault(change.name.partition(".")[0], []).append(change)
    columns = [
        Column("tensor", shrink=True, keep="end"), Column("change"), Column("relative L2", "right"),
        Column("max abs", "right"), Column("cosine", "right"), Column(""),
    ]  # fmt: skip
    if len(parts) > _MAX_PARTS:
        parts = {"": list(diff.changed_tensors)}  # bare weights: the first word of a name is no part of the state
    for part, changes in parts.items():  # weights first, as the comparison sorts them
        is_main = part in MODEL_KEYS or len(parts) == 1
        shown = changes if show_all else changes[: _MAX_ROWS if is_main else _MAX_ROWS_ELSEWHERE]
        yield from table(columns, [_tensor_row(change) for change in shown], style, indent="  ")
        if len(changes) > len(shown):
            of_part = f" of {text.safe_text(part, 40)}" if part else ""
            yield style.paint(f"  and {len(changes) - len(shown):,} more{of_part} that changed less: --all", "dim")


def _tensor_row(change: TensorChange) -> list[Cell]:
    note = ""
    if change.change == "shape":
        note = f"{list(change.shape_a or ())} -> {list(change.shape_b or ())}"
    elif change.change == "dtype":
        note = f"{change.dtype_a} -> {change.dtype_b}"
    elif change.num_nonfinite:
        note = f"{change.num_nonfinite:,} NaN or Inf"
    elif change.reason:
        note = change.reason
    return [
        text.safe_text(change.name, 120),
        change.change,
        _figure(change.relative_l2),
        _figure(change.max_abs),
        "-" if change.cosine is None else f"{change.cosine:.6f}",
        (text.safe_text(note, 60), "dim"),
    ]


def _value_pair(a: object, b: object) -> tuple[str, str]:
    """Two values as short as tells them apart."""
    if isinstance(a, float) and isinstance(b, float) and f"{a:.6g}" != f"{b:.6g}":
        return f"{a:.6g}", f"{b:.6g}"
    return text.safe_text(a, 60), text.safe_text(b, 60)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _other_lines(diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    if not diff.num_other:
        yield style.paint("other state: the same", "dim")
        return
    yield f"other state: {text.plural(diff.num_other, 'difference')}"
    shown = diff.other if show_all else diff.other[:_MAX_ROWS]
    columns = [Column("value", shrink=True, keep="end"), Column("a", shrink=True), Column("b", shrink=True)]
    rows: list[list[Cell]] = []
    for change in shown:
        a, b = _value_pair(change.a, change.b)
        absent = "(not there)"
        rows.append(
            [
                text.safe_text(change.path, 120),
                absent if change.change == "added" else a,
                absent if change.change == "removed" else b,
            ]
        )
    yield from table(columns, rows, style, indent="  ")
    if diff.num_other > len(shown):
        rest = diff.num_other - len(shown)
        yield style.paint(f"  and {rest:,} more" + ("" if show_all else ": --all"), "dim")
