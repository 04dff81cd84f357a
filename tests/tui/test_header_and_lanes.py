"""What the header, the lanes and the checkpoint list say, without an app."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from ckpt_tui.run.state import Alert, AtRisk, BadLines, Eta, FeedLine, Lost, Marker, Phase, RunState, Save, Session
from ckpt_tui.run.wording import reason_sentence
from ckpt_tui.services.catalog import Catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.text import cell_width
from ckpt_tui.tui.news import alert_news, damage_news, keys_news, log_news
from ckpt_tui.tui.scale import XScale
from ckpt_tui.tui.screens.run_actions import diff_pair
from ckpt_tui.tui.widgets.checkpoint_list import age_words, cells_of, columns, note_of, plain_cells_of, rows_of
from ckpt_tui.tui.widgets.event_lane import lane
from ckpt_tui.tui.widgets.feed import cells_of as feed_cells
from ckpt_tui.tui.widgets.feed import words_of as feed_words
from ckpt_tui.tui.widgets.header import header_lines
from ckpt_tui.tui.widgets.lines_widget import rule
from ckpt_tui.tui.widgets.session_lanes import bar_of, has_outlook, lane_lines, outlook_bar, words_of
from ckpt_tui.tui.widgets.session_list import cells_of as session_cells
from ckpt_tui.tui.widgets.virtual_list import lay_out
from tests.builders.run_states import NOW, crashed, running, save


def lines(state: RunState, width: int = 80, **more: object) -> list[str]:
    made = ["".join(part for part, _ in line) for line in header_lines(state, width, **more)]  # type: ignore[arg-type]
    assert all(cell_width(line) <= width for line in made), made
    return [line.rstrip() for line in made]


def test_a_healthy_run_in_three_lines() -> None:
    first, second, third = lines(running())
    assert first.startswith(" gpt  ● running    step   400 / 1,000   40 %  ━")
    assert second == " eta 3m 54s (3m 40s - 4m 20s)  18.3 it/s   9.4k tok/s  loss 1.482  best 1.467"
    assert third == " at risk 100 steps, 8.9 s       last valid rolling 300,  9 s ago   41 saves fit"


def test_numbers_that_change_width_do_not_move_the_rest() -> None:
    early = lines(running(step=7, at_risk=AtRisk(7, 0.5, None)))
    late = lines(running(step=999, at_risk=AtRisk(999, 60.0, None)))
    assert early[0].index("/ 1,000") == late[0].index("/ 1,000")
    assert early[2].index("no valid checkpoint yet") == late[2].index("no valid checkpoint yet")


def test_at_80_columns_no_fact_is_lost_however_long_it_is() -> None:
    saved = save(1_234_500, NOW - 3000, kind="emergency")
    state = running(
        name="a-very-long-name-of-a-run-that-somebody-gave-it", step=1_234_567, total_steps=10_000_000,
        eta=Eta(45_000, 42_600, 47_400), steps_per_s=1234.5, tokens_per_s=999_000.0, last_loss=0.000123,
        best_value=0.000121, saves=(saved,), saves_that_fit=26_130,
        at_risk=AtRisk(12_345, 7800.0, saved.path, saved.step, saved.ts),
    )  # fmt: skip
    first, second, third = lines(state)
    assert "1,234,567 / 10,000,000   12 %" in first
    for fact in ("eta 12h 30m", "1234.5 it/s", "999k tok/s", "loss 1.23e-4", "best 1.21e-4"):
        assert fact in second
    for fact in ("at risk 12,345 steps, 2h 10m", "emergency 1,234,500", "26.1k saves fit"):
        assert fact in third


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_says_at_every_width_what_matters(phase: Phase, width: int) -> None:
    said = " ".join(lines(crashed(phase=phase, reason="why it is so"), width, next_keys=KEYS))
    assert phase.value in said
    if phase is Phase.WAITING:
        return
    assert "73 %" in said
    if phase in (Phase.STALLED, Phase.SILENT):
        assert "why it is so" in said
    if not phase.is_over:
        assert "127 steps" in said
    elif phase is not Phase.FINISHED:
        assert "Lost 127 steps, 7.0 s" in said
        assert "r resume" in said
        assert "3,323 new" in said
        assert "why it is so" in said


KEYS = keys_news([("r", "resume from rolling 9,250 (valid)", "resume"), ("b", "roll back", "roll back")])


def test_after_a_crash_what_was_lost_and_what_to_do_comes_first() -> None:
    damage = damage_news(
        "latest.pt", "is damaged: latest/data/41: its checksum differs: bytes 1 to 9 are not what was written",
        "latest_backup.pt",
    )  # fmt: skip
    said = lines(crashed(), next_keys=KEYS, damages=[damage])
    assert said[0].startswith(" gpt  ✖ crashed ")
    assert "6h 31m ago" in said[0]
    assert "gone without a word" in said[1]
    assert said[2] == " Lost 127 steps, 7.0 s of training since rolling 9,250."
    assert said[3] == " latest.pt is damaged: data/41 fails its checksum. latest_backup.pt is valid."
    assert said[4].startswith(" A resume skips 0-9,249, redoes 9,250-9,376, trains 3,323 new: about ")
    assert said[5] == "   r resume from rolling 9,250 (valid)    b roll back"
    assert len(said) == 6


def test_on_40_by_12_the_crash_is_told_whole() -> None:
    damage = damage_news("latest.pt", "is damaged: latest/data/41: its checksum differs", "latest_backup.pt")
    said = lines(crashed(), 40, next_keys=KEYS, damages=[damage], most=7)
    assert said[0].endswith(", 6h 31m ago   73 %")
    assert said[1:] == [
        " Killed without a word at step 9,377.",
        " Lost 127 steps, 7.0 s of training",
        " since rolling 9,250.",
        " latest.pt damaged, backup valid",
        " Resume: redo 127 + 3,323 new, 3m 09s",
        " r resume  b roll back",
    ]


def test_where_there_is_no_room_the_least_goes_first() -> None:
    told = [alert_news(crashed(), [Alert("disk", "warning", "Disk", "full soon", 1, NOW)], "a")[0]]
    whole = lines(crashed(), next_keys=KEYS, troubles=told)
    assert whole[-1] == " ▲ Disk: full soon   a alerts"
    assert lines(crashed(), next_keys=KEYS, troubles=told, most=5) == [whole[0], *whole[2:]]
    assert lines(crashed(), next_keys=KEYS, troubles=told, most=4) == [whole[0], *whole[2:5]]
    assert len(lines(crashed(), next_keys=KEYS, troubles=told, most=1)) == 1


@pytest.mark.parametrize("width", [1, 5, 20, 40, 79, 200])
@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_fits_every_width(phase: Phase, width: int) -> None:
    for state in (running(phase=phase), crashed(phase=phase), RunState(now=NOW, phase=phase)):
        made = header_lines(state, width, next_keys=KEYS, progress=0.5)
        assert made
        assert all(sum(cell_width(part) for part, _ in line) <= max(width, 2) for line in made)


def test_every_phase_is_said_by_glyph_and_word() -> None:
    for phase in Phase:
        first = lines(running(phase=phase))[0]
        assert phase.value in first
        assert not first.split(phase.value)[0].isascii()
        assert all(line.isascii() for line in lines(running(phase=phase), unicode=False))


def test_hostile_names_stay_text() -> None:
    bad = "\x1b]0;owned\x07[bold]x[/foo]\u202e"
    state = running(name=bad, notices=(bad,), bad_lines=BadLines(3, 81_220, bad))
    said = lines(state, 120, troubles=log_news(state, "B"))
    assert all(line.isprintable() for line in said)
    assert "[bold]" in said[0]


def test_trouble_has_a_line_says_which_key_and_how_much_more() -> None:
    state = running(bad_lines=BadLines(3, 81_220, "not JSON"), missing_lines=2)
    said = lines(state, troubles=log_news(state, "B"))
    assert said[3] == " ▲ 3 bad lines, first at byte 81,220 (not JSON): press B"
    assert lines(state, 120, troubles=log_news(state, "B"))[3].endswith("press B   2 lines missing (gaps in seq)")
    assert lines(state, 40, troubles=log_news(state, "B"))[3].startswith(" ▲ 3 bad lines: press B")
    replaced = running(notices=("the log was truncated", "the log was replaced"), missing_lines=1)
    assert lines(replaced, troubles=log_news(replaced, "B"))[3:] == [
        " ▲ The log was replaced.  + 1 more", " ▲ 1 line missing (gaps in seq)",
    ]  # fmt: skip


def test_the_disk_says_when_it_will_be_full() -> None:
    assert "41 saves fit, full in 2h 10m" in lines(running(disk_full_ts=NOW + 7830), 120)[2]
    said = lines(running(disk_full_ts=NOW + 7830))[2]
    assert said == " at risk 100 steps, 8.9 s  valid rolling 300, 9 s  41 saves fit, full in 2h 10m"
    assert " 41 saves fit, full in 2h 10m" in lines(running(disk_full_ts=NOW + 7830), 40)
    assert lines(running(disk_full_ts=NOW + 1e8), 120)[2].endswith("41 saves fit"), "in three years"


def test_a_narrow_screen_still_warns() -> None:
    said = lines(running(at_risk=AtRisk(400, 22.0, None), saves_that_fit=1), 40)
    assert " ".join(said).count("no valid checkpoint yet") == 1
    assert " ".join(said).count("1 save fits") == 1


def test_a_stalled_run_promises_no_end() -> None:
    said = " ".join(lines(running(phase=Phase.STALLED, reason="silent for 95 s; 12 s would be usual at most")))
    assert "eta" not in said
    assert "was 18.3 it/s" in said
    assert "silent for 95 s" in said


def test_what_is_not_read_yet_is_not_told_as_a_fact() -> None:
    state = crashed(is_whole=False)
    assert not any("lost" in word for word, _ in words_of(state.sessions[-1], state))
    assert "earlier ones are not read yet" in "".join(part for part, _ in lane_lines(state, 80, 3)[0])


def test_alerts_that_have_passed_and_the_end_itself_are_no_news() -> None:
    over = Alert("spike-1", "warning", "Spike", "loss 9", 5, NOW, is_over=True)
    end = Alert("crashed-2", "error", "The run crashed", "", 9377, NOW)
    assert not alert_news(crashed(), [over, end], "a")
    assert alert_news(running(), [end], "a")
    silent = Alert("stalled-2-300", "warning", "The run is stalled", "silent for 95 s", 300, NOW)
    assert not alert_news(running(phase=Phase.STALLED, reason="silent for 95 s"), [silent], "a")


def test_while_the_log_is_read_the_first_line_says_how_far() -> None:
    assert lines(running(), progress=0.41)[0].endswith("40 %  reading the log, 41 %")
    assert len(lines(running(), progress=0.41)) == len(lines(running())), "nothing below it moves"
    assert any("reading the log, 41 %" in line for line in lines(running(), 40, progress=0.41))


def test_without_a_log_the_checkpoints_are_said_to_be_all_there_is() -> None:
    waiting = RunState(now=NOW, directory="/runs/gpt")
    assert "No events yet" in lines(waiting)[1]
    assert "only the checkpoints are known" in lines(waiting, has_checkpoints=True)[1]
    assert lines(waiting)[0].startswith(" gpt ")


@pytest.mark.parametrize("total", [0, -5, 10**12])
def test_totals_that_nobody_expects(total: int) -> None:
    said = lines(running(total_steps=total, step=10**12 if total > 0 else 400))
    assert ("step 400" in said[0]) == (total <= 0)
    assert ("100 %" in said[0]) == (total > 0)


def test_the_lane_shows_what_matters_most_where_two_meet() -> None:
    x = XScale("step", 0, 100, 10)
    markers = [
        Marker(kind, step, 0.0, 1, "") for kind, step in (("save", 15), ("crash", 16), ("best", 55), ("save", 55))
    ]
    made = lane(markers, x)
    assert "".join(char for char, _ in made) == "·✖···★····"
    assert made[1][1] == "error"
    assert "".join(char for char, _ in lane(markers, x, unicode=False)) == ".X...*...."
    assert lane([Marker("unheard-of", 5, 0.0, 1, "")], x)[0][0] == "·"


def test_sessions_are_drawn_to_scale() -> None:
    first = Session(1, 0, 500, 0, 1, Phase.CRASHED, lost_steps=100, lost_s=6.0)
    second = Session(2, 400, 800, 2, 3, Phase.RUNNING, retrained_steps=100)
    assert bar_of(first, 1000, 20) == ["trained"] * 8 + ["saved", "lost", "crashed"] + ["nothing"] * 9
    made = bar_of(second, 1000, 20)
    assert made[:8] == ["skipped"] * 8
    assert made[8:11] == ["resumed", "retrained", "trained"]
    assert made[16] == "here"


def test_steps_that_a_session_went_back_over_are_drawn_where_they_are() -> None:
    session = Session(1, 0, 800, 0, 1, Phase.FINISHED, gone_back=((400, 500), (750, 760)))
    made = bar_of(session, 1000, 20)
    assert [index for index, part in enumerate(made) if part == "retrained"] == [8, 9, 10, 15]
    assert made[1] == "trained", "nothing was trained again where it began"
    made = bar_of(Session(1, 0, 400, 0, 1, Phase.RUNNING, gone_back=((400, 800),)), 1000, 20)
    assert "retrained" not in made, "not yet"


def test_a_session_loses_nothing_before_its_own_start() -> None:
    made = bar_of(Session(3, 400, 800, 0, 1, Phase.CRASHED, lost_steps=800, lost_s=9.0), 1000, 20)
    assert made[:8] == ["skipped"] * 8
    assert "lost" in made[9:]
    made = bar_of(Session(3, 7200, 7400, 0, 1, Phase.CRASHED, lost_steps=50, lost_s=9.0), 12_700, 40)
    assert set(made[: made.index("resumed")]) == {"skipped"}


def test_few_lost_steps_are_seen_all_the_same() -> None:
    made = bar_of(Session(1, 0, 9377, 0, 1, Phase.CRASHED, lost_steps=1, lost_s=0.1), 12_700, 30)
    assert "lost" in made


@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_session_bars_survive_no_room(width: int) -> None:
    session = Session(2, 9, 10, 0, 1, Phase.CRASHED, lost_steps=10, lost_s=1.0, retrained_steps=10)
    assert len(bar_of(session, 0, width)) == width


def entry(name: str, step: int | None, **fields: object) -> CatalogEntry:
    known = {
        "kind": "rolling",
        "epoch": None,
        "val_loss": 1.5,
        "size_bytes": 10_400_000,
        "saved_at": NOW - 70,
        "step": step,
        **fields,
    }
    return CatalogEntry(name=name, path=f"/r/{name}", **known)  # type: ignore[arg-type]


def test_the_list_knows_validity_and_what_a_resume_takes() -> None:
    catalog = Catalog("/r", (
        entry("latest.pt", 300, kind="latest", validity="damaged", note="data/41 fails its checksum"),
        entry("latest_backup.pt", 300, kind="latest", validity="valid", level="resume",
              is_backup=True, backup_of="latest.pt"),
        entry("rolling_step_000300.pt", 300, validity="valid", level="structure", resume_takes=True),
    ), 31_200_000, "rolling_step_000300.pt")  # fmt: skip
    rows = rows_of(running(), catalog)
    shown = [[cell if isinstance(cell, str) else cell[0] for cell in cells_of(row, NOW)] for row in rows]
    assert [[*row[:2], *row[3:8]] for row in shown] == [
        ["● rolling", "300", "1.500  ", "10.4 MB", "1 m", "✓ structure", "resume takes it"],
        ["● latest", "300", "1.500  ", "10.4 MB", "1 m", "✖ damaged", "data/41 fails its checksum"],
        ["● latest", "300", "1.500  ", "10.4 MB", "1 m", "✓ valid", "backup of latest.pt"],
    ]
    assert all(cell.isascii() for row in rows for cell in _texts(plain_cells_of(row, NOW)))
    assert _texts(cells_of(rows[0], NOW, 0))[0] == "↻ rolling", "where there is no room for words"


def _texts(cells: tuple[object, ...]) -> list[str]:
    return [cell if isinstance(cell, str) else cell[0] for cell in cells]  # type: ignore[index]


def test_a_save_that_the_catalog_cannot_have_seen_is_listed_from_the_log() -> None:
    catalog = Catalog("/r", (entry("rolling_step_000300.pt", 300),), 1)
    state = running(saves=(
        save(290, NOW - 80), save(300, NOW - 70), save(350, NOW - 5), replace(save(340, NOW - 6), removed=True),
    ))  # fmt: skip
    assert [row.step for row in rows_of(state, catalog, log_after=NOW - 70)] == [350, 300], "290 is gone, or has moved"
    assert [row.step for row in rows_of(state, catalog, log_after=NOW - 5)] == [300]
    assert [row.step for row in rows_of(state, None)] == [350, 300, 290]
    assert {row.validity for row in rows_of(state, None)} == {"in the log"}


def test_newest_first_whatever_the_step_and_what_was_saved_together_together() -> None:
    left = {"is_abandoned": True, "is_best": True}
    catalog = Catalog("/r", (
        entry("best_model.pt", 900, kind="best", saved_at=NOW - 900, **left),
        entry("rolling_step_000900.pt", 900, saved_at=NOW - 900, **left),
        entry("rolling_step_000500.pt", 500, saved_at=NOW - 60, is_best=True),
        entry("latest.pt", 500, kind="latest", saved_at=NOW, validity="damaged"),
        entry("latest_backup.pt", 400, kind="latest", saved_at=NOW - 200, is_backup=True, backup_of="latest.pt"),
        entry("rolling_step_000400.pt", 400, saved_at=NOW - 199.8),
    ), 1)  # fmt: skip
    rows = rows_of(running(), catalog)
    assert [row.name for row in rows] == [
        "latest.pt", "rolling_step_000500.pt", "rolling_step_000400.pt", "latest_backup.pt", "best_model.pt",
        "rolling_step_000900.pt",
    ]  # fmt: skip
    assert [row.name for row in rows if row.is_best] == ["rolling_step_000500.pt"], (
        "what was left is no best of this run"
    )
    assert _texts(cells_of(rows[4], NOW))[0] == "☆ best"


def test_notes_say_what_matters_most_in_the_room_there_is() -> None:
    notes = (("resume takes it", "resume"), ("removed next", "goes next"), ("backup of latest.pt", "backup"))
    assert note_of(notes, 60) == "resume takes it, removed next, backup of latest.pt"
    assert note_of(notes, 40) == "resume takes it, removed next, backup"
    assert note_of(notes, 25) == "resume, goes next, backup"
    assert note_of(notes, 15) == "resume takes it"
    assert note_of(notes, 8) == "resume"
    assert note_of((), 8) == ""


def test_names_of_other_people_and_steps_of_any_size() -> None:
    catalog = Catalog("/r", (
        entry("checkpoint-500", 500, kind="other"), entry("a.pt", 1_234_567, kind="other"),
        entry("b.pt", 10**15, kind="other"), entry("c.pt", None, kind="other"),
    ), 1)  # fmt: skip
    cells = {row.name: _texts(cells_of(row, NOW)) for row in rows_of(running(), catalog)}
    assert cells["checkpoint-500"][7] == "checkpoint-500"
    assert [cells[name][1] for name in ("a.pt", "b.pt", "c.pt")] == ["1,234,567", "1000T", "-"]


def test_ages_are_told_in_minutes_at_the_finest() -> None:
    words = [age_words(NOW - age_s, NOW) for age_s in (0, 59, 60, 3599, 3600, 50 * 3600)]
    assert words == ["<1 m", "<1 m", "1 m", "59 m", "1 h", "2 d"]
    assert age_words(None, NOW) == "-"
    assert rows_of(running(), None) == rows_of(replace(running(), now=NOW + 100), None)


def test_diff_takes_the_marked_one_or_the_one_before() -> None:
    rows = rows_of(running(saves=(save(100, 1), save(200, 2), save(300, 3))), None)
    names = [row.name for row in rows]
    assert diff_pair(rows, rows[0], None) == (names[1], names[0])
    assert diff_pair(rows, rows[0], names[2]) == (names[2], names[0])
    assert diff_pair(rows, rows[2], names[0]) == (names[2], names[0])
    assert diff_pair(rows, rows[2], None) is None
    assert diff_pair(rows, None, None) is None


@pytest.mark.parametrize("width", [1, 10, 30, 80])
def test_rules_fill_their_width(width: int) -> None:
    cells = rule("loss", [("all", "dim"), ("  train", "train")], width)
    assert sum(cell_width(part) for part, _ in cells) == width or width < 8


def test_a_session_names_what_it_resumed_from_as_it_was_then() -> None:
    state = running()
    resumed = replace(
        state.sessions[-1], number=2, start_step=500, last_step=900, start_ts=NOW - 50, resumed_from="latest.pt",
        lost_steps=0, lost_s=0.0, phase=Phase.RUNNING,
    )  # fmt: skip
    saves = (
        save(500, NOW - 60, names=("rolling_step_000500.pt", "latest.pt")),
        save(800, NOW - 10, names=("rolling_step_000800.pt", "latest.pt")),
    )
    words = "".join(word for word, _ in words_of(resumed, replace(state, saves=saves)))
    assert "500" in words.rpartition("from")[2]
    assert "800" not in words


def test_a_line_of_the_feed_says_what_happened_to_what() -> None:
    saved = FeedLine(NOW, 1, 7750, "checkpoint_saved", "rolling_step_007750.pt 1.5 MB: stalled 45 ms", "good", 7)
    assert feed_words(saved) == "saved rolling 7,750 1.5 MB: stalled 45 ms"
    gone = replace(saved, name="checkpoint_removed", text="rolling_step_005250.pt: --keep_checkpoints 10")
    assert feed_words(gone) == "removed rolling 5,250: --keep_checkpoints 10"
    stopped = replace(saved, text="emergency_step_000812_20261121_021409.pt 1.5 MB")
    assert feed_words(stopped) == "saved emergency 812 1.5 MB"
    other = replace(saved, name="other", text="my_rolling_step_5.pt.tmp")
    assert feed_words(other) == "my_rolling_step_5.pt.tmp"
    assert feed_words(replace(saved, name="unheard_of", text="")) == "unheard_of"


def test_the_lanes_of_many_sessions_say_how_many_are_not_shown() -> None:
    sessions = tuple(
        Session(n, n * 10, n * 10 + 15, 0, 1, Phase.CRASHED, lost_steps=5, lost_s=1.0) for n in range(1, 51)
    )
    state = running(sessions=sessions, lost=Lost(250, 50.0, 0.25))
    for width in (20, 60, 80, 200):
        made = ["".join(part for part, _ in line) for line in lane_lines(state, width, 3)]
        assert len(made) == 3
        assert all(cell_width(line) <= width for line in made), made
    assert made[0].startswith("─ sessions 49-50 of 50: lost 250 steps, 50 s, 25 % overhead, goodput 80 % ─")
    assert "lost 5 steps, 1.0 s" in made[1]


def test_what_a_resume_would_do_is_drawn_on_the_scale_of_the_sessions() -> None:
    state = crashed()
    bar = outlook_bar(state, 12_700, 100)
    assert bar[:72] == ["skipped"] * 72
    assert bar[72:74] == ["resumed", "retrained"], "however few they are"
    assert set(bar[75:]) == {"new"}
    made = ["".join(part for part, _ in line) for line in lane_lines(state, 80, 4)]
    assert "↻ resume    9,250  redoes 127, then 3,323 new" in made[3]
    assert not has_outlook(running())
    assert not has_outlook(crashed(phase=Phase.FINISHED))
    assert len(outlook_bar(crashed(total_steps=0), 0, 10)) == 10


def test_the_list_of_sessions_tells_what_each_cost() -> None:
    state = crashed()
    texts = _texts(session_cells(state.sessions[1], state))
    assert texts[:7] == ["2", "✖ crashed", "5,000", "9,377", "127", "7.0 s", "120"]
    assert texts[-1].endswith("from rolling 5,000")


def test_a_checkpoint_of_another_trainer_is_called_by_its_name() -> None:
    from ckpt_tui.tui.facts import checkpoint_words

    save = Save("checkpoint-500", "", 500, 0.0, 1, 10, names=("checkpoint-500",))
    assert checkpoint_words("checkpoint-500", (save,)) == "checkpoint-500"


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (37, "kind step validity"),
        (57, "kind step val loss validity note"),
        (76, "kind step val loss size age validity note"),
        (77, "kind step val loss size age validity note"),
        (117, "kind step epoch val loss size age validity note file"),
    ],
)
def test_the_columns_of_the_list_at_each_width(width: int, shown: str) -> None:
    layout = lay_out(columns(), width)
    titles = [column.title or "note" for column in columns()]
    assert " ".join(titles[index] for index, _ in layout) == shown
    assert sum(cells for _, cells in layout) + 2 * (len(layout) - 1) <= width
    notes = [cells for index, cells in layout if titles[index] == "note"]
    assert all(cells >= (15 if width >= 76 else 9) for cells in notes), "what a resume takes is said in full at 80"


def test_on_a_wide_screen_the_lane_says_where_a_live_session_is() -> None:
    state = running(sessions=(Session(1, 0, 412, NOW - 100, NOW, Phase.RUNNING),))
    wide, narrow = (
        "".join(part for part, _ in lane_lines(state, width, 3)[1]).split("● running")[1].strip() for width in (110, 80)
    )
    assert (wide, narrow) == ("412", "")


def test_what_was_on_another_day_has_its_date() -> None:
    """At night nobody knows whether 10:47 was this morning or last week."""
    day = 86_400.0
    told = FeedLine(NOW - 3 * day, 1, 100, "signal", "SIGTERM", "warning", 7)
    then = time.localtime(told.ts)
    assert feed_cells(told, NOW)[0][0] == time.strftime("%m-%d %H:%M", then)
    assert feed_cells(told, told.ts + 1)[0][0] == time.strftime("%H:%M:%S", then)
    state = crashed(last_ts=NOW - 3 * day)
    assert lines(state, 80)[1].endswith(time.strftime(", %H:%M:%S).", then)), (
        "where there is no room the line above has it"
    )
    reason = reason_sentence(state)
    assert reason is not None
    assert f", {time.strftime('%m-%d %H:%M:%S', then)})" in reason[0]
    assert f", {time.strftime('%H:%M:%S', time.localtime(NOW))})" in reason_sentence(crashed(last_ts=NOW))[0]  # type: ignore[index]
