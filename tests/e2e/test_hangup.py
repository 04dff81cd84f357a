"""A training that was started from here outlives whatever held it: a terminal, a tmux, an SSH connection.

Each test really hangs up: the kernel ends the shell and the viewer, and the training goes on, in steps and in output.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ckpt_tui.services.processes import look_at
from ckpt_tui.tui.dialogs.resume import CALM_S
from tests.builders.shell import cli, events, last_step, wait_for
from tests.builders.watched_pty import WatchedPty
from tests.e2e.terminal import Terminal, require_tmux

pytest.importorskip("torch")

REPO = Path(__file__).parents[2]
TRAIN = {
    "n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "batch_size": 2, "mini_batch_size": 2,
    "max_steps": 10_000_000, "eval_freq": 1_000_000, "checkpoint_freq": 50, "keep_checkpoints": 2, "threads": 1,
    "print_seconds": 0.05,
}  # fmt: skip
# No test of ours is to be told by another's virtual environment where the tool is.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPO), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
RESUME = [sys.executable, "-m", "ckpt_tui", "resume"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was killed after a few saves."""
    directory = tmp_path_factory.mktemp("hangup") / "run"
    options = [word for key, value in TRAIN.items() for word in (f"--{key}", str(value))]
    with (directory.parent / "out.log").open("wb") as log:
        trainer = subprocess.Popen(
            [sys.executable, "-m", "trainer", "--out", str(directory), *options], cwd=REPO, stdout=log, stderr=log
        )
    wait_for(lambda: _has_saved(directory) or trainer.poll() is not None, "60 steps of training and a checkpoint")
    assert trainer.poll() is None, (directory.parent / "out.log").read_text()
    trainer.kill()
    trainer.wait()
    return directory


def _has_saved(directory: Path) -> bool:
    """Saves are written beside the training: the step alone does not tell of one."""
    return last_step(directory, 1) > 60 and any(event["event"] == "checkpoint_saved" for event in events(directory))


@pytest.fixture
def session(run: Path) -> Iterator[int]:
    """The number of the session that the test starts; stopped when it is over, with everything saved."""
    number = 1 + max(
        (json.loads(line)["session"] for line in (run / "events.jsonl").read_bytes().splitlines()[-3:]), default=0
    )
    yield number
    pid = json.loads((run / "launch.json").read_text())["pid"]
    try:
        stopped = cli("stop", str(run), "--yes")
        assert stopped["lost"]["steps"] == 0, stopped
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def assert_goes_on(run: Path, session: int) -> None:
    """It trains on, and what it prints goes on to its file."""
    pid = json.loads((run / "launch.json").read_text())["pid"]
    output = run / f"session_{session}.log"
    step, size = last_step(run, session), output.stat().st_size
    wait_for(lambda: last_step(run, session) > step + 20 or look_at(pid) is None, "20 more steps")
    wait_for(lambda: output.stat().st_size > size or look_at(pid) is None, "more output")
    assert look_at(pid) is not None, output.read_text()[-2000:]
    process = psutil.Process(pid)
    assert process.terminal() is None
    assert os.getsid(pid) == pid


def gone(pid: int) -> bool:
    process = look_at(pid)
    return process is None


def test_terminal_that_closes_while_resume_waits(run: Path, session: int) -> None:
    shell, terminal = pty.fork()
    if shell == 0:
        os.chdir("/")
        line = f"{sys.executable} -m ckpt_tui resume {run} --yes --wait 600; sleep 600"
        os.execve("/bin/sh", ["sh", "-c", line], ENVIRONMENT)
    printed = b""
    # `It trains` comes later: it is hung up in the middle of the waiting, too.
    with contextlib.suppress(OSError):  # it has ended: what it printed says why
        while b"has started" not in printed:
            printed += os.read(terminal, 4096)
    assert b"has started" in printed, printed[-3000:]
    children = [child.pid for child in psutil.Process(shell).children(recursive=True)]
    os.close(terminal)
    os.waitpid(shell, 0)
    launched = json.loads((run / "launch.json").read_text())["pid"]
    wait_for(lambda: all(gone(pid) for pid in children if pid != launched), "the end of what held the terminal")
    wait_for(lambda: last_step(run, session) > 0 or gone(launched), "its first step")
    assert_goes_on(run, session)


@pytest.mark.long
def test_terminal_that_closes_under_a_watch_that_started_it(run: Path, session: int) -> None:
    watch = WatchedPty(["watch", str(run)], ENVIRONMENT, REPO)
    before = (run / "launch.json").read_bytes() if (run / "launch.json").exists() else b""
    watch.read_until(b"crashed") if session == 2 else watch.read_until(b"preempted")
    watch.write(b"r")
    watch.read_until(b"max_steps")

    def is_launched() -> bool:
        return (run / "launch.json").exists() and (run / "launch.json").read_bytes() != before

    ends = time.monotonic() + 120
    while not is_launched() and time.monotonic() < ends:
        # As a person who reads it: Enter in haste starts nothing, nor does one that is pressed all the time.
        watch.read_for(4 * CALM_S)
        watch.write(b"\r")
        seen = time.monotonic()
        while not is_launched() and time.monotonic() < seen + 5:
            watch.read_for(0.05)
    assert is_launched(), watch.received[-3000:]
    os.close(watch.descriptor)
    os.waitpid(watch.pid, 0)
    wait_for(lambda: last_step(run, session) > 0, "its first step")
    assert_goes_on(run, session)


@pytest.mark.long
def test_of_two_resumes_at_once_one_starts(run: Path, session: int) -> None:
    command = [*RESUME, str(run), "--yes", "--wait", "60", "--json"]
    both = [subprocess.Popen(command, cwd=REPO, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    told = sorted(((one.communicate(timeout=300)[0], one.returncode) for one in both), key=lambda pair: pair[1])
    assert [code for _, code in told] == [0, 2], told
    data, refusal = (json.loads(text) for text, _ in told)
    assert "running here already" in refusal["errors"][0]["title"] + refusal["errors"][0]["message"], refusal
    assert json.loads((run / "launch.json").read_text())["pid"] == data["data"]["pid"]
    assert_goes_on(run, session)


@pytest.mark.long
def test_tmux_whose_server_is_killed(run: Path, session: int) -> None:
    require_tmux()
    terminal = Terminal(REPO, environment={"PYTHONPATH": str(REPO)})
    try:
        terminal.run([*RESUME, str(run), "--yes"])
        terminal.wait_for("Watch it:")
    finally:
        terminal.close()
    assert_goes_on(run, session)


def sshd_path() -> str:
    path = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if path is None or shutil.which("ssh") is None:
        pytest.skip("needs sshd (apt-get install openssh-server)")
    if os.geteuid() != 0:
        pytest.skip("needs root, to run an sshd of its own")
    return path


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[list[str]]:
    """The beginning of an `ssh` command line that logs in here, at a server of the test's own."""
    path = sshd_path()
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        f"StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile none\nPasswordAuthentication no\n"
    )
    with (tmp_path / "sshd.log").open("wb") as log:
        server = subprocess.Popen([path, "-D", "-e", "-f", config], stderr=log)
    try:
        wait_for(lambda: b"listening" in (tmp_path / "sshd.log").read_bytes(), "sshd", timeout_s=120)
        yield [
            "ssh", "-tt", "-i", str(tmp_path / "user"), "-p", str(port), "-o", "StrictHostKeyChecking=no",
            "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@127.0.0.1",
        ]  # fmt: skip
    finally:
        server.kill()
        server.wait()


@pytest.mark.long
def test_ssh_connection_that_is_cut(run: Path, sshd: list[str], session: int, tmp_path: Path) -> None:
    pid_file, start = tmp_path / "shell.pid", tmp_path / "start.sh"
    start.write_text(
        f"echo $$ > {pid_file}\ncd {REPO}\n{sys.executable} -m ckpt_tui resume {run} --yes --no-wait\nsleep 600\n"
    )
    with (tmp_path / "ssh.out").open("wb") as out:
        client = subprocess.Popen([*sshd, f"sh {start}"], stdin=subprocess.PIPE, stdout=out, stderr=out)
    try:
        wait_for(
            lambda: b"Watch it" in (tmp_path / "ssh.out").read_bytes() or client.poll() is not None, "the start",
        )  # fmt: skip
        assert client.poll() is None, (tmp_path / "ssh.out").read_text()
    finally:
        client.kill()  # SIGKILL: it does not say goodbye
        client.wait()
    shell = int(pid_file.read_text())
    wait_for(lambda: gone(shell), "the end of the shell at the other end")
    wait_for(lambda: last_step(run, session) > 0, "its first step")
    assert_goes_on(run, session)
