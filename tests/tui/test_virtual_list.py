"""The virtual list: what it draws, how little of it, and that nothing hostile gets through."""

from __future__ import annotations

import pytest
from textual.app import App, ComposeResult

from ckpt_tui.text import cell_width
from ckpt_tui.tui.widgets.virtual_list import Column, VirtualList, fit_cell, lay_out

COLUMNS = (
    Column("name", 10, grows=True, keep="middle"),
    Column("shape", 8, align="right"),
    Column("note", 6, priority=1),
)


class ListApp(App[None]):
    def __init__(self, rows: list[str]) -> None:
        super().__init__()
        self.rows = rows
        self.messages: list[tuple[str, int]] = []

    def compose(self) -> ComposeResult:
        yield VirtualList(COLUMNS, lambda row: (row, ("8 x 8", "dim"), "note"), self.rows, empty_text="nothing here")

    @property
    def virtual_list(self) -> VirtualList[str]:
        return self.query_one(VirtualList)

    def on_virtual_list_moved(self, message: VirtualList.Moved) -> None:
        self.messages.append(("moved", message.index))

    def on_virtual_list_selected(self, message: VirtualList.Selected) -> None:
        self.messages.append(("selected", message.index))

    def lines(self) -> list[str]:
        return [self.virtual_list.render_line(y).text for y in range(self.virtual_list.size.height)]


def test_columns_go_by_priority_and_the_growing_one_takes_the_rest() -> None:
    assert lay_out(COLUMNS, 40) == ((0, 22), (1, 8), (2, 6))
    assert lay_out(COLUMNS, 24) == ((0, 14), (1, 8))
    assert lay_out(COLUMNS, 15) == ((0, 5), (1, 8))


def test_a_column_grows_to_its_widest_text_and_leaves_the_rest_to_others() -> None:
    columns = (Column("a", 4, grows=True, most=20), Column("b", 4, grows=True, most=6), Column("c", 5))
    assert lay_out(columns, 100) == ((0, 20), (1, 6), (2, 5)), "blank after the last, not between them"
    assert lay_out(columns, 31) == ((0, 16), (1, 6), (2, 5)), "what `b` does not need is for `a`"
    assert lay_out(columns, 21) == ((0, 6), (1, 6), (2, 5))
    assert lay_out(columns, 17) == ((0, 4), (1, 4), (2, 5))


@pytest.mark.parametrize("keep", ["start", "end", "middle"])
@pytest.mark.parametrize("text", ["", "a", "model.h.0.attn.qkv.weight", "模型.重み.層.注意", "[/x]\x1b]52;c;\x07‮y"])
def test_a_cell_has_exactly_its_width_and_no_control_character(text: str, keep: str) -> None:
    for width in range(1, 30):
        fitted = fit_cell(text, width, keep=keep)
        assert cell_width(fitted) == width
        assert fitted.isprintable()


def test_middle_keeps_both_ends() -> None:
    assert fit_cell("model.transformer.h.0.attn.qkv.weight", 20, keep="middle") == "model.…tn.qkv.weight"


async def test_only_visible_lines_are_drawn_and_a_cursor_move_redraws_two() -> None:
    app = ListApp([f"row {index}" for index in range(100_000)])
    async with app.run_test(size=(60, 20)) as pilot:
        assert app.virtual_list.num_lines_rendered <= 3 * 20
        app.virtual_list.focus()
        await pilot.pause()
        app.virtual_list.num_lines_rendered = 0
        await pilot.press("down")
        await pilot.pause()
        assert app.virtual_list.num_lines_rendered == 2
        assert app.messages[-1] == ("moved", 1)
        await pilot.press("end")
        await pilot.pause()
        assert app.lines()[-1].startswith("> row 99999")
        assert app.lines()[0].startswith("  name")
        await pilot.press("enter")
        await pilot.pause()
        assert app.messages[-1] == ("selected", 99_999)


async def test_mouse_moves_the_cursor_then_selects_and_the_wheel_scrolls() -> None:
    app = ListApp([f"row {index}" for index in range(50)])
    async with app.run_test(size=(60, 10)) as pilot:
        await pilot.click(VirtualList, offset=(4, 3))
        assert app.virtual_list.cursor == 2
        await pilot.click(VirtualList, offset=(4, 3))
        assert app.messages[-1] == ("selected", 2)
        app.virtual_list.action_move_to_end()
        await pilot.pause()
        await pilot.click(VirtualList, offset=(4, 1))
        assert app.virtual_list.cursor == 41


async def test_equal_rows_are_not_drawn_again_and_the_cursor_stays_on_its_row() -> None:
    app = ListApp([f"row {index}" for index in range(50)])
    async with app.run_test(size=(60, 10)) as pilot:
        app.virtual_list.cursor = 3
        await pilot.pause()
        app.virtual_list.num_lines_rendered = 0
        app.virtual_list.set_rows(["row 0", "changed", *(f"row {index}" for index in range(2, 50))])
        await pilot.pause()
        assert app.virtual_list.num_lines_rendered == 1
        app.virtual_list.set_rows(["row 3", "row 9"])
        await pilot.pause()
        assert app.virtual_list.cursor_row == "row 3"
        app.virtual_list.set_rows([])
        await pilot.pause()
        assert app.virtual_list.cursor_row is None
        assert "nothing here" in app.lines()[1]


async def test_a_list_that_grows_is_followed_only_from_its_last_row() -> None:
    rows = [f"row {index}" for index in range(30)]
    app = ListApp(rows)
    async with app.run_test(size=(60, 10)) as pilot:
        rows.append("new")
        app.virtual_list.rows_grew()
        await pilot.pause()
        assert app.virtual_list.cursor == 0
        app.virtual_list.action_move_to_end()
        rows.append("newer")
        app.virtual_list.rows_grew()
        await pilot.pause()
        assert app.virtual_list.cursor_row == "newer"
        assert app.lines()[-1].startswith("> newer")


async def test_hostile_names_reach_no_terminal() -> None:
    hostile = ["[/closing].weight", "\x1b]52;c;aGk=\x07", "nul\x00", "‮evil", "x" * 5000, "[@click=app.quit]x[/]"]
    app = ListApp(hostile)
    async with app.run_test(size=(40, 12)) as pilot:
        await pilot.pause()
        lines = app.lines()
        assert all(line.isprintable() for line in lines)
        assert "[/closing]" in lines[1]
        await pilot.resize_terminal(5, 3)
        await pilot.pause()
