"""The decoded state of a checkpoint as rows of a tree, made when a branch is opened and not before.

A state dict is flat (`h.0.attn.qkv.weight`), a person thinks in modules: keys with dots are grouped by them, so
that every module shows the parameters and bytes below it. The state may be cyclic, deep and hostile: nothing here
recurses, and a branch is only as deep as somebody opens it.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import overload

from ckpt_tui.checkpoints.contents import PartFile
from ckpt_tui.checkpoints.model import CompositeRef, OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.text import ELLIPSIS, metric, plural, safe_text, short_count

MAX_OPENED_BY_ITSELF = 1000
MAX_LEVELS_OPENED_BY_ITSELF = 12
MAX_FLAT_LEAVES = 200_000  # what a filter over the whole tree looks at
TREE_SORTS: tuple[str, ...] = ("", "size", "name", "elements")
_MAX_KEPT_WEIGHTS = 10_000
_MAX_KEPT_FILTERS = 16
_MAX_PATH = 1000
_MAX_WALK_DEPTH = 25_000  # each level holds a path; the deepest honest state has 3,000


@dataclass(frozen=True, slots=True)
class Weight:
    """What lies below a path. Elements and bytes of tensors that share them count once."""

    num_tensors: int = 0
    num_elements: int = 0
    size_bytes: int = 0


class Weights:
    """Tensors, elements and bytes below any dotted path, without a table of all paths.

    Names in order put everything below a path next to each other, so a path is two binary searches and sums are
    differences of running totals: 100,000 tensors cost 0.1 s, a row some microseconds.
    """

    def __init__(self, tensors: Sequence[TensorInfo]) -> None:
        # Lists of numbers and texts only: 100,000 pairs would cost as much again in garbage collection.
        if any(tensor.file for tensor in tensors):
            names = [f"{tensor.file}.{tensor.name}" if tensor.file else tensor.name for tensor in tensors]
        else:
            names = [tensor.name for tensor in tensors]
        order = sorted(range(len(names)), key=names.__getitem__)
        self._names = [names[index] for index in order]
        ordered = [tensors[index] for index in order]
        sizes: dict[tuple[int, ...], int] = {shape: prod(shape) for shape in {tensor.shape for tensor in ordered}}
        elements = [0 if tensor.is_component else sizes[tensor.shape] for tensor in ordered]
        self._elements = list(accumulate(elements, initial=0))
        self._bytes = list(accumulate([t.size_bytes if _has_own_bytes(t) else 0 for t in ordered], initial=0))
        self._components = list(accumulate([tensor.is_component for tensor in ordered], initial=0))
        self._repeats: list[tuple[int, int, int, int]] = []  # (place, place of the one before, elements, bytes)
        if len({tensor.storage for tensor in tensors}) < len(tensors):
            self._find_repeats(ordered)
        self._known: dict[str, Weight] = {}
        self.total = self._weight(0, len(names))

    def _find_repeats(self, tensors: list[TensorInfo]) -> None:
        last_place: dict[tuple[object, ...], int] = {}
        for place, tensor in enumerate(tensors):
            if not tensor.storage:
                continue
            view = (tensor.storage, tensor.offset, tensor.shape, tensor.stride)
            if view in last_place:
                repeated = 0 if tensor.is_component else tensor.num_elements
                self._repeats.append((place, last_place[view], repeated, tensor.size_bytes))
            last_place[view] = place

    def of(self, path: str) -> Weight:
        """What lies below `path`, the tensor of that very name included."""
        known = self._known.get(path)
        if known is not None:
            return known
        low = bisect_left(self._names, path + ".")
        high = bisect_left(self._names, path + "/", low)  # "/" comes next after "."
        if low == high:
            low = bisect_left(self._names, path)
            high = bisect_right(self._names, path, low)
        weight = self._weight(low, high)
        if len(self._known) < _MAX_KEPT_WEIGHTS:
            self._known[path] = weight
        return weight

    def _weight(self, low: int, high: int) -> Weight:
        elements = self._elements[high] - self._elements[low]
        num_bytes = self._bytes[high] - self._bytes[low]
        first = bisect_left(self._repeats, (low,))
        last = bisect_left(self._repeats, (high,), first)
        for _, before, repeated_elements, repeated_bytes in self._repeats[first:last]:
            if low <= before:
                elements -= repeated_elements
                num_bytes -= repeated_bytes
        return Weight(high - low - self._components[high] + self._components[low], elements, num_bytes)


def _has_own_bytes(tensor: TensorInfo) -> bool:
    """The bytes of a tensor that is made of others are its components'."""
    return bool(tensor.storage) or tensor.device == "meta"


@dataclass(slots=True, eq=False)
class Node:
    """One row. path: dotted, as tensors are named. value: what stands there; for a module the dict of its keys."""

    path: str
    label: str
    depth: int
    value: object
    is_module: bool = False
    is_open: bool = False
    file: PartFile | None = None  # of a directory, on its first level
    children: list[Node] = field(default_factory=list)

    @property
    def tensor(self) -> TensorInfo | None:
        return self.value.info if isinstance(self.value, TensorRef) else None

    @property
    def can_open(self) -> bool:
        value = self.value
        if isinstance(value, CompositeRef):
            return bool(value.parts)
        if isinstance(value, OpaqueObject):
            return bool(value.args or value.items or value.entries or value.state is not None)
        return isinstance(value, (dict, list, tuple, set, frozenset)) and len(value) > 0


def children_of(node: Node) -> list[Node]:
    """The rows below `node`, made now."""
    value, depth, prefix = node.value, node.depth + 1, node.path
    if isinstance(value, CompositeRef):
        return _mapping_children(value.parts, prefix, depth)
    if isinstance(value, dict):
        return _mapping_children(value, prefix, depth)
    if isinstance(value, (list, tuple)):
        return [Node(_join(prefix, index), str(index), depth, item) for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [Node(_join(prefix, index), str(index), depth, item) for index, item in enumerate(value)]
    if isinstance(value, OpaqueObject):
        rows: list[Node] = []
        if value.args:
            rows.append(Node(_join(prefix, "(arguments)"), "(arguments)", depth, value.args))
        if isinstance(value.state, dict):
            rows.extend(_mapping_children(value.state, prefix, depth))
        elif value.state is not None:
            rows.append(Node(_join(prefix, "(state)"), "(state)", depth, value.state))
        rows.extend(Node(_join(prefix, index), str(index), depth, item) for index, item in enumerate(value.items))
        rows.extend(_mapping_children(value.entries, prefix, depth))
        return rows
    return []


def _mapping_children(mapping: Mapping[object, object], prefix: str, depth: int) -> list[Node]:
    """Entries in file order; keys that share what stands before their first dot become one module."""
    modules: dict[str, dict[object, object]] = {}
    rows: list[Node] = []
    for key, value in mapping.items():
        head, _, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        if not head or not rest:
            rows.append(Node(_join(prefix, key), key_text(key), depth, value))
            continue
        below = modules.get(head)
        if below is None:
            below = modules[head] = {}
            rows.append(Node(_join(prefix, head), safe_text(head, 500), depth, below, is_module=True))
        below[rest] = value
    return [_unwrapped(node) if node.is_module else node for node in rows]


def _unwrapped(module: Node) -> Node:
    """A module of one entry is that entry: `wte.weight` on one row, not on two."""
    assert isinstance(module.value, dict)
    if len(module.value) != 1:
        return module
    ((rest, value),) = module.value.items()
    return Node(_join(module.path, rest), f"{module.label}.{safe_text(rest, 500)}", module.depth, value)


def _join(prefix: str, key: object) -> str:
    text = key if isinstance(key, str) else key_text(key)
    return f"{prefix}.{text}" if prefix else text


def key_text(key: object) -> str:
    """A key of a dict in a file, for eyes."""
    if isinstance(key, str):
        return safe_text(key, 500) if key else '""'
    return summary(key)


def summary(value: object, limit: int = 200) -> str:
    """A value in a few words: numbers and texts as they are, containers by their size."""
    if isinstance(value, TensorRef):
        return f"{shape_text(value.info.shape)} {value.info.dtype}"
    if isinstance(value, str):
        return safe_text(value, limit) if value else '""'
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        # Python refuses to print integers of more than 4,300 digits, and nobody reads one of 100.
        return str(value) if value.bit_length() < 400 else f"an integer of {value.bit_length():,} bits"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, (bytes, bytearray)):
        return plural(len(value), "byte")
    if isinstance(value, dict):
        return plural(len(value), "entry", "entries")
    if isinstance(value, (list, tuple)):
        if 0 < len(value) <= 8 and all(isinstance(item, (int, float, str, bool, type(None))) for item in value):
            brackets = "[]" if isinstance(value, list) else "()"
            return safe_text(brackets[0] + ", ".join(summary(item, 40) for item in value) + brackets[1], limit)
        return plural(len(value), "item")
    if isinstance(value, (set, frozenset)):
        return plural(len(value), "item")
    if isinstance(value, OpaqueObject):
        return safe_text(value.type_name, limit)
    return safe_text(value, limit)


def number(value: float) -> str:
    """A float as it was written, shortened only where it is longer than a person reads."""
    text = repr(value)
    return text if len(text) <= 10 else metric(value)


def shape_text(shape: tuple[int, ...]) -> str:
    """`384 x 128`; a tensor without dimensions is a scalar."""
    return " x ".join(map(str, shape)) if shape else "scalar"


class StateTree:
    """The open rows of the tree. `rows` is one list that is spliced, so that a view can keep hold of it."""

    def __init__(self, state: object, weights: Weights, *, files: Sequence[PartFile] = ()) -> None:
        """files: of a directory, whose state is by their names."""
        self.weights = weights
        self.sort = ""
        self.is_reversed = False
        self._root = Node("", "", -1, state, is_open=True)
        if files and isinstance(state, dict):
            of_file = {file.name: file for file in files}
            unread = [(file.name, None) for file in files if file.name not in state]
            self._root.children = [
                Node(str(name), key_text(name), 0, value, file=of_file.get(str(name)))
                for name, value in [*unread, *state.items()]
            ]
        else:
            can_open = self._root.can_open
            self._root.children = children_of(self._root) if can_open else [Node("", "(the file)", 0, state)]
        self.rows = list(self._root.children)
        self.index_of_weights = 0  # the row that `open_weights` opened first
        self._leaves: tuple[list[str], list[str], list[object]] | None = None  # texts to look at, paths, values
        self._kept: dict[tuple[str, ...], Sequence[int]] = {}
        self.leaves_cut = False

    def weight(self, node: Node) -> Weight:
        return self.weights.of(node.path)

    def toggle(self, index: int) -> None:
        if self.rows[index].is_open:
            self.close(index)
        else:
            self.open(index)

    def open(self, index: int) -> None:
        node = self.rows[index]
        if node.is_open or not node.can_open:
            return
        node.children = node.children or children_of(node)
        node.is_open = True
        self.rows[index + 1 : index + 1] = list(self._shown(node.children))

    def close(self, index: int) -> None:
        node = self.rows[index]
        if not node.is_open:
            return
        node.is_open = False
        end = index + 1
        while end < len(self.rows) and self.rows[end].depth > node.depth:
            end += 1
        del self.rows[index + 1 : end]

    def parent(self, index: int) -> int:
        """The row that holds `index`; itself at the top."""
        depth = self.rows[index].depth
        for above in range(index - 1, -1, -1):
            if self.rows[above].depth < depth:
                return above
        return index

    def reveal(self, path: str) -> int:
        """Open what holds `path`, level by level; gives its row, or the row of what is nearest to it."""
        index = 0
        at: int | None = 0
        while at is not None:
            index = at
            node = self.rows[index]
            if node.path == path:
                break
            if path.startswith(node.path + ".") and node.can_open:
                self.open(index)
                depth, first = node.depth + 1, index + 1
            else:
                depth, first = node.depth, index + 1
            at = None
            for below in range(first, len(self.rows)):
                row = self.rows[below]
                if row.depth < depth:
                    break
                if row.depth == depth and (row.path == path or path.startswith(row.path + ".")):
                    at = below
                    break
        return index

    def open_weights(self) -> None:
        """Open what a person comes for: the branch with most bytes, down to where it forks."""
        # In a directory the optimizer's file is the largest, and nobody's first question.
        files = [i for i, node in enumerate(self.rows) if node.file is not None and "model" in node.file.roles]
        heaviest = max(files or range(len(self.rows)), key=lambda i: self.weight(self.rows[i]).size_bytes, default=-1)
        named = next((i for i, node in enumerate(self.rows) if node.label in ("model", "state_dict")), heaviest)
        index = named
        self.index_of_weights = max(index, 0)
        for _ in range(MAX_LEVELS_OPENED_BY_ITSELF):  # a state may hold nothing but itself
            if not 0 <= index < len(self.rows) or not self.rows[index].can_open:
                break
            node = self.rows[index]
            if isinstance(node.value, Sized) and node.is_module and len(node.value) > MAX_OPENED_BY_ITSELF:
                break
            self.open(index)
            if len(node.children) != 1:
                break
            index += 1

    def sort_by(self, sort: str, *, is_reversed: bool = False) -> None:
        """Order what stands side by side by one of `TREE_SORTS`; what is open stays open."""
        self.sort, self.is_reversed = sort, is_reversed
        self.rows[:] = self._shown(self._root.children)

    def _shown(self, nodes: list[Node]) -> Iterator[Node]:
        """`nodes` in order and, below each that was left open, its own."""
        stack = [iter(self._ordered(nodes))]
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            yield node
            if node.is_open:
                stack.append(iter(self._ordered(node.children)))

    def _ordered(self, nodes: list[Node]) -> Sequence[Node]:
        if not self.sort:
            return nodes[::-1] if self.is_reversed else nodes
        if self.sort == "name":
            return sorted(nodes, key=lambda node: natural(node.label), reverse=self.is_reversed)

        def weight(node: Node) -> int:
            tensor = node.tensor
            if tensor is not None and tensor.storage:
                return tensor.size_bytes if self.sort == "size" else tensor.num_elements
            below = self.weight(node)
            return below.size_bytes if self.sort == "size" else below.num_elements

        return sorted(nodes, key=weight, reverse=not self.is_reversed)

    def prepare_filter(self) -> None:
        """Walk the whole state once, for `matching`: for a worker, it takes half a second for 100,000 tensors."""
        if self._leaves is None:
            texts: list[str] = []
            paths: list[str] = []
            values: list[object] = []
            for path, value in _walk_leaves(self._root.value):
                if len(paths) >= MAX_FLAT_LEAVES:
                    self.leaves_cut = True
                    break
                paths.append(path)
                values.append(value)
                texts.append(f"{path} {summary(value)}".lower())
            self._leaves = (texts, paths, values)

    def matching(self, words: list[str]) -> Sequence[Node]:
        """Every leaf whose path or value holds all `words`, by full path. Looks at the first 200,000 leaves."""
        self.prepare_filter()
        assert self._leaves is not None
        texts, paths, values = self._leaves
        return Leaves(positions_holding(tuple(words), texts, self._kept), paths, values)


_NUMBERS = re.compile(r"\d+")


def natural(name: str) -> str:
    """What sorts names as a person counts: `h.2` before `h.10`."""
    return _NUMBERS.sub(lambda match: match[0].lstrip("0")[:400].rjust(12, "0"), name)


def positions_holding(
    words: tuple[str, ...], texts: Sequence[str], kept: dict[tuple[str, ...], Sequence[int]]
) -> Sequence[int]:
    """Where the texts are that hold all `words`. kept: what was found for others; a word that got one more letter
    is looked for only where it was found without it."""
    found = kept.get(words)
    if found is None:
        wider = [old for asked, old in kept.items() if all(any(word in new for new in words) for word in asked)]
        found = min(wider, key=len) if wider else range(len(texts))
        for word in words:
            found = [position for position in found if word in texts[position]]
        if len(kept) >= _MAX_KEPT_FILTERS:
            del kept[next(iter(kept))]
        kept[words] = found
    return found


class Leaves(Sequence[Node]):
    """Rows of leaves by full path; a row is made when it is looked at."""

    def __init__(self, positions: Sequence[int], paths: Sequence[str], values: Sequence[object]) -> None:
        self._positions = positions
        self._paths = paths
        self._values = values

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Node: ...

    @overload
    def __getitem__(self, index: slice) -> list[Node]: ...

    def __getitem__(self, index: int | slice) -> Node | list[Node]:
        if isinstance(index, slice):
            return [self._node(position) for position in self._positions[index]]
        return self._node(self._positions[index])

    def _node(self, position: int) -> Node:
        path = self._paths[position]
        return Node(path, path, 0, self._values[position])


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


def node_amount(node: Node, weight: Weight) -> str:
    """Elements below a row, short: `2.6M`; empty where there are none."""
    return short_count(weight.num_elements) if weight.num_elements else ""
