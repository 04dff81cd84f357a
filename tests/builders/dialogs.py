"""Plans as dialogs are given them, made here so that their tests need no service, and dialogs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from textual.screen import Screen
from textual.widgets import Input

from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import CkptError
from ckpt_tui.tui.dialogs.resume import ResumeDialog
from tests.builders.screen_app import ScreenApp, assert_nothing_hostile, seen_text, settled

LEVELS = dict.fromkeys(("structure", "integrity", "numbers", "resume"), "pass")


VALID = Validation("p", "valid", LEVELS, (), 1, 1.0, "torch-zip", 9250, 1)


@dataclass(frozen=True)
class Move:
    """As `services.restore.PlannedMove`, made here so that these tests need no service."""

    action: str
    source: str
    target: str
    size_bytes: int
    replaces: bool = False


@dataclass(frozen=True)
class Plan:
    act: str
    sentences: tuple[str, ...]
    steps: tuple[Move, ...] = ()
    warnings: tuple[str, ...] = ()
    bytes_needed: int = 0

    @property
    def is_empty(self) -> bool:
        return not self.steps


@dataclass(frozen=True)
class Resume:
    checkpoint_name: str = "rolling_step_009250.pt"
    checkpoint_path: str = "/run/rolling_step_009250.pt"
    step: int = 9250
    validation: Validation = VALID
    command_line: str = "python -m trainer --out /run --resume rolling_step_009250.pt"
    hyperparameters: Mapping[str, Any] | None = None
    sentences: tuple[str, ...] = ("Skips 9,250 steps, redoes 127 (7.0 s).",)
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    source: str = "auto"
    launcher: str = ""
    command: tuple[str, ...] = ("python", "-m", "trainer", "--out", "/run", "--resume", "rolling_step_009250.pt")
    template: Any = None


RECORDED = {"lr": 6e-4, "batch_size": 32, "n_layer": 4, "betas": [0.9, 0.95], "eval_freq": 250}
RESTORE = Plan(
    "restore",
    ("latest.pt is damaged: data/41 fails its checksum.",),
    (Move("copy", "latest_backup.pt", "latest.pt", 10_400_000, True),),
    ("A trainer was here a minute ago.",),
    10_400_000,
)


async def ended_with(screen: Screen[Any], *keys: str, size: tuple[int, int] = (80, 24)) -> tuple[object, str]:
    """What the dialog ended with after `keys`, and what was seen before them."""
    app = ScreenApp(screen)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        text = seen_text(app)
        assert_nothing_hostile(app)
        for key in keys:
            await pilot.press(key)
        await settled(pilot)
        assert app.has_ended or not keys
        return app.result, text


def resume_dialog(planned: list[dict[str, str]], *, directory: str = "/run", **fields: Any) -> ResumeDialog:
    plan: Any = Resume(hyperparameters=RECORDED, **fields)

    def replan(changes: Mapping[str, str]) -> Any:
        planned.append(dict(changes))
        if changes.get("lr") == "fast":
            raise CkptError("Not a number", "lr is fast", "Write 3e-4.")
        refusals = ("n_layer: 4 -> 6 is impossible.",) if "n_layer" in changes else ()
        extra = "".join(f" --{key} {value}" for key, value in changes.items())
        return replace(plan, command_line=plan.command_line + extra, refusals=refusals)

    return ResumeDialog(directory, plan, replan)


async def change(pilot: Any, dialog: ResumeDialog, key: str, value: str) -> None:
    """Type another value for a setting, and take it."""
    dialog.settings.cursor = next(i for i, row in enumerate(dialog.settings.rows) if row.key == key)
    await pilot.press("e")
    dialog.query_one("#editor_value", Input).value = value
    await pilot.press("enter")
    await settled(pilot)
