"""What comes in one packet, from fast hands, a slow line or a paste: each key is done before the next is heard."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key
from textual.widgets import Input

from ckpt_tui.services import deeds
from ckpt_tui.tui.app import CkptTuiApp, screen_class
from ckpt_tui.tui.dialogs import resume as resume_module
from ckpt_tui.tui.dialogs.history import HistoryDialog
from ckpt_tui.tui.dialogs.metrics import MetricPicker
from ckpt_tui.tui.driver import InOrder, KeysParser
from tests.builders.dialogs import resume_dialog
from tests.builders.run_states import FixedMonitor, crashed
from tests.builders.screen_app import ScreenApp, settled, until

ENV = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
PASTED = "\x1b[200~{}\x1b[201~"


class Terminal(InOrder):
    """The hand-over of the real driver, with what a terminal sends."""

    def __init__(self, app: Any) -> None:
        super().__init__()
        self._app = app
        self._loop = asyncio.get_running_loop()

    def send(self, text: str) -> None:
        """All of it at once."""
        parser = KeysParser()
        for event in [*parser.feed(text), *(parser._time_out() if parser._awaiting.timeout is not None else ())]:
            event.set_sender(self._app)
            self.send_message(event)

    async def typed(self, pilot: Any, text: str) -> None:
        self.send(text)
        await asyncio.sleep(0)
        await until(pilot, lambda: self._handing_over is not None and self._handing_over.done(), 60.0)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("e3e-4\r", {"lr": "3e-4"}),
        ("e3e-4\rjj\x1b[A\x1b[Ae5e-5\r", {"lr": "5e-5"}),
        (f"e{PASTED.format('2e-4')}\r", {"lr": "2e-4"}),
        ("/eval\re500\r", {"eval_freq": "500"}),
        ("/eval\x1bge9e-4\r", {"lr": "9e-4"}),
        ("e1\x1be2\x1b", {}),
        ("e1e-4\r/batch\re64\r", {"lr": "1e-4", "batch_size": "64"}),
    ],
)
async def test_a_value_typed_with_the_key_that_opens_its_field(text: str, changes: dict[str, str]) -> None:
    dialog = resume_dialog([])
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await Terminal(app).typed(pilot, text)
        assert dialog.changes == changes
        await settled(pilot)
        assert not app.has_ended


async def test_a_whole_resume_in_one_packet_does_not_start_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    dialog = resume_dialog([])
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await Terminal(app).typed(pilot, "e3e-4\r\r\r")
        assert not app.has_ended, "an Enter that came with the value is not one that was meant for the start"
        monkeypatch.setattr(resume_module, "CALM_S", 0.0)
        await until(pilot, lambda: not dialog.is_working("plan"))
        await pilot.press("enter")
        await until(pilot, lambda: app.has_ended)
        assert app.result.command_line.endswith("--lr 3e-4")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "screens"),
    [
        ("m\x1be", ["events"]),
        ("m\x1b[B\x1bA", ["advice"]),
        ("A\x1ba\x1b?\x1bm\x1bee", ["events"]),
    ],
)
async def test_a_key_after_one_that_leaves(text: str, screens: list[str], tmp_path: Path) -> None:
    app = app_on(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.overview is not None and app.overview.state is not None)
        terminal = Terminal(app)
        await terminal.typed(pilot, text)
        assert [type(one) for one in app.screen_stack[1:]] == [screen_class(name) for name in screens]
        await terminal.typed(pilot, "\x1b")
        assert len(app.screen_stack) == 1


@pytest.mark.parametrize("keys", ["U\r", "UM\x1b", "U\x1b"])
async def test_a_key_for_the_dialog_that_an_act_is_about_to_show(
    keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it still looked at the files, Enter opened what lies below, and `q` ended the app."""
    app = app_on(tmp_path)
    heard: list[tuple[str, str]] = []
    on_event = HistoryDialog.on_event

    async def hear(self: HistoryDialog, event: Any) -> None:
        if isinstance(event, Key):
            heard.append((type(self).__name__, event.key))
        await on_event(self, event)

    monkeypatch.setattr(HistoryDialog, "on_event", hear)
    monkeypatch.setattr("ckpt_tui.tui.driver.COMES_UP_WITHIN_S", 60.0)
    monkeypatch.setattr("ckpt_tui.tui.acts.SHOWN_AFTER_S", 60.0)
    may_end = threading.Event()
    monkeypatch.setattr("ckpt_tui.services.deeds.read_history", slow(may_end, deeds.read_history))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.overview is not None and app.overview.state is not None)
        terminal = Terminal(app)
        terminal.send(keys)
        await until(pilot, lambda: any(worker.group == "act" for worker in app.workers))
        assert len(app.screen_stack) == 1
        may_end.set()
        await until(pilot, lambda: terminal._handing_over is not None and terminal._handing_over.done(), 60.0)
        assert [name for name, _ in heard] == ["HistoryDialog"] * len(heard)
        assert len(heard) == len(keys) - 1, "nothing came to what lies below"


def slow(may_end: threading.Event, do: Any) -> Any:
    def wait_and_do(*args: Any) -> Any:
        may_end.wait(60.0)
        return do(*args)

    return wait_and_do


async def test_a_click_is_done_before_what_is_typed_after_it() -> None:
    dialog = resume_dialog([])
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        rows = dialog.settings.region
        at = f"{rows.x + 4};{rows.y + 2}"
        await Terminal(app).typed(pilot, f"\x1b[<0;{at}M\x1b[<0;{at}m\x1b[<0;{at}M\x1b[<0;{at}m")
        assert dialog.is_editing
        await Terminal(app).typed(pilot, "\x1b")
        row = dialog.settings.cursor_row
        await Terminal(app).typed(pilot, f"\x1b[<0;{at}M\x1b[<0;{at}m57\r")
        assert row is not None
        assert dialog.changes == {row.key: "57"}, "not all came into the field that the click opened"


async def test_a_filter_gets_every_letter_and_a_capital_pins(tmp_path: Path) -> None:
    app = app_on(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.overview is not None and app.overview.state is not None)
        terminal = Terminal(app)
        await terminal.typed(pilot, "mlosM")
        assert isinstance(app.screen, MetricPicker)
        assert app.screen.query_one(Input).value == "los"
        assert tuple(app.overview.chart.pins) == ("loss",)
        await terminal.typed(pilot, "\x1be/restored")
        assert app.screen.query_one("#filter", Input).value == "restored"


async def test_what_ends_with_the_app_is_no_error(tmp_path: Path) -> None:
    app = app_on(tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.overview is not None)
        terminal = Terminal(app)
        terminal.send("eqjjj\x1bq" + "q" * 20)
        await asyncio.sleep(0)
        handing_over = terminal._handing_over
        assert handing_over is not None
    await asyncio.wait_for(handing_over, 60.0)


def app_on(directory: Path) -> CkptTuiApp:
    monitor: Any = FixedMonitor(crashed(), str(directory))
    return CkptTuiApp(str(directory), monitor=monitor, env=ENV)
