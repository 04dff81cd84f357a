"""`compare`: what came of each run, and the settings that differ."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.events import codec, schema
from ckpt_tui.text import cell_width
from ckpt_tui.tui.compare_app import CompareApp
from ckpt_tui.tui.screens.compare import CompareScreen
from tests.builders.screen_app import seen_text, until

Captured = pytest.CaptureFixture[str]


def make_run(directory: Path, start: float, *, ago_s: float = 500.0, **config: object) -> str:
    directory.mkdir(parents=True)
    ts = time.time() - ago_s
    events: list[schema.Event] = [
        schema.RunStart(seq=1, ts=ts, session=1, run_name="x", total_steps=40, config={"seed": 1, **config}),
        *(
            schema.Step(seq=at + 1, ts=ts + at, session=1, step=at, metrics={"loss": start / at, "lr": 0.1})
            for at in range(1, 41)
        ),
        schema.RunEnd(seq=42, ts=ts + 40, session=1, step=40, status="finished"),
    ]
    (directory / schema.LOG_NAME).write_bytes(b"".join(map(codec.encode, events)))
    return str(directory)


def test_what_came_of_each_and_what_differs(tmp_path: Path, capsys: Captured) -> None:
    a = make_run(tmp_path / "sweep" / "a", 4.0, lr=1e-4, ema=None)
    b = make_run(tmp_path / "sweep" / "b", 8.0, lr=3e-4)
    assert main(["compare", a, b]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == ["A", "a", "✓", "finished"]
    assert "0.100" in lines[1]
    assert "0.200" in lines[2]
    assert "40s" in lines[1].replace(" ", "")
    assert lines[4] == "settings: 2 of 3 differ"
    assert [line.split() for line in lines[6:]] == [["lr", "1e-4", "3e-4"], ["ema", "None", "-"]]


def test_it_fits_80_columns(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    paths = [make_run(tmp_path / f"a-run-with-a-long-name-{index}", 4.0, lr=index) for index in range(8)]
    assert main(["compare", *paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 9 + 2 + 2


def test_json_tells_what_is_not_set_from_null(tmp_path: Path, capsys: Captured) -> None:
    a = make_run(tmp_path / "a", 4.0, ema=None)
    b = make_run(tmp_path / "b", 8.0)
    assert main(["compare", a, b, "--json", "--metric", "lr"]) == 0
    envelope = json.loads(capsys.readouterr().out)
    assert envelope["schema"] == "ckpt-tui/compare/1"
    data = envelope["data"]
    assert data["metric"] == "lr"
    assert data["settings"] == [{"key": "ema", "values": [None, None], "is_set": [True, False]}]
    assert [run["name"] for run in data["runs"]] == ["a", "b"]
    assert data["runs"][0]["metrics"]["loss"] == {"last": 0.1, "lowest": 0.1}


def test_a_directory_of_runs_stands_for_its_newest_eight(tmp_path: Path, capsys: Captured) -> None:
    for index in range(10):
        make_run(tmp_path / f"run{index}", 4.0, ago_s=1000 - index)
    assert main(["compare", str(tmp_path), "--json"]) == 0
    told = capsys.readouterr()
    names = [run["name"] for run in json.loads(told.out)["data"]["runs"]]
    assert names == [f"run{index}" for index in range(9, 1, -1)]
    assert "holds 10 runs: the newest 8 are compared" in told.err


@pytest.mark.parametrize(
    ("arguments", "title"),
    [(["a"], "Usage"), (["a"] * 9, "Usage"), (["a", "nothing"], "Not found"), (["a", "b", "--metric", "x"], "No such")],
)
def test_refusals(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, arguments: list[str], title: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", 4.0)
    make_run(tmp_path / "b", 4.0)
    assert main(["compare", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {title}")


def test_diff_of_two_runs_names_the_command_for_runs(tmp_path: Path, capsys: Captured) -> None:
    a, b = make_run(tmp_path / "a", 4.0), make_run(tmp_path / "b", 8.0)
    assert main(["diff", a, b]) == 2
    assert f"ckpt-tui compare {a} {b}" in capsys.readouterr().err


async def test_the_same_on_a_screen_of_its_own(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 4.0), make_run(tmp_path / "b", 8.0)
    app = CompareApp([a, b], ["a", "b"], metric="lr", env={"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"})
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "settings: all 1 the same" in seen_text(app))
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        assert screen.metric is not None
        assert screen.metric.name == "lr"
        await pilot.press("question_mark", "escape", "escape")
        await pilot.pause()
    assert app.return_code == 0


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_line_is_wider_than_the_terminal(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    runs = [make_run(tmp_path / f"a-run-with-a-name-{i}", 2.0 + i, learning_rate_of_it=0.1 + i) for i in range(4)]
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["compare", *runs]) == 0
    assert max(map(cell_width, capsys.readouterr().out.splitlines())) <= width
