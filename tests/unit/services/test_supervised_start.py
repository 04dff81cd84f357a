"""Where a supervised session begins: the newest valid checkpoint, what that costs, the command that goes on from it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.events.schema import CheckpointSaved
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.services import supervised_start
from ckpt_tui.services.supervised_start import command_before, find_point, resuming, supervised_before
from ckpt_tui.services.supervision import Point
from ckpt_tui.services.supervisor_record import write_record
from tests.builders.run_directories import damage, save

AT_500 = Point(name="checkpoint-500", step=500)
NOWHERE = Point(is_untrained=True)
OWN = [sys.executable, "-m", "trainer", "--out", "run"]


def run_of(directory: Path, *saved: int, reached: int = 0) -> None:
    """A log of a session that saved at these steps and came to `reached`, one second a step."""
    clock = iter(range(1_790_000_000, 1_790_001_000))
    with EventWriter(directory, clock=lambda: float(next(clock))) as log:
        log.start(total_steps=100)
        for step in range(1, reached + 1):
            log.step(step, loss=1.0)
            if step in saved:
                name = f"rolling_step_{step:06d}.pt"
                data = save(directory / name, step)
                log.emit(CheckpointSaved(step=step, path=name, kind="rolling", bytes=len(data)))


def test_the_newest_valid_one_and_what_is_trained_again(tmp_path: Path) -> None:
    run_of(tmp_path, 5, 10, reached=13)
    point = find_point(str(tmp_path))
    assert (point.name, point.step, point.lost_steps, point.passed_over) == ("rolling_step_000010.pt", 10, 3, ())
    assert point.lost_s > 0
    damage(tmp_path / "rolling_step_000010.pt")
    point = find_point(str(tmp_path))
    assert (point.name, point.step, point.lost_steps) == ("rolling_step_000005.pt", 5, 8)
    assert point.passed_over == ("rolling_step_000010.pt is damaged",)


def test_nothing_saved_yet_is_no_loss_but_what_was_saved_and_is_gone_is(tmp_path: Path) -> None:
    assert find_point(str(tmp_path)).is_untrained
    run_of(tmp_path, reached=4)
    assert find_point(str(tmp_path)).is_untrained
    run_of(tmp_path, 5, reached=6)
    damage(tmp_path / "rolling_step_000005.pt")
    point = find_point(str(tmp_path))
    assert (point.name, point.is_untrained, point.why_none) == ("", False, "rolling_step_000005.pt is damaged")
    (tmp_path / "rolling_step_000005.pt").unlink()
    assert find_point(str(tmp_path)).why_none == "its log tells of 1 checkpoint, and none of them is there"


def test_what_is_only_in_quarantine_is_not_started_over(tmp_path: Path) -> None:
    (tmp_path / "quarantine").mkdir()
    save(tmp_path / "quarantine" / "latest.pt", 5)
    assert find_point(str(tmp_path)).why_none == "1 damaged checkpoint in quarantine/, and no other"


def test_room_for_a_save_is_asked_for_where_one_did_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes = len(save(tmp_path / "rolling_step_000005.pt", 5))
    monkeypatch.setattr(supervised_start, "MIN_ROOM_BYTES", 10)
    monkeypatch.setattr(supervised_start, "_free_bytes", lambda directory: size_bytes - 1)
    assert not find_point(str(tmp_path)).is_full
    assert find_point(str(tmp_path), needs_room_for_save=True).is_full


def test_a_person_who_stops_it_does_not_wait_for_the_validation(tmp_path: Path) -> None:
    run_of(tmp_path, 5, reached=6)
    with pytest.raises(Cancelled):
        find_point(str(tmp_path), is_cancelled=lambda: True)


def command(words: list[str], point: Point = AT_500, **how: bool) -> list[str]:
    return list(resuming(words, "/runs/run", cwd="/runs", point=point, **how).command)


def test_our_trainer_looks_for_the_newest_valid_one_by_itself() -> None:
    assert command(OWN) == [*OWN, "--resume", "auto"]
    assert command(OWN, NOWHERE) == [*OWN, "--resume", "auto"]
    best = [*OWN, "--resume", "best"]
    assert command(best) == best  # as a person said, the first time
    assert command(best, is_first=False) == [*OWN, "--resume", "auto"]
    torchrun = ["torchrun", "--nproc_per_node", "2", *OWN[1:]]
    assert command(torchrun) == [*torchrun, "--resume", "auto"]


def test_our_trainer_of_another_directory_is_refused() -> None:
    with pytest.raises(CkptError, match="trains in /runs/other"):
        resuming([*OWN[:-1], "other"], "/runs/run", cwd="/runs", point=NOWHERE)


def test_the_path_goes_where_it_belongs_and_without_one_its_option_is_left_out() -> None:
    words = ["python", "t.py", "--ckpt", "{checkpoint}", "--x={checkpoint}", "--lr", "1"]
    path = "/runs/run/checkpoint-500"
    assert command(words) == ["python", "t.py", "--ckpt", path, f"--x={path}", "--lr", "1"]
    assert command(words, NOWHERE) == ["python", "t.py", "--lr", "1"]


def test_what_a_script_shows_of_how_it_resumes_is_used(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("parser.add_argument('--resume_from_checkpoint', default=None)\n")
    words = ["python", str(script), "--lr", "1"]
    assert command(words) == [*words, "--resume_from_checkpoint", "/runs/run/checkpoint-500"]
    assert command(words, NOWHERE) == words
    assert command(words, as_is=True) == words


def test_what_nothing_tells_of_is_started_as_it_is_and_known_as_such(tmp_path: Path) -> None:
    words = ["bash", "-c", "python t.py"]
    start = resuming(words, str(tmp_path), cwd=str(tmp_path), point=AT_500)
    assert (list(start.command), start.is_known) == (words, False)
    assert resuming(words, str(tmp_path), cwd=str(tmp_path), point=AT_500, as_is=True).is_known


def test_another_programs_log_tells_how_far_it_came(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n" + "".join(f"{step},1.5\n" for step in range(1, 14)))
    save(tmp_path / "checkpoint_step_10.pt", 10)
    point = find_point(str(tmp_path))
    assert (point.name, point.step, point.lost_steps) == ("checkpoint_step_10.pt", 10, 3)


def test_the_command_of_the_supervisor_before_holds_until_others_start_a_training(tmp_path: Path) -> None:
    assert supervised_before(str(tmp_path)) is None
    said = {"pid": 1, "pid_started": 1.0, "host": "here", "state": "finished", "since": 100.0, "session": 1,
            "command": ["python", "train.py"], "cwd": "/"}  # fmt: skip
    (tmp_path / "supervisor.json").write_text(json.dumps(said))
    run_of(tmp_path, reached=2)
    before = supervised_before(str(tmp_path))
    assert before is not None
    assert before.command == ("python", "train.py")
    launched = {"pid": 2, "pid_started": 1.0, "host": "here", "ts": 99.0, "by": "resume"}
    for by, ts, is_kept in (("resume", 99.0, True), ("supervise", 101.0, True), ("resume", 101.0, False)):
        (tmp_path / "launch.json").write_text(json.dumps({**launched, "by": by, "ts": ts}))
        assert (supervised_before(str(tmp_path)) is not None) == is_kept
    (tmp_path / "launch.json").unlink()
    run_of(tmp_path, reached=2)  # by hand
    assert supervised_before(str(tmp_path)) is None


@pytest.mark.parametrize("is_moved", [True, False])
def test_the_command_before_trains_in_the_copy_or_where_it_was_moved(tmp_path: Path, is_moved: bool) -> None:
    run, here = tmp_path / "run", tmp_path / "here"
    run.mkdir()
    run_of(run, reached=2)
    fields: dict[str, object] = {
        "pid": 1, "pid_started": 1.0, "host": "here", "state": "finished", "since": 100.0, "session": 1,
    }  # fmt: skip

    def command_of(*words: str, cwd: Path) -> tuple[list[str], str]:
        before = supervised_before(str(here))
        assert before is not None
        return command_before(str(here), replace(before, command=words, cwd=str(cwd)))

    write_record(str(run), {**fields, "command": ["python", "train.py"], "cwd": str(tmp_path)})
    if is_moved:
        run.rename(here)
    else:
        shutil.copytree(run, here)
    for told, said in (
        (("train", "--out", str(run)), ("train", "--out", str(here))),
        (("train", "--out=run/sub"), ("train", f"--out={here}/sub")),
    ):
        assert command_of(*told, cwd=tmp_path) == (list(said), str(tmp_path))
    assert command_of("./train", "--out", ".", cwd=run) == (["./train", "--out", "."], str(here))
    with pytest.raises(CkptError, match="it would train there, and not here"):
        command_of("train", cwd=tmp_path)
