"""What a reader is, and which there are. A new format is a module here, with its `READER`, and a row in a tuple below.

Readers are imported when a file gets to them: the common formats come first, and `inspect` has a budget of 70 ms.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint

TYPE_CHECKING = False  # what `typing` says, without the 4 ms to import it: `inspect` has a budget of 70 altogether
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from ckpt_tui.checkpoints.readers.directory import Listing

    class Reader(Protocol):
        """Reads one kind of file. `read` raises CkptError where nothing can be decoded, and nothing else."""

        formats: tuple[str, ...]

        def sniff(self, head: bytes, file_bytes: int) -> str | None:
            """The format by the first 512 bytes of a file, or None when it is not one of this reader's."""

        def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
            """Everything about the open file but facts that come from its state (`facts.py` adds them)."""

    class DirectoryReader(Protocol):
        """Reads one layout of files in a directory. Damage to a part is a finding, the other parts are read."""

        formats: tuple[str, ...]

        def sniff(self, listing: Listing) -> str | None:
            """The format by the names in a directory (and a look into small files); None when it is not one."""

        def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
            """The whole directory as one checkpoint: see `directory.Parts`."""


# In the order in which they are asked: `inspect` imports them one by one until one knows the file.
FILE_READERS: tuple[str, ...] = (
    "torch_zip",
    "safetensors",
    "torch_legacy",
    "torch_tar",
    "numpy_files",
    "pickle",
    "json_checkpoint",
)
DIRECTORY_READERS: tuple[str, ...] = (
    "hf_trainer",
    "accelerate",
    "dcp",
    "deepspeed",
    "checkpoint_dir",
    "dcp_safetensors",
    "sharded",
)


# They open other files or directories, so that one as a part of another would be opened without end.
_OPEN_OTHERS = ("json_checkpoint", "hf_trainer", "accelerate", "checkpoint_dir")


def file_readers(*, of_parts: bool = False) -> Iterator[Reader]:
    """The readers of files, each imported when it is asked for. of_parts: those for a part of a directory."""
    return (_module(name).READER for name in FILE_READERS if not (of_parts and name in _OPEN_OTHERS))


def directory_readers(*, of_parts: bool = False) -> Iterator[DirectoryReader]:
    """The readers of directories, each imported when it is asked for. of_parts: those for a part of another."""
    return (_module(name).READER for name in DIRECTORY_READERS if not (of_parts and name in _OPEN_OTHERS))


def _module(name: str):  # type: ignore[no-untyped-def]
    return __import__(f"ckpt_tui.checkpoints.readers.{name}", fromlist=["READER"])
