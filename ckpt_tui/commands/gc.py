"""Free the space of what restore, rollback and undo set aside, and of what crashes left behind: the one command that
deletes, and only when asked.

File by file: what has a valid copy that stays goes, and what is damaged; the only valid copy of a step stays, and what
would free nothing; a copy that the training's saves will replace or remove is no reason. With numbers of deeds: all
that these hold, whatever it is; with paths (set_aside/2/latest.pt): just these. The plan says of each file what it is
and why it goes or stays. `ckpt-tui undo DIR --list` shows the deeds.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.commands.confirm import add_confirm_arguments, confirm, sentence_lines
from ckpt_tui.errors import CkptError
from ckpt_tui.output import Cell, Column, CommandResult, ExitCode, Output, Style, table, terminal_width

if TYPE_CHECKING:
    from ckpt_tui.services.gc import GcFile, GcPlan
    from ckpt_tui.services.gc_words import GcRow

EXAMPLES = (
    "ckpt-tui gc runs/gpt --dry-run",
    "ckpt-tui gc runs/gpt --older-than 7d --keep 2",
    "ckpt-tui gc runs/gpt 3 4",
    "ckpt-tui gc runs/gpt set_aside/2/latest.pt",
    "ckpt-tui gc runs/gpt --quarantine --yes",
)

_NARROW = 60
_WHY_INDENT = "     "
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument(
        "deeds", metavar="N|PATH", nargs="*", default=[],
        help="number of a deed, or the path of one file that lies aside: to free, whatever it is",
    )  # fmt: skip
    parser.add_argument("--older-than", metavar="AGE", help="only what is older: 90m, 12h, 7d, 2w")
    parser.add_argument("--keep", metavar="N", type=int, default=0, help="keep the newest N deeds")
    parser.add_argument("--quarantine", action="store_true", help="also what the trainer moved to quarantine/")
    parser.add_argument("--all", action="store_true", help="also what nothing else here has a valid copy of")
    add_confirm_arguments(parser)
    parser.add_argument("--force", action="store_true", help="even the last valid checkpoint of the directory")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.gc import collect, plan_gc

    words = [_below(word, args.directory) for word in args.deeds]
    picked = [word.rstrip("/") for word in words if _is_path(word)]
    numbers = [_number(word, args.directory) for word in words if not _is_path(word)]
    older_than_s = _seconds(args.older_than) if args.older_than is not None else None
    if args.keep < 0:
        raise CkptError("Usage", "--keep takes a number of deeds", "For instance --keep 2.")
    if picked and numbers:
        raise CkptError("Usage", "numbers of deeds go without paths", "Name each file, or whole deeds.")
    if (numbers or picked) and (args.older_than is not None or args.keep or args.quarantine or args.all):
        raise CkptError(
            "Usage",
            "numbers of deeds and paths go without --older-than, --keep, --quarantine and --all",
            "Name the deeds, or say which ones by age and number.",
        )
    with out.progress("checking") as progress:
        plan = plan_gc(
            args.directory, numbers, older_than_s=older_than_s, keep=args.keep, quarantine=args.quarantine,
            every=args.all, picked=picked or None, on_bytes=progress.advance,
        )  # fmt: skip
    warnings = [*plan.warnings, *plan.refusals]
    data: dict[str, object] = {**_plan_data(plan), "done": False}
    if plan.is_empty or args.dry_run:
        return CommandResult(data=data, view=lambda style: _plan_lines(plan, style, is_dry_run=args.dry_run))
    if plan.refusals and not args.force:
        collect(plan)  # refuses, in its own words
    if not args.yes and not out.as_json and sys.stdin.isatty() and sys.stderr.isatty():
        for line in _item_lines(plan, Style(width=terminal_width(2), unicode=False)):
            out.note(line)
    if not confirm(f"Free {text.size(plan.freed_bytes)} now?", plan.sentences, warnings, yes=args.yes, out=out):
        return CommandResult(
            data=data, view=lambda style: ["Nothing was changed."], exit_code=ExitCode.DIFFERENT
        )  # fmt: skip
    done = collect(plan, force=args.force)
    return CommandResult(
        data={**data, "done": True, "num_freed": done.num_freed, "sentences": list(done.sentences)},
        view=lambda style: [
            style.paint(f"{style.glyph('✓', 'ok')} gc done", "good"),
            *sentence_lines(done.sentences, plan.warnings, style),
        ],
    )


def _below(word: str, directory: str) -> str:
    """What a shell completes, `runs/gpt/set_aside/2/latest.pt`, as a path below the run directory; others as they are.
    Of a link the link itself is meant."""
    folder, name = os.path.split(word.rstrip("/"))
    if not folder or not name or not os.path.lexists(os.path.join(folder, name)):
        return word
    place = os.path.relpath(os.path.join(os.path.realpath(folder), name), os.path.realpath(directory))
    return word if place.split("/")[0] in ("..", ".") else place


def _is_path(word: str) -> bool:
    """Whether it names one thing that lies aside, and not a deed: `set_aside/2/latest.pt`, `quarantine/a.pt`."""
    return word.startswith((".", "quarantine/")) or "/" in word.rstrip("/").removeprefix("set_aside/")


def _number(word: str, directory: str) -> int:
    digits = word.rstrip("/").removeprefix("set_aside/")
    if not digits.isdecimal() or len(digits) > 9:
        listing = f"ckpt-tui undo {text.run_word(directory)} --list"
        raise CkptError("Usage", f"{text.safe_text(word, 60)} is not the number of a deed", f"`{listing}` shows them.")
    return int(digits)


def _seconds(word: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([smhdw])", word.strip().lower())
    if match is None:
        raise CkptError(
            "Usage", f"--older-than {text.safe_text(word, 40)} is not an age", "A number and s, m, h, d or w: 12h, 7d."
        )
    return float(match[1]) * _SECONDS[match[2]]


def _plan_data(plan: GcPlan) -> dict[str, object]:
    return {
        "act": "gc",
        "directory": plan.directory,
        "items": [
            {
                "kind": item.kind, "name": item.name, "number": item.number, "act": item.act, "at": item.at,
                "bytes": item.size_bytes, "frees": item.freed_bytes, "chosen": item.is_chosen, "why": item.why,
                "paths": list(item.paths), "files": [_file_data(file) for file in item.files],
            }
            for item in plan.items
        ],
        "freed_bytes": plan.freed_bytes,
        "sentences": list(plan.sentences),
        "warnings": list(plan.warnings),
        "refusals": list(plan.refusals),
        "no_undo": list(plan.no_undo),
        "less_undo": [{"number": number, "without": list(names)} for number, names in plan.less_undo.items()],
    }  # fmt: skip


def _file_data(file: GcFile) -> dict[str, object]:
    return {
        "name": file.name, "path": file.place, "bytes": file.size_bytes, "is_directory": file.is_directory,
        "step": file.step, "validity": file.validity or None, "chosen": file.is_chosen, "why": file.why,
        "copy": file.copy or None, "only_copy": file.is_only, "passing_copy": file.passing or None,
    }  # fmt: skip


def _plan_lines(plan: GcPlan, style: Style, *, is_dry_run: bool) -> Iterator[str]:
    yield from _item_lines(plan, style)
    yield from sentence_lines(plan.sentences, [*plan.warnings, *plan.refusals], style)
    kept = [item.number for item in plan.items if any(file.is_only and not file.is_chosen for file in item.files)]
    if plan.is_empty and kept:
        command = f"`ckpt-tui gc {text.run_word(plan.directory)} {kept[0]}`"
        yield from sentence_lines([f"{command} frees a deed with all that it holds, only copies too."], (), style)
    if not plan.is_empty and is_dry_run:
        yield style.paint("Nothing was changed (--dry-run).", "dim")


def _item_lines(plan: GcPlan, style: Style) -> Iterator[str]:
    """A heading for each deed, and under it each of its files; the rest under one more."""
    from ckpt_tui.services.gc_words import NAME_CELLS, rows_of

    rows = rows_of(plan)
    is_narrow = style.width is not None and style.width < _NARROW
    columns = [Column(""), Column("", shrink=True, keep="end"), Column("", "right")]
    if not is_narrow:
        columns.insert(2, Column("", "right"))
    cells: list[list[Cell]] = []
    for row in rows:
        mark: Cell = (style.glyph("✖", "x"), "warn") if row.is_chosen else (style.glyph("·", "-"), "dim")
        is_long = style.width is not None and text.cell_width(row.name) > NAME_CELLS
        name = text.fit(row.name, NAME_CELLS, "left", "end") if is_long else row.name
        cells.append([mark, name, row.size] if is_narrow else [mark, name, row.step, row.size])
    heading = ""
    for row, line in zip(rows, table(columns, cells, style), strict=True):
        if row.heading != heading:
            heading = row.heading
            yield from sentence_lines([heading], (), style)
        if row.name:
            yield from _row_lines(row, line, style, is_narrow=is_narrow)


def _row_lines(row: GcRow, line: str, style: Style, *, is_narrow: bool) -> Iterator[str]:
    """Its cells, and why behind them; under them where the line has no room for all of it."""
    why = f"{row.step}, {row.why}" if is_narrow and row.step else row.why
    role = "plain" if row.is_chosen else "dim"
    told = text.cell_width(re.sub(r"\x1b\[[0-9;]*m", "", line)) + 2 + text.cell_width(why)
    if style.width is None or told <= style.width:
        yield f"{line}  {style.paint(why, role)}"
        return
    yield line
    beside = Style(max(style.width - len(_WHY_INDENT), 20), style.colour, style.unicode)
    yield from (f"{_WHY_INDENT}{style.paint(said, role)}" for said in sentence_lines([why], (), beside))
