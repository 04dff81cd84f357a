"""Which settings a session began with otherwise than the one before, in a few words: for the event lane."""

from __future__ import annotations

from collections.abc import Mapping

from ckpt_tui.text import safe_text

MAX_NAMED = 3
_MAX_CHARS = 24
# How a session was started is no setting of the training.
_NOT_TOLD = frozenset({"resume", "resume_from", "resume_from_checkpoint", "out", "output_dir", "run_name"})


def changed_settings(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """`lr 0.002 -> 0.001, batch_size 8 -> 16 and 2 more`; "" where nothing differs, or one of both was not told."""
    if not before or not now:
        return ""
    names = [name for name in {**before, **now} if name not in _NOT_TOLD and _is_other(before, now, name)]
    words = [f"{safe_text(name, 40)} {_value(before, name)} -> {_value(now, name)}" for name in names[:MAX_NAMED]]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(words) + more


def _is_other(before: Mapping[str, object], now: Mapping[str, object], name: str) -> bool:
    if (name in before) != (name in now):
        return True
    one, other = before[name], now[name]
    return one != other and not (one != one and other != other)  # NaN is the same as NaN


def _value(settings: Mapping[str, object], name: str) -> str:
    return safe_text(settings[name], _MAX_CHARS) if name in settings else "none"
