"""Which checkpoint a resume starts from: the newest valid one, or the one that a person names."""

from __future__ import annotations

import os
from collections.abc import Callable

from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services import names, validity
from ckpt_tui.services.catalog import Catalog, CatalogEntry, resume_order
from ckpt_tui.services.plans import safe_name
from ckpt_tui.text import run_word


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint, its validation, and the newer ones that were passed over, each with its verdict."""

    entry: CatalogEntry
    validation: Validation
    passed_over: tuple[tuple[CatalogEntry, str], ...] = ()

    @property
    def can_resume(self) -> bool:
        return self.validation.verdict == "valid" or bool(self.validation.lacks)


def choose(
    catalog: Catalog,
    source: str,
    *,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Choice:
    """Choose by `source`: auto, latest, best, a name in the directory, or a path. Raises CkptError, Cancelled.

    One that lacks a part that an exact resume needs is chosen where none is valid.
    """
    if source != "auto":
        entry = named(catalog, source)
        validation = validity.check(entry.path, on_bytes=on_bytes, is_cancelled=is_cancelled)
        return Choice(entry, validation)
    second: Choice | None = None
    passed_over: list[tuple[CatalogEntry, str]] = []
    # Damaged ones of which nobody knows the step come first: they may be the newest, and are told either way.
    for entry in sorted(resume_order(catalog.entries), key=lambda e: not (e.is_bad and e.step is None)):
        if entry.name.endswith(".safetensors") or (entry.step is None and not entry.is_bad) or entry.is_abandoned:
            continue
        if entry.is_weights_only and not entry.is_bad:
            continue
        validation = validity.check(entry.path, on_bytes=on_bytes, is_cancelled=is_cancelled)
        if validation.verdict == "valid" and entry.step is not None:
            return Choice(entry, validation, tuple(passed_over))
        if second is None and entry.step is not None and validation.lacks:
            second = Choice(entry, validation, tuple(passed_over))
        passed_over.append((entry, validation.verdict))
    if second is not None:
        return second
    reasons = "; ".join(map(passed_over_words, passed_over[:6])) or "there is no checkpoint"
    where = run_word(catalog.directory)
    raise CkptError(
        "Nothing to resume from",
        f"{catalog.directory}: {reasons}",
        f"Look: `ckpt-tui list {where}`, `ckpt-tui validate {where}`.",
    )


def passed_over_words(row: tuple[CatalogEntry, str]) -> str:
    """`latest.pt (step 400) is damaged`."""
    entry, verdict = row
    step = f" (step {entry.step:,})" if entry.step is not None else ""
    return f"{safe_name(entry.name)}{step} is {verdict}"


def named(catalog: Catalog, source: str) -> CatalogEntry:
    """The checkpoint that `source` names. Raises CkptError, which tells those that are there."""
    directory = catalog.directory
    name = {"latest": names.LATEST_NAME, "best": names.BEST_NAME}.get(source, source)
    entry = catalog.entry(name)
    if entry is None and source in ("latest", "best"):
        entry = next((e for e in catalog.entries if e.kind == source and not e.is_backup), None)
    if entry is None and os.sep in name and os.path.realpath(os.path.dirname(name)) == os.path.realpath(directory):
        entry = catalog.entry(os.path.basename(name))
    if entry is not None:
        return entry
    path = os.path.abspath(name)
    if os.path.exists(path) and os.sep in name:
        checkpoint = open_checkpoint(path)
        step = checkpoint.progress.get("step")
        return CatalogEntry(
            name=path, path=path, kind="other", step=step if isinstance(step, int) else None, epoch=None,
            val_loss=None, size_bytes=checkpoint.size_bytes, saved_at=None,
        )  # fmt: skip
    there = ", ".join(safe_name(entry.name) for entry in catalog.entries[:12])
    raise CkptError(
        "No such checkpoint", f"{safe_name(name)} is not in {directory}", f"There are: {there}." if there else ""
    )
