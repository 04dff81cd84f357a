"""Undo and redo over any history: no bytes are ever lost, undo of all is the start, redo of all is the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import CheckpointRestored
from ckpt_tui.services.restore import Plan, carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from tests.builders.crashing import dies_at, file_operations
from tests.builders.deed_histories import random_plan, registered, state_of, three_deeds, trained
from tests.builders.run_directories import damage, let_age, run_directory, save


def contents(directory: Path) -> set[str]:
    """The digest of every checkpoint's bytes, wherever they are."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.rglob("*.pt")}


def restored_events(directory: Path) -> Iterator[CheckpointRestored]:
    for event in map(decode, (directory / "events.jsonl").read_bytes().splitlines()):
        if isinstance(event, CheckpointRestored):
            yield event


def test_undo_to_the_first_and_redo_to_the_last_and_once_more(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    states = three_deeds(directory)
    for _ in range(2):
        for state in states[-2::-1]:
            carry_out(plan_undo(str(directory)))
            assert state_of(directory) == state
        assert plan_undo(str(directory)).sentences == ("There is nothing to undo.",)
        for state in states[1:]:
            carry_out(plan_redo(str(directory)))
            assert state_of(directory) == state
        assert plan_redo(str(directory)).sentences == ("There is nothing to redo: nothing was taken back.",)


@pytest.mark.parametrize("to", [1, 2, 3])
def test_undo_to_a_number_is_one_plan_and_one_deed(tmp_path: Path, to: int) -> None:
    directory = tmp_path / "run"
    states = three_deeds(directory)
    plan = plan_undo(str(directory), to=to)
    assert plan.takes_back == tuple(range(3, to - 1, -1))
    assert [sentence.split(" of ")[0] for sentence in plan.sentences if sentence.startswith("Takes")] == [
        "Takes back the rollback", "Takes back the rollback", "Takes back the restore"
    ][: 4 - to]  # fmt: skip
    assert carry_out(plan).number == 4
    assert state_of(directory) == states[to - 1]
    carry_out(plan_redo(str(directory)))
    assert state_of(directory) == states[3], "the redo takes all of the last undo back"
    for state in states[2::-1]:  # what came back together goes one by one
        carry_out(plan_undo(str(directory)))
        assert state_of(directory) == state


def test_after_a_new_deed_there_is_nothing_to_redo(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    states = three_deeds(directory)
    carry_out(plan_undo(str(directory), to=2))
    carry_out(plan_rollback(str(directory), "300"))
    plan = plan_redo(str(directory))
    assert plan.is_empty
    assert "since the last undo something else was done" in plan.sentences[0]
    carry_out(plan_undo(str(directory)))
    assert state_of(directory) == states[1]
    carry_out(plan_undo(str(directory)))
    assert state_of(directory) == states[0], "what lay below the new deed is undone after it"


def test_what_a_redo_found_is_what_the_undo_of_it_gives_back(tmp_path: Path) -> None:
    """A training wrote between the undo and the redo: its file is neither lost nor mixed up with the older one."""
    directory = tmp_path / "run"
    three_deeds(directory)
    carry_out(plan_undo(str(directory), to=1))
    trained(directory, 500)
    state = state_of(directory)
    plan = plan_redo(str(directory))
    assert any("latest.pt" in warning and "written since" in warning for warning in plan.warnings)
    carry_out(plan)
    carry_out(plan_undo(str(directory), to=1))
    now = state_of(directory)
    assert {name: now[name] for name in now if name != "registry.json"} == {
        name: state[name] for name in state if name != "registry.json"
    }


def test_deed_that_does_not_hold_is_refused_by_its_number(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    three_deeds(directory)
    carry_out(plan_undo(str(directory)))
    before = state_of(directory)
    for number, why in ((3, "was taken back already, by number 4"), (4, "it is an undo"), (9, "there is no deed")):
        with pytest.raises(CkptError, match=why) as caught:
            plan_undo(str(directory), to=number)
        assert "These hold: 1, 2;" in caught.value.hint
    assert state_of(directory) == before


def test_copy_of_the_whole_directory_is_undone_as_the_directory_itself(tmp_path: Path) -> None:
    """`cp -a` to another disk: every inode differs."""
    states = three_deeds(tmp_path / "run")
    directory = shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for state in states[-2::-1]:
        plan = plan_undo(str(directory))
        assert not [warning for warning in plan.warnings if "since" in warning]
        carry_out(plan)
        now = state_of(directory)
        assert now.pop("registry.json")
        assert now == {name: facts for name, facts in state.items() if name != "registry.json"}


class TestWhatHappenedMeanwhile:
    def test_file_that_was_changed_while_it_lay_aside_is_said(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        three_deeds(directory)
        aside = directory / "set_aside/3/rolling_step_000300.pt"
        save(aside, 301)
        plan = plan_undo(str(directory))
        assert any("set_aside/3/rolling_step_000300.pt" in w and "while it lay aside" in w for w in plan.warnings)

    def test_file_that_was_damaged_while_it_lay_aside_is_said_but_not_one_that_was_damaged_before(
        self, tmp_path: Path
    ) -> None:
        directory = tmp_path / "run"
        three_deeds(directory)
        carry_out(plan_undo(str(directory), to=2))
        assert not [w for w in plan_undo(str(directory)).warnings if "damaged" in w], "latest.pt was so before"
        carry_out(plan_redo(str(directory)))
        for name in ("rolling_step_000300.pt", "rolling_step_000400.pt"):
            aside = next(directory.glob(f"set_aside/*/{name}"))
            times = aside.stat()
            damage(aside)
            os.utime(aside, ns=(times.st_atime_ns, times.st_mtime_ns))
            let_age(aside)
        warnings = plan_undo(str(directory), to=2).warnings
        for name in ("rolling_step_000300.pt", "rolling_step_000400.pt"):
            assert any(name in warning and "damaged" in warning for warning in warnings), name

    def test_one_file_that_is_gone_leaves_its_name_alone_and_the_rest_comes_back(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        states = three_deeds(directory)
        now = state_of(directory)
        (directory / "set_aside/3/latest.pt").unlink()
        plan = plan_undo(str(directory))
        assert any("set_aside/3/latest.pt is no longer there: latest.pt stays" in warning for warning in plan.warnings)
        carry_out(plan)
        assert state_of(directory) == {**states[2], "latest.pt": now["latest.pt"]} | {
            "registry.json": state_of(directory)["registry.json"]
        }

    def test_name_that_retention_removed_since_is_no_trouble(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        states = three_deeds(directory)
        for step in (500, 600, 700, 800):
            trained(directory, step)
        assert not (directory / "rolling_step_000200.pt").exists()
        before = contents(directory)
        carry_out(plan_undo(str(directory), to=1))
        assert before <= contents(directory)
        assert state_of(directory)["latest.pt"] == states[0]["latest.pt"]
        assert (directory / "rolling_step_000800.pt").exists(), "what the training wrote since stays"

    def test_step_that_a_resume_falls_back_to_is_said(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        three_deeds(directory)
        trained(directory, 900)
        (directory / "rolling_step_000900.pt").unlink()
        plan = plan_undo(str(directory))
        assert any("before latest.pt (step 900), which it takes now" in warning for warning in plan.warnings)

    def test_file_where_there_was_none_before_stays_when_somebody_else_wrote_it(self, tmp_path: Path) -> None:
        directory = run_directory(tmp_path / "run")
        (directory / "best_model.pt").unlink()
        carry_out(plan_restore(str(directory)))
        data = save(directory / "new", 500)
        (directory / "new").replace(directory / "best_model.pt")
        plan = plan_undo(str(directory))
        assert plan.is_empty
        assert any("best_model.pt was written since; it stays" in warning for warning in plan.warnings)
        assert (directory / "best_model.pt").read_bytes() == data

    def test_journal_that_cannot_be_read_is_said_and_the_others_are_undone(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        three_deeds(directory)
        (directory / "set_aside/3/journal.json").write_bytes(b"\x00torn")
        (directory / "set_aside/notes").mkdir()
        before = contents(directory)
        plan = plan_undo(str(directory))
        assert plan.takes_back == (2,)
        assert any("set_aside/3/ cannot be read" in warning for warning in plan.warnings)
        carry_out(plan)
        assert contents(directory) == before
        assert (directory / "set_aside/notes").is_dir()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])
def test_undo_and_redo_are_in_the_log_once_each_even_over_kills(memory_path: Path, every: int) -> None:
    start = memory_path / "start"
    three_deeds(start)
    for act, plan_it in (("undo", partial(plan_undo, to=2)), ("redo", plan_redo)):
        if act == "redo":
            carry_out(plan_undo(str(start), to=2))
        directory = copied(start, memory_path / "run")
        operations = file_operations(partial(carry_out, plan_it(str(directory))))
        told = [(event.path, event.source) for event in restored_events(directory) if event.extra["act"] == act]
        assert told
        for number in range(1, len(operations) + 1, every):
            directory = copied(start, memory_path / "run")
            before, bytes_before = state_of(directory), contents(directory)
            plan = plan_it(str(directory))
            assert dies_at(number, partial(carry_out, plan)), number
            plan_undo(str(directory))
            assert bytes_before <= contents(directory), number
            now = [(event.path, event.source) for event in restored_events(directory) if event.extra["act"] == act]
            assert now in ([], told), f"operation {number} ({operations[number - 1]})"
            assert (state_of(directory) == before) == (now == []), number


def test_event_of_a_deed_that_was_interrupted_is_not_written_again_days_later(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    three_deeds(directory)
    carry_out(plan_undo(str(directory)))
    told = list(restored_events(directory))
    journal_path = directory / "set_aside/4/journal.json"
    deed = json.loads(journal_path.read_text())
    deed.update(state="moved", started_at=deed["started_at"] - 86400)  # killed before its last line
    journal_path.write_text(json.dumps(deed))
    with open(directory / "events.jsonl", "ab") as log:
        for step in range(500, 9000):
            line = {
                "v": 1,
                "event": "step",
                "seq": step + 1000,
                "ts": 1.8e9 + step,
                "session": 2,
                "step": step,
                "loss": 1.0,
            }
            log.write(json.dumps({**line, "note": "x" * 100}).encode() + b"\n")
    assert any("now completed" in warning for warning in plan_undo(str(directory)).warnings)
    assert list(restored_events(directory)) == told


def test_undo_that_was_killed_before_a_training_wrote_is_undone_as_far_as_it_can_be(memory_path: Path) -> None:
    start = memory_path / "start"
    three_deeds(start)
    directory = copied(start, memory_path / "run")
    operations = file_operations(partial(carry_out, plan_undo(str(directory))))
    num_conflicts = num_written_over = num_refused = 0
    for number in range(1, len(operations) + 1, 5):
        directory = copied(start, memory_path / "run")
        assert dies_at(number, partial(carry_out, plan_undo(str(directory)))), number
        written(directory, "latest.pt")
        num_conflicts += any("left alone" in warning for warning in plan_undo(str(directory)).warnings)
        for path in directory.glob("*.pt"):
            written(directory, path.name)
        before = contents(directory)
        try:
            plan = plan_undo(str(directory))
        except CkptError:
            num_refused += 1
            continue
        num_written_over += any("What was there is gone" in warning for warning in plan.warnings)
        assert all(move.source != move.target for move in plan.moves)
        if not plan.is_empty:
            carry_out(plan)
        assert before <= contents(directory), number
    assert num_conflicts
    assert num_written_over + num_refused


def written(directory: Path, name: str) -> None:
    save(directory / ".tmp-new", 777)
    (directory / ".tmp-new").replace(directory / name)


def copied(start: Path, directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(start, directory)
    return directory


State = dict[str, tuple[str, int, int]]


class Editor:
    """What holds and what may come back, as an editor has it: two stacks, and a new deed clears the second."""

    def __init__(self) -> None:
        self.done: list[tuple[int, State, State]] = []  # number, the state before it, the state after it
        self.undone: list[list[tuple[int, State, State]]] = []

    def hold_against(self, plan: Plan, number: int, before: State, after: State) -> None:
        if plan.act == "undo":
            first = next(at for at, (one, _, _) in enumerate(self.done) if one == min(plan.takes_back))
            self.undone.append(self.done[first:])
            del self.done[first:]
            assert after == self.undone[-1][0][1]
        elif plan.act == "redo":
            self.done += self.undone.pop()
            assert after == self.done[-1][2]
        else:
            self.undone.clear()
            self.done.append((number, before, after))


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 8))])
def test_random_histories_lose_no_bytes(memory_path: Path, seed: int, trains: bool) -> None:
    """Restores, rollbacks, undos down to any number, redos; also with a training that writes in between."""
    chance = random.Random(seed)
    directory = registered(run_directory(memory_path / "run"))
    editor = Editor()
    for _ in range(14):
        before, bytes_before = state_of(directory), contents(directory)
        choices = ["restore", "rollback", "rollback", "undo", "undo to", "redo", *(["train"] * 3 if trains else [])]
        what = chance.choice(choices)
        if what == "train":
            trained(directory, chance.randrange(100, 1000))
            continue
        try:
            plan = random_plan(what, directory, chance, [number for number, _, _ in editor.done])
        except CkptError:
            continue
        if not plan.is_empty:
            number = carry_out(plan).number
            if not trains:
                editor.hold_against(plan, number, before, state_of(directory))
        assert bytes_before <= contents(directory), f"{what} lost bytes"
    for _, start, _ in reversed(editor.done):
        carry_out(plan_undo(str(directory)))
        assert state_of(directory) == start
    assert trains or plan_undo(str(directory)).is_empty
