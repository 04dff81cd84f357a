"""Whether a numpy dtype in a pickle is one that numpy would have written.

`dtype.__setstate__` takes flags, fields and offsets as they come (numpy 2.4, `arraydescr_setstate`). Fields of objects
with flags that deny it make bytes of the file into pointers, fields beyond the element read what lies behind it: an
array of such a dtype ends the process, or worse, with nothing named but `numpy.dtype`.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.model import OpaqueObject

REASON = "the state of a dtype is forged: an array of it takes bytes of the file for pointers, or reads beyond its own"
_PLAIN_KINDS = frozenset("biufcSUVmM?")
_HOLDS_REFERENCES = 0x03  # NPY_ITEM_REFCOUNT and NPY_LIST_PICKLE: what an honest dtype with objects has
_MAX_DEPTH = 20
_MAX_FIELDS = 100_000
_MAX_BYTES = 1 << 40


class Forged(Exception):  # noqa: N818 - an answer, not an error
    """No numpy wrote it."""


def is_forged(dtype: OpaqueObject, state: object) -> bool:
    """Whether BUILD gives the dtype a state that makes it lie about its memory."""
    try:
        _describe(dtype, state, 0)
    except Forged:
        return True
    return False


def fields_of(state: object) -> object:
    """The dict of fields in a dtype's state, None when there is none: numpy keeps it, and sees what is put there."""
    return state[4] if type(state) is tuple and len(state) > 4 else None


def _describe(dtype: object, state: object, depth: int) -> tuple[int, bool]:
    """(bytes of an element, whether it holds objects). Raises Forged."""
    if depth > _MAX_DEPTH or type(dtype) is not OpaqueObject or dtype.type_name != "numpy.dtype":
        raise Forged
    num_bytes, is_object = _by_name(dtype.args[0] if dtype.args else None)
    if state is None:
        return num_bytes, is_object
    if type(state) is not tuple or len(state) not in (8, 9) or state[0] not in (3, 4):
        raise Forged
    subarray, names, fields, element_bytes, flags = state[2], state[3], state[4], state[5], state[7]
    if type(element_bytes) is not int or type(flags) is not int or not -1 <= element_bytes < _MAX_BYTES:
        raise Forged
    if element_bytes >= 0:
        num_bytes = element_bytes
    if subarray is not None:
        is_object |= _check_subarray(subarray, num_bytes, depth)
    if fields is not None or names is not None:
        is_object |= _check_fields(fields, num_bytes, depth)
    if is_object and flags & _HOLDS_REFERENCES != _HOLDS_REFERENCES:
        raise Forged
    return num_bytes, is_object


def _by_name(name: object) -> tuple[int, bool]:
    """Of `f8`, `U10`, `M8[ns]`, `O8`, ml_dtypes.bfloat16: (bytes, whether it is objects)."""
    if isinstance(name, OpaqueObject) and name.type_name.startswith("ml_dtypes."):
        return (2 if name.type_name.endswith("16") else 1), False
    if type(name) is not str or len(name) > 60:
        raise Forged
    word = name.lstrip("<>=|")
    kind, digits = word[:1], word[1:].partition("[")[0]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
        raise Forged
    if kind == "O":
        return 8, True
    if kind not in _PLAIN_KINDS:
        raise Forged
    return int(digits) * (4 if kind == "U" else 1), False


def _check_subarray(subarray: object, num_bytes: int, depth: int) -> bool:
    if type(subarray) is not tuple or len(subarray) != 2:
        raise Forged
    base, shape = subarray
    inner_bytes, is_object = _describe(base, base.state if type(base) is OpaqueObject else None, depth + 1)
    for extent in shape if type(shape) is tuple else (shape,):
        if type(extent) is not int or extent < 0:
            raise Forged
        inner_bytes *= extent
        if inner_bytes > _MAX_BYTES:
            raise Forged
    if inner_bytes > num_bytes:
        raise Forged
    return is_object


def _check_fields(fields: object, num_bytes: int, depth: int) -> bool:
    if type(fields) is not dict or len(fields) > _MAX_FIELDS:
        raise Forged
    is_object = False
    for field in fields.values():
        if type(field) is not tuple or len(field) not in (2, 3) or type(field[1]) is not int:
            raise Forged
        inner = field[0]
        inner_bytes, holds = _describe(inner, inner.state if type(inner) is OpaqueObject else None, depth + 1)
        if field[1] < 0 or field[1] + inner_bytes > num_bytes:
            raise Forged
        is_object |= holds
    return is_object
