"""Every value of a checkpoint's state that holds nothing, by its full path: what a filter over the tree looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckpt_tui.checkpoints.model import CompositeRef, OpaqueObject, TensorRef
from ckpt_tui.text import ELLIPSIS
from ckpt_tui.tui.picked_rows import Places, WordFilter
from ckpt_tui.tui.value_words import key_text, summary

MAX_LEAVES = 200_000  # what is looked at
_MAX_PATH = 1000
_MAX_WALK_DEPTH = 25_000  # each level holds a path; the deepest honest state has 3,000


class Leaves:
    """The leaves of a state in the order of the file. Making it walks the whole state: 0.3 s for 100,000 tensors.

    is_cut: there were more than `MAX_LEAVES`.
    """

    def __init__(self, state: object) -> None:
        self.paths: list[str] = []
        self.values: list[object] = []
        self.is_cut = False
        texts: list[str] = []
        for path, value in _walk_leaves(state):
            if len(texts) >= MAX_LEAVES:
                self.is_cut = True
                break
            self.paths.append(path)
            self.values.append(value)
            texts.append(f"{path} {summary(value)}".lower())
        self._filter = WordFilter(texts)

    def holding(self, words: Sequence[str]) -> Places:
        """Where those are whose path or value holds all `words` (lower case)."""
        return self._filter.places(words)


def _walk_leaves(state: object) -> Iterator[tuple[str, object]]:
    """Path and value of everything that holds nothing. A container is walked once: the state may hold itself."""
    seen = {id(state)}
    stack: list[tuple[str, Iterator[tuple[object, object]]]] = [("", iter(_entries(state)))]
    while stack:
        prefix, entries = stack[-1]
        for key, value in entries:
            text = key if isinstance(key, str) else key_text(key)
            path = f"{prefix}.{text}" if prefix else text
            if len(path) > _MAX_PATH:  # 10,000 levels deep: paths of everything on the way would be too much to hold
                path = path[: _MAX_PATH // 2] + ELLIPSIS + path[-_MAX_PATH // 4 :]
            if type(value) is TensorRef or not isinstance(value, _CONTAINERS):
                yield path, value
                continue
            if isinstance(value, CompositeRef):
                yield path, value
            if id(value) in seen:
                continue
            below = _entries(value)
            if below and len(stack) >= _MAX_WALK_DEPTH:
                continue
            if below:
                seen.add(id(value))
                stack.append((path, iter(below)))
                break
            if not isinstance(value, CompositeRef):
                yield path, value
        else:
            stack.pop()


_CONTAINERS = (dict, list, tuple, set, frozenset, OpaqueObject, CompositeRef)


def _entries(value: object) -> Sequence[tuple[object, object]]:
    """What a container holds, under the names that `children_of` gives."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(enumerate(value))
    if isinstance(value, CompositeRef):
        return list(value.parts.items())
    if isinstance(value, OpaqueObject):
        found: list[tuple[object, object]] = [("(arguments)", value.args)] if value.args else []
        if isinstance(value.state, dict):
            found += value.state.items()
        elif value.state is not None:
            found.append(("(state)", value.state))
        return [*found, *enumerate(value.items), *value.entries.items()]
    return ()
