"""The history of deeds: what was done, what is still held, what can be taken back, and why not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services.deeds import History, read_history
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from ckpt_tui.text import size
from tests.builders.crashing import killed_at
from tests.builders.deed_histories import three_deeds
from tests.builders.run_directories import run_directory
from tests.builders.trees import tree_of


@pytest.fixture
def run(tmp_path: Path) -> Path:
    three_deeds(tmp_path / "run")
    return tmp_path / "run"


def states(history: History) -> list[tuple[int, str, str]]:
    return [(deed.number, deed.act, deed.state) for deed in history.deeds]


def test_states_follow_undo_and_redo(run: Path) -> None:
    history = read_history(str(run))
    assert states(history) == [(1, "restore", "done"), (2, "rollback", "done"), (3, "rollback", "done")]
    assert (history.next_undo, history.next_redo) == (3, None)
    assert all(deed.can_undo for deed in history.deeds)
    carry_out(plan_undo(str(run), to=2))
    history = read_history(str(run))
    assert states(history)[1:] == [(2, "rollback", "undone"), (3, "rollback", "undone"), (4, "undo", "done")]
    assert (history.next_undo, history.next_redo) == (1, 4)
    assert [deed.undone_by for deed in history.deeds] == [None, 4, 4, None]
    assert history.deeds[1].why_not == "number 4 took it back"
    carry_out(plan_redo(str(run)))
    history = read_history(str(run))
    assert states(history)[1:] == [
        (2, "rollback", "done"), (3, "rollback", "done"), (4, "undo", "undone"), (5, "redo", "done")
    ]  # fmt: skip
    assert (history.next_undo, history.next_redo) == (3, None)


def test_bytes_that_are_held_are_those_on_the_disk(run: Path) -> None:
    for deed in read_history(str(run)).deeds:
        there = tree_of(run / "set_aside" / str(deed.number), without=["journal.json"])
        assert {file.name: file.size_bytes for file in deed.held} == {
            name: len(data) for name, data in there.items() if data is not None
        }
        assert deed.size_bytes == sum(len(data) for data in there.values() if data is not None)
        assert all((run / file.place).is_file() for file in deed.held)


def test_interrupted_deed_is_told_and_nothing_is_touched(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    assert killed_at(30, partial(carry_out, plan_rollback(str(directory), "200")))
    before = tree_of(directory)
    (deed,) = read_history(str(directory)).deeds
    assert (deed.state, deed.can_undo) == ("interrupted", False)
    assert tree_of(directory) == before


def test_what_is_gone_unreadable_or_not_ours_is_told(run: Path) -> None:
    for file in read_history(str(run)).deeds[2].held:
        (run / file.place).unlink()
    (run / "set_aside/1/journal.json").write_text("{")
    (run / "set_aside/2/thesis.txt").write_text("mine")
    (run / "set_aside/photos").mkdir()
    history = read_history(str(run))
    assert [deed.state for deed in history.deeds] == ["unreadable", "done", "done"]
    assert history.next_undo is None
    assert not history.deeds[2].can_undo
    assert "no longer there" in history.deeds[2].why_not
    assert history.deeds[0].held, "its files are told all the same"
    assert history.deeds[1].strangers == ("set_aside/2/thesis.txt",)
    assert history.not_ours == ("set_aside/photos",)


def test_list_from_the_shell(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    before = tree_of(run)
    assert main(["undo", str(run), "--list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert [(deed["number"], deed["act"], deed["state"]) for deed in data["deeds"]] == states(read_history(str(run)))
    assert data["next_undo"] == 3
    assert main(["undo", str(run), "--list"]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # where a line breaks depends on where the run lies
    assert "takes back 3 (rollback)" in shown
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["undo", str(run), "--list"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > 40 and str(run) not in line]
    assert tree_of(run) == before
    assert main(["undo", str(run), "--to", "2", "--yes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["takes_back"], data["undoes"], data["done"]) == ([3, 2], 3, True)
    assert main(["undo", str(run), "--redo", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["takes_back"] == [4]
    for wrong in (["--to", "0"], ["--to", "9"], ["--to", "x"], ["--redo", "--list"]):
        assert main(["undo", str(run), "--yes", *wrong]) == 2
        assert capsys.readouterr().err


def test_directory_without_deeds_and_one_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").touch()
    assert read_history(str(tmp_path)).deeds == ()
    assert main(["undo", str(tmp_path), "--list"]) == 0
    assert "nothing to undo" in capsys.readouterr().out
    assert main(["undo", str(tmp_path / "nowhere"), "--list"]) == 2


def test_list_of_checkpoints_says_in_a_line_what_lies_aside(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "quarantine").mkdir()
    (run / "quarantine/latest_20260101_000000_checksum.pt").write_bytes(b"x" * 1500)
    assert main(["list", str(run)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    history = read_history(str(run))
    assert f"{size(history.size_bytes)} set aside by 3 deeds, for `undo`; `ckpt-tui undo {run} --list`" in shown
    assert f"1 in quarantine/, 1.5 kB: found bad by a resume, kept; `ckpt-tui gc {run} --dry-run`" in shown
    assert main(["list", str(run), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["set_aside"] == {"deeds": 3, "bytes": history.size_bytes}
    assert (data["num_quarantined"], data["quarantine_bytes"]) == (1, 1500)
    for path in run.glob("*.pt"):
        path.unlink()
    assert main(["list", str(run)]) == 0
    assert "set aside by 3 deeds" in capsys.readouterr().out


def test_a_deed_of_which_a_redo_left_all_alone_is_told_and_gone_beyond(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it had displaced was freed: an undo of it changed nothing, and so the redo had nothing to do again."""
    run = str(run_directory(tmp_path / "run"))
    carry_out(plan_restore(run, ["best_model_previous.pt"]))
    carry_out(plan_restore(run, ["latest_backup.pt"]))
    collect(plan_gc(run, [2]))
    carry_out(plan_rollback(run, "200"))
    carry_out(plan_undo(run, to=2))
    carry_out(plan_redo(run))
    assert read_history(run).next_undo == 3
    carry_out(plan_undo(run))
    history = read_history(run)
    assert (history.next_undo, history.deeds[1].why_not) == (
        None, "when it was done again, all that it had changed was left alone"
    )  # fmt: skip
    with pytest.raises(CkptError, match="Cannot be taken back") as caught:
        plan_undo(run)
    assert "undo" in caught.value.hint
    assert "--to 1" in caught.value.hint
    assert main(["undo", run, "--list"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "--to 1` takes back 1 (restore), and of the deeds after it what can be." in said
    assert [step.target for step in plan_undo(run, to=1).steps] == ["best_model.pt"]
