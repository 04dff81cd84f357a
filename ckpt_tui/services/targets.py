"""Which checkpoint a person means: by step, epoch, name, path, `latest` or `best`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.services import names
from ckpt_tui.services.catalog import Catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry, entry_at
from ckpt_tui.services.plans import safe_name
from ckpt_tui.text import safe_text

Check = Callable[[CatalogEntry], CatalogEntry]
_WORDS = {"latest": names.LATEST_NAME, "best": names.BEST_NAME}
# 5000, 5,000, 5_000, 5'000, 5 000 and, where it can be nothing else, 5.000.
_SEPARATORS = re.compile(r"[,_'\u2019 \u00a0\u202f]")
_STEP = re.compile(r"(?:step[ _=-]?)?(\d{1,18}|\d{1,3}(?:\.\d{3})+)", re.IGNORECASE)
_EPOCH = re.compile(r"epoch[ _=-]?(\d{1,9})", re.IGNORECASE)


def find_targets(directory: str, catalog: Catalog, to: str) -> list[CatalogEntry]:
    """The entries that a person may mean, the best first; at least one. Of a path outside the directory, and of what
    was set aside, the entry's name is that path. Raises CkptError."""
    name = plain_name(directory, to)
    if (entry := catalog.entry(name)) is not None:
        return [entry]
    if to in _WORDS:
        forms = [catalog.entry(form) for form in (_WORDS[to], _WORDS[to].removesuffix(".pt"))]
        there = [form for form in forms if form is not None]
        there.sort(key=lambda entry: -(entry.step if entry.step is not None else -1))
        # Of other people's, what their names say.
        there = there or [e for e in resume_order(catalog.entries) if e.kind == to and not e.is_backup]
        if there:
            return there
        raise not_here(catalog, _WORDS[to])
    if (digits := _STEP.fullmatch(_SEPARATORS.sub("", to))) is not None:
        step = int(digits[1].replace(".", ""))
        there = [entry for entry in resume_order(catalog.entries) if entry.step == step]
        if there:
            return _of_one_branch(there, f"step {step:,}")
        if not _is_path(directory, to):
            raise not_here(catalog, f"step {step:,}")
    if (digits := _EPOCH.fullmatch(to)) is not None:
        there = [entry for entry in resume_order(catalog.entries) if _epoch_in_name(entry) == int(digits[1])]
        if there:
            return _of_one_branch(there, f"epoch {digits[1]}")
    path = _path_of(directory, to)
    if path is None:
        raise not_here(catalog, name)
    try:
        outside = entry_at(path)
    except OSError as error:
        raise from_os_error(error, safe_text(path, 1000)) from error
    if outside is None:
        raise CkptError("Not a checkpoint", f"{safe_text(path, 1000)} holds no checkpoint", "Name another one.")
    return [replace(outside, name=path)]


def is_outside(entry: CatalogEntry) -> bool:
    """Whether `find_targets` found it outside the run directory's own checkpoints."""
    return os.path.isabs(entry.name)


def plain_name(directory: str, name: str) -> str:
    """A name in the directory, also when it was given as a path to it, or with a slash behind it."""
    name = name.rstrip("/") or name
    if os.sep in name and os.path.realpath(os.path.dirname(name)) == os.path.realpath(directory):
        return os.path.basename(name)
    return name


def first_good(entries: Sequence[CatalogEntry], check: Check) -> CatalogEntry:
    """The first that a training can resume from; the first of all, with what is wrong with it, when none can be."""
    first = None
    for entry in entries:
        checked = check(entry)
        if checked.is_good:
            return checked
        first = first or checked
    assert first is not None, "somebody asked for none"
    return first


def first_valid(candidates: Sequence[CatalogEntry], check: Check) -> tuple[CatalogEntry | None, list[str]]:
    """The first that is not bad, and what is wrong with those before it."""
    rejected: list[str] = []
    for candidate in candidates:
        checked = check(candidate)
        if not checked.is_bad:
            return checked, rejected
        rejected.append(f"{safe_name(checked.name)} is {checked.validity}")
    return None, rejected


def not_here(catalog: Catalog, wanted: str) -> CkptError:
    """That there is no such checkpoint, and which there are."""
    there = [f"{safe_name(e.name)}" + (f" (step {e.step:,})" if e.step is not None else "") for e in catalog.entries]
    listed = ", ".join(there[:12]) + (f" and {len(there) - 12} more" if len(there) > 12 else "")
    return CkptError(
        "No such checkpoint",
        f"{safe_name(wanted)} is not in {catalog.directory}",
        f"There are: {listed}." if there else "There is no checkpoint in it.",
    )


def _of_one_branch(there: list[CatalogEntry], wanted: str) -> list[CatalogEntry]:
    """Those on the branch that the run is on; of branches that were left only where they are of one."""
    live = [entry for entry in there if not entry.is_abandoned]
    if live:
        return live
    if len({entry.session_id for entry in there}) > 1:
        listed = ", ".join(safe_name(entry.name) for entry in there[:8])
        raise CkptError(
            "Which one?", f"{wanted} is on several branches that were left: {listed}", "Name the file instead."
        )
    return there


def _epoch_in_name(entry: CatalogEntry) -> int | None:
    base = os.path.basename(entry.name)
    facts = names.read_name(base, is_directory=os.path.isdir(entry.path))
    return facts.epoch if facts is not None and not facts.is_backup else None


def _is_path(directory: str, to: str) -> bool:
    return os.sep in to and _path_of(directory, to) is not None


def _path_of(directory: str, to: str) -> str | None:
    """The path that is meant, from here or from the run directory (`set_aside/1/latest.pt`); None when it leads to
    nothing."""
    for path in (os.path.abspath(os.path.expanduser(to)), os.path.join(directory, to)):
        try:
            if os.path.exists(path) and os.path.realpath(path) != os.path.realpath(directory):
                return os.path.normpath(path)
        except ValueError:
            return None
    return None
