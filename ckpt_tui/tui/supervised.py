"""What the watch says of a supervisor: no seconds that tick, but the clock's time of its next try."""

from __future__ import annotations

import os

from ckpt_tui.records import dataclass

_RECORD_NAME = "supervisor.json"  # as in services/supervisor_record.py, which is imported where there is one


@dataclass(frozen=True, slots=True)
class Supervised:
    """words: for the header. is_in_charge: it starts the training again, so that nobody else shall."""

    words: str
    is_in_charge: bool
    is_bad: bool = False  # it gave up, or is gone


def supervised(directory: str, now: float) -> Supervised | None:
    """What there is to say of the supervisor of a directory; None where there is none, or nothing to say."""
    if not os.path.exists(os.path.join(directory, _RECORD_NAME)):  # noqa: PTH110 - asked at every tick
        return None
    from dataclasses import replace

    from ckpt_tui.services.supervisor_record import SupervisorState, read_supervisor, supervisor_words
    from ckpt_tui.tui.facts import clock_words

    found = read_supervisor(directory)
    if found is None:
        return None
    words = supervisor_words(replace(found, next_try_at=None), now)
    if found.state is SupervisorState.WAITING and found.next_try_at is not None and found.is_alive is not False:
        words += f", next try at {clock_words(found.next_try_at, now)}"
    if found.last_exit and found.state in (SupervisorState.WAITING, SupervisorState.GAVE_UP):
        from ckpt_tui.text import safe_text

        words += f" ({safe_text(found.last_exit, 60)})"
    is_bad = found.state is SupervisorState.GAVE_UP or (not found.state.is_over and found.is_alive is False)
    return Supervised(words, found.is_in_charge, is_bad) if words else None
