"""`config`: where the settings are, what holds, an example that holds, and never anything written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui import cli
from ckpt_tui.commands.config import example
from ckpt_tui.settings import ROWS, Settings, read_settings
from ckpt_tui.text import cell_width


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "deep" / "config.toml"
    monkeypatch.setenv("CKPT_TUI_CONFIG", str(path))
    return path


def test_where_it_would_be_and_what_is_built_in(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    said = capsys.readouterr().out
    assert str(file) in said
    assert "not there" in said
    assert all(f"\n{row.name}" in said for row in ROWS)
    assert "  file  " not in said


def test_init_writes_an_example_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--init"]) == 0
    assert file.read_text() == example()
    assert read_settings({"CKPT_TUI_CONFIG": str(file)}) == Settings()
    file.write_text("theme = 'light'\n")
    assert cli.main(["config", "--init"]) == 2
    assert "Already there" in capsys.readouterr().err
    assert file.read_text() == "theme = 'light'\n"


def test_the_example_holds_when_its_lines_are_uncommented(file: Path) -> None:
    lines = [
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in example().splitlines()
    ]
    file.parent.mkdir()
    file.write_text("\n".join(lines))
    found = read_settings({"CKPT_TUI_CONFIG": str(file)})
    assert found.keymap == {"checkpoint.inspect": "f3", "list.down": "ctrl+n,down"}


def test_json_says_where_each_value_comes_from(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.parent.mkdir()
    file.write_text("interval_s = 5\n[keys]\napp.help = 'f1'\n")
    assert cli.main(["config", "--json", "--keys"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["path"], data["exists"]) == (str(file), True)
    rows = {row["name"]: row for row in data["settings"]}
    assert rows["interval_s"] == {"name": "interval_s", "value": 5.0, "from": "file"}
    assert rows["unicode"] == {"name": "unicode", "value": "auto", "from": "built in"}
    keys = {key["id"]: key for key in data["keys"]}
    assert keys["app.help"]["keys"] == ["f1"]
    assert keys["app.help"]["default"] == ["question_mark"]
    assert set(keys["lines.filter"]["screens"]) >= {"events", "log"}


@pytest.mark.parametrize("command", [["config"], ["watch", "."], ["watch", ".", "--plain", "--once"]])
def test_a_wrong_file_ends_what_reads_it_with_its_place(
    command: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir()
    file.write_text("\ntheem = 'dark'\n")
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert f"{file}, line 2: `theem` is not a setting. Did you mean theme?" in said


def test_what_opens_no_screen_does_not_mind(file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    file.write_text("theem = 'dark'\n")
    (tmp_path / "not.pt").write_text("text")
    assert cli.main(["--help"]) == 0
    assert cli.main(["list", str(tmp_path)]) in (0, 1)


@pytest.mark.parametrize(
    ("flags", "text", "expected"),
    [
        ([], "interval_s = 5\ntheme = 'light'\n", Settings(interval_s=5.0, theme="light")),
        (
            ["--interval", "2", "--theme", "color-blind"],
            "interval_s = 5\n",
            Settings(interval_s=2.0, theme="colour-blind"),
        ),
        (["--ascii", "--readonly"], "unicode = true\n", Settings(unicode=False, readonly=True)),
        ([], "readonly = true\n", Settings(readonly=True)),
    ],
)
def test_flags_hold_over_the_file(flags: list[str], text: str, expected: Settings, file: Path) -> None:
    import argparse
    import os

    from ckpt_tui.commands import watch

    file.parent.mkdir()
    file.write_text(text)
    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    assert watch.settings_for(parser.parse_args(["x", *flags]), os.environ) == expected


def test_a_theme_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["watch", ".", "--theme", "drak"]) == 2
    assert "Did you mean dark?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["config"], ["config", "--keys"]], ids=" ".join)
@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_line_is_wider_than_the_terminal(
    argv: list[str], width: int, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_width, (line for line in lines if line != str(file)))) <= width
