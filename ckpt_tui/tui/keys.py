"""Every key of the cockpit in one table: bindings, footer, help and command palette are made from it.

The screens of files (inspect, validate, diff, events, log) carry rows of the same shape in their `KEYS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from textual.binding import Binding, BindingType


class Key(NamedTuple):
    """id: what a person's own key map calls it. action: a method `action_...`. group: heading in the help.
    label: in the footer. tooltip: one line in help and palette. is_act: changes something, gone with --readonly.
    in_footer: shown at the bottom of the screen."""

    id: str
    key: str
    action: str
    group: str
    label: str
    tooltip: str
    is_act: bool = False
    in_footer: bool = False


OVERVIEW_KEYS: tuple[Key, ...] = (
    Key("checkpoint.inspect", "i", "inspect", "Checkpoint", "inspect",
        "What is in the checkpoint at the cursor", in_footer=True),
    Key("checkpoint.validate", "v", "validate", "Checkpoint", "validate",
        "Is it whole, finite, and good to resume from", in_footer=True),
    Key("checkpoint.validate_all", "V", "validate_all", "Checkpoint", "validate all",
        "Check every checkpoint of the run"),
    Key("checkpoint.mark", "space", "mark", "Checkpoint", "mark", "Mark it, to compare another one with it"),
    Key("checkpoint.diff", "d", "diff", "Checkpoint", "diff",
        "Compare with the marked one, or the one before", in_footer=True),
    Key("act.resume", "r", "resume", "Acts", "resume",
        "Relaunch from the newest valid checkpoint", is_act=True, in_footer=True),
    Key("act.restore", "b", "restore", "Acts", "roll back",
        "Restore from backups, or go back to this one",
        is_act=True, in_footer=True),
    Key("act.undo", "u", "undo", "Acts", "undo", "Take the last restore or rollback back", is_act=True),
    Key("act.stop", "S", "stop", "Acts", "stop", "Ask the training to save and end", is_act=True),
    Key("chart.zoom_in", "plus,equals_sign", "zoom(0.5)", "Chart", "zoom in", "Half of what is in view"),
    Key("chart.zoom_out", "minus", "zoom(2.0)", "Chart", "zoom out", "Twice of what is in view"),
    Key("chart.pan_left", "comma,less_than_sign", "pan(-0.25)", "Chart", "earlier", "Move the window back"),
    Key("chart.pan_right", "full_stop,greater_than_sign", "pan(0.25)", "Chart", "later", "Move the window forth"),
    Key("chart.all", "0", "show_all", "Chart", "all", "The whole run"),
    Key("chart.freeze", "f", "freeze", "Chart", "freeze", "Hold the chart still, or follow the run again"),
    Key("chart.log", "y", "log_y", "Chart", "log y", "Logarithmic y axis, or linear again"),
    Key("chart.axis", "x", "axis", "Chart", "x axis", "x axis by step or by time"),
    Key("chart.cursor_left", "left", "cursor(-1)", "Chart", "cursor left", "Read values: step, time, nearest save"),
    Key("chart.cursor_right", "right", "cursor(1)", "Chart", "cursor right", "Read values: step, time, nearest save"),
    Key("chart.cursor_fast_left", "shift+left", "cursor(-10)", "Chart", "cursor 10 left", "Ten cells at a time"),
    Key("chart.cursor_fast_right", "shift+right", "cursor(10)", "Chart", "cursor 10 right", "Ten cells at a time"),
    Key("chart.cursor_hide", "escape", "hide_cursor", "Chart", "hide cursor", "Hide the chart's cursor"),
    Key("view.events", "e", "events", "View", "events", "The raw events of the log, with search", in_footer=True),
    Key("view.log", "o", "log", "View", "output", "What the newest session printed"),
    Key("view.bad_lines", "B", "bad_lines", "View", "bad lines", "The lines of the log that are not events"),
    Key("view.feed", "t", "feed", "View", "feed", "Checkpoints or newest events"),
)  # fmt: skip

APP_KEYS: tuple[Key, ...] = (
    Key("app.help", "question_mark", "help", "App", "help", "Every key, on one screen", in_footer=True),
    Key("app.palette", "ctrl+p", "command_palette", "App", "palette", "Find a command or a checkpoint by name"),
    Key("app.quit", "q", "quit", "App", "quit", "Leave; the training goes on", in_footer=True),
)

# While they mean something else in a list: the chart's cursor has them first.
_PRIORITY = frozenset({"left", "right", "shift+left", "shift+right"})

# Textual's own are glyphs that not every font has.
_DISPLAYED = {"enter": "Enter", "escape": "Esc", "backspace": "Bksp", "tab": "Tab", "space": "Space"}


def bindings_of(keys: Iterable[Key]) -> list[BindingType]:
    """Textual's bindings for rows of the table."""
    return [
        Binding(
            key.key, key.action, key.label, show=key.in_footer, tooltip=key.tooltip, id=key.id,
            priority=key.key in _PRIORITY, key_display=_DISPLAYED.get(key.key),
        )
        for key in keys
    ]  # fmt: skip


def key_words(key: str) -> str:
    """How a key is written for a person: `?`, `+ =`, `shift+left`."""
    names = {
        "question_mark": "?", "plus": "+", "equals_sign": "=", "minus": "-", "comma": ",", "less_than_sign": "<",
        "full_stop": ".", "greater_than_sign": ">", "slash": "/", "escape": "Esc", "enter": "Enter",
        "space": "Space", "backspace": "Bksp", "tab": "Tab", "pageup": "PgUp", "pagedown": "PgDn",
        "left": "←", "right": "→",
    }  # fmt: skip
    return " ".join(names.get(one, one) for one in key.split(","))


def is_act(action: str) -> bool:
    """Whether an action changes something, so that --readonly takes it away."""
    return action in {key.action for key in OVERVIEW_KEYS if key.is_act}
