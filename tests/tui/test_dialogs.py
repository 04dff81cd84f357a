"""Dialogs: what they end with, that the harmless answer has the focus, and what is shown is what would be done."""

from __future__ import annotations

from typing import Any

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.settings import Settings
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
from ckpt_tui.tui.dialogs.error import ErrorDialog
from ckpt_tui.tui.dialogs.pick import PickDialog
from ckpt_tui.tui.dialogs.plan import PlanDialog
from ckpt_tui.tui.dialogs.resume import ResumeDialog
from tests.builders.checkpoints_by_hand import HOSTILE_NAMES
from tests.builders.dialogs import RESTORE, VALID, Move, Plan, Resume, ended_with
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen_text, settled


@pytest.mark.parametrize(
    ("keys", "result"),
    [
        (("enter",), False),
        (("escape",), False),
        (("n",), False),
        (("tab", "enter"), True),
        (("right", "enter"), True),
        (("y",), True),
    ],
)
async def test_a_plan_is_carried_out_only_when_chosen(keys: tuple[str, ...], result: bool) -> None:
    ended, text = await ended_with(PlanDialog(RESTORE), *keys)
    assert ended is result
    for words in (
        "Restore",
        "latest.pt is damaged",
        "▲ A trainer was here",
        "Nothing is deleted",
    ):
        assert words in text


async def test_the_keys_of_a_dialog_are_the_persons_own_and_told_so() -> None:
    app = ScreenApp(PlanDialog(RESTORE))  # type: ignore[arg-type]
    keymap = {"dialog.yes": "f5", "dialog.leave": "f6"}
    app.settings = Settings(keymap=keymap)
    app.set_keymap(keymap)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "f5 yes   n no   f6 leave" in seen_text(app)
        await pilot.press("y", "escape")
        assert not app.has_ended
        await pilot.press("f5")
        await settled(pilot)
        assert app.result is True


async def test_an_empty_plan_can_only_be_closed() -> None:
    plan = Plan("restore", ("Nothing is damaged: there is nothing to restore.",))
    ended, text = await ended_with(PlanDialog(plan), "tab", "enter")
    assert ended is False
    assert "Nothing is damaged" in text
    assert "Close" in text


async def test_buttons_answer_to_the_mouse() -> None:
    app = ScreenApp(ConfirmDialog("Stop the training?", ["It saves first."], yes_label="Stop it"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.click("#yes")
        await settled(pilot)
        assert app.result is True


async def test_an_error_says_what_where_and_what_to_do_and_can_be_copied() -> None:
    error = CkptError("Damaged checkpoint", "/run/[/x]\x1b[2J.pt: cut", "Validate the backup.")
    app = ScreenApp(ErrorDialog(error))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "✖ Damaged checkpoint" in seen_text(app)
        assert "-> Validate the backup." in seen_text(app)
        assert_nothing_hostile(app)
        await pilot.press("c")
        await pilot.pause()
        assert app.clipboard == "Damaged checkpoint\n/run/[/x]\\x1b[2J.pt: cut\nValidate the backup."
        assert "Copied the message" in seen_text(app)
        await pilot.press("escape")
        assert app.result is None
        assert app.has_ended


@pytest.mark.parametrize(("keys", "result"), [(("down", "enter"), 1), (("escape",), None), (("end", "enter"), 6)])
async def test_one_of_several_is_picked(keys: tuple[str, ...], result: int | None) -> None:
    ended, text = await ended_with(PickDialog("Compare with", [(name, name) for name in HOSTILE_NAMES]), *keys)
    assert ended == result
    assert "[/closing].weight" in text


async def test_hostile_plans_stay_text_at_every_size() -> None:
    texts = tuple(HOSTILE_NAMES)
    plan = Plan("rollback", texts, tuple(Move("copy", text, text, 1, True) for text in texts), texts, 1)
    recorded: dict[str, Any] = {**{text: text for text in texts}, "huge": 10**6000}
    resume: Any = Resume(texts[3], texts[3], 1, VALID, texts[3], recorded, texts, texts, texts)
    for screen in (
        PlanDialog(plan),  # type: ignore[arg-type]
        ErrorDialog(CkptError(texts[2], texts[6], texts[4])),
        PickDialog(texts[2], texts),
        ResumeDialog("/run", resume),
        ConfirmDialog(texts[0], texts, yes_label=texts[1]),
    ):
        app = ScreenApp(screen)
        async with app.run_test(size=(80, 24)) as pilot:
            for size in ((80, 24), (40, 12), (20, 5)):
                await pilot.resize_terminal(*size)
                await settled(pilot)
                assert_nothing_hostile(app)
            await pilot.press("escape")
            await settled(pilot)
            assert app.has_ended
