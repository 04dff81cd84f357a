"""How a state goes from memory to disk: one file, or what another form makes of it.

A form is used by one save at a time: `take` in the thread that trains, then `finish` and the rest wherever the rest of
the save runs, and only after that the next `take`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from trainer.checkpoint.proven import Published
from trainer.checkpoint.publish import publish
from trainer.checkpoint.snapshot import Snapshot


class Form(Protocol):
    """suffix: what its names end with: `.pt`, or nothing for a directory. size_bytes: of one copy on the disk.
    is_waited: training stands still until the save is done; set before each."""

    suffix: str
    is_waited: bool

    @property
    def size_bytes(self) -> int: ...

    def take(self, state: Mapping[str, Any]) -> None:
        """Copy `state`; when this returns, its tensors may change."""

    def finish(self, make_room: Callable[[int], None] | None = None) -> None:
        """What is left to do before it has names: in memory, or in files where several processes write.

        make_room: called with the bytes that are expected, before a first file is written; raises PublishError.
        """

    def first_nonfinite(self, keys: Collection[str]) -> str | None:
        """The dotted path of the first tensor under one of `keys` that is not finite."""

    def publish(self, directory: str, names: Sequence[str], previous: Mapping[str, str]) -> Published:
        """The copy under every one of `names`, as `publish.publish`. Raises PublishError."""


class OneFile(Snapshot):
    """`torch.load(weights_only=True)` gives the state."""

    suffix = ".pt"
    is_waited = False

    def finish(self, make_room: Callable[[int], None] | None = None) -> None:
        super().finish()

    def publish(self, directory: str, names: Sequence[str], previous: Mapping[str, str]) -> Published:
        return publish(directory, names, self.content, previous=previous, is_waited=self.is_waited)


def form_of(checkpoint_format: str, directory: str) -> Form:
    """A new one for the run in `directory`, by its name in `policy.FORMATS`."""
    if checkpoint_format == "file":
        return OneFile()
    if checkpoint_format == "dir":
        from trainer.checkpoint.directory_form import Directory

        return Directory()
    if checkpoint_format == "dcp":
        from trainer.checkpoint.dcp_form import Dcp

        return Dcp(directory)
    raise ValueError(f"checkpoints in the form {checkpoint_format!r} cannot be written")
