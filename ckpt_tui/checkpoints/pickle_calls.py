"""What the calls in a pickle stand for, and what its containers hold: nothing is called but our own builders.

Bounded: a value that is copied again and again, keys that are deep or made to collide, bytes that hold pickles.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from struct import error as struct_error

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import CompositeRef, OpaqueObject, TensorRef
from ckpt_tui.checkpoints.pickle_globals import CONDITIONAL, FROM_BUFFER, OPENER
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName, MalformedTensor, StorageRef

TYPE_CHECKING = False  # what few pickles need is imported when one does: `inspect` has a budget of 70 ms altogether
if TYPE_CHECKING:
    from ckpt_tui.checkpoints.pickle_arrays import InPlace
    from ckpt_tui.checkpoints.pickle_conditional import ConditionalCalls
    from ckpt_tui.checkpoints.pickle_source import DistantBytes, Window

MAX_EMBEDDED = 2_000  # bytes values that are looked into for pickles
OPENINGS = frozenset({b"\x80", b"P", b"(", b"]", b"}", b"c"})  # first bytes of pickles, and of zip archives
_MIN_EMBEDDED_BYTES = 4
_MAX_PLAIN_INT = (1 << 61) - 1  # larger ones can share one hash, which makes a dict of them quadratic
_MAX_KEY_NODES = 256
_MAX_TUPLE_KEYS = 2_000  # of one pickle; tuples can be made to share one hash, which is not seeded; no file has many
_MAX_ARRAY_MEMO = 64  # entries back to where an array was memoised before its state was read


class Stop(Exception):  # noqa: N818 - a limit, not an error of ours
    """The pickle asks for more than a limit, or is not one."""


class RanOut(Stop):
    """An operand goes beyond what is in memory. needed: bytes from the opcode on."""

    def __init__(self, what: str, needed: int) -> None:
        super().__init__(what)
        self.needed = needed


_NEW_OBJECT = frozenset(
    f"{module}.{name}"
    for module in ("copyreg", "copy_reg")
    for name in ("__newobj__", "__newobj_ex__", "_reconstructor")
)
_SETS = frozenset(
    {"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset", "collections.deque"}
)


def _positional(arguments: tuple[object, ...]) -> tuple[object, ...]:
    """The positional arguments of copyreg.__newobj_ex__(class, args, kwargs)."""
    given = arguments[1] if len(arguments) > 1 else ()
    return given if type(given) is tuple else ()


class PickleCalls:
    """What one pickle has named and built so far."""

    def __init__(self, data: bytes, limits: ReadLimits) -> None:
        self.data = data
        self.limits = limits
        self.window: Window | None = None  # where more bytes come from
        self.names: dict[tuple[str, str], GlobalName] = {}
        self.copied = 0
        self.odd_keys: dict[str, object] = {}
        self.num_tuple_keys = 0
        self.num_malformed = 0
        self.embedded: list[bytes | DistantBytes] = []  # bytes that begin like a pickle, or a file that holds one
        self.in_place: InPlace | None = None  # for arrays whose bytes lie in the pickle
        self.conditional: ConditionalCalls | None = None  # when it names one of those
        self.changed: set[str] = set()  # classes and functions whose own attributes it sets
        self.has_forged_dtype = False
        self.dtype_fields: dict[int, object] = {}  # by id: what numpy's dtypes keep of the pickle's dicts
        self.used_dtypes: dict[int, object] = {}  # by id: dtypes that something has been made of
        self.calls_object = False  # it calls something that is no global: an object that it made

    def note_bytes(self, value: bytes) -> None:
        """Keep bytes that may be a pickle: one with a header, one that ends as those without do, or an archive."""
        first = value[:1]
        if first in OPENINGS and len(value) >= _MIN_EMBEDDED_BYTES:
            is_likely = first == b"\x80" or value[:4] == b"PK\x03\x04" or value[-1:] == b"."
            if is_likely and len(self.embedded) < MAX_EMBEDDED:
                self.embedded.append(value)

    def named(self, module: str, name: str) -> GlobalName:
        """The global of this name, made when it is new."""
        return self.names.get((module, name)) or self.name(module, name)

    def name(self, module: str, name: str) -> GlobalName:
        """The global of this name, the same one each time."""
        found = self.names[(module, name)] = GlobalName(f"{module}.{name}")
        if found.type_name in CONDITIONAL:
            if self.conditional is None:
                from ckpt_tui.checkpoints.pickle_conditional import ConditionalCalls

                self.conditional = ConditionalCalls(self.named)
            self.conditional.add(found)
        return found

    def call(self, function: object, arguments: object) -> object:
        """What a call stands for. Nothing is called but our own builders."""
        if type(arguments) is not tuple:
            raise Stop("a call whose arguments are no tuple")
        if self.conditional is not None:
            self.note_held(arguments)
        if type(function) is not GlobalName:
            self.calls_object = True
            return OpaqueObject("result of a call", (function, *arguments[:16]))
        if function.type_name[:6] == "numpy.":
            self.note_used_dtypes(arguments)
        if function.copies and arguments:
            first = arguments[0]
            if isinstance(first, (str, bytes, list, tuple, dict)):
                self.copied += len(first)
                num_bytes = len(self.data) if self.window is None else self.window.num_read
                if self.copied > max(num_bytes, 4096) * 4:
                    raise Stop("it copies the same data again and again")
        builder = function.builder
        if builder is not None:
            try:
                made = builder(*arguments)
                if function.copies and type(made) is bytes:
                    self.note_bytes(made)
                return made
            except MalformedTensor:
                self.num_malformed += 1
                return OpaqueObject(function.type_name, arguments)
            except (TypeError, ValueError, UnicodeError, struct_error):
                return OpaqueObject(function.type_name, arguments)
        name = function.type_name
        if self.conditional is not None and name in CONDITIONAL and name != OPENER:
            made = self.conditional.call(name, arguments)
            return OpaqueObject(name, arguments) if made is None else made
        if name == OPENER or (self.in_place is not None and name in FROM_BUFFER):
            made = self.in_place.call(name, arguments) if self.in_place is not None else None
            if self.conditional is not None and name == OPENER:
                self.conditional.note_call(name, is_innocent=made is not None)
            return OpaqueObject(name, arguments) if made is None else made
        if name in _NEW_OBJECT and arguments:
            if name.endswith("_reconstructor"):
                return self.reconstruct(arguments)
            kind = arguments[0]
            if type(kind) is GlobalName and kind.type_name not in _NEW_OBJECT:
                return self.call(kind, arguments[1:] if name.endswith("__newobj__") else _positional(arguments))
            self.calls_object = True  # its `__new__` may be any function that the pickle put there
        if name in _SETS and len(arguments) == 1 and type(arguments[0]) is list:
            return OpaqueObject(name, items=arguments[0])
        return OpaqueObject(name, arguments)

    def note_held(self, values: Iterable[object]) -> None:
        """What is handed over or put away, for the names that are harmless only where they are called at once."""
        if self.conditional is not None:
            num_bytes = len(self.data) if self.window is None else self.window.num_read
            self.conditional.note_values(values, num_bytes)

    def build(self, target: object, state: object) -> None:
        """BUILD: keep the state of an object. Given to a class or a function, it changes what those do for all."""
        if self.conditional is not None:
            self.note_held((state,) if type(state) is not dict else ())
        if type(target) is GlobalName and state is not None:
            self.changed.add(target.type_name)
        if state is not None:  # pickle does nothing then
            if type(state) is tuple:
                self.note_used_dtypes(state)
            if type(target) is OpaqueObject and target.type_name == "numpy.dtype":
                self.note_dtype(target, state)
            build(target, state)

    def note_dtype(self, dtype: OpaqueObject, state: object) -> None:
        """Look at the state of a numpy dtype: most are of plain numbers, and cannot lie."""
        # An honest one gets its state once, before it is used: later it would change under what was made of it.
        self.has_forged_dtype |= dtype.state is not None or id(dtype) in self.used_dtypes
        is_plain = type(state) is tuple and state[2:5] == (None, None, None) and dtype.args[:1] != ("O8",)
        if is_plain and type(dtype.args[0] if dtype.args else None) is str and str(dtype.args[0])[:1] in "biufcSUV":
            return
        from ckpt_tui.checkpoints.numpy_dtypes import fields_of, is_forged

        self.has_forged_dtype |= is_forged(dtype, state)
        fields = fields_of(state)
        if type(fields) is dict:
            self.dtype_fields[id(fields)] = fields
            for field in fields.values():
                if type(field) is tuple:
                    self.note_used_dtypes(field)
        if type(state) is tuple and len(state) > 2 and type(state[2]) is tuple:
            self.note_used_dtypes(state[2])

    def note_used_dtypes(self, values: tuple[object, ...]) -> None:
        """Remember the dtypes among what a call or a state is given."""
        for value in values[:16]:
            if type(value) is OpaqueObject and value.type_name == "numpy.dtype":
                self.used_dtypes[id(value)] = value

    def build_array(self, stack: list[object], state: object, memo: dict[int, object]) -> bool:
        """Put a tensor where numpy's array stands, also in the memo; False when it is none, or one of objects."""
        target = stack[-1]
        if type(target) is not OpaqueObject or target.type_name != "numpy.ndarray" or self.in_place is None:
            return False
        if type(state) is tuple:
            self.note_used_dtypes(state)
        tensor = self.in_place.array(state)
        if tensor is None:
            return False
        stack[-1] = tensor
        for key in islice(reversed(memo), _MAX_ARRAY_MEMO):
            if memo[key] is target:
                memo[key] = tensor
        return True

    def reconstruct(self, arguments: tuple[object, ...]) -> object:
        """copyreg._reconstructor(class, base, state): how protocols 0 and 1 build an object."""
        kind = arguments[0]
        if len(arguments) > 1 and type(arguments[1]) is not GlobalName:
            self.calls_object = True  # as a base, its `__new__` and `__init__` are called
        if type(kind) is not GlobalName or kind.type_name in _NEW_OBJECT:
            self.calls_object = True
            return OpaqueObject("result of a call", arguments[:16])
        rest = arguments[2:3] if len(arguments) > 2 and arguments[2] is not None else ()
        return self.call(kind, rest)

    def set_items(self, target: object, pairs: list[object]) -> None:
        if len(pairs) % 2:
            raise Stop("a key without a value")
        if self.conditional is not None:
            self.note_held(pairs)
        if type(target) is dict:
            entries: dict[object, object] = target
            self.has_forged_dtype |= id(target) in self.dtype_fields
        elif type(target) is OpaqueObject:
            entries = target.entries
        else:
            raise Stop("items set on something that takes none")
        at = 0
        for key in pairs[::2]:
            entries[key if type(key) is str else self.hashable(key)] = pairs[at + 1]
            at += 2

    def extend(self, target: object, values: list[object]) -> None:
        if self.conditional is not None:
            self.note_held(values)
        if type(target) is list:
            target.extend(values)
        elif type(target) is OpaqueObject:
            target.items.extend(values)
        else:
            raise Stop("items added to something that takes none")

    def hashable(self, key: object) -> object:
        """`key`, or a text for it when it cannot be a key here (an object), or must not (deep, or made to collide)."""
        if _is_plain_key(key) and (type(key) is not tuple or self.num_tuple_keys < _MAX_TUPLE_KEYS):
            self.num_tuple_keys += type(key) is tuple
            return key
        kind = key.type_name if isinstance(key, OpaqueObject) else type(key).__name__
        text = f"<{kind[:200]} #{len(self.odd_keys) + 1}>"
        self.odd_keys[text] = key
        return text


def _is_plain_key(key: object) -> bool:
    """Whether hashing `key` is cheap and shallow. A tuple nested 100,000 deep would end the process."""
    kind = type(key)
    if kind is int:
        return -_MAX_PLAIN_INT < key < _MAX_PLAIN_INT  # type: ignore[operator]
    if kind in (str, bytes, bool, float) or key is None:
        return True
    if kind is not tuple:
        return False
    waiting = [(key, 0)]
    num_nodes = 0
    while waiting:
        items, depth = waiting.pop()
        assert isinstance(items, tuple)
        num_nodes += len(items)
        if depth > 8 or num_nodes > _MAX_KEY_NODES:
            return False
        for item in items:
            if type(item) is tuple:
                waiting.append((item, depth + 1))
            elif not _is_plain_key(item):
                return False
    return True


def build(target: object, state: object) -> None:
    """BUILD: keep the state of an object. OrderedDict's attributes and a tensor's are not part of the tree."""
    if type(target) is OpaqueObject:
        target.state = state
    elif type(target) not in (
        dict,
        list,
        tuple,
        GlobalName,
        TensorRef,
        CompositeRef,
        StorageRef,
        str,
        int,
        float,
        bytes,
    ):
        raise Stop("a state given to something that takes none")
