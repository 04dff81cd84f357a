"""Many lines at once come out as one by one, whatever is among them."""

from __future__ import annotations

import json

import pytest

from ckpt_tui.events.codec import decode, decode_lines
from ckpt_tui.events.schema import BadLine

STEP = {"v": 1, "event": "step", "seq": 1, "ts": 1.0, "session": 1, "step": 2, "epoch": 0.5, "loss": 1.0}
ODD = [
    STEP, STEP | {"loss": "NaN"}, STEP | {"loss": "-Infinity"}, STEP | {"ts": 5}, STEP | {"ts": "NaN"},
    STEP | {"step": 2.0}, STEP | {"step": 10**30}, STEP | {"step": True}, STEP | {"epoch": 1}, STEP | {"epoch": "x"},
    STEP | {"event": "eval"}, STEP | {"event": ["step"]}, STEP | {"event": "odd"}, {"event": "step"}, {"loss": 1}, [],
    "step", 3,
]  # fmt: skip
LINES = [json.dumps(one).encode() for one in ODD]
LINES += [b"", b"  ", b"\x00\x00" + LINES[0], b"torn {", b'{"event":"step","loss":NaN}', b"\xff", b"[" * 10_000]
LINES += [LINES[0].replace(b"1.0}", b'"\\u004eaN"}'), LINES[0] + b"\r", LINES[0] + LINES[0]]


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:60]))
def test_a_line_among_others_is_the_event_it_is_alone(line: bytes) -> None:
    text = b"\n".join([LINES[0], line, LINES[0]])
    assert repr(decode_lines(text)) == repr([decode(LINES[0]), decode(line), decode(LINES[0])])


def test_a_line_that_would_keep_the_screen_waiting_is_a_bad_line() -> None:
    """Python's decoder takes a third of a second for a line of 12 MB with a bare NaN, and nothing else runs then."""
    start = b'{"v":1,"event":"step","seq":9,"ts":1.0,"session":1,"step":5,"loss":'
    for num_fields, loss, is_bad in ((10, b"NaN", False), (60_000, b"NaN", True), (60_000, b"1.0", False)):
        line = start + loss + b"".join(b',"a%d":1' % i for i in range(num_fields)) + b"}"
        assert isinstance(decode(line), BadLine) is is_bad
    assert isinstance(decode(start + b"1.0" + b"".join(b',"a%d":1' % i for i in range(300_000)) + b"}"), BadLine)
