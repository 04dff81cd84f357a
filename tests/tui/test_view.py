"""What is in view: whole, live, frozen; zoom and pan; an axis that stands still while the run goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt_tui.tui import view
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.view import View, x_scale


def scale(shown: View, first: float, last: float, *, is_over: bool = True) -> XScale:
    found = x_scale(shown, (first, last), 100, is_over=is_over)
    assert found is not None
    return found


@pytest.mark.parametrize("shown", [View(), View(window=500.0)])
def test_the_axis_moves_rarely_while_a_run_goes_on(shown: View) -> None:
    scales = [scale(shown, 1, last, is_over=False) for last in range(1000, 2000)]
    assert len({(one.x0, one.x1) for one in scales}) <= 41
    assert all(one.x0 <= last <= one.x1 for one, last in zip(scales, range(1000, 2000), strict=True))
    assert all((one.x1 - last) / (one.x1 - one.x0) < 0.12 for one, last in zip(scales, range(1000, 2000), strict=True))


def test_a_run_that_is_over_fills_the_width() -> None:
    one = scale(View(), 1, 1237)
    assert (one.x0, one.x1) == (0.0, 1237)


def test_nothing_to_show_has_no_axis() -> None:
    assert x_scale(View(), None, 100, is_over=True) is None
    assert x_scale(View(), (1, 2), 0, is_over=True) is None


def test_a_single_point_has_an_axis() -> None:
    for axis in ("step", "time", "epoch"):
        one = scale(View(axis=axis), 7, 7)
        assert one.x0 <= 7 <= one.x1
        assert one.x1 > one.x0


@given(st.floats(min_value=0.01, max_value=0.99), st.sampled_from([0.5, 2.0]))
def test_what_is_under_the_pointer_stays_there_when_zoomed(share: float, factor: float) -> None:
    x = XScale("step", 1000, 5000, 100)
    at = x.x0 + share * (x.x1 - x.x0)
    changed = view.zoomed(View(window=4000.0, end=5000.0), x, (0, 100_000), factor, at)
    after = scale(changed, 0, 100_000)
    assert (at - after.x0) / (after.x1 - after.x0) == pytest.approx(share)
    assert after.x1 - after.x0 == pytest.approx(4000 * factor)


def test_zoomed_out_enough_everything_is_in_view_and_followed() -> None:
    x = XScale("step", 1000, 5000, 100)
    changed = view.zoomed(View(window=4000.0, end=5000.0), x, (0, 6000), 2.0)
    assert (changed.window, changed.end, changed.words) == (None, None, "all")


def test_zooming_at_the_end_of_a_live_run_keeps_following_it() -> None:
    x = scale(View(), 0, 10_000)
    assert view.zoomed(View(), x, (0, 10_000), 0.5).words == "live"
    assert view.zoomed(View(), x, (0, 10_000), 0.5, at=9_999.0).words in ("live", "frozen")
    assert view.zoomed(View(), x, (0, 10_000), 0.5, at=100.0).words == "frozen"


def test_it_cannot_be_zoomed_into_nothing() -> None:
    shown, extent = View(), (0.0, 1e6)
    for _ in range(60):
        shown = view.zoomed(shown, scale(shown, *extent), extent, 0.5, at=5e5)
    one = scale(shown, *extent)
    assert one.x1 - one.x0 == view.LEAST_IN_VIEW["step"]


def test_panned_past_the_end_it_follows_again_and_never_goes_before_the_start() -> None:
    extent = (0.0, 10_000.0)
    shown = View(window=1000.0)
    back = view.panned(shown, scale(shown, *extent), extent, -0.25)
    assert (back.end, back.words) == (9750.0, "frozen")
    assert view.panned(back, scale(back, *extent), extent, 0.25).words == "live"
    for _ in range(100):
        back = view.panned(back, scale(back, *extent), extent, -0.25)
    assert back.end == 1000.0
    assert view.panned(View(), scale(View(), *extent), extent, -0.25) == View()  # all of it is in view


def test_frozen_it_stays_whatever_comes() -> None:
    held = view.frozen(View(), scale(View(), 0, 1000))
    assert (scale(held, 0, 1000).x1, scale(held, 0, 9000).x1) == (1000, 1000)
    assert view.frozen(held, scale(held, 0, 1000)).words == "live"


def test_choices_go_round() -> None:
    assert [view.after(view.SMOOTHINGS, one) for one in view.SMOOTHINGS] == ["light", "heavy", "off"]
    assert view.after(view.RANGES, "nonsense") == "auto"
