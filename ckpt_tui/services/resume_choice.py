"""Which checkpoint a resume starts from: the newest valid one, or the one that a person names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services import validity
from ckpt_tui.services.catalog import Catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.plans import safe_name
from ckpt_tui.services.targets import find_targets
from ckpt_tui.text import run_word

_FRESH_S = 5.0
_LOOK_AGAIN_S = 0.3


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
    is_live: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Choice:
    """Choose by `source`: auto, latest, best, a step, a name in the directory, or a path. Raises CkptError, Cancelled.

    One that lacks a part that an exact resume needs is chosen where none is valid. is_live: a training saves here.
    """
    num_looks = 3 if is_live else 1
    if source != "auto":
        choices: list[Choice] = []
        for entry in find_targets(catalog.directory, catalog, source):
            choice = Choice(entry, _checked(entry, num_looks, on_bytes, is_cancelled))
            if choice.can_resume:
                return choice
            choices.append(choice)
        return choices[0]
    second: Choice | None = None
    passed_over: list[tuple[CatalogEntry, str]] = []
    # Damaged ones of which nobody knows the step come first: they may be the newest, and are told either way.
    for entry in sorted(resume_order(catalog.entries), key=lambda e: not (e.is_bad and e.step is None)):
        if entry.name.endswith(".safetensors") or (entry.step is None and not entry.is_bad) or entry.is_abandoned:
            continue
        if entry.is_weights_only and not entry.is_bad:
            continue
        validation = _checked(entry, num_looks, on_bytes, is_cancelled)
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


def _checked(
    entry: CatalogEntry,
    num_looks: int,
    on_bytes: Callable[[int], None] | None,
    is_cancelled: Callable[[], bool] | None,
) -> Validation:
    """Its validation. Of a live run a file has its name before log and registry tell of it, and looks damaged for that
    moment: what was written just now is looked at again."""
    for _ in range(num_looks - 1):
        validation = validity.check(entry.path, on_bytes=on_bytes, is_cancelled=is_cancelled)
        if validation.verdict == "valid" or validation.lacks or not _is_fresh(entry.path):
            return validation
        time.sleep(_LOOK_AGAIN_S)
    return validity.check(entry.path, on_bytes=on_bytes, is_cancelled=is_cancelled)


def _is_fresh(path: str) -> bool:
    try:
        return abs(time.time() - os.stat(path).st_mtime) < _FRESH_S
    except OSError:
        return False


def passed_over_words(row: tuple[CatalogEntry, str]) -> str:
    """`latest.pt (step 400) is damaged`."""
    entry, verdict = row
    step = f" (step {entry.step:,})" if entry.step is not None else ""
    return f"{safe_name(entry.name)}{step} is {verdict}"
