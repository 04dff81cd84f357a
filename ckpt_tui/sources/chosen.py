"""One log of several that a directory holds: the first poll says which one is read, and which are not."""

from __future__ import annotations

from dataclasses import replace

from ckpt_tui.events.schema import BadLine
from ckpt_tui.sources.base import CHUNK_BYTES, Batch, EventSource


class AroundSource:
    """What stands around another program's source, and changes only what its polls bring."""

    is_foreign = True

    def __init__(self, source: EventSource) -> None:
        self._source = source

    @property
    def path(self) -> str:
        return self._source.path

    @property
    def position(self) -> int:
        """How many bytes of the log are read; 0 where that is not known."""
        return int(getattr(self._source, "position", 0))

    @property
    def unfinished(self) -> BadLine | None:
        return self._source.unfinished

    def skip_to_last(self, num_lines: int) -> None:
        self._source.skip_to_last(num_lines)


class ChosenSource(AroundSource):
    """Another source, with a notice before everything else."""

    def __init__(self, source: EventSource, notice: str) -> None:
        super().__init__(source)
        self._notice = notice

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        batch = self._source.poll(max_bytes)
        if not self._notice:
            return batch
        notice, self._notice = self._notice, ""
        return replace(batch, notices=(notice, *batch.notices))
