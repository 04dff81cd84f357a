"""Looking for words, kinds, steps and times in a log: on the functions, without a screen."""

from __future__ import annotations

import tracemalloc
from datetime import datetime
from pathlib import Path

import pytest

from ckpt_tui.tui.log_lines import LogLines
from ckpt_tui.tui.screens.line_search import Place, Search, count_kinds, nearest, newest_time, parse_place

NOON = datetime(2026, 11, 21, 12, 0, 0).timestamp()


def log_of(tmp_path: Path, *lines: bytes) -> LogLines:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    log = LogLines(str(path))
    log.scan()
    return log


def step(number: int, ts: float = NOON) -> bytes:
    return b'{"v":1,"event":"step","seq":1,"ts":%f,"session":1,"step":%d,"loss":2.0}' % (ts, number)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("8250", Place("step", 8250.0)),
        (" Step 8,250 ", Place("step", 8250.0)),
        ("line 12", Place("line", 12.0)),
        ("11:59", Place("time", NOON - 60)),
        ("12:30:05", Place("time", NOON + 1805 - 86400)),
        ("2026-11-20 12:00", Place("time", NOON - 86400)),
        ("2026-02-30 12:00", None),
        ("25:00", None),
        ("step", None),
        ("-5", None),
        ("٣", None),
        ("9" * 400, None),
        ("", None),
    ],
)
def test_places_as_people_write_them(text: str, place: Place | None) -> None:
    assert parse_place(text, NOON) == place


def test_the_nearest_step_is_that_of_the_session_that_trained_it_last(tmp_path: Path) -> None:
    log = log_of(tmp_path, step(10), step(20), step(30), b"garbage", step(20), step(40))
    assert nearest(log, Place("step", 20)) == 4
    assert nearest(log, Place("step", 31)) == 2
    assert nearest(log, Place("step", 10**9)) == 5
    assert nearest(log, Place("line", 4)) == 3
    assert nearest(log, Place("line", 99)) == 5
    assert nearest(log_of(tmp_path, b"no numbers"), Place("step", 1)) is None
    assert nearest(log_of(tmp_path), Place("line", 1)) is None


def test_of_lines_with_the_same_step_the_first(tmp_path: Path) -> None:
    log = log_of(tmp_path, step(10), step(20), b'{"event":"eval","step":20}', step(30))
    assert nearest(log, Place("step", 20)) == 1


def test_the_nearest_time(tmp_path: Path) -> None:
    log = log_of(tmp_path, step(1, NOON), step(2, NOON + 60), step(3, NOON + 120), b'{"ts":"x"}')
    assert nearest(log, Place("time", NOON + 61)) == 1
    assert newest_time(log) == NOON + 120


def test_kinds_are_counted_and_found(tmp_path: Path) -> None:
    inner = b'{"event":"error","step":3,"message":"{\\"event\\":\\"step\\"}"}'
    log = log_of(tmp_path, step(1), step(2), inner, b'{"event": "Odd Kind"}', b'{"event":"\\u001b"}', b"junk")
    assert count_kinds(log) == [("step", 2), ("error", 1), ("Odd Kind", 1)]
    is_bad = bool
    assert list(log.select(Search(kind="step").matcher(is_bad))) == [0, 1]
    assert list(log.select(Search(kind="Odd Kind").matcher(is_bad))) == [3]
    assert list(log.select(Search(kind="error", words=("STEP",)).matcher(is_bad))) == [2]
    assert list(log.select(Search(kind="error", words=("nan",)).matcher(is_bad))) == []


def test_a_million_kinds_are_not_kept(tmp_path: Path) -> None:
    log = log_of(tmp_path, *(b'{"event":"k%d"}' % number for number in range(1000)))
    assert len(count_kinds(log)) == 200


def test_what_is_shown_is_said() -> None:
    assert Search().is_everything
    assert Search(words=("nan",)).words_for(1) == "1 line with: nan"
    assert Search(kind="best").words_for(2000) == "2,000 best events"
    assert Search(only_bad=True, words=("a", "b")).words_for(0) == "0 bad lines with: a b"


def test_a_line_that_is_found_costs_eight_bytes(tmp_path: Path) -> None:
    log = log_of(tmp_path, *(step(number) for number in range(20_000)))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    found = log.select(Search(kind="step").matcher(bool))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(found) == 20_000
    assert held < 250_000, "more than the numbers of the lines was kept"
