"""A directory tree as a value, to compare before and after."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def tree_of(directory: Path, without: Iterable[str] = ()) -> dict[str, bytes | None]:
    """Every path below `directory` with its bytes (None for directories), but not what is below `without`."""
    left_out = tuple(without)
    tree: dict[str, bytes | None] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if not any(name == skipped or name.startswith(f"{skipped}/") for skipped in left_out):
            tree[name] = None if path.is_dir() else path.read_bytes()
    return tree
