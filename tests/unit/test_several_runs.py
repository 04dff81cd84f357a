"""`status` and `watch --plain` on a directory of runs: a line each, one exit code, one envelope."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.commands import alert_watch, several
from ckpt_tui.events import codec, schema
from ckpt_tui.output import Style
from ckpt_tui.run.state import Phase
from ckpt_tui.services.runs import Runs, RunSummary, RunsWatch
from tests.builders.run_states import NOW

Captured = pytest.CaptureFixture[str]


def make_run(
    directory: Path, *, ended: str = "finished", num_steps: int = 10, ago_s: float = 100.0, every_s: float = 1.0
) -> Path:
    directory.mkdir(parents=True)
    ts = time.time() - ago_s - num_steps * every_s
    events: list[schema.Event] = [
        schema.RunStart(seq=1, ts=ts, session=1, run_name="gpt", total_steps=20, pid=os.getpid(),
                        host=os.uname().nodename),
        *(schema.Step(seq=at + 1, ts=ts + at * every_s, session=1, step=at, metrics={"loss": 3.0 / at})
          for at in range(1, num_steps + 1)),
    ]  # fmt: skip
    if ended:
        end = schema.RunEnd(seq=num_steps + 2, ts=ts + num_steps * every_s, session=1, step=num_steps, status=ended)
        events.append(end)
    (directory / schema.LOG_NAME).write_bytes(b"".join(map(codec.encode, events)))
    return directory


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        (["finished", "interrupted"], 0),
        (["finished", "failed"], 1),
        (["", "finished"], 2),  # one is alive, and silent for long
        (["", "diverged"], 1),
    ],
)
def test_status_has_the_exit_code_of_the_worst(tmp_path: Path, capsys: Captured, ends: list[str], code: int) -> None:
    for index, ended in enumerate(ends):
        make_run(tmp_path / f"run{index}", ended=ended, ago_s=5000)
    assert main(["status", str(tmp_path)]) == code
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[1].split() == ["run", "state", "done", "step", "loss", "at", "risk", "seen"]
    assert all("10 / 20" in line and "50 %" in line for line in said[2:])


def test_status_in_json_has_them_all_under_runs(tmp_path: Path, capsys: Captured) -> None:
    make_run(tmp_path / "a", ago_s=900)
    make_run(tmp_path / "deep" / "b", ended="failed", num_steps=4, ago_s=90)
    assert main(["status", str(tmp_path), "--json"]) == 1
    envelope = json.loads(capsys.readouterr().out)
    assert (envelope["schema"], envelope["ok"]) == ("ckpt-tui/status/1", False)
    data = envelope["data"]
    assert data["states"] == {"failed": 1, "finished": 1}
    assert [run["name"] for run in data["runs"]] == ["deep/b", "a"]
    first = data["runs"][0]
    assert (first["state"], first["step"], first["total_steps"], first["percent"]) == ("failed", 4, 20, 20)
    assert first["path"] == str(tmp_path / "deep" / "b")
    assert first["at_risk"]["steps"] == 4


def test_watch_once_says_the_same_as_status(tmp_path: Path, capsys: Captured) -> None:
    make_run(tmp_path / "a")
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert main(["watch", str(tmp_path), "--plain", "--once"]) == 0
    assert capsys.readouterr().out == said
    assert main(["watch", str(tmp_path), "--once", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["data"]["runs"]) == 1


def test_watch_ends_when_all_have_ended(tmp_path: Path, capsys: Captured) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", ended="failed")
    assert main(["watch", str(tmp_path), "--plain"]) == 0
    assert "1 failed, 1 finished" in capsys.readouterr().out


def test_watch_tells_what_changes_a_line_each(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    # Its steps take so long that it is not silent until the watch has started, on any machine.
    live = make_run(tmp_path / "b", ended="", ago_s=0, every_s=100) / schema.LOG_NAME
    command = [sys.executable, "-m", "ckpt_tui", "watch", str(tmp_path), "--plain", "--interval", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        first = [watch.stdout.readline() for _ in range(4)]
        assert first[0] == "1 running, 1 finished\n"
        with live.open("ab") as log:
            log.write(codec.encode(schema.Step(seq=12, ts=time.time(), session=1, step=11, metrics={"loss": 0.25})))
        line = watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        assert line.startswith("b   ● running   step 11 / 20   55 %   loss 0.250   at risk 11, ")
        assert watch.stdout.read() == ""
    assert watch.returncode == 130


def test_a_command_is_told_of_runs_that_break_while_they_are_watched(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--on-alert` of a directory of runs ran nothing with `--plain`, and said nothing of it."""
    runs, told = tmp_path / "runs", tmp_path / "told"
    make_run(runs / "before", ended="failed")
    live = [make_run(runs / name, ended="", ago_s=0, every_s=100) / schema.LOG_NAME for name in ("b", "c")]
    read_all = several._read_all

    def read(watch: RunsWatch) -> Runs:
        seen = read_all(watch)
        for log in live:  # once, after the watch has seen them alive
            with log.open("ab") as file:
                file.write(codec.encode(schema.RunEnd(seq=12, ts=time.time(), session=1, step=10, status="failed")))
        live.clear()
        return seen

    monkeypatch.setattr(several, "_read_all", read)
    monkeypatch.setattr(alert_watch, "LAST_COMMAND_WAIT_S", 300.0)
    command = f'echo "$CKPT_TUI_ALERT_KIND $CKPT_TUI_ALERT_DIRECTORY" >> {told}; exit 3'
    assert main(["watch", str(runs), "--plain", "--interval", "0.1", "--on-alert", command]) == 0
    assert sorted(told.read_text().splitlines()) == [f"failed {runs / name}" for name in ("b", "c")]
    assert "The command of --on-alert ended with exit code 3." in capfd.readouterr().err


def test_hostile_names_and_logs_are_shown_escaped(tmp_path: Path, capsys: Captured) -> None:
    make_run(tmp_path / "\x1b]0;owned\x07\u202e")
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "owned" in said
    assert "\x1b" not in said
    assert "\u202e" not in said


def test_lines_of_odd_runs() -> None:
    odd = RunSummary("/r/odd", "odd", error="Not a log: no step")
    lost = RunSummary("/r/x", "x", phase=Phase.CRASHED, step=127, at_risk_steps=127, at_risk_s=7.0, last_ts=NOW)
    runs = Runs("/r", (lost, odd), 2, is_whole=True, num_unreadable=2, is_cut=True)
    said = "\n".join(several.runs_lines(runs, Style(), NOW))
    for words in ("1 crashed, 1 unreadable", "Not a log: no step", "127, 7.0 s", "2 directories could not be read"):
        assert words in said
    assert several.changed_line(lost, Style()).endswith("lost 127, 7.0 s")
    assert several.changed_line(replace(lost, phase=Phase.RUNNING), Style()).endswith("at risk 127, 7.0 s")
    assert list(several.runs_lines(replace(runs, runs=()), Style(), NOW)) == ["no run below /r"]


def test_no_screen_is_loaded_for_it(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    script = (
        "import sys; from ckpt_tui import cli; code = cli.main(sys.argv[1:]);"
        "sys.exit(code or any(name in sys.modules for name in ('textual', 'rich', 'numpy', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", script, "status", str(tmp_path)], capture_output=True)
    assert done.returncode == 0, done.stderr


def add_spike(directory: Path, *, ago_s: float = 0.0) -> Path:
    """A run with a loss that jumps up and stays there, in the middle of a log that a list does not read whole."""
    directory.mkdir(parents=True)
    every_s = 20.0  # not silent for this test, however long that takes
    ts = time.time() - 3000 * every_s - ago_s
    start = schema.RunStart(seq=1, ts=ts, session=1, total_steps=9000, pid=os.getpid(), host=os.uname().nodename)
    losses = [1.0 + at % 7 / 100 + (9.0 if at > 1500 else 0.0) for at in range(1, 3001)]
    steps = [schema.Step(seq=at + 1, ts=ts + at * every_s, session=1, step=at, metrics={"loss": loss})
             for at, loss in enumerate(losses, 1)]  # fmt: skip
    (directory / schema.LOG_NAME).write_bytes(b"".join(map(codec.encode, [start, *steps])))
    return directory


@pytest.mark.parametrize(("which", "code"), [("spike", 1), ("warning", 1), ("any", 1), ("no_save,disk", 0)])
def test_status_of_several_fails_on_an_alert_of_any(tmp_path: Path, capsys: Captured, which: str, code: int) -> None:
    make_run(tmp_path / "calm")
    add_spike(tmp_path / "high")
    assert main(["status", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path), "--fail-on", which]) == code
    said = capsys.readouterr().out.splitlines()
    assert [line.startswith("high: ") and "Loss" in line for line in said[4:]] == [True] * (len(said) - 4)
    assert (len(said) > 4) is bool(code)
    assert main(["status", str(tmp_path), "--fail-on", which, "--json"]) == code
    runs = {one["name"]: one for one in json.loads(capsys.readouterr().out)["data"]["runs"]}
    assert runs["calm"]["alerts"] == []
    assert {one["kind"] for one in runs["high"]["alerts"]} == ({"spike"} if code else set())


def test_a_watch_of_several_ends_at_an_alert_of_any(tmp_path: Path, capsys: Captured) -> None:
    add_spike(tmp_path / "high")
    make_run(tmp_path / "alive", ended="", ago_s=0.0)
    assert main(["watch", str(tmp_path), "--plain", "--exit-on", "spike"]) == 1  # and is not killed by a timeout
    assert "high: " in capsys.readouterr().out.splitlines()[-1]
    assert main(["watch", str(tmp_path), "--plain", "--once", "--exit-on", "disk"]) == 0
    assert main(["watch", str(tmp_path), "--plain", "--exit-on", "nonsense"]) == 2
