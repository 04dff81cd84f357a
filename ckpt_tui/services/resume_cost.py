"""What a resume skips, redoes and trains anew, in steps and in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.run.timeline import seconds_above
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.damage import found_checkpoints
from ckpt_tui.services.resume_choice import Choice

if TYPE_CHECKING:
    from ckpt_tui.services.monitor import RunMonitor


@dataclass(frozen=True, slots=True)
class ResumeCost:
    """skipped: in the checkpoint; redone: trained before, and lost; new: the rest up to total_steps. In steps.

    *_s: what that takes, in seconds at the run's own pace; 0 where nobody knows it.
    """

    skipped: int
    redone: int
    new: int
    redone_s: float
    new_s: float
    total_steps: int


def resume_cost(
    choice: Choice,
    monitor: RunMonitor | None,
    state: RunState | None,
    entries: tuple[CatalogEntry, ...],
    settings: Mapping[str, object],
    wanted: Mapping[str, object],
) -> ResumeCost:
    step = choice.entry.step or 0
    passed_over = choice.passed_over
    reached = max(state.step if state is not None else 0, step, *(other.step or 0 for other, _ in passed_over))
    total_steps = _total_steps(state, settings, wanted)
    redone = max(min(reached, total_steps or reached) - step, 0)
    new = max(total_steps - max(reached, step), 0)
    redone_s = new_s = 0.0
    if monitor is not None and state is not None:
        # Judged as the header judges it, so that both say the same times.
        monitor.invalid_checkpoints = frozenset(other.name for other, _ in passed_over)
        monitor.found_checkpoints = found_checkpoints(entries)
        judged = monitor.state()
        pace = judged.seconds_per_step or 0.0
        redone_s = (seconds_above(judged, step) or 0.0) + (redone - max(judged.step - step, 0)) * pace
        redone_s, new_s = max(redone_s, 0.0), new * pace
    return ResumeCost(step, redone, new, redone_s, new_s, total_steps)


_TOTALS = ("max_steps", "max_iters", "total_steps", "train_steps", "total_iters", "max_train_steps")


def _total_steps(state: RunState | None, settings: Mapping[str, object], wanted: Mapping[str, object]) -> int:
    told = state.total_steps if state is not None else None
    for value in (wanted.get("max_steps"), told, *(settings.get(key) for key in _TOTALS)):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0
