"""The command of a person's own in the resume dialog: typed, judged, kept for the directory, and let go."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Input

from ckpt_tui.errors import CkptError
from ckpt_tui.services import command_line
from ckpt_tui.services.launchers import template as template_module
from ckpt_tui.services.launchers.template import Template, forget_template, keep_template, read_template
from ckpt_tui.tui.dialogs import resume as resume_module
from ckpt_tui.tui.dialogs.resume import ResumeDialog
from ckpt_tui.tui.setting_rows import as_template, plain_places, setting_rows, with_command
from tests.builders.dialogs import RECORDED, Resume, change, resume_dialog
from tests.builders.screen_app import ScreenApp, seen, seen_text, settled, until

OWN = "sh run.sh {checkpoint} {settings}"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pilot presses faster than a person reads."""
    monkeypatch.setattr(resume_module, "CALM_S", 0.0)


@pytest.mark.parametrize(("size", "through"), [((80, 24), "row"), ((80, 24), "m"), ((40, 12), "row"), ((40, 12), "m")])
async def test_a_command_of_ones_own_is_typed_judged_and_shown_as_what_will_run(
    size: tuple[int, int], through: str
) -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned, warnings=("A warning. " * 30,))
    plan = dialog._replan
    assert plan is not None

    def replan(changes: Mapping[str, str]) -> Any:
        command = changes.get("(command)")
        if command is None:
            return plan(changes)
        planned.append(dict(changes))
        line = command.replace("{checkpoint}", "/run/r.pt").replace("{settings}", "--lr 1e-4")
        return replace(dialog.plan, command_line=line, template=Template(tuple(command.split()), "/"))  # type: ignore[type-var]

    dialog._replan = replan
    app = ScreenApp(dialog)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        if through == "row":
            dialog.settings.cursor = next(i for i, row in enumerate(dialog.settings.rows) if row.key == "(command)")
            await pilot.press("e")
        else:
            await pilot.press("m", "e")
        field = dialog.query_one("#editor_value", Input)
        assert field.value == "python -m trainer --out /run --resume {checkpoint_name}"
        for typed, said in (
            ("sh 'x", "✖ it cannot be read: No closing"), ("sh {chekpoint}", "✖ {chekpoint} is no place. Did you"),
            ("sh run.sh", "▲ no {checkpoint} in it"), (OWN, "kept for the next resumes"),
        ):  # fmt: skip
            field.value = typed
            await pilot.pause()
            assert said in seen_text(app)
        assert not any("chekpoint" in one.get("(command)", "") for one in planned), "what cannot be is not planned"
        await until(pilot, lambda: "$ sh run.sh /run/r.pt --lr 1e-4" in seen_text(app))
        assert dialog.virtual_size.height <= size[1]
        await pilot.press("enter")
        await settled(pilot)
        assert dialog.changes == {"(command)": OWN}
        if through == "m":
            await pilot.press("m")
            await settled(pilot)
        if size == (80, 24):
            assert "The command is your own, and will be kept" in seen_text(app)
            assert "of your own, kept here" in seen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.has_ended)
        assert app.result.command_line == "sh run.sh /run/r.pt --lr 1e-4"  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", ["key", "mouse"])
async def test_a_kept_command_is_forgotten_and_kept_again(tmp_path: Path, by: str) -> None:
    directory = str(tmp_path)
    keep_template(directory, Template(("sh", "mine.sh", "{checkpoint}"), "/"))
    plans: list[str] = []

    def replan(changes: Mapping[str, str]) -> Any:
        kept = read_template(directory)
        plans.append(kept.line if kept is not None else "")
        shown = {"command_line": f"sh mine.sh /run/r.pt {len(plans)}", "template": kept} if kept is not None else {}
        return Resume(hyperparameters=RECORDED, **shown)

    app = ScreenApp(dialog := ResumeDialog(directory, replan({}), replan))

    async def press() -> None:
        if by == "key":
            await pilot.press("K")
        else:
            await pilot.click(offset=(seen(app)[-1].index("K ") + 1, 23))

    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        assert "is kept for this directory; K forgets it." in seen_text(app)
        assert "K forget" in seen(app)[-1]
        await press()
        await until(pilot, lambda: "is forgotten, and no longer used; K keeps it again." in seen_text(app))
        await until(pilot, lambda: "$ python -m trainer --out /run" in seen_text(app) and "K keep" in seen(app)[-1])
        await settled(pilot)
        assert read_template(directory) is None
        assert dialog._rows()[-1].recorded != "sh mine.sh {checkpoint}"
        await press()
        await until(pilot, lambda: "$ sh mine.sh /run/r.pt 3" in seen_text(app) and "K forget" in seen(app)[-1])
        kept = read_template(directory)
        assert kept is not None
        assert kept.line == "sh mine.sh '{checkpoint}'"
        assert plans == [kept.line, "", kept.line]


async def test_where_nothing_is_kept_nothing_is_forgotten_and_a_forgotten_one_can_be_kept_again(tmp_path: Path) -> None:
    app = ScreenApp(resume_dialog([], directory=str(tmp_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("K")
        await settled(pilot)
        assert "K " not in seen(app)[-1]
    assert not list(tmp_path.iterdir())
    keep_template(str(tmp_path), Template(("sh", "mine.sh"), "/"))
    forget_template(str(tmp_path))
    app = ScreenApp(resume_dialog([], directory=str(tmp_path)))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "K keep" in seen(app)[-1])
        await pilot.press("K")
        await until(pilot, lambda: "K " not in seen(app)[-1])  # this plan is a stand-in's, and tells of none
    assert read_template(str(tmp_path)) is not None


async def test_one_that_cannot_be_forgotten_stays_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(directory: str) -> str:
        raise CkptError("Cannot rename", "resume_command.json: no permission", "Ask its owner.")

    monkeypatch.setattr(template_module, "forget_template", refuse)
    kept = Template(("sh", "mine.sh"), "/", is_kept=True)
    app = ScreenApp(resume_dialog([], directory=str(tmp_path), template=kept))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("K")
        await until(pilot, lambda: "no permission. Ask its owner." in seen_text(app))
        await pilot.press("enter")
        await settled(pilot)
        assert not app.has_ended
        await pilot.press("e", "escape")
        await until(pilot, lambda: "no permission" not in seen_text(app))


async def test_what_is_typed_of_a_command_is_taken_back_like_a_setting() -> None:
    planned: list[dict[str, str]] = []
    dialog = resume_dialog(planned)
    app = ScreenApp(dialog)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await change(pilot, dialog, "(command)", OWN)
        assert dialog.changes == {"(command)": OWN}
        await change(pilot, dialog, "(command)", "python -m trainer --out /run --resume {checkpoint_name}")
        assert dialog.changes == {}
        await change(pilot, dialog, "(command)", OWN)
        await pilot.press("backspace")
        await settled(pilot)
        assert (dialog.changes, planned[-1]) == ({}, {})


def test_where_no_command_is_known_its_row_is_the_first() -> None:
    rows = setting_rows(RECORDED, {})
    assert with_command(rows, "", {}, is_needed=True)[0].key == "(command)"
    assert with_command(rows, "", {}, words="lr") == rows
    assert [row.key for row in with_command(rows, "", {}, words="comm")[:4]][-1] == "(command)"
    assert as_template(["a b", "/r/x.pt", "x.pt", "{y}"], "/r/x.pt", "x.pt") == (
        "'a b' {checkpoint} {checkpoint_name} '{{y}}'"
    )


def test_a_command_that_is_kept_is_shown_as_it_was_typed() -> None:
    nested = command_line.quoted(["sh", "-c", "echo '{step}' '{run name}'", "{checkpoint}", "{{x}}"])
    assert plain_places(nested).endswith(" {checkpoint} '{{x}}'")
    assert shlex.split(plain_places(nested)) == shlex.split(nested)
    kept = "./go.sh '{checkpoint}' '--lr {lr}' {settings}"
    assert plain_places(kept) == "./go.sh {checkpoint} '--lr {lr}' {settings}"
