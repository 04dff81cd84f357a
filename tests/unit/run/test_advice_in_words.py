"""How sure the advice is, and how it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.commands.advise import advise_lines
from ckpt_tui.commands.status import status_lines
from ckpt_tui.events.codec import decode, encode
from ckpt_tui.events.schema import LostWork, SaveAdvice
from ckpt_tui.output import Style
from ckpt_tui.run.advice import advise
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.services.damage import read_judged_run
from tests.builders.event_logs import worked_example


def test_advice_is_plain_english_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = worked_example()
    log.lines = [line.replace(b'"stall_seconds": 0.5', b'"stall_seconds": 0.5, "save_seconds": 2.5, "bytes": 10400000')
                 for line in log.lines]  # fmt: skip
    (tmp_path / "events.jsonl").write_bytes(log.text)
    assert main(["advise", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "A save stops training for 500 ms (the usual of 1 save)." in said
    assert "1 failure in 1h 30m of training." in said
    assert "That alone says every 16m 04s to 2d 11h (95 % sure)" in said
    assert "A save is written for 2.0 s more while training goes on" in said
    assert "From the end of a session to the next one's first step: 1h 42m (the usual of 1)." in said
    assert " a day." in said


def test_no_failure_yet_in_plain_english() -> None:
    fold = RunFold()
    fold.apply_all([decode(line) for line in worked_example().lines[:400]])
    lines = list(advise_lines(advise(fold.state(2300.0, Beside(is_process_alive=True))), Style()))
    assert "No failure so far, in 21m 22s of training." in lines
    assert (
        "- One failure a day is expected: a guess, since none came in the 21m 22s seen. "
        "That alone says only: rarer than once in 7m 07s (95 % sure)."
    ) in lines


@pytest.mark.parametrize("command", ["advise", "status"])
def test_it_fits_80_columns(tmp_path: Path, command: str) -> None:
    (tmp_path / "events.jsonl").write_bytes(worked_example().text)
    state, judgement = read_judged_run(str(tmp_path))
    style = Style(width=80)
    if command == "advise":
        lines = list(advise_lines(advise(state), style))
    else:
        lines = list(status_lines(state, style, judgement))
    assert lines
    assert max(map(len, lines)) <= 80


def test_what_the_trainer_measured_and_predicted_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = worked_example()
    lines = list(log.lines)
    lines.append(encode(SaveAdvice(
        seq=9001, ts=9000.0, session=2, step=1270, save_cost_seconds=0.3, background_seconds=2.0, slowdown=0.15,
        num_saves=9, lost_per_failure_seconds=805.0, bytes_per_day=1e9, save_every_seconds=1610.0,
    )))  # fmt: skip
    lines.append(encode(LostWork(
        seq=9002, ts=9001.0, session=2, step=1270, lost_session=1, from_step=500, to_step=899, seconds=1285.0,
        predicted_seconds=805.0,
    )))  # fmt: skip
    (tmp_path / "events.jsonl").write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in lines))
    assert main(["advise", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (
        "A save costs 300 ms of training (the usual of 9 saves): it is written for 2.0 s meanwhile, "
        "which slows the steps by 15 %." in said
    )
    assert "A failure cost 21m 25s of training (mean of 1); 13m 25s was predicted." in said
    assert "A failure is predicted to lose 13m 25s of training." in said
    assert "is not measured" not in said
    main(["status", str(tmp_path)])
    assert "13m 25s a failure was predicted." in capsys.readouterr().out
    main(["status", str(tmp_path), "--json"])
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["advice"]["save_cost_seconds"] == 0.3
    assert data["failures"][0]["predicted_seconds"] == 805.0
