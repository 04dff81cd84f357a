"""Starting and stopping from the screen: what is asked first, what is seen while it lasts, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.services import launch as launching
from ckpt_tui.services import resume as resuming
from ckpt_tui.services import stop_plan, stopping
from ckpt_tui.services.launch import Launched, TrainingDiedError
from ckpt_tui.services.stop_plan import StopPlan
from ckpt_tui.services.stopping import Stopped, StopProgress
from ckpt_tui.tui.acts import stopped_words
from ckpt_tui.tui.app import CkptTuiApp
from ckpt_tui.tui.dialogs import resume as resume_dialog
from ckpt_tui.tui.dialogs.error import ErrorDialog
from ckpt_tui.tui.dialogs.stop import StopDialog
from ckpt_tui.tui.dialogs.working import WorkingDialog, WorkLines
from ckpt_tui.tui.long_work import Stages
from tests.builders.dialogs import RECORDED, Resume
from tests.builders.run_states import FixedMonitor, crashed, running
from tests.builders.screen_app import ScreenApp, seen, seen_text, settled, until

ENV = {"COLORTERM": "truecolor", "LANG": "en_US.UTF-8"}
PLAN = StopPlan(
    "/run", ProcessIdentity(4711, host="here"), "trainer.lock", saves=True, step=9377,
    checkpoint="rolling_step_009250.pt", checkpoint_step=9250, at_risk_steps=127, at_risk_s=7.0,
    sentences=(
        "Process 4711 (the training) gets SIGTERM.",
        "It is a trainer of ours: it saves an emergency checkpoint and ends.",
        "At step 9,377; the newest valid checkpoint is rolling_step_009250.pt, step 9,250.",
    ),
)  # fmt: skip
SAVED = Stopped(
    4711, True, 1.2, step=9378, saved="emergency_step_009378_20261121_021409.pt", saved_step=9378, lost_steps=0,
    sentences=("Process 4711 saved and ended.",),
)  # fmt: skip


def app_of(directory: Path, state: Any) -> CkptTuiApp:
    app = CkptTuiApp(str(directory), monitor=FixedMonitor(state, str(directory)), interval_s=0.02, env=ENV)
    app.run_open.catalog_reader.stop()
    return app


class Waiting:
    """A service that tells what it sees until it may end, or is left."""

    def __init__(self, result: Any, *told: str) -> None:
        self.go_on, self.ended = threading.Event(), threading.Event()
        self.calls = 0
        self._result, self._told = result, told

    def __call__(self, *_: Any, on_progress: Callable[[Any], None], is_cancelled: Callable[[], bool], **__: Any) -> Any:
        self.calls += 1
        for sentence in self._told:
            on_progress(StopProgress("seen", 0.0, sentence))
        for _ in range(12_000):
            if self.go_on.wait(0.01) or is_cancelled():
                break
        self.ended.set()
        if isinstance(self._result, Exception):
            raise self._result
        return self._result


# -- what is told while it lasts -----------------------------------------------------------------------------------


def test_what_was_seen_is_told_once_and_late_is_said() -> None:
    now = [0.0]
    stages = Stages("Stop", "", patience_s=60.0, late="Still at work.", clock=lambda: now[0])
    for sentence in ("Asked.", "Asked.", "", "SIGTERM seen.", "Asked."):
        stages.tell(StopProgress("asked", 0.0, sentence))
    assert stages.sentences == ["Asked.", "SIGTERM seen.", "Asked."]
    assert (stages.waited_s, stages.late) == (0, "")
    now[0] = 60.2
    assert (stages.waited_s, stages.late) == (60, "Still at work.")


@pytest.mark.parametrize("size", [(40, 12), (80, 24), (20, 5)])
async def test_the_stages_are_lines_with_a_glyph_each(size: tuple[int, int]) -> None:
    now = [0.0]
    stages = Stages("Stop the training", "Esc leaves", late="Still at work: wait on, or leave.", clock=lambda: now[0])
    app = ScreenApp(WorkingDialog(stages))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        stages.tell(StopProgress("asked", 0.0, "Asked to save and end."))
        stages.tell(StopProgress("seen", 0.0, "\x1b[31mSIGTERM seen, [/saving]."))
        now[0] = 75.0
        dialog: Any = app.screen
        dialog._look()
        await pilot.pause()
        text = seen_text(app)
        if size[0] >= 40:
            assert "✓ Asked to save and end." in text
            assert "▸ \\x1b[31mSIGTERM seen, [/saving]." in text
            assert "1m 15s" in text
            assert "Still at work" in text
            assert "Leave" in text
        assert app.screen.query_one(WorkLines).size.height <= size[1]


# -- stop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(40, 12), (80, 24)])
async def test_a_stop_says_first_what_is_saved_and_what_is_at_risk(size: tuple[int, int]) -> None:
    app = ScreenApp(StopDialog(PLAN))
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        text = " ".join(" ".join(seen(app)).replace("│", " ").split())
        assert "▲ At risk now: 127 steps, 7.0 s of training." in text
        assert text.count("127 steps") == 1
        assert "gets SIGTERM" in text
        if size[0] >= 80:
            assert "it saves an emergency checkpoint and ends" in text
        await pilot.press("enter")
        assert app.result is False, "the harmless answer has the focus"
    refused = replace(PLAN, refusals=("It runs on gpu-18.",), hint="Run `ckpt-tui stop` there.")
    app = ScreenApp(StopDialog(refused))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ It runs on gpu-18." in seen_text(app)
        assert "-> Run `ckpt-tui stop` there." in seen_text(app)
        await pilot.press("y")
        await settled(pilot)
        assert app.result is False


async def test_a_stop_is_asked_once_and_ends_with_the_name_of_what_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Waiting(SAVED, "Asked to save and end.", "SIGTERM seen: it saves.")
    monkeypatch.setattr(stop_plan, "plan_stop", lambda _: PLAN)
    monkeypatch.setattr(stopping, "stop", stop)
    app = app_of(tmp_path, running())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "S stop" in seen(app)[-1])
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, StopDialog))
        await pilot.press("y")
        await until(pilot, lambda: "▸ SIGTERM seen: it saves." in seen_text(app))
        stop.go_on.set()
        await until(pilot, lambda: "Saved emergency_step_009378" in seen(app)[-1])
        assert stop.calls == 1

        # Left, it goes on by itself, and that is said.
        stop = Waiting(SAVED, "Asked to save and end.")
        monkeypatch.setattr(stopping, "stop", stop)
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, StopDialog))
        await pilot.press("y")
        await until(pilot, lambda: isinstance(app.screen, WorkingDialog))
        await pilot.press("escape")
        await until(pilot, lambda: "goes on ending by itself" in seen(app)[-1])
        await until(pilot, stop.ended.is_set)

        # Of one that does not hear, or nobody knows, it is not promised; and one that was asked is not let run.
        stop = Waiting(SAVED, "Asked to save and end.")
        monkeypatch.setattr(stopping, "stop", stop)
        monkeypatch.setattr(stop_plan, "plan_stop", lambda _: replace(PLAN, saves=False, asked_at=1.0))
        await pilot.press("S")
        await until(pilot, lambda: "Wait for it" in seen_text(app))
        assert "Let it run" not in seen_text(app)
        await pilot.press("y")
        await until(pilot, lambda: "Esc leaves: what was asked stays asked" in seen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: "It was asked to end; S tells whether it does." in seen(app)[-1])
        await until(pilot, stop.ended.is_set)


async def test_what_was_not_saved_is_a_dialog_and_not_a_word_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Stopped(
        4711, True, 1.0, lost_steps=127, lost_s=7.0, sentences=("Lost: 127 steps (7.0 s).",), hint="r resumes."
    )
    stop = Waiting(lost)
    stop.go_on.set()
    monkeypatch.setattr(stop_plan, "plan_stop", lambda _: PLAN)
    monkeypatch.setattr(stopping, "stop", stop)
    app = app_of(tmp_path, running())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "S stop" in seen(app)[-1])
        await pilot.press("S")
        await until(pilot, lambda: isinstance(app.screen, StopDialog))
        await pilot.press("y")
        await until(pilot, lambda: "Lost: 127 steps (7.0 s)." in seen_text(app) and "r resumes." in seen_text(app))


def test_what_came_of_a_stop_is_one_line() -> None:
    assert stopped_words(SAVED) == "Saved emergency_step_009378_20261121_021409.pt, step 9,378; ended in 1.2 s."
    held = replace(SAVED, saved="", checkpoint="latest.pt", checkpoint_step=SAVED.step or 0)
    assert "nothing is lost: latest.pt holds its last step" in stopped_words(held)
    waiting = replace(held, checkpoint_step=9000, sentences=("Nothing trained.", "A resume takes latest.pt."))
    assert stopped_words(waiting) == "Nothing trained. A resume takes latest.pt."


# -- start ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started(Resume):
    session: int = 3
    launcher: str = "python"
    not_known: tuple[str, ...] = ()
    changes: tuple[Any, ...] = ()


async def test_a_start_is_followed_to_its_first_step_and_a_death_leads_to_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "session_3.log"
    log.write_text("loading\nRuntimeError: no such GPU\n")
    trains = ("Process 99 trains: step 9,251.",)
    launched = Launched(ProcessIdentity(99), str(log), stage="stepping", step=9251, sentences=trains)
    launch = Waiting(launched, "The trainer holds the directory.", "Session 3 begins at step 9,250.")
    monkeypatch.setattr(resuming, "plan_resume", lambda *_, **__: Started(hyperparameters=RECORDED))
    monkeypatch.setattr(launching, "launch", launch)
    monkeypatch.setattr(resume_dialog, "CALM_S", 0.0)  # a pilot presses faster than a person reads
    app = app_of(tmp_path, crashed())
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "crashed" in seen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: type(app.screen).__name__ == "ResumeDialog")
        await settled_but_acts(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: "▸ Session 3 begins at step 9,250." in seen_text(app))
        assert "Resume from rolling_step_009250.pt" in seen_text(app)
        launch.go_on.set()
        await until(pilot, lambda: "Session 3 runs. Process 99 trains: step 9,251." in seen(app)[-1])

        launch = Waiting(TrainingDiedError(1, 3.2, str(log), 0))
        launch.go_on.set()
        monkeypatch.setattr(launching, "launch", launch)
        await pilot.press("r")
        await until(pilot, lambda: type(app.screen).__name__ == "ResumeDialog")
        await settled_but_acts(pilot)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorDialog))
        text = seen_text(app)
        assert "exit code 1" in text
        assert "RuntimeError: no such GPU" in text
        assert "Its last lines:" in text
        assert "o output" in text
        await pilot.press("o")
        await until(pilot, lambda: type(app.screen).__name__ == "LogScreen" and "loading" in seen_text(app))


async def settled_but_acts(pilot: Any) -> None:
    for _ in range(3):
        await pilot.pause()
