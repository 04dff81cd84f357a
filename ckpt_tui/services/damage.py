"""Which checkpoints of a run that is over are damaged, and what stands in for them.

Only what a resume would take is read whole, from the first candidate until one is good; what was found is remembered
(services/validity.py), so that asking again costs nothing. Only reads in the run directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Alert, Phase, RunState, Save
from ckpt_tui.services.catalog import Catalog, first_candidate, read_catalog, resume_order
from ckpt_tui.services.catalog_entries import CatalogEntry, check_entry
from ckpt_tui.services.known_files import KnownFiles, known_files, read_known_files
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.services.surroundings import Surroundings
from ckpt_tui.services.without_log import NewestCheckpoint, newest_checkpoint
from ckpt_tui.text import safe_text

CHECK_BUDGET_S = 20.0  # about 20 GB from a warm page cache; a person waits no longer for an answer

STILL_WRITTEN_S = 60.0
NOT_READ = "While it trains its checkpoints are not read: what is said of them was found before."

_WORDS = {"damaged": "is damaged", "nonfinite": "has values that are not finite", "unsafe": "is not safe to open"}


@dataclass(frozen=True, slots=True)
class Damage:
    """A checkpoint that cannot be used. path: its name in the run directory. message: what is wrong with it, safe for
    a terminal. instead: the backup of it that was checked and is valid, None when there is none."""

    path: str
    message: str
    instead: str | None = None

    @property
    def words(self) -> str:
        """`latest.pt is damaged: data/41 fails its checksum. latest_backup.pt is valid.`"""
        words = f"{safe_text(self.path, 80)} {self.message}."
        return f"{words} {safe_text(self.instead, 80)} is valid." if self.instead else words


@dataclass(frozen=True, slots=True)
class Judgement:
    """damaged: in the order in which a resume tries them. invalid_names: what no resume takes, for
    `RunMonitor.invalid_checkpoints`. found: what one may take, for `RunMonitor.found_checkpoints`. note: why not
    everything was checked, or "". alerts: of the same damage. newest: what there is where no log is."""

    damaged: tuple[Damage, ...] = ()
    invalid_names: frozenset[str] = frozenset()
    note: str = ""
    alerts: tuple[Alert, ...] = ()
    newest: NewestCheckpoint | None = None
    found: tuple[Save, ...] = ()


def damage_in(entries: Iterable[CatalogEntry]) -> tuple[Damage, ...]:
    """The damage among entries as far as they were checked, in the order of a resume."""
    entries = list(entries)
    return tuple(Damage(e.name, _message(e), _instead(e, entries)) for e in resume_order(entries) if e.is_bad)


def checkpoint_alerts(entries: Iterable[CatalogEntry], now: float) -> tuple[Alert, ...]:
    """An alert for each checkpoint that was found to be bad, oldest first. now: when they were looked at, Unix seconds:
    what was written just before may be written still."""
    entries = list(entries)
    alerts = []
    for entry in entries:
        if entry.validity not in _WORDS:
            continue
        try:
            saved_at = os.stat(entry.path).st_mtime
        except OSError:
            continue
        if 0 <= now - saved_at < STILL_WRITTEN_S:
            continue
        instead = _instead(entry, entries)
        damage, step = Damage(entry.name, _message(entry), instead), entry.step or 0
        alerts.append(Alert(
            f"checkpoint-{entry.name}-{saved_at:.0f}", "warning" if instead else "error", "A checkpoint is bad",
            damage.words.rstrip("."), step, saved_at, kind="checkpoint", last_step=step, last_ts=saved_at,
        ))  # fmt: skip
    return tuple(sorted(alerts, key=lambda alert: alert.ts))


def invalid_names(entries: Iterable[CatalogEntry]) -> frozenset[str]:
    """Names of what is known to be of no use to a resume, or of less than another one."""
    entries = list(entries)
    taken = first_candidate(entries)
    can_be_exact = taken is not None and not taken.lacks
    return frozenset(entry.name for entry in entries if not entry.is_candidate or (can_be_exact and entry.lacks))


def found_checkpoints(entries: Iterable[CatalogEntry]) -> tuple[Save, ...]:
    """The files that a resume may take, as saves, in its order: a log may tell of fewer than there are."""
    return tuple(
        Save(e.name, e.kind if e.kind != "other" else "", e.step, e.saved_at, e.session, e.size_bytes, names=(e.name,))
        for e in resume_order(entries) if e.is_candidate and e.step is not None and e.saved_at is not None
    )  # fmt: skip


def judge_candidates(
    directory: str, *, budget_s: float = CHECK_BUDGET_S, clock: Callable[[], float] = time.monotonic
) -> Judgement:
    """Check fully what a resume would take, the first first, until one is valid; and the backups of what is damaged.

    Ends after about `budget_s` seconds with what was found by then. A directory that cannot be read is said in `note`.
    """
    deadline = clock() + budget_s
    try:
        catalog = read_catalog(directory)
    except CkptError as error:
        return Judgement(note=f"The checkpoints could not be checked: {safe_text(error.message or error.title, 200)}.")
    checked = {entry.name: entry for entry in catalog.entries}
    note = ""
    try:
        _check_until_valid(catalog, checked, lambda: clock() >= deadline)
    except Cancelled:
        note = f"Checking ended after {budget_s:g} s with checkpoints left: ckpt-tui validate checks them all."
    alerts = checkpoint_alerts(checked.values(), time.time())
    return Judgement(
        damage_in(checked.values()), invalid_names(checked.values()), note, alerts,
        found=found_checkpoints(checked.values()),
    )  # fmt: skip


def _check_until_valid(catalog: Catalog, checked: dict[str, CatalogEntry], is_late: Callable[[], bool]) -> None:
    def look(entry: CatalogEntry) -> CatalogEntry:
        if is_late():
            raise Cancelled
        checked[entry.name] = check_entry(entry, is_cancelled=is_late)
        return checked[entry.name]

    for candidate in resume_order(catalog.entries):
        if candidate.is_candidate and look(candidate).can_resume and not checked[candidate.name].lacks:
            break
    for entry in list(checked.values()):
        if entry.is_bad:
            # Any of them will do: the best first.
            any(look(backup).is_good for backup in catalog.backups_of(entry.name) if backup.can_resume)


def _message(entry: CatalogEntry) -> str:
    words = _WORDS.get(entry.validity, f"is {entry.validity}")
    return f"{words}: {safe_text(entry.note, 200).rstrip('.')}" if entry.note else words


def _instead(entry: CatalogEntry, entries: list[CatalogEntry]) -> str | None:
    order = resume_order(other for other in entries if other.backup_of == entry.name and other.validity == "valid")
    return order[0].name if order else None


def read_judged_run(path: str, *, budget_s: float = CHECK_BUDGET_S) -> tuple[RunState, Judgement]:
    """The state of a run with its whole log read, and, when it is over, what of its checkpoints is damaged.

    `at_risk` and `lost` of the state then count from a checkpoint that is really good. Raises CkptError as
    `RunMonitor` does.
    """
    monitor = RunMonitor(path)
    state = monitor.poll(budget_s=1.0)
    while not monitor.is_caught_up:
        state = monitor.poll(budget_s=1.0)
    return judge_run(monitor, state, budget_s=budget_s)


def read_run_with_files(path: str) -> tuple[RunState, KnownFiles]:
    """The state of a run with its whole log read, judged by what is known of its files; none of them is read.

    Raises CkptError as `RunMonitor` does.
    """
    monitor = RunMonitor(path)
    while not monitor.is_caught_up:
        monitor.poll(budget_s=1.0)
    return judge_by_known_files(monitor)


def judge_by_known_files(monitor: RunMonitor) -> tuple[RunState, KnownFiles]:
    """The state of a monitor that has read all, judged by what is known of the files."""
    files = read_known_files(monitor.directory)
    monitor.invalid_checkpoints, monitor.found_checkpoints = files.invalid, files.found
    return monitor.state(), files


def judge_as_known(monitor: RunMonitor) -> tuple[RunState, Judgement]:
    """The same where that changes anything, and what is known to be damaged: to be asked every second."""
    monitor.invalid_checkpoints, monitor.found_checkpoints = (), ()
    state = monitor.state()
    files = known_files(monitor.directory, state, Surroundings(monitor.directory).names())
    if files is None:
        return state, Judgement(note=NOT_READ)
    monitor.invalid_checkpoints, monitor.found_checkpoints = files.invalid, files.found
    alerts = checkpoint_alerts(files.entries, state.now)
    damaged = damage_in(files.entries)
    return monitor.state(), Judgement(damaged, files.invalid, NOT_READ, alerts, found=files.found)


def judge_run(
    monitor: RunMonitor, state: RunState, *, budget_s: float = CHECK_BUDGET_S
) -> tuple[RunState, Judgement]:  # fmt: skip
    """A state of a monitor that has read all, judged by the checkpoints: those that a resume would take are read where
    the run is over; while it trains, what is known of them already counts, and `note` says so."""
    if state.phase is Phase.WAITING:
        return state, Judgement(newest=newest_checkpoint(monitor.directory))
    if not state.phase.is_over:
        return judge_as_known(monitor)
    judgement = judge_candidates(monitor.directory, budget_s=budget_s)
    monitor.invalid_checkpoints, monitor.found_checkpoints = judgement.invalid_names, judgement.found
    return monitor.state(), judgement
