"""The checkpoints: what the directory holds where it was read, else what the log tells of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.text import cell_width, count, metric, plural, short_age, short_count, size
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.services.catalog_entries import CatalogEntry

KIND, STEP, EPOCH, LOSS, SIZE, AGE, VALIDITY, NOTE, NAME = range(9)
STEP_WIDTH, MAX_STEP_WIDTH = 7, 13
KIND_GLYPHS = {"emergency": "⚑", "best": "★", "epoch": "◆"}
IN_THE_LOG = "in the log"
_PLAIN = str.maketrans({
    "●": "o", "⚑": "^", "★": "*", "☆": "-", "◆": "#", "✓": "+", "✖": "X", "▲": "!", "↻": ">", "·": ".",
})  # fmt: skip
# In order of what a person wants to know first: (long, short).
RESUME = ("resume takes it", "resume")
REMOVED_NEXT = ("removed next", "goes next")
ABANDONED = ("abandoned", "abandoned")

Note = tuple[str, str]


def columns(step_width: int = STEP_WIDTH) -> tuple[Column, ...]:
    """The columns; the step takes what its longest needs, so that steps of millions are still told in full."""
    return (
        Column("kind", 11),
        Column("step", step_width, align="right"),
        Column("epoch", 6, align="right", priority=5),
        Column("val loss", 7, align="right", priority=2),
        Column("size", 8, align="right", priority=4),
        Column("age", 4, align="right", priority=3),
        Column("validity", 12),
        Column("", 9, grows=True, priority=1),
        Column("file", 30, keep="end", priority=6),
    )


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One line of the list; compares by what is shown, so that only lines that change are sent.

    notes: what else there is to know, each long and short, what matters most first.
    """

    name: str
    kind: str
    step: int | None
    val_loss: float | None
    size_bytes: int
    saved_at: float | None
    validity: str
    level: str | None = None
    notes: tuple[Note, ...] = ()
    epoch: float | None = None
    is_best: bool = False
    is_marked: bool = False

    @property
    def note(self) -> str:
        """All there is to say besides, in full."""
        return ", ".join(long for long, _ in self.notes)

    @property
    def is_bad(self) -> bool:
        return self.validity not in ("valid", "unchecked", "incomplete", IN_THE_LOG)


def rows_of(
    state: RunState, catalog: Catalog | None, marked: str | None = None, *, log_after: float | None = None
) -> list[CheckpointRow]:
    """Newest first. The catalog knows the files; a save after `log_after` (all, where there is no catalog), which it
    cannot have seen, is added from the log."""
    known: set[str] = set()
    rows: list[tuple[float, CheckpointRow]] = []
    for entry in catalog.entries if catalog is not None else ():
        known.add(entry.name)
        rows.append((entry.saved_at or 0.0, _from_entry(entry, marked)))
    if catalog is None or log_after is None:
        log_after = math.inf if catalog is not None else -math.inf
    for save in state.saves:
        if save.removed or save.path in known or save.ts <= log_after:
            continue
        kind = save.kind or "other"
        row = CheckpointRow(
            save.path, kind, save.step, save.val_loss, save.size_bytes, save.ts, IN_THE_LOG,
            notes=((save.path, save.path),) if kind == "other" else (), is_marked=save.path == marked,
        )  # fmt: skip
        rows.append((save.ts, row))
    # What was saved together stands together: under several names, and its backups, which are as old as it is.
    newest: dict[tuple[int | None, bool], float] = {}
    for ts, row in rows:
        if not row.is_bad:  # of a damaged one nobody knows when it was saved
            group = _group(row)
            newest[group] = max(ts, newest.get(group, ts))
    rows.sort(key=lambda item: (
        -round(newest.get(_group(item[1]), item[0])), -(item[1].step or 0), RESUME not in item[1].notes,
        "backup" in item[1].name or "previous" in item[1].name, item[1].name,
    ))  # fmt: skip
    return [row for _, row in rows]


def _group(row: CheckpointRow) -> tuple[int | None, bool]:
    return row.step, ABANDONED in row.notes


def _from_entry(entry: CatalogEntry, marked: str | None) -> CheckpointRow:
    notes: list[Note] = []
    if entry.resume_takes:
        notes.append(RESUME)
    if entry.note:
        from ckpt_tui.tui.news import cause_of

        notes.append((cause_of(entry.note), cause_of(entry.note)))
    if entry.removed_next:
        notes.append(REMOVED_NEXT)
    if entry.is_abandoned:
        notes.append(ABANDONED)
    if entry.is_backup or entry.backup_of:
        is_previous = "previous" in entry.name
        short = "previous" if is_previous else "backup"
        of = f"{'before' if is_previous else 'backup of'} {entry.backup_of}" if entry.backup_of else short
        notes.append((of, short))  # its kind and its step say of what
    if entry.kind == "other":
        notes.append((entry.name, entry.name))  # others have names of their own: that is what tells them apart
    return CheckpointRow(
        entry.name, entry.kind, entry.step, entry.val_loss, entry.size_bytes, entry.saved_at,
        entry.validity, entry.level, tuple(notes), entry.epoch, entry.is_best and not entry.is_abandoned,
        entry.name == marked,
    )  # fmt: skip


def age_words(saved_at: float | None, now: float) -> str:
    """In minutes at the finest: an age that counts seconds in every line would be sent every second."""
    if saved_at is None:
        return "-"
    age_s = now - saved_at
    return "<1 m" if age_s < 60 else short_age(age_s)


def cells_of(row: CheckpointRow, now: float, note_width: int = 1000) -> tuple[Cell, ...]:
    """note_width: cells for the note; without any the glyph says what a resume takes."""
    takes = RESUME in row.notes
    glyph = KIND_GLYPHS.get(row.kind, "●")
    if row.kind == "best" and (ABANDONED in row.notes or "previous" in row.name):
        glyph = "☆"  # no longer
    mark = "+" if row.is_marked else "↻" if takes and not note_width else glyph
    validity: Cell
    if row.validity in ("unchecked", IN_THE_LOG):
        validity = (f"- {row.validity}", "dim")
    elif row.validity == "valid":
        # Only what was passed at every level is called valid; else the level that holds is said.
        words = "✓ valid" if row.level in (None, "resume", "numbers") else f"✓ {row.level}"
        validity = (words, "good")
    else:
        from ckpt_tui.tui.judgement import verdict_words  # brings the checkpoint model: not for the first picture

        validity = verdict_words(row.validity)
    note = note_of(row.notes, note_width)
    return (
        (f"{mark} {row.kind}", "accent" if row.is_marked or takes else "strong" if glyph in "★⚑" else ""),
        count(row.step) if row.step is None or _step_width(row.step) <= MAX_STEP_WIDTH else short_count(row.step),
        (f"{row.epoch:.2f}" if row.epoch is not None and abs(row.epoch) < 1000 else "-", "dim"),
        metric(row.val_loss) + (" ★" if row.is_best else "  "),
        size(row.size_bytes) if row.size_bytes else "-",
        (age_words(row.saved_at, now), "dim"),
        validity,
        (note, "error" if row.is_bad else "accent" if takes else "dim"),
        (row.name, "dim"),
    )


def note_of(notes: Sequence[Note], width: int) -> str:
    """The notes in `width` cells: in full, else all of them short, else as many as fit."""
    if not notes:
        return ""
    for num in range(len(notes), 0, -1):  # as many as fit; the first of them in full as long as it can be
        for num_full in range(num, -1, -1):
            words = ", ".join(note[0 if index < num_full else 1] for index, note in enumerate(notes[:num]))
            if cell_width(words) <= width:
                return words
    return notes[0][1]


def plain_cells_of(row: CheckpointRow, now: float, note_width: int = 1000) -> tuple[Cell, ...]:
    """The same for terminals without unicode."""
    return tuple(
        cell.translate(_PLAIN) if isinstance(cell, str) else (cell[0].translate(_PLAIN), cell[1])
        for cell in cells_of(row, now, note_width)
    )


def _step_width(step: int) -> int:
    return len(count(step))


class CheckpointList(VirtualList[CheckpointRow]):
    """The list with its cursor; the rule above it says how many there are, and the name of the one at the cursor."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        self._cells_of = cells_of if unicode else plain_cells_of
        self._summary = ""
        self._step_width = STEP_WIDTH
        self._now = 0.0
        super().__init__(
            columns(),
            lambda row: self._cells_of(row, self._now, self._note_width()),
            key=lambda row: row.name,
            empty_text="no checkpoint yet",
            show_header=False,
            title="checkpoints",
            id=id,
        )

    def show_rows(self, rows: Sequence[CheckpointRow], catalog: Catalog | None, num_told: int = 0) -> None:
        """Show `rows`. At the top the cursor stays at the newest; elsewhere it stays on its checkpoint.

        num_told: how many saves the log tells of.
        """
        told = f"none here, though the log tells of {plural(num_told, 'save')}"
        self.set_empty_text(told if num_told else "no checkpoint yet")
        # Of those that are told in full at all.
        longest = max((row.step for row in rows if row.step is not None and abs(row.step) < 10**10), default=0)
        if (width := max(_step_width(longest), STEP_WIDTH)) != self._step_width:
            self._step_width = width
            self.set_columns(columns(width))
        self.set_rows(rows, keep_cursor=self.cursor > 0)
        self._summary = summary(rows, catalog)
        self._show_title()

    def set_now(self, now: float) -> None:
        """Time has passed: lines whose age reads differently are drawn again."""
        before, self._now = self._now, now
        first = round(self.scroll_y)
        for index in range(first, min(first + self.size.height, len(self.rows))):
            saved_at = self.rows[index].saved_at
            if age_words(saved_at, before) != age_words(saved_at, now):
                self._refresh_row(index)

    def watch_cursor(self, old: int, new: int) -> None:
        super().watch_cursor(old, new)
        self._show_title()

    def _show_title(self) -> None:
        row = self.cursor_row
        right = [(self._summary, "dim")] if self._summary else []
        self.set_title("checkpoints", [*right, (f"  {row.name}", "")] if row is not None else right)

    def _note_width(self) -> int:
        """Cells of the column of notes, 0 where there is none."""
        return next((width for index, width in self.layout_now() if index == NOTE), 0)


def summary(rows: Sequence[CheckpointRow], catalog: Catalog | None) -> str:
    """`26 · 271 MB`."""
    if not rows:
        return ""
    words = str(len(rows))
    if catalog is not None and catalog.total_bytes:
        words += f" · {size(catalog.total_bytes)}"
    if catalog is not None and catalog.num_quarantined:
        words += f" · {catalog.num_quarantined} in quarantine"
    return words
