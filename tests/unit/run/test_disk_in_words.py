"""What the disk still takes, in the words of header, `status` and `watch --plain` alike."""

from __future__ import annotations

import pytest

from ckpt_tui.commands.status import status_data
from ckpt_tui.run.state import Phase
from ckpt_tui.run.wording import disk_span, header_lines
from ckpt_tui.services.damage import Judgement
from tests.builders.run_states import NOW, running


@pytest.mark.parametrize(
    ("fit", "full_s", "said"),
    [
        (None, None, None),
        (0, None, ("0 saves fit", "bad")),
        (1, None, ("1 save fits", "bad")),
        (9, None, ("9 saves fit", "warn")),
        (41, None, ("41 saves fit", "dim")),
        (26_130, None, ("26.1k saves fit", "dim")),
        (41, 7830.0, ("41 saves fit, full in 2h 10m", "warn")),
        (1, 30.0, ("1 save fits, full in a minute", "bad")),
        (41, 3 * 86400.0, ("41 saves fit, full in 3d 0h", "dim")),
        (41, 1e8, ("41 saves fit", "dim")),
    ],
)
def test_the_disk_in_words(fit: int | None, full_s: float | None, said: tuple[str, str] | None) -> None:
    full_ts = NOW + full_s if full_s is not None else None
    state = running(saves_that_fit=fit, disk_full_ts=full_ts)
    assert disk_span(state) == said
    if said is not None:
        assert any(words == said[0] for line in header_lines(state) for words, _ in line)
    data = status_data(state, Judgement())
    assert (data["saves_that_fit"], data["disk_full_in_s"]) == (fit, full_s)


def test_a_run_that_is_over_fills_no_disk() -> None:
    state = running(phase=Phase.FINISHED, saves_that_fit=41, disk_full_ts=NOW + 60)
    assert disk_span(state) == ("41 saves fit", "dim")
