"""How a training that was started, or that died at once, is told: the same for resume and demo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ckpt_tui.commands.confirm import sentence_lines
from ckpt_tui.output import CommandResult, ExitCode, Style
from ckpt_tui.text import safe_text

if TYPE_CHECKING:
    from ckpt_tui.services.launch import Launched
    from ckpt_tui.services.start_progress import TrainingDiedError


def started_data(started: Launched) -> dict[str, object]:
    """The part of `data` that tells of the start."""
    return {
        "pid": started.pid,
        "log": started.log_path,
        "stage": started.stage,
        "reached_step": started.step,
        "waited_s": started.seconds,
        "exit_code": started.exit_code,
        "job": started.job or None,
        "start_warnings": list(started.warnings),
    }


def started_lines(started: Launched, style: Style) -> Iterator[str]:
    """How far it had come, and where its output goes."""
    yield from sentence_lines(started.sentences, started.warnings, style)
    yield f"Output: {safe_text(started.log_path, 1000)}"


def died_result(error: TrainingDiedError, data: Mapping[str, object]) -> CommandResult:
    """It was started, and it failed: exit code 1, with its last lines and the reason in words."""

    def lines(style: Style) -> Iterator[str]:
        for line in error.lines:
            yield style.paint(f"  {line}", "dim")

    return CommandResult(
        data={
            **data, "done": False, "exit_code": error.exit_code, "reason": error.reason,
            "last_lines": list(error.lines), "log": error.log_path, "waited_s": error.seconds,
        },
        view=lines, exit_code=ExitCode.DIFFERENT, errors=[error],
    )  # fmt: skip
