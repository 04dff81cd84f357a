"""The validate screen: a line a file, verdict, levels and reasons; it stops when told, and remembers what it found."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Static

from ckpt_tui.checkpoints.model import Finding, Severity
from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import Cancelled
from ckpt_tui.events.codec import encode
from ckpt_tui.events.schema import CheckpointSaved
from ckpt_tui.services import validity
from ckpt_tui.tui.screens.validate import ValidateScreen, levels_content
from ckpt_tui.tui.screens.work import ByteProgress
from ckpt_tui.tui.widgets.virtual_list import VirtualList
from tests.builders.checkpoints_by_hand import HOSTILE_NAMES
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen, seen_text, settled, until

FINDINGS = (
    Finding("crc", Severity.ERROR, "data/41", "fails its checksum: a byte changed", "latest_backup.pt is valid."),
    Finding("rng", Severity.WARNING, "rng_state", "is missing", "", "resume"),
)


def validation(path: str, verdict: str = "valid", findings: tuple[Finding, ...] = (), **levels: str) -> Validation:
    outcomes = {"structure": "pass", "integrity": "pass", "numbers": "pass", "resume": "pass", **levels}
    return Validation(path, verdict, outcomes, findings, 10_400_000, 0.5, "torch-zip", 8250, 10_400_000)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Validation]:
    answers: dict[str, Validation] = {}
    monkeypatch.setattr(validity, "validate_checkpoint", lambda path, **_: answers[Path(path).name])
    return answers


async def test_on_40_columns_files_are_told_apart(judged: dict[str, Validation]) -> None:
    paths = [f"/run/rolling_step_{step:06d}.pt" for step in (50, 100)]
    judged.update({Path(path).name: validation(path) for path in paths})
    app = ScreenApp(ValidateScreen(paths))
    async with app.run_test(size=(40, 12)) as pilot:
        await settled(pilot)
        assert "000050.pt" in seen_text(app), seen_text(app)
        assert "000100.pt" in seen_text(app)


@pytest.mark.parametrize("integrity", ["pass", "not-checked"])
def test_the_levels_of_mere_weights_fit_on_80_columns(integrity: str) -> None:
    shown = levels_content(validation("a.pt", integrity=integrity, resume="not-applicable")).plain.rstrip()
    assert len(shown) <= 78
    assert shown.endswith(": resume")


async def test_one_file_with_its_levels_and_reasons(judged: dict[str, Validation]) -> None:
    judged["latest.pt"] = validation("/run/latest.pt", "damaged", FINDINGS, integrity="fail", numbers="not-checked")
    app = ScreenApp(ValidateScreen(["/run/latest.pt"]))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        text = seen_text(app)
        for words in (
            "Validate latest.pt",
            "✖ damaged  10.4 MB in 500 ms, 20.8 MB/s",
            "structure ✓ pass  integrity ✖ fail  resume ✓ pass  - not checked: numbers",
            "✖ error    structure  data/41",
            "▲ warning  resume     rng_state",
            "latest_backup.pt is valid.",
        ):
            assert words in text, (words, text)
        await pilot.press("escape")
        assert app.has_ended


async def test_several_files_a_line_each_and_the_reasons_of_the_one_under_the_cursor(
    judged: dict[str, Validation],
) -> None:
    judged["a.pt"] = validation("/run/a.pt")
    judged["b.pt"] = validation("/run/b.pt", "damaged", FINDINGS, integrity="fail")
    judged["c.pt"] = validation("/run/c.pt", "nonfinite", FINDINGS[1:], numbers="fail")
    app = ScreenApp(ValidateScreen(["/run/a.pt", "/run/b.pt", "/run/c.pt"]))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        rows = {line.split()[0].lstrip(">"): line for line in seen(app) if ".pt " in line and "Validate" not in line}
        text = seen_text(app)
        assert "1 ✓ valid  1 ✖ damaged  1 ✖ not finite" in text
        assert "nothing is wrong at any level that was checked" in text
        assert any("b.pt" in line and "✖ damaged" in line and "8,250" in line for line in rows.values())
        await pilot.press("down")
        await pilot.pause()
        assert "fails its checksum" in seen_text(app)


async def test_the_same_name_in_two_directories_is_told_apart(judged: dict[str, Validation]) -> None:
    judged["latest.pt"] = validation("x")
    app = ScreenApp(ValidateScreen(["/one/latest.pt", "/two/latest.pt"]))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "/one/latest.pt" in seen_text(app)
        assert "/two/latest.pt" in seen_text(app)


async def test_a_directory_stands_for_every_checkpoint_in_it(judged: dict[str, Validation], tmp_path: Path) -> None:
    for name in ("a.pt", "b.safetensors", "registry.json", "c.pt.tmp"):
        (tmp_path / name).write_bytes(b"x")
        judged[name] = validation(str(tmp_path / name))
    app = ScreenApp(ValidateScreen([str(tmp_path)]))
    async with app.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        assert "Validate 2 checkpoints" in seen_text(app)
        assert [row.name for row in app.screen.rows] == ["a.pt", "b.safetensors"]  # type: ignore[attr-defined]


async def test_what_was_found_is_remembered(judged: dict[str, Validation], tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    path.write_bytes(b"x" * 100)
    past = time.time() - 60
    os.utime(path, (past, past))
    told: list[str] = []
    judged["latest.pt"] = validation(str(path))
    remember = validity.remember
    validity.remember = lambda found: told.append(found.path) or remember(found)  # type: ignore[func-returns-value]
    try:
        app = ScreenApp(ValidateScreen([str(path)]))
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
    finally:
        validity.remember = remember
    assert told == [str(path)]


async def test_what_the_runs_records_say_is_checked_too(tmp_path: Path) -> None:
    """A safetensors file has no checksums of its own: the digest in the log is what can tell of a flipped bit."""
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    content = len(header).to_bytes(8, "little") + header + bytes(range(1, 17))
    path = tmp_path / "best_model.safetensors"
    path.write_bytes(content)
    saved = CheckpointSaved(
        seq=1, ts=time.time() + 1, session=1, step=7, path=path.name, kind="best", bytes=len(content),
        digest="sha256:" + hashlib.sha256(content[:-1] + b"x").hexdigest(),
    )  # fmt: skip
    (tmp_path / "events.jsonl").write_bytes(encode(saved))
    app = ScreenApp(ValidateScreen([str(path)]))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ damaged" in seen_text(app)
        assert "integrity ✖ fail" in seen_text(app)


async def test_esc_stops_the_checking_and_then_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    started, stopped = threading.Event(), threading.Event()

    def slow(path: str, *, is_cancelled: Callable[[], bool], on_bytes: Callable[[int], None], **_: Any) -> Validation:
        started.set()
        deadline = time.monotonic() + 120
        while not is_cancelled() and time.monotonic() < deadline:
            on_bytes(1_000_000)
            time.sleep(0.002)
        stopped.set()
        raise Cancelled

    monkeypatch.setattr(validity, "validate_checkpoint", slow)
    app = ScreenApp(ValidateScreen(["/run/a.pt", "/run/b.pt"]))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, started.is_set)
        await until(pilot, lambda: "MB/s" in seen_text(app))
        assert "checking 2 checkpoints:" in seen_text(app)
        assert "checking ..." in next(line for line in seen(app) if "a.pt" in line)
        await pilot.press("escape")
        await until(pilot, stopped.is_set)
        assert "stopped; v checks again" in seen_text(app)
        assert "checking ..." not in seen_text(app)
        assert "not checked" in next(line for line in seen(app) if "a.pt" in line)
        assert not app.has_ended
        stopped.clear()
        await pilot.press("v")
        await until(pilot, lambda: "Esc stops" in seen_text(app))
        app.pop_screen()
        await until(pilot, stopped.is_set)


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 5)])
async def test_hostile_texts_stay_text(judged: dict[str, Validation], size: tuple[int, int]) -> None:
    findings = tuple(Finding("x", Severity.ERROR, name, name, name) for name in HOSTILE_NAMES)
    judged["[/closing]\x1b[2J.pt"] = validation("x", "unsafe", findings)
    app = ScreenApp(ValidateScreen(["/run/[/closing]\x1b[2J.pt"]))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        for index in range(len(findings)):
            app.screen.query_one("#findings", VirtualList).cursor = index
            await pilot.pause()
            assert_nothing_hostile(app)


async def test_a_bug_of_ours_is_said_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str, **_: Any) -> Validation:
        raise RuntimeError("boom")

    monkeypatch.setattr(validity, "validate_checkpoint", broken)
    app = ScreenApp(ValidateScreen(["/run/a.pt"]))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ A bug in ckpt-tui" in str(app.screen.query_one("#facts", Static).render())


def test_progress_is_told_at_most_four_times_a_second() -> None:
    now = [0.0]
    told: list[str] = []

    class Screen:
        def post_message(self, message: Any) -> None:
            told.append(message.text)

    progress = ByteProgress(Screen(), "g", "reading", 10_000_000, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(1000):
        now[0] += 0.001
        progress.add(10_000)
    assert 3 <= len(told) <= 4
    assert told[0] == "reading 25 % of 10.0 MB, 10.0 MB/s"


def test_every_level_that_passes_is_said_once_and_nothing_is_cut_in_a_word() -> None:
    levels = dict.fromkeys(("structure", "integrity", "numbers", "resume"), "pass")
    good = validation("a.pt", **levels)
    assert levels_content(good, 78).plain == "✓ every level passes  structure, integrity, numbers, resume"
    assert levels_content(good, 38).plain == "✓ every level passes"
    bad = validation("a.pt", "damaged", **levels | {"numbers": "fail", "resume": "not-checked"})
    assert levels_content(bad, 38).plain == "numbers ✖ fail  structure ✓ pass"
    assert levels_content(bad, 78).plain.endswith("numbers ✖ fail  - not checked: resume")
