"""What happened here: metrics around a step, events, learning rate, the checkpoint that leads back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.run.moment import moment, worst_spike
from ckpt_tui.run.moment_words import moment_lines, steps_words, way_back
from ckpt_tui.run.series import SeriesBuilder
from ckpt_tui.run.state import Marker, Phase, Session
from tests.builders.event_logs import LogText
from tests.builders.run_states import NOW, resumed_series, running, save, series


def flat(last: int, value: float = 2.0, **spikes: float) -> list[tuple[int, float]]:
    """`last` steps of nearly `value`; spikes: s120=9.0."""
    points = {step: value + 0.01 * (step % 3) for step in range(1, last + 1)}
    return list((points | {int(name[1:]): at for name, at in spikes.items()}).items())


def text(lines: object) -> str:
    return "\n".join("".join(part for part, _ in line) for line in lines)  # type: ignore[attr-defined]


def test_the_worst_spike_is_found_and_told() -> None:
    state = running(
        series={"loss": series("loss", flat(400, s120=9.0, s300=5.0)), "grad_norm": series("grad_norm", flat(400, 1.0))}
    )
    step = worst_spike(state)
    assert step == 120
    told = moment(state, 120)
    assert told is not None
    first = told.metrics[0]
    assert (first.name, first.at, first.num_bad) == ("loss", 9.0, 0)
    assert first.before == pytest.approx(2.01, abs=0.02)
    assert first.after == pytest.approx(2.01, abs=0.02)
    assert first.deviation > 100 > told.metrics[1].deviation


def test_a_value_that_is_not_finite_is_the_worst() -> None:
    state = running(series={"loss": series("loss", flat(400, s120=1e6, s200=math.nan))})
    assert worst_spike(state) == 200
    told = moment(state, 200)
    assert told is not None
    assert (told.metrics[0].at, told.metrics[0].num_bad) == (None, 1)
    assert "not finite" in text(moment_lines(told))


def test_noise_and_a_falling_loss_are_no_spike() -> None:
    falling = [(step, 1 + 8 * math.exp(-step / 20) + 0.05 * math.sin(step * 7)) for step in range(1, 2000)]
    assert worst_spike(running(series={"loss": series("loss", falling)})) is None


def test_an_abandoned_spike_is_dealt_with() -> None:
    both = resumed_series("loss", flat(300, s290=50.0), 200, [(step, 2.0) for step in range(201, 401)])
    assert worst_spike(running(series={"loss": both})) is None
    told = moment(running(series={"loss": both}), 290, session=1)
    assert told is not None
    assert (told.continued_from, told.metrics[0].at) == (200, 50.0)
    live = moment(running(series={"loss": both}), 290)
    assert live is not None
    assert (live.continued_from, live.metrics[0].at) == (None, 2.0)
    assert "An abandoned branch: the run went on from step 200" in text(moment_lines(told))


def test_the_way_back_is_from_before_on_the_same_branch_and_good() -> None:
    sessions = (
        Session(1, 0, 300, NOW - 1000, NOW - 600, Phase.CRASHED),
        Session(2, 200, 400, NOW - 500, NOW, Phase.RUNNING),
    )
    saves = (
        save(100, NOW - 900), save(200, NOW - 800), save(250, NOW - 700), save(300, NOW - 650),
        save(250, NOW - 300, session=2), save(350, NOW - 200, session=2),
    )  # fmt: skip
    both = resumed_series("loss", flat(300), 200, [(step, 2.0) for step in range(201, 401)])
    state = running(series={"loss": both}, sessions=sessions, saves=saves)

    def back(step: int, **more: object) -> tuple[int, int]:
        told = moment(state, step, **more)  # type: ignore[arg-type]
        assert told is not None
        assert told.save is not None
        return told.save.session, told.save.step

    assert back(351) == (2, 350)
    assert back(350) == (2, 250)  # what was saved at the step holds what happened at it
    assert back(350, is_trouble=False) == (2, 350)
    assert back(240) == (1, 200)  # not session 1's 250, which nothing of session 2 comes from
    assert back(290, session=1) == (1, 250)
    assert back(351, bad_checkpoints=["rolling_step_000350.pt"]) == (2, 250)
    passed = moment(state, 351, bad_checkpoints=["rolling_step_000350.pt"])
    assert passed is not None
    assert [one.step for one in passed.passed_over] == [350]
    assert "rolling 350 is of no use" in text([way_back(passed, {})])
    first = moment(state, 50)
    assert first is not None
    assert first.save is None
    assert "no checkpoint" in text([way_back(first, {})])


def test_the_learning_rate_is_compared_across_a_resume() -> None:
    loss = resumed_series("loss", flat(300), 200, [(step, 2.0) for step in range(201, 401)])
    rate = resumed_series(
        "lr", [(step, 0.002) for step in range(1, 301)], 200, [(step, 0.001) for step in range(201, 401)]
    )
    told = moment(running(series={"loss": loss, "lr": rate}), 201)
    assert told is not None
    assert (told.rate_before, told.rate_after) == (0.002, 0.001)
    assert "0.002 → 0.001" in text(moment_lines(told))
    assert "0.002 -> 0.001" in text(moment_lines(told, unicode=False))
    later = moment(running(series={"loss": loss, "lr": rate}), 300)
    assert later is not None
    assert "unchanged" in text(moment_lines(later))


def test_a_rate_that_moves_less_than_one_sees_and_an_end_are_told_once() -> None:
    rate = series("lr", [(step, 0.002 - step * 1e-9) for step in range(1, 401)])
    ended = (Marker("finish", 400, NOW, 1, "finished"),)
    told = moment(running(series={"loss": series("loss", flat(400)), "lr": rate}, markers=ended), 300)
    assert told is not None
    said = text(moment_lines(told))
    assert "unchanged" in said
    assert "finished at step 400" in said
    assert "finished finished" not in said


def test_events_around_it_are_told_by_time() -> None:
    markers = (
        Marker("save", 100, NOW - 900, 1, "rolling"), Marker("best", 119, NOW - 881.5, 1, "val_loss"),
        Marker("crash", 300, NOW - 700, 1, "crashed"),
    )  # fmt: skip
    told = moment(running(series={"loss": series("loss", flat(300, s120=9.0))}, markers=markers), 120)
    assert told is not None
    assert told.event_before == markers[0]
    assert told.event_after == markers[2]
    assert "saved rolling at step 100   20 steps, 20 s" in text(moment_lines(told))


def test_a_save_is_as_long_ago_as_the_step_that_it_holds() -> None:
    """It is told of once it is durable, three seconds later here: the header counts from the step, and so is this."""
    saved = Marker("save", 100, NOW - 897, 1, "rolling")
    told = moment(running(series={"loss": series("loss", flat(300))}, markers=(saved,)), 120)
    assert told is not None
    assert told.event_before is not None
    assert told.event_before.ts == pytest.approx(NOW - 900)
    assert "saved rolling at step 100   20 steps, 20 s" in text(moment_lines(told))


def test_what_came_after_going_back_is_not_before() -> None:
    """A step that was trained twice within a minute: the end of the second time is after the first."""
    markers = (
        Marker("save", 110, NOW - 100, 1, "rolling"), Marker("nonfinite", 120, NOW - 879.9, 1, "loss"),
        Marker("nonfinite", 119, NOW - 870, 1, "loss"), Marker("stop", 120, NOW - 860, 1, "diverged"),
    )  # fmt: skip
    told = moment(running(series={"loss": series("loss", flat(400))}, markers=markers), 120)
    assert told is not None
    assert told.ts == pytest.approx(NOW - 880)
    assert (told.event_before, told.event_after) == (markers[1], markers[2])


def test_of_a_long_run_the_moment_says_which_steps_its_values_are_of() -> None:
    builder = SeriesBuilder("loss")
    steps = list(range(1, 200_001))
    values = [2.0 + 0.01 * (step % 3) for step in steps]
    values[123_455] = 77.0
    builder.add_all(1, steps, [NOW + step for step in steps], values)
    state = running(series={"loss": builder.freeze()})
    step = worst_spike(state)
    assert step is not None
    told = moment(state, step)
    assert told is not None
    assert told.first_step <= 123_456 <= told.last_step < told.first_step + 1000
    assert told.metrics[0].at == 77.0
    assert f"steps {told.first_step:,}-{told.last_step:,}" == steps_words(told)


def test_an_evaluation_of_an_earlier_step_is_not_told_as_of_here() -> None:
    state = running(
        series={"loss": series("loss", flat(400)), "val_loss": series("val_loss", [(100, 3.5), (200, 3.0), (300, 2.5)])}
    )
    told = moment(state, 260)
    assert told is not None
    val = next(one for one in told.metrics if one.name == "val_loss")
    assert (val.before, val.at, val.after, val.deviation) == (3.25, None, 2.5, 0.0)
    assert next(one for one in moment(state, 300).metrics if one.name == "val_loss").at == 2.5  # type: ignore[union-attr]


def test_nothing_told_is_no_moment() -> None:
    assert moment(running(series={}), 5) is None
    assert worst_spike(running(series={})) is None
    assert moment(running(series={"loss": series("loss", [(10, 1.0)])}), 5) is None
    one = moment(running(series={"loss": series("loss", [(10, 1.0)])}), 10)
    assert one is not None
    assert (one.metrics[0].before, one.metrics[0].at, one.metrics[0].after) == (None, 1.0, None)


# -- from the shell ----------------------------------------------------------------------------------------------


def told_by_status(tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str, *more: str) -> tuple[int, str]:
    log = LogText()
    for step in range(1, 401):
        log.add("step", step, loss=9.0 if step == 120 else 2.0, lr=0.001)
    (tmp_path / "events.jsonl").write_bytes(log.text)
    code = main(["status", str(tmp_path), "--at", at, *more])
    out, err = capsys.readouterr()
    return code, out + err


def test_status_tells_of_a_step_and_of_the_worst_spike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in ("120", "spike"):
        _, out = told_by_status(tmp_path, capsys, at)
        assert "What happened at step 120" in out
        assert "loss       2.000       9.000 ▲       2.000" in out
        assert "no checkpoint from before it is left" in out
    _, out = told_by_status(tmp_path, capsys, "1_20", "--json")
    data = json.loads(out)["data"]
    assert (data["step"], data["moment"]["step"], data["moment"]["metrics"][0]["at"]) == (400, 120, 9.0)


@pytest.mark.parametrize("at", ["401", "-1", "soon", "1e3", "9" * 30])
def test_status_says_so_where_nothing_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], at: str) -> None:
    code, out = told_by_status(tmp_path, capsys, f"{at}")
    assert code == 2
    assert "Nothing was told there" in out or "Not a step" in out or "usage" in out
