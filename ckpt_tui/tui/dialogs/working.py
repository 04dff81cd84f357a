"""What is being read or copied right now, how far it is, and Esc to end it; the watch goes on living under it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button

from ckpt_tui.text import cell_width, duration, safe_text
from ckpt_tui.tui import keys
from ckpt_tui.tui.base_app import app_of
from ckpt_tui.tui.dialogs.confirm import text_width, written
from ckpt_tui.tui.long_work import LongWork, Stages
from ckpt_tui.tui.paragraphs import broken
from ckpt_tui.tui.styled import has_glyphs, line
from ckpt_tui.tui.widgets.header import progress_bar
from ckpt_tui.tui.widgets.lines_widget import Cells, LinesWidget
from ckpt_tui.tui.widgets.words import Words

_NARROW = 48
LOOK_INTERVAL_S = 0.5  # a line on the wire each time


class WorkLines(LinesWidget):
    """What is done, a bar, and the numbers."""

    def __init__(self, work: LongWork | Stages, *, id: str | None = None) -> None:  # noqa: A002 - Textual's name
        super().__init__(id=id)
        self._work = work

    def lines_now(self, width: int, height: int) -> Sequence[Cells]:
        if isinstance(self._work, Stages):
            return _stage_lines(self._work, width)[-height:]  # the newest, where not all have room
        return self._byte_lines(self._work, width)

    def _byte_lines(self, work: LongWork, width: int) -> Sequence[Cells]:
        lines: list[Cells] = [((text, ""),) for text in broken(work.doing, width)[:2]]
        fraction = work.fraction
        if fraction is not None:
            percent = f"{100 * fraction:4.0f} %"
            room = min(width - len(percent), 60)
            lines.append((*progress_bar(fraction, room, has_glyphs(self.app)), (percent, "strong")))
        else:
            lines.append(())
        far, fast, left = work.look()
        told = [part for part in (far, fast, left) if part] or ["looking at the files"]
        is_wide = cell_width("   ".join(told)) <= width
        lines += [(("   ".join(part), "accent"),) for part in ((told,) if is_wide else (told[:2], told[2:])) if part]
        return lines


def _stage_lines(work: Stages, width: int) -> list[Cells]:
    """What was seen, the newest last, and how long it has been waited for in all."""
    lines: list[Cells] = []
    told = work.sentences[-Stages.MOST_TOLD :]
    for place, sentence in enumerate(told):
        is_last = place == len(told) - 1
        mark, role = ("▸ ", "accent") if is_last else ("✓ ", "good")
        for row, text in enumerate(broken(safe_text(sentence, 300), max(width - 2, 10))):
            lines.append(((mark if row == 0 else "  ", role), (text, "" if is_last else "dim")))
    waited = work.waited_s
    lines.append(((f"  {duration(waited)}" if waited >= 1 else "", "dim"),))
    lines += [((text, "warning"),) for text in broken(work.late, width)] if work.late else []
    return lines


class WorkingDialog(ModalScreen[None]):
    """Shows `work` until `finish()`. `left` is set when a person wants it to end."""

    CSS_PATH = "dialogs.tcss"
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]  # noqa: RUF012 - Textual's way
    AUTO_FOCUS = "#no"
    BINDINGS: ClassVar[list[BindingType]] = keys.dialog_bindings("leave")

    def __init__(self, work: LongWork | Stages) -> None:
        super().__init__()
        self.work = work
        self.left = asyncio.Event()
        self.closed = asyncio.Event()
        self._is_finished = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog dialog-working"):
            yield Words(line((self.work.title, "strong")), classes="dialog-title")
            yield WorkLines(self.work, id="work_lines")
            with Horizontal(classes="dialog-buttons"):
                yield Button("Leave" if isinstance(self.work, Stages) else "Cancel", id="no", compact=True)
                yield Words(
                    line((self.work.hint.replace("Esc", written(self, "leave")), "dim")),
                    classes="dialog-hint",
                    id="hint",
                )

    def on_mount(self) -> None:
        self._set_height()
        interval_s = max(LOOK_INTERVAL_S, 1.0) if app_of(self).settings.slow_link else LOOK_INTERVAL_S
        self.set_interval(interval_s, self._look)

    def on_resize(self) -> None:
        self._set_height()

    def _set_height(self) -> None:
        lines = self.query_one("#work_lines", WorkLines)
        width = text_width(self.app.size)
        height = len(lines.lines_now(width, 0))
        if isinstance(self.work, Stages):  # more is to come: it does not jump with each line
            height = max(height, 5)
        elif width < _NARROW:  # the numbers take two lines as soon as there are any
            height = max(height, len(broken(self.work.doing, width)[:2]) + 3)
        height = max(min(height, self.app.size.height - 4), 1)
        if lines.styles.height is None or lines.styles.height.value != height:
            lines.styles.height = height

    def _look(self) -> None:
        if self._is_finished:
            return  # its lines may be gone already
        self.query_one("#work_lines", WorkLines).show()
        self._set_height()

    @on(Button.Pressed)
    def action_leave(self) -> None:
        """End it: at once where nothing changes, else when all is as it was."""
        if self.left.is_set():
            return
        self.work.cancel()
        self.left.set()
        if not self.work.can_leave:
            self.query_one("#hint", Words).update(line(("ending it, and taking back what was copied ...", "warning")))

    def finish(self) -> None:
        """The work has ended. Under the help it waits until that is left."""
        self._is_finished = True
        self._close()

    def on_screen_resume(self) -> None:
        if self._is_finished:
            self.call_later(self._close)

    def _close(self) -> None:
        if self.app.screen is self and not self.closed.is_set():
            self.closed.set()
            self.dismiss(None)
