"""How the overview shares out its lines: everything fits at every size, and nothing jumps without news."""

from __future__ import annotations

import pytest

from ckpt_tui.tui.screens.arrangement import (
    CHECKPOINTS,
    CURVES,
    EVENTS,
    SESSIONS,
    arrange,
    header_room,
    shown_parts,
)

SIZES = [(40, 12), (60, 16), (80, 24), (80, 18), (110, 30), (120, 40), (150, 24), (200, 60), (300, 80), (20, 6), (3, 2)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("header", [1, 3, 6, 14])
@pytest.mark.parametrize("num_sessions", [0, 1, 2, 50])
def test_the_parts_fill_the_screen_and_no_more(width: int, height: int, header: int, num_sessions: int) -> None:
    for part in (CURVES, CHECKPOINTS, EVENTS, SESSIONS, "unheard-of"):
        made = arrange(width, height, header, num_sessions, has_outlook=True, part=part)
        assert 1 <= made.header <= header_room(height)
        curves = made.chart + 2 + made.lanes if made.chart else 0
        lists = made.lists + made.feed
        used = max(curves, lists) if made.is_beside else curves + lists
        if height >= 10:
            assert made.header + used + 1 == height
        if made.is_beside:
            assert curves == lists
        if made.chart and made.lists:
            assert made.chart >= 4
            assert made.lists >= 3, "the title and two checkpoints"


def test_low_screens_show_one_part_and_wide_ones_all() -> None:
    assert shown_parts(40, 12, 3, 1) == (CURVES, CHECKPOINTS, EVENTS)
    assert shown_parts(80, 24, 3, 2) == (CHECKPOINTS, EVENTS, SESSIONS)
    assert shown_parts(120, 40, 3, 1) == (CHECKPOINTS,)
    assert arrange(120, 40, 3, 1, has_outlook=False, part=CHECKPOINTS).has_feed
    assert not arrange(120, 40, 3, 1, has_outlook=False, part=CHECKPOINTS).is_beside
    assert arrange(200, 60, 3, 1, has_outlook=False, part=CHECKPOINTS).is_beside


def test_where_there_is_no_log_the_checkpoints_get_the_room() -> None:
    made = arrange(80, 24, 3, 0, has_outlook=False, part=CHECKPOINTS, has_curves=False)
    assert (made.chart, made.lanes, made.lists) == (4, 0, 14)


def test_an_end_gets_the_room_it_needs_on_a_low_screen() -> None:
    made = arrange(40, 12, 7, 1, has_outlook=True, part=CHECKPOINTS)
    assert (made.header, made.lists, made.chart) == (7, 4, 0)
