"""Every key there is, on one screen that scrolls: made from the same table as the bindings, a person's own keys heard.

First the keys of where a person came from; `/` looks for a word in all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widgets import Input

from ckpt_tui.text import cell_width, plural, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.keys import Key, key_words
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.widgets.key_line import KeyLine
from ckpt_tui.tui.widgets.rule import RuleLine
from ckpt_tui.tui.widgets.steady_input import SteadyInput
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList
from ckpt_tui.tui.widgets.words import Words

# Screens whose keys follow those of where a person is.
FILE_SCREENS = ("inspect", "validate", "diff", "events", "log")
_MAX_KEY_CELLS = 13

Row = tuple[str, str, str]  # key, label, tooltip; a heading has the last only


def rows(
    readonly: bool = False,
    *,
    names: Sequence[str] = ("overview", *FILE_SCREENS),
    behind: str = "overview",
    keymap: Mapping[str, str] | None = None,
    also: Iterable[Key] = (),
) -> list[Row]:
    """The whole help, heading by heading. names: screens that can be reached, of keys.TABLES; behind: where a person
    came from. also: its keys when it is in no table."""
    found: list[Row] = []
    told: set[str] = set()
    for title, table in _tables(names, behind, tuple(also)):
        lines = [
            (key_words((keymap or {}).get(key.id, key.key)), key.label, key.tooltip)
            for key in table
            if not (readonly and key.is_act)
        ]
        if lines and title not in told:
            told.add(title)
            found += [("", "", title), *lines, ("", "", "")]
    return found[:-1]


def _tables(names: Sequence[str], behind: str, also: tuple[Key, ...]) -> Iterator[tuple[str, tuple[Key, ...]]]:
    from ckpt_tui.tui.app import SCREENS

    titles = {row.name: row.title for row in SCREENS}
    here = keys.TABLES.get(behind, also)
    yield from _by_group(here) if behind == "overview" else [(_title(behind, titles), here)]
    yield "Everywhere", keys.TABLES["app"]
    yield "Lists", keys.TABLES["list"]
    for name in names:
        if name != behind and name in keys.TABLES:
            yield _title(name, titles), keys.TABLES[name]


def _title(name: str, titles: Mapping[str, str]) -> str:
    return f"On the screen: {titles.get(name, name.capitalize() or 'this one')}"


def _by_group(table: Iterable[Key]) -> Iterator[tuple[str, tuple[Key, ...]]]:
    """The overview has many keys: they are told in their groups, in the table's order."""
    groups: dict[str, list[Key]] = {}
    for key in table:
        groups.setdefault(key.group, []).append(key)
    for group, members in groups.items():
        yield group, tuple(members)


def found_in(rows: Sequence[Row], words: str) -> list[Row]:
    """Rows that hold all the words, under their headings."""
    wanted = words.lower().split()
    if not wanted:
        return list(rows)
    found: list[Row] = []
    heading: Row | None = None
    for row in rows:
        if not row[0] and not row[1]:
            heading = row
            continue
        text = f"{row[0]} {' '.join(row[1:])} {heading[2] if heading else ''}".lower()
        if all(word in text for word in wanted):
            if heading is not None:
                found += [("", "", ""), heading] if found else [heading]
                heading = None
            found.append(row)
    return found


def keys_of_bindings(screen: Screen[Any]) -> list[Key]:
    """Of a screen that is in no table: what it says of itself."""
    found: dict[str, Key] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        key_id = binding.id or "app."  # those without an id are Textual's own, in its words
        is_own = active.node is screen and not binding.system and not key_id.startswith("app.")
        if is_own and binding.description and binding.action not in found:
            found[binding.action] = Key(
                "", binding.key, binding.action, "", binding.description, binding.tooltip or binding.description
            )
    return list(found.values())


def cells_of(row: Row) -> tuple[Cell, ...]:
    key, label, tooltip = row
    if not key and not label:
        return ((tooltip, "strong"),)
    return ((key, "accent"), label, (tooltip, "dim"))


class HelpScreen(Screen[None]):
    """Leaves with Esc, ? or q."""

    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.HELP_KEYS)
    AUTO_FOCUS = "#help_list"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (60, "-normal")]  # noqa: RUF012 - Textual's way
    CSS = """
    HelpScreen VirtualList { height: 1fr; }
    HelpScreen #filter { display: none; }
    HelpScreen #help_detail { display: none; height: 2; padding: 0 2; }
    HelpScreen.-narrow #help_detail { display: block; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[Row] = []

    def compose(self) -> ComposeResult:
        app = app_of(self)
        readonly = bool(getattr(app, "readonly", False))
        behind = app.screen_stack[-2] if len(app.screen_stack) > 1 else self
        name = keys.table_name(behind)
        names = getattr(app, "reachable_screens", FILE_SCREENS)
        if getattr(app, "has_overview", True):
            names = ("overview", *names)
        also = () if name in keys.TABLES else keys_of_bindings(behind)
        self._rows = rows(readonly, names=names, behind=name, keymap=app.settings.keymap, also=also)
        key_cells = min(max((cell_width(row[0]) for row in self._rows), default=3), _MAX_KEY_CELLS)
        label_cells = max((cell_width(row[1]) for row in self._rows), default=5)
        columns = (Column("key", key_cells), Column("", label_cells), Column("", 26, grows=True, priority=1))
        yield RuleLine(unicode=app.look.unicode, id="help_rule")
        yield SteadyInput(id="filter", placeholder="words to look for", compact=True)
        yield VirtualList[Row](columns, cells_of, self._rows, show_header=False, id="help_list",
                               empty_text="no key has these words; Esc shows all")  # fmt: skip
        yield Words(id="help_detail")
        yield KeyLine()

    def on_mount(self) -> None:
        self._list.cursor = 1  # the first is a heading, which shall be seen
        self.call_after_refresh(self._list.scroll_home, animate=False, force=True)
        self._show_rule()

    @on(VirtualList.Moved)
    def on_resize(self) -> None:
        """Where the columns have no room for what a key does, it is said of the one under the cursor."""
        row = self._list.cursor_row
        width = max(self.size.width - 4, 10)
        words = row[2] if row is not None and (row[0] or row[1]) else ""
        self.query_one("#help_detail", Words).update(paragraph(words, width, "dim"))

    def _show_rule(self) -> None:
        shown = sum(1 for row in self._list.rows if row[0] or row[1])
        words = self.query_one("#filter", Input).value
        right = f"{plural(shown, 'key')} with: {safe_text(words, 40)}" if words else plural(shown, "key")
        self.query_one("#help_rule", RuleLine).set("keys", [(right, "accent" if words else "dim")])

    @property
    def _list(self) -> VirtualList[Row]:
        return self.query_one("#help_list", VirtualList)

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.styles.display = "block"
        box.focus()

    @on(Input.Changed, "#filter")
    def _filter(self, event: Input.Changed) -> None:
        self._list.set_rows(found_in(self._rows, event.value))
        self._show_rule()

    @on(Input.Submitted, "#filter")
    def _filtered(self) -> None:
        self._list.focus()

    def action_leave(self) -> None:
        box = self.query_one("#filter", Input)
        if box.value or box.display:
            box.value = ""
            box.styles.display = "none"
            self._list.focus()
            return
        self.dismiss(None)
