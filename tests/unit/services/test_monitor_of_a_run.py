"""The monitor on real directories; status on what it sees."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import main
from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.run.state import Phase
from ckpt_tui.services.monitor import RunMonitor, read_run
from ckpt_tui.services.system import process_is_alive
from tests.builders.event_logs import LogText, worked_example


def test_a_directory_without_a_log_is_waited_for(tmp_path: Path) -> None:
    monitor = RunMonitor(str(tmp_path))
    assert monitor.poll().phase is Phase.WAITING
    (tmp_path / "events.jsonl").write_bytes(worked_example().text)
    assert monitor.poll(5.0).phase is Phase.FINISHED
    assert monitor.poll().notices == ()


def test_process_liveness_by_pid_and_start_time() -> None:
    me = psutil.Process()
    assert process_is_alive(ProcessIdentity(me.pid, me.create_time(), socket.gethostname())) is True
    assert process_is_alive(ProcessIdentity(me.pid, me.create_time() - 100, socket.gethostname())) is False
    assert process_is_alive(ProcessIdentity(me.pid, me.create_time(), "elsewhere")) is None


def test_at_risk_knows_which_files_are_there(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(worked_example(first_part_only=True).text)
    assert read_run(str(tmp_path)).at_risk.checkpoint is None  # type: ignore[union-attr]
    (tmp_path / "rolling_step_000500.pt").touch()
    assert read_run(str(tmp_path)).at_risk.checkpoint_step == 500  # type: ignore[union-attr]


@pytest.mark.parametrize("is_rotated", [True, False])
def test_a_rotated_log_continues_and_a_new_one_begins_anew(tmp_path: Path, is_rotated: bool) -> None:
    path, log = tmp_path / "events.jsonl", LogText()
    log.add("run_start", total_steps=10)
    log.add("step", 1, loss=1.0)
    path.write_bytes(log.text)
    monitor = RunMonitor(str(tmp_path))
    monitor.poll(60.0)
    path.rename(tmp_path / "events.jsonl.1")
    new = LogText()
    new.seq = 2 if is_rotated else 0
    new.add("step", 2, loss=2.0)
    path.write_bytes(new.text)
    state = monitor.poll(60.0)
    assert state.series["loss"].num_points == (2 if is_rotated else 1)
    assert state.total_steps == (10 if is_rotated else 0)
    assert len(state.notices) == 1


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("interrupted", 0), ("failed", 1), ("diverged", 1)])
def test_status_json_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, code: int) -> None:
    log = LogText()
    log.add("run_start", total_steps=2)
    log.add("step", 1, loss=1.0)
    log.add("run_end", 1, status=status)
    (tmp_path / "events.jsonl").write_bytes(log.text)
    assert main(["status", str(tmp_path), "--json"]) == code
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["schema"], envelope["ok"]) == ("ckpt-tui/status/1", code == 0)
    assert envelope["data"]["state"] == status
    assert envelope["data"].keys() >= {"step", "total_steps", "eta_s", "at_risk", "lost", "sessions", "alerts"}
