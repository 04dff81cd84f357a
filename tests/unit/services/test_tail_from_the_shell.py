"""`ckpt-tui tail`: the last lines, found from the end, and what comes after them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.sources.jsonl import JsonlSource
from tests.builders.event_logs import LogText


def log_of(num_steps: int) -> LogText:
    log = LogText()
    for step in range(1, num_steps + 1):
        log.add("step", step, loss=1.0 / step)
    return log


def steps_of(path: Path, capsys: pytest.CaptureFixture[str], num_lines: int) -> list[int]:
    assert main(["tail", str(path), "--json", "-n", str(num_lines)]) == 0
    envelopes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all((one["schema"], one["ok"], one["errors"]) == ("ckpt-tui/tail/1", True, []) for one in envelopes)
    return [one["data"]["step"] for one in envelopes]


@pytest.mark.parametrize("num_lines", [0, 1, 3, 1499, 1500, 1501, 10**40])
def test_the_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str], num_lines: int) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(log_of(1500).text + b'{"torn')
    assert path.stat().st_size > 2 * 64 * 1024
    assert steps_of(path, capsys, num_lines) == list(range(max(1501 - num_lines, 1), 1501))


def test_only_the_end_is_read_and_accidents_are_still_seen(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(log_of(5000).text)
    source = JsonlSource(str(path))
    source.skip_to_last(2)
    batch = source.poll()
    assert ([event.seq for event in batch.events], batch.is_caught_up) == ([4999, 5000], True)  # type: ignore[union-attr]
    with path.open("ab") as file:
        file.write(log_of(5001).lines[-1])
    batch = source.poll()
    assert ([event.seq for event in batch.events], batch.notices) == ([5001], ())  # type: ignore[union-attr]
    path.write_bytes(b'{"event":"other","seq":7}\n' + log_of(6000).text)
    batch = source.poll()
    assert batch.restarted
    assert batch.events[0].seq == 7  # type: ignore[union-attr]


def test_words_of_each_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(2)
    log.add("checkpoint_saved", 2, path="rolling_step_000002.pt", bytes=10_400_000, save_seconds=0.2)
    log.lines.append(b"rubbish\n")
    (tmp_path / "events.jsonl").write_bytes(log.text)
    assert main(["tail", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["00:16:40", "1", "step", "loss", "1.000"]
    assert "rolling_step_000002.pt 10.4 MB: durable after 200 ms" in lines[2]
    assert lines[3].startswith("bad line at byte ")


def test_follow_tells_what_another_process_appends(tmp_path: Path) -> None:
    path, log = tmp_path / "events.jsonl", log_of(12)
    path.write_bytes(b"".join(log.lines[:10]))
    command = [sys.executable, "-m", "ckpt_tui", "tail", str(tmp_path), "-n", "2", "-f", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        give_up = threading.Timer(300.0, tail.kill)
        give_up.start()
        try:
            assert tail.stdout is not None
            begun = [json.loads(tail.stdout.readline())["data"]["step"] for _ in range(2)]
            with path.open("ab") as file:
                file.write(log.lines[10] + log.lines[11])
            told = [json.loads(tail.stdout.readline())["data"]["step"] for _ in range(2)]
        finally:
            give_up.cancel()
            tail.kill()
    assert (begun, told) == ([9, 10], [11, 12])


def test_only_the_bad_lines_of_the_whole_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"garbage\n" + log_of(1500).text + b"\0\0\n")
    assert main(["tail", str(path), "--bad"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "bad line at byte 0: not a JSON object"
    assert second.startswith(f"bad line at byte {path.stat().st_size - 3:,}: ")


def test_an_unknown_option_points_to_the_help_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tail", "x", "--worse"]) == 2
    assert "`ckpt-tui tail --help`" in capsys.readouterr().err
