"""The elements of a storage that lies in the file as a deflate stream, read as if they lay there plainly.

Read in order, they are inflated piece by piece and nothing is kept; a second pass begins again. Reads that go back and
forth (a transposed view) inflate the whole stream into a temporary file that has no name, once.
"""

from __future__ import annotations

import os
import zlib

from ckpt_tui.checkpoints.model import Storage
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import safe_text, size

_PIECE_BYTES = 256 * 1024
_MOST_RESTARTS = 3
_MOST_RATIO = 1040  # deflate makes at most 1,032 bytes of one
_MOST_SPILLED_BYTES = 1 << 30  # put on disk whatever the ratio
_MOST_SPILLED_RATIO = 16  # ... and beyond that, for each byte of the stream


class InflatedStorage:
    """`read_into(view, position)` as `elements.read_into`, with positions in what comes out of the stream.

    descriptor: of the file; stays the caller's. Raises CkptError when the stream is damaged, or would fill the disk.
    """

    def __init__(self, descriptor: int, storage: Storage, name: str) -> None:
        assert storage.offset is not None
        assert storage.deflated_bytes is not None
        self._descriptor = descriptor
        self._storage = storage
        self._name = name
        if storage.size_bytes > storage.deflated_bytes * _MOST_RATIO:
            message = f"{name}: {size(storage.deflated_bytes)} cannot hold {size(storage.size_bytes)} compressed"
            raise CkptError("Damaged tensor", message)
        self._spilled: int | None = None
        self._num_restarts = 0
        self._begin()

    def _begin(self) -> None:
        self._inflate = zlib.decompressobj(-15)
        self._taken = 0  # bytes of the stream that were given to it
        self._rest = b""
        self._piece = b""
        self._piece_at = 0  # position of the piece

    def close(self) -> None:
        if self._spilled is not None:
            os.close(self._spilled)
            self._spilled = None

    def read_into(self, view: memoryview, position: int) -> int:
        """Fill `view` from `position`; gives how many bytes there were."""
        if self._spilled is None and position < self._piece_at:
            self._num_restarts += 1
            if self._num_restarts <= _MOST_RESTARTS:
                self._begin()
            else:
                self._spill()
        done = 0
        while done < len(view):
            if self._spilled is not None:
                try:
                    received = os.preadv(self._spilled, [view[done:]], position + done)
                except OSError as error:
                    raise from_os_error(error, "the temporary file") from error
                if not received:
                    break
                done += received
                continue
            skip = position + done - self._piece_at
            part = self._piece[skip : skip + len(view) - done]
            if part:
                view[done : done + len(part)] = part
                done += len(part)
            elif not self._next():
                break
        return done

    def _next(self) -> bool:
        """Inflate the next piece; False at the end."""
        self._piece_at += len(self._piece)
        self._piece = b""
        storage = self._storage
        assert storage.offset is not None
        assert storage.deflated_bytes is not None
        while not self._piece and not self._inflate.eof:
            if not self._rest:
                wanted = min(_PIECE_BYTES, storage.deflated_bytes - self._taken)
                self._rest = os.pread(self._descriptor, wanted, storage.offset + self._taken)
                if not self._rest:
                    return False
                self._taken += len(self._rest)
            try:
                self._piece = self._inflate.decompress(self._rest, _PIECE_BYTES)
            except zlib.error as error:
                raise CkptError("Damaged tensor", f"{self._name}: does not decompress: {error}") from None
            self._rest = self._inflate.unconsumed_tail
        return bool(self._piece)

    def _spill(self) -> None:
        """Inflate everything into a temporary file."""
        storage = self._storage
        assert storage.deflated_bytes is not None
        if storage.size_bytes > max(_MOST_SPILLED_BYTES, storage.deflated_bytes * _MOST_SPILLED_RATIO):
            message = (
                f"{self._name}: it is not stored row by row, and {size(storage.size_bytes)} when decompressed: too "
                "much for a temporary file"
            )
            raise CkptError("Cannot be counted", message, "Save it again without compression.")
        import tempfile

        self._begin()
        written = 0
        try:
            with tempfile.TemporaryFile() as file:
                while self._next() and written < storage.size_bytes:
                    written += file.write(self._piece[: storage.size_bytes - written])
                file.flush()
                self._spilled = os.dup(file.fileno())
        except OSError as error:
            where = safe_text(tempfile.gettempdir())
            message = f"{self._name} cannot be decompressed into {where}: {error.strerror or error}"
            raise CkptError("Cannot be counted", message, "Set TMPDIR to a directory with room.") from error
