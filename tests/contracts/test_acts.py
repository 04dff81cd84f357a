"""Every act of the command table keeps the same promises. A new one is found here by itself, and needs a scene."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ckpt_tui.cli import COMMANDS, main
from ckpt_tui.services.restore import carry_out, plan_restore
from ckpt_tui.text import size
from tests.builders.run_directories import damage, let_age, run_directory, save, write_log
from tests.builders.watched_pty import WatchedPty

# `salvage` writes one new file beside everything: `test_salvage` is its contract. `supervise` starts what it is given
# where nothing runs, in the foreground, and asks nothing: `test_supervise_plan` holds its dry run.
WITHOUT_A_PLAN = {"salvage", "supervise"}
ACTS = [command.name for command in COMMANDS if command.group == "Acts" and command.name not in WITHOUT_A_PLAN]

Tree = dict[str, tuple[object, ...]]


@dataclass(frozen=True)
class Scene:
    """make: fills a directory in which the act has something to do. after: its arguments behind the directory.
    code: what it ends with once that is done."""

    make: Callable[[Path], object]
    after: tuple[str, ...] = ()
    code: int = 0


def _damaged(directory: Path) -> None:
    run_directory(directory, log=False)
    # What a resume starts: it ends at once, and well.
    script = directory.parent / "train.py"
    script.write_text("")
    write_log(directory, last_step=437, argv=[sys.executable, str(script), "--out", str(directory), "--resume", "auto"])
    damage(directory / "latest.pt")
    let_age(directory / "latest.pt")


def _restored(directory: Path) -> None:
    _damaged(directory)
    carry_out(plan_restore(str(directory)))


_STARTED: list[subprocess.Popen[bytes]] = []


def _living(directory: Path) -> None:
    """A training that does not hold the lock, as one that was launched a moment ago."""
    run_directory(directory)
    process = subprocess.Popen(["sleep", "600"])
    _STARTED.append(process)
    launch = {
        "pid": process.pid, "pid_started": psutil.Process(process.pid).create_time(), "host": os.uname().nodename,
        "command": ["python"], "cwd": "/", "log": "session_1.log", "session": 1, "ts": 0.0,
    }  # fmt: skip
    (directory / "launch.json").write_text(json.dumps(launch))


SCENES = {
    "restore": Scene(_damaged),
    "rollback": Scene(_damaged, ("--to", "200")),
    "undo": Scene(_restored),
    "resume": Scene(_damaged),
    "stop": Scene(_living, code=1),  # it ends and saves nothing
    "gc": Scene(_restored),
}


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    for process in _STARTED:
        process.kill()
        process.wait()
    _STARTED.clear()


@pytest.fixture(params=ACTS)
def act(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def directory(act: str, tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    made = tmp_path / "runs" / "gpt"
    SCENES[act].make(made)
    return made


def _argv(act: str, directory: Path | str, *options: str) -> list[str]:
    """The options stand before the arguments: what follows `--` is another command's."""
    return [act, str(directory), *options, *SCENES[act].after]


def tree_with_status(directory: Path) -> Tree:
    """All that a deed could change: of each path the bytes, and what `stat` tells but the time of the last read."""
    found: Tree = {}
    for path in (directory, *sorted(directory.rglob("*"))):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[path.relative_to(directory).as_posix()] = (
            content, status.st_mode, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_nlink,
        )  # fmt: skip
    return found


def test_every_act_has_a_scene() -> None:
    assert set(ACTS) <= set(SCENES), "a new act: give it a scene above, and it is held to everything below"


def test_dry_run_changes_nothing_and_says_the_same_in_json(
    act: str, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree_with_status(directory.parent)
    assert main(_argv(act, directory, "--dry-run", "--json")) == 0
    envelope = json.loads(capsys.readouterr().out)
    assert tree_with_status(directory.parent) == before
    assert set(envelope) == {"schema", "ok", "data", "errors"}
    assert (envelope["schema"], envelope["ok"], envelope["errors"]) == (f"ckpt-tui/{act}/1", True, [])
    assert envelope["data"]["done"] is False
    assert main(_argv(act, directory, "--dry-run")) == 0
    told = capsys.readouterr().out
    assert tree_with_status(directory.parent) == before
    assert "(--dry-run)" in told

    data, words = envelope["data"], " ".join(told.split())
    for sentence in (*data.get("sentences", ()), *data.get("warnings", ())):
        assert sentence in words
    for step in data.get("steps", ()):
        assert step["target"] in words or re.search(r" and \d+ more", words)
    if data.get("steps_given_up"):
        assert f"{data['steps_given_up']:,} step" in words
    if data.get("bytes_needed"):
        assert size(data["bytes_needed"]) in words
    if data.get("command_line"):
        assert data["command_line"] in told.split("\n"), "whole and on a line of its own: a person copies it"
    if "checkpoint" in data:
        assert f"{data['checkpoint']} (step {data['step']:,}" in words
    if data.get("pid"):
        assert str(data["pid"]) in words


def test_dry_run_and_yes_agree(act: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was done is what was planned."""
    assert main(_argv(act, directory, "--dry-run", "--json")) == 0
    planned = json.loads(capsys.readouterr().out)["data"]
    assert main(_argv(act, directory, "--yes", "--json")) == SCENES[act].code
    done = json.loads(capsys.readouterr().out)["data"]
    for key in ("steps", "bytes_needed", "steps_given_up", "command_line", "command", "checkpoint", "step", "pid"):
        if key in planned and not (act == "stop" and key == "command"):
            assert done[key] == planned[key], key


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_where_nobody_can_answer_it_is_refused_and_nothing_changes(
    act: str, directory: Path, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_with_status(directory.parent)
    assert main(_argv(act, directory, *flags)) == 2
    said = capsys.readouterr()
    assert tree_with_status(directory.parent) == before
    if flags:
        envelope = json.loads(said.out)
        assert (envelope["schema"], envelope["ok"], envelope["data"]) == (f"ckpt-tui/{act}/1", False, {})
        (error,) = envelope["errors"]
        assert error["title"] == "Not confirmed"
        assert "--yes" in error["hint"]
    else:
        assert said.out == ""
        assert said.err.startswith("error: Not confirmed")
        assert "--yes" in said.err


class _ForkedPty(WatchedPty):
    """The command in a child of this process: an interpreter of its own takes longer to start than it works."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, columns: int = 80) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            code: object = 99
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                os.chdir(cwd)
                os.environ.update(env)
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
                code = main(list(command))
            except SystemExit as left:
                code = left.code
            except BaseException:  # noqa: BLE001 - the child tells and leaves, whatever it was
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code if isinstance(code, int) else 99)
        self.received = b""


def _on_a_terminal(argv: list[str], cwd: Path, keys: bytes | None, columns: int = 80) -> tuple[int, str]:
    """Exit code and everything printed. keys: typed once it asks; None: it is not to ask."""
    # One act as a person starts it; the others end in the same way.
    kind = WatchedPty if argv[0] == ACTS[0] else _ForkedPty
    terminal = kind(argv, {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1"}, cwd, columns=columns)
    if keys is not None:
        terminal.read_until(b"[y/N] ")
        terminal.write(keys)
    while select.select([terminal.descriptor], [], [], 300)[0]:
        try:
            terminal.received += os.read(terminal.descriptor, 65536)
        except OSError:  # nobody has the other end any more
            break
    else:
        os.kill(terminal.pid, signal.SIGKILL)
    _, ended = os.waitpid(terminal.pid, 0)
    os.close(terminal.descriptor)
    printed = terminal.received.decode("utf-8", "replace").replace("\r\n", "\n")
    return os.waitstatus_to_exitcode(ended), printed


@pytest.mark.parametrize(("keys", "code"), [(b"n\r", 1), (b"\r", 1), (b"\x04", 1), (b"\x03", 130)])
def test_anything_but_yes_at_the_prompt_changes_nothing(act: str, directory: Path, keys: bytes, code: int) -> None:
    before = tree_with_status(directory.parent)
    status, printed = _on_a_terminal(_argv(act, directory), directory.parent, keys)
    assert status == code, printed
    assert tree_with_status(directory.parent) == before
    assert "Traceback" not in printed
    assert all(process.poll() is None for process in _STARTED), "what was to be stopped goes on"


def test_yes_never_asks(act: str, directory: Path) -> None:
    status, printed = _on_a_terminal(_argv(act, directory, "--yes"), directory.parent, None)
    assert status == SCENES[act].code, printed
    assert "[y/N]" not in printed


def test_the_plan_stands_above_the_question_on_a_narrow_terminal(act: str, directory: Path) -> None:
    _, printed = _on_a_terminal(_argv(act, directory), directory.parent, b"n\r", columns=40)
    # As it stands there: what is told while it takes long is gone then.
    plan = [line.rpartition("\r\x1b[K")[2] for line in printed.partition("[y/N]")[0].split("\n")]
    # A command to copy and a path stay whole.
    long_lines = [line for line in plan if len(line) > 40 and max(map(len, line.split())) < 40 and " -" not in line]
    assert not long_lines
    assert len(plan) > 1, "it says what it is going to do"


def test_help_has_examples_that_parse(act: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([act, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    examples = re.findall(rf"^  ckpt-tui ({act} .*)$", told, re.MULTILINE)
    assert examples
    for option in ("--dry-run", "--yes", "--json"):
        assert option in told
    for example in examples:
        words = shlex.split(example)
        words[1] = "/nowhere/at/all"
        assert main(words) == 2, example
        assert "nothing at /nowhere/at/all" in capsys.readouterr().err, example


BAD = {
    "missing": lambda place: None,
    "a file": lambda place: place.write_text("mine"),
    "empty": lambda place: place.mkdir(),
    "of other things": lambda place: (place.mkdir(), (place / "thesis.txt").write_text("mine")),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("flag", ["--yes", "--dry-run"])
def test_what_is_no_run_directory_is_an_error_that_says_what_to_do(
    act: str, bad: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    BAD[bad](place)
    before = tree_with_status(tmp_path)
    assert main(_argv(act, place, flag, "--json")) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert all(error[part] for part in ("title", "message", "hint"))
    assert str(place) in error["message"] + error["hint"]
    monkeypatch.setenv("COLUMNS", "40")
    assert main(_argv(act, place, flag)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert "Traceback" not in said.err
    assert tree_with_status(tmp_path) == before
    too_long = [line for line in said.err.splitlines() if len(line) > 40 and str(place) not in line]
    assert not too_long, said.err


GARBAGE = (
    b"",
    b"{",
    b"[1, 2",
    b"[]",
    b"null",
    b"3",
    b'{"pid": "x"}',
    b"\xff\x00\xfe",
    b'{"checkpoints": 5, "best": 1}',
)


@pytest.mark.parametrize("name", ["registry.json", "launch.json", "trainer.lock", "supervisor.json", "events.jsonl"])
def test_garbage_beside_the_checkpoints_changes_no_plan_for_the_worse(
    act: str, name: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What describes a run is derived from it: garbage is not an error, and never a reason to lose something."""
    if act == "stop" and name == "launch.json":
        pytest.skip("what says who is running is garbage: nobody is")
    for garbage in GARBAGE:
        (directory / name).write_bytes(garbage)
        before = tree_with_status(directory)
        code = main(_argv(act, directory, "--dry-run", "--json"))
        said = capsys.readouterr()
        envelope = json.loads(said.out)
        assert code == 0 or (code == 2 and envelope["errors"][0]["title"]), (garbage, said)
        assert code == 0 or name == "events.jsonl", (garbage, said)
        assert tree_with_status(directory) == before


def test_a_journal_that_cannot_be_read_is_said_and_left_alone(
    act: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = directory / "set_aside" / "7"
    folder.mkdir(parents=True)
    (folder / "latest.pt").write_bytes(b"somebody's only copy")
    for garbage in GARBAGE:
        (folder / "journal.json").write_bytes(garbage)
        before = tree_with_status(folder)
        assert main(_argv(act, directory, "--dry-run")) == 0
        told = capsys.readouterr().out
        if act in ("undo", "gc"):
            assert "set_aside/7" in told, told
        assert tree_with_status(folder) == before


HOSTILE = "ev\x1b[31mil\n'$(touch pwned)"


def test_hostile_names_are_shown_and_not_obeyed(act: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / HOSTILE
    SCENES[act].make(place)
    save(place / f"{HOSTILE}.pt", 390)
    before = tree_with_status(tmp_path)
    for flags in (["--dry-run"], ["--dry-run", "--json"], ["--yes"]):
        assert main(_argv(act, place, *flags)) == (SCENES[act].code if "--yes" in flags else 0)
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err
        if "--json" not in flags:
            assert not any(line.startswith("'$(touch") for line in said.out.splitlines()), "a line break was obeyed"
        if "--yes" not in flags:
            assert tree_with_status(tmp_path) == before
    assert not list(tmp_path.rglob("pwned"))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """The directory again, on a mount where nobody may write: root may in one with mode 0500."""
    mounted: list[Path] = []

    def bound(directory: Path) -> Path:
        place = tmp_path / "readonly"
        place.mkdir()
        for command in (["mount", "--bind", directory, place], ["mount", "-o", "remount,bind,ro", place]):
            done = subprocess.run([*map(str, command)], capture_output=True, check=False)
            if done.returncode:
                pytest.skip("needs the right to mount")
            if not mounted:
                mounted.append(place)
        return place

    yield bound
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_a_read_only_directory_is_an_error_before_anything_is_done(
    act: str, directory: Path, read_only: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    if act == "stop":
        pytest.skip("stopping writes nothing")
    place = read_only(directory)
    before = tree_with_status(directory)
    assert main(_argv(act, place, "--yes", "--json")) == 2
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert "read-only" in f"{error['title']} {error['message']} {error['hint']}".lower()
    assert str(place) in error["message"]
    assert tree_with_status(directory) == before
