"""`watch` as a command: refusals in words, and the same facts as plain lines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckpt_tui import cli
from ckpt_tui.events import codec, schema


def write_log(directory: Path, *, ended: bool) -> None:
    now = time.time()
    events: list[schema.Event] = [
        schema.RunStart(seq=1, ts=now - 20, session=1, run_name="gpt", total_steps=10, pid=os.getpid(),
                        host=os.uname().nodename),
        *(
            schema.Step(seq=at + 1, ts=now - 20 + at, session=1, step=at, metrics={"loss": 3.0 / at})
            for at in range(1, 11)
        ),
    ]  # fmt: skip
    if ended:
        events.append(schema.RunEnd(seq=12, ts=now - 5, session=1, step=10, status="finished"))
    (directory / schema.LOG_NAME).write_bytes(b"".join(codec.encode(event) for event in events))


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["/nowhere/at/all"], "Not found"),
        (["/nowhere/at/all", "--plain"], "Not found"),
        ([".", "--interval", "0"], "Usage"),
        ([".", "--interval", "nan"], "Usage"),
    ],
)
def test_what_cannot_be_watched_is_said_with_exit_code_2(
    arguments: list[str], title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["watch", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {title}: ")


def test_without_a_terminal_the_plain_command_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", str(tmp_path)]) == 2
    assert "--plain" in capsys.readouterr().err


def test_plain_says_the_same_facts_and_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, ended=True)
    assert cli.main(["watch", str(tmp_path), "--plain"]) == 0
    said = capsys.readouterr().out
    assert "finished" in said
    assert "10 / 10" in said
    assert "\x1b" not in said


def test_plain_once_does_not_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path, ended=False)
    assert cli.main(["watch", str(tmp_path), "--plain", "--once"]) == 0
    assert "gpt" in capsys.readouterr().out


def test_plain_loads_no_screens(tmp_path: Path) -> None:
    write_log(tmp_path, ended=True)
    script = (
        "import sys; from ckpt_tui import cli; code = cli.main(sys.argv[1:]);"
        "sys.exit(code or any(name in sys.modules for name in ('textual', 'rich', 'numpy', 'torch')))"
    )
    done = subprocess.run([sys.executable, "-c", script, "watch", str(tmp_path), "--plain"], capture_output=True)
    assert done.returncode == 0, done.stderr
