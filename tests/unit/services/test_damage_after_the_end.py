"""What `status` says of damaged checkpoints once a run is over, and what a resume is then said to lose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services import damage, validity
from ckpt_tui.services.monitor import RunMonitor
from tests.builders.run_directories import damage as damage_file
from tests.builders.run_directories import let_age, run_directory


def status_json(directory: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["status", str(directory), "--json"]) == 1
    return json.loads(capsys.readouterr().out)["data"]  # type: ignore[no-any-return]


def test_a_damaged_latest_is_said_with_its_valid_backup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_directory(tmp_path)
    damage_file(tmp_path / "latest.pt")
    assert main(["status", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("latest.pt is damaged: ")]
    assert "data/0" in line
    assert "checksum" in line
    assert line.endswith(" latest_backup.pt is valid.")
    assert lines[lines.index(line) + 1].startswith("A resume skips 0-399, redoes 400-436, then trains 563 new")
    (found,) = status_json(tmp_path, capsys)["damaged"]  # type: ignore[misc]
    assert (found["path"], found["instead"]) == ("latest.pt", "latest_backup.pt")


def test_what_was_lost_counts_from_the_newest_that_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_directory(tmp_path)
    for name in ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt"):
        damage_file(tmp_path / name)
    data = status_json(tmp_path, capsys)
    assert data["at_risk"]["checkpoint_step"] == 300  # type: ignore[index]
    assert data["at_risk"]["steps"] == 137  # type: ignore[index]
    assert data["lost"]["steps"] == 137  # type: ignore[index]


def test_the_second_time_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_directory(tmp_path)
    damage_file(tmp_path / "latest.pt")
    for path in tmp_path.glob("*.pt"):
        let_age(path)
    first = damage.judge_candidates(str(tmp_path))
    monkeypatch.setattr(validity, "validate_checkpoint", lambda *_, **__: pytest.fail("read again"))
    assert damage.judge_candidates(str(tmp_path)) == first
    assert [one.path for one in first.damaged] == ["latest.pt"]


def test_only_candidates_are_read_until_one_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_directory(tmp_path)
    damage_file(tmp_path / "latest.pt")
    damage_file(tmp_path / "rolling_step_000200.pt")
    read: list[str] = []
    check = validity.check
    monkeypatch.setattr(validity, "check", lambda path, *a, **k: read.append(Path(path).name) or check(path, *a, **k))
    damage.judge_candidates(str(tmp_path))
    assert read == ["latest.pt", "rolling_step_000400.pt", "latest_backup.pt"]


def test_checking_ends_in_time_and_says_so(tmp_path: Path) -> None:
    run_directory(tmp_path)
    damage_file(tmp_path / "latest.pt")
    late = damage.judge_candidates(str(tmp_path), budget_s=0.0)
    assert late.damaged == ()
    assert late.note == "Checking ended after 0 s with checkpoints left: ckpt-tui validate checks them all."


def test_a_running_run_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_directory(tmp_path)
    log = tmp_path / "events.jsonl"
    log.write_text(log.read_text().splitlines()[0].replace('"pid":4194305', '"pid":0') + "\n")
    monkeypatch.setattr(damage, "judge_candidates", lambda *_, **__: pytest.fail("reads beside the training"))
    monkeypatch.setattr("ckpt_tui.services.surroundings.process_is_alive", lambda *_: True)
    assert not damage.read_judged_run(str(tmp_path))[0].phase.is_over


def test_of_a_running_run_what_was_found_before_counts_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_directory(tmp_path)
    damaged = ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt")
    whole = {name: (tmp_path / name).read_bytes() for name in damaged}
    for name in damaged:
        damage_file(tmp_path / name)
        let_age(tmp_path / name)
    damage.judge_candidates(str(tmp_path))
    monkeypatch.setattr("ckpt_tui.services.surroundings.process_is_alive", lambda *_: True)
    monkeypatch.setattr(damage, "judge_candidates", lambda *_, **__: pytest.fail("reads beside the training"))
    monitor = RunMonitor(str(tmp_path))
    for _ in range(3):  # as often as somebody looks
        state, judgement = damage.judge_run(monitor, monitor.poll())
        assert not state.phase.is_over
        assert state.at_risk is not None
        assert (state.at_risk.checkpoint, state.at_risk.steps) == ("rolling_step_000300.pt", 137)
        assert {one.path for one in judgement.damaged} >= {"latest.pt", "rolling_step_000400.pt"}
        assert judgement.note == damage.NOT_READ
    assert main(["status", str(tmp_path)]) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "latest.pt is damaged: " in printed
    assert damage.NOT_READ in printed
    for name in damaged:  # the training saves again
        (tmp_path / "new").write_bytes(whole[name])
        (tmp_path / "new").replace(tmp_path / name)
    state, judgement = damage.judge_run(monitor, monitor.poll())
    assert judgement.damaged == ()
    assert state.at_risk is not None
    assert state.at_risk.steps == 37
    main(["status", str(tmp_path)])
    assert damage.NOT_READ not in " ".join(capsys.readouterr().out.split())
