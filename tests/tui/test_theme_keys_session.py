"""Looks by environment, one table of keys, and the thread that follows a run."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.tui import keys, theme
from ckpt_tui.tui.messages import CatalogChanged, SessionFailed, StateChanged
from ckpt_tui.tui.session import follow
from tests.builders.run_states import NOW, FixedMonitor, crashed, running


@pytest.mark.parametrize(
    ("env", "unicode"),
    [
        ({"LANG": "en_US.UTF-8"}, True), ({"LANG": "C.utf8"}, True), ({}, True),
        ({"LANG": "de_DE.ISO-8859-1"}, False), ({"LANG": "en_US.UTF-8", "LC_ALL": "ja_JP.eucJP"}, False),
        ({"LANG": "en_US.UTF-8", "TERM": "linux"}, False),
    ],
)  # fmt: skip
def test_braille_only_where_it_can_be_shown(env: dict[str, str], unicode: bool) -> None:
    assert theme.choose(env).unicode is unicode


def test_keys_are_told_apart() -> None:
    table = (*keys.OVERVIEW_KEYS, *keys.APP_KEYS)
    ids = [key.id for key in table]
    pressed = [one for key in table for one in key.key.split(",")]
    assert len(set(ids)) == len(ids)
    assert len(set(pressed)) == len(pressed)
    assert all(key.label and key.tooltip and len(key.tooltip) <= 52 for key in table), "the help cuts longer ones at 80"


def test_the_footer_fits_80_columns() -> None:
    # The way back to a list is there only where there is one; something else goes then. The way to other parts is
    # needed where the screen is low, and goes first where it is not.
    shown = (k for k in (*keys.OVERVIEW_KEYS, *keys.APP_KEYS) if k.in_footer and k.id not in ("view.runs", "view.feed"))
    words = [f"{keys.key_words(key.key)} {key.label}" for key in shown]
    assert sum(len(word) + 1 for word in words) <= 80


def followed(monitor: FixedMonitor, num_ticks: int, each_tick: object = None) -> list[object]:
    """What `follow` posts in so many ticks of a clock that only sleeping moves."""
    posted: list[object] = []
    clock = [0.0]
    ticks = [0]

    def sleep(seconds: float) -> None:
        before = int(clock[0])
        clock[0] += seconds + 1e-9
        if int(clock[0]) > before:
            ticks[0] += 1
            if callable(each_tick):
                each_tick(ticks[0])

    follow(monitor, posted.append, interval_s=1.0, is_cancelled=lambda: ticks[0] >= num_ticks, sleep=sleep,
           clock=lambda: clock[0])  # fmt: skip
    return posted


def test_nothing_is_posted_while_nothing_changes() -> None:
    monitor = FixedMonitor(crashed())
    assert len(followed(monitor, 10)) == 1
    assert monitor.num_polls >= 10


def test_one_message_a_tick_however_much_changes() -> None:
    monitor = FixedMonitor(running())

    def change(tick: int) -> None:
        monitor.current = running(num_events=tick * 1000, now=NOW + tick)

    assert len(followed(monitor, 5, change)) == 5


def test_of_a_run_that_is_over_the_clock_counts_in_minutes() -> None:
    monitor = FixedMonitor(crashed())

    def age(tick: int) -> None:
        monitor.current = replace(monitor.current, now=monitor.current.now + 1)

    assert len(followed(monitor, 30, age)) <= 2


def test_a_log_that_cannot_be_read_is_told_of_once_and_tried_again() -> None:
    class Failing(FixedMonitor):
        def poll(self, budget_s: float = 0.05) -> object:  # type: ignore[override]
            super().poll()
            if self.num_polls < 4:
                raise CkptError("No permission", "may not read it")
            return self.current

    posted = followed(Failing(running()), 6)
    assert [type(message) for message in posted] == [SessionFailed, StateChanged]


def test_a_long_log_is_left_at_once_when_told_to() -> None:
    cancelled = threading.Event()

    class Endless(FixedMonitor):
        def poll(self, budget_s: float = 0.05) -> object:  # type: ignore[override]
            self.is_caught_up = False
            assert not cancelled.is_set(), "polled after the cancel"
            if self.num_polls == 3:
                cancelled.set()
            return super().poll()

    monitor = Endless(running())
    follow(monitor, lambda message: None, interval_s=1e9, is_cancelled=cancelled.is_set)
    assert monitor.num_polls == 4


def test_only_the_newest_message_of_a_kind_waits() -> None:
    assert StateChanged(running()).can_replace(StateChanged(running()))
    assert not StateChanged(running()).can_replace(CatalogChanged(None))  # type: ignore[arg-type]
