"""What the keys of the acts would do at the checkpoint under the cursor: in words, before they are pressed.

The top of the list is where nobody has chosen anything: there a resume takes what is newest and valid, and a restore
mends all that is damaged. Further down it is that checkpoint which is meant.
"""

from __future__ import annotations

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.services.catalog import Catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.text import count, plural, safe_text


@dataclass(frozen=True, slots=True)
class RowAct:
    """What one key does now. words: for banner, menu and palette. labels: for the last line, the longest first; none:
    it is not offered there.

    what: restore, rollback or resume. target: a name, "" where no single one is meant. why_not: it cannot be done.
    """

    words: str
    labels: tuple[str, ...]
    what: str = ""
    target: str = ""
    why_not: str = ""


def mendable(catalog: Catalog) -> list[str]:
    """What a restore would mend: damaged or missing, with a valid backup."""
    bad = [entry.name for entry in catalog.entries if entry.is_bad] + list(catalog.missing or {})
    return [name for name in bad if any(one.is_good for one in catalog.backups_of(name))]


def restore_act(catalog: Catalog, name: str | None, *, is_chosen: bool) -> RowAct:
    """name: of the row under the cursor. is_chosen: a person went there."""
    entry = catalog.entry(name) if name is not None else None
    damaged = mendable(catalog)
    if entry is None or (damaged and not is_chosen):
        return _restore_all(damaged)
    if entry.is_bad:
        if not catalog.backups_of(entry.name):
            return RowAct(
                f"restore {safe_text(entry.name, 60)}", (), why_not=f"{safe_text(entry.name, 60)} is {entry.validity} "
                "and has no backup: a resume passes over it.",
            )  # fmt: skip
        return RowAct(f"restore {safe_text(entry.name, 60)}", ("restore",), "restore", entry.name)
    if entry.backup_of is not None:
        place = safe_text(entry.backup_of, 60)
        return RowAct(
            f"put {safe_text(entry.name, 60)} in place of {place}",
            (f"put back as {place.removesuffix('.pt')}", "put back"), "restore", entry.name,
        )  # fmt: skip
    if not entry.can_resume or entry.step is None:
        why = "does not say its step" if entry.step is None else "holds no state that a training resumes from"
        return RowAct("roll back", (), why_not=f"{safe_text(entry.name, 60)} {why}: nothing can go back to it.")
    step = count(entry.step)
    if entry.is_abandoned:
        return RowAct(
            f"go over to the branch of step {step}", (f"go back to {step}", f"to {step}"), "rollback", entry.name
        )
    if any(other.step is not None and other.step > entry.step and not other.is_abandoned for other in catalog.entries):
        return RowAct(f"roll back to step {step}", (f"roll back to {step}", f"back to {step}"), "rollback", entry.name)
    if damaged:
        return _restore_all(damaged)
    return RowAct("roll back", ("roll back",), why_not=f"Step {step} is the newest: go to an earlier one in the list.")


def _restore_all(damaged: list[str]) -> RowAct:
    if not damaged:
        return RowAct("restore", (), why_not="No checkpoint that has a backup is damaged or missing.")
    what = safe_text(damaged[0], 40) if len(damaged) == 1 else plural(len(damaged), "checkpoint")
    return RowAct(f"restore {what}", ("restore",), "restore")


def resume_act(catalog: Catalog, name: str | None, *, is_chosen: bool) -> RowAct:
    """name, is_chosen: as above."""
    entry = catalog.entry(name) if name is not None and is_chosen else None
    if entry is None or not entry.can_resume or entry.step is None or entry.resume_takes:
        takes = catalog.resume_would_take
        if takes is None:
            return RowAct("resume", ("resume",) if catalog.entries else (), "resume", "auto")
        return RowAct(f"resume from {told(catalog.entry(takes), takes)}", ("resume",), "resume", "auto")
    step = count(entry.step)
    return RowAct(
        f"resume from {told(entry, entry.name)}", (f"resume from {step}", f"resume {step}"), "resume", entry.name
    )


def told(entry: CatalogEntry | None, name: str) -> str:
    """`rolling 9,250`, `best backup 3,300`; the name where its step is not known."""
    if entry is None or entry.step is None:
        return safe_text(name, 40)
    return f"{safe_text(entry.kind, 40)}{' backup' if entry.is_backup else ''} {count(entry.step)}"


def labels(
    state: RunState | None, restore: RowAct | None, resume: RowAct | None, *, is_supervised: bool = False
) -> dict[str, tuple[str, ...]]:
    """Of the acts' keys on the last line, as the run stands: what cannot be done now is not offered there."""
    told: dict[str, tuple[str, ...]]
    # A log that is silent may be of a run that ended: its process is not known, and so nobody can be asked to stop.
    is_over = state is None or state.phase.is_over or state.phase in (Phase.WAITING, Phase.SILENT)
    if not is_over or is_supervised:
        told = {"act.resume": (), "act.restore": ()}
        if state is not None and state.source and not state.pid and not is_supervised:
            told["act.stop"] = ()
        return told
    if state is None or state.phase is Phase.WAITING:
        offered = ("resume",) if resume is not None and resume.target else ()
        return {"act.stop": (), "act.resume": offered, "act.restore": restore.labels if restore is not None else ()}
    told = {"act.stop": ()}
    if resume is not None:
        told["act.resume"] = resume.labels
    if restore is not None:
        told["act.restore"] = restore.labels
    return told
