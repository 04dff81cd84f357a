"""The decoded state of a checkpoint as rows of a tree, made when a branch is opened and not before.

A state dict is flat (`h.0.attn.qkv.weight`), a person thinks in modules: keys with dots are grouped by them, so
that every module shows the parameters and bytes below it. The state may be cyclic, deep and hostile: nothing here
recurses, and a branch is only as deep as somebody opens it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import field

from ckpt_tui.checkpoints.contents import PartFile
from ckpt_tui.checkpoints.model import CompositeRef, OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.records import dataclass
from ckpt_tui.text import safe_text
from ckpt_tui.tui.leaves import Leaves
from ckpt_tui.tui.picked_rows import PickedRows, natural
from ckpt_tui.tui.value_words import key_text
from ckpt_tui.tui.weights import Weight, Weights

MAX_OPENED_BY_ITSELF = 1000
MAX_LEVELS_OPENED_BY_ITSELF = 12
TREE_SORTS: tuple[str, ...] = ("", "size", "name", "elements")
_LARGE_BRANCH = 2_000  # entries below it: more take longer than a person notices, and are grouped by modules ahead


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
        self._leaves: Leaves | None = None

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

    @property
    def leaves_cut(self) -> bool:
        """Whether a filter does not look at all of them."""
        return self._leaves is not None and self._leaves.is_cut

    def prepare(self) -> None:
        """Walk the whole state once, for `matching` and for branches that are opened: for a worker, it takes half a
        second for 100,000 tensors."""
        self._all_leaves()
        for node in list(self.rows):
            if isinstance(node.value, dict) and len(node.value) >= _LARGE_BRANCH and not node.children:
                children = children_of(node)
                node.children = node.children or children  # it may have been opened meanwhile

    def _all_leaves(self) -> Leaves:
        if self._leaves is None:
            self._leaves = Leaves(self._root.value)
        return self._leaves

    def matching(self, words: Sequence[str]) -> Sequence[Node]:
        """Every leaf whose path or value holds all `words`, by full path. Looks at the first 200,000 leaves."""
        leaves = self._all_leaves()
        paths, values = leaves.paths, leaves.values
        return PickedRows(leaves.holding(words), lambda place: Node(paths[place], paths[place], 0, values[place]))
