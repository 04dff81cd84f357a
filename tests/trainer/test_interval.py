"""What a training measures of its own saving and failing, against what it was given; and what it says of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import (
    LOG_NAME,
    CheckpointRestored,
    CheckpointSaved,
    Event,
    LostWork,
    Nonfinite,
    SaveAdvice,
)
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.run.advice import advise
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.save_interval import daly_interval, is_failure
from tests.builders.pace import cpu_time
from tests.builders.training import NoSignals
from trainer.config import parse
from trainer.costs import Costs
from trainer.history import read_history
from trainer.interval import IntervalAdvisor
from trainer.loop import Training

STEP, STALL, BACKGROUND, SLOW_STEP = 0.1, 0.02, 1.0, 0.125


def simulated(advisor: IntervalAdvisor, num_saves: int, *, every: int = 100, background: float = BACKGROUND) -> float:
    """Steps of 0.1 s; a save each 100 stops them for 20 ms and makes those of the next second a quarter longer."""
    now, step = 1000.0, 0
    for _ in range(num_saves):
        for _ in range(every):
            now, step = now + STEP, step + 1
            advisor.took_step(STEP, now)
        now += STALL
        durable_at = now + background
        while now < durable_at:
            now, step = now + SLOW_STEP, step + 1
            advisor.took_step(SLOW_STEP, now)
        saved = CheckpointSaved(
            step=step, stall_seconds=STALL, save_seconds=STALL + background + (now - durable_at), bytes=1000,
            names=["rolling_step_000100.pt", "rolling_last_backup.pt"],
        )  # fmt: skip
        advisor.on_event(saved, now)
    return now


def new_advisor(tmp_path: Path, **options: float) -> IntervalAdvisor:
    return IntervalAdvisor(read_history(str(tmp_path)), now=1000.0, **options)  # type: ignore[arg-type]


def test_it_measures_what_it_was_given(tmp_path: Path) -> None:
    advisor = new_advisor(tmp_path, process_age_s=2.5)
    now = simulated(advisor, 8)
    advice = advisor.advice(864, now)
    assert advice is not None
    assert advice.num_saves == 8
    assert advice.stall_seconds == pytest.approx(STALL)
    assert advice.background_seconds == pytest.approx(BACKGROUND, rel=0.15)
    assert advice.slowdown == pytest.approx(1 - STEP / SLOW_STEP, rel=0.01)  # a fifth of its pace
    assert advice.save_cost_seconds == pytest.approx(STALL + 0.2 * BACKGROUND, rel=0.15)
    assert advice.step_seconds == pytest.approx((100 * STEP + 8 * SLOW_STEP) / 108, rel=0.01)
    assert advice.restart_seconds == pytest.approx(2.5 + STEP)
    assert advice.observed_seconds == pytest.approx(now - 1000.0)
    assert advice.failure_every_seconds == pytest.approx(86400 + now - 1000)
    assert advice.failure_every_low == pytest.approx((now - 1000) / 3)
    assert advice.failure_every_high is None
    assert advice.save_every_steps == 108
    assert advice.lost_per_failure_seconds == pytest.approx(advice.save_every_seconds / 2 + advice.background_seconds)
    assert advice.bytes_per_day == pytest.approx(2 * 1000 * 86400 / advice.save_every_seconds)
    expected = daly_interval(advice.save_cost_seconds, advice.failure_every_seconds)
    assert advice.recommended_seconds == pytest.approx(expected, rel=0.01)
    assert advice.recommended_steps == round(expected / advice.step_seconds)


def test_failures_shorten_the_interval_and_a_long_write_bounds_it(tmp_path: Path) -> None:
    calm, stormy, slow = (new_advisor(tmp_path, num_failures=n) for n in (0, 500, 5000))
    now = simulated(calm, 4)
    simulated(stormy, 4)
    simulated(slow, 4, background=9.0)
    first, second, third = (advisor.recommendation(now) for advisor in (calm, stormy, slow))
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.bound_by, third.bound_by) == ("", "budget")
    assert second.seconds < first.seconds / 15
    # A roll-back after values that are not finite is a failure, too.
    stormy.on_event(
        Nonfinite(step=5, what="loss", action="rolled back to rolling_step_000100.pt", rolled_back_to=1), now
    )
    stormy.on_event(Nonfinite(step=5, what="loss", action="skipped"), now)
    advice = stormy.advice(5, now)
    assert advice is not None
    assert advice.num_failures == 501


def test_it_speaks_when_there_is_something_new(tmp_path: Path) -> None:
    advisor = new_advisor(tmp_path)
    now = simulated(advisor, 2)
    assert advisor.due(1, now) is None  # two saves are too few
    now = simulated(advisor, 2)
    assert advisor.due(2, now) is not None
    assert advisor.due(3, now + 30) is None
    assert advisor.due(4, now + 100) is None  # nothing has changed
    for _ in range(60):
        advisor.on_event(CheckpointSaved(step=9, stall_seconds=4.0, save_seconds=4.0, bytes=9), now + 200)
    changed = advisor.due(5, now + 300)
    assert changed is not None
    assert changed.save_cost_seconds == 4.0
    assert advisor.due(6, now + 300, is_last=True) is not None


@pytest.mark.parametrize(
    ("status", "lost", "is_chosen", "expected"),
    [("", 0, False, True), ("crashed", 5, False, True), ("diverged", 0, False, True), ("failed", 3, False, True),
     ("failed", 0, False, False), ("preempted", 0, False, False), ("preempted", 7, False, True),
     ("interrupted", 7, True, False), ("finished", 90, False, False)],
)  # fmt: skip
def test_which_end_of_a_session_loses_work(status: str, lost: int, is_chosen: bool, expected: bool) -> None:
    assert is_failure(status, lost, is_chosen) is expected


def logged(directory: Path) -> EventWriter:
    """Three sessions: killed at 90, stopped at 120 with a save, killed at 160; and what a viewer did after that."""
    clock = iter(float(ts) for ts in range(1000, 100_000))
    for start, last, status in ((0, 90, ""), (50, 120, "preempted"), (120, 160, "")):
        log = EventWriter(directory, clock=lambda: next(clock))
        log.start(start_step=start, resumed_from={"path": "latest.pt", "wanted": "auto"} if start else None)
        for step in range(start + 10, last + 1, 10):
            log.step(step, loss=1.0)
        log.emit(CheckpointSaved(step=last - 30, path="latest.pt"))  # told late
        log.emit(SaveAdvice(step=last, recommended_steps=7, lost_per_failure_seconds=12.0 + start))
        if status:
            log.end(status, step=last)
        log.close()
    log.emit(CheckpointRestored(step=9999, path="latest.pt", by="viewer"))
    return log


def test_history_is_what_the_log_says(tmp_path: Path) -> None:
    assert read_history(str(tmp_path)).sessions == ()
    logged(tmp_path)
    with open(tmp_path / LOG_NAME, "ab") as file:
        file.write(b'{"v":1,"event":"st')  # torn by the kill
    history = read_history(str(tmp_path))
    assert [(one.start_step, one.last_step, one.status) for one in history.sessions] == [
        (0, 90, ""), (50, 120, "preempted"), (120, 160, ""),
    ]  # fmt: skip
    assert [one.seconds for one in history.sessions] == [11.0, 10.0, 6.0]
    assert history.observed_s == 27.0
    assert history.num_failures(150, is_chosen=False) == 2
    assert history.advice is not None
    assert history.advice.lost_per_failure_seconds == 132.0


def test_a_roll_back_within_a_session_is_a_failure_and_its_steps_are_not_lost_twice(tmp_path: Path) -> None:
    with EventWriter(tmp_path) as log:
        log.start()
        log.step(90, loss=1.0)
        log.emit(Nonfinite(step=91, what="loss", action="skipped"))
        log.emit(Nonfinite(step=95, what="loss", action="rolled back to latest.pt", rolled_back_to=50))
        log.step(60, loss=1.0)
    history = read_history(str(tmp_path))
    assert (history.num_rollbacks, history.sessions[0].last_step) == (1, 60)
    assert history.num_failures(50, is_chosen=False) == 2


def test_a_long_history_is_read_at_once(tmp_path: Path) -> None:
    log = logged(tmp_path)
    line = Path(tmp_path, LOG_NAME).read_bytes().splitlines(keepends=True)[1]
    with open(tmp_path / LOG_NAME, "ab") as file:
        file.write(line * 400_000)
    log.start(start_step=130)
    log.close()
    with cpu_time() as took:
        history = read_history(str(tmp_path))
    # Decoded line by line it is 4 s and more.
    assert took.seconds < 1.5
    assert len(history.sessions) == 4


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00" * 100, b'{"event":"run_start"', b'"event":"run_start"\n' * 3,
                                     b'{"event":"run_start"}\n{"event":"run_start","session":"x"}\n'])  # fmt: skip
def test_a_log_of_any_content_is_no_trouble(content: bytes, tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_bytes(content)
    history = read_history(str(tmp_path))
    assert history.num_failures(0, is_chosen=False) <= len(history.sessions)


class Killed(BaseException):
    """Ends a training as a kill does: nothing is told."""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Training]:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("to be or not to be, " * 300)

    def made(*options: str) -> Training:
        (tmp_path / "run").mkdir(exist_ok=True)
        request = parse(
            ["--out", str(tmp_path / "run"), "--data", str(corpus), "--n_layer", "1", "--n_head", "1", "--n_embd", "8",
             "--block_size", "8", "--batch_size", "2", "--max_steps", "100", "--eval_freq", "200",
             "--eval_batches", "1", "--checkpoint_freq", "10", "--threads", "1", "--log_freq", "1", *options]
        )  # fmt: skip
        return Training(request, NoSignals())  # type: ignore[arg-type]

    return made


def events(training: Training) -> list[Event]:
    lines = Path(training.directory, LOG_NAME).read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), Event)]


def test_what_a_kill_cost_is_told_against_what_was_predicted(
    make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make()
    began = time.time() - 100.0
    # A second for each step, as the log tells it: what two readers make of it hangs on no pause of this process.
    monkeypatch.setattr(training.log, "_clock", lambda: began + training.progress.step)
    real = training.costs.took_step

    def until_45(step: int, seconds: float) -> None:
        real(step, seconds)
        if step == 45:  # it is done, and the log does not say so yet
            raise Killed

    monkeypatch.setattr(training.costs, "took_step", until_45)
    with pytest.raises(Killed):
        training.run()
    predicted = [event for event in events(training) if isinstance(event, SaveAdvice)][-1]
    assert predicted.save_every_steps == 10
    resumed = make("--resume", "auto")
    assert resumed.progress.step == 40
    assert resumed.run() == 0
    found = events(resumed)
    [lost] = [event for event in found if isinstance(event, LostWork)]
    assert (lost.lost_session, lost.cause, lost.from_step, lost.to_step, lost.step) == (1, "killed", 40, 44, 41)
    assert lost.predicted_seconds == predicted.lost_per_failure_seconds
    assert lost.seconds is not None
    assert lost.down_seconds is not None
    advice = [event for event in found if isinstance(event, SaveAdvice)][-1]
    assert advice.num_failures == 1
    assert advice.failure_every_high is not None
    assert (found[-2].name, found[-1].name) == ("advice", "run_end")
    # The viewer comes to the same by its own fold.
    fold = RunFold()
    fold.apply_all(found)
    state = fold.state(found[-1].ts, Beside(is_process_alive=False))
    assert (state.lost.steps, advise(state).num_failures) == (4, 1)
    assert state.lost.seconds == pytest.approx(lost.seconds) == pytest.approx(4.0)


def test_a_stop_that_saved_is_no_failure(make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    training = make()
    monkeypatch.setattr(training, "signals", NoSignals())
    real = training.costs.took_step

    def until_25(step: int, seconds: float) -> None:
        real(step, seconds)
        if step == 25:
            training.signals.stop = signal.SIGTERM

    monkeypatch.setattr(training.costs, "took_step", until_25)
    assert training.run() == 128 + signal.SIGTERM
    resumed = make("--resume", "auto")
    assert resumed.progress.step == 25
    assert resumed.run() == 0
    found = events(resumed)
    assert not [event for event in found if isinstance(event, LostWork)]
    assert [event.num_failures for event in found if isinstance(event, SaveAdvice)][-1] == 0


def test_saves_by_its_own_advice(make: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.costs.FIRST_SAVE_SECONDS", 0.01)
    monkeypatch.setattr("trainer.costs.LEAST_SAVE_SECONDS", 0.01)
    training = make("--checkpoint_auto", "--checkpoint_freq", "1")
    real = training.costs.took_step

    def took_step(step: int, seconds: float) -> None:
        time.sleep(0.01)
        real(step, seconds)

    monkeypatch.setattr(training.costs, "took_step", took_step)
    began = time.monotonic()
    assert training.run() == 0
    took = time.monotonic() - began
    rolling = [event for event in events(training) if isinstance(event, CheckpointSaved) and event.kind == "rolling"]
    # Three to be measured, then as seldom as a failure a day asks for; at which steps, the machine's load decides.
    assert training.costs.save_every_s > 1.0
    assert 1 <= len(rolling) <= 4 + took


def test_a_save_that_becomes_durable_while_a_step_ends_disturbs_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that saves tells of it; the one that trains asks for an advice at the same time."""
    costs = Costs(EventWriter(tmp_path), read_history(str(tmp_path)), 0)
    monkeypatch.setattr("trainer.interval.LEAST_SECONDS", -1.0)  # each step asks
    errors: list[Exception] = []
    has_ended = threading.Event()

    def save() -> None:
        step = 0
        while not has_ended.is_set():
            step += 1
            try:
                costs.on_event(CheckpointSaved(step=step, path="latest.pt", stall_seconds=0.001, save_seconds=0.002))
            except RuntimeError as error:
                errors.append(error)

    saver = threading.Thread(target=save)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        saver.start()
        deadline, step = time.monotonic() + 0.7, 0
        while time.monotonic() < deadline:
            step += 1
            costs.took_step(step, 0.001)  # raised here: a training was ended by it
    finally:
        has_ended.set()
        saver.join()
        sys.setswitchinterval(interval)
    assert not errors
