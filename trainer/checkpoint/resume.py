"""Which checkpoint a resume starts from: the newest one on the run's lineage that proves to be whole."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckpt_tui import text
from ckpt_tui.events.lineage import UNTOLD, Lineage, is_on, read_lineage
from trainer.checkpoint import names
from trainer.checkpoint.formats import load_checkpoint
from trainer.checkpoint.lineage import lineage_of
from trainer.checkpoint.publish_directory import BadDirectoryError, verify_directory
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.retraining import trained_since
from trainer.checkpoint.state import NEEDED, BadCheckpointError, check_content, proven_digest
from trainer.errors import UsageError

_BEFORE_BACKUPS = {
    "latest": (names.LATEST, names.LATEST_BACKUP),
    "best": (names.BEST, names.BEST_BACKUP, names.BEST_PREVIOUS),
}
_MANY = 4


@dataclass(frozen=True)
class Rejected:
    """A checkpoint that was passed over. damage: what is proven to be wrong with it, in a word; "" when nothing is.

    step: None when nobody knows it.
    """

    name: str
    why: str
    damage: str = ""
    step: int | None = None

    def as_event(self) -> dict[str, Any]:
        """For `run_start`."""
        return {"path": self.name, "why": self.why, "damage": self.damage, "step": self.step}


@dataclass(frozen=True)
class Source:
    """What a session starts from.

    name: relative to the run directory. wanted: what was asked for: auto, latest, best, a name or a path,
    or "step N" for N or before.
    rejected: newer candidates that were passed over, newest first; where a person named one, the latest and the best
    that were found bad, so that no backup is made of them.
    lineage: of its state; None when it is from outside the run directory, where other lineages have no meaning.
    left: (name, step) of later checkpoints that are on another branch from now on, latest first.
    best_put_back: the best score to go on with, where a person put another best back since this state was saved.
    reached, seconds_per_step: what the log says that the run came to from here before, None when it does not.
    """

    name: str
    path: str
    digest: str
    state: Mapping[str, Any]
    wanted: str = "auto"
    rejected: list[Rejected] = field(default_factory=list)
    lineage: Lineage | None = UNTOLD
    left: list[tuple[str, int]] = field(default_factory=list)
    reached: int | None = None
    seconds_per_step: float | None = None
    best_put_back: float | None = None

    def with_best(self, score: float) -> Source:
        """The same with another best score in its state."""
        return replace(self, best_put_back=score, state={**self.state, "best_metric": score} if self.state else {})

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def is_found(self) -> bool:
        """Whether it was looked for, and not named by a person."""
        return self.wanted == "auto"

    def as_event(self) -> dict[str, Any]:
        """For `run_start`."""
        return {"path": self.name, "digest": self.digest, "step": self.step, "wanted": self.wanted}

    def sentences(self) -> list[str]:
        """What a person should know of the choice before training goes on."""
        told = [f"rejected {one.name}: {one.why}" for one in self.rejected]
        newest = max((one.step for one in self.rejected if one.step is not None), default=self.step)
        reached = max(self.reached or 0, newest)
        instead = f" instead of {newest}" if newest > self.step and self.is_found else ""
        if reached > self.step:
            cost = text.plural(reached - self.step, "step")
            if self.seconds_per_step is not None:
                cost += f", {text.duration((reached - self.step) * self.seconds_per_step)}"
            told.append(f"resuming from step {self.step}{instead}: {cost} of training to be done again")
        if self.best_put_back is not None:
            told.append(f"another best was put back since: the best so far is {self.best_put_back:.4g} again")
        if self.lineage is None:
            told.append(f"{self.name} is of another run: its history stays there, nothing is copied")
        if self.left:
            some = ", ".join(f"{name} (step {step})" for name, step in self.left[:_MANY])
            more = f" and {len(self.left) - _MANY} more" if len(self.left) > _MANY else ""
            told.append(f"abandoned, kept, and not taken by `--resume auto` from now on: {some}{more}")
        return told


def candidates(registry: Registry, lineage: Lineage | None, at_most: int | None = None) -> list[str]:
    """The names on `lineage` as `--resume auto` tries them. at_most: only up to that step.

    Highest step first; among equal steps primary files before backups, then by kind and name. Files whose step
    nobody knows come first of all: whether they are bad has to be found out and said.
    """

    def order(entry: dict[str, Any]) -> tuple[bool, int, bool, int, str]:
        step = entry["step"]
        kind = names.KINDS.index(entry["kind"])
        return step is not None, -(step or 0), entry["is_backup"], kind, entry["path"]

    live = [entry for entry in registry.entries.values() if is_on(lineage, entry["session_id"], entry["step"])]
    if at_most is not None:
        live = [entry for entry in live if entry["step"] is not None and entry["step"] <= at_most]
    return [entry["path"] for entry in sorted(live, key=order)]


def find(
    directory: str,
    wanted: str,
    registry: Registry,
    needed: Collection[str] = NEEDED,
    *,
    at_most: int | None = None,
) -> Source | None:
    """The checkpoint that `--resume wanted` means, verified and loaded; None when there is nothing yet (auto).

    at_most: of auto, only those at this step or before. Changes nothing.
    Raises UsageError when what was asked for is not there or cannot be used.
    """
    lineage = lineage_of(directory, registry)
    is_outside = False
    if wanted == "auto":
        tried = [(name, os.path.join(directory, name)) for name in candidates(registry, lineage, at_most)]
    elif wanted in _BEFORE_BACKUPS:
        tried = [(name, os.path.join(directory, name)) for name in _before_backups(registry, wanted)]
    else:
        name, path, is_outside = _named(directory, wanted)
        tried = [(name, path)]
    rejected: list[Rejected] = []
    known_bad: dict[tuple[int, int], Rejected] = {}
    for name, path in tried:
        entry = registry.entries.get(name) if not is_outside else None
        found = _proven(name, path, entry, needed, known_bad)
        if isinstance(found, Rejected):
            rejected.append(found)
            continue
        state, digest = found
        step = int(state["step"])
        trained = trained_since(directory, step) if not is_outside else None
        if wanted != "auto":
            rejected += _bad_bystanders(registry, path, {one.name for one in rejected})
        mine = None if is_outside else read_lineage(state.get("lineage")) or UNTOLD
        return Source(
            name, path, digest, state, wanted if at_most is None else f"step {at_most}", rejected, mine,
            [] if wanted == "auto" and at_most is None else _left(registry, lineage, mine, step),
            trained.step if trained is not None else None,
            trained.seconds_per_step if trained is not None else None,
        )  # fmt: skip
    abandoned = sorted(set(registry.entries) - set(candidates(registry, lineage)))
    if wanted == "auto" and not rejected and not abandoned:
        return None
    raise UsageError(_nothing_words(directory, wanted, rejected, abandoned if wanted == "auto" else []))


def _before_backups(registry: Registry, wanted: str) -> list[str]:
    """The names that `latest` or `best` may mean, files and directories: of each the one of the highest step first."""
    there = []
    for name in _BEFORE_BACKUPS[wanted]:
        forms = [form for form in (name, name.removesuffix(".pt")) if form in registry.entries]
        there += sorted(forms, key=lambda form: -(registry.entries[form]["step"] or 0))
    return there or list(_BEFORE_BACKUPS[wanted])


def _named(directory: str, wanted: str) -> tuple[str, str, bool]:
    """(name, path, whether it lies outside the run directory) of what a person named."""
    inside = os.path.join(directory, wanted)
    path = inside if os.path.basename(wanted) == wanted and os.path.lexists(inside) else wanted
    if not os.path.exists(path):
        raise UsageError(f"--resume {wanted}: there is no such checkpoint in {directory}, and no such file")
    parent = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    run = os.path.realpath(directory)
    # What was set aside below the run directory is still of this run.
    is_outside = parent != run and not parent.startswith(run + os.sep)
    return os.path.relpath(path, directory), path, is_outside


def _proven(
    name: str,
    path: str,
    entry: Mapping[str, Any] | None,
    needed: Collection[str],
    known_bad: dict[tuple[int, int], Rejected],
) -> tuple[Mapping[str, Any], str] | Rejected:
    """The state and digest of a checkpoint that is whole, or why it is not to be used."""
    said = names.read_name(name)
    step = entry["step"] if entry is not None and entry["step"] is not None else said.step if said else None
    try:
        status = os.stat(path)
        identity = (status.st_dev, status.st_ino)
        if identity in known_bad:
            # The same bytes under another name: read once.
            same = known_bad[identity]
            return Rejected(name, same.why, same.damage, same.step if step is None else step)
        loaded = load_checkpoint(path, entry["digest"] if entry is not None else "")
        check_content(loaded.state, needed)
    except BadCheckpointError as error:
        rejected = Rejected(name, str(error), error.damage, step)
        known_bad[identity] = rejected
        return rejected
    except OSError as error:
        # It may be whole: whoever may read it, or a device that answers, will tell.
        return Rejected(name, error.strerror or str(error), step=step)
    except MemoryError as error:
        # An older one is as large. Passed over, this one would cost its training for nothing.
        raise UsageError(
            f"{name} cannot be loaded: memory ran out ({error}). Nothing was changed: make room, or let the job have"
            " more of it, and resume again"
        ) from error
    return loaded.state, loaded.digest


def _bad_bystanders(registry: Registry, chosen: str, known: Collection[str]) -> list[Rejected]:
    """Of the names that the next save makes a backup of, those that are damaged, and are not what was chosen."""
    bad = []
    for name in (form for of in (names.LATEST, names.BEST) for form in (of, of.removesuffix(".pt"))):
        path = os.path.join(registry.directory, name)
        entry = registry.entries.get(name)
        if entry is None or name in known:
            continue
        try:
            if os.path.samefile(path, chosen):
                continue
            if os.path.isdir(path):
                verify_directory(path)
                continue
            with open(path, "rb") as file:
                proven_digest(file, entry["digest"])
        except (BadCheckpointError, BadDirectoryError) as error:
            bad.append(Rejected(name, str(error), error.damage, entry["step"]))
        except OSError:
            continue  # it may be whole
    return bad


def _left(registry: Registry, live: Lineage | None, mine: Lineage | None, step: int) -> list[tuple[str, int]]:
    """Checkpoints that were on the run's lineage, and are on none once a session goes on from `mine` at `step`."""
    left = []
    for entry in registry.entries.values():
        at, session_id = entry["step"], entry["session_id"]
        if at is not None and is_on(live, session_id, at) and not (mine and is_on(mine, session_id, at) and at <= step):
            left.append((entry["path"], at))
    return sorted(left, key=lambda row: (-row[1], row[0]))


def _nothing_words(directory: str, wanted: str, rejected: list[Rejected], abandoned: list[str]) -> str:
    words = f"--resume {wanted}: no checkpoint can be used"
    words += "".join(f"\n  {one.name}: {one.why}" for one in rejected)
    if abandoned:
        some = ", ".join(abandoned[:_MANY]) + (f" and {len(abandoned) - _MANY} more" if len(abandoned) > _MANY else "")
        words += f"\n  on an abandoned branch: {some}. To go on from one of them, name it: --resume {abandoned[0]}"
    if any(one.damage for one in rejected):
        path = os.path.join(directory, next(one.name for one in rejected if one.damage))
        words += f"\n  What is whole in a damaged one can be had: ckpt-tui salvage {path} -o salvaged.pt"
    return words
