"""The checkpoints of a run directory by kind, which are good, and which one a resume takes.

Shows what validation found the last time, without reading the files again; --check looks now.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.output import Cell, Column, CommandResult, ExitCode, Output, Style, table, wrapped
from ckpt_tui.records import dataclass

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.services.catalog_entries import CatalogEntry

EXAMPLES = ("ckpt-tui list runs/gpt", "ckpt-tui list runs/gpt --check full", "ckpt-tui list runs/gpt --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument(
        "--check", choices=("structure", "full"), help="validate what is not remembered: its structure, or every level"
    )


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.services.catalog import read_catalog
    from ckpt_tui.services.names import KINDS

    with out.progress("checking") as progress:
        catalog = read_catalog(args.directory, check=args.check or "remembered", on_bytes=progress.advance)
    aside = _aside(catalog)
    by_kind = {kind: [_entry_data(entry) for entry in catalog.entries if entry.kind == kind] for kind in KINDS}
    data: dict[str, object] = {
        "directory": catalog.directory,
        "checkpoints": {kind: rows for kind, rows in by_kind.items() if rows},
        "total_bytes": catalog.total_bytes,
        "resume_would_take": catalog.resume_would_take,
        "num_quarantined": catalog.num_quarantined,
        "quarantine_bytes": aside.quarantine_bytes,
        "set_aside": {"deeds": aside.num_deeds, "bytes": aside.deed_bytes},
        "missing": {name: list(backups) for name, backups in (catalog.missing or {}).items()},
    }
    found_damage = args.check is not None and any(entry.is_bad for entry in catalog.entries)
    return CommandResult(
        data=data,
        view=lambda style: _lines(catalog, aside, style),
        exit_code=ExitCode.DIFFERENT if found_damage else ExitCode.OK,
    )


@dataclass(frozen=True, slots=True)
class _Aside:
    """What lies beside the checkpoints, kept: what deeds set aside, and what a resume found bad."""

    where: str
    num_deeds: int
    deed_bytes: int
    num_quarantined: int
    quarantine_bytes: int


def _aside(catalog: Catalog) -> _Aside:
    from ckpt_tui.services.deeds import read_history
    from ckpt_tui.services.quarantine import read_quarantine

    try:
        holding = [deed for deed in read_history(catalog.directory).deeds if deed.held]
    except CkptError:  # not for us to read: the list is
        holding = []
    return _Aside(
        text.run_word(catalog.directory), len(holding), sum(deed.size_bytes for deed in holding),
        catalog.num_quarantined, sum(one.size_bytes for one in read_quarantine(catalog.directory)),
    )  # fmt: skip


def _aside_lines(aside: _Aside, style: Style) -> Iterator[str]:
    if aside.num_quarantined:
        said = (
            f"{text.count(aside.num_quarantined)} in quarantine/, {text.size(aside.quarantine_bytes)}: found bad by a"
        )
        yield from _wrapped(f"{said} resume, kept; `ckpt-tui gc {aside.where} --dry-run` shows them.", "warn", style)
    if aside.num_deeds:
        said = f"{text.size(aside.deed_bytes)} set aside by {text.plural(aside.num_deeds, 'deed')}, for `undo`"
        yield from _wrapped(f"{said}; `ckpt-tui undo {aside.where} --list` shows them.", "dim", style)


def _wrapped(sentence: str, role: str, style: Style) -> list[str]:
    return [style.paint(line, role) for line in wrapped(sentence, style)]


def _entry_data(entry: CatalogEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "kind": entry.kind,
        "step": entry.step,
        "epoch": entry.epoch,
        "val_loss": entry.val_loss,
        "bytes": entry.size_bytes,
        "saved_at": entry.saved_at,
        "validity": entry.validity,
        "level": entry.level,
        "note": entry.note,
        "is_backup": entry.is_backup,
        "backup_of": entry.backup_of,
        "is_best": entry.is_best,
        "resume_takes": entry.resume_takes,
        "removed_next": entry.removed_next,
        "same_as": list(entry.same_as),
        "is_abandoned": entry.is_abandoned,
    }


def _lines(catalog: Catalog, aside: _Aside, style: Style) -> Iterator[str]:
    if not catalog.entries:
        yield f"No checkpoint in {text.safe_text(catalog.directory, 1000)}."
        yield from _aside_lines(aside, style)
        return
    now = time.time()
    # Where there is room, words; at 80 columns marks, and sentences below the table.
    is_wide = style.width is None or style.width >= 120
    columns = [
        Column(""), Column("name", shrink=True, keep="end"), Column("step", "right"), Column("val", "right", leaves=3),
        Column(""), Column("size", "right", leaves=1), Column("age", "right", leaves=2), Column("validity"),
        *([Column("")] if is_wide else []),
    ]  # fmt: skip
    yield from table(columns, [_row(entry, now, style, is_wide) for entry in catalog.entries], style)
    for entry in catalog.entries:
        if entry.is_bad and entry.note:
            yield style.paint(f"{text.safe_text(entry.name)}: {text.safe_text(entry.note, 300)}", "bad")
    for name, backups in (catalog.missing or {}).items():
        stand_ins = ", ".join(map(text.safe_text, backups))
        yield style.paint(f"{text.safe_text(name)} is missing; {stand_ins} could stand in.", "warn")
    going: dict[str, list[str]] = {}
    for entry in catalog.entries:
        if entry.removed_next:
            going.setdefault(entry.kind, []).append(text.safe_text(entry.name))
    for kind, removed in going.items():
        yield f"The next {kind} checkpoint removes {', '.join(removed)}."
    left = [text.safe_text(entry.name) for entry in catalog.entries if entry.is_abandoned]
    if left:
        some = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
        yield f"Left behind by a resume from an earlier step, and not taken by an automatic one: {some}."
    yield from _aside_lines(aside, style)
    count = text.plural(len(catalog.entries), "checkpoint")
    takes = f"; a resume takes {text.safe_text(catalog.resume_would_take)}" if catalog.resume_would_take else ""
    yield style.paint(f"{count}, {text.size(catalog.total_bytes)}{takes}.", "dim")


def _row(entry: CatalogEntry, now: float, style: Style, is_wide: bool) -> list[Cell]:
    if entry.is_bad:
        validity: Cell = (f"{style.glyph('✖', 'x')} {entry.validity}", "bad")
    elif entry.validity == "valid":
        # Only what was passed at every level is called valid; else the level that holds is said, as in the watch.
        is_whole = entry.level in (None, "numbers", "resume")
        validity = (f"{style.glyph('✓', 'ok')} {entry.validity if is_whole else entry.level}", "good")
    else:
        validity = (f"{style.glyph('·', '-')} {entry.validity}", "dim")
    remarks = [
        word
        for word, holds in (
            ("resume takes it", entry.resume_takes),
            ("best", entry.is_best),
            (f"backup of {text.safe_text(entry.backup_of)}", entry.backup_of is not None),
            ("removed next", entry.removed_next),
            ("abandoned", entry.is_abandoned),
        )
        if holds
    ]
    return [
        (style.glyph("▶", ">") if entry.resume_takes else "", "accent"),
        text.safe_text(entry.name),
        f"{entry.step:,}" if entry.step is not None else "-",
        text.metric(entry.val_loss),
        (style.glyph("★", "*") if entry.is_best else "", "accent"),
        text.size(entry.size_bytes),
        text.short_age(now - entry.saved_at if entry.saved_at is not None else None),
        validity,
        *([(", ".join(remarks), "dim")] if is_wide else []),
    ]
