"""Every key of the cockpit in one table: bindings, footer, help and command palette are made from it.

A screen takes its rows from `TABLES`, by its name there. The rows know no Textual: the settings are checked against
them by commands that open no screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from textual.binding import BindingType


class Key(NamedTuple):
    """id: what a person's own key map calls it. action: a method `action_...`. group: heading in the help.
    label: in the footer. tooltip: one line in help and palette. is_act: changes something, gone with --readonly.
    in_footer: shown at the bottom of the screen. has_priority: also before the keys of what has the focus."""

    id: str
    key: str
    action: str
    group: str
    label: str
    tooltip: str
    is_act: bool = False
    in_footer: bool = False
    has_priority: bool = False


OVERVIEW_KEYS: tuple[Key, ...] = (
    # What is done to the run first: of the last line the end goes first where there is no room.
    Key("act.resume", "r", "resume", "Acts", "resume",
        "Relaunch from the newest valid, or from this", is_act=True, in_footer=True),
    Key("act.restore", "b", "restore", "Acts", "roll back",
        "Restore from backups, or go back to this one",
        is_act=True, in_footer=True),
    Key("act.stop", "S", "stop", "Acts", "stop", "Ask the training to save and end", is_act=True, in_footer=True),
    Key("act.undo", "u", "undo", "Acts", "undo", "Take the last restore or rollback back", is_act=True),
    Key("act.redo", "R", "redo", "Acts", "redo", "Do again what was taken back last", is_act=True),
    Key("act.history", "U", "history", "Acts", "deeds", "What was done here, to take back or do again", is_act=True),
    Key("act.gc", "F", "gc", "Acts", "free space", "Free what lies aside; shows all of it first", is_act=True),
    Key("checkpoint.inspect", "i", "inspect", "Checkpoint", "inspect",
        "What is in the checkpoint at the cursor", in_footer=True),
    Key("checkpoint.validate", "v", "validate", "Checkpoint", "validate",
        "Is it whole, finite, and good to resume from", in_footer=True),
    Key("checkpoint.validate_all", "V", "validate_all", "Checkpoint", "validate all",
        "Check every checkpoint of the run"),
    Key("checkpoint.mark", "space", "mark", "Checkpoint", "mark", "Mark it, to compare another one with it"),
    Key("checkpoint.diff", "d", "diff", "Checkpoint", "diff",
        "Compare with the marked one, or the one before", in_footer=True),
    Key("chart.zoom_in", "plus,equals_sign", "zoom(0.5)", "Chart", "zoom in", "Half of what is in view"),
    Key("chart.zoom_out", "minus", "zoom(2.0)", "Chart", "zoom out", "Twice of what is in view"),
    Key("chart.pan_left", "comma,less_than_sign", "pan(-0.25)", "Chart", "earlier", "Move the window back"),
    Key("chart.pan_right", "full_stop,greater_than_sign", "pan(0.25)", "Chart", "later", "Move the window forth"),
    Key("chart.all", "0", "show_all", "Chart", "all", "The whole run"),
    Key("chart.freeze", "f", "freeze", "Chart", "freeze", "Hold the chart still, or follow the run again"),
    Key("chart.log", "y", "log_y", "Chart", "log y", "Logarithmic y axis, or linear again"),
    Key("chart.y_range", "Y", "y_range", "Chart", "y range", "Cut off spikes that flatten the rest, none, or all"),
    Key("chart.axis", "x", "axis", "Chart", "x axis", "By step, by time, or by epoch"),
    Key("chart.smoothing", "s", "smoothing", "Chart", "smoothing", "A light or heavy smoothed line over the raw one"),
    Key("chart.moment", "w", "moment", "Chart", "what happened",
        "What happened at the cursor, or at the worst spike"),
    Key("chart.metrics", "m", "metrics", "Chart", "metrics", "Choose the metric to show, or pin some under it"),
    Key("chart.pin", "M", "pin", "Chart", "pin", "Pin what is shown under the chart, or unpin it"),
    Key("chart.metric_before", "left_square_bracket", "metric(-1)", "Chart", "metric before", "Show the metric before"),
    Key("chart.metric_after", "right_square_bracket", "metric(1)", "Chart", "metric after", "Show the next metric"),
    Key("chart.cursor_left", "left", "cursor(-1)", "Chart", "cursor left", "Read values: step, time, nearest save"),
    Key("chart.cursor_right", "right", "cursor(1)", "Chart", "cursor right", "Read values: step, time, nearest save"),
    Key("chart.cursor_fast_left", "shift+left", "cursor(-10)", "Chart", "cursor 10 left", "Ten cells at a time"),
    Key("chart.cursor_fast_right", "shift+right", "cursor(10)", "Chart", "cursor 10 right", "Ten cells at a time"),
    Key("chart.cursor_hide", "escape", "hide_cursor", "Chart", "hide cursor", "Hide the chart's cursor"),
    Key("view.events", "e", "events", "View", "events", "The raw events of the log, with search", in_footer=True),
    Key("view.alerts", "a", "alerts", "View", "alerts", "What needed a person, now and before; acknowledge it"),
    Key("view.advice", "A", "advice", "View", "advice", "How often to save: what it costs and puts at risk"),
    Key("view.log", "o", "log", "View", "output", "What the newest session printed"),
    Key("view.bad_lines", "B", "bad_lines", "View", "bad lines", "The lines of the log that are not events"),
    Key("view.compare", "C", "compare", "View", "compare runs", "Put other runs beside this one"),
    Key("view.runs", "backspace", "runs", "View", "runs", "Back to the list of runs, where there is one",
        in_footer=True),
    Key("view.feed", "t", "feed", "View", "more", "Next: curves, checkpoints, events, all sessions",
        in_footer=True),
)  # fmt: skip

APP_KEYS: tuple[Key, ...] = (
    Key("app.help", "question_mark", "help", "App", "help", "Every key, on one screen", in_footer=True),
    Key("app.palette", "ctrl+p", "command_palette", "App", "palette", "Find a command or a checkpoint by name"),
    Key("app.quit", "q", "quit", "App", "quit", "Leave; the training goes on", in_footer=True),
    Key("app.copy", "c", "copy", "App", "copy", "Copy what is at the cursor, through SSH too"),
    Key("app.picture", "P", "picture", "App", "picture", "A picture of the screen: SVG, in this directory"),
    Key("app.theme", "T", "theme", "App", "theme", "The next theme: dark, light, colour-blind, ansi"),
    Key("app.suspend", "ctrl+z", "suspend_process", "App", "suspend", "To the shell; `fg` there comes back"),
    Key("app.redraw", "ctrl+l", "redraw", "App", "redraw", "Draw it all again, where something wrote over it"),
)

# Of every list, and of what scrolls.
LIST_KEYS: tuple[Key, ...] = (
    Key("list.up", "up,k", "move(-1)", "Lists", "up", "The line above"),
    Key("list.down", "down,j", "move(1)", "Lists", "down", "The line below"),
    Key("list.page_up", "pageup", "move_page(-1)", "Lists", "page up", "A page up"),
    Key("list.page_down", "pagedown", "move_page(1)", "Lists", "page down", "A page down"),
    Key("list.first", "home,g", "move_to_start", "Lists", "first", "The first line"),
    Key("list.last", "end,G", "move_to_end", "Lists", "last", "The last line"),
    Key("list.open", "enter", "select", "Lists", "open", "Open what is under the cursor"),
)  # fmt: skip

RUNS_KEYS: tuple[Key, ...] = (
    Key("runs.open", "enter", "open", "Runs", "open", "Watch the run under the cursor; Backspace comes back",
        in_footer=True, has_priority=True),
    Key("runs.filter", "slash", "filter", "Runs", "filter", "Only runs that hold these words; Esc clears",
        in_footer=True),
    Key("runs.sort", "z", "sort", "Runs", "sort", "Sort by the next column; a click on a title too", in_footer=True),
    Key("runs.reverse", "Z", "reverse", "Runs", "reverse", "Turn the order around"),
    Key("runs.mark", "space", "mark", "Runs", "mark", "Mark it, to compare it with others", in_footer=True),
    Key("runs.compare", "C", "compare", "Runs", "compare", "Compare the marked runs: curves, settings, facts",
        in_footer=True),
    Key("runs.alert", "a", "alert", "Runs", "what broke", "Go to the run that the alert is about", in_footer=True),
    Key("runs.leave", "escape", "leave", "Runs", "clear/back", "Clear filter, marks or alert; leave, where picked from",
        in_footer=True),
)  # fmt: skip

_NOT_OF_SEVERAL = frozenset({"chart.moment", "chart.pin", "chart.cursor_hide"})
COMPARE_KEYS: tuple[Key, ...] = (
    Key("compare.leave", "escape", "hide_cursor", "Compare", "back", "Hide the chart's cursor, or go back",
        in_footer=True),
    Key("compare.part", "t", "part", "Compare", "next part", "Curves, facts, settings: where all have no room",
        in_footer=True),
    *(key._replace(in_footer=key.id in ("chart.axis", "chart.smoothing", "chart.metrics", "chart.log"))
      for key in OVERVIEW_KEYS if key.group == "Chart" and key.id not in _NOT_OF_SEVERAL),
)  # fmt: skip

INSPECT_KEYS: tuple[Key, ...] = (
    Key("inspect.tree", "t", "view('tree')", "Views", "tree", "The whole state, by module"),
    Key("inspect.tensors", "n", "view('tensors')", "Views", "tensors", "Every tensor: name, shape, dtype, size"),
    Key("inspect.settings", "s", "view('settings')", "Views", "settings", "Progress, hyperparameters, versions"),
    Key("inspect.optimizer", "o", "view('optimizer')", "Views", "optimizer", "Groups, learning rates, moments"),
    Key("inspect.pickle", "p", "view('pickle')", "Views", "pickle", "Every global that its pickles name"),
    Key("inspect.findings", "f", "view('findings')", "Views", "findings", "What is wrong or odd"),
    Key("inspect.filter", "slash", "filter", "Inspect", "filter", "Filter as you type; Esc clears", in_footer=True),
    Key("inspect.sort", "z", "sort", "Inspect", "sort", "Sort by the next column; a click on a title too",
        in_footer=True),
    Key("inspect.reverse", "Z", "reverse", "Inspect", "reverse", "Turn the order around"),
    Key("inspect.statistics", "x", "statistics", "Inspect", "statistics", "Min, max, mean, NaN, histogram",
        in_footer=True),
    Key("inspect.validate", "v", "validate", "Inspect", "validate", "Check this checkpoint at every level",
        in_footer=True),
    Key("inspect.open", "right,l", "open_branch", "Inspect", "open branch", "Open the branch under the cursor"),
    Key("inspect.close", "left,h", "close_branch", "Inspect", "close branch", "Close it, or go to what holds it"),
    Key("inspect.leave", "escape", "leave", "Inspect", "back", "Stop, clear the filter, or go back",
        in_footer=True),
)  # fmt: skip

DIFF_KEYS: tuple[Key, ...] = (
    Key("diff.settings", "s", "view('settings')", "Views", "settings", "Hyperparameters that differ"),
    Key("diff.tensors", "n", "view('tensors')", "Views", "tensors", "Tensors, most changed first"),
    Key("diff.modules", "m", "view('modules')", "Views", "modules", "Modules, most changed first; Enter: its tensors"),
    Key("diff.deeper", "plus", "deeper(1)", "Compare", "deeper", "The modules inside these", in_footer=True),
    Key("diff.shallower", "minus", "deeper(-1)", "Compare", "up", "The modules around these", in_footer=True),
    Key("diff.other", "o", "view('other')", "Views", "other", "Everything else that differs"),
    Key("diff.filter", "slash", "filter", "Compare", "filter", "Only names that hold these words; Esc clears",
        in_footer=True),
    Key("diff.sort", "z", "sort", "Compare", "sort", "Sort by change, name or size; a click on a title too",
        in_footer=True),
    Key("diff.reverse", "Z", "reverse", "Compare", "reverse", "Turn the order around"),
    Key("diff.same", "a", "toggle_same", "Compare", "all/changed", "Show tensors that are the same too, or not",
        in_footer=True),
    Key("diff.swap", "x", "swap", "Compare", "swap", "Compare the other way round", in_footer=True),
    Key("diff.leave", "escape", "leave", "Compare", "stop/back", "Stop comparing, or go back", in_footer=True),
)  # fmt: skip

VALIDATE_KEYS: tuple[Key, ...] = (
    Key("validate.inspect", "i", "inspect", "Validate", "inspect", "Look inside the checkpoint under the cursor",
        in_footer=True),
    Key("validate.next", "tab", "app.focus_next", "Validate", "files/findings", "Go between files and findings",
        in_footer=True),
    Key("validate.again", "v", "again", "Validate", "again", "Check everything again", in_footer=True),
    Key("validate.leave", "escape", "leave", "Validate", "stop/back", "Stop checking, or go back", in_footer=True),
)  # fmt: skip

LINES_KEYS: tuple[Key, ...] = (
    Key("lines.filter", "slash", "filter", "Lines", "filter", "Only lines that hold these words; Esc clears",
        in_footer=True),
    Key("lines.next", "n", "next(1)", "Lines", "next", "The next line that was found, among all lines"),
    Key("lines.before", "N", "next(-1)", "Lines", "before", "The one before that was found"),
    Key("lines.go_to", "colon", "go_to", "Lines", "go to", "Go to a step, a time or a line", in_footer=True),
    Key("lines.detail", "o", "detail", "Lines", "whole line", "Show the line under the cursor in full, or not",
        in_footer=True),
    Key("lines.follow", "F", "follow", "Lines", "newest", "Go to the newest line and stay there", in_footer=True),
    Key("lines.leave", "escape", "leave", "Lines", "back", "Stop, clear the filter, or go back", in_footer=True),
)  # fmt: skip

EVENTS_KEYS: tuple[Key, ...] = (
    Key("events.bad", "b", "bad_lines", "Lines", "bad lines", "Only the lines that are not events, or all again",
        in_footer=True),
    Key("events.kinds", "f", "kinds", "Lines", "kinds", "Count the events by kind, and show only one", in_footer=True),
)  # fmt: skip

ALERTS_KEYS: tuple[Key, ...] = (
    Key("alerts.acknowledge", "space", "acknowledge", "Alerts", "seen",
        "Acknowledge it: out of the header; again: not seen", in_footer=True),
    Key("alerts.all", "X", "acknowledge_all", "Alerts", "all seen", "Acknowledge every one", in_footer=True),
    Key("alerts.leave", "escape,a", "leave", "Alerts", "back", "Back to where you were", in_footer=True),
)  # fmt: skip

ADVICE_KEYS: tuple[Key, ...] = (
    Key("advice.leave", "escape,A", "leave", "Advice", "back", "Back to where you were", in_footer=True),
)

HELP_KEYS: tuple[Key, ...] = (
    Key("help.filter", "slash", "filter", "Help", "filter", "Only keys that hold these words", in_footer=True),
    Key("help.leave", "escape,question_mark,q", "leave", "Help", "back", "Back to where you were", in_footer=True),
)

RESUME_KEYS: tuple[Key, ...] = (
    # The list binds Enter too; in this dialog it means one thing only.
    Key("resume.start", "enter", "start", "Resume", "start", "Start the training as shown, detached",
        is_act=True, in_footer=True, has_priority=True),
    Key("resume.edit", "e", "edit", "Resume", "edit", "Change the setting under the cursor for this resume",
        in_footer=True),
    Key("resume.source", "f", "source", "Resume", "from", "From which one: auto, latest, best, that of the list",
        in_footer=True),
    Key("resume.filter", "slash", "filter", "Resume", "filter", "Only settings that hold these words", in_footer=True),
    Key("resume.command", "m", "command", "Resume", "command", "The whole command or the table; there e types your own",
        in_footer=True),
    Key("resume.reset", "backspace,delete", "reset", "Resume", "reset", "As recorded: take the change back",
        in_footer=True),
    Key("resume.only_changed", "o", "only_changed", "Resume", "changed", "Only what is changed, or all",
        in_footer=True),
    Key("resume.forget", "K", "forget", "Resume", "forget command", "Forget the command that is kept, or keep it again",
        is_act=True, in_footer=True),
    Key("resume.reset_all", "X", "reset_all", "Resume", "reset all", "All as recorded: take every change back"),
    Key("resume.leave", "escape", "leave", "Resume", "leave", "Start nothing", in_footer=True),
)  # fmt: skip

MOMENT_KEYS: tuple[Key, ...] = (
    Key("moment.leave", "escape,w,enter", "leave", "Moment", "back", "Back to the curves", in_footer=True),
    Key("moment.go", "g", "go", "Moment", "go to it", "Select that checkpoint in the list", in_footer=True),
    Key("moment.up", "up,k", "scroll_body(-1)", "Moment", "up", "Earlier lines"),
    Key("moment.down", "down,j", "scroll_body(1)", "Moment", "down", "Later lines"),
)  # fmt: skip

# All of them before the filter's own, which has the focus.
METRIC_KEYS: tuple[Key, ...] = (
    Key("metric.show", "enter", "show", "Metric", "show", "Show it in the main chart", in_footer=True,
        has_priority=True),
    Key("metric.pin", "M", "pin", "Metric", "pin", "Pin it under the chart, or unpin it", in_footer=True,
        has_priority=True),
    Key("metric.up", "up", "move(-1)", "Metric", "up", "The metric above", has_priority=True),
    Key("metric.down", "down", "move(1)", "Metric", "down", "The metric below", has_priority=True),
    Key("metric.page_up", "pageup", "move(-10)", "Metric", "page up", "Ten up", has_priority=True),
    Key("metric.page_down", "pagedown", "move(10)", "Metric", "page down", "Ten down", has_priority=True),
    Key("metric.leave", "escape", "leave", "Metric", "leave", "Change nothing", in_footer=True, has_priority=True),
)  # fmt: skip

HISTORY_KEYS: tuple[Key, ...] = (
    Key("history.undo", "u", "undo", "Deeds", "take it back", "Take it back, with all that was done after it",
        is_act=True, in_footer=True),
    Key("history.redo", "r", "redo", "Deeds", "redo", "Do again what was taken back last", is_act=True,
        in_footer=True),
    Key("history.gc", "F", "gc", "Deeds", "free space", "Show what could be freed, file by file, and ask", is_act=True,
        in_footer=True),
    Key("history.leave", "escape", "leave", "Deeds", "leave", "Back to where you were", in_footer=True),
)  # fmt: skip

# Of every dialog that asks, tells or waits; each takes the rows that mean something in it.
DIALOG_KEYS: tuple[Key, ...] = (
    Key("dialog.leave", "escape", "leave", "Dialogs", "leave", "Leave it: nothing is done", in_footer=True),
    Key("dialog.yes", "y", "yes", "Dialogs", "yes", "Do what is asked about", is_act=True),
    Key("dialog.no", "n", "leave", "Dialogs", "no", "Do not do it"),
    Key("dialog.choose", "space", "choose", "Dialogs", "choose", "Free this one, or keep it", is_act=True),
    Key("dialog.again", "r", "again", "Dialogs", "read all", "Plan it again, and read what was only remembered",
        is_act=True),
    Key("dialog.copy", "c", "copy", "Dialogs", "copy", "Copy what it says to your clipboard (OSC 52)"),
    Key("dialog.output", "o", "output", "Dialogs", "output", "What the training printed, all of it"),
    Key("dialog.page_up", "pageup", "scroll_body(-1)", "Dialogs", "page up", "Earlier lines"),
    Key("dialog.page_down", "pagedown", "scroll_body(1)", "Dialogs", "page down", "Later lines"),
)  # fmt: skip

# Rows by screen: the names of app.SCREENS, `app` for those that work everywhere, `list` for every list.
TABLES: Mapping[str, tuple[Key, ...]] = {
    "overview": OVERVIEW_KEYS,
    "runs": RUNS_KEYS,
    "compare": COMPARE_KEYS,
    "inspect": INSPECT_KEYS,
    "validate": VALIDATE_KEYS,
    "diff": DIFF_KEYS,
    "events": (LINES_KEYS[0], *EVENTS_KEYS, *LINES_KEYS[1:]),
    "log": LINES_KEYS,
    "alerts": ALERTS_KEYS,
    "advice": ADVICE_KEYS,
    "help": HELP_KEYS,
    "resume": RESUME_KEYS,
    "history": HISTORY_KEYS,
    "moment": MOMENT_KEYS,
    "metric": METRIC_KEYS,
    "dialog": DIALOG_KEYS,
    "app": APP_KEYS,
    "list": LIST_KEYS,
}

# While they mean something else in a list: the chart's cursor has them first.
_PRIORITY = frozenset({"left", "right", "shift+left", "shift+right"})

# Textual's own are glyphs that not every font has.
_DISPLAYED = {"enter": "Enter", "escape": "Esc", "backspace": "Bksp", "tab": "Tab", "space": "Space"}


def bindings_of(keys: Iterable[Key]) -> list[BindingType]:
    """Textual's bindings for rows of the table."""
    from textual.binding import Binding

    return [
        Binding(
            key.key, key.action, key.label, show=key.in_footer, tooltip=key.tooltip, id=key.id,
            priority=key.has_priority or key.key in _PRIORITY, key_display=_DISPLAYED.get(key.key),
        )
        for key in keys
    ]  # fmt: skip


def dialog_bindings(*names: str) -> list[BindingType]:
    """Of a dialog, which hides the app's own: its rows of DIALOG_KEYS, and what works everywhere but for leaving."""
    from textual.binding import Binding

    own = bindings_of(row for row in DIALOG_KEYS if row.id.removeprefix("dialog.") in names)
    rows = [row for row in APP_KEYS if row.id not in ("app.quit", "app.palette")]
    return [
        *own,
        *(Binding(row.key, f"app.{row.action}", row.label, show=False, tooltip=row.tooltip, id=row.id) for row in rows),
        Binding("ctrl+c", "app.help_quit", show=False, system=True),
    ]


def key_words(key: str) -> str:
    """How a key is written for a person: `?`, `+ =`, `shift+left`."""
    names = {
        "question_mark": "?", "plus": "+", "equals_sign": "=", "minus": "-", "comma": ",", "less_than_sign": "<",
        "full_stop": ".", "colon": ":", "greater_than_sign": ">", "slash": "/", "escape": "Esc", "enter": "Enter",
        "space": "Space", "backspace": "Bksp", "delete": "Del", "tab": "Tab", "pageup": "PgUp", "pagedown": "PgDn",
        "left": "←", "right": "→", "left_square_bracket": "[", "right_square_bracket": "]",
    }  # fmt: skip
    return " ".join(names.get(one, one) for one in key.split(","))


# A name that is in no row stands for itself: the dialogs'.
def table_name(screen: object) -> str:
    """What a screen is called in TABLES."""
    name = type(screen).__name__
    for end in ("Screen", "Dialog", "Picker"):
        name = name.removesuffix(end)
    return name.lower()


def place_of(key_id: str | None) -> int:
    """Where a row stands in the whole table: what is more important comes first."""
    return _PLACES.get(key_id or "", len(_PLACES))


_PLACES = {
    key_id: place for place, key_id in enumerate(dict.fromkeys(key.id for table in TABLES.values() for key in table))
}


def is_act(action: str) -> bool:
    """Whether an action changes something, so that --readonly takes it away."""
    return action in {key.action for table in TABLES.values() for key in table if key.is_act}
