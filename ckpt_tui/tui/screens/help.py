"""Every key there is, on one screen that scrolls: made from the same tables as the bindings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widgets import Footer

from ckpt_tui.tui import keys
from ckpt_tui.tui.widgets.rule import RuleLine
from ckpt_tui.tui.widgets.virtual_list import Cell, Column, VirtualList

if TYPE_CHECKING:
    from ckpt_tui.tui.app import CkptTuiApp

COLUMNS = (Column("key", 9), Column("", 15), Column("", 20, grows=True))
FILE_SCREENS = ("inspect", "validate", "diff", "events", "log")
Row = tuple[str, str, str]  # key, label, tooltip; a heading has the last only


def rows(
    readonly: bool = False, *, has_overview: bool = True, names: Sequence[str] = FILE_SCREENS, behind: str = ""
) -> list[Row]:
    """The whole help, heading by heading. has_overview: there is a run behind it. names, behind: of SCREENS."""
    found: list[Row] = []
    by_group: dict[str, list[Row]] = {}
    others: dict[str, list[Row]] = {}
    for name, title, lines in _file_screens(names):
        (by_group if name == behind else others)[title] = lines  # first the keys of where a person is
    for key in (*(keys.OVERVIEW_KEYS if has_overview else ()), *keys.APP_KEYS):
        if not (readonly and key.is_act):
            by_group.setdefault(key.group, []).append((keys.key_words(key.key), key.label, key.tooltip))
    by_group["Lists"] = [(keys.key_words(key.key), key.label, key.tooltip) for key in keys.LIST_KEYS]
    for group, lines in (by_group | others).items():
        found += [("", "", group), *lines, ("", "", "")]
    return found[:-1]


def _file_screens(names: Sequence[str]) -> Iterator[tuple[str, str, list[Row]]]:
    from ckpt_tui.tui.app import SCREENS

    for screen in SCREENS:
        if screen.name in names:
            table = keys.TABLES.get(screen.name, ())
            yield (
                screen.name,
                f"On the screen: {screen.title}",
                [(keys.key_words(row.key), row.label, row.tooltip) for row in table],
            )


def _name_of(screen: Screen[Any]) -> str:
    """What a screen is called in SCREENS."""
    from ckpt_tui.tui.app import SCREENS

    name = type(screen).__name__
    return next((row.name for row in SCREENS if row.class_path.endswith(f":{name}")), "")


def cells_of(row: Row) -> tuple[Cell, ...]:
    key, label, tooltip = row
    if not key and not label:
        return ("", "", (tooltip, "strong"))
    return ((key, "accent"), label, (tooltip, "dim"))


class HelpScreen(Screen[None]):
    """Leaves with Esc, ? or q."""

    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.HELP_KEYS)
    CSS = "HelpScreen VirtualList { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield RuleLine(unicode=self.cockpit.look.unicode, id="help_rule")
        yield VirtualList[Row](COLUMNS, cells_of, show_header=False, id="help_list")
        yield Footer(compact=True, show_command_palette=False)

    @property
    def cockpit(self) -> CkptTuiApp:
        app: Any = self.app
        return app  # type: ignore[no-any-return]

    def on_mount(self) -> None:
        self.query_one("#help_rule", RuleLine).set("keys", [("Esc goes back", "dim")])
        help_list = self.query_one("#help_list", VirtualList)
        has_overview = getattr(self.app, "has_overview", True)
        names = getattr(self.app, "reachable_screens", FILE_SCREENS)
        behind = _name_of(self.app.screen_stack[-2])
        help_list.set_rows(rows(self.cockpit.readonly, has_overview=has_overview, names=names, behind=behind))
        help_list.focus()

    def action_leave(self) -> None:
        self.dismiss(None)
