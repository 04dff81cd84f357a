"""What a supervisor says of itself is believed only while the process that said it lives."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import main
from ckpt_tui.commands.watch import _is_over as is_over
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.services.monitor import read_run
from ckpt_tui.services.supervisor_record import (
    RECORD_NAME,
    SupervisorState,
    live_supervisor,
    read_supervisor,
    supervisor_words,
)

NOW = 1_790_000_000.0


def record(directory: Path, **fields: object) -> None:
    alive = psutil.Process()
    said = {
        "pid": alive.pid, "pid_started": alive.create_time(), "host": socket.gethostname(), "state": "running", **fields
    }  # fmt: skip
    (directory / RECORD_NAME).write_text(json.dumps(said))


def test_one_that_lives_is_in_charge(tmp_path: Path) -> None:
    child = {"child_pid": 7, "child_pid_started": 5.0}
    record(tmp_path, state="waiting", restarts=2, next_try_at=NOW + 40, last_exit="killed by SIGKILL", **child)
    supervisor = live_supervisor(str(tmp_path))
    assert supervisor is not None
    assert (supervisor.pid, supervisor.is_alive, supervisor.is_in_charge) == (os.getpid(), True, True)
    assert (supervisor.last_exit, supervisor.child_pid) == ("killed by SIGKILL", 7)
    assert supervisor_words(supervisor, NOW) == "supervised, 2 restarts, next try in 40 s"
    assert supervisor_words(supervisor, NOW + 60) == "supervised, 2 restarts, next try now"


def test_a_killed_one_is_not_in_charge_whoever_has_its_pid_now(tmp_path: Path) -> None:
    record(tmp_path, pid_started=psutil.Process().create_time() - 3600, restarts=1)
    supervisor = read_supervisor(str(tmp_path))
    assert supervisor is not None
    assert not supervisor.is_in_charge
    assert supervisor_words(supervisor, NOW) == "supervisor is gone, 1 restart"
    assert live_supervisor(str(tmp_path)) is None


def test_one_on_another_host_counts_as_in_charge_until_it_says_otherwise(tmp_path: Path) -> None:
    record(tmp_path, host="elsewhere")
    supervisor = live_supervisor(str(tmp_path))
    assert supervisor is not None
    assert supervisor.is_alive is None
    record(tmp_path, host="elsewhere", state="finished")
    assert live_supervisor(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state": "running"}, "supervised"),
        ({"state": "running", "restarts_by": "torch\x1brun"}, r"supervised, restarts by torch\x1brun"),
        ({"state": "stopping"}, "supervised, stopping"),
        ({"state": "gave up", "restarts": 10}, "supervisor gave up, 10 restarts"),
        ({"state": "finished"}, ""),
        ({"state": "stopped"}, ""),
    ],
)  # fmt: skip
def test_words(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    record(tmp_path, **fields)
    supervisor = read_supervisor(str(tmp_path))
    assert supervisor is not None
    assert supervisor_words(supervisor, NOW) == words
    assert supervisor.state in SupervisorState


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "7", '{"pid": 1}', '{"pid": "1", "pid_started": 1, "host": "", "state": "running"}',
     '{"pid": 1, "pid_started": NaN, "host": "", "state": "running"}', "[" * 100_000,
     '{"pid": 1, "pid_started": 1, "host": "", "state": "flying"}',
     '{"pid": 1e400, "pid_started": 1, "host": "", "state": "running"}'],
)  # fmt: skip
def test_garbage_is_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD_NAME).write_text(content)
    assert read_supervisor(str(tmp_path)) is None


def test_nothing_there_is_nobody(tmp_path: Path) -> None:
    assert read_supervisor(str(tmp_path)) is None
    assert live_supervisor(str(tmp_path / "missing")) is None


def test_status_says_how_it_is_supervised_and_the_plain_watch_waits_for_the_next_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventWriter(tmp_path) as log:
        log.start(total_steps=9)
        log.step(3, loss=1.0)
        log.end("failed", "OSError: gone")
    state = read_run(str(tmp_path))
    assert is_over(state)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    record(tmp_path, state="waiting", restarts=2, next_try_at=now + 3600, told="exit code 1 \x1b]0;x")
    assert not is_over(state)
    assert main(["status", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]["supervisor"]
    assert (told["state"], told["is_in_charge"], told["restarts"]) == ("waiting", True, 2)
    assert told["words"].startswith("supervised, 2 restarts, next try in 1h 00m")
    main(["status", str(tmp_path)])
    assert r"Supervised, 2 restarts, next try in 1h 00m: exit code 1 \x1b]0;x." in capsys.readouterr().out
    record(tmp_path, state="gave up")
    assert is_over(state)
