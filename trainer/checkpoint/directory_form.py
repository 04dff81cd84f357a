"""How a state becomes a directory with a file for each part (`directory_format`): copied part by part into memory that
is reused, then written, proven and renamed as one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from trainer.checkpoint.directory_format import PART_FILES, about, take_apart
from trainer.checkpoint.proven import Published
from trainer.checkpoint.publish_directory import publish_directory
from trainer.checkpoint.registry import facts_of
from trainer.checkpoint.snapshot import Snapshot


class Directory:
    """A `forms.Form`. Each file has memory of its own, laid out as that file."""

    suffix = ""
    is_waited = False

    def __init__(self) -> None:
        self._memory: dict[str, Snapshot] = {}
        self._keys: dict[str, list[Any]] = {}
        self._texts: dict[str, bytes] = {}
        self._about: dict[str, Any] = {}

    @property
    def size_bytes(self) -> int:
        texts = sum(len(text) for text in self._texts.values())
        return texts + sum(self._memory[file].size_bytes for file in self._keys)

    def take(self, state: Mapping[str, Any]) -> None:
        """Copy `state`; when this returns, its tensors may change."""
        parts = take_apart(state)
        self._texts, self._about = parts.texts, about(facts_of(state, ""))
        for file, value in parts.saved.items():
            self._memory.setdefault(file, Snapshot()).take(value)
        self._keys = {file: list(value) for file, value in parts.saved.items()}

    def finish(self, make_room: Callable[[int], None] | None = None) -> None:
        for file in self._keys:
            self._memory[file].finish()

    def first_nonfinite(self, keys: Collection[str]) -> str | None:
        for key in keys:
            file = PART_FILES.get(key, "")
            if file in self._keys and (found := self._memory[file].first_nonfinite(self._keys[file])):
                return f"{key}.{found}"
        return None

    def publish(self, directory: str, names: Sequence[str], previous: Mapping[str, str]) -> Published:
        files: dict[str, bytes | memoryview] = {file: self._memory[file].content for file in self._keys}
        files.update(self._texts)
        return publish_directory(directory, names, files, about=self._about, previous=previous)
