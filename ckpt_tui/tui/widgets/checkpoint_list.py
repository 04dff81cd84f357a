"""The checkpoints: what the directory holds where it was read, else what the log tells of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.text import cell_width, count, metric, short_age, short_count, size
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog, CatalogEntry

COLUMNS = (
    Column("kind", 11),
    Column("step", 7, align="right"),
    Column("val loss", 7, align="right"),
    Column("size", 8, align="right", priority=2),
    Column("age", 4, align="right", priority=1),
    Column("validity", 12),
    Column("", 8, grows=True),
    Column("file", 28, keep="end", priority=4),
)
KIND_GLYPHS = {"emergency": "⚑", "best": "★", "epoch": "◆"}
_PLAIN = str.maketrans({"●": "o", "⚑": "^", "★": "*", "◆": "#", "✓": "+", "✖": "X", "▲": "!"})


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One line of the list; compares by what is shown, so that only lines that change are sent."""

    name: str
    kind: str
    step: int | None
    val_loss: float | None
    size_bytes: int
    age: str
    validity: str
    level: str | None = None
    note: str = ""
    is_best: bool = False
    is_marked: bool = False


def rows_of(state: RunState, catalog: Catalog | None, marked: str | None = None) -> list[CheckpointRow]:
    """Newest first. The catalog knows the files; a save that it has not seen yet is added from the log."""
    known = {entry.name for entry in catalog.entries} if catalog else set()
    rows: list[tuple[float, CheckpointRow]] = []
    for entry in catalog.entries if catalog else ():
        rows.append((entry.saved_at or 0.0, _from_entry(entry, state, marked)))
    newest = max((ts for ts, _ in rows), default=0.0)
    for save in state.saves:
        if save.removed or save.path in known or (catalog is not None and save.ts <= newest):
            continue
        row = CheckpointRow(
            save.path, save.kind, save.step, save.val_loss, save.size_bytes, _age(state, save.ts), "unchecked",
            is_marked=save.path == marked,
        )  # fmt: skip
        rows.append((save.ts, row))
    # One save under several names: the one that a resume takes first, then the numbered ones, then backups.
    rows.sort(key=lambda item: (-(item[1].step or 0), -round(item[0]), "backup" in item[1].name, item[1].name))
    return [row for _, row in rows]


def _from_entry(entry: CatalogEntry, state: RunState, marked: str | None) -> CheckpointRow:
    notes = []
    if entry.resume_takes:
        notes.append("resume takes it")
    if entry.note:
        notes.append(entry.note)
    if entry.is_backup or entry.backup_of:
        notes.append("previous" if "previous" in entry.name else "backup")  # its kind says of what
    if entry.removed_next:
        notes.append("removed next")
    if entry.is_abandoned:
        notes.append("left behind")
    return CheckpointRow(
        entry.name, entry.kind, entry.step, entry.val_loss, entry.size_bytes, _age(state, entry.saved_at),
        entry.validity, entry.level, ", ".join(notes), entry.is_best, entry.name == marked,
    )  # fmt: skip


def _age(state: RunState, ts: float | None) -> str:
    """In minutes at the finest: an age that counts seconds in every line would be sent every second."""
    if ts is None:
        return "-"
    age_s = state.now - ts
    return "<1 m" if age_s < 60 else short_age(age_s)


def cells_of(row: CheckpointRow) -> tuple[Cell, ...]:
    mark = "+" if row.is_marked else KIND_GLYPHS.get(row.kind, "●")
    kind = f"{mark} {row.kind}"
    validity: Cell
    if row.validity == "unchecked":
        validity = ("- unchecked", "dim")
    elif row.validity == "valid":
        # Only what was passed at every level is called valid; else the level that holds is said.
        words = "✓ valid" if row.level in (None, "resume", "numbers") else f"✓ {row.level}"
        validity = (words, "good")
    else:
        from ckpt_tui.tui.judgement import verdict_words  # brings the checkpoint model: not for the first picture

        validity = verdict_words(row.validity)
    loss = metric(row.val_loss) + (" ★" if row.is_best else "  ")
    return (
        (kind, "accent" if row.is_marked else "strong" if row.kind in ("best", "emergency") else ""),
        count(row.step) if (row.step or 0) < 1_000_000 else short_count(row.step or 0),
        loss,
        size(row.size_bytes) if row.size_bytes else "-",
        (row.age, "dim"),
        validity,
        (
            row.note,
            "error" if row.validity in ("damaged", "nonfinite") else "accent" if "resume" in row.note else "dim",
        ),
        (row.name, "dim"),
    )


def plain_cells_of(row: CheckpointRow) -> tuple[Cell, ...]:
    """The same for terminals without unicode."""
    return tuple(
        cell.translate(_PLAIN) if isinstance(cell, str) else (cell[0].translate(_PLAIN), cell[1])
        for cell in cells_of(row)
    )


class CheckpointList(VirtualList[CheckpointRow]):
    """The list with its cursor."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(
            COLUMNS,
            cells_of if unicode else plain_cells_of,
            key=lambda row: row.name,
            empty_text="no checkpoint yet",
            show_header=False,
            title="checkpoints",
            id=id,
        )


def summary(rows: list[CheckpointRow], catalog: Catalog | None) -> str:
    """`26 · 271 MB`."""
    total = catalog.total_bytes if catalog else 0
    words = f"{len(rows)} · {size(total)}" if total else str(len(rows))
    assert cell_width(words) < 40
    return words
