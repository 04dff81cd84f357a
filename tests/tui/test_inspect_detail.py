"""What is under the cursor of the inspect screen, and its statistics: read when asked for, stopped when left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.checkpoints import values
from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo
from ckpt_tui.checkpoints.values import TensorStatistics
from ckpt_tui.errors import CkptError
from ckpt_tui.tui.screens.inspect import InspectScreen
from ckpt_tui.tui.styled import histogram_bars
from tests.builders.checkpoints_by_hand import small_gpt
from tests.builders.safetensors_by_hand import write_safetensors
from tests.builders.screen_app import ScreenApp, seen, seen_text, settled, until

STATISTICS = TensorStatistics(
    num_elements=8192, min=-0.213, max=0.207, mean=0.0001, std=0.051, norm=4.6, zeros=3, nan=2, inf=0,
    histogram=(0, 1, 4, 9, 4, 1), first_bad_index=17,
)  # fmt: skip


async def test_statistics_are_read_on_request_and_loud_about_nan(
    opens: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(small_gpt())
    asked: list[str] = []

    def read(checkpoint: Checkpoint, tensor: TensorInfo, **_: Any) -> TensorStatistics:
        asked.append(tensor.name)
        return STATISTICS

    monkeypatch.setattr(values, "tensor_statistics", read)
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        assert asked == []
        await pilot.press("x")
        await settled(pilot)
        await pilot.press("enter")
        await settled(pilot)
        assert asked == ["model.wte.weight"], "asked once, remembered"
        for words in ("min -0.213", "std 0.051", "✖ nan 2", "first at element 17", "▁▄█▄▁"):
            assert words in seen_text(app)
        await pilot.press("down")
        assert "✖ nan" not in seen_text(app)


def test_a_histogram_of_several_lines_is_the_one_of_one_line_in_more_steps() -> None:
    counts = (0, 1, 4, 9, 4, 1)
    assert histogram_bars(counts) == [" ▁▄█▄▁"]
    assert histogram_bars(counts, 3) == ["   █  ", "  ▃█▃ ", " ▃███▃"]
    assert histogram_bars((0, 10**9, 1), 2) == [" █ ", " █▁"]
    assert histogram_bars(()) == histogram_bars((0, 0), 4) == []


async def test_a_high_terminal_draws_a_high_histogram(
    opens: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(small_gpt())
    monkeypatch.setattr(values, "tensor_statistics", lambda *_, **__: STATISTICS)
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("n", "x")
        await settled(pilot)
        drawn = [line for line in seen(app) if any(bar in line for bar in "▁▂▃▄▅▆▇█")][-4:]
        assert [line.strip() for line in drawn[:2]] == ["█", "█"]
        assert drawn[3].strip().startswith("-0.213  ")
        assert "first at element 17" in drawn[3]


async def test_leaving_stops_what_is_being_read(opens: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    opens(small_gpt())
    started, stopped = threading.Event(), threading.Event()

    def read(checkpoint: Checkpoint, tensor: TensorInfo, *, is_cancelled: Callable[[], bool], **_: Any) -> None:
        started.set()
        deadline = time.monotonic() + 120
        while not is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.002)
        if is_cancelled():
            stopped.set()

    monkeypatch.setattr(values, "tensor_statistics", read)
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n", "x")
        await until(pilot, started.is_set)
        assert "Esc stops" in seen_text(app)
        await pilot.press("escape")
        await until(pilot, stopped.is_set)
        assert "x  statistics" in seen_text(app)
        started.clear()
        stopped.clear()
        await pilot.press("x")
        await until(pilot, started.is_set)
        app.pop_screen()
        await until(pilot, stopped.is_set)


async def test_statistics_that_fail_say_why_in_place(
    opens: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    opens(small_gpt())

    def refuse(*_: Any, **__: Any) -> None:
        raise CkptError("Cannot read values", "its bytes are not in the file", "Look at the findings.")

    monkeypatch.setattr(values, "tensor_statistics", refuse)
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n", "x")
        await settled(pilot)
        assert "✖ Cannot read values: its bytes are not in the file" in seen_text(app)


async def test_a_real_file_is_opened_and_its_values_are_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "best.safetensors", [1.0, 2.0, float("nan"), 4.0], lr="6e-4")
    app = ScreenApp(InspectScreen(str(tmp_path / "best.safetensors")))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "safetensors" in seen(app)[0]
        await pilot.press("n", "x")
        await settled(pilot)
        for words in ("h.0.weight", "float32", "min 1.000", "max 4.000", "✖ nan 1", "first at element 2"):
            assert words in seen_text(app), (words, seen_text(app))


async def test_statistics_of_a_module_say_what_they_are_of(opens: Callable[..., None]) -> None:
    opens(small_gpt())
    app = ScreenApp(InspectScreen("/run/a.pt"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("x")
        await until(pilot, lambda: "of one tensor" in seen(app)[-1])
