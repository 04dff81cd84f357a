"""A run directory with deeds that hold something, and what a plan of gc makes of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from ckpt_tui.errors import CkptError
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import GcFile, GcPlan
from ckpt_tui.services.restore import carry_out
from ckpt_tui.services.undo import plan_undo
from tests.builders.trees import tree_of


def copied(start: Path, directory: Path) -> Path:
    """With the hard links that a run has."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    known: dict[int, Path] = {}
    for path in sorted(start.rglob("*")):
        new = directory / path.relative_to(start)
        if path.is_dir():
            new.mkdir()
        elif path.stat().st_ino in known:
            os.link(known[path.stat().st_ino], new)
        else:
            shutil.copy2(path, new)
            known[path.stat().st_ino] = new
    return directory


def chosen(plan: GcPlan) -> list[str]:
    """The names of the things of which something goes."""
    return [item.name for item in plan.items if item.is_chosen]


def going(plan: GcPlan) -> set[str]:
    """The places of all that goes."""
    return {path for item in plan.items if item.is_chosen for path in item.paths}


def files_of(plan: GcPlan) -> dict[str, GcFile]:
    """Of the deeds, by place."""
    return {file.place: file for item in plan.items for file in item.files}


def undo_says_truly(directory: Path) -> None:
    """What the plan of the next undo says comes back does, and what it says does not come back does not."""
    history = read_history(str(directory))
    if history.next_undo is None:
        with contextlib.suppress(CkptError):  # which says what gc freed, and how far back one can go beyond it
            assert plan_undo(str(directory)).is_empty
        return
    plan = plan_undo(str(directory))
    if plan.is_empty:
        assert plan.warnings, plan
        return
    before = tree_of(directory)
    carry_out(plan)
    after = tree_of(directory)
    for step in plan.steps:
        if step.action == "put back" and step.target != "registry.json":
            assert after[step.target] == before[step.source]
    for warning in plan.warnings:
        told = re.match(r"Freed by gc at [\d-]+ [\d:]+: (.*) (do(?:es)? not come back|stays? as)", warning)
        for name in told[1].split(", ") if told is not None else ():
            assert name in after if told[2].startswith("stay") else name not in after, warning
            assert after.get(name) == before.get(name)


def valid_steps(directory: Path) -> set[int | None]:
    """The steps of which something valid is there, also aside."""
    folders = [directory, *(directory / "set_aside").glob("[0-9]*")]
    entries = [entry for folder in folders for entry in read_catalog(str(folder), check="full").entries]
    return {entry.step for entry in entries if entry.validity == "valid"}
