from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_tui.events.lineage import (
    MAX_SEGMENTS,
    UNTOLD,
    Segment,
    as_plain,
    continued,
    is_on,
    lineage_in_log,
    read_lineage,
    resumed,
)
from ckpt_tui.events.schema import CheckpointSaved
from ckpt_tui.events.writer import EventWriter

FIRST, SECOND, THIRD = Segment(1, "a"), Segment(2, "b", 180, "crc32:1"), Segment(3, "c", 200, "crc32:2")
LINEAGE = (FIRST, SECOND, THIRD)


def test_each_session_holds_up_to_where_the_next_one_began() -> None:
    on = [(s, step) for s in "abcx" for step in (0, 180, 190, 200, 201, 900) if is_on(LINEAGE, s, step)]
    assert on == [("a", 0), ("a", 180), ("b", 0), ("b", 180), ("b", 190), ("b", 200)] + [
        ("c", step) for step in (0, 180, 190, 200, 201, 900)
    ]
    assert not is_on(LINEAGE, "", 0)
    assert is_on((*UNTOLD, THIRD), "", 200)
    assert not is_on((*UNTOLD, THIRD), "", 201)
    # Nothing is called left behind of which nothing is known.
    assert is_on(None, "x", 900)
    assert is_on(LINEAGE, "x", None)


def test_plain_types_there_and_back_and_nothing_else_is_a_lineage() -> None:
    assert read_lineage(as_plain(LINEAGE)) == LINEAGE
    good = as_plain(LINEAGE)
    hostile: list[object] = [
        None, "abc", 7, [], {}, [1], [[]], [{}], [*good, 5], [{**good[0], "session": "1"}], [{**good[0], "id": None}],
        [{**good[0], "start_step": True}], [{**good[0], "start_step": 1.0}],
    ]  # fmt: skip
    assert [value for value in hostile if read_lineage(value) is not None] == []


def test_a_run_that_was_restarted_very_often_forgets_its_first_sessions() -> None:
    lineage = None
    for number in range(MAX_SEGMENTS + 50):
        lineage = resumed(lineage, Segment(number, str(number), number))
    assert lineage is not None
    assert len(lineage) == MAX_SEGMENTS
    assert is_on(lineage, str(MAX_SEGMENTS + 49), 10**6)


def test_a_session_that_died_before_the_registry_knew_of_it_is_where_the_run_is() -> None:
    assert continued((FIRST,), []) == (FIRST,)
    assert continued((FIRST,), [(FIRST, SECOND), LINEAGE, (Segment(9, "z"),)]) == LINEAGE
    assert continued(None, [LINEAGE]) is None


def log(directory: Path, *sessions: tuple[str, bool, tuple[Segment, ...]]) -> str:
    """(what was wanted, whether it saved, its lineage) of each session."""
    for wanted, has_saved, lineage in sessions:
        writer = EventWriter(directory)
        came_from = {"path": "x", "wanted": wanted} if wanted else None
        writer.start(resumed_from=came_from, lineage=as_plain(lineage))
        writer.step(5, loss=1.0)
        if has_saved:
            writer.emit(CheckpointSaved(step=5, path="latest.pt"))
        writer.close()
    return str(directory / "events.jsonl")


@pytest.mark.parametrize(
    ("second", "third", "expected"),
    [
        (("auto", True), ("auto", False), 2),  # it found its checkpoint by itself and saved nothing
        (("auto", True), ("auto", True), 3),
        (("auto", True), ("best", False), 3),  # somebody chose
        (("auto", False), ("auto", False), 1),
        (("old.pt", False), ("auto", False), 2),
    ],
)
def test_the_log_tells_the_newest_that_counts(
    second: tuple[str, bool], third: tuple[str, bool], expected: int, tmp_path: Path
) -> None:
    path = log(tmp_path, ("", True, LINEAGE[:1]), (*second, LINEAGE[:2]), (*third, LINEAGE))
    assert lineage_in_log(path) == LINEAGE[:expected]


def test_a_log_without_lineages_or_none_at_all_tells_nothing(tmp_path: Path) -> None:
    assert lineage_in_log(str(tmp_path / "events.jsonl")) is None
    assert lineage_in_log(log(tmp_path, ("", True, ()))) is None
