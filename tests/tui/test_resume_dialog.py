"""The resume dialog: what is shown is what starts, what is typed is judged, and nothing starts in haste."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from textual import _time as textual_time
from textual.events import Key
from textual.widgets import Input

from ckpt_tui.tui import base_app as base_app_module
from ckpt_tui.tui.dialogs import resume as resume_module
from ckpt_tui.tui.dialogs.resume import ResumeDialog
from tests.builders.dialogs import RECORDED, Resume, change, resume_dialog
from tests.builders.screen_app import ScreenApp, seen, seen_text, settled, until


async def test_a_resume_starts_as_it_was_shown() -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned, warnings=("latest.pt was passed over.",))
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        text = seen_text(app)
        for words in (
            "Resume from rolling_step_009250.pt  step 9,250  ✓ valid",
            "redoes 127",
            "▲ latest.pt was passed over.",
            "changes the course",
            "breaks exactness if changed",
            "cannot be changed",
            "$ python -m trainer --out /run",
            "Enter start",
        ):
            assert words in text, (words, text)
        await change(pilot, dialog, "lr", "3e-4")
        assert planned == [{"lr": "3e-4"}]
        assert "--lr 3e-4" in seen_text(app)
        assert "-> 3e-4" in seen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert app.result is not None
        assert app.result.command_line.endswith("--lr 3e-4")  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def in_haste(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot presses faster than a person reads."""
    if "calm" not in request.node.name:
        monkeypatch.setattr(resume_module, "CALM_S", 0.0)


async def test_an_enter_that_bounces_or_is_held_down_starts_nothing_before_it_is_calm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    for module in (resume_module, base_app_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(textual_time, "get_time", lambda: now)  # when a key was pressed
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("enter")  # meant for what was there before the dialog
        now += 1
        await pilot.press("e", "3")
        await until(pilot, lambda: bool(planned) and not dialog.is_working("plan"))
        await settled(pilot)
        now += 1
        await pilot.press("enter")  # takes the value; the plan is there already
        await settled(pilot)
        for gap_s in (0.05, 0.45, 0.03, 0.03):
            now += gap_s
            await pilot.press("enter")
            assert not app.has_ended
        assert "it starts when it is pressed once more" in seen_text(app)
        now += 0.6
        await pilot.press("e")
        await settled(pilot)
        await pilot.press("escape")
        await settled(pilot)
        now += 0.6
        # All at once, as after a line that hung: the app hears Enter before the table has heard the first key.
        for key in ("e", "enter"):
            app.post_message(Key(key, None))
        await settled(pilot)
        assert not app.has_ended
        await pilot.press("escape", "down")  # in haste; a click after that is calm
        await settled(pilot)
        now += 0.6
        await pilot.click(offset=(3, 23))
        await until(pilot, lambda: app.has_ended)
        assert app.result is not None


@pytest.mark.parametrize(
    ("name", "size", "first_line"),
    [
        ("best_model.pt", (40, 12), "best_model.pt  step 9,250  ✓ valid"),
        ("rolling_step_009250.pt", (40, 12), "rolling_step_009250.pt  ✓ valid"),
        ("emergency_step_009250_20260102_030405.pt", (40, 12), "emergency_step_009250_202601…  ✓ valid"),
        (
            "best_model.pt", (81, 24),
            "Resume from best_model.pt  step 9,250  ✓ valid   chosen by auto   with torchrun",
        ),
        ("best_model.pt", (80, 24), "Resume from best_model.pt  step 9,250  ✓ valid   chosen by auto"),
        ("best_model.pt", (54, 20), "best_model.pt  step 9,250  ✓ valid   chosen by auto"),
        ("best_model.pt", (52, 20), "best_model.pt  step 9,250  ✓ valid"),
    ],
)  # fmt: skip
async def test_of_the_first_line_goes_what_does_not_fit_and_all_fields_have_room(
    name: str, size: tuple[int, int], first_line: str
) -> None:
    dialog = resume_dialog([], checkpoint_name=name, launcher="torchrun", sentences=("A sentence. " * 40,))
    app = ScreenApp(dialog)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert seen(app)[0].strip() == first_line
        text = seen_text(app)
        assert "changes the course" in text
        for key in ("slash", "enter", "e"):
            await pilot.press(key)
            await settled(pilot)
            assert dialog.virtual_size.height <= size[1]
            assert dialog.settings.size.height >= 3
        assert dialog.query_one("#effect").region.bottom < size[1]


async def test_a_refused_resume_does_not_start_and_says_why() -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await change(pilot, dialog, "n_layer", "6")
        assert "✖ n_layer: 4 -> 6 is impossible." in seen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert not app.has_ended
        assert "It cannot be started as it is" in seen_text(app)
        await pilot.press("backspace")
        await settled(pilot)
        assert planned[-1] == {}
        await change(pilot, dialog, "lr", "fast")
        assert "✖ Not a number. lr is fast. Write 3e-4." in seen_text(app)
        await pilot.press("enter")
        assert not app.has_ended
        await pilot.press("escape")
        assert app.result is None
        assert app.has_ended


async def test_nothing_starts_while_it_is_planned_again() -> None:
    planning, go_on = threading.Event(), threading.Event()
    plan: Any = Resume(hyperparameters=RECORDED)

    def replan(changes: Mapping[str, str]) -> Any:
        planning.set()
        go_on.wait(180)
        return plan

    dialog = ResumeDialog("/run", plan, replan)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("e")
        dialog.query_one("#editor_value", Input).value = "7"
        await pilot.press("enter")
        await until(pilot, planning.is_set)
        await pilot.press("enter")
        assert not app.has_ended
        assert "planning again" in seen_text(app)
        go_on.set()
        await settled(pilot)
        await pilot.press("enter")
        assert app.has_ended


async def test_what_is_typed_is_judged_at_the_field_and_planned_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("e", *"fast")
        await pilot.pause()
        assert "✖ Not a number: lr is fast; it was 0.0006." in seen_text(app)
        assert planned == []
        monkeypatch.setattr(resume_module, "TYPED_FOR_S", 3600.0)  # this is typed without a pause
        await pilot.press(*["backspace"] * 4, *"3e-")
        monkeypatch.setattr(resume_module, "TYPED_FOR_S", 0.1)
        await pilot.press("4")
        assert "takes another course" in seen_text(app)
        await until(pilot, lambda: planned == [{"lr": "3e-4"}])
        await until(pilot, lambda: "--lr 3e-4" in seen_text(app))
        assert dialog.changes == {}, "not taken yet"
        await pilot.press("escape")
        await until(pilot, lambda: planned[-1] == {} and "--lr 3e-4" not in seen_text(app))
        dialog.settings.cursor = next(i for i, row in enumerate(dialog.settings.rows) if row.key == "n_layer")
        await pilot.press("e", "6")
        assert "✖ The saved state does not fit" in seen_text(app)
        await until(pilot, lambda: "✖ n_layer: 4 -> 6 is impossible." in seen_text(app))
        await pilot.press("enter", "enter")
        await pilot.pause()
        assert not app.has_ended


async def test_what_was_typed_and_taken_back_in_haste_is_not_what_starts() -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("e", "8")
        await until(pilot, lambda: planned == [{"lr": "8"}])
        dialog.query_one("#editor_value", Input).value = ""
        await pilot.press("enter", "enter")  # the second before it is planned again
        assert not app.has_ended or "--lr" not in app.result.command_line  # type: ignore[attr-defined]
        await settled(pilot)
        assert planned[-1] == {}
        if not app.has_ended:
            await pilot.press("enter")
        await until(pilot, lambda: app.has_ended)
        assert "--lr" not in app.result.command_line  # type: ignore[attr-defined]


async def test_many_settings_are_filtered_and_those_that_changed_are_shown_alone() -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)

    def shown() -> list[str]:
        return [row.key for row in dialog.settings.rows]

    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert shown()[0] == "lr"
        await pilot.press("slash", *"size")
        await until(pilot, lambda: shown() == ["batch_size"])
        await pilot.press("enter")
        assert not app.has_ended, "Enter ends the typing first"
        await change(pilot, dialog, "batch_size", "16")
        await pilot.press("escape")
        await until(pilot, lambda: shown()[-3:] == ["(command)", "betas", "n_layer"])
        assert len(shown()) == len(RECORDED) + 1
        await change(pilot, dialog, "lr", "1e-4")
        await pilot.press("o")
        await until(pilot, lambda: shown() == ["lr", "batch_size"])
        await pilot.press("X")
        await until(pilot, lambda: planned[-1] == {} and "nothing is changed yet" in seen_text(app))
        await pilot.press("o")
        await until(pilot, lambda: len(shown()) == len(RECORDED) + 1)


async def test_the_checkpoint_is_chosen_and_the_whole_command_read_and_copied() -> None:
    command = " ".join(["python", "-m", "trainer", *(f"--setting_number_{number} {number}" for number in range(40))])
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned, command_line=command, launcher="torchrun")
    dialog._sources.append("rolling_step_009000.pt")
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✓ valid   chosen by auto" in seen_text(app)
        for chosen in ("as asked: latest", "as asked: best", "as asked", "chosen by auto"):
            await pilot.press("f")
            await until(pilot, lambda chosen=chosen: f"✓ valid   {chosen} " in seen_text(app))
        assert len(planned) == 4
        assert "--setting_number_39" not in seen_text(app)
        await pilot.press("m")
        await until(pilot, lambda: "--setting_number_39 39" in seen_text(app))
        app.action_copy()  # as c does
        assert app.clipboard == command
        await pilot.press("escape")
        await until(pilot, lambda: "breaks exactness if changed" in seen_text(app))
        assert not app.has_ended


@pytest.mark.parametrize("size", [(80, 24), (40, 12)])
async def test_from_the_whole_command_nothing_is_refused_without_a_word(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enter did nothing there, and nothing said why; nor was a warning to be seen."""
    monkeypatch.setattr(resume_module, "CALM_S", 1e9)  # any Enter is one in haste
    dialog = resume_dialog([], warnings=("No shell reads it.",))
    app = ScreenApp(dialog)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.press("m")
        await until(pilot, lambda: "▲ No shell reads it." in seen_text(app))
        await pilot.press("enter")  # at once
        await until(pilot, lambda: "Enter came in haste" in seen_text(app))
        await pilot.press("m")
        await change(pilot, dialog, "n_layer", "6")
        await until(pilot, lambda: not dialog.is_working("plan"))
        await pilot.press("m")
        await until(pilot, lambda: dialog.has_class("-whole-command") and "✖ n_layer: 4" in seen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "✖ It cannot be started as it is" in seen_text(app))
        assert "n_layer: 4" in seen_text(app)
        assert not dialog.has_class("-whole-command")


async def test_esc_leaves_the_field_first_and_a_click_edits() -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.click("#settings", offset=(4, 1))
        assert dialog.is_editing
        await pilot.press("9", "escape")
        assert not dialog.is_editing
        assert planned == []
        dialog.settings.cursor = next(i for i, row in enumerate(dialog.settings.rows) if row.key == "betas")
        await pilot.press("e")
        assert not dialog.is_editing
        assert "Only single values" in seen_text(app)
