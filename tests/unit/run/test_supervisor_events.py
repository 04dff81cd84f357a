"""What a supervisor does between two sessions is shown, and is no sign of life of the training."""

from __future__ import annotations

from pathlib import Path

from ckpt_tui.events.schema import RunStart, Step, Supervised
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import Phase
from trainer.history import read_history

RESTART = Supervised(
    seq=3, ts=500.0, session=1, step=7, action="restart", told="killed by SIGKILL at step 7; from step 0",
    restarts=1, pause_seconds=5.0, exit_code=-9,
)  # fmt: skip


def test_a_restart_is_in_the_feed_and_on_the_lane_and_no_sign_of_life() -> None:
    fold = RunFold()
    fold.apply_all([RunStart(seq=1, ts=100.0, session=1), Step(seq=2, ts=110.0, session=1, step=7), RESTART])
    state = fold.state(600.0, Beside(is_process_alive=False))
    assert (state.phase, state.last_ts) == (Phase.CRASHED, 110.0)
    assert state.sessions[-1].last_ts == 110.0
    marks = {marker.kind: marker for marker in state.markers}
    assert (marks["restart"].step, marks["restart"].label) == (7, RESTART.told)
    assert (state.feed[-1].text, state.feed[-1].severity) == (RESTART.told, "warning")


def test_an_end_that_the_training_told_of_itself_is_not_marked_twice() -> None:
    fold = RunFold()
    fold.apply_all([Step(seq=1, ts=1.0, session=1, step=7), Supervised(seq=2, ts=2.0, session=1, action="finished")])
    assert not fold.state(3.0).markers


def test_the_trainer_counts_the_time_without_training_from_its_own_last_word(tmp_path: Path) -> None:
    clock = iter([100.0, 110.0, 500.0])
    with EventWriter(tmp_path, clock=lambda: next(clock)) as log:
        log.start()
        log.step(7, loss=1.0)
        log.emit(RESTART)
    assert read_history(str(tmp_path)).sessions[0].last_ts == 110.0
