"""Raw events and session logs: newest at the bottom and followed, filtered, bad lines found, nothing obeyed."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode, encode
from ckpt_tui.events.schema import CheckpointSaved, ErrorRaised, RunStart, Step, Unknown
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.moment import moment
from ckpt_tui.run.moment_words import moment_lines
from ckpt_tui.tui.legend import _happened
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.screens.events import EventsScreen, event_cells, event_detail
from ckpt_tui.tui.screens.line_search import Search
from ckpt_tui.tui.screens.log import LogScreen, printed_text
from ckpt_tui.tui.widgets.event_lane import MARKS, lane
from ckpt_tui.tui.widgets.feed import words_of as words_of_line
from ckpt_tui.tui.wire import plain_character
from tests.builders.event_logs import LogText
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen, seen_text, settled, until

MARKS_OF = {glyph: (kind, role) for kind, (glyph, _, role, _) in MARKS.items()}
TS = 1_763_690_000.0
HOSTILE = "[/closing]\x1b[2J\x1b]52;c;aGk=\x07‮\x00"


def step(number: int) -> bytes:
    return encode(Step(seq=number, ts=TS + number, session=1, step=number, metrics={"loss": 2.5, "lr": 6e-4}))


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    saved = CheckpointSaved(seq=50, ts=TS, session=1, step=50, path="rolling_step_000050.pt", kind="rolling")
    path.write_bytes(b"".join(step(number) for number in range(50)) + b"garbage [/x] \xff\x1b[2J\n" + encode(saved))
    return path


async def test_newest_at_the_bottom_followed_filtered_and_bad_lines_found(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path.parent)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "checkpoint_saved" in seen(app)[-2]
        assert seen(app)[-2].startswith("> ")
        assert "52 lines" in seen(app)[0]
        assert "following the newest line" in seen_text(app)

        with open(log_path, "ab") as file:
            file.write(step(51) + b'{"v":1,"ev')
        app.first_screen._scan_if_changed()
        await settled(pilot)
        assert "being written" in seen(app)[-2]
        with open(log_path, "ab") as file:
            file.write(b'ent":"best","seq":52,"ts":1,"session":1,"step":51,"metric":"val_loss"}\n')
        app.first_screen._scan_if_changed()
        await settled(pilot)
        assert "best" in seen(app)[-2]
        assert "metric val_loss" in seen(app)[-2]

        await pilot.press("slash", *"SAVED", "enter")
        await settled(pilot)
        assert "1 line with: SAVED" in seen_text(app)
        await pilot.press("escape", "b")
        await settled(pilot)
        assert "1 bad line" in seen_text(app)
        assert "not a JSON object: garbage" in seen_text(app)
        assert "step" not in seen(app)[4]
        await pilot.press("enter")
        await settled(pilot)
        assert "line 51, byte" in seen_text(app)
        assert "garbage [/x] \\xff\\x1b[2J" in seen_text(app)
        assert_nothing_hostile(app)
        await pilot.press("escape", "escape", "escape")
        assert app.has_ended


async def test_the_cursor_stays_where_it_is_while_the_log_grows(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("up", "up", "up")
        before = next(line for line in seen(app) if line.startswith("> "))
        with open(log_path, "ab") as file:
            file.write(step(60))
        app.first_screen._scan_if_changed()
        await settled(pilot)
        assert next(line for line in seen(app) if line.startswith("> ")) == before
        await pilot.press("F")
        await pilot.pause()
        assert "60" in seen(app)[-2]


async def test_nothing_is_drawn_when_nothing_was_written(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        screen = app.first_screen
        screen.line_list.num_lines_rendered = 0
        screen._scan_if_changed()
        await settled(pilot)
        assert screen.line_list.num_lines_rendered == 0


async def test_a_log_that_is_replaced_is_read_again_and_said(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        log_path.write_bytes(step(7))
        app.first_screen._scan_if_changed()
        await settled(pilot)
        assert "the file was replaced 1 time" in seen_text(app)
        assert "7 " in seen(app)[3]


async def test_lines_that_vanish_while_they_are_drawn_are_empty(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan in its thread finds the file replaced before the screen has heard of it."""
    monkeypatch.setattr("ckpt_tui.tui.screens.lines.POLL_INTERVAL_S", 3600.0)  # or it finds them again
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        screen = app.first_screen
        screen._cached.clear()
        screen.log_lines._start_over()
        screen.line_list.refresh()
        await pilot.press("o", "up")
        await pilot.pause()
        assert "checkpoint_saved" not in seen_text(app)


async def test_a_log_that_is_not_there_is_explained(tmp_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(tmp_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ Not found" in seen_text(app)
        await pilot.press("b", "o", "F", "escape", "escape")


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (20, 5)])
async def test_hostile_events_stay_text(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        encode(RunStart(seq=1, ts=TS, session=1, run_name=HOSTILE, config={HOSTILE: HOSTILE}, argv=[HOSTILE]))
        + encode(ErrorRaised(seq=2, ts=TS, session=1, type=HOSTILE, message=HOSTILE * 500, traceback="a\nb\n" * 900))
        + encode(Unknown(seq=3, ts=1e300, session=1, event=HOSTILE, extra={HOSTILE: [HOSTILE, {"a": HOSTILE}]}))
        + HOSTILE.encode()
        + b"\n"
    )
    app = ScreenApp(EventsScreen(str(path)))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("o")
        for _ in range(4):
            await pilot.press("up")
            await pilot.pause()
            assert_nothing_hostile(app)


def test_an_event_in_a_line_and_in_full() -> None:
    cells = event_cells(step(1234))
    assert cells[1:] == ("1", "1,234", ("step", "dim"), "loss 2.500  lr 6e-4")
    detail = event_detail(step(1234), index=4, offset=99).plain
    assert "line 5, byte 99" in detail
    assert '  "event": "step",' in detail
    assert event_cells(b"[1, 2]\n")[3] == ("✖ bad line", "error")
    assert event_cells(b'{"v":1', is_partial=True)[3] == ("being written", "dim")


async def test_a_session_log_is_shown_as_a_terminal_would_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "session_3.log"
    path.write_bytes(
        b"\x1b[32mresumed from step 9250\x1b[0m\n"
        b"10%|#   |\r50%|##  |\r100%|####|\n"
        b"RuntimeError: boom [/x]\x1b]52;c;aGk=\x07\n"
    )
    app = ScreenApp(LogScreen(str(path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        lines = seen(app)
        assert "resumed from step 9250" in lines[3]
        assert "100%|####|" in lines[4]
        assert "10%" not in lines[4].replace("100%", "")
        assert "RuntimeError: boom [/x]\\x1b]52" in lines[5]
        assert_nothing_hostile(app)


@pytest.mark.parametrize(
    ("printed", "shown"),
    [(b"a\tb", "a   b"), (b"x\r", "x"), (b"a\rb\r", "b"), (b"\x1b[1mbold\x1b[0m", "bold"), (b"\x1b[2J", "\\x1b[2J")],
)
def test_what_was_printed(printed: bytes, shown: str) -> None:
    assert printed_text(printed) == shown


def test_a_save_and_what_a_failure_cost_are_told_in_words() -> None:
    saved = (
        b'{"event":"checkpoint_saved","path":"rolling_step_000500.pt","bytes":258000000,'
        b'"stall_seconds":0.012,"save_seconds":0.8}'
    )
    assert event_cells(saved)[-1] == "rolling_step_000500.pt 258.0 MB: stalled 12 ms, durable after 800 ms"
    lost = b'{"event":"lost_work","lost_session":1,"cause":"killed","from_step":500,"to_step":899,"path":"\\u001b[2J"}'
    assert event_cells(lost)[-2:] == (("lost_work", "error"), "session 1 killed: 399 steps lost")
    assert event_cells(b'{"event":"advice"}')[-1] == "no interval can be recommended yet"


async def test_what_was_found_is_gone_through_among_all_lines(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("n")
        assert "Look for something first" in seen(app)[-1]
        await pilot.press("slash", *'"step":1', "enter")
        await settled(pilot)
        assert "11 lines with:" in seen_text(app)
        await pilot.press("n")
        await settled(pilot)
        assert '11 of 11 lines with: "step":1' in seen_text(app)
        row = next(line for line in seen(app) if line.startswith("> "))
        assert " 19 " in row
        assert " 20 " in seen_text(app), "the lines around it are there too"
        await pilot.press("n")
        assert "1 of 11" in seen_text(app), "around the end to the start"
        await pilot.press("N", "N")
        assert "10 of 11" in seen_text(app)
        await pilot.press("escape")
        assert " of 11" not in seen_text(app)
        assert not app.has_ended


async def test_one_kind_of_event_and_how_many_there_are(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("f")
        await until(pilot, lambda: "Events of which kind?" in seen_text(app))
        assert "checkpoint_saved" in seen_text(app)
        await pilot.press("down", "down", "enter")
        await settled(pilot)
        assert "1 checkpoint_saved event" in seen_text(app)


async def test_a_step_is_gone_to(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path), at_step=7))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: any(line.startswith("> ") and "  7  " in line for line in seen(app)))
        await pilot.press("colon", *"30", "enter")
        await until(pilot, lambda: any(line.startswith("> ") and "  30  " in line for line in seen(app)))
        await pilot.press("colon", *"nowhere", "enter")
        await pilot.pause()
        assert "That is no place" in seen(app)[-1]


async def test_in_a_large_log_only_the_whole_word_is_looked_for(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckpt_tui.tui.screens.lines.AT_ONCE_BYTES", 100)
    monkeypatch.setattr("ckpt_tui.tui.screens.lines.TYPING_PAUSE_S", 3600.0)  # this types without one
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        looked_for: list[tuple[str, ...]] = []
        screen = app.first_screen
        set_search = screen.set_search
        monkeypatch.setattr(screen, "set_search", lambda search: (looked_for.append(search.words), set_search(search)))
        await pilot.press("slash", *"saved", "enter")
        await settled(pilot)
        assert looked_for == [("saved",)]
        assert "1 line with: saved" in seen_text(app)


async def test_lines_drawn_before_the_search_is_over_are_those_before_it(log_path: Path) -> None:
    app = ScreenApp(EventsScreen(str(log_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        screen = app.first_screen
        screen._cancel_and_scan = lambda: None  # it takes its time
        screen.set_search(Search(words=("saved",)))
        screen.line_list.refresh()
        await pilot.pause()
        assert "looking ..." in seen_text(app)
        assert "loss 2.500" in seen_text(app)
        screen.visible_lines.found = array("Q")  # the list has not heard of it
        screen._cached.clear()
        screen.line_list.refresh()
        await pilot.pause()
        assert "loss 2.500" not in seen_text(app)


@pytest.mark.parametrize(
    ("act", "why", "glyph", "words", "feed_words"),
    [
        ("restore", "damaged", "↺", "restored latest.pt from old.pt by viewer: damaged", "restored"),
        ("rollback", "rolled back", "⇤", "rolled back: latest.pt from old.pt by viewer", "rolled back"),
        ("undo", "undo of a rollback", "↶", "undo of a rollback: latest.pt from old.pt by viewer", "undone"),
        ("redo", "redo of a rollback", "↷", "redo of a rollback: latest.pt from old.pt by viewer", "done again"),
        (["undo", {}], "\x1b[2J", "↺", "restored latest.pt from old.pt by viewer: \\x1b[2J", "restored"),
    ],
)
def test_a_rollback_is_told_as_one_wherever_events_are(
    act: object, why: str, glyph: str, words: str, feed_words: str
) -> None:
    """In the raw events, on the lane, with the cursor on it, in the feed, and at `what happened`."""
    log = LogText()
    log.add("run_start", total_steps=50)
    for number in range(1, 20):
        log.add("step", number, loss=1.0)
    fields = {"path": "latest.pt", "source": "old.pt", "by": "viewer", "why": why, "act": act, "deed": 1}
    line = log.add("checkpoint_restored", 10, **fields)
    kind, role = MARKS_OF[glyph]
    assert event_cells(line)[-2:] == (("checkpoint_restored", role), f"{glyph} {words}")
    fold = RunFold()
    fold.apply_all([decode(one) for one in log.lines])
    state = fold.state(log.ts)
    assert [mark.kind for mark in state.markers if mark.step == 10] == [kind]
    x = XScale("step", 0, 20, 20)
    assert (glyph, role) in lane(state.markers, x)
    assert any(part.startswith(f"  {glyph} {kind}") for part, _ in _happened(state.markers, x, x.cell(10.0) or 0, True))
    assert words_of_line(state.feed[-1]) == words
    told = moment(state, 12)
    assert told is not None
    assert feed_words in "".join(part for one in moment_lines(told) for part, _ in one)


def test_no_two_marks_of_the_lane_look_alike() -> None:
    assert len({one[0] for one in MARKS.values()}) == len({one[3] for one in MARKS.values()}) == len(MARKS)
    acts = [MARKS[kind] for kind in ("restore", "rollback", "undo", "redo")]
    assert len({plain for _, plain, _, _ in acts}) == 4
    assert all(plain_character(glyph) == plain for glyph, plain, _, _ in acts)
