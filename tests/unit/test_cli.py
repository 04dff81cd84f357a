"""Exit codes, the JSON envelope, and what a wrong word on the command line gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tui import cli
from ckpt_tui.errors import CkptError
from ckpt_tui.output import CommandResult


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch):
    """A command `list` whose `run` is the test's own function."""
    import types

    def install(run) -> None:
        module = types.SimpleNamespace(
            __doc__="A stand-in.", EXAMPLES=("ckpt-tui list x",), run=run, add_arguments=lambda parser: None
        )
        monkeypatch.setattr("importlib.import_module", lambda name: module)

    return install


def test_no_command_shows_the_overview_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ckpt-tui demo" in captured.err


def test_help_lists_every_command_and_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {command.name} " in printed for command in cli.COMMANDS)
    assert all(len(line) <= 80 for line in printed.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out.startswith("ckpt-tui ")


def test_an_unknown_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspct", "x.pt"]) == 2
    assert "ckpt-tui inspect" in capsys.readouterr().err


def test_an_unknown_command_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["\x1b]0;owned\x07"]) == 2
    assert "\x1b]" not in capsys.readouterr().err


def test_a_usage_error_answers_in_json_when_json_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "--json", "--no-such-flag"]) == 2
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["ok"] is False
    assert envelope["schema"] == "ckpt-tui/inspect/1"
    assert envelope["errors"][0]["title"] == "Usage"
    assert "--help" in envelope["errors"][0]["hint"]


def test_a_result_becomes_an_envelope_with_strict_json(fake_command, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args, out):
        return CommandResult(data={"loss": float("nan"), "path": Path("a"), "bytes": b"x"}, exit_code=1)

    fake_command(run)
    assert cli.main(["list", "--json"]) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    envelope = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert envelope["schema"] == "ckpt-tui/list/1"
    assert envelope["ok"] is False
    assert envelope["data"]["loss"] == "NaN"
    assert envelope["errors"] == []


@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_is_exit_code_2_and_never_a_traceback(
    as_json: bool, fake_command, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(args, out):
        raise CkptError("Not a checkpoint", "x\x1b[31m.pt is a text file", "Look at it with less.")

    fake_command(run)
    assert cli.main(["list", "--json"] if as_json else ["list"]) == 2
    captured = capsys.readouterr()
    if as_json:
        assert json.loads(captured.out)["errors"][0]["hint"] == "Look at it with less."
    else:
        assert captured.out == ""
        assert "error: Not a checkpoint: x\\x1b[31m.pt is a text file" in captured.err
        assert "Look at it with less." in captured.err


def test_an_os_error_names_the_file(fake_command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_command(lambda args, out: (tmp_path / "nowhere").read_bytes())
    assert cli.main(["list"]) == 2
    assert "there is nothing at" in capsys.readouterr().err


def test_interrupted_is_130(fake_command) -> None:
    def run(args, out):
        raise KeyboardInterrupt

    fake_command(run)
    assert cli.main(["list"]) == 130


def test_a_bug_is_allowed_to_look_like_one(fake_command) -> None:
    def run(args, out):
        raise ZeroDivisionError

    fake_command(run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


@pytest.mark.parametrize("command", ["--help", "inspect nowhere.pt --json", "status ."])
@pytest.mark.parametrize("closed", [">/dev/full", ">&-", ">&- 2>&-", "2>&-"])
def test_output_that_cannot_be_written_is_no_traceback(tmp_path: Path, command: str, closed: str) -> None:
    program = f"{sys.executable} -m ckpt_tui {command} {closed}"
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in ((2,) if "full" in closed else (0, 2))
    assert "Traceback" not in done.stderr + done.stdout
    if "full" in closed and "--json" not in command:
        assert "Cannot write the output: No space left" in done.stderr


def test_the_end_of_the_process_looks_for_no_garbage() -> None:
    """Half a million objects of a large checkpoint, looked through several times, would be waited for."""
    program = (
        "import atexit, gc\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"  # the last to be called
        "from ckpt_tui.cli import main\n"
        "main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.parametrize("command", [command.name for command in cli.COMMANDS])
def test_help_of_every_command_fits_the_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["help", command])
    assert exit_info.value.code == 0
    words, _, examples = capsys.readouterr().out.partition("\nexamples:\n")
    assert examples
    assert [line for line in words.splitlines() if len(line) > 79] == []


@pytest.mark.parametrize("command", ["gc", "restore"])
def test_what_may_be_left_out_is_not_asked_for(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command]) == 2
    assert "error: Usage: the following arguments are required: DIR\n" in capsys.readouterr().err
