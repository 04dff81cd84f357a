"""Alerts and advice on the screen: listed, acknowledged, kept where it can be kept, rung and told once."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.run.advice import FailureCost, advise
from ckpt_tui.run.alerts import chosen, read_which
from ckpt_tui.run.state import Alert, RunState
from ckpt_tui.services.alerting import Acknowledged, AlertCommand, NewAlerts
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.tui.alerting import BELL_INTERVAL_S, Alerting
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.screens.advice import advice_rows, failure_rows, what_if_rows
from ckpt_tui.tui.screens.alerts import cells_of, detail_words
from tests.builders.event_logs import LogText, worked_example
from tests.builders.run_states import NOW, FixedMonitor, running
from tests.builders.screen_app import seen_text, until
from tests.unit.run.test_fold import fold_of

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}


def alert(kind: str, step: int, *, severity: str = "warning", is_over: bool = False) -> Alert:
    return Alert(f"{kind}-1-{step}", severity, f"A {kind}", f"at {step}", step, NOW - 500 + step, kind, step + 5,
                 NOW - 490 + step, 3, is_over)  # fmt: skip


SPIKE, FAILED, OLD = alert("spike", 20), alert("save_failed", 30, severity="error"), alert("stall", 10, is_over=True)


@pytest.fixture(autouse=True)
def _state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


async def test_alerts_are_listed_acknowledged_and_gone_from_the_header(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    monitor = FixedMonitor(running(alerts=(OLD, SPIKE, FAILED)), str(tmp_path / "run"))
    app = CkptTuiApp(str(tmp_path / "run"), monitor=monitor, interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "▲ A save_failed" in seen_text(app))
        assert "+ 1 more" in seen_text(app)
        await pilot.press("a")
        await until(pilot, lambda: "2 now" in seen_text(app))
        rows = [line for line in seen_text(app).splitlines() if "A s" in line and ":" in line]
        assert [word in line for line, word in zip(rows, ("✖ error", "▲ warning", "▲ warning"), strict=False)]
        await pilot.press("space")
        await until(pilot, lambda: "2 now, 1 of them seen, 1 over" in seen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "▲ A spike" in seen_text(app))
        assert "save_failed" not in seen_text(app)
        await pilot.press("a", "X", "escape")
        await until(pilot, lambda: "▲" not in seen_text(app))
        # A row that a person has looked at is theirs to take back.
        await pilot.press("a", "space", "escape")
        await until(pilot, lambda: "▲ A save_failed" in seen_text(app))
    assert not list((tmp_path / "run").iterdir())


async def test_advice_is_one_key_away(tmp_path: Path) -> None:
    state = fold_of(worked_example()).state(20000.0)
    app = CkptTuiApp(str(tmp_path), monitor=FixedMonitor(state, str(tmp_path)), interval_s=0.02, env=ENV)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.state is not None)
        await pilot.press("A")
        await until(pilot, lambda: "every 500 steps (now)" in seen_text(app))
        assert "31 % overhead" in seen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: "how often to save" not in seen_text(app))


def test_the_advice_screen_has_the_figures_of_advise() -> None:
    advice = advise(fold_of(worked_example()).state(20000.0))
    text = ["".join(part if isinstance(part, str) else part[0] for part in row) for row in advice_rows(advice, 76)]
    assert all(len(row) <= 76 for row in text)
    table = [" ".join(row.split()) for row in text if "steps" in row and ("every" in row or "epoch" in row)]
    assert any(row.startswith("every 500 steps (now) 500 steps 26m 50s") for row in table)
    assert any(row.startswith("once an epoch 1,270 steps 1h 08m") for row in table)
    assert [row[:2] for row in table if "(best)" in row] == ["★ "]
    assert any("took 31 % more time (goodput 76 %)" in row for row in [" ".join(text)])


@pytest.mark.parametrize("width", [30, 36, 60, 76, 180])
def test_the_what_if_table_fits_with_its_times(width: int) -> None:
    advice = advise(fold_of(worked_example()).state(20000.0))
    rows = ["".join(part if isinstance(part, str) else part[0] for part in row) for row in what_if_rows(advice, width)]
    assert max(map(len, rows)) <= max(width, 34)
    assert all(time in row for time, row in zip(("26m 50s", "10m 44s", "1h 08m"), rows[1:], strict=False))


def test_what_failures_cost_stands_beside_what_was_predicted() -> None:
    advice = replace(advise(fold_of(worked_example()).state(20000.0)),
                     failures=(FailureCost(1, 399, 1285.0, 805.0), FailureCost(2, 1, None, None)))  # fmt: skip
    rows = [row[0][0] for row in failure_rows(advice, 76)]
    assert rows == [
        "  failure of       lost     time  predicted",
        "  session 2      1 step        -          -",
        "  session 1   399 steps  21m 25s    13m 25s",
    ]
    assert [row[0] for row in failure_rows(advice, 36)][-1] == "session 1 lost 399 steps, 21m 25s"


def test_acknowledgements_are_kept_by_run_and_time_and_never_in_the_run(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    book = Acknowledged(str(tmp_path / "run"), env)
    book.set([SPIKE, OLD])
    assert book.is_kept
    assert Acknowledged(str(tmp_path / "run"), env).holds(SPIKE)
    assert not Acknowledged(str(tmp_path / "other"), env).holds(SPIKE)
    again = Alert(SPIKE.key, "warning", "t", "d", 20, SPIKE.ts + 9999)  # the run started anew: same key, later
    assert not Acknowledged(str(tmp_path / "run"), env).holds(again)
    book.set([OLD], is_acknowledged=False)
    assert [Acknowledged(str(tmp_path / "run"), env).holds(one) for one in (SPIKE, OLD)] == [True, False]
    assert not Acknowledged(str(tmp_path), {"XDG_STATE_HOME": str(tmp_path)}).is_kept  # it would lie in the run


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b'{"version": 1, "runs": {"x": 3}}', b"\xff\x00", b'{"version":2}',
        b'{"version": 1, "runs": {"/run": {"a": 1' + b"0" * 400 + b"}}}",  # no float is as large
    ],
)  # fmt: skip
def test_a_file_of_acknowledgements_that_is_none_holds_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ckpt-tui" / "acknowledged.json"
    path.parent.mkdir()
    path.write_bytes(content)
    book = Acknowledged("/run", {"XDG_STATE_HOME": str(tmp_path)})
    assert not book.holds(SPIKE)
    book.set([SPIKE])
    assert Acknowledged("/run", {"XDG_STATE_HOME": str(tmp_path)}).holds(SPIKE)


def test_no_place_to_keep_them_is_said_and_they_hold_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    book = Acknowledged("/run", {"XDG_STATE_HOME": str(tmp_path / "file")})
    book.set([SPIKE])
    assert (book.holds(SPIKE), book.is_kept) == (True, False)


def test_only_what_comes_after_the_log_was_read_is_new() -> None:
    new = NewAlerts()
    assert new.take([OLD], is_caught_up=False) == ()
    assert new.take([OLD, SPIKE], is_caught_up=True) == ()
    assert new.take([OLD, SPIKE, FAILED]) == (FAILED,)
    assert new.take([OLD, SPIKE, FAILED]) == ()


def test_a_run_begun_anew_in_the_same_directory_is_told_of_at_the_same_step() -> None:
    """What is deterministic fails at the same step again, and has the same key."""
    new = NewAlerts()
    assert new.take([], num_events=500) == ()
    assert new.take([SPIKE, FAILED], num_events=600) == (SPIKE, FAILED)
    assert new.take([SPIKE], num_events=300) == ()  # a part of the same log
    assert new.take([SPIKE, FAILED], num_events=600) == (FAILED,)
    assert new.take([], num_events=2) == ()
    assert new.take([replace(SPIKE, ts=SPIKE.ts + 100)], num_events=300) == (replace(SPIKE, ts=SPIKE.ts + 100),)
    later = replace(SPIKE, ts=SPIKE.ts + 200)
    assert new.take([later], num_events=250) == (later,)  # between two looks


def test_the_bell_rings_once_an_alert_and_not_too_often(tmp_path: Path) -> None:
    now, rung = [100.0], list[float]()
    alerting = Alerting(str(tmp_path), ring=lambda: rung.append(now[0]), clock=lambda: now[0])
    alerting.take(running(alerts=(OLD, SPIKE)), is_caught_up=True)
    assert rung == []  # it was there before
    alerting.take(running(alerts=(OLD, SPIKE, FAILED)), is_caught_up=True)
    alerting.take(running(alerts=(OLD, SPIKE, FAILED)), is_caught_up=True)
    assert rung == [100.0]
    alerting.take(running(alerts=(FAILED, alert("spike", 40))), is_caught_up=True)
    assert rung == [100.0]
    now[0] += BELL_INTERVAL_S
    alerting.take(running(alerts=(FAILED, alert("spike", 50))), is_caught_up=True)
    assert rung == [100.0, 110.0]
    # What the state no longer tells is over, and stays in the list.
    assert {a.key: a.is_over for a in alerting.alerts} == {
        "stall-1-10": True, "spike-1-20": True, "save_failed-1-30": False, "spike-1-40": True, "spike-1-50": False,
    }  # fmt: skip


def test_what_only_a_part_of_the_log_told_is_not_kept(tmp_path: Path) -> None:
    alerting = Alerting(str(tmp_path))
    alerting.take(running(alerts=(SPIKE,)), is_caught_up=False)
    assert alerting.alerts == [SPIKE]
    alerting.take(running(alerts=(FAILED,)), is_caught_up=True)
    assert alerting.alerts == [FAILED]


def test_a_quiet_watch_has_begun_too(tmp_path: Path) -> None:
    rung: list[int] = []
    alerting = Alerting(str(tmp_path), ring=lambda: rung.append(1))
    alerting.take(running(), is_caught_up=True)
    alerting.take(running(alerts=(SPIKE,)), is_caught_up=True)
    assert rung == [1]


def test_a_command_gets_the_alert_one_at_a_time_and_is_ended_in_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = AlertCommand(f'echo "$CKPT_TUI_ALERT_KIND $CKPT_TUI_ALERT_STEP" >> {out}; cat >> {out}', directory="run")
    hostile = Alert("k", "error", "$(touch x)", "a\x00b\x1b]0;x\x07", 7, 1.0, kind="disk")
    command.start([SPIKE, hostile], "gpt")
    command.finish(120)
    first, told, second, last = out.read_text().splitlines()
    assert (first, second, command.problem) == ("spike 20", "disk 7", "")
    assert json.loads(told)["alert"]["key"] == "spike-1-20"
    assert json.loads(last)["run"] == "gpt"
    command.start([SPIKE], "")  # many runs have no name of their own
    command.finish(120)
    assert json.loads(out.read_text().splitlines()[-1])["run"] == "run"
    slow = AlertCommand("sleep 600; true", directory="run", timeout_s=0.2)
    slow.start([SPIKE], "")
    slow.finish(120)
    assert slow.problem == "took longer than 0.2 s and was ended"
    wrong = AlertCommand("exit 3", directory="run")
    wrong.start([SPIKE], "")
    wrong.finish(120)
    assert wrong.problem == "ended with exit code 3"


def test_which_alerts_a_flag_names() -> None:
    alerts = (OLD, SPIKE, FAILED)
    assert chosen(alerts, read_which("any", "--fail-on")) == (SPIKE, FAILED)
    assert chosen(alerts, read_which("error,stall", "--fail-on")) == (FAILED,)
    assert chosen(alerts, read_which("save-failed, nonfinite", "--fail-on")) == (FAILED,)
    with pytest.raises(CkptError) as raised:
        read_which("spikes", "--fail-on")
    assert "spikes" in raised.value.message
    assert "save_failed" in raised.value.hint


def test_nothing_in_an_alert_reaches_the_terminal_raw() -> None:
    hostile = Alert("k", "error", "[/x]\x1b[2J", "\u202e\x07", 1, NOW, kind="spike")
    cells = cells_of(hostile, NOW, is_acknowledged=False)
    for cell in (*(cell if isinstance(cell, str) else cell[0] for cell in cells), detail_words(hostile)):
        assert cell.isprintable()
    assert RunState(now=0.0).alerts == ()


def test_a_plain_watch_tells_of_alerts_runs_the_command_and_ends_at_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, told = tmp_path / "run" / "events.jsonl", tmp_path / "told"
    log.parent.mkdir()
    log.write_bytes(growing(40).text)

    was_read, poll = threading.Event(), RunMonitor.poll

    def polled(monitor: RunMonitor, budget_s: float = 0.05) -> RunState:
        if monitor.is_caught_up:  # the poll before was, and its state has been looked at: what comes now is new
            was_read.set()
        return poll(monitor, budget_s)

    monkeypatch.setattr(RunMonitor, "poll", polled)

    def grow() -> None:
        assert was_read.wait(120)
        with log.open("ab") as file:
            file.write(growing(41, loss="NaN").lines[-1])

    thread = threading.Thread(target=grow)
    thread.start()
    command = f"cat > {told}"
    code = main(["watch", str(log.parent), "--plain", "--interval", "0.1", "--exit-on", "any", "--on-alert", command])
    thread.join()
    said = capfd.readouterr().out
    assert code == 1
    assert "✖ Loss is not finite: loss is nan at step 41 (step 41)" in said or "! Loss is not finite" in said
    assert json.loads(told.read_text())["alert"]["kind"] == "nonfinite"
    assert main(["status", str(log.parent), "--fail-on", "nonfinite"]) == 1
    assert main(["status", str(log.parent), "--fail-on", "spike"]) != 1
    assert main(["status", str(log.parent), "--fail-on", "wrong"]) == 2
    assert main(["watch", str(log.parent), "--exit-on", "any"]) == 2
    assert main(["watch", str(log.parent), "--plain", "--readonly", "--on-alert", "true"]) == 2


def growing(num_steps: int, loss: object = 2.0) -> LogText:
    """A live run of this process."""
    log = LogText(time.time() - num_steps)
    log.add("run_start", total_steps=1000, pid=os.getpid(), host=os.uname().nodename)
    for step in range(1, num_steps + 1):
        log.add("step", step, ts=log.ts + 1, loss=loss if step == num_steps else 2.0)
    return log
