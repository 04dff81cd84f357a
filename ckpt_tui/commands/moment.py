"""`status PATH --at STEP`: what happened there, as the watch tells it at the key w."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.output import Style
from ckpt_tui.run.moment import Moment, moment, worst_spike
from ckpt_tui.run.moment_words import moment_lines, steps_words, way_back
from ckpt_tui.run.state import RunState

if TYPE_CHECKING:
    from ckpt_tui.services.damage import Judgement

SPIKE = "spike"


def read_at(value: str) -> int | str:
    """The argument of --at."""
    words = value.replace(",", "").replace("_", "")
    if words.isdecimal() and words.isascii() and len(words) < 20:
        return int(words)
    if value == SPIKE:
        return SPIKE
    raise CkptError("Not a step", f"--at {value}", "Give the number of a step, or `spike` for the worst one.")


def moment_at(state: RunState, judgement: Judgement, at: int | str) -> Moment:
    """The moment that --at means; CkptError where the log tells nothing of it."""
    step = worst_spike(state) if at == SPIKE else at
    if step is None:
        raise CkptError("No spike", "nothing stands out of the values around it", "Name a step: --at 1200.")
    assert isinstance(step, int)
    bad = [damaged.path for damaged in judgement.damaged]
    told = moment(state, step, bad_checkpoints=bad) if step <= state.step else None
    if told is None:
        raise CkptError(
            "Nothing was told there", f"the log tells of steps up to {state.step:,}, and of no metric at {step:,}",
            "Name a step that was trained.",
        )  # fmt: skip
    return told


def checked_as_listed(directory: str) -> dict[str, str]:
    """Of each checkpoint what the watch's list says of it."""
    from ckpt_tui.services.catalog import read_catalog

    try:
        return {entry.name: entry.validity_words for entry in read_catalog(directory, check="structure").entries}
    except CkptError:
        return {}  # the rest can be told


def moment_text(told: Moment, validity: Mapping[str, str], style: Style) -> Iterator[str]:
    yield style.paint(f"What happened at {steps_words(told)}", "bold")
    for line in (*moment_lines(told, unicode=style.unicode), way_back(told, validity)):
        yield "".join(style.paint(*span) for span in line).rstrip()


def moment_data(told: Moment) -> dict[str, object]:
    return asdict(told)
