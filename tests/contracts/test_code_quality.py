"""ruff and mypy, as tests: the command that passes the tests is the command that checks the code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "--no-cache", "."], ["ruff", "format", "--check", "--no-cache", "."], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_code_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_every_command_has_help_examples_and_json() -> None:
    from ckpt_tui.cli import COMMANDS, build_parser

    parser = build_parser(COMMANDS)
    choices = next(action.choices for action in parser._actions if action.dest == "command")
    assert choices is not None
    for command in COMMANDS:
        help_text = choices[command.name].format_help()
        assert "examples:" in help_text, command.name
        assert f"ckpt-tui {command.name}" in help_text, command.name
        assert "--json" in help_text, command.name
