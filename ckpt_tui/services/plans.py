"""What an act on a run directory would do: the plan that a person reads, and everything that follows from its moves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Literal

from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from ckpt_tui.events.lineage import Lineage, is_on
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.run.timeline import seconds_above
from ckpt_tui.services import names
from ckpt_tui.services.branches import fork_step, run_lineage
from ckpt_tui.services.catalog import Catalog, first_candidate
from ckpt_tui.services.catalog_entries import UNCHECKED, CatalogEntry
from ckpt_tui.services.files import content_of
from ckpt_tui.services.journal import LogEntry, Move
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.registry import REGISTRY_NAME, changed_registry, new_registry, stored_lineage
from ckpt_tui.services.sources import CheckedSource, checked_source
from ckpt_tui.text import duration, plural, run_word, safe_text, size

# Left free on the device besides the copies: journals, and the log that a trainer goes on writing.
SPARE_BYTES = 16 * 1024 * 1024
Act = Literal["restore", "rollback", "undo", "redo"]


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One file that changes. Names are relative to the run directory.

    action: `copy` (target becomes an independent, verified copy of source), `link` (target becomes one more name for
    the bytes of source), `set aside` (target goes to set_aside/<n>/ under its own name), `put back` (source, a file
    that was set aside, becomes target again), `write` (target, a small file that names a checkpoint, is written anew).
    replaces: whether a file now called target is set aside first.
    """

    action: Literal["copy", "link", "set aside", "put back", "write"]
    source: str
    target: str
    size_bytes: int
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What an act would do, for a person to read before it is done.

    sentences: what is copied where, what is set aside, what is given up. warnings: what a person should think about,
    and what was found unfinished. A plan without steps (`is_empty`) has nothing to do, and its sentences say why.
    takes_back: the numbers of the deeds that an undo takes back, the newest first, or of the undo that a redo does;
    undoes: the first of them. sources: what is put in place, as far as it was checked. unread: names that were
    judged by what was known of them; to plan it with `recheck` reads them. resume_takes: what
    `--resume auto` starts from afterwards.
    """

    act: Act
    directory: str
    steps: tuple[PlannedMove, ...]
    sentences: tuple[str, ...]
    steps_given_up: int = 0
    seconds_given_up: float = 0.0
    bytes_needed: int = 0
    warnings: tuple[str, ...] = ()
    undoes: int | None = None
    resume_takes: str | None = None
    resume_step: int | None = None
    moves: tuple[Move, ...] = field(default=(), repr=False)
    log: tuple[LogEntry, ...] = field(default=(), repr=False)
    takes_back: tuple[int, ...] = ()
    sources: tuple[CheckedSource, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.steps


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done. `number` is the deed's folder under set_aside/; `undo` takes it back."""

    act: Act
    directory: str
    number: int
    sentences: tuple[str, ...]
    set_aside: tuple[str, ...] = ()
    resume_would_take: str | None = None


def assemble(
    act: Act,
    directory: str,
    catalog: Catalog,
    moves: list[Move],
    sentences: list[str],
    warnings: list[str],
    *,
    why: str,
    target: CatalogEntry | None = None,
    takes_back: Sequence[int] = (),
    registry: Move | None = None,
    held: Mapping[str, CatalogEntry] | None = None,
    lineage: Lineage | None = None,
    sources: Sequence[CatalogEntry] = (),
) -> Plan:
    """The plan of some moves, with all that follows from them: registry, log, cost, space, what a resume then takes.

    target: what a rollback goes back to. takes_back: the deeds that an undo takes back. registry: the move that gives
    the registry's very bytes back; without one it follows the other moves. held: by its path, what is known of a
    source that does not lie among the checkpoints. lineage: the branch that the run goes over to, None when it stays.
    sources: what was validated to be put in place.
    """
    held = held or {}
    # A name that is set aside and gets a copy in the same deed is one move, not two.
    copied = {move.target for move in moves if move.how != "remove"}
    moves = [move for move in moves if move.how != "remove" or move.target not in copied]
    state = run_state(directory) if moves else None
    for move in moves:
        entry = catalog.entry(move.target)
        if entry is not None and entry.validity != UNCHECKED:
            move.was = entry.validity
    branch = lineage if lineage is not None else _branch_after(directory, registry)
    before, after = _resume_before_and_after(catalog, moves, held, branch)
    steps_given_up, seconds_given_up = 0, 0.0
    if moves and target is not None and target.step is not None:
        of_branch = [e.step for e in catalog.entries if e.step is not None and not e.is_abandoned]
        reached = max([*of_branch, state.step if state else 0])
        # Over to another branch: what is given up begins where the two parted, and not at the target's step.
        parted = fork_step(stored_lineage(directory), lineage, target.step) if lineage is not None else None
        kept = target.step if parted is None else parted
        steps_given_up = max(reached - kept, 0)
        if state is not None and steps_given_up:
            beyond_s = max(reached - state.step, 0) * (state.seconds_per_step or 0.0)
            seconds_given_up = (seconds_above(state, kept) or 0.0) + beyond_s
        cost = f", {duration(seconds_given_up)} of training" if seconds_given_up else ""
        where = " of the branch that the run is on" if parted is not None else ""
        sentences.append(f"Given up: {plural(steps_given_up, 'step')}{cost} (steps {kept:,} to {reached:,}{where}).")
    if moves and after is not None:
        changed = "" if before != after else ", as before"
        sentences.append(f"A resume then starts from {safe_name(after[0])}, step {after[1]:,}{changed}.")
    log = _log_entries(catalog, moves, held, why, target)
    steps = tuple(_describe(directory, move, catalog) for move in moves)
    registry = registry or _registry_move(directory, catalog, moves, lineage)
    needed = sum(step.size_bytes for step in steps if step.action == "copy")
    if needed:
        sentences.append(space_words(needed))
    warnings.extend(_owner_warning(directory, state) if moves else ())
    return Plan(
        act=act, directory=directory, steps=steps, sentences=tuple(sentences), steps_given_up=steps_given_up,
        seconds_given_up=seconds_given_up, bytes_needed=needed, warnings=tuple(warnings),
        undoes=takes_back[0] if takes_back else None, resume_takes=after[0] if after else None,
        resume_step=after[1] if after else None,
        moves=(*moves, *([registry] if registry is not None and moves else [])), log=tuple(log),
        takes_back=tuple(takes_back), sources=tuple(dict.fromkeys(map(checked_source, sources))),
    )  # fmt: skip


_ACTIONS: dict[str, Literal["copy", "link", "set aside", "put back", "write"]] = {
    "copy": "copy", "link": "link", "remove": "set aside", "rename": "put back", "write": "write",
}  # fmt: skip


def _describe(directory: str, move: Move, catalog: Catalog) -> PlannedMove:
    entry = catalog.entry(move.source or move.target) if not move.outside else None
    content = content_of(move.outside or os.path.join(directory, move.source or move.target))
    size_bytes = entry.size_bytes if entry is not None else content.size_bytes if content is not None else 0
    return PlannedMove(
        _ACTIONS[move.how],
        move.outside or move.source,
        move.target,
        size_bytes,
        replaces=move.before is not None and move.how != "remove",
    )


def _branch_after(directory: str, registry: Move | None) -> Lineage | None:
    """The branch that the run is on after a deed which does not choose one: that of the registry that is put back, or
    the present one. What an undo puts back may be on another, where training has gone on since."""
    if registry is not None and registry.how == "rename":
        return stored_lineage(os.path.join(directory, os.path.dirname(registry.source)))
    stored = stored_lineage(directory) if registry is None else None
    return run_lineage(directory, stored, [], [])


def _resume_before_and_after(
    catalog: Catalog, moves: Sequence[Move], held: Mapping[str, CatalogEntry], branch: Lineage | None
) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
    """What `--resume auto` takes now, and once the moves are made (name and step)."""
    entries = {entry.name: entry for entry in catalog.entries}
    before = _takes(entries.values())
    for move in moves:
        if move.how == "remove":
            entries.pop(move.target, None)
    for move in moves:
        is_of_new = move.how == "link" and any(other.target == move.source for other in moves)
        source = entries.get(move.source) if is_of_new else catalog.entry(move.source)
        source = source or held.get(move.source or move.outside)
        if move.how in ("copy", "link", "rename") and source is not None:
            entries[move.target] = _renamed(source, move.target)
    if branch is not None:
        entries = {
            # Of a damaged one nobody may know who made it.
            name: entry
            if entry.is_bad and not entry.session_id
            else replace(entry, is_abandoned=not is_on(branch, entry.session_id, entry.step))
            for name, entry in entries.items()
        }
    return before, _takes(entries.values())


def _takes(entries: Iterable[CatalogEntry]) -> tuple[str, int] | None:
    taken = first_candidate(entry for entry in entries if entry.step is not None)
    return (taken.name, taken.step) if taken is not None and taken.step is not None else None


def _renamed(source: CatalogEntry, name: str) -> CatalogEntry:
    facts = names.read_name(name, is_directory=os.path.isdir(source.path))
    kind = facts.kind if facts is not None else source.kind
    return replace(source, name=name, kind=kind, is_backup=bool(facts and facts.is_backup))


def _registry_move(directory: str, catalog: Catalog, moves: Sequence[Move], lineage: Lineage | None) -> Move | None:
    """The registry changes hands with the files."""
    path = os.path.join(directory, REGISTRY_NAME)
    now = content_of(path)
    if now is None:
        # Only a branch has to be written down somewhere; the rest the trainer finds in the files.
        if lineage is None:
            return None
        changed = {move.target for move in moves}
        made = [
            (entry.name, entry.step, entry.size_bytes, entry.session, entry.session_id)
            for entry in catalog.entries
            if entry.name not in changed and entry.session_id and entry.step is not None
        ]
        return Move(REGISTRY_NAME, "write", data=new_registry(lineage, made))
    data = changed_registry(
        directory,
        removed=frozenset(move.target for move in moves if move.how in ("remove", "rename")),
        copied=_origins(moves),
        lineage=lineage,
        best_score=_best_score(directory, moves),
    )
    return Move(REGISTRY_NAME, "write", before=now, data=data) if data is not None else None


def _origins(moves: Sequence[Move]) -> dict[str, str]:
    """For each name that gets other content, the name that had it before."""
    copied = {move.target: move.source for move in moves if move.how == "copy"}
    return copied | {m.target: copied.get(m.source, m.source) for m in moves if m.how == "link"}


def _best_score(directory: str, moves: Sequence[Move]) -> float | None:
    """The score of the file that becomes the best, by what it says itself; None when the best stays or does not say."""
    for move in moves:
        facts = names.read_name(move.target, is_directory=not move.target.endswith(".pt"))
        if (
            move.how in ("copy", "link", "rename")
            and facts is not None
            and facts.kind == "best"
            and not facts.is_backup
        ):
            try:
                told = open_checkpoint(move.source_path(directory)).progress.get("best_metric")
            except CkptError:
                return None
            return float(told) if isinstance(told, (int, float)) and not isinstance(told, bool) else None
    return None


def _log_entries(
    catalog: Catalog, moves: Sequence[Move], held: Mapping[str, CatalogEntry], why: str, target: CatalogEntry | None
) -> list[LogEntry]:
    """One `checkpoint_restored` for each name that gets other content; one for a rollback that only sets aside."""
    entries = []
    for move in moves:
        if move.how in ("copy", "link", "rename"):
            by_copy = next(
                (m for m in moves if m.how == "copy" and move.how == "link" and m.target == move.source), move
            )
            lies_at = by_copy.source or by_copy.outside
            source = catalog.entry(lies_at) or held.get(lies_at)
            entries.append(LogEntry(move.target, lies_at, why, source.step or 0 if source else 0))
    if not entries and moves:
        name = target.name if target is not None else moves[0].target
        entries.append(LogEntry(name, name, why, target.step or 0 if target else 0))
    return entries


def copy_move(directory: str, source: CatalogEntry, target: str) -> Move:
    """`target` becomes a copy of a checkpoint that was validated just now; one from outside has its path as name."""
    is_outside = os.path.isabs(source.name)
    return Move(
        target, "copy", before=content_of(os.path.join(directory, target)),
        source="" if is_outside else source.name, outside=source.path if is_outside else "",
        source_was=content_of(os.path.realpath(source.path)),
    )  # fmt: skip


def set_aside_move(directory: str, entry: CatalogEntry) -> Move:
    """A checkpoint only leaves for the deed's folder."""
    return Move(entry.name, "remove", before=content_of(os.path.join(directory, entry.name)))


def _owner_warning(directory: str, state: RunState | None) -> list[str]:
    owner = owner_of(directory, state)
    if owner is None:
        return []
    stop = f"`ckpt-tui stop {run_word(directory)}`"
    return [f"A training is running here ({owner.words}): it has to be stopped first, {stop}."]


def space_words(num_bytes: int) -> str:
    """What the copies of a plan take."""
    return f"Needs {size(num_bytes)} of disk."


def safe_name(name: str) -> str:
    """A file's name or a note about it, fit for a terminal."""
    return safe_text(name, 120)
