"""Which checkpoints may go, by integer step and per kind. Files are removed only after a newer one is proven."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trainer.checkpoint.names import Name


def removable(
    names: Iterable[Name],
    *,
    keep_rolling: int,
    keep_emergency: int,
    step: int,
    protected: Collection[str] = (),
    abandoned: Collection[str] = (),
) -> list[tuple[str, str]]:
    """(name, rule) of the files that retention removes after a save at `step`, oldest first.

    Rolling and emergency checkpoints are pools of their own. What belongs to a branch that a resume from an earlier
    checkpoint left neither counts nor goes: `abandoned` names, and steps beyond `step`. `protected` names never go.
    """
    candidates = list(names)
    removed = []
    for kind, keep, flag in (
        ("rolling", keep_rolling, "keep_checkpoints"),
        ("emergency", keep_emergency, "keep_emergency_checkpoints"),
    ):
        pool = [(name.step, name.name) for name in candidates if name.kind == kind and name.step is not None]
        pool = sorted(entry for entry in pool if entry[0] <= step and entry[1] not in abandoned)
        removed += [(name, f"--{flag} {keep}") for _, name in pool[: max(len(pool) - keep, 0)] if name not in protected]
    return removed
