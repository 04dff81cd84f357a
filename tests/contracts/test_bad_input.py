"""Bad input, from the first day: every command says what, where and what to do, exits with 2 and changes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_tui import cli

# Every command with the arguments that it takes after the path.
ON_A_FILE = {
    "inspect": ["{path}"],
    "validate": ["{path}"],
    "diff": ["{path}", "{path}"],
    "salvage": ["{path}", "-o", "{path}.saved"],
}
ON_A_RUN = {
    "watch": ["{path}", "--plain", "--once"],
    "status": ["{path}"],
    "tail": ["{path}"],
    "advise": ["{path}"],
    "list": ["{path}"],
    "restore": ["{path}", "--yes"],
    "rollback": ["{path}", "--to", "100", "--yes"],
    "undo": ["{path}", "--yes"],
    "gc": ["{path}", "--yes"],
    "resume": ["{path}", "--yes"],
    "stop": ["{path}", "--yes"],
}


def fingerprint(root: Path) -> str:
    """Of every name, mode, link and byte under `root`."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        digest.update(f"{path.relative_to(root)} {status.st_mode} {status.st_size}".encode())
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _nowhere(directory: Path) -> Path:
    return directory / "nowhere"


def _empty_file(directory: Path) -> Path:
    path = directory / "empty.pt"
    path.touch()
    return path


def _text_file(directory: Path) -> Path:
    path = directory / "page.pt"
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    return path


def _noise(directory: Path) -> Path:
    path = directory / "noise.pt"
    path.write_bytes(hashlib.sha512(b"noise").digest() * 50)
    return path


def _truncated_zip(directory: Path) -> Path:
    path = directory / "cut.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(4000))
    path.write_bytes(path.read_bytes()[:2000])
    return path


def _foreign_zip(directory: Path) -> Path:
    path = directory / "office.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    return path


def _empty_directory(directory: Path) -> Path:
    path = directory / "nothing-in-it"
    path.mkdir()
    return path


BAD_FILES = [_nowhere, _empty_file, _text_file, _noise, _truncated_zip, _foreign_zip]
BAD_RUNS = [_nowhere, _noise]

CASES = [(command, arguments, make) for command, arguments in ON_A_FILE.items() for make in BAD_FILES] + [
    (command, arguments, make) for command, arguments in ON_A_RUN.items() for make in BAD_RUNS
]


@pytest.mark.parametrize(
    ("command", "arguments", "make"), CASES, ids=[f"{command}-{make.__name__[1:]}" for command, _, make in CASES]
)
def test_a_bad_path_is_exit_2_with_what_where_and_what_to_do(
    command: str, arguments: list[str], make: Callable[[Path], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = make(tmp_path)
    before = fingerprint(tmp_path)
    filled = [argument.format(path=path) for argument in arguments]

    code = cli.main([command, *filled, "--json"])
    printed = capsys.readouterr().out
    envelope = json.loads(printed)
    assert envelope["schema"] == f"ckpt-tui/{command}/1"
    assert envelope["ok"] is False
    if command == "validate":
        # It judges each path: the verdict says it, damage found is 1, what cannot be judged is 2.
        verdict = envelope["data"]["results"][0]["verdict"]
        assert verdict in ("unreadable", "not-a-checkpoint", "damaged", "incomplete")
        assert code == (1 if verdict in ("damaged", "incomplete") else 2)
        assert envelope["data"]["results"][0]["findings"] or envelope["errors"]
    elif command == "salvage" and code == 1:
        # It was a checkpoint, and nothing of it is left: that is an answer.
        assert make in (_empty_file, _truncated_zip, _foreign_zip)
        assert envelope["data"]["done"] is False
    elif command == "inspect" and make is _truncated_zip and code == 0:
        assert envelope["data"]["findings"]
    else:
        assert code == 2
        error = envelope["errors"][0]
        assert error["title"]
        assert error["message"]
        assert error["hint"]
        assert path.name in error["message"] + error["hint"]

    assert cli.main([command, *filled]) == code
    captured = capsys.readouterr()
    assert path.name in captured.out + captured.err
    assert "Traceback" not in captured.err
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("command", ["restore", "rollback", "undo", "gc", "resume", "stop", "list"])
def test_a_directory_without_a_run_is_said_and_left_alone(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _empty_directory(tmp_path)
    before = fingerprint(tmp_path)
    arguments = [argument.format(path=path) for argument in ON_A_RUN[command]]
    assert cli.main([command, *arguments]) in (0, 2)
    captured = capsys.readouterr()
    assert captured.out + captured.err
    assert "Traceback" not in captured.err
    assert fingerprint(tmp_path) == before


# Root may read everything, and the interpreter may lie in root's home. So: as root, every module that the command
# needs is loaded by running it once on an open place; then the process becomes nobody and runs it on the locked one.
_AS_NOBODY = """
import contextlib, io, os, sys
from ckpt_tui import cli
real = sys.argv[1:]
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    cli.main([argument.replace("/locked/", "/open/") for argument in real])
    cli.main([argument.replace("/locked/", "/nowhere/") for argument in real])
if os.geteuid() == 0:
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
sys.exit(cli.main(real))
"""


@pytest.fixture
def locked_place() -> Iterator[Path]:
    """`locked/`: a directory and a file that this test's other user may not read; `open/`: the same, readable."""
    root = Path(tempfile.mkdtemp(prefix="ckpt-tui-locked-"))  # pytest's own directories are under a private parent
    root.chmod(0o755)
    for place in ("open", "locked"):
        (root / place / "run").mkdir(parents=True)
        (root / place / "run" / "events.jsonl").write_text("")
        (root / place / "file.pt").write_bytes(b"x" * 100)
    (root / "locked" / "file.pt").chmod(0)
    (root / "locked" / "run").chmod(0)
    yield root / "locked"
    (root / "locked" / "run").chmod(0o755)
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("command", "arguments", "name"),
    [(command, arguments, "file.pt") for command, arguments in ON_A_FILE.items()]
    + [(command, arguments, "run") for command, arguments in ON_A_RUN.items()],
    ids=[*ON_A_FILE, *ON_A_RUN],
)
def test_no_permission_is_exit_2_and_says_so(command: str, arguments: list[str], name: str, locked_place: Path) -> None:
    filled = [argument.format(path=locked_place / name) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, command, *filled],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "permission" in (done.stdout + done.stderr).lower()
    assert name in done.stdout + done.stderr
