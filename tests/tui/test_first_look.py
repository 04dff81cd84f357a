"""The first poll is asked once, is waited for a moment only, and what it raised is raised where it is taken."""

from __future__ import annotations

import threading

import pytest
from textual.screen import Screen

from ckpt_tui.errors import CkptError
from ckpt_tui.run.state import RunState
from ckpt_tui.tui import base_app, first_look
from ckpt_tui.tui.first_look import FirstLook
from ckpt_tui.tui.session import follow
from tests.builders.run_states import FixedMonitor, running
from tests.builders.screen_app import ScreenApp


class SlowMonitor(FixedMonitor):
    """Answers when it may."""

    def __init__(self, state: RunState) -> None:
        super().__init__(state)
        self.may_answer = threading.Event()
        self.num_at_once = 0

    def poll(self, budget_s: float = 0.05) -> RunState:
        self.num_at_once += 1
        assert self.num_at_once == 1, "asked by two threads at a time"
        assert self.may_answer.wait(120)
        self.num_at_once -= 1
        return super().poll(budget_s)


def test_a_state_that_is_there_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "LONGEST_WAIT_S", 120.0)  # its thread gets its turn when it gets it
    look = FirstLook(FixedMonitor(running()))
    assert look.state_soon() == running()
    assert look.take() == running()
    assert look.take() is None


@pytest.mark.parametrize("is_start", [True, False])
def test_a_disk_that_sleeps_keeps_nobody(is_start: bool) -> None:
    """It comes back while the disk has not answered yet; for how long it waits is written down."""
    assert 0 < first_look.LONGEST_PAUSE_S < first_look.LONGEST_WAIT_S <= 0.25
    monitor = SlowMonitor(running())
    look = FirstLook(monitor)
    assert look.state_soon(is_start=is_start) is None
    assert monitor.num_at_once == 1, "the disk sleeps still"
    monitor.may_answer.set()
    assert look.take() == running()


def test_who_follows_waits_for_the_first_look_and_begins_with_it() -> None:
    monitor = SlowMonitor(running())
    look = FirstLook(monitor)
    told: list[object] = []
    thread = threading.Thread(
        target=follow,
        args=(monitor, told.append),
        kwargs={"interval_s": 0.01, "first": look.take, "is_cancelled": lambda: len(told) > 0},
    )
    thread.start()
    thread.join(0.05)
    assert told == []
    monitor.may_answer.set()
    thread.join(120)
    assert len(told) == 1
    assert monitor.num_polls == 1, "what was polled first is what is told"


def test_the_rest_of_a_long_log_waits_for_the_first_picture() -> None:
    """Read beside it, it takes half of the interpreter from it: 50 ms of a start."""
    monitor = FixedMonitor(running())
    monitor.is_caught_up = False
    num_polls_at_picture: list[int] = []
    look = FirstLook(monitor)
    follow(
        monitor, lambda message: None, interval_s=0.0, first=look.take,
        wait_for_picture=lambda: num_polls_at_picture.append(monitor.num_polls),
        is_cancelled=lambda: monitor.num_polls >= 4,
    )  # fmt: skip
    assert num_polls_at_picture == [1], "once, and nothing but the first look was taken before"


@pytest.mark.parametrize("is_headless", [True, False])
def test_the_first_picture_is_not_waited_for_where_none_is_sent(
    monkeypatch: pytest.MonkeyPatch, is_headless: bool
) -> None:
    monkeypatch.setattr(base_app, "_PICTURE_TAKES_S", 1e9 if is_headless else 0.01)
    app = ScreenApp(Screen())
    monkeypatch.setattr(type(app), "is_headless", is_headless)
    app.wait_for_picture()


def test_an_error_is_raised_where_it_is_taken() -> None:
    class Broken(FixedMonitor):
        def poll(self, budget_s: float = 0.05) -> RunState:
            raise CkptError("Gone", "the directory is gone")

    look = FirstLook(Broken(running()))
    assert look.state_soon() is None
    with pytest.raises(CkptError, match="Gone"):
        look.take()
    assert look.take() is None
