"""`--list_checkpoints`: the checkpoints of a run by kind, from its registry; loads no torch where that is right."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ckpt_tui import text
from trainer.checkpoint.formats import format_of
from trainer.checkpoint.names import KINDS, pinned_in
from trainer.checkpoint.quarantine import FOLDER_NAME, num_quarantined
from trainer.checkpoint.registry import Registry

SCHEMA = "ckpt-tui/trainer-checkpoints/1"
# Of each row: name, step, epoch, train loss, val loss, size, age, notes. What a narrow terminal can do without.
_RIGHT = (False, True, True, True, True, True, True, False)
_KEEP = ("end", *["start"] * 7)
_DISPENSABLE = (2, 3, 6)
_NOTES_WIDTH = 11
_HEADINGS = ("", "step", "epoch", "train", "val", "size", "age", "")


def facts_of_checkpoints(registry: Registry) -> list[dict[str, Any]]:
    """By kind, then primary names before backups, newest first: what is told of each, for people and for scripts.

    abandoned: on a branch that a resume left. pinned: retention leaves it alone. shares: a name of the same bytes.
    """
    abandoned, pinned = registry.abandoned(), pinned_in(registry.directory)
    first_of: dict[Any, str] = {}
    rows = []
    for entry in sorted(registry.entries.values(), key=_order):
        name = entry["path"]
        form = format_of(os.path.join(registry.directory, name))
        first = first_of.setdefault(entry["inode"], name)
        rows.append({
            "path": name, "kind": entry["kind"], "is_backup": entry["is_backup"], "step": entry["step"],
            "epoch": entry["epoch"], "metrics": entry["metrics"], "bytes": entry["bytes"], "digest": entry["digest"],
            "saved_at": entry["time"] or entry["mtime"], "session": entry["session"],
            "format": form.name if form is not None else "", "is_best": entry["is_best"],
            "is_abandoned": name in abandoned, "is_pinned": name in pinned, "shares": first if first != name else None,
        })  # fmt: skip
    return rows


def _order(entry: Mapping[str, Any]) -> tuple[int, bool, int, str]:
    return KINDS.index(entry["kind"]), entry["is_backup"], -(entry["step"] or 0), entry["path"]


def total_bytes(registry: Registry) -> int:
    """What they take on the disk: bytes that several names share are there once."""
    return sum({entry["inode"]: entry["bytes"] for entry in registry.entries.values()}.values())


def as_json(registry: Registry) -> str:
    """In the envelope of the viewer's commands."""
    data = {
        "checkpoints": facts_of_checkpoints(registry), "total_bytes": total_bytes(registry),
        "num_quarantined": num_quarantined(registry.directory),
    }  # fmt: skip
    # In ASCII: a name that is not UTF-8 can be printed, too.
    return json.dumps({"schema": SCHEMA, "ok": True, "data": data, "errors": []})


def lines(registry: Registry, now: float, width: int | None) -> list[str]:
    """Aligned columns, one table for all kinds. width: of the terminal, None where nobody looks."""
    rows = facts_of_checkpoints(registry)
    cells = [_cells(row, now) for row in rows]
    columns = list(range(len(_HEADINGS)))
    widths = [max(map(text.cell_width, column)) for column in zip(_HEADINGS, *cells, strict=True)]

    def room() -> int:
        """For the notes, which are cut where they do not fit."""
        return (width or 1000) - 2 - sum(widths[one] + 2 for one in columns[:-1])

    for column in _DISPENSABLE:
        if room() < _NOTES_WIDTH:
            columns.remove(column)
    widths[0] = max(widths[0] + min(room() - _NOTES_WIDTH, 0), 12)
    widths[-1] = max(min(widths[-1], room()), 0)

    def line(row: Sequence[str]) -> str:
        fitted = [text.fit(row[one], widths[one], "right" if _RIGHT[one] else "left", _KEEP[one]) for one in columns]
        return ("  " + "  ".join(fitted)).rstrip()

    told: list[str] = []
    for kind in KINDS:
        of_kind = [row for row, facts in zip(cells, rows, strict=True) if facts["kind"] == kind]
        if of_kind:
            heading = line(_HEADINGS) if not told else ""
            told.append(kind + heading[len(kind) :])
            told += map(line, of_kind)
    told.append(f"{text.plural(len(rows), 'checkpoint')}, {text.size(total_bytes(registry))} on the disk")
    if quarantined := num_quarantined(registry.directory):
        told.append(f"{quarantined} in {FOLDER_NAME}/: found bad by a resume, kept")
    return told


def _cells(row: Mapping[str, Any], now: float) -> tuple[str, ...]:
    metrics = row["metrics"]
    notes = [
        word
        for word, holds in (
            ("unreadable", row["step"] is None), ("backup", row["is_backup"]),
            ("best", row["is_best"] and row["kind"] != "best"),
            ("abandoned", row["is_abandoned"]), ("pinned", row["is_pinned"]),
            (row["format"], row["format"] not in ("file", "")),
        )
        if holds
    ]  # fmt: skip
    if row["shares"] is not None:
        notes.append(f"= {text.safe_text(row['shares'])}")
    return (
        text.safe_text(row["path"]),
        "-" if row["step"] is None else f"{row['step']:,}",
        str(row["epoch"]) if row["epoch"] is not None else "-",
        text.metric(_number(metrics.get("train_loss"))), text.metric(_number(metrics.get("val_loss"))),
        text.size(row["bytes"]), text.short_age(now - row["saved_at"]), ", ".join(notes),
    )  # fmt: skip


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def print_checkpoints(registry: Registry, *, is_json: bool) -> None:
    """To stdout, as wide as it is; a pipe gets whole lines, unless COLUMNS says how wide it is to be."""
    width = None
    with contextlib.suppress(ValueError):
        width = int(os.environ.get("COLUMNS", "")) or None
    if width is None and sys.stdout is not None and sys.stdout.isatty():
        with contextlib.suppress(OSError):
            width = os.get_terminal_size(sys.stdout.fileno()).columns
    told = [as_json(registry)] if is_json else lines(registry, time.time(), width)
    try:
        for line in told:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`: nothing more is wanted, not even by the interpreter's last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
