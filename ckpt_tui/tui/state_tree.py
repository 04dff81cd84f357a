"""The decoded state of a checkpoint as rows of a tree, made when a branch is opened and not before.

A state dict is flat (`h.0.attn.qkv.weight`), a person thinks in modules: keys with dots are grouped by them, so
that every module shows the parameters and bytes below it. The state may be cyclic, deep and hostile: nothing here
recurses, and a branch is only as deep as somebody opens it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod

from ckpt_tui.checkpoints.model import OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.text import metric, plural, safe_text, short_count

MAX_OPENED_BY_ITSELF = 1000
MAX_FLAT_LEAVES = 200_000  # what a filter over the whole tree looks at


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
        names = [f"{tensor.file}.{tensor.name}" if tensor.file else tensor.name for tensor in tensors]
        order = sorted(range(len(names)), key=names.__getitem__)
        self._names = [names[index] for index in order]
        self._elements = list(accumulate((prod(tensors[index].shape) for index in order), initial=0))
        self._bytes = list(accumulate((tensors[index].size_bytes for index in order), initial=0))
        self._repeats: list[tuple[int, int, int, int]] = []  # (place, place of the one before, elements, bytes)
        if len({tensor.storage for tensor in tensors}) < len(tensors):
            self._find_repeats([tensors[index] for index in order])
        self.total = self._weight(0, len(names))

    def _find_repeats(self, tensors: list[TensorInfo]) -> None:
        last_place: dict[tuple[object, ...], int] = {}
        for place, tensor in enumerate(tensors):
            view = (tensor.storage, tensor.offset, tensor.shape, tensor.stride)
            if view in last_place:
                self._repeats.append((place, last_place[view], tensor.num_elements, tensor.size_bytes))
            last_place[view] = place

    def of(self, path: str) -> Weight:
        """What lies below `path`, the tensor of that very name included."""
        low = bisect_left(self._names, path + ".")
        high = bisect_left(self._names, path + "/", low)  # "/" comes next after "."
        if low == high:
            low = bisect_left(self._names, path)
            high = bisect_right(self._names, path, low)
        return self._weight(low, high)

    def _weight(self, low: int, high: int) -> Weight:
        elements = self._elements[high] - self._elements[low]
        num_bytes = self._bytes[high] - self._bytes[low]
        for place, before, repeated_elements, repeated_bytes in self._repeats:
            if low <= before and place < high:
                elements -= repeated_elements
                num_bytes -= repeated_bytes
        return Weight(high - low, elements, num_bytes)


@dataclass(slots=True, eq=False)
class Node:
    """One row. path: dotted, as tensors are named. value: what stands there; for a module the dict of its keys."""

    path: str
    label: str
    depth: int
    value: object
    is_module: bool = False
    is_open: bool = False
    children: list[Node] = field(default_factory=list)

    @property
    def tensor(self) -> TensorInfo | None:
        return self.value.info if isinstance(self.value, TensorRef) else None

    @property
    def can_open(self) -> bool:
        value = self.value
        if isinstance(value, OpaqueObject):
            return bool(value.args or value.items or value.entries or value.state is not None)
        return isinstance(value, (dict, list, tuple, set, frozenset)) and len(value) > 0


def children_of(node: Node) -> list[Node]:
    """The rows below `node`, made now."""
    value, depth, prefix = node.value, node.depth + 1, node.path
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
        head, dot, rest = key.partition(".") if isinstance(key, str) else ("", "", "")
        if not dot or not head or not rest:
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

    def __init__(self, state: object, weights: Weights) -> None:
        self.weights = weights
        self._root = Node("", "", -1, state)
        self.rows: list[Node] = children_of(self._root) if self._root.can_open else [Node("", "(the file)", 0, state)]
        self.index_of_weights = 0  # the row that `open_weights` opened first
        self._leaves: list[tuple[str, Node]] | None = None
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
        self.rows[index + 1 : index + 1] = list(_shown(node.children))

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

    def open_weights(self) -> None:
        """Open what a person comes for: the branch with most bytes, down to where it forks."""
        heaviest = max(range(len(self.rows)), key=lambda i: self.weight(self.rows[i]).size_bytes, default=-1)
        named = next((i for i, node in enumerate(self.rows) if node.label in ("model", "state_dict")), heaviest)
        index = named
        self.index_of_weights = max(index, 0)
        while 0 <= index < len(self.rows) and self.rows[index].can_open:
            node = self.rows[index]
            if isinstance(node.value, Sized) and node.is_module and len(node.value) > MAX_OPENED_BY_ITSELF:
                break
            self.open(index)
            if len(node.children) != 1:
                break
            index += 1

    def matching(self, words: list[str]) -> list[Node]:
        """Every leaf whose path or value holds all `words`, by full path. Looks at the first 200,000 leaves."""
        if self._leaves is None:
            self._leaves = list(self._walk_leaves())
        return [node for text, node in self._leaves if all(word in text for word in words)]

    def _walk_leaves(self) -> Iterator[tuple[str, Node]]:
        stack = [iter(children_of(self._root))]
        seen: set[int] = set()
        num_leaves = 0
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            if node.can_open:
                # A container is walked once: the state may hold itself.
                if id(node.value) in seen:
                    continue
                if not node.is_module:
                    seen.add(id(node.value))
                stack.append(iter(children_of(node)))
                continue
            num_leaves += 1
            if num_leaves > MAX_FLAT_LEAVES:
                self.leaves_cut = True
                return
            yield f"{node.path} {summary(node.value)}".lower(), Node(node.path, node.path, 0, node.value)


def _shown(nodes: list[Node]) -> Iterator[Node]:
    """`nodes` and, below each that was left open, its own."""
    stack = [iter(nodes)]
    while stack:
        node = next(stack[-1], None)
        if node is None:
            stack.pop()
            continue
        yield node
        if node.is_open:
            stack.append(iter(node.children))


def node_amount(node: Node, weight: Weight) -> str:
    """Elements below a row, short: `2.6M`; empty where there are none."""
    return short_count(weight.num_elements) if weight.num_elements else ""
