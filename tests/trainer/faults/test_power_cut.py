"""What a cut of the power leaves, when nothing that was not flushed can be relied on (`tests/builders/unsynced.py`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import torch

from ckpt_tui.events.writer import EventWriter
from ckpt_tui.services.catalog import read_catalog
from tests.builders.unsynced import Journal, Sync, materialise
from tests.builders.unsynced_recording import recorded
from tests.trainer.faults.states import is_of_its_step, state_at
from trainer.checkpoint import proven
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.errors import UsageError

POLICY = Policy(keep_rolling=2, keep_emergency=1)
Save = tuple[int, Collection[str]]
# Everything that a save event can be: first, with a best, with an epoch's end, one that retention follows, emergency.
FIRST: list[Save] = [(1, {"rolling", "best"})]
LATER: list[Save] = [(2, {"rolling"}), (3, {"rolling", "best", "epoch"}), (4, {"emergency"}), (5, {"emergency"})]


def record(root: Path, saves: list[Save], before: Collection[Save] = (), *, is_waited_for: bool = True) -> Journal:
    """The journal of `saves` into `root`/run, after the undisturbed `before`. A mark: a step that is called durable."""
    root.mkdir()
    if before:
        save_all(root / "run", before, lambda step: None)
    with recorded(root) as journal:
        save_all(root / "run", saves, journal.mark, is_waited_for=is_waited_for)
    return journal


def save_all(
    directory: Path, saves: Collection[Save], mark: Callable[[int], None], *, is_waited_for: bool = True
) -> None:
    log = EventWriter(directory)
    with Checkpointer(directory, POLICY, log=log, say=lambda line: None) as checkpoints:
        checkpoints.find("auto")
        for step, kinds in saves:
            state = state_at(step, epoch=step // 3)
            if is_waited_for:
                assert checkpoints.save_now(state, kinds, "regular")
                mark(step)
                continue
            checkpoints.save(state, kinds)
            while checkpoints.last_step < step:
                checkpoints.poll()
            mark(step)
    log.close()


def resumed_step(directory: Path) -> int:
    """Where a resume starts; -1 for from nothing. What it loads is whole."""
    if not directory.exists():
        return -1
    with Checkpointer(directory, POLICY, say=lambda line: None) as checkpoints:
        try:
            source = checkpoints.find("auto")
        except UsageError:
            return -1  # there are files, and none of them is good
        if source is None:
            return -1
        assert is_of_its_step(source.state), f"{source.name} is not what was saved"
        return int(source.state["step"])


def viewed_step(directory: Path) -> int:
    """Where the viewer, which looked at every byte, says that a resume starts. What it calls valid, is."""
    if not directory.exists():
        return -1
    catalog = read_catalog(str(directory), check="full")
    for entry in catalog.entries:
        if entry.validity == "valid":
            assert is_of_its_step(torch.load(entry.path, weights_only=True)), f"{entry.name} is not what was saved"
    taken = catalog.entry(catalog.resume_would_take or "")
    return -1 if taken is None or taken.step is None else taken.step


def floors_that_fell(
    journal: Journal, place: Path, floor: int, look: Callable[[Path], int] = resumed_step, **bounds: int
) -> Iterator[str]:
    """The crashes after which a resume starts before what had been called durable, in words."""
    place.mkdir(exist_ok=True)
    num_seen = 0
    for crash in journal.crashes(**bounds):
        tree = place / "tree"
        materialise(journal, crash, tree)
        step, expected = look(tree / "run"), max([floor, *crash.marks])
        if step < expected:
            yield f"{crash.told}: {expected} was durable, resumed from {step}"
        shutil.rmtree(tree)
        num_seen += 1
    assert num_seen > 20, "too few states to say anything"


@pytest.mark.parametrize("is_waited_for", [True, False], ids=["waited", "background"])
@pytest.mark.parametrize(("saves", "before"), [(FIRST, []), (LATER, FIRST)], ids=["first", "later"])
def test_what_was_called_durable_survives_a_power_cut(
    scratch: Path, saves: list[Save], before: list[Save], is_waited_for: bool
) -> None:
    journal = record(scratch / "root", saves, before, is_waited_for=is_waited_for)
    floor = max((step for step, _ in before), default=-1)
    assert list(floors_that_fell(journal, scratch / "crashes", floor, per_cut=4)) == []


def test_what_was_written_past_the_page_cache_survives_a_power_cut(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files go another way (O_DIRECT); here all do, on a disk that knows that way where there is one."""
    monkeypatch.setattr(proven, "_DIRECT_BYTES", 4096)
    journal = record(tmp_path / "root", LATER[:2], FIRST)
    assert list(floors_that_fell(journal, scratch / "crashes", 1, per_cut=3)) == []


def test_the_viewer_finds_the_same_after_a_power_cut(scratch: Path) -> None:
    journal = record(scratch / "root", LATER[:2], FIRST)

    def both(directory: Path) -> int:
        viewed = viewed_step(directory)
        assert resumed_step(directory) == viewed
        return viewed

    assert list(floors_that_fell(journal, scratch / "crashes", 1, both, per_cut=3)) == []


@pytest.mark.parametrize("left_out", ["file", "directory"])
def test_a_save_without_its_flushes_is_found_out(scratch: Path, left_out: str) -> None:
    """The negative control: the layer that finds nothing in the trainer finds the loss when a flush is missing."""
    whole = record(scratch / "root", LATER[:2], FIRST)

    def of_kind(sync: Sync) -> bool:
        return whole.is_directory(sync) == (left_out == "directory")

    lossy = whole.without_syncs(of_kind)
    assert len(lossy.operations) < len(whole.operations)
    assert next(floors_that_fell(lossy, scratch / "crashes", 1, per_cut=6), None) is not None


def test_the_directory_of_a_run_is_itself_made_durable(scratch: Path) -> None:
    (scratch / "root").mkdir()
    with recorded(scratch / "root") as journal:
        save_all(scratch / "root" / "runs" / "new" / "run", FIRST, journal.mark)
    for crash in journal.crashes(per_cut=4):
        materialise(journal, crash, scratch / "tree")
        assert resumed_step(scratch / "tree" / "runs" / "new" / "run") >= max(crash.marks, default=-1), crash.told
        shutil.rmtree(scratch / "tree")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4))
def test_many_power_cuts(scratch: Path, seed: int) -> None:
    journal = record(scratch / "root", [*LATER, *((step + 4, kinds) for step, kinds in LATER)], FIRST)
    assert list(floors_that_fell(journal, scratch / "crashes", 1, per_cut=60, seed=seed)) == []
