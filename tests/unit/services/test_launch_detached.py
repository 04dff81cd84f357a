"""What a started training has of who started it: nothing of the terminal, the signals and the files of the viewer."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tui.services import detached_child, launch, logout
from ckpt_tui.services.child_environment import training_environment
from ckpt_tui.services.launch import TrainingDiedError, launched_log, start
from ckpt_tui.services.launch_record import read_record
from ckpt_tui.services.launchers.template import Template, keep_template
from ckpt_tui.services.outputs import newest_output
from ckpt_tui.services.start_progress import StartProgress, ending_words, reason_in
from ckpt_tui.services.supervisor_record import write_record
from tests.builders.stand_ins import REPO, wait_for

# Says what it was given, as JSON, and lives on.
TELLS = """
import json, os, signal, sys
try:
    os.open("/dev/tty", os.O_RDWR)
    terminal = True
except OSError:
    terminal = False
bits = {line.split(":")[0]: line.split()[1] for line in open("/proc/self/status") if line.startswith("Sig")}
print(json.dumps({
    "ignored": [n for n in range(1, 32) if int(bits["SigIgn"], 16) >> (n - 1) & 1],
    "blocked": bits["SigBlk"], "terminal": terminal, "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
    "files": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and
                    os.path.exists(f"/proc/self/fd/{fd}")),
    "stdin": os.readlink("/proc/self/fd/0"), "cwd": os.getcwd(), "umask": os.umask(0),
    "environment": dict(os.environ), "argv": sys.argv[1:],
}), flush=True)
"""
# A viewer under nohup, in the background, on a terminal, with files open and signals blocked.
STARTS = """
import json, os, signal, sys
from ckpt_tui.services.launch import start
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
os.umask(0o027)
os.set_inheritable(os.open("/etc/hostname", os.O_RDONLY), True)
os.environ.update({"COLUMNS": "43", "LINES": "12", "TEXTUAL": "debug", "CKPT_TUI_CONFIG": "x", "MINE": "kept\\udc80"})
directory, cwd, *command = sys.argv[1:]
start(directory, command, cwd=cwd, wait_s=300.0, environment={"ADDED": "1"})
"""


def test_it_is_as_if_started_from_a_fresh_login(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    command = [sys.executable, "-I", "-c", TELLS, "b\udc80d", "ä"]
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPO)
        os.execv(sys.executable, [sys.executable, "-c", STARTS, str(directory), str(tmp_path), *command])
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass  # the other end is closed
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)
    header, line = (directory / "session_1.log").read_text(errors="surrogateescape").splitlines()
    assert header.startswith("--- ")
    told = json.loads(line)
    assert told["ignored"] in ([13, 25], [13]), "Python's own: SIGPIPE, SIGXFSZ"
    assert int(told["blocked"], 16) == 0
    assert (told["terminal"], told["leads"]) == (False, True)
    assert told["files"] == []
    assert (told["stdin"], told["cwd"], told["umask"]) == ("/dev/null", str(tmp_path), 0o027)
    assert told["argv"] == ["b\udc80d", "ä"], "every byte of the command"
    environment = told["environment"]
    assert not {"COLUMNS", "LINES", "TEXTUAL", "CKPT_TUI_CONFIG"} & set(environment)
    assert (environment["MINE"], environment["ADDED"], environment["PYTHONUNBUFFERED"]) == ("kept\udc80", "1", "1")


@pytest.fixture
def venvs(tmp_path: Path) -> tuple[str, str]:
    for name in ("viewer", "training"):
        (tmp_path / name / "bin").mkdir(parents=True)
        (tmp_path / name / "pyvenv.cfg").write_text("")
    return str(tmp_path / "viewer"), str(tmp_path / "training")


def test_virtual_environment_is_that_of_the_recorded_interpreter(venvs: tuple[str, str]) -> None:
    viewer, training = venvs
    active = {"VIRTUAL_ENV": viewer, "PATH": f"{viewer}/bin:/usr/bin", "VIRTUAL_ENV_PROMPT": "viewer"}
    of_training = {"VIRTUAL_ENV": training, "PATH": f"{training}/bin:/usr/bin", "PYTHONUNBUFFERED": "1"}
    assert training_environment([f"{training}/bin/python", "x.py"], environment=active) == of_training
    assert training_environment(["env", "A=1", f"{training}/bin/torchrun"], environment=active) == of_training
    of_none = {"PATH": "/usr/bin", "PYTHONUNBUFFERED": "1"}
    assert training_environment(["/usr/bin/python3", "x.py"], environment={**active}) == of_none
    same = training_environment([f"{viewer}/bin/python", "x.py"], environment=active)
    assert same == {**active, "PYTHONUNBUFFERED": "1"}
    assert training_environment(["bash", "x.sh"], environment=active) == {**active, "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(
    ("display", "kept"), [("localhost:10.0", False), ("host:0", False), (":0", True), ("/tmp/launch-x:0", True)]
)
def test_display_that_ends_with_the_connection_is_not_passed_on(display: str, kept: bool) -> None:
    given = {"DISPLAY": display, "SSH_CONNECTION": "1 2 3 4"}
    assert ("DISPLAY" in training_environment([], environment=given)) is kept
    assert "DISPLAY" in training_environment([], environment={"DISPLAY": display})


@pytest.mark.parametrize("order", [b"", b"{", b'{"argv": ["touch", "x"]', b"[]x"])
def test_child_whose_order_is_cut_short_does_nothing(tmp_path: Path, order: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", detached_child.__file__, "1", "-1"], input=order, cwd=tmp_path,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == detached_child.FAILED
    assert list(tmp_path.iterdir()) == []


def told_by(stages: list[StartProgress]) -> list[str]:
    return [one.stage for one in stages]


TRAINS = """
import os, sys, time
from trainer.checkpoint.lock import DirectoryLock
from ckpt_tui.events.writer import EventWriter
def wait_until_told(stage):
    while not os.path.exists(f"{sys.argv[1]}/told {stage}"):
        time.sleep(0.01)
wait_until_told("started")
lock = DirectoryLock(sys.argv[1])
wait_until_told("locked")
log = EventWriter(sys.argv[1])
log.start(config={}, total_steps=10, start_step=4, resumed_from={"path": "latest.pt"})
wait_until_told("begun")
log.step(5, loss=1.0)
wait_until_told("looked at")
"""


def test_how_far_it_comes_is_told(tmp_path: Path) -> None:
    told: list[StartProgress] = []

    def tell(progress: StartProgress) -> None:
        if not told or told[-1].stage != progress.stage:  # once a second it is told again
            told.append(progress)
        (tmp_path / f"told {progress.stage}").touch()

    about = {"by": "resume", "launcher": "python", "checkpoint": "latest.pt", "step": 4, "changes": {"lr": "1e-4"}}
    launched = start(
        str(tmp_path), [sys.executable, "-c", TRAINS, str(tmp_path)], cwd=str(REPO), session=3, wait_s=300.0,
        about=about, on_progress=tell,
    )  # fmt: skip
    (tmp_path / "told looked at").touch()
    assert told_by(told) == ["started", "locked", "begun", "stepping"]
    assert told[2].sentence == "Session 1 begins from latest.pt at step 4."
    assert (launched.stage, launched.step, launched.exit_code) == ("stepping", 5, None)
    assert launched.sentences[0].startswith(f"Process {launched.pid} trains: step 5 after ")
    record = read_record(str(tmp_path))
    assert record is not None
    assert (record.pid, record.log, record.session) == (launched.pid, "session_3.log", 3)
    assert (record.launcher, record.checkpoint, record.step, record.by) == ("python", "latest.pt", 4, "resume")
    assert record.changes == (("lr", "1e-4"),)
    assert launched_log(str(tmp_path)) == launched.log_path


def test_waiting_ends_when_it_is_cancelled_and_the_training_goes_on(tmp_path: Path) -> None:
    code = "import time; time.sleep(1_000)"
    launched = start(
        str(tmp_path), [sys.executable, "-c", code], cwd=str(tmp_path), wait_s=600.0, is_cancelled=lambda: True
    )
    assert launched.stage == "started"
    os.kill(launched.pid, 0)
    os.kill(launched.pid, signal.SIGKILL)


def test_command_that_submits_a_job_is_not_a_failure_and_its_number_is_kept(tmp_path: Path) -> None:
    launched = start(str(tmp_path), ["echo", "Submitted batch job 4711"], cwd=str(tmp_path), wait_s=300.0)
    assert (launched.stage, launched.job, launched.exit_code) == ("submitted", "4711", 0)
    record = read_record(str(tmp_path))
    assert record is not None
    assert record.job == "4711"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_of_that_name", "exit code 1 after"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("import sys; sys.exit(7)", "exit code 7 after"),
        ("import sys; sys.exit(7)", "it has written nothing"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?"),
        ("import sys; sys.exit('trainer: --n_layer must be more than 0')", "trainer: --n_layer must be more than 0"),
    ],
)
def test_death_is_told_with_its_reason(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(TrainingDiedError) as caught:
        start(str(tmp_path), [sys.executable, "-c", code], cwd=str(tmp_path), wait_s=300.0)
    assert words in caught.value.message
    assert "session_1.log" in caught.value.hint


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("Traceback (most recent call last):", '  File "x"', "ValueError: 3", "bye"), "ValueError: 3"),
        (
            ("[rank0]: torch.OutOfMemoryError: CUDA out of memory", "torch.distributed...errors.ChildFailedError:"),
            "torch.OutOfMemoryError: CUDA out of memory",
        ),
        (("KeyError: 1", "During handling of it:", "RuntimeError: 2"), "RuntimeError: 2"),
        (("usage: x", "x.py: error: the following arguments are required: --out"),
         "x.py: error: the following arguments are required: --out"),
        (("nothing", "much"), ""),
        ((), ""),
    ],
)  # fmt: skip
def test_reason_is_the_line_that_says_why(lines: tuple[str, ...], reason: str) -> None:
    assert reason_in(lines) == reason


def test_exit_codes_in_words() -> None:
    assert [ending_words(code) for code in (3, 127, -15, -99)] == [
        "exit code 3", "exit code 127 (a command was not found)", "killed by SIGTERM", "killed by signal 99",
    ]  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of programs that answer as the system's own; first on the PATH."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setattr(logout, "_PATIENCE_S", 300.0)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("kills", "lingers", "told", "wrapped"),
    [("b false", "no", "", False), ("b true", "no", "enable-linger", False), ("b true", "yes", "", True)],
)
def test_machine_that_ends_processes_at_logout(
    cluster: Path, monkeypatch: pytest.MonkeyPatch, kills: str, lingers: str, told: str, wrapped: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_SESSION_ID", "7")
    program(cluster / "busctl", f"echo '{kills}'")
    program(cluster / "loginctl", f"echo 'Linger={lingers}'")
    program(cluster / "systemd-run", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    leaving = logout.look()
    assert told in leaving.warning
    assert bool(leaving.warning) == bool(told)
    command = leaving.surviving(["python", "x.py"])
    assert command[-2:] == ["python", "x.py"]
    assert (command[0] == "systemd-run") is wrapped


def test_training_in_a_scope_keeps_its_number(tmp_path: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(cluster / "systemd-run", 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"')
    monkeypatch.setattr(logout, "look", lambda: logout.Logout(kills=True, lingers=True))
    code = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(1_000)"
    launched = start(str(tmp_path), [sys.executable, "-c", code], cwd=str(tmp_path), wait_s=0.0)
    wait_for(lambda: f"pid {launched.pid}\n" in Path(launched.log_path).read_text(), "it did not come up")
    os.kill(launched.pid, signal.SIGKILL)
    record = read_record(str(tmp_path))
    assert record is not None
    assert record.command[0] == sys.executable, "the command, and not how it is kept alive"


def test_output_that_is_shown_is_that_of_the_newest_start(tmp_path: Path) -> None:
    directory = str(tmp_path)
    assert newest_output(directory, 1) is None
    (tmp_path / "session_1.log").write_text("one")
    assert newest_output(directory, 1) == f"{directory}/session_1.log"
    with pytest.raises(TrainingDiedError):
        start(directory, [sys.executable, "-c", "1 / 0"], cwd=directory, session=2, wait_s=300.0)
    assert newest_output(directory, 1) == f"{directory}/session_2.log", "its log never told of it"
    assert newest_output(directory, 3) is None, "a session that was started elsewhere has its output elsewhere"
    start(directory, ["echo", "Submitted batch job 8"], cwd=directory, session=3, wait_s=300.0)
    (tmp_path / "slurm-8.out").write_text("job")
    assert newest_output(directory, 2) == f"{directory}/slurm-8.out"


def test_what_repeats_the_command_is_for_the_same_eyes_as_its_log(tmp_path: Path) -> None:
    """A key in the arguments stays with those who could read it before."""
    command = [sys.executable, "-c", "pass", "--api_key", "sk-1234"]
    for mode in (0o600, 0o640):
        directory = tmp_path / f"{mode:o}"
        directory.mkdir()
        (directory / "events.jsonl").touch()
        (directory / "events.jsonl").chmod(mode)
        start(str(directory), command, cwd=str(tmp_path), wait_s=300.0)
        keep_template(str(directory), Template(tuple(command), str(tmp_path)))
        write_record(str(directory), {"command": command})
        made = {
            path.name: path.stat().st_mode & 0o777 for path in directory.iterdir() if b"sk-1234" in path.read_bytes()
        }
        assert made == dict.fromkeys(("launch.json", "session_1.log", "resume_command.json", "supervisor.json"), mode)


def test_one_that_dies_before_anybody_looks_died_as_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch._Beginning, "poll", lambda process: process.wait())
    command = [sys.executable, "-c", "print('no such GPU'); raise SystemExit(3)"]
    with pytest.raises(TrainingDiedError, match=r"exit code 3.*no such GPU") as caught:
        start(str(tmp_path), command, cwd=str(tmp_path), wait_s=300.0)
    assert caught.value.exit_code == 3
