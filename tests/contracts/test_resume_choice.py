"""Viewer and trainer name the same checkpoint for an automatic resume: on whole, damaged and branched directories."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.events.lineage import is_on
from ckpt_tui.services import restore
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.owner import run_state
from ckpt_tui.services.undo import plan_redo
from ckpt_tui.tui.widgets.checkpoint_list import rows_of
from tests.builders.resume_histories import History
from tests.trainer.faults.states import state_at
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.lineage import lineage_of
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import find
from trainer.checkpoint.state import NEEDED
from trainer.errors import UsageError
from trainer.listing import facts_of_checkpoints


def seeds(first: int, end: int) -> list[object]:
    """The second half of them is for the long suite."""
    half = (first + end) // 2
    return [*range(first, half), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(half, end))]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nothing is cut off from its power here
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def agree(run: Path) -> str | None:
    """Hold the two against each other; gives what both take."""
    catalog = read_catalog(str(run), check="full")
    registry = Registry(str(run))
    registry.sync()
    lineage = lineage_of(str(run), registry)
    try:
        source = find(str(run), "auto", registry)
    except UsageError:
        source = None
    taken = source.name if source is not None else None
    assert catalog.resume_would_take == taken, sorted(os.listdir(run))
    assert [entry.name for entry in catalog.entries if entry.resume_takes] == ([taken] if taken else [])
    # Of a damaged one, one of the two may read more than the other.
    whole = {entry.name: entry for entry in catalog.entries if not entry.is_bad}
    assert {name for name, entry in whole.items() if entry.is_abandoned} == {
        name
        for name in whole
        if not is_on(lineage, registry.entries[name]["session_id"], registry.entries[name]["step"])
    }
    return taken


@pytest.mark.parametrize("seed", seeds(100, 106))
def test_both_take_the_same(seed: int, tmp_path: Path) -> None:
    history = History(tmp_path / "run", seed)
    history.session(None, history.random.randint(1, 4))
    for _ in range(10):
        history.something()
        agree(history.run)


@pytest.fixture
def run(tmp_path: Path) -> History:
    """Steps of one session; then 2 more on a branch from its second save."""
    history = History(tmp_path / "run", 1)
    history.session(None, 4)
    second = sorted(history.contents(), key=lambda row: row[1])[1][0].name
    history.session(second, 2)
    return history


def test_quarantined_files_are_no_checkpoints_of_the_run_and_are_told(run: History) -> None:
    taken = agree(run.run)
    assert taken is not None
    with open(run.run / taken, "r+b") as file:
        file.truncate(100)
    run.model.bad.add((run.run / taken).read_bytes())
    agree(run.run)
    run.session("auto", 0)
    agree(run.run)
    catalog = read_catalog(str(run.run))
    assert catalog.num_quarantined == len(list(run.run.glob("quarantine/*.pt"))) > 0
    assert not [entry.name for entry in catalog.entries if "quarantine" in entry.name]


def test_a_rollback_to_a_branch_that_was_left_is_what_the_trainer_takes_and_undo_takes_it_back(run: History) -> None:
    directory = str(run.run)
    before = agree(run.run)
    left = [entry for entry in read_catalog(directory).entries if entry.is_abandoned and entry.kind != "latest"]
    target = max(left, key=lambda entry: entry.step or 0)
    plan = restore.plan_rollback(directory, target.name)
    assert plan.resume_step == target.step
    restore.carry_out(plan, force=True)  # this very process wrote the log
    taken = agree(run.run)
    assert taken is not None
    registry = Registry(directory)
    registry.sync()
    assert registry.entries[taken]["step"] == target.step
    # Also after a copy that keeps no times: no file is the one that the registry has entered.
    copy = shutil.copytree(directory, run.run.with_name("copy"), copy_function=shutil.copyfile)
    assert agree(copy) == taken
    restore.carry_out(restore.plan_undo(directory), force=True)
    assert agree(run.run) == before
    # Without a registry one is written, which says on which branch the run is; undo takes that away, too.
    (run.run / "registry.json").unlink()
    before = agree(run.run)
    restore.carry_out(restore.plan_rollback(directory, target.name), force=True)
    taken = agree(run.run)
    assert taken is not None
    registry = Registry(directory)
    registry.sync()
    assert registry.entries[taken]["step"] == target.step
    restore.carry_out(restore.plan_undo(directory), force=True)
    assert not (run.run / "registry.json").exists()
    assert agree(run.run) == before


def test_a_rollback_on_the_live_branch_is_followed_by_the_next_session(run: History) -> None:
    directory = str(run.run)
    live = [entry for entry in read_catalog(directory).entries if not entry.is_abandoned and entry.step is not None]
    target = min(live, key=lambda entry: entry.step or 0)
    restore.carry_out(restore.plan_rollback(directory, target.name), force=True)
    registry = Registry(directory)
    registry.sync()
    taken = agree(run.run)
    assert taken is not None
    assert registry.entries[taken]["step"] == target.step
    # What was set aside comes back after training went on: it is of another branch by then.
    step = target.step or 0
    checkpoints = Checkpointer(directory, Policy(is_async=False), needed=NEEDED, say=lambda line: None)
    assert checkpoints.find("auto") is not None
    checkpoints.save(state_at(step + 1, width=200), {"rolling"})
    checkpoints.close()
    restore.carry_out(restore.plan_undo(directory), force=True)
    agree(run.run)


def test_both_take_the_same_where_checkpoints_are_directories(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def session(wanted: str | None, *steps: int) -> None:
        policy = Policy(is_async=False, checkpoint_format="dir")
        with Checkpointer(run, policy, needed=NEEDED, say=lambda line: None) as checkpoints:
            if wanted is not None:
                assert checkpoints.find(wanted) is not None
            for step in steps:
                checkpoints.save(state_at(step, width=200), {"rolling", "best"})

    session(None, 10, 20, 30)
    assert agree(run) == "latest"
    with open(run / "latest" / "model.pt", "r+b") as file:
        file.truncate(400)
    assert agree(run) == "rolling_last_backup"
    session("auto", 40)
    assert agree(run) == "latest"
    session("rolling_step_000010")
    assert agree(run) == "rolling_step_000010"
    (run / "registry.json").unlink()
    agree(run)


def act(directory: str, rng: random.Random) -> str | None:
    """Some act of the viewer: carried out, and what its plan said a resume then takes; "" where it was refused."""
    entries = [entry for entry in read_catalog(directory).entries if entry.step is not None]
    target = rng.choice(entries)
    to = rng.choice([target.name, f"{target.step:,}", target.path, "best", "latest"])
    plan_it = rng.choice([
        lambda: restore.plan_restore(directory),
        lambda: restore.plan_rollback(directory, to),
        lambda: restore.plan_rollback(directory, to),
        lambda: restore.plan_undo(directory),
        lambda: plan_redo(directory),
    ])  # fmt: skip
    try:
        plan = plan_it()
    except CkptError as error:
        if error.title in ("No such checkpoint", "Not good to resume from", "Which one?", "Step not known"):
            return ""
        raise
    if plan.is_empty:
        return ""
    restore.carry_out(plan, force=True)  # this very process wrote the log
    if plan.act == "rollback":
        assert plan.resume_takes is not None
    return plan.resume_takes


@pytest.mark.parametrize("seed", seeds(200, 206))
def test_both_take_the_same_after_whatever_the_viewer_did(seed: int, tmp_path: Path) -> None:
    history = History(tmp_path / "run", seed)
    history.session(None, 4)
    rng = random.Random(seed)
    num_acts = 0
    for _ in range(12):
        if rng.random() < 0.4:
            history.session("auto", rng.randint(0, 2))
        elif rng.random() < 0.3:
            history.damage()
        for _ in range(2):
            told = act(str(history.run), rng)
            taken = agree(history.run)
            if taken is not None:  # the model of what is live knows nothing of acts
                content = dict(history.contents())[history.run / taken]
                history.model.live = history.model.before[content]
            if told != "":
                num_acts += 1
                assert taken == told
    assert num_acts >= 3


@pytest.mark.parametrize("seed", seeds(300, 304))
def test_both_take_the_same_after_whatever_the_viewer_did_with_directories(seed: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rng = random.Random(seed)
    at = 0

    def session(wanted: str | None) -> None:
        nonlocal at
        policy = Policy(is_async=False, checkpoint_format="dir", keep_rolling=3)
        with Checkpointer(run, policy, needed=NEEDED, say=lambda line: None) as checkpoints:
            if wanted is not None:
                source = checkpoints.find(wanted)
                assert source is not None
                at = source.step
            for _ in range(rng.randint(0 if wanted else 3, 3)):
                at += rng.randint(1, 20)
                checkpoints.save(state_at(at, width=200), rng.choice([{"rolling"}, {"rolling", "best"}, {"emergency"}]))

    session(None)
    num_acts = 0
    for _ in range(8):
        if rng.random() < 0.4:
            session("auto")
        elif rng.random() < 0.3:
            taken = agree(run)
            assert taken is not None
            with open(run / taken / "model.pt", "r+b") as file:
                file.truncate(400)
            if agree(run) is None:
                return  # everything is damaged: there is nothing to go back to
        for _ in range(2):
            told = act(str(run), rng)
            taken = agree(run)
            if told != "":
                num_acts += 1
                assert taken == told
    assert num_acts >= 1


def test_what_was_left_behind_is_said_by_list_watch_and_trainer(
    run: History, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = str(run.run)
    catalog = read_catalog(directory)
    left = {entry.name for entry in catalog.entries if entry.is_abandoned}
    assert left
    assert main(["list", directory]) == 0
    assert (
        "Left behind by a resume from an earlier step, and not taken by an automatic one: " in capsys.readouterr().out
    )
    state = run_state(directory)
    assert state is not None
    assert {row.name for row in rows_of(state, catalog) if "abandoned" in row.note} == left
    registry = Registry(directory)
    registry.sync()
    assert {row["path"] for row in facts_of_checkpoints(registry) if row["is_abandoned"]} == left
