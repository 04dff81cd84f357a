"""Is it fine? The phase, the time that is left, and how long a silence is too long for this run."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui import text
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Eta, Phase

# Before its own rhythm is known: loading data and compiling a model take minutes.
START_PATIENCE_S = 300.0
MIN_PATIENCE_S = 10.0
END_PATIENCE_S = 60.0  # after the last step: an evaluation and a save may follow
# A process that we cannot ask is given up after this many times the silence that counts as stalled.
FAR_BEYOND = 10.0
MIN_FAR_BEYOND_S = 600.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a session speaks. interval_s: usual time between step events (None: not known yet).
    longest_pause_s: the longest silence it came back from (evaluation, saving)."""

    interval_s: float | None
    longest_pause_s: float

    @property
    def stalled_after_s(self) -> float:
        """3 times its own pace plus the longest known pause (SPEC section 9)."""
        if self.interval_s is None:
            return max(START_PATIENCE_S, self.longest_pause_s)
        return max(3 * self.interval_s + self.longest_pause_s, MIN_PATIENCE_S)

    @property
    def gone_after_s(self) -> float:
        return max(FAR_BEYOND * self.stalled_after_s, MIN_FAR_BEYOND_S)


def judge_phase(
    silence_s: float,
    rhythm: Rhythm,
    is_process_alive: bool | None,
    *,
    is_foreign: bool = False,
    is_at_end: bool = False,
    trains_in: str = "",
) -> tuple[Phase, str]:
    """The phase of a session that has not said its end, and why it is thought so.

    is_foreign: told by a log that never says which process writes it, nor when it ends, and that may be written in
    blocks hours apart: nobody can say that it crashed or stalled. is_at_end: its last step was reached.
    trains_in: the directory of its live process, where this one is a copy.
    """
    if trains_in:
        return Phase.SILENT, f"nobody trains here: it is a copy of {trains_in}, which trains on"
    if is_foreign and is_process_alive is None:
        if is_at_end and silence_s > END_PATIENCE_S:
            return Phase.FINISHED, "its last step was reached"
        if silence_s <= max(START_PATIENCE_S, rhythm.stalled_after_s):
            return Phase.RUNNING, ""
        return Phase.SILENT, f"nothing written for {text.elapsed(silence_s)}; its log does not tell whether it ended"
    if is_process_alive is False:
        return Phase.CRASHED, "the process is gone without a word"
    if is_process_alive is None and silence_s > rhythm.gone_after_s:
        return Phase.CRASHED, (
            f"silent for {text.elapsed(silence_s)}, far beyond its own rhythm; its process cannot be seen from here"
        )
    if silence_s > rhythm.stalled_after_s:
        usual = text.duration(rhythm.stalled_after_s)
        return Phase.STALLED, f"silent for {text.elapsed(silence_s)}; {usual} would be usual at most"
    return Phase.RUNNING, ""


def median(values: Sequence[float]) -> float | None:
    """Of an even number of values the mean of the two in the middle; None of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True)
class Failures:
    """How often training was broken off, of how many times, and what that took on average: until the next first step,
    and to train again what was lost."""

    every_s: float
    cost_s: float
    number: int


def with_pauses(seconds_per_step: Sequence[float], pause_s_per_step: float) -> float | None:
    """Seconds that a step takes, what evaluation and saving cost a step included; None where no pace is known."""
    if not seconds_per_step:
        return None
    return _mean_of_middle_half(sorted(seconds_per_step)) + pause_s_per_step


def _mean_of_middle_half(ordered: Sequence[float]) -> float:
    quarter = len(ordered) // 4
    middle_half = ordered[quarter : len(ordered) - quarter]
    return sum(middle_half) / len(middle_half)


def estimate(
    steps_left: int,
    seconds_per_step: Sequence[float],
    pause_s_per_step: float,
    silence_s: float,
    failures: Failures | None = None,
) -> Eta | None:
    """Time left, with a range.

    seconds_per_step: recent ones; their quartiles make the range. pause_s_per_step: what evaluation and saving have
    cost a step so far: added, since most recent steps do not see them. silence_s: time since the last step, gone
    already. failures: of a run that had some: as many more are to be expected in the time that is left; the lower end
    of the range is without any.
    """
    if len(seconds_per_step) < 2 or steps_left < 0:
        return None
    ordered = sorted(seconds_per_step)
    quarter = len(ordered) // 4
    usual = _mean_of_middle_half(ordered)
    waited = min(silence_s, usual)

    def total(pace: float, pauses: float) -> float:
        return max(steps_left * (pace + pauses) - waited, 0.0)

    low = total(ordered[quarter] * 0.99, pause_s_per_step * 0.9)
    high = total(ordered[-1 - quarter] * 1.01, pause_s_per_step * 1.1)
    seconds = total(usual, pause_s_per_step)
    if failures is not None and failures.every_s > 0:
        expected = seconds / failures.every_s
        seconds += expected * failures.cost_s
        # Few that were seen tell the rate badly, and as many as are to be expected never come exactly.
        high += (expected * (1 + failures.number**-0.5) + 2 * expected**0.5) * failures.cost_s
    return Eta(seconds, low, high)
