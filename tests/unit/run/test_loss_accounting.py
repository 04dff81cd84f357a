"""What crashes cost, counted by hand for each case, and the worked example of SPEC section 10 wherever it is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.commands.status import status_lines
from ckpt_tui.output import Style
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.state import Phase, RunState
from ckpt_tui.run.timeline import ResumeOutlook, SessionRecord, lose_after, resume_outlook
from ckpt_tui.run.wording import resume_bar
from ckpt_tui.services.damage import Judgement
from tests.builders.event_logs import LogText, worked_example
from tests.unit.run.test_fold import fold_of

PACE = 3.22


class Life:
    """Sessions of a run at 3.22 s a step, `save`d where it is said."""

    def __init__(self) -> None:
        self.log = LogText()
        self.session = 0

    def train(self, start: int, last: int, *saves: int, end: str = "") -> Life:
        self.session += 1
        session = self.session
        self.log.ts += 600.0
        fields = {"total_steps": 1270, "start_step": start}
        self.log.add("run_start", start, session, resumed_from={"path": "x.pt"} if start else None, **fields)
        return self.go_on(start, last, *saves, end=end)

    def go_on(self, start: int, last: int, *saves: int, end: str = "") -> Life:
        for step in range(start + 1, last + 1):
            self.log.add("step", step, self.session, ts=self.log.ts + PACE, loss=2.0)
            if step in saves:
                name = f"rolling_step_{step:06d}.pt"
                self.log.add("checkpoint_saved", step, self.session, path=name, kind="rolling", stall_seconds=0.5)
        if end:
            self.log.add("run_end", last, self.session, status=end)
        return self

    def state(self, *, alive: bool = True) -> RunState:
        return fold_of(self.log).state(self.log.ts, Beside(is_process_alive=alive))


def lost_by(state: RunState) -> list[int]:
    return [session.lost_steps for session in state.sessions]


# Each case: what happened, what each session lost, what the last one trained again, steps lost in all.
CASES = {
    "one crash": (Life().train(0, 900, 500).train(500, 1270, end="finished"), [400, 0], 400, 400),
    "twice before the old step": (
        Life().train(0, 900, 500).train(500, 700).train(500, 1270, end="finished"), [400, 200, 0], 400, 600
    ),
    "a session that trained nothing": (
        Life().train(0, 900, 500).train(500, 500).train(500, 1270, end="finished"), [400, 0, 0], 400, 400
    ),
    # Its own 100 steps, and 250 of the first session that had been kept until then.
    "back behind the session before": (
        Life().train(0, 900, 250, 500).train(500, 600).train(250, 1270, end="finished"), [650, 100, 0], 650, 750
    ),
    "a crash after new saves": (
        Life().train(0, 900, 500).train(500, 1100, 1000).train(1000, 1270, end="finished"), [400, 100, 0], 100, 500
    ),
    "saved when it was stopped": (
        Life().train(0, 900, 900, end="preempted").train(900, 1270, end="finished"), [0, 0], 0, 0
    ),
    "from scratch again": (Life().train(0, 300).train(0, 1270, end="finished"), [300, 0], 300, 300),
    # A rolled-back loop trains 400 again within the session; its crash then loses 200 more.
    "rolled back in the loop, then a crash": (
        Life().train(0, 900, 500).go_on(500, 700).train(500, 1270, end="finished"), [200, 0], 200, 600
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_lost_steps_are_counted_once_and_to_whom_they_belong(case: str) -> None:
    life, by_session, retrained, total = CASES[case]
    state = life.state()
    assert lost_by(state) == by_session
    assert state.sessions[-1].retrained_steps == retrained
    assert state.lost.steps == total
    assert state.lost.seconds == pytest.approx(total * PACE, rel=0.01)
    # All that was trained against what one run without a crash trains, between step events.
    trained = sum(s.last_step - s.start_step for s in state.sessions) + sum(
        reached - step for s in state.sessions for step, reached in s.gone_back
    )
    assert trained == 1270 + total
    assert state.lost.overhead == pytest.approx(total / 1269, abs=0.003)
    assert state.lost.goodput == pytest.approx(1 / (1 + state.lost.overhead))  # type: ignore[operator]


def test_sessions_of_a_log_of_every_tenth_step_take_no_less_than_no_time() -> None:
    """Ten sessions of 100 steps that each lose 10: the steps after each resume are told by no two events."""
    log, start = LogText(), 0
    for session in range(1, 11):
        log.ts += 60.0
        log.add("run_start", start, session, total_steps=5000, start_step=start)
        last = start + 100
        for step in range(start + 1, last + 1):
            log.ts += PACE
            if step % 10 == 0:
                log.add("step", step, session, ts=log.ts, loss=2.0)
        start = last - 10
    state = fold_of(log).state(log.ts, Beside(is_process_alive=True))
    assert state.lost.overhead == pytest.approx(90 / 910, abs=0.012)


def test_a_crash_is_counted_before_and_after_the_resume_the_same() -> None:
    crashed = Life().train(0, 900, 500).train(500, 700).state(alive=False)
    assert (crashed.phase, lost_by(crashed), crashed.lost.steps) == (Phase.CRASHED, [400, 200], 600)
    resumed = Life().train(0, 900, 500).train(500, 700).train(500, 501).state()
    assert (lost_by(resumed), resumed.lost.steps) == ([400, 200, 0], 600)
    assert resumed.lost.seconds == pytest.approx(crashed.lost.seconds)
    assert resumed.sessions[-1].retrained_steps == 1  # so far


def test_at_risk_and_what_a_resume_would_do() -> None:
    state = Life().train(0, 900, 500).train(500, 700).state(alive=False)
    assert state.at_risk is not None
    assert (state.at_risk.steps, state.at_risk.checkpoint_step) == (200, 500)
    outlook = resume_outlook(state)
    assert (outlook.skipped, outlook.redone, outlook.new) == (500, 200, 570)
    assert outlook.seconds == pytest.approx(770 * PACE, rel=0.01)


def test_the_worked_example_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """20,305 samples, batch 16 -> 1,270 batches of 3.22 s; saves every 500; crash after batch 899; from 500 again."""
    assert -(-20_305 // 16) == 1270
    (tmp_path / "events.jsonl").write_bytes(worked_example().text)
    assert main(["status", str(tmp_path), "--json"]) == 0
    lost = json.loads(capsys.readouterr().out)["data"]["lost"]
    assert (lost["steps"], f"{lost['seconds'] / 60:.1f}") == (400, "21.5")
    assert (f"{lost['overhead']:.0%}", f"{lost['goodput']:.0%}") == ("31%", "76%")
    assert f"{1269 * 3.22 / 60:.1f} {(1 + lost['overhead']) * 1269 * 3.22 / 60:.1f}" == "68.1 89.5"
    assert main(["advise", str(tmp_path), "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)["data"]
    rows = {row["steps"]: f"{row['seconds'] / 60:.0f}" for row in advice["what_if"]}
    assert (rows[500], rows[200], rows[1270]) == ("27", "11", "68")
    assert advice["recommended_steps"] in rows
    assert (advice["save_cost_s"], advice["num_failures"]) == (0.5, 1)


def test_the_worked_example_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").write_bytes(worked_example().text)
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Lost in 2 sessions: 400 steps, 21m 28s, 31 % overhead, goodput 76 %." in said
    assert main(["advise", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "every 500 steps (now) 500 steps 26m 50s" in said
    assert "every 200 steps 200 steps 10m 44s" in said
    assert "once an epoch 1,270 steps 1h 08m" in said
    assert "took 31 % more time (goodput 76 %)" in said


def test_new_bests_are_saves_and_tell_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = LogText()
    log.add("run_start", total_steps=1000)
    for step in range(1, 401):
        log.add("step", step, ts=1000.0 + step, loss=2.0)
        if step % 15 == 0:
            log.add("checkpoint_saved", step, path="best_model.pt", kind="best", stall_seconds=0.1)
        if step % 100 == 0:
            log.add("checkpoint_saved", step, path=f"r{step}.pt", kind="rolling", stall_seconds=0.1)
    (tmp_path / "events.jsonl").write_bytes(log.text)
    assert main(["advise", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["save_every_steps"] == 100


@pytest.mark.parametrize("width", [12, 30, 40, 80, 200])
@pytest.mark.parametrize("steps", [(9000, 377, 3324), (0, 5, 1_000_000), (500, 0, 1), (500, 0, 0), (0, 0, 0)])
def test_a_resume_is_drawn_to_scale(width: int, steps: tuple[int, int, int]) -> None:
    skipped, redone, new = steps
    line = resume_bar(ResumeOutlook("x", skipped, skipped, redone, new, None, None), width)
    text = "".join(words for words, _ in line)
    cells = [text.count(glyph) for glyph in "░▓□"]
    if sum(cells):
        assert len(text) == width
        assert [bool(count) for count in cells] == [bool(count) for count in steps]  # however few, they are seen
        for count, part in zip(cells, steps, strict=True):
            assert count == pytest.approx(sum(cells) * part / sum(steps), abs=2.1)
    assert all(f"{part:,}" in text for part in steps if part)
    plain = "".join(words for words, _ in resume_bar(ResumeOutlook("x", 5, 5, 5, 5, None, None), 60, unicode=False))
    assert plain.isascii()


def test_status_of_a_crash_draws_what_a_resume_would_do() -> None:
    state = fold_of(worked_example(first_part_only=True)).state(4000.0, Beside(is_process_alive=False))
    lines = list(status_lines(state, Style(width=80), Judgement()))
    at = next(index for index, line in enumerate(lines) if line.startswith("A resume skips 0-499, redoes 500-899"))
    bar = lines[at + 1]
    assert len(bar) == 80
    assert "skip 500  redo 400  new 370" in bar


def test_what_a_session_went_back_over_is_told_in_words() -> None:
    """Its end lost 50 steps, and what it went back over by itself 100 more."""
    state = Life().train(0, 300, 200).go_on(200, 250, end="diverged").state(alive=False)
    assert (state.lost.steps, lost_by(state)) == (150, [50])
    said = "\n".join(status_lines(state, Style(), Judgement()))
    assert "Lost 50 steps, 2m 41s of training since rolling 200." in said
    assert "Lost in 1 session: 150 steps, " in said


class Counted(list[SessionRecord]):
    """Counts which of its sessions are looked at."""

    num_looked_at = 0

    def __reversed__(self) -> Iterator[SessionRecord]:  # type: ignore[override]
        for record in super().__reversed__():
            self.num_looked_at += 1
            yield record


def test_of_thousands_of_sessions_only_those_that_reached_beyond_are_looked_at() -> None:
    log = LogText()
    for session in range(1, 501):
        log.add("run_start", session, session, start_step=session - 1)
        for step in range(session, session + 3):
            log.add("step", step, session, ts=log.ts + 1, loss=1.0)
    fold = fold_of(log)
    assert fold.state(log.ts).step == 502  # the last steps are taken
    records = Counted(fold._folded.sessions)
    assert [record.lost_steps for record in records[-6:]] == [2, 2, 2, 2, 2, 0]
    assert lose_after(records, 501, 1.0) == (1, 1.0)  # of the last one: step 502
    assert records.num_looked_at < 8
    assert all(
        record.reached_before == max(one.last_step for one in records[:index])
        for index, record in enumerate(records) if index
    )  # fmt: skip
