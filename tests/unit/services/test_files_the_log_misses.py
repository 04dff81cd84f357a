"""Checkpoint files count though the log does not tell of them: it was cut, or its trainer tells of no saves."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from ckpt_tui.cli import main
from ckpt_tui.run.timeline import resume_outlook
from ckpt_tui.run.wording import lost_sentence, resume_sentence
from ckpt_tui.services.damage import read_judged_run
from ckpt_tui.services.resume import plan_resume
from tests.builders.run_directories import damage, run_directory


def keep_lines(directory: Path, last_step: int = 10_000, without: str = "") -> None:
    """The log as it is after it was cut behind a step, or of a trainer that does not tell of everything."""
    log = directory / "events.jsonl"
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    kept = [line for line in lines if line["step"] <= last_step and line["event"] != without]
    log.write_text("".join(json.dumps({**line, "seq": seq}) + "\n" for seq, line in enumerate(kept, 1)))


def agree(directory: Path, step: int, redone: int, new: int) -> str:
    """What `status` says was lost; it and the plan of a resume agree."""
    state, _ = read_judged_run(str(directory))
    outlook, plan = resume_outlook(state), plan_resume(str(directory))
    assert (outlook.step, outlook.redone, outlook.new) == (step, redone, new)
    assert (plan.step, plan.steps_redone, plan.steps_new) == (step, redone, new)
    assert (plan.redone_s, plan.new_s) == pytest.approx((outlook.redone_s, outlook.new_s))
    sentence = lost_sentence(state)
    assert sentence is not None
    assert resume_sentence(state) is not None
    return sentence[0]


def test_saves_that_no_log_tells_of(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    keep_lines(directory, without="checkpoint_saved")
    assert agree(directory, 400, 37, 563).startswith("Lost 37 steps")
    for name in ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt"):
        damage(directory / name)
    assert agree(directory, 300, 137, 563).startswith("Lost 137 steps")


def test_files_that_are_newer_than_a_log_that_was_cut(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    keep_lines(directory, 250)
    said = agree(directory, 400, 0, 600)
    assert said.startswith("Nothing that the log tells of was lost: ")
    assert said.endswith(" is newer than its last line.")


def test_a_stand_in_is_called_by_its_own_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody shall read that the last valid one is rolling 400 beside the news that rolling 400 is damaged."""
    directory = run_directory(tmp_path / "run")
    keep_lines(directory, without="checkpoint_saved")
    log = directory / "events.jsonl"
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    names = ["best_model.pt", "latest.pt", "best_model_backup.pt", "rolling_last_backup.pt"]
    for name in names:
        shutil.copy2(directory / "rolling_step_000400.pt", directory / name)
    index = next(index for index, line in enumerate(lines) if line["step"] == 400) + 1
    saved = {"event": "checkpoint_saved", "kind": "rolling", "path": "rolling_step_000400.pt"}
    lines.insert(index, {**lines[index - 1], **saved, "names": ["rolling_step_000400.pt", *names]})
    log.write_text("".join(json.dumps({**line, "seq": seq}) + "\n" for seq, line in enumerate(lines, 1)))
    for name in ("rolling_step_000400.pt", "latest.pt", "best_model.pt"):
        damage(directory / name)
    plan = plan_resume(str(directory))
    assert (plan.checkpoint_name, plan.step) == ("rolling_last_backup.pt", 400)
    assert agree(directory, 400, 37, 563).endswith(" since rolling_last_backup.pt, step 400.")
    assert main(["status", str(directory), "--at", "437"]) == 1
    said = capsys.readouterr().out
    assert "go back to  rolling_last_backup.pt 400  valid  37 steps before  (rolling 400 is of no use)" in said


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_plain_watch_says_what_status_says(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run that is over it tells of the damage, too, and counts from what a resume really takes."""
    directory = run_directory(tmp_path / "run")
    for name in ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt"):
        damage(directory / name)
    now = time.time()
    with patch("time.time", lambda: now):
        assert main(["status", str(directory), *flags]) == 1
        said = capsys.readouterr().out
        assert main(["watch", str(directory), "--plain", "--once", *flags]) == 0
        plain = capsys.readouterr().out
    if flags:
        assert json.loads(plain)["data"]["damaged"]
        assert json.loads(plain)["data"] == json.loads(said)["data"]
    else:
        assert "Lost 137 steps" in plain
        assert "latest.pt is damaged" in plain
        assert plain == said
