"""What a supervisor does next, from what happened: pure rules over frozen facts, without processes, clocks or files.

`decide` is asked after each end of the training. What it has to remember from one end to the next is the `Standing`,
which goes into the supervisor's record: the rules go on where they were when the supervisor itself is started anew.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum

from ckpt_tui import text
from ckpt_tui.records import dataclass

DAY_S = 86400.0
# Logs tell only every n-th step, and a kill comes between two: deaths so near each other are at one place.
SAME_STEPS = 5
MAX_LAST_LINES = 12
_TOLD_LAST_LINES = 3
_NOT_A_PROGRAM = (126, 127)  # what a shell says of a command that cannot be run
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL, None)
USAGE_EXIT_CODE = 2  # of our trainer: it cannot be done as asked
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Policy:
    """When to start again, and when not any more.

    pause_s: before the first restart; doubles with each end that brought nothing new, up to max_pause_s.
    max_restarts: within within_s seconds, 0 for no limit. same_step_limit: ends at one step without a new checkpoint.
    restarts_by: who else is in charge of restarts ("torchrun"), "" for us. seed: of what the pauses waver by.
    """

    pause_s: float = 5.0
    max_pause_s: float = 600.0
    max_restarts: int = 10
    within_s: float = DAY_S
    same_step_limit: int = 3
    restart_diverged: bool = False
    restarts_by: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How one life of the training ended, as far as it is known.

    exit_code: negative for a signal, None when it was not our child to wait for. status, reason: of its `run_end`, or
    of its last `error`. step: how far it came. asked: the signal that a person sent through us, "" for none.
    silent_s: how long it was silent before it was ended for that. memory: what says that the system ended it for want
    of memory, "" for nothing. is_own: our own trainer, whose exit codes are known. anew: it was ended because it began
    from the beginning over a training that is there.
    """

    at: float
    exit_code: int | None = None
    status: str = ""
    reason: str = ""
    step: int | None = None
    asked: str = ""
    silent_s: float | None = None
    memory: str = ""
    last_lines: tuple[str, ...] = ()
    is_own: bool = False
    anew: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """Where a start would begin. name: the newest valid checkpoint, "" for none. lost_*: what is trained again.

    goes_on_itself: the last session went on from a checkpoint. is_untrained: there is nothing that a start from the
    beginning would give up. why_none: why nothing can be resumed
    from although something was trained. free_bytes, needed_bytes: room on the disk, and for one more save.
    """

    name: str = ""
    step: int | None = None
    lost_steps: int = 0
    lost_s: float = 0.0
    passed_over: tuple[str, ...] = ()
    goes_on_itself: bool = False
    is_untrained: bool = False
    why_none: str = ""
    free_bytes: int | None = None
    needed_bytes: int = 0

    @property
    def is_full(self) -> bool:
        return self.free_bytes is not None and self.free_bytes < max(self.needed_bytes, 1)


@dataclass(frozen=True, slots=True)
class Death:
    """An end that came before a new checkpoint."""

    step: int | None
    how: str
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered.

    restarts: made so far. restarted_at: when the newest ones were decided. num_vain: ends in a row that brought no new
    checkpoint. deaths: those ends. durable_step: of the checkpoint that the session began with.
    """

    restarts: int = 0
    restarted_at: tuple[float, ...] = ()
    num_vain: int = 0
    deaths: tuple[Death, ...] = ()
    durable_step: int | None = None

    def begun_from(self, point: Point) -> Standing:
        """With a session that starts from there: a restart, if one was decided before."""
        num_restarts = self.restarts + bool(self.restarted_at)
        return replace(self, restarts=num_restarts, durable_step=point.step if point.name else -1)


class Action(StrEnum):
    RESTART = "restart"
    FINISHED = "finished"
    STOPPED = "stopped"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. told: why, in plain words. exit_code: of the supervisor, where it is the end."""

    action: Action
    told: str
    pause_s: float = 0.0
    exit_code: int = 0


def decide(policy: Policy, standing: Standing, ended: Ended, point: Point) -> tuple[Standing, Decision]:
    """What to do after an end, and what to remember of it."""
    how = end_words(ended)
    if ended.anew:
        return standing, _give_up(
            f"{ended.anew}. Write {{checkpoint}} into the command where the path of the checkpoint belongs, or say"
            " --as-is if that is what it does"
        )
    if ended.asked and ended.status != "finished":
        return standing, Decision(Action.STOPPED, f"stopped by {ended.asked}: {how}", exit_code=_shell_code(ended))
    if ended.silent_s is None:
        if ended.status == "finished" or (ended.exit_code == 0 and ended.status in ("", "finished")):
            reason = f" ({text.safe_text(ended.reason, 200)})" if ended.reason else ""
            return standing, Decision(Action.FINISHED, f"finished{_at(ended.step)}{reason}")
        if ended.status in ("interrupted", "preempted") or ended.exit_code in (-signal.SIGINT, 128 + signal.SIGINT):
            told = f"somebody stopped it: {how}; it is not started again"
            return standing, Decision(Action.STOPPED, told, exit_code=_shell_code(ended))
        if ended.status == "diverged" and not policy.restart_diverged:
            return standing, _give_up(f"{how}. The same weights on the same data would do so again: {_earlier(point)}")
    if policy.restarts_by:
        last = "" if ended.reason else _lines_words(ended.last_lines)
        return standing, _give_up(
            f"{how}{last}. {policy.restarts_by} is in charge of restarts, and started it no more",
            _shell_code(ended) or 1,
        )
    if ended.exit_code in _NOT_A_PROGRAM or _is_refused_again(standing, ended):
        return standing, _give_up(f"{how}: it would end the same way again{_lines_words(ended.last_lines)}")
    standing = _remember(standing, ended, point, how)
    for vain in (_same_step(policy, standing), _too_many(policy, standing, ended.at)):
        if vain:
            return standing, _give_up(f"{how}. {vain}")
    # Who is killed has no last words: the last line is of the training, and not of its end.
    last_lines = () if ended.exit_code in _KILLED or ended.reason else ended.last_lines
    return _again(policy, standing, point, now=ended.at, how=how, last_lines=last_lines)


def try_later(policy: Policy, standing: Standing, point: Point, now: float) -> tuple[Standing, Decision]:
    """A start that was due and cannot be, because the disk is still full. It counts, so that it comes to an end."""
    standing = replace(standing, num_vain=standing.num_vain + 1)
    vain = _too_many(policy, standing, now)
    if vain:
        return standing, _give_up(f"{_room_words(point)}. {vain}")
    return _again(policy, standing, point, now=now, how="", last_lines=())


def _again(
    policy: Policy, standing: Standing, point: Point, *, now: float, how: str, last_lines: tuple[str, ...]
) -> tuple[Standing, Decision]:
    if not point.name and not point.is_untrained:
        return standing, nothing_to_resume(point, how)
    pause_s = _pause_s(policy, standing)
    standing = replace(
        standing, restarted_at=(*(at for at in standing.restarted_at if 0 <= now - at < policy.within_s), now)[-1000:]
    )
    parts = [how] if how else []
    room = _room_words(point)
    if room:
        parts.append(room)
    elif last_lines:
        parts.append(f"last line: {text.safe_text(last_lines[-1], 160)}")
    parts.append(start_words(point))
    limit = f" of {policy.max_restarts}" if policy.max_restarts else ""
    parts.append(f"restart {len(standing.restarted_at)}{limit} in {text.duration(pause_s)}")
    return standing, Decision(Action.RESTART, "; ".join(parts), pause_s=pause_s)


def nothing_to_resume(point: Point, how: str = "") -> Decision:
    """What was trained must not be lost by a start that knows nothing of it."""
    why = point.why_none or "there is no checkpoint"
    before = f"{how}. " if how else ""
    return _give_up(
        f"{before}Nothing to resume from: {why}. It is not started over from step 0 over a training that is there"
    )


def start_words(point: Point) -> str:
    """`from rolling_step_000500.pt (step 500), 120 steps (11 s) again`."""
    if not point.name:
        return "from step 0: no checkpoint was saved yet"
    step = f" (step {point.step:,})" if point.step is not None else ""
    again = ""
    if point.lost_steps > 0:
        seconds = f" ({text.duration(point.lost_s)})" if point.lost_s > 0 else ""
        again = f", {text.plural(point.lost_steps, 'step')}{seconds} again"
    over = f" ({'; '.join(text.safe_text(row, 100) for row in point.passed_over[:3])})" if point.passed_over else ""
    return f"from {text.safe_text(point.name, 100)}{step}{again}{over}"


def exit_words(exit_code: int | None) -> str:
    """`exit code 1`, `killed by SIGKILL`."""
    if exit_code is None:
        return "gone without a word"
    if exit_code < 0:
        return f"killed by {_signal_name(-exit_code)}"
    if exit_code > 128 and (name := _signal_name(exit_code - 128)).startswith("SIG"):
        return f"exit code {exit_code} ({name})"
    return f"exit code {exit_code}"


def end_words(ended: Ended) -> str:
    """How it ended, where, and what it said of that, in plain words."""
    if ended.silent_s is not None:
        words = f"stalled: silent for {text.duration(ended.silent_s)}, ended{_at(ended.step)}"
    else:
        words = exit_words(ended.exit_code)
        if ended.status and ended.exit_code is None:
            words = ended.status
        elif ended.status:
            words = f"{ended.status} ({words})"
        words += _at(ended.step)
    if ended.memory:
        words += f", out of memory: {text.safe_text(ended.memory, 200)}"
    return words + (f": {text.safe_text(ended.reason, 200)}" if ended.reason else "")


def _is_refused_again(standing: Standing, ended: Ended) -> bool:
    """Whether our trainer says that it cannot be done as asked, and does so at the first start or the second time: in
    between it may be that somebody held the directory just then."""
    if not ended.is_own or ended.exit_code != USAGE_EXIT_CODE:
        return False
    last = standing.deaths[-1].how if standing.deaths else ""
    return not standing.restarted_at or last.startswith(exit_words(USAGE_EXIT_CODE))


def _remember(standing: Standing, ended: Ended, point: Point, how: str) -> Standing:
    before = standing.durable_step if standing.durable_step is not None else -1
    if point.name and point.step is not None and point.step > before:
        # What came before a new checkpoint is past, and so is the way it died.
        return replace(standing, num_vain=1, deaths=(_death(ended, how),))
    deaths = standing.deaths
    if not point.is_full:  # it did not die of its own doing
        deaths = (*deaths, _death(ended, how))[-20:]
    return replace(standing, num_vain=standing.num_vain + 1, deaths=deaths)


def _death(ended: Ended, how: str) -> Death:
    # Short, for the record: one line may be all that a training ever printed.
    return Death(ended.step, how, tuple(text.safe_text(line, 200) for line in ended.last_lines[-_TOLD_LAST_LINES:]))


def _same_step(policy: Policy, standing: Standing) -> str:
    limit = policy.same_step_limit
    last = standing.deaths[-limit:] if limit > 0 else ()
    if not last or len(last) < limit:
        return ""
    steps = [death.step for death in last]
    known = [step for step in steps if step is not None]
    if known and (len(known) < len(steps) or max(known) - min(known) > SAME_STEPS):
        return ""
    where = f"at step {max(known):,}" if known else "before it told of a step"
    told = "; ".join(f"{number}. {death.how}{_lines_words(death.last_lines)}" for number, death in enumerate(last, 1))
    return (
        f"It died {where} {text.plural(len(last), 'time')} without a new checkpoint: the code or the data there make it"
        f" do so, and another start would not help. {told}"
    )


def _too_many(policy: Policy, standing: Standing, now: float) -> str:
    recent = [at for at in standing.restarted_at if 0 <= now - at < policy.within_s]
    if policy.max_restarts <= 0 or len(recent) < policy.max_restarts:
        return ""
    within = "a day" if policy.within_s == DAY_S else text.duration(policy.within_s)
    return f"It was restarted {text.plural(len(recent), 'time')} within {within}, which is the limit (--max-restarts)"


def _pause_s(policy: Policy, standing: Standing) -> float:
    doublings = min(max(standing.num_vain - 1, 0), 60)
    pause_s = min(policy.pause_s * 2.0**doublings, policy.max_pause_s)
    # Many trainings that one failure ended must not come back in the same second.
    wavering = random.Random(f"{policy.seed} {standing.restarts} {standing.num_vain}").uniform(1 - _JITTER, 1 + _JITTER)
    return min(pause_s * wavering, policy.max_pause_s)


def _room_words(point: Point) -> str:
    if not point.is_full or point.free_bytes is None:
        return ""
    return (
        f"the disk is full: {text.size(point.free_bytes)} free, {text.size(max(point.needed_bytes, 1))} needed; "
        "make room"
    )


def _earlier(point: Point) -> str:
    from_where = f"before step {point.step:,}" if point.step else "EARLIER"
    return (
        f"go back further (`ckpt-tui rollback`, to a checkpoint {from_where}) and change a setting, "
        "or say --restart-diverged"
    )


def _give_up(told: str, exit_code: int = 1) -> Decision:
    return Decision(Action.GIVE_UP, told, exit_code=exit_code)


def _at(step: int | None) -> str:
    return f" at step {step:,}" if step is not None else ""


def _lines_words(lines: tuple[str, ...]) -> str:
    shown = " | ".join(text.safe_text(line, 160) for line in lines[-_TOLD_LAST_LINES:])
    return f", last lines: {shown}" if shown else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _shell_code(ended: Ended) -> int:
    """The training's own exit code as a shell tells it, 128 + signal; what its `run_end` says where nobody waited."""
    if ended.exit_code is None:
        return {"interrupted": 128 + signal.SIGINT, "preempted": 128 + signal.SIGTERM, "finished": 0}.get(
            ended.status, 1
        )
    return 128 - ended.exit_code if ended.exit_code < 0 else ended.exit_code


def standing_of(fields: object) -> Standing:
    """A `Standing` from what a record holds; a new one for anything that is none."""
    if not isinstance(fields, Mapping):
        return Standing()
    try:
        deaths = tuple(
            Death(None if d["step"] is None else int(d["step"]), str(d["how"]), tuple(map(str, d["last_lines"])))
            for d in fields["deaths"]
        )
        durable = fields["durable_step"]
        return Standing(
            restarts=int(fields["restarts"]), restarted_at=tuple(float(at) for at in fields["restarted_at"]),
            num_vain=int(fields["num_vain"]), deaths=deaths, durable_step=None if durable is None else int(durable),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError):
        return Standing()
