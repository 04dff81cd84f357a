"""A supervisor that is killed at any of its own file operations: never two trainings, and never none for good."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event, RunEnd
from ckpt_tui.services import supervisor
from ckpt_tui.services.supervised_process import marked
from ckpt_tui.services.supervision import Policy
from ckpt_tui.services.supervisor_record import read_fields, read_supervisor
from tests.builders.crashing import file_operations, killed_at
from tests.builders.marked import end_marked
from tests.builders.shell import wait_for

ROOT = Path(__file__).parents[3]
NUM_STEPS = 12


@pytest.fixture(autouse=True)
def _on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def keep_alive(directory: Path) -> supervisor.Outcome:
    """Supervise a training that is killed at its third step, and then comes to its end."""
    trainer = [sys.executable, "-m", "tests.builders.small_trainer", str(directory), "--steps", str(NUM_STEPS)]
    request = supervisor.Request(
        str(directory), (*trainer, "--ends", "kill@3,ok"), str(directory.parent),
        Policy(pause_s=0.0, max_restarts=0, same_step_limit=0), as_is=True,
    )  # fmt: skip
    return supervisor.supervise(request, lambda line: None)


def end_all(directory: Path) -> None:
    end_marked(str(read_fields(str(directory)).get("mark") or "none"))


def kill_at_each(directory: Path, numbers: range, when: str) -> None:
    for number in numbers:
        run = directory / f"{when}-{number}"
        run.mkdir()
        try:
            if not killed_at(number, lambda run=run: keep_alive(run), when=when, within=str(run)):  # type: ignore[misc]
                continue
            again = keep_alive(run)
            where = f"killed {when} operation {number}"
            assert again.state == "finished", f"{where}: {again}"
            assert not (run / "twice.txt").exists(), f"{where}: two trainings"
            events = [event for line in (run / "events.jsonl").open("rb") if isinstance(event := decode(line), Event)]
            assert [event.seq for event in events] == list(range(1, len(events) + 1)), where
            assert events[-1].step == NUM_STEPS, where
            # Twice where the kill came after the end: then it was started once more, and had nothing to do.
            assert {event.status for event in events if isinstance(event, RunEnd)} == {"finished"}, where
            record = read_supervisor(str(run))
            assert record is not None, where
            assert (record.state, record.is_alive) == ("finished", False), where
            wait_for(lambda run=run: not list(marked(str(read_fields(str(run))["mark"]))), "every process to end")  # type: ignore[misc]
        finally:
            end_all(run)


def num_operations(directory: Path) -> int:
    directory.mkdir()
    return len(file_operations(lambda: keep_alive(directory), within=str(directory)))


def test_a_kill_at_some_file_operations(tmp_path: Path) -> None:
    total = num_operations(tmp_path / "counted")
    assert total > 20
    kill_at_each(tmp_path, range(3, total + 1, total // 4), "before")


@pytest.mark.long
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_every_file_operation(tmp_path: Path, when: str) -> None:
    kill_at_each(tmp_path, range(1, num_operations(tmp_path / "counted") + 1), when)
