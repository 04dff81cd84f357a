"""What an interrupted deed left in `incoming/` that met somebody else's file: offered with its reason, and judged."""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services import journal
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.gc import GcItem, collect, plan_gc
from ckpt_tui.services.gc_words import rows_of
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.restore import carry_out, plan_restore
from tests.builders.crashing import killed_at
from tests.builders.run_directories import damage, let_age, run_directory, save
from tests.builders.set_aside import copied
from tests.builders.trees import tree_of

INCOMING = "set_aside/1/incoming/latest.pt"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A restore of latest.pt (400) from its backup (300), killed when all was ready and nothing had its name yet."""
    place = tmp_path_factory.mktemp("prepared")
    start = run_directory(place / "start")

    def is_prepared(number: int) -> bool:
        run = copied(start, place / "run")
        if not killed_at(number, partial(carry_out, plan_restore(str(run), ["latest_backup.pt"]))):
            return True
        deed = journal.read_deed(str(run), 1)
        return deed is not None and deed.state != journal.INTENT

    assert is_prepared(bisect_left(range(200), True, key=is_prepared))
    deed = journal.read_deed(str(place / "run"), 1)
    assert deed is not None
    assert deed.state == journal.PREPARED
    return place / "run"


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    directory = copied(prepared, tmp_path / "run")
    deed = journal.read_deed(str(directory), 1)
    assert deed is not None
    deed.folder_inode = (directory / "set_aside/1").stat().st_ino  # as if it had been begun here
    journal.write_deed(str(directory), deed)
    return directory


def in_conflict(run: Path) -> None:
    """A training writes the name before anybody completes the deed."""
    (run / "latest.pt").unlink()
    save(run / "latest.pt", 420, val_loss=2.5)
    assert "left alone" in begin(str(run))[1][0]
    assert [deed.state for deed in read_history(str(run)).deeds] == ["conflict"]


def incoming_of(run: Path) -> GcItem:
    (item,) = (item for item in plan_gc(str(run)).items if item.name.startswith("set_aside/1/incoming"))
    assert item.name == INCOMING
    return item


def test_a_copy_that_was_never_put_in_place_goes_when_another_stays(run: Path) -> None:
    in_conflict(run)
    item = incoming_of(run)
    assert (item.is_chosen, item.why) == (True, "never put in place, copy: rolling_step_000300.pt")
    plan = plan_gc(str(run))
    assert any(row.name == INCOMING and row.why.startswith("goes: never put in place") for row in rows_of(plan))
    before = tree_of(run)
    assert collect(plan).freed_bytes >= item.size_bytes > 0
    gone = set(before) - set(tree_of(run))
    assert {INCOMING, "set_aside/1/incoming"} <= gone
    assert not any(name.endswith(".pt") and "set_aside" not in name for name in gone)
    assert not [one for one in plan_gc(str(run)).items if one.is_chosen]
    assert [deed.state for deed in read_history(str(run)).deeds] == ["conflict"], "what it was stays told"


def test_the_only_copy_stays_unless_it_is_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_conflict(run)
    for path in run.glob("*.pt"):
        if path.name != "latest.pt":
            path.unlink()
    item = incoming_of(run)
    assert (item.is_chosen, item.why) == (False, "never put in place, the only copy that stays of step 300")
    assert plan_gc(str(run)).is_empty
    (run / "latest.pt").unlink()
    assert plan_gc(str(run), [1]).refusals, "the last valid one"
    assert main(["gc", str(run), "1", "--yes", "--json"]) == 2
    assert (run / INCOMING).exists()
    capsys.readouterr()
    assert main(["gc", str(run), "1", "--yes", "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["done"]
    assert not (run / INCOMING).exists()


def test_what_is_damaged_goes(run: Path) -> None:
    in_conflict(run)
    damage(run / INCOMING)
    let_age(run / INCOMING)
    assert (incoming_of(run).is_chosen, incoming_of(run).why) == (True, "never put in place, damaged")


def test_the_old_file_that_an_exchange_left_there_is_the_only_one(run: Path) -> None:
    """A directory changes places with the new one in one step, and lies here until it is moved on."""
    deed = journal.read_deed(str(run), 1)
    assert deed is not None
    (run / "latest.pt").replace(run / INCOMING)
    deed.moves[0].before = journal.content_of(str(run / INCOMING))
    journal.write_deed(str(run), deed)
    save(run / "latest.pt", 420, val_loss=2.5)
    begin(str(run))
    assert incoming_of(run).is_chosen, "rolling_step_000400.pt has it"
    (run / "rolling_step_000400.pt").unlink()
    assert incoming_of(run).why == "what was latest.pt, the only copy that stays of step 400"
    assert not incoming_of(run).is_chosen
