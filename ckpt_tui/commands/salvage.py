"""Get back what can be got from a damaged or truncated checkpoint, into a new file.

For "failed finding central directory", a download or a save that was cut off, flipped bytes, holes, missing shards.
Every tensor that is whole goes into OUT, with the step, settings and other state; what is lost is named. A tensor
whose checksum differs is lost. OUT holds plain data only: it opens with torch.load(weights_only=True), or is
safetensors where the original was (or where OUT ends in .safetensors). A directory becomes one file: shards one dict
of tensors, other layouts a dict of their files. The original is never touched.

exit codes: 0 OUT was written, 1 it was not: nothing could be got back, or nothing is damaged, 2 not a checkpoint, or
no place to write
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.output import Cell, Column, CommandResult, ExitCode, Output, Style, table, wrapped

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.inert_state import Change
    from ckpt_tui.services.salvage import SalvagePlan

EXAMPLES = (
    "ckpt-tui salvage broken.pt -o saved.pt",
    "ckpt-tui salvage broken.pt -o saved.pt --dry-run",
    "ckpt-tui salvage model.safetensors -o saved.safetensors",
    "ckpt-tui salvage checkpoint-500 -o saved.pt --json",
    "ckpt-tui salvage latest.pt -o saved.pt --names-from latest_backup.pt",
)
_MAX_SHOWN = 12
_MAX_CHANGES_SHOWN = 4
# Nothing is left of what was a checkpoint: an answer, and not a question that could not be judged.
_NOTHING_LEFT = ("Damaged checkpoint", "Nothing to salvage", "Empty file", "Incomplete read")
_NOT_PARTS = ("settings", "progress")
_FORMATS = {"torch-zip": "torch zip", "safetensors": "safetensors"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="BROKEN", help="damaged checkpoint, a file or a directory")
    parser.add_argument("-o", "--out", metavar="OUT", required=True, help="new file; never one that is there already")
    parser.add_argument("--dry-run", action="store_true", help="say what can be got back, and write nothing")
    parser.add_argument(
        "--names-from",
        metavar="OTHER",
        help="when the names in BROKEN are lost: take names and shapes from this checkpoint of the same run",
    )
    parser.add_argument("--force", action="store_true", help="even when nothing is damaged: write it as plain data")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.salvage import ReadBackError

    try:
        plan, is_done = _salvage(args, out, trusts_checksums=not args.dry_run)
    except ReadBackError:  # more is damaged than what is missing: read all of it first
        plan, is_done = _salvage(args, out, trusts_checksums=False)
    except CkptError as error:
        if error.title not in _NOTHING_LEFT:
            raise
        data: dict[str, object] = {"path": args.path, "out": args.out, "done": False}
        return CommandResult(data, exit_code=ExitCode.DIFFERENT, errors=[_with_path(error, args.path)])
    is_good = plan.new_file is not None and (plan.is_damaged or args.force)
    return CommandResult(
        data=_as_data(plan, is_done),
        view=lambda style: _lines(plan, is_done, is_good, style),
        exit_code=ExitCode.OK if is_good else ExitCode.DIFFERENT,
    )


def _salvage(args: argparse.Namespace, out: Output, *, trusts_checksums: bool) -> tuple[SalvagePlan, bool]:
    """The plan, and whether it was carried out."""
    from ckpt_tui.services.salvage import carry_out, plan_salvage

    with out.progress("reading", _bytes_of(args.path)) as progress:
        plan = plan_salvage(
            args.path,
            args.out,
            names_from=args.names_from,
            trusts_checksums=trusts_checksums,
            on_bytes=progress.advance,
        )
    if plan.new_file is None or args.dry_run or not (plan.is_damaged or args.force):
        return plan, False
    # Each byte is read and written, and then read back.
    with out.progress("writing", 2 * plan.new_file.size_bytes) as progress:
        carry_out(plan, on_bytes=progress.advance)
    return plan, True


def _bytes_of(path: str) -> int | None:
    try:
        return None if Path(path).is_dir() else Path(path).stat().st_size
    except (OSError, ValueError):
        return None


def _with_path(error: CkptError, path: str) -> CkptError:
    shown = text.safe_text(path, 1000)
    message = error.message if shown in error.message else f"{shown}: {error.message}"
    return CkptError("Nothing to salvage", message, error.hint)


def _as_data(plan: SalvagePlan, is_done: bool) -> dict[str, object]:
    return {
        "path": plan.path,
        "out": plan.out,
        "done": is_done,
        "format": plan.format,
        "out_format": plan.out_format,
        "out_bytes": plan.new_file.size_bytes if plan.new_file is not None else None,
        "damaged": plan.is_damaged,
        "names_known": plan.has_names,
        "names_from_other": not plan.examined.has_own_names,
        "num_tensors": plan.num_tensors,
        "num_salvaged": plan.num_written,
        "bytes": plan.num_bytes,
        "bytes_salvaged": plan.bytes_written,
        "num_not_vouched": plan.num_unvouched,
        "progress": plan.progress,
        "parts": {part.role: {"salvaged": part.num_written, "tensors": part.num_tensors} for part in plan.parts},
        "lost": [
            {
                "name": tensor.name, "file": tensor.file,
                "shape": list(tensor.shape) if tensor.shape is not None else None,
                "dtype": tensor.dtype or None, "bytes": tensor.size_bytes, "reason": tensor.reason,
            }
            for tensor in plan.lost
        ],
        "changed": [{"place": change.place, "what": change.what} for change in plan.changed],
        "left_out": [{"place": change.place, "what": change.what} for change in plan.left_out],
        "findings": [
            {
                "code": finding.code, "severity": finding.severity.value, "where": finding.where,
                "message": finding.message, "hint": finding.hint,
            }
            for finding in plan.examined.checkpoint.findings
        ],
    }  # fmt: skip


# --- text for eyes


def _lines(plan: SalvagePlan, is_done: bool, is_good: bool, style: Style) -> Iterator[str]:
    path, out = text.safe_text(plan.path, 1000), text.safe_text(plan.out, 1000)
    backup = "Nothing was written. Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."
    if not plan.is_damaged and not is_good:
        yield style.paint(f"{style.glyph('✓', 'ok')} nothing is damaged in {path}", "good")
        dangerous = [ref.name for ref in plan.examined.checkpoint.globals if ref.verdict.value == "dangerous"]
        if dangerous:
            names = ", ".join(text.safe_text(name, 80) for name in dangerous[:3]) + (", ..." if dangerous[3:] else "")
            said = wrapped(f"But loading it can run code: its pickle names {names}.", style)
            yield from (style.paint(line, "bad") for line in said)
            yield "Nothing was written. --force writes it as plain data, without that."
            return
        yield "Nothing was written: copy it as it is. --force writes it again as plain data."
        return
    step = plan.progress.get("step")
    of_step = f"; step {text.safe_text(step, 40)}" if step is not None else ""
    figures = (
        f"{plan.num_written:,} of {text.plural(plan.num_tensors, 'tensor')}, {text.size(plan.bytes_written)} of "
        f"{text.size(plan.num_bytes)}{of_step}"
    )
    if not is_good:
        what = f": {figures}" if plan.num_tensors else ""
        yield style.paint(f"{style.glyph('✖', 'x')} nothing can be got back from {path}", "bad") + what
    else:
        word = "can be salvaged" if not is_done else "salvaged"
        yield style.paint(f"{style.glyph('✓', 'ok')} {word}", "good") + f"  {figures}"
    yield from _part_lines(plan, style)
    if not (is_good or plan.num_tensors or plan.has_names):
        yield from wrapped("No tensor of it is whole, and its data.pkl, which names them, is lost.", style)
        yield from wrapped(backup, style)
        return
    yield from _damage_lines(plan, style)
    if not plan.has_names:
        yield from wrapped(
            "Its data.pkl is lost, and with it names, shapes, dtypes, step and settings: what is left are the bytes of "
            "its storages, as uint8 tensors under the names of their records. Another checkpoint of the same run can "
            "tell what they are: --names-from OTHER.", style,
        )  # fmt: skip
    elif not plan.examined.has_own_names:
        yield from wrapped(
            "Its data.pkl is lost: names and shapes are those of the other checkpoint, whose storages have the same "
            "numbers and sizes. Step, settings and all other values are lost.", style,
        )  # fmt: skip
    yield from _lost_lines(plan, style)
    yield from _change_lines("Written in another form", plan.changed if is_good else [], style)
    yield from _change_lines("Left out", plan.left_out, style)
    if plan.num_unvouched:
        what = f"{text.plural(plan.num_unvouched, 'tensor')} had no checksum: nothing vouches for those bytes."
        yield style.paint(what, "warn")
    if not is_good:
        yield from wrapped(backup, style)
        return
    assert plan.new_file is not None
    kind = _FORMATS[plan.out_format]
    if not is_done:
        yield style.paint(
            f"Nothing was written (--dry-run); {out} would take {text.size(plan.new_file.size_bytes)}.", "dim"
        )
        return
    size = text.size(plan.new_file.size_bytes)
    yield from wrapped(f"Written to {out}: {kind}, {size}, read back and compared; safe to open.", style)
    yield from wrapped(_advice(plan), style)
    yield f"Check it: {style.paint(f'ckpt-tui validate {text.shell_word(plan.out)}', 'accent')}"


def _part_lines(plan: SalvagePlan, style: Style) -> Iterator[str]:
    words = [
        f"{part.role} whole" if part.is_whole else f"{part.role} {part.num_written:,} of {part.num_tensors:,}"
        for part in plan.parts
        if part.role not in _NOT_PARTS
    ]
    if words:
        yield from wrapped(", ".join(words), style)


def _damage_lines(plan: SalvagePlan, style: Style) -> Iterator[str]:
    """What was wrong, where no tensor that is lost says it."""
    errors = [finding for finding in plan.examined.checkpoint.findings if finding.severity.value == "error"]
    if plan.is_damaged and not plan.lost and errors:
        where, message = text.safe_text(errors[0].where, 200), text.safe_text(errors[0].message, 400)
        yield from wrapped(f"What was damaged: {where}: {message}", style)


def _lost_lines(plan: SalvagePlan, style: Style) -> Iterator[str]:
    if not plan.lost:
        return
    num_unknown = sum(tensor.size_bytes is None for tensor in plan.lost)
    sizes = [text.size(plan.num_bytes - plan.bytes_written)] if num_unknown < len(plan.lost) else []
    sizes += [f"{'' if not sizes else f'{num_unknown:,} '}of unknown size"] if num_unknown else []
    yield style.paint(f"lost: {text.plural(len(plan.lost), 'tensor')}, {' and '.join(sizes)}", "bad")
    columns = [
        Column("tensor", shrink=True, keep="end"), Column("shape"), Column("dtype"), Column("size", align="right"),
        Column("why", shrink=True),
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for tensor in plan.lost[:_MAX_SHOWN]:
        shape = " x ".join(str(extent) for extent in tensor.shape) if tensor.shape else ""
        rows.append(
            [
                text.safe_text(f"{tensor.file}: {tensor.name}" if tensor.file else tensor.name),
                (text.safe_text(shape, 40) or "scalar") if tensor.shape is not None else "?",
                text.safe_text(tensor.dtype, 20) or "?",
                text.size(tensor.size_bytes) if tensor.size_bytes is not None else "?",
                text.safe_text(tensor.reason),
            ]
        )
    yield from table(columns, rows, style, indent="  ")
    if len(plan.lost) > _MAX_SHOWN:
        yield style.paint(f"  and {len(plan.lost) - _MAX_SHOWN:,} more: --json names all", "dim")


def _change_lines(title: str, changes: list[Change], style: Style) -> Iterator[str]:
    if not changes:
        return
    shown = [
        f"{text.safe_text(change.place, 80)} ({text.safe_text(change.what, 120)})"
        for change in changes[:_MAX_CHANGES_SHOWN]
    ]
    more = f" and {len(changes) - _MAX_CHANGES_SHOWN:,} more" if len(changes) > _MAX_CHANGES_SHOWN else ""
    yield from wrapped(f"{title}: {'; '.join(shown)}{more}.", style)


def _advice(plan: SalvagePlan) -> str:
    """What can be done with what is left."""
    out = text.safe_text(plan.out, 1000)
    load = (
        f'safetensors.torch.load_file("{out}")'
        if plan.out_format == "safetensors"
        else f'torch.load("{out}", weights_only=True)'
    )
    if not plan.has_names:
        return f"{load} gives the bytes; the same model's code, or another checkpoint of the run, tells what they were."
    parts = {part.role: part for part in plan.parts}
    model, optimizer = parts.get("model"), parts.get("optimizer")
    if model is not None and not model.is_whole:
        return (
            f"{load} opens it. The model is not whole: take the lost tensors from another checkpoint, and load with "
            "strict=False."
        )
    if optimizer is not None and not optimizer.is_whole:
        return (
            f"{load} opens it. The model is whole; the optimizer is not, so start it anew, or take its state from an "
            "earlier checkpoint: the loss will be a little off for some hundred steps."
        )
    return f"{load} opens it."
