"""Which checkpoints go: by kind, by integer step, never the one just proven, never what a resume or the best needs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from trainer.checkpoint.registry import Entry


def superseded(
    entries: Iterable[Entry], *, keep_rolling: int, keep_emergency: int, protected: Collection[str] = ()
) -> list[tuple[str, str]]:
    """(name, rule) of the checkpoints that retention removes now. Each pool is counted on its own.

    protected: names that stay whatever the rule, such as the one that this session resumed from.
    """
    gone: list[tuple[str, str]] = []
    entries = list(entries)
    for kind, keep, flag in (
        ("rolling", keep_rolling, "keep_checkpoints"),
        ("emergency", keep_emergency, "keep_emergency_checkpoints"),
    ):
        pool = [entry for entry in entries if entry.kind == kind and "_step_" in entry.path]
        pool.sort(key=lambda entry: (entry.step, entry.time))
        for entry in pool[: max(len(pool) - keep, 0)]:
            if entry.path not in protected:
                gone.append((entry.path, f"--{flag} {keep}"))
    return gone
