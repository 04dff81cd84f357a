"""The change of whole modules, summed up from the changes of their tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ckpt_tui.records import dataclass

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.tensor_changes import TensorChange

_MAX_DEPTH = 24
_MAX_MODULES = 100_000
_MAX_NAME_CHARS = 2000  # longer ones count in the whole model only


@dataclass(frozen=True, slots=True)
class ModuleChange:
    """One module of the model, all that is below it included; "" is the whole model.

    relative_l2: |b - a| / |a| over all elements of the tensors whose values were compared, None where none was.
    num_changed: tensors that differ in any way, only being there on one side included.
    """

    name: str
    num_tensors: int
    num_changed: int
    relative_l2: float | None
    max_abs: float | None

    @property
    def depth(self) -> int:
        return self.name.count(".") + 1 if self.name else 0


def module_changes(changes: Iterable[TensorChange]) -> tuple[ModuleChange, ...]:
    """Every module that holds a tensor of the model, at every depth, most changed first."""
    sums: dict[str, _Sum] = {}
    for change in changes:
        words = change.key.split(".", _MAX_DEPTH)[:-1] if len(change.key) <= _MAX_NAME_CHARS else []
        for depth in range(len(words) + 1):
            name = ".".join(words[:depth])
            found = sums.get(name)
            if found is None:
                if len(sums) >= _MAX_MODULES:
                    break
                sums[name] = found = _Sum()
            found.add(change)
    modules = [found.module(name) for name, found in sums.items()]
    return tuple(sorted(modules, key=_by_change))


def shown_depth(modules: tuple[ModuleChange, ...], num_rows: int) -> int:
    """The depth at which a model is best looked at: that of its numbered layers, else where it parts into about
    `num_rows`."""
    counts: dict[int, int] = {}
    layers: dict[int, int] = {}
    for module in modules:
        counts[module.depth] = counts.get(module.depth, 0) + 1
        if module.name.rpartition(".")[2].isdecimal():
            layers[module.depth] = layers.get(module.depth, 0) + 1
    numbered = [depth for depth, num in sorted(layers.items()) if num > 1]
    wide = [depth for depth, num in sorted(counts.items()) if num >= num_rows]
    found = numbered or wide
    return found[0] if found else max(counts, key=lambda depth: (counts[depth], -depth), default=0)


def at_depth(modules: tuple[ModuleChange, ...], depth: int) -> list[ModuleChange]:
    """The modules of that depth, and those above that have none in them: together the whole model, each once."""
    parents = {module.name.rpartition(".")[0] for module in modules if module.name}
    return [m for m in modules if m.depth == depth or (m.depth < depth and m.name not in parents)]


def _by_change(module: ModuleChange) -> tuple[float, float, str]:
    relative = module.relative_l2 if module.relative_l2 is not None else math.inf if module.num_changed else -1.0
    return (-relative, -(module.max_abs or 0.0), module.name)


class _Sum:
    __slots__ = ("largest", "norm_a", "norm_change", "num_changed", "num_compared", "num_tensors", "views")

    def __init__(self) -> None:
        self.num_tensors = self.num_changed = self.num_compared = 0
        self.norm_a = self.norm_change = 0.0
        self.largest: float | None = None
        self.views: set[int] = set()  # tied tensors count once

    def add(self, change: TensorChange) -> None:
        self.num_tensors += 1
        self.num_changed += change.change not in ("same", "unknown")
        if change.norm_a is None or change.norm_change is None or change.view in self.views:
            return
        self.views.add(change.view)
        self.num_compared += 1
        self.norm_a = math.hypot(self.norm_a, change.norm_a)
        self.norm_change = math.hypot(self.norm_change, change.norm_change)
        if change.max_abs is not None:
            self.largest = max(self.largest or 0.0, change.max_abs)

    def module(self, name: str) -> ModuleChange:
        relative: float | None = None
        if self.num_compared:
            relative = 0.0 if not self.norm_change else self.norm_change / self.norm_a if self.norm_a else math.inf
        return ModuleChange(name, self.num_tensors, self.num_changed, relative, self.largest)
