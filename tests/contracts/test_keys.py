"""One table of keys, held against every screen: what is bound is in it, and what is in it works."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.screen import Screen

import ckpt_tui.tui.dialogs
import ckpt_tui.tui.screens
from ckpt_tui.text import cell_width
from ckpt_tui.tui import keys
from ckpt_tui.tui.app import SCREENS, CkptTuiApp
from ckpt_tui.tui.inspect_app import InspectApp
from ckpt_tui.tui.keymap import key_name, rows_on
from ckpt_tui.tui.widgets.key_line import _is_needed, fitting
from ckpt_tui.tui.widgets.virtual_list import VirtualList

# Dialogs that share the rows of `dialog`; what they bind besides moves the focus among their buttons.
_DIALOGS = {"ConfirmDialog", "GcDialog", "PlanDialog", "ErrorDialog", "PickDialog", "StopDialog", "WorkingDialog"}
_OWN_KEYS = _DIALOGS | {"MetricPicker", "MomentDialog"}  # their rows, and those of a dialog


def screen_classes() -> Iterator[type[Screen[Any]]]:
    """Every screen and dialog of ours that can be opened."""
    for package in (ckpt_tui.tui.screens, ckpt_tui.tui.dialogs):
        for module_info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            module = importlib.import_module(module_info.name)
            for name, found in vars(module).items():
                is_ours = inspect.isclass(found) and issubclass(found, Screen) and found.__module__ == module.__name__
                if is_ours and not name.startswith("_") and name not in ("WorkScreen", "LinesScreen"):
                    yield found


CLASSES = list(screen_classes())
IN_TABLE = [one for one in CLASSES if one.__name__ not in _OWN_KEYS]


def name_of(found: type[Screen[Any]]) -> str:
    return keys.table_name(found.__new__(found))


def bindings(found: type[Any]) -> list[Binding]:
    """What a class and ours above it bind, as Textual merges it."""
    merged: list[Binding] = []
    for base in found.__mro__:
        if base.__module__.startswith("ckpt_tui."):
            merged += [one for one in base.__dict__.get("BINDINGS", []) if isinstance(one, Binding)]
    return merged


def test_every_row_of_screens_has_rows_in_the_table() -> None:
    assert {row.name for row in SCREENS} - set(keys.TABLES) == set()


@pytest.mark.parametrize("found", IN_TABLE, ids=lambda one: one.__name__)
def test_what_a_screen_binds_is_its_table_and_nothing_else(found: type[Screen[Any]]) -> None:
    table = keys.TABLES[name_of(found)]
    assert {(one.id, one.key, one.action) for one in bindings(found)} == {(k.id, k.key, k.action) for k in table}


@pytest.mark.parametrize("found", [one for one in CLASSES if one.__name__ in _DIALOGS], ids=lambda one: one.__name__)
def test_what_a_dialog_binds_can_be_moved_to_other_keys(found: type[Screen[Any]]) -> None:
    rows = {(key.id, key.key, key.action) for key in keys.DIALOG_KEYS}
    own = [one for one in bindings(found) if not one.action.startswith("app.")]
    assert {(one.id, one.key, one.action) for one in own} <= rows
    assert "dialog.leave" in {one.id for one in own}


@pytest.mark.parametrize("name", ["MetricPicker", "MomentDialog"])
def test_what_a_dialog_with_keys_of_its_own_binds_is_its_table(name: str) -> None:
    found = next(one for one in CLASSES if one.__name__ == name)
    own = [one for one in bindings(found) if not one.action.startswith("app.")]
    assert {(one.id, one.key, one.action) for one in own} == {
        (k.id, k.key, k.action) for k in keys.TABLES[name_of(found)]
    }


def test_what_the_apps_and_the_lists_bind_is_the_table() -> None:
    assert [one.id for one in bindings(CkptTuiApp)] == [key.id for key in keys.APP_KEYS]
    assert [one.id for one in bindings(VirtualList)] == [key.id for key in keys.LIST_KEYS]
    assert {one.id for one in bindings(InspectApp)} < {key.id for key in keys.APP_KEYS}


def test_an_id_is_one_row() -> None:
    """The same id on several screens is the same key for the same action, so that one line of a person's moves it."""
    rows = {(key.id, key.key, key.action) for table in keys.TABLES.values() for key in table}
    twice = [key_id for key_id, number in Counter(row[0] for row in rows).items() if number > 1]
    assert twice == []
    assert all("." in key_id and key_id.islower() for key_id, _, _ in rows)


# Where a screen takes a key of the app or of a list on purpose, it is for the same: leaving, opening.
_MEANT = {
    ("dialog.copy", "app.copy"),
    ("dialog.page_down", "list.page_down"),
    ("dialog.page_up", "list.page_up"),
    ("help.leave", "app.help"),
    ("metric.down", "list.down"),
    ("metric.page_down", "list.page_down"),
    ("metric.page_up", "list.page_up"),
    ("metric.show", "list.open"),
    ("metric.up", "list.up"),
    ("moment.down", "list.down"),
    ("moment.go", "list.first"),
    ("moment.leave", "list.open"),
    ("moment.up", "list.up"),
    ("help.leave", "app.quit"),
    ("resume.start", "list.open"),
    ("runs.open", "list.open"),
}


@pytest.mark.parametrize("screen", keys.TABLES)
def test_no_key_means_two_things_on_a_screen(screen: str) -> None:
    taken: dict[str, keys.Key] = {}
    for row in rows_on(screen):
        for pressed in row.key.split(","):
            other = taken.setdefault(pressed, row)
            assert other is row or (other.id, row.id) in _MEANT, f"{pressed}: {other.id} and {row.id}"


def test_every_key_is_one_that_a_terminal_sends() -> None:
    for table in keys.TABLES.values():
        for row in table:
            for pressed in row.key.split(","):
                assert key_name(pressed) == pressed, row.id


def owners(screen: str) -> list[type[Any]]:
    special: dict[str, list[type[Any]]] = {"app": [CkptTuiApp], "list": [VirtualList]}
    if screen == "dialog":
        return [one for one in CLASSES if one.__name__ in _DIALOGS]
    return special.get(screen) or [one for one in CLASSES if name_of(one) == screen]


@pytest.mark.parametrize("screen", keys.TABLES)
def test_every_action_is_there(screen: str) -> None:
    classes = owners(screen)
    assert classes, f"no screen has the rows of {screen!r}"
    for row in keys.TABLES[screen]:
        target, _, name = row.action.partition("(")[0].rpartition(".")
        having = [one for one in classes if screen != "dialog" or any(b.id == row.id for b in bindings(one))]
        assert having, f"no dialog binds {row.id}"
        for owner in [CkptTuiApp] if target == "app" else having:
            assert callable(getattr(owner, f"action_{name}", None)), f"{owner.__name__}.action_{name} ({row.id})"
            if "(" in row.action:
                arguments = ast.literal_eval(f"({row.action.partition('(')[2][:-1]},)")
                inspect.signature(getattr(owner, f"action_{name}")).bind(None, *arguments)


@pytest.mark.parametrize("screen", keys.TABLES)
def test_a_row_can_be_read_in_help_and_footer(screen: str) -> None:
    for row in keys.TABLES[screen]:
        assert row.label, row.id
        assert row.tooltip, row.id
        assert cell_width(row.label) <= 15, row.id
        assert cell_width(row.tooltip) <= 56, f"the help cuts it at 80 columns: {row.id}"
        assert row.tooltip[0].isupper(), row.id


def test_what_changes_something_is_an_act_and_goes_with_readonly() -> None:
    """By what it does: an action that reaches for `acts` is marked as one."""
    for found in CLASSES:
        source = Path(inspect.getfile(found)).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("action_"):
                reaches = any(isinstance(n, ast.Attribute) and n.attr == "acts" for n in ast.walk(node))
                if reaches:
                    assert keys.is_act(node.name.removeprefix("action_")), f"{found.__name__}.{node.name}"


def test_every_footer_names_the_way_out_and_the_help_at_40_columns() -> None:
    for screen, table in keys.TABLES.items():
        shown = {row.id for row in rows_on(screen) if row.in_footer}
        assert {"app.help", "app.quit"} <= shown
        needed = [row for row in rows_on(screen) if row.in_footer and (row.id.endswith(".leave") or row.group == "App")]
        width = sum(len(keys.key_words(row.key.split(",")[0])) + 1 + len(row.label) + 2 for row in needed)
        assert width <= 40, screen
        assert table


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
@pytest.mark.parametrize("screen", keys.TABLES)
def test_no_key_is_cut_on_the_last_line_and_the_most_important_stay(screen: str, width: int) -> None:
    shown = sorted((row for row in rows_on(screen) if row.in_footer), key=lambda row: keys.place_of(row.id))
    drawn = [(row.id, row.key, keys.key_words(row.key.split(",")[0]), row.label) for row in shown]
    kept = fitting(drawn, width)
    assert len("  ".join(f"{key} {label}" for _, _, key, label in kept)) <= width
    assert [one for one in drawn if one in kept] == kept, "in the order of the table"
    assert width < 40 or {"app.help", "app.quit"} <= {one[0] for one in kept}
    if len(kept) < len(drawn):
        last_of_own = max((drawn.index(one) for one in kept if not _is_needed(one[0])), default=-1)
        assert all(_is_needed(one[0]) or one in kept for one in drawn[: last_of_own + 1]), (
            "what matters least goes first"
        )
