"""What a reader is, and which there are. A new format is a module here and a row in `READERS`."""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.readers.safetensors import SafetensorsReader
from ckpt_tui.checkpoints.readers.torch_zip import TorchZipReader

TYPE_CHECKING = False  # what `typing` says, without the 4 ms to import it: `inspect` has a budget of 70 altogether
if TYPE_CHECKING:
    from typing import Protocol

    class Reader(Protocol):
        """Reads one kind of file. `read` raises CkptError where nothing can be decoded, and nothing else."""

        formats: tuple[str, ...]

        def sniff(self, head: bytes, file_bytes: int) -> str | None:
            """The format by the first 512 bytes of a file, or None when it is not one of this reader's."""

        def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
            """Everything about the open file but facts that come from its state (`facts.py` adds them)."""


READERS: tuple[Reader, ...] = (TorchZipReader(), SafetensorsReader())
