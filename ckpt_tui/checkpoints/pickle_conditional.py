"""Globals that are dangerous in general, and harmless as honest pickles call them: each call is looked at.

`getattr(Class, "Inner")` is how a nested class is pickled, `getitem(typing.Union, ...)` a type hint, `type(None)` its
class, and torch's `_load_from_bytes` holds a tensor's storage. One call of another kind, or one of them handed to
something that may call it, and the name is dangerous again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ckpt_tui.checkpoints.model import OpaqueObject
from ckpt_tui.checkpoints.pickle_globals import OPENER, known_reason
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName

_GETATTR = frozenset({"builtins.getattr", "__builtin__.getattr"})
_GETITEM = frozenset({"operator.getitem", "_operator.getitem"})
_TYPE = frozenset({"builtins.type", "__builtin__.type"})
_REASONS = {
    **dict.fromkeys(_GETATTR, "names inner classes here, which are judged by their whole names"),
    **dict.fromkeys(_GETITEM, "builds type hints here"),
    **dict.fromkeys(_TYPE, "names the class of None here"),
    OPENER: "opens torch files that lie in the pickle; they were decoded and judged too",
}


class ConditionalCalls:
    """Those that one pickle names, and how it calls them. name: gives the global of a module and a name."""

    def __init__(self, name: Callable[[str, str], GlobalName]) -> None:
        self._name = name
        self._functions: list[GlobalName] = []
        self._innocent: set[str] = set()
        self._misused: set[str] = set()
        self._num_looked_at = 0

    def add(self, function: GlobalName) -> None:
        self._functions.append(function)

    def note_values(self, values: Iterable[object], num_bytes: int) -> None:
        """What a call is given, or an object or container holds: whoever gets one of them may call it.

        Tuples are made without a word, so they are looked into. num_bytes: of the pickle; an honest one has no more
        items than that, and a hostile one that makes us look at the same tuples again and again is not followed.
        """
        most = max(num_bytes, 4096)
        waiting = [values] if self._num_looked_at <= most else []
        while waiting:
            for item in waiting.pop():
                if type(item) is GlobalName:
                    if any(item is function for function in self._functions):
                        self._misused.add(item.type_name)
                elif type(item) is tuple and item:
                    self._num_looked_at += len(item)
                    waiting.append(item)
            if self._num_looked_at > most:
                self._misused.update(function.type_name for function in self._functions)
                self._num_looked_at = 1 << 62  # and it stays so
                return

    def note_call(self, name: str, *, is_innocent: bool) -> None:
        (self._innocent if is_innocent else self._misused).add(name)

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        """What a call gives, when it is one of the harmless ones; None otherwise."""
        made = self._made(name, arguments)
        self.note_call(name, is_innocent=made is not None)
        return made

    def _made(self, name: str, arguments: tuple[object, ...]) -> object:
        first = arguments[0] if arguments else None
        if name in _TYPE:
            return self._name("builtins", "NoneType") if arguments == (None,) else None
        if len(arguments) != 2 or type(first) is not GlobalName:
            return None
        second = arguments[1]
        if name in _GETATTR:
            is_plain = type(second) is str and second.isidentifier() and not second.startswith("__")
            return self._name(first.type_name, str(second)) if is_plain else None
        if name in _GETITEM and first.type_name.startswith("typing.") and known_reason(first.type_name):
            return OpaqueObject(first.type_name, (second,))
        return None

    def reason(self, name: str) -> str | None:
        """Why one of them is harmless in this pickle; None when it is not."""
        if name in self._innocent and name not in self._misused:
            return _REASONS[name]
        return None
