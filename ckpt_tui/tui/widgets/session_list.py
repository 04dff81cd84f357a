"""Every session of the run, the newest first: for runs with more of them than the lanes have room for."""

from __future__ import annotations

from ckpt_tui.run.state import RunState, Session
from ckpt_tui.text import count, duration
from ckpt_tui.tui.facts import clock_words, phase_words
from ckpt_tui.tui.widgets.session_lanes import words_of
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

COLUMNS = (
    Column("", 3, align="right"),
    Column("state", 13),
    Column("from step", 9, align="right", priority=3),
    Column("to step", 7, align="right"),
    Column("lost", 6, align="right"),
    Column("time", 7, align="right", priority=2),
    Column("again", 6, align="right", priority=4),
    Column("began", 16, align="right", priority=5),
    Column("took", 7, align="right", priority=1),
    Column("why it ended, what it went on from", 10, grows=True, priority=6),
)


def cells_of(session: Session, state: RunState, *, unicode: bool = True) -> tuple[Cell, ...]:
    """lost, time: of what was lost at its end; again: steps that were trained before, in an earlier session."""
    origin = [text for text, role in words_of(session, state, unicode=unicode)[2:] if role == "dim"]
    return (
        (str(session.number), "dim"),
        phase_words(session.phase, unicode=unicode),
        (count(session.start_step), "dim"),
        count(session.last_step),
        (count(session.lost_steps), "error") if session.lost_steps else ("-", "dim"),
        (duration(session.lost_s), "error") if session.lost_steps and session.lost_s > 0 else ("-", "dim"),
        (count(session.retrained_steps) if session.retrained_steps else "-", "dim"),
        (clock_words(session.start_ts, state.now), "dim"),
        duration(max(session.last_ts - session.start_ts, 0.0)),
        (", ".join([*([session.reason] if session.reason else []), *origin]), "dim"),
    )


class SessionList(VirtualList[Session]):
    """The list with its cursor."""

    def __init__(self, *, unicode: bool = True, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        self._state = RunState(now=0.0)
        super().__init__(
            COLUMNS,
            lambda session: cells_of(session, self._state, unicode=unicode),
            key=lambda session: session.number,
            empty_text="no session yet",
            title="sessions",
            id=id,
        )

    def set_state(self, state: RunState) -> None:
        self._state = state
        self.set_rows(tuple(reversed(state.sessions)))
        self.set_title("sessions", [(str(len(state.sessions)), "dim")] if state.sessions else ())
