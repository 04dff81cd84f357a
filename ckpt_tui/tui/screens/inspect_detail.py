"""The inspect screen's pane below its list: what is under the cursor, with the statistics that were read of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo
from ckpt_tui.errors import CkptError
from ckpt_tui.tui.screens.inspect_text import Opened, row_content, tensor_content
from ckpt_tui.tui.screens.work import ByteProgress, worker_is_cancelled
from ckpt_tui.tui.state_tree import Node

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.values import TensorStatistics


class Detail:
    """Statistics are kept once they were read; one tensor is read at a time."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], TensorStatistics | CkptError] = {}
        self.being_read: TensorInfo | None = None
        self._progress = ""

    def begin(self, tensor: TensorInfo) -> bool:
        """Note that it is being read; False when there is nothing to read."""
        if (tensor.file, tensor.name) in self._known or self.being_read is tensor:
            return False
        self.being_read, self._progress = tensor, ""
        return True

    def progressed(self, words: str) -> None:
        self._progress = words

    def keep(self, tensor: TensorInfo, result: TensorStatistics | CkptError) -> None:
        """What reading it gave; also of one that is not waited for any more."""
        self._known[tensor.file, tensor.name] = result
        if self.being_read is tensor:
            self.being_read = None

    def content(self, opened: Opened, row: object, width: int, histogram_lines: int) -> Content:
        tensor = tensor_of(row)
        if tensor is None:
            return row_content(row, opened.tree, width)
        known: TensorStatistics | CkptError | str | None = self._known.get((tensor.file, tensor.name))
        if tensor is self.being_read:
            known = self._progress or "reading ..."
        return tensor_content(tensor, opened.table, known, width, histogram_lines)


def read_statistics(
    checkpoint: Checkpoint, tensor: TensorInfo, progress: ByteProgress
) -> tuple[TensorInfo, TensorStatistics]:
    """Statistics of one tensor, told of as they come. Runs in a thread."""
    from ckpt_tui.checkpoints.values import tensor_statistics

    return tensor, tensor_statistics(checkpoint, tensor, on_bytes=progress.add, is_cancelled=worker_is_cancelled())


def tensor_of(row: object) -> TensorInfo | None:
    """The tensor that a row of a list stands for."""
    if isinstance(row, Node):
        return row.tensor
    return row if isinstance(row, TensorInfo) else None
