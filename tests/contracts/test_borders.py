"""The borders of the house, held by a machine: who imports whom, and what a command costs to load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {"torch", "textual", "rich", "numpy", "ml_dtypes", "pandas", "psutil", "msgspec", "trainer"}


def modules_after(code: str, tmp_path: Path) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter after it ran `code`."""
    script = f"import sys, json\ntry:\n    {code}\nexcept SystemExit:\n    pass\n" + (
        "print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rstrip().rpartition("\n")[2]))


def test_import_linter_holds() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_package_loads_nothing(tmp_path: Path) -> None:
    bare = modules_after("pass", tmp_path)
    assert modules_after("import ckpt_tui, ckpt_tui.events", tmp_path) - bare == {"ckpt_tui"}


@pytest.mark.parametrize(
    ("command", "may_load"),
    [
        ("--help", set()),
        ("inspect --help", set()),
        ("inspect nowhere.pt", set()),
        ("validate --help", set()),
        ("diff --help", set()),
        ("salvage --help", set()),
        ("list --help", {"msgspec", "psutil"}),
        ("status --help", {"msgspec", "psutil"}),
        ("tail --help", {"msgspec", "psutil"}),
        ("resume --help", {"msgspec", "psutil"}),
        ("watch --help", set()),
        ("demo --help", set()),
    ],
)
def test_a_command_loads_only_what_it_needs(command: str, may_load: set[str], tmp_path: Path) -> None:
    code = f"from ckpt_tui.cli import main; main({command.split()!r})"
    assert modules_after(code, tmp_path) & HEAVY <= may_load


def test_the_events_package_needs_no_torch_and_no_viewer(tmp_path: Path) -> None:
    loaded = modules_after("import ckpt_tui.events.writer", tmp_path)
    assert not loaded & {"torch", "textual", "rich", "numpy", "trainer"}


def test_the_top_level_holds_only_what_the_spec_names() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top_level = {path.partition("/")[0] for path in tracked.splitlines()}
    allowed = {"pyproject.toml", "ckpt_tui", "trainer", "tests", "screenshots", "README.md"}
    assert {name for name in top_level if not name.startswith(".")} <= allowed
