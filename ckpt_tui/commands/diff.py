"""What differs between two checkpoints: settings with their effect on a resume, weights by value, other state.

The two may be of any formats: names are matched whatever file, shard or wrapper (module., _orig_mod., model.) they
are in. B may also be a file of settings (JSON, YAML, TOML) of a run that is still to start, or --set gives them: then
only the settings are compared, each with what it does to a resume.

exit codes: 0 the same, 1 different, 2 could not be compared
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.commands.diff_json import diff_data, plain, settings_data
from ckpt_tui.errors import CkptError
from ckpt_tui.output import Cell, Column, CommandResult, ExitCode, Output, Style, table, wrapped

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.diff import Diff, PartChange
    from ckpt_tui.checkpoints.hparams import HparamChange
    from ckpt_tui.checkpoints.model import Checkpoint
    from ckpt_tui.checkpoints.tensor_changes import TensorChange

EXAMPLES = (
    "ckpt-tui diff rolling_step_000250.pt rolling_step_000500.pt",
    "ckpt-tui diff latest.pt best_model.safetensors",
    "ckpt-tui diff checkpoint-500/ checkpoint-1000/ --no-values",
    "ckpt-tui diff latest.pt new_config.json",
    "ckpt-tui diff latest.pt --set lr=1e-4 --set batch_size=64",
    "ckpt-tui diff a.pt b.pt --all --json",
    "ckpt-tui diff a.pt b.pt --screen",
)
_MAX_ROWS = 20
_MAX_PARTS = 6
_MAX_ROWS_ELSEWHERE = 3  # of the optimizer: all of it changes at every step
_MAX_MODULES = 8
_EFFECT_ROLES = {"safe": "good", "unknown": "warn", "course": "warn", "exactness": "warn", "impossible": "bad"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="checkpoint")
    parser.add_argument("b", metavar="B", nargs="?", help="checkpoint to compare with it, or settings of a new run")
    parser.add_argument("--set", dest="settings", metavar="KEY=VALUE", action="append", default=[],
                        help="a setting of the new run; the others stay as they were")  # fmt: skip
    parser.add_argument("--screen", action="store_true", help="look at it on a screen: most changed first, by module")
    parser.add_argument("--no-values", action="store_true", help="compare names, shapes and dtypes only")
    parser.add_argument("--all", action="store_true", help=f"show every difference, not only the {_MAX_ROWS} largest")


def run(args: argparse.Namespace, out: Output) -> CommandResult | int:
    if args.screen:
        return _on_screen(args)
    if args.settings or (args.b is not None and _is_settings(args.b)):
        return _compare_settings(args)
    if args.b is None:
        raise CkptError(
            "Usage", "the following arguments are required: B", "Name a second checkpoint, or give --set KEY=VALUE."
        )
    from ckpt_tui.checkpoints.diff import diff_checkpoints
    from ckpt_tui.checkpoints.registry import open_checkpoint

    try:
        a, b = open_checkpoint(args.a), open_checkpoint(args.b)
    except CkptError as error:
        raise _of_runs(args.a, args.b) or error from None
    total = None if args.no_values else a.size_bytes + b.size_bytes
    with out.progress("diff", total) as progress:
        diff = diff_checkpoints(a, b, with_values=not args.no_values, on_bytes=progress.advance)
    return CommandResult(
        data=diff_data(diff),
        view=lambda style: _lines(a, b, diff, style, show_all=args.all),
        exit_code=ExitCode.OK if diff.is_same else ExitCode.DIFFERENT,
    )


def _of_runs(a: str, b: str) -> CkptError | None:
    """What to do instead, where both are runs."""
    from ckpt_tui.sources.registry import is_run

    if not (is_run(a) and is_run(b)):
        return None
    hint = f"Compare the runs: ckpt-tui compare {text.shell_word(a)} {text.shell_word(b)}"
    return CkptError("Runs, not checkpoints", f"{text.safe_text(a, 200)} and {text.safe_text(b, 200)}", hint)


def _on_screen(args: argparse.Namespace) -> int:
    """The same on a screen: most changed first, by module, with a filter."""
    from ckpt_tui.commands.on_screen import check_before, run_app

    if args.json or args.settings or args.no_values or args.all or args.b is None:
        raise CkptError("Usage", "--screen takes two checkpoints, and none of --json, --set, --no-values, --all")
    settings = check_before([args.a, args.b])
    from ckpt_tui.tui.diff_app import DiffApp

    return run_app(DiffApp(args.a, args.b, settings=settings))


def _is_settings(path: str) -> bool:
    from ckpt_tui.services.new_settings import is_settings_file

    return is_settings_file(path)


def _compare_settings(args: argparse.Namespace) -> CommandResult:
    """A checkpoint and the settings of a run that is still to start."""
    from ckpt_tui.checkpoints.registry import open_checkpoint
    from ckpt_tui.services.new_settings import read_settings, settings_changes

    if args.b is not None and not _is_settings(args.b):
        open_checkpoint(args.b)  # says it first when there is nothing at all
        raise CkptError(
            "Usage", "--set changes settings of A: with it, B can only be a file of settings", "Leave out B."
        )
    checkpoint = open_checkpoint(args.a)
    changes = settings_changes(checkpoint, None if args.b is None else read_settings(args.b), args.settings)
    other = " ".join(([args.b] if args.b else []) + [f"--set {setting}" for setting in args.settings])
    return CommandResult(
        data=settings_data(args.a, other, changes),
        view=lambda style: _settings_view(checkpoint, other, changes, style),
        exit_code=ExitCode.DIFFERENT if changes else ExitCode.OK,
    )


def _settings_view(checkpoint: Checkpoint, other: str, changes: list[HparamChange], style: Style) -> Iterator[str]:
    yield _side_line("a", checkpoint, style)
    yield f"{style.paint('b', 'bold')}  {text.safe_text(other, 1000)}  {style.paint('settings of a new run', 'dim')}"
    if not changes:
        mark = style.paint(style.glyph("✓", "ok"), "good")
        yield f"{mark} no difference: these are the settings that it was trained with"
        return
    yield from _setting_lines(changes, style)
    for effect in dict.fromkeys(change.effect for change in changes):
        yield from (f"  {words}" for words in wrapped(f"{effect.words}: {effect.explanation}", style, indent=2))


def _side_line(label: str, checkpoint: Checkpoint, style: Style) -> str:
    from ckpt_tui.checkpoints.resumable import step_of

    step = step_of(checkpoint)
    facts = text.size(checkpoint.size_bytes)
    if step is not None:
        facts += f", step {step:,}"
    return f"{style.paint(label, 'bold')}  {text.safe_text(checkpoint.path, 1000)}  {style.paint(facts, 'dim')}"


def _lines(a: Checkpoint, b: Checkpoint, diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    yield _side_line("a", a, style)
    yield _side_line("b", b, style)
    yield from _name_lines(diff, style)
    if diff.is_same:
        num_unknown = sum(tensor.change == "unknown" for tensor in diff.tensors)
        mark = style.paint(style.glyph("✓", "ok"), "good")
        compared = text.plural(len(diff.tensors) - num_unknown, "tensor")
        yield f"{mark} no difference: settings, {compared}, other state"
        if num_unknown:
            yield f"  the values of {text.plural(num_unknown, 'tensor')} were not compared"
        return
    if diff.hyperparameters and bool(a.hyperparameters) != bool(b.hyperparameters) and not show_all:
        side = "a" if a.hyperparameters else "b"
        yield f"settings: only in {side}, {text.plural(len(diff.hyperparameters), 'setting')}: --all"
    else:
        yield from _setting_lines(list(diff.hyperparameters), style)
    yield from _part_lines(diff, style)
    yield from _tensor_lines(diff, style, show_all)
    yield from _module_lines(diff, style, show_all)
    yield from _other_lines(diff, style, show_all)


def _name_lines(diff: Diff, style: Style) -> Iterator[str]:
    """What was taken off names, so that those of both sides agree."""
    for side, prefix in (("a", diff.prefix_a), ("b", diff.prefix_b)):
        if prefix:
            yield style.paint(f"names: `{text.safe_text(prefix, 80)}` taken off those of {side}", "dim")
    if diff.is_unwrapped:
        yield style.paint("names: words of wrappers inside them (_orig_mod and the like) left out", "dim")


def _part_lines(diff: Diff, style: Style) -> Iterator[str]:
    """What only one side has at all: one line a side, not one a tensor."""
    for side in ("a", "b"):
        parts = [part for part in diff.parts if part.side == side]
        if parts:
            yield from wrapped(f"only in {side}: " + "; ".join(_part_words(part) for part in parts), style)


def _part_words(part: PartChange) -> str:
    if part.num_tensors:
        return f"{part.part} ({text.plural(part.num_tensors, 'tensor')}, {text.size(part.size_bytes)})"
    if not part.names:
        return part.part
    names = ", ".join(text.safe_text(name, 40) for name in part.names[:6]) + (", ..." if len(part.names) > 6 else "")
    return f"{'other state' if part.part == 'other' else part.part} ({names})"


def _setting_lines(changes: list[HparamChange], style: Style) -> Iterator[str]:
    if not changes:
        yield style.paint("settings: the same", "dim")
        return
    yield f"settings: {text.plural(len(changes), 'difference')}, and what each does to a resume"
    columns = [
        Column("setting", shrink=True, keep="end"), Column("a", shrink=True), Column("b", shrink=True),
        Column("a resume with it"),
    ]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            text.safe_text(change.key, 60),
            "(not there)" if change.change == "added" else text.safe_text(plain(change.a), 60),
            "(not there)" if change.change == "removed" else text.safe_text(plain(change.b), 60),
            (change.effect.words, _EFFECT_ROLES[change.effect.value]),
        ]
        for change in changes
    ]
    yield from table(columns, rows, style, indent="  ")


def _tensor_lines(diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    counts = Counter(change.change for change in diff.tensors if not change.is_in_absent_part)
    words = {"removed": "only in a", "added": "only in b", "shape": "of other shape", "dtype": "of other dtype",
             "value": "changed", "unknown": "not compared", "same": "the same"}  # fmt: skip
    yield "tensors: " + (", ".join(f"{counts[k]:,} {word}" for k, word in words.items() if counts[k]) or "none")
    # Optimizer moments always change more than weights: each part of the state has a table of its own.
    parts: dict[str, list[TensorChange]] = {}
    for change in diff.changed_tensors:
        parts.setdefault(change.part or change.name.partition(".")[0], []).append(change)
    columns = [
        Column("tensor", shrink=True, keep="end"), Column("change"), Column("relative L2", "right"),
        Column("max abs", "right"), Column("cosine", "right"), Column(""),
    ]  # fmt: skip
    if len(parts) > _MAX_PARTS:
        parts = {"": list(diff.changed_tensors)}  # bare weights: the first word of a name is no part of the state
    for part, changes in parts.items():  # weights first, as the comparison sorts them
        is_main = part == "model" or len(parts) == 1
        shown = changes if show_all else changes[: _MAX_ROWS if is_main else _MAX_ROWS_ELSEWHERE]
        yield from table(columns, [_tensor_row(change) for change in shown], style, indent="  ")
        if len(changes) > len(shown):
            of_part = f" of {text.safe_text(part, 40)}" if part else ""
            less = " that changed less" if all(change.change == "value" for change in changes[len(shown) :]) else ""
            yield style.paint(f"  and {len(changes) - len(shown):,} more{of_part}{less}: --all", "dim")


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
    name = change.name
    if change.parameter:  # the number that it has in the optimizer says nothing
        name = f"{change.parameter}: {change.name.rpartition('.')[2]}"
    return [
        text.safe_text(name, 120),
        change.change,
        _figure(change.relative_l2),
        _figure(change.max_abs),
        "-" if change.cosine is None else f"{change.cosine:.6f}",
        (text.safe_text(note, 60), "dim"),
    ]


def _module_lines(diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    """The modules of the model at the depth where it parts into several, most changed first."""
    from ckpt_tui.checkpoints.module_changes import at_depth, shown_depth

    depth = shown_depth(diff.modules, _MAX_MODULES)
    modules = at_depth(diff.modules, depth)
    changed = [module for module in modules if module.num_changed]
    if not diff.with_values or len(modules) < 2 or not changed:
        return
    whole = next((module for module in diff.modules if not module.name), None)
    of_whole = "" if whole is None or whole.relative_l2 is None else f"; the whole model {_figure(whole.relative_l2)}"
    yield f"modules: {len(changed):,} of {len(modules):,} changed, by relative L2{of_whole}"
    columns = [
        Column("module", shrink=True, keep="end"), Column("tensors", "right"), Column("relative L2", "right"),
        Column("max abs", "right"),
    ]  # fmt: skip
    shown = changed if show_all else changed[:_MAX_MODULES]
    rows: list[list[Cell]] = [
        [
            text.safe_text(module.name, 120),
            f"{module.num_changed:,} of {module.num_tensors:,}",
            _figure(module.relative_l2),
            _figure(module.max_abs),
        ]
        for module in shown
    ]
    yield from table(columns, rows, style, indent="  ")
    if len(changed) > len(shown):
        yield style.paint(f"  and {len(changed) - len(shown):,} more that changed less: --all", "dim")


def _value_pair(a: object, b: object) -> tuple[str, str]:
    """Two values as short as tells them apart."""
    if isinstance(a, float) and isinstance(b, float) and f"{a:.6g}" != f"{b:.6g}":
        return f"{a:.6g}", f"{b:.6g}"
    return text.safe_text(a, 60), text.safe_text(b, 60)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _other_lines(diff: Diff, style: Style, show_all: bool) -> Iterator[str]:
    if not diff.num_other:
        if not any(part.part == "other" for part in diff.parts):  # it has been said who has it
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
