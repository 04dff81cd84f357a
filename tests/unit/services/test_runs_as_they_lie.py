"""What lies where a run was expected: nothing yet, several runs, a log with an editor's mark, a torn last line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services.monitor import read_run
from tests.builders.event_logs import LogText, worked_example

Captured = pytest.CaptureFixture[str]


def dead_run(directory: Path, tail: bytes = b"") -> LogText:
    """Finished long ago, on another host."""
    log = worked_example()
    directory.mkdir(exist_ok=True)
    (directory / "events.jsonl").write_bytes(log.text + tail)
    return log


def test_json_of_the_watch_is_an_envelope_a_line(tmp_path: Path, capsys: Captured) -> None:
    dead_run(tmp_path)
    assert main(["watch", str(tmp_path), "--plain", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    envelope = json.loads(line)
    assert (envelope["schema"], envelope["ok"], envelope["errors"]) == ("ckpt-tui/watch/1", True, [])
    assert (envelope["data"]["state"], envelope["data"]["step"]) == ("finished", 1270)


def test_json_of_a_bad_line_is_an_envelope_that_is_not_ok(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "events.jsonl").write_bytes(b"rubbish\n")
    assert main(["tail", str(tmp_path), "--json"]) == 0
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["schema"], envelope["ok"]) == ("ckpt-tui/tail/1", False)
    assert envelope["data"] == {"bad_line": "not a JSON object", "offset": 0, "num_bytes": 7}


def test_a_byte_order_mark_costs_no_line(tmp_path: Path) -> None:
    log = worked_example()
    (tmp_path / "events.jsonl").write_bytes(b"\xef\xbb\xbf" + log.text)
    state = read_run(str(tmp_path))
    assert (state.bad_lines.count, len(state.sessions), state.num_events) == (0, 2, len(log.lines))
    copy = tmp_path / "copy.log"
    copy.write_bytes(b"\xef\xbb\xbf" + log.text)
    assert read_run(str(copy)).num_events == len(log.lines)


@pytest.mark.parametrize("before", [b"", b"rubbish\n"])
def test_a_torn_last_line_of_a_dead_run_is_counted(before: bytes, tmp_path: Path, capsys: Captured) -> None:
    log = dead_run(tmp_path, before + b'{"v":1,"event":"st')
    bad = read_run(str(tmp_path)).bad_lines
    assert bad.count == (2 if before else 1)
    assert bad.first_offset == len(log.text)
    assert main(["status", str(tmp_path)]) == 0
    assert "1 bad line" in capsys.readouterr().out or before


def test_a_line_that_is_being_written_is_not_bad(tmp_path: Path) -> None:
    import os
    import socket
    import time

    from ckpt_tui.process_identity import process_started

    log = LogText(time.time())
    log.add("run_start", pid=os.getpid(), pid_started=process_started(), host=socket.gethostname())
    log.add("step", 1, loss=1.0)
    (tmp_path / "events.jsonl").write_bytes(log.text + b'{"v":1,"event":"st')
    state = read_run(str(tmp_path))
    assert (state.phase.value, state.bad_lines.count) == ("running", 0)


@pytest.mark.parametrize("has_log_beside", [False, True])
@pytest.mark.parametrize("command", ["advise", "tail"])
def test_a_directory_of_runs_is_named_as_such(
    command: str, has_log_beside: bool, tmp_path: Path, capsys: Captured
) -> None:
    """Also where the output of one of them was sent to a file beside them: `advise` took that for the run."""
    for name in ("a b", "gpt"):
        dead_run(tmp_path / name)
    (tmp_path / "notes").mkdir()
    if has_log_beside:
        (tmp_path / "gpt.log").write_text("".join(f"step {step}: loss {3 - step / 10}\n" for step in range(10)))
    assert main([command, str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "A directory of runs" in said
    assert f"Give one: '{tmp_path}/a b', {tmp_path}/gpt." in said


def test_no_advice_without_an_event(tmp_path: Path, capsys: Captured) -> None:
    assert main(["advise", str(tmp_path)]) == 2
    assert "holds no event yet" in capsys.readouterr().err
    assert main(["status", str(tmp_path)]) == 0  # it may be about to begin
    assert "waiting" in capsys.readouterr().out


def test_commands_that_are_suggested_can_be_pasted(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckpt_tui.services import demo

    told = demo.Demo(str(tmp_path / "my run"), "running", 17, None, ())
    monkeypatch.setattr(demo, "start_demo", lambda *_, **__: told)
    assert main(["demo", "--no-watch"]) == 0
    out = capsys.readouterr().out
    assert f"ckpt-tui watch '{tmp_path}/my run'" in out
    assert f"ckpt-tui stop '{tmp_path}/my run'" in out
