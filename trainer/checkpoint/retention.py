"""Which checkpoints may go, by integer step and per kind. Files are removed only after a newer one is proven."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from trainer.checkpoint.names import Name
from trainer.checkpoint.policy import Policy


@dataclass(frozen=True)
class Verdict:
    """What retention has to say of one checkpoint. rule: why it goes, or why it stays."""

    name: Name
    goes: bool
    rule: str


def removable(verdicts: Iterable[Verdict]) -> list[tuple[str, str]]:
    """(name, rule) of those that go, in the order of `judged`: oldest first."""
    return [(verdict.name.name, verdict.rule) for verdict in verdicts if verdict.goes]


def judged(
    names: Iterable[Name],
    policy: Policy,
    *,
    step: int,
    protected: Collection[str] = (),
    pinned: Collection[str] = (),
    abandoned: Collection[str] = (),
    scores: Mapping[str, float | None] | None = None,
    is_full: bool = False,
) -> list[Verdict]:
    """A verdict on each of `names` after a save at `step`; those that go come first, as they are to be removed.

    Rolling and emergency checkpoints are pools of their own; of other kinds all stay. What belongs to a branch that a
    resume from an earlier checkpoint left neither counts nor goes: `abandoned` names, and steps beyond `step`. Nor do
    `protected` names (what the session was resumed from, what was just written) and `pinned` ones.
    scores: the monitored metric by name. is_full: the disk is, and fewer rolling ones are to stay.
    """
    candidates = sorted(names, key=lambda name: (name.step or 0, name.name))
    verdicts: dict[str, Verdict] = {}
    keep_rolling, flag = policy.keep_rolling, "keep_checkpoints"
    if is_full and policy.keep_rolling_when_full:
        keep_rolling, flag = min(keep_rolling, policy.keep_rolling_when_full), "keep_checkpoints_when_full"
    for kind, keep, rule in (
        ("rolling", keep_rolling, f"--{flag} {keep_rolling}"),
        ("emergency", policy.keep_emergency, f"--keep_emergency_checkpoints {policy.keep_emergency}"),
    ):
        pool = [name for name in candidates if name.kind == kind and name.step is not None]
        on_the_way = [name for name in pool if name.step <= step and name.name not in abandoned]  # type: ignore[operator]
        best = _best(on_the_way, policy, scores or {}) if kind == "rolling" else set()
        newest = {name.name for name in on_the_way[-keep:]}
        for name in pool:
            why_it_stays = (
                "on an abandoned branch" if name not in on_the_way
                else rule if name.name in newest
                else f"pinned by {name.name}.keep" if name.name in pinned
                else "in use" if name.name in protected
                else f"--keep_every {policy.keep_every}" if kind == "rolling" and _is_every(name, policy)
                else f"--keep_best {policy.keep_best}" if name.name in best
                else ""
            )  # fmt: skip
            verdicts[name.name] = Verdict(name, not why_it_stays, why_it_stays or rule)
    rest = [
        Verdict(name, False, "all of its kind stay" if name.kind == "epoch" else "replaced, never removed")
        for name in candidates
        if name.name not in verdicts
    ]
    gone = [verdict for verdict in verdicts.values() if verdict.goes]
    return [*gone, *(verdict for verdict in verdicts.values() if not verdict.goes), *rest]


def _is_every(name: Name, policy: Policy) -> bool:
    return policy.keep_every > 0 and name.step is not None and name.step % policy.keep_every == 0


def _best(pool: Iterable[Name], policy: Policy, scores: Mapping[str, float | None]) -> set[str]:
    """The names of the best by the monitored metric; of equal ones the newer."""
    scored = [(score, name) for name in pool if (score := scores.get(name.name)) is not None and math.isfinite(score)]
    sign = 1.0 if policy.monitor_mode == "min" else -1.0
    scored.sort(key=lambda one: (sign * one[0], -(one[1].step or 0)))
    return {name.name for _, name in scored[: policy.keep_best]}
