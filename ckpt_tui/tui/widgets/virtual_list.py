"""A list of any length of which only the visible lines exist: 100,000 rows cost what 20 cost.

`DataTable` measures every cell of every row and freezes for 10 s on 100,000 of them; here a row is turned into
text when its line is drawn, a cursor move redraws two lines, and rows that did not change are not sent again.

What reaches the terminal goes through `safe_text()` here once more, whatever the caller did: no cell can carry
a control character, and nothing is ever parsed as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from operator import indexOf
from typing import Any, ClassVar, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ckpt_tui.records import dataclass
from ckpt_tui.text import ELLIPSIS, cell_width, fit, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.styled import PLAIN_GLYPHS, has_glyphs
from ckpt_tui.tui.theme import Look, role_styles
from ckpt_tui.tui.widgets.lines_widget import rule

T = TypeVar("T")

# A cell is its text, or its text and a role: good, warning, error, accent, dim, strong.
Cell = str | tuple[str, str]

GUTTER = 2  # the cursor's mark and a space: seen without colour too
GAP = 2  # between columns
MARGIN = 1  # after the last column
_MAX_CELL_CHARS = 2000  # no terminal is wider; bounds the work a hostile name can cause


@dataclass(frozen=True, slots=True)
class Column:
    """One column. width: cells, and the least of it where it grows; grows: takes what the others leave.

    most: where it grows, the cells that its widest text needs: it takes no more than that; 0: as many as there are.
    keep: which part of a text that is too long stays: start, end, middle. priority: 0 stays always, the highest
    number goes first when the list is narrow.
    """

    title: str
    width: int
    grows: bool = False
    align: str = "left"
    keep: str = "start"
    priority: int = 0
    most: int = 0


def lay_out(columns: Sequence[Column], width: int) -> tuple[tuple[int, int], ...]:
    """Which columns fit in `width` cells, and how wide each is: (index, cells), in order.

    Columns go by priority until the rest fits. If even those of priority 0 do not fit, the growing ones shrink.
    """
    kept = list(range(len(columns)))

    def needed() -> int:
        return sum(columns[index].width for index in kept) + GAP * max(len(kept) - 1, 0)

    while needed() > width:
        droppable = [index for index in kept if columns[index].priority > 0]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda index: (columns[index].priority, index)))
    widths = {index: columns[index].width for index in kept}
    spare = width - needed()
    growing = [index for index in kept if columns[index].grows]
    # Those that need little first: the others share what they leave.
    growing.sort(key=lambda index: columns[index].most - columns[index].width if columns[index].most else width)
    for position, index in enumerate(growing):
        share = spare // (len(growing) - position)
        if columns[index].most:
            share = min(share, max(columns[index].most - columns[index].width, 0))
        given = max(share, 4 - widths[index])
        widths[index] += given
        spare -= given
    return tuple((index, widths[index]) for index in kept)


def fit_cell(text: str, width: int, align: str = "left", keep: str = "start") -> str:
    """`text` made safe, in exactly `width` cells; `keep="middle"` keeps both ends and cuts between them."""
    if len(text) > _MAX_CELL_CHARS:
        half = _MAX_CELL_CHARS // 2
        text = text[:half] + ELLIPSIS + text[-half:]
    if not (text.isascii() and text.isprintable()):
        text = safe_text(text, limit=10 * _MAX_CELL_CHARS)
    if keep == "middle":
        have = cell_width(text)
        if have <= width or width < 16:  # too little for two ends: the last part tells names apart
            return fit(text, width, align, "end")
        left = (width - 1) // 3
        head = fit(text, left + 1)[:-1] if have > left else text
        return fit(head + ELLIPSIS + _tail(text, width - 1 - cell_width(head)), width)
    return fit(text, width, align, keep)


def _tail(text: str, width: int) -> str:
    used = 0
    for position in range(len(text) - 1, -1, -1):
        used += cell_width(text[position])
        if used > width:
            return text[position + 1 :]
    return text


class VirtualList(ScrollView, Generic[T], can_focus=True):
    """Rows of `T` under a header, with a cursor.

    cells: one row as the texts of all columns, in their order; called for visible rows only, so it may format.
    key: what makes a row the same row after `set_rows()`, for the cursor to stay on it.
    title: of the rule above it, which is drawn here: one widget less, and it says who has the focus. None: no rule.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "virtual-list--header",
        "virtual-list--cursor",
    }
    DEFAULT_CSS = """
    VirtualList {
        height: 1fr;
        background: transparent;
        scrollbar-size-vertical: 1;
        overflow-x: hidden;
        .virtual-list--header { text-style: bold; color: $foreground-muted; }
        .virtual-list--cursor { background: $block-cursor-blurred-background; color: $block-cursor-blurred-foreground; }
        &:focus .virtual-list--cursor {
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: $block-cursor-text-style;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = keys.bindings_of(keys.LIST_KEYS)

    cursor: reactive[int] = reactive(0, repaint=False)

    class OfRow(Message):
        """What happens to a row. `index` is -1 when there is none."""

        def __init__(self, virtual_list: VirtualList[Any], index: int) -> None:
            super().__init__()
            self.virtual_list = virtual_list
            self.index = index

        @property
        def control(self) -> VirtualList[Any]:
            return self.virtual_list

    class Moved(OfRow):
        """The cursor is on another row."""

    class Selected(OfRow):
        """Enter on a row, or a click on the row that has the cursor already."""

    class MenuWanted(OfRow):
        """The right button on a row, which has the cursor now."""

    class TitlePressed(Message):
        """A click on a column's title. `column` is its index among all columns."""

        def __init__(self, virtual_list: VirtualList[Any], column: int) -> None:
            super().__init__()
            self.virtual_list = virtual_list
            self.column = column

        @property
        def control(self) -> VirtualList[Any]:
            return self.virtual_list

    def __init__(
        self,
        columns: Sequence[Column],
        cells: Callable[[T], Sequence[Cell]],
        rows: Sequence[T] = (),
        *,
        key: Callable[[T], Hashable] | None = None,
        empty_text: str = "",
        show_header: bool = True,
        title: str | None = None,
        id: str | None = None,  # noqa: A002 - Textual's name
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self._columns = tuple(columns)
        self._cells = cells
        self._rows = rows
        self._key = key
        self._empty_text = empty_text
        self._title = title
        self._title_right: Sequence[tuple[str, str]] = ()
        self._header_lines = int(title is not None) + int(show_header)
        self._layout_width = -1
        self._column_layout: tuple[tuple[int, int], ...] = ()
        self._count = len(rows)
        self.num_lines_rendered = 0  # for tests: how much was drawn

    # -- rows ---------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> Sequence[T]:
        return self._rows

    @property
    def cursor_row(self) -> T | None:
        """The row under the cursor; None when the list is empty."""
        return self._rows[self.cursor] if 0 <= self.cursor < self._count else None

    @property
    def is_at_end(self) -> bool:
        return self.cursor >= self._count - 1

    def set_rows(self, rows: Sequence[T], *, keep_cursor: bool = True) -> None:
        """Show other rows. The cursor stays on its row if it is still there, else at its place.

        Lines that show an equal row as before are not drawn again, so rows that compare by value keep the wire quiet.
        """
        old_rows, old_count, old_scroll = self._rows, self._count, round(self.scroll_y)
        wanted = self._find_again(rows) if keep_cursor else 0
        self._rows = rows
        self._count = len(rows)
        self._update_virtual_size()
        changed_cursor = self._place_cursor(wanted)
        if round(self.scroll_y) != old_scroll:
            return  # scrolling has drawn everything already
        first = old_scroll
        last = first + self._num_visible
        for index in range(first, last):
            before = old_rows[index] if index < old_count else None
            after = rows[index] if index < self._count else None
            if before is not after and before != after:
                self._refresh_row(index)
        if old_count == 0 or self._count == 0:
            self.refresh()
        if changed_cursor or self._count != old_count:
            self.post_message(self.Moved(self, self.cursor if self._count else -1))

    def rows_grew(self) -> None:
        """The sequence given got longer at its end; if the cursor was on the last row it stays on the last row.

        The row that was the last one is drawn again: it may have been written to its end only now.
        """
        old_count = self._count
        followed = self.cursor >= old_count - 1
        self._count = len(self._rows)
        self._update_virtual_size()
        first, last = round(self.scroll_y), round(self.scroll_y) + self._num_visible
        for index in range(max(old_count - 1, first), min(self._count, last)):
            self._refresh_row(index)
        if old_count == 0:
            self.refresh()
        if followed and self._count:
            self.cursor = self._count - 1

    def rows_changed(self, rows: Sequence[T], from_index: int) -> None:
        """The sequence was spliced from `from_index` on (a branch opened or closed); the cursor keeps its place."""
        self._rows = rows
        self._count = len(rows)
        self._update_virtual_size()
        if self.cursor >= self._count:
            self.cursor = self._count - 1
        first, last = round(self.scroll_y), round(self.scroll_y) + self._num_visible
        for index in range(max(from_index, first), last):
            self._refresh_row(index)

    def expect_height(self, num_lines: int) -> None:
        """How high it will be once it is shown. Told before, it has its scroll bar from the first layout on, and not
        from the third, which a person sees."""
        self.show_vertical_scrollbar = self._count + self._header_lines > num_lines

    def set_columns(self, columns: Sequence[Column]) -> None:
        """Other columns, or the same with other titles."""
        if tuple(columns) == self._columns:
            return
        self._columns = tuple(columns)
        self._layout_width = -1
        self.refresh()

    def set_title(self, title: str, right: Sequence[tuple[str, str]] = ()) -> None:
        """What the rule above it says, at its left and, in roles, at its right."""
        if (title, tuple(right)) != (self._title, tuple(self._title_right)):
            self._title, self._title_right = title, tuple(right)
            self.refresh_line(round(self.scroll_y))

    def set_empty_text(self, text: str) -> None:
        self._empty_text = text
        if self._count == 0:
            self.refresh()

    def _find_again(self, rows: Sequence[T]) -> int:
        row = self.cursor_row
        if row is None or not rows:
            return self.cursor
        key = self._key or (lambda item: item)
        wanted = key(row)
        if self.cursor < len(rows) and key(rows[self.cursor]) == wanted:
            return self.cursor
        try:
            return indexOf(map(key, rows), wanted)  # at the speed of C: there may be 100,000
        except ValueError:
            return self.cursor

    def _place_cursor(self, index: int) -> bool:
        index = max(0, min(index, self._count - 1))
        if index == self.cursor:
            return False
        self.cursor = index
        return True

    # -- cursor -------------------------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int) -> int:
        return max(0, min(cursor, self._count - 1))

    def watch_cursor(self, old: int, new: int) -> None:
        self._refresh_row(old)
        self._refresh_row(new)
        self._scroll_into_view(new)
        self.post_message(self.Moved(self, new if self._count else -1))

    @property
    def _num_visible(self) -> int:
        return max(self.size.height - self._header_lines, 1)

    def _scroll_into_view(self, index: int) -> None:
        top = round(self.scroll_y)
        visible = self._num_visible
        if index < top:
            self.scroll_to(y=index, animate=False, force=True)
        elif index >= top + visible:
            self.scroll_to(y=index - visible + 1, animate=False, force=True)

    def action_move(self, by: int) -> None:
        self.cursor += by

    def action_move_page(self, pages: int) -> None:
        self.cursor += pages * max(self._num_visible - 1, 1)

    def action_move_to_start(self) -> None:
        self.cursor = 0

    def action_move_to_end(self) -> None:
        self.cursor = self._count - 1

    def action_select(self) -> None:
        if self._count:
            self.post_message(self.Selected(self, self.cursor))

    async def _on_click(self, event: events.Click) -> None:
        line = event.get_content_offset(self)
        if line is None:
            return
        if line.y < self._header_lines:
            if line.y > 0 or self._title is None:
                self._press_title(line.x)
            return
        index = round(self.scroll_y) + line.y - self._header_lines
        if index >= self._count:
            return
        event.stop()
        if event.button == 3:
            self.cursor = index
            self.post_message(self.MenuWanted(self, index))
        elif index == self.cursor:
            self.action_select()
        else:
            self.cursor = index

    def _press_title(self, x: int) -> None:
        start = GUTTER
        for column, width in self.layout_now():
            if start <= x < start + width + GAP:
                self.post_message(self.TitlePressed(self, column))
                return
            start += width + GAP

    # -- drawing ------------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        self._update_virtual_size()

    def on_resize(self, event: events.Resize) -> None:
        self._scroll_into_view(self.cursor)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._layout_width = -1

    def _update_virtual_size(self) -> None:
        # Of any width: it does not scroll sideways, and a change of width would cost one more layout of the screen.
        size = Size(1, self._count + self._header_lines)
        if size != self.virtual_size:
            self.virtual_size = size

    def _refresh_row(self, index: int) -> None:
        if index >= 0:
            self.refresh_line(index + self._header_lines)

    def layout_now(self) -> tuple[tuple[int, int], ...]:
        """The columns that are shown at the present width."""
        width = self.scrollable_content_region.width
        if width != self._layout_width:
            self._layout_width = width
            self._column_layout = lay_out(self._columns, max(width - GUTTER - MARGIN, 1))
        return self._column_layout

    def render_line(self, y: int) -> Strip:
        self.num_lines_rendered += 1
        width = self.scrollable_content_region.width
        base = self.rich_style
        if y == 0 and self._title is not None:
            return self._title_strip(width, base)
        if y < self._header_lines:
            return self._header_strip(width, base)
        index = round(self.scroll_y) + y - self._header_lines
        if index >= self._count:
            if self._count == 0 and y == self._header_lines and self._empty_text:
                text = " " * GUTTER + self._plain(fit_cell(self._empty_text, max(width - GUTTER, 0)))
                return Strip([Segment(text, self._style("dim", base))], width).crop(0, width)
            return Strip.blank(width, base)
        return self._row_strip(index, width, base)

    def _header_strip(self, width: int, base: Style) -> Strip:
        parts = [fit_cell(self._columns[i].title, cells, self._columns[i].align) for i, cells in self.layout_now()]
        text = " " * GUTTER + self._plain((" " * GAP).join(parts))
        style = self.get_component_rich_style("virtual-list--header")
        return Strip([Segment(text, style)]).adjust_cell_length(width, style)

    def _title_strip(self, width: int, base: Style) -> Strip:
        styles = role_styles(getattr(self.app, "look", Look()))
        right = [(safe_text(text), role) for text, role in self._title_right]
        cells = rule(self._title or "", right, width, unicode=has_glyphs(self.app), is_focused=self.has_focus)
        segments = [Segment(self._plain(text), base + styles[role] if role else base) for text, role in cells]
        return Strip(segments).adjust_cell_length(width, base)

    def _row_strip(self, index: int, width: int, base: Style) -> Strip:
        is_cursor = index == self.cursor
        cells = self._cells(self._rows[index])
        cursor_style = self.get_component_rich_style("virtual-list--cursor") if is_cursor else base
        segments = [Segment("> " if is_cursor else "  ", cursor_style)]
        if len(cells) == 1 and len(self._columns) > 1:  # a heading among the rows: over all columns
            text, role = (cells[0], "") if isinstance(cells[0], str) else cells[0]
            fitted = self._plain(fit_cell(text, max(width - GUTTER, 0)))
            segments.append(Segment(fitted, cursor_style if is_cursor else self._style(role, base)))
            return Strip(segments).adjust_cell_length(width, cursor_style)
        for position, (column_index, column_width) in enumerate(self.layout_now()):
            column = self._columns[column_index]
            cell = cells[column_index]
            text, role = (cell, "") if isinstance(cell, str) else cell
            fitted = self._plain(fit_cell(text, column_width, column.align, column.keep))
            # On the cursor's line its own colours win: roles were chosen for the ordinary background.
            style = cursor_style if is_cursor else self._style(role, base)
            if position:
                segments.append(Segment(" " * GAP, cursor_style))
            segments.append(Segment(fitted, style))
        return Strip(segments).adjust_cell_length(width, cursor_style)

    def row_text(self) -> str:
        """The row under the cursor in words, every column of it; empty where there is none."""
        row = self.cursor_row
        if row is None:
            return ""
        texts = [cell if isinstance(cell, str) else cell[0] for cell in self._cells(row)]
        return "  ".join(text for text in (safe_text(text, 4000).strip() for text in texts) if text)

    def _plain(self, text: str) -> str:
        """`text` as this terminal can show it."""
        return text if text.isascii() or has_glyphs(self.app) else text.translate(PLAIN_GLYPHS)

    def _style(self, role: str, base: Style) -> Style:
        # Not component classes: each of them is matched against every rule at the start, for every list.
        return base + role_styles(getattr(self.app, "look", Look()))[role] if role else base
