"""Every event type round-trips, is folded whatever its fields hold, and shows in the feed unless it is a curve."""

from __future__ import annotations

import json

import pytest

from ckpt_tui.events.codec import decode, encode
from ckpt_tui.events.schema import COMMON_FIELDS, EVENT_TYPES
from ckpt_tui.run.advice import advise
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.feed import QUIET_EVENTS
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.wording import end_sentences, header_lines, log_sentences

HOSTILE = (None, -1, 1 << 80, -1e308, "NaN", "Infinity", "\x1b]0;x\x07", [], [None], {}, {"a": [1]}, True)


def folded(line: bytes):  # type: ignore[no-untyped-def]
    fold = RunFold()
    fold.apply_all([decode(line), decode(line)])
    for alive in (True, False, None):
        state = fold.state(1e9, Beside(is_process_alive=alive))
        shown = [span for part in header_lines(state) for span in part] + end_sentences(state) + log_sentences(state)
        assert all("\x1b" not in words for words, _ in shown)
        assert all("\x1b" not in line.text for line in state.feed)
        advise(state)
    return state


@pytest.mark.parametrize("name", EVENT_TYPES)
def test_defaults_round_trip_and_show(name: str) -> None:
    event = EVENT_TYPES[name](seq=1, ts=5.0, session=1, step=3)
    assert decode(encode(event)) == event
    feed = folded(encode(event)).feed
    assert [line.name for line in feed] == ([] if EVENT_TYPES[name] in QUIET_EVENTS else [name, name])


@pytest.mark.parametrize("name", EVENT_TYPES)
@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_hostile_fields_are_folded(name: str, value: object) -> None:
    fields = {field: value for field in EVENT_TYPES[name].__struct_fields__ if field not in (*COMMON_FIELDS, "extra")}
    fields |= {"loss": value, "val_loss": value}
    folded(json.dumps({"event": name, **fields}).encode())
    for common in ("seq", "ts", "session", "step"):
        folded(json.dumps({"event": name, **fields, common: value}).encode())


def test_an_unknown_event_is_kept_in_the_feed() -> None:
    assert folded(b'{"event":"coffee","step":2,"cups":3}').feed[0].text == "cups 3"
