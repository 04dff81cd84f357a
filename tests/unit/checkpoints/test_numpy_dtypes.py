"""Dtypes that lie about their memory are dangerous; what numpy writes is not."""

from __future__ import annotations

import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from ckpt_tui.checkpoints.pickle_decode import decode_pickle
from tests.builders.pickle_routes import text

HONEST = {
    "plain": np.arange(3, dtype=">i2"),
    "objects": np.array([1, "x", None], dtype=object),
    "fields": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "aligned": np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "fields with objects": np.array([(1, {})], dtype=[("a", "i4"), ("b", "O")]),
    "nested, subarrays, text": np.zeros(2, [("p", [("x", "f4"), ("o", "O")]), ("q", "U4", (2, 3)), ("s", "S7")]),
    "time": np.array(["2026-11-21"], dtype="M8[s]"),
    "titles": np.zeros(1, np.dtype({"names": ["a"], "formats": ["f4"], "titles": ["A"]})),
    "overlapping": np.zeros(1, np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]})),
    "void": np.zeros(2, "V9"),
    "ml_dtypes": [np.zeros(2, ml_dtypes.bfloat16), np.zeros(2, ml_dtypes.float8_e4m3fn)],
    "twice": [np.zeros(2, [("a", "O")]), np.ones(3, [("a", "O")])],
}


def _verdict(raw: bytes) -> str:
    return {ref.name: str(ref.verdict) for ref in decode_pickle(raw, "data.pkl").globals}["numpy.dtype"]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", list(HONEST))
def test_what_numpy_writes_is_known(kind: str, protocol: int) -> None:
    assert _verdict(pickle.dumps(HONEST[kind], protocol)) == "known"


def _dtype(name: str) -> bytes:
    return b"cnumpy\ndtype\n(" + text(name) + b"\x89\x88tR"


def _state(fields: bytes, size: int, flags: int, names: bytes = b"(" + text("a") + b"t", sub: bytes = b"N") -> bytes:
    return b"(K\x03" + text("|") + sub + names + fields + b"K" + bytes([size]) + b"K\x01K" + bytes([flags]) + b"t"


def _field(dtype: bytes, offset: int = 0) -> bytes:
    return b"}" + text("a") + dtype + b"K" + bytes([offset]) + b"\x86s"


def _array(dtype: bytes, raw: str = "AAAAAAAA") -> bytes:
    buffer = b"c_codecs\nencode\n(" + text(raw) + text("latin1") + b"tR"
    return b"cnumpy._core.numeric\n_frombuffer\n(" + buffer + dtype + b"(K\x01t" + text("C") + b"tR"


_OBJECTS = _field(_dtype("O8"))
_PLAIN = _field(_dtype("i4"))
FORGED = {
    "objects without their flag": _array(_dtype("V8") + _state(_OBJECTS, 8, 0) + b"b") + b".",
    "a field beyond the element": _array(_dtype("V8") + _state(_field(_dtype("i8"), 200), 8, 0) + b"b") + b".",
    "a subarray larger than the element": _array(
        _dtype("V8") + _state(b"N", 8, 0, b"N", b"(" + _dtype("f8") + b"(K\xfftt") + b"b"
    ) + b".",
    "fields put there later": b"\x80\x02(" + _dtype("V8") + b"(K\x03" + text("|") + b"N(" + text("a") + b"t"
    + _PLAIN + b"q\x05K\x08K\x01K\x00tb" + b"q\x060h\x05" + text("a") + _dtype("O8") + b"K\x00\x86s0"
    + _array(b"h\x06") + b"l.",
    "a state after it was used": b"\x80\x02(" + _dtype("V8") + b"q\x060" + _array(b"h\x06")
    + b"h\x06" + _state(_OBJECTS, 8, 27) + b"bl.",
    "an inner one changed later": b"\x80\x02(" + _dtype("V8") + b"q\x060" + _dtype("V8")
    + _state(_field(b"h\x06"), 8, 0) + b"b" + b"h\x06" + _state(_OBJECTS, 8, 27) + b"bl.",
}  # fmt: skip


@pytest.mark.parametrize("kind", list(FORGED))
def test_a_dtype_that_no_numpy_wrote_is_dangerous(kind: str) -> None:
    assert _verdict(FORGED[kind]) == "dangerous"


def test_the_forgery_is_live() -> None:
    program = f"import pickle; x = pickle.loads({FORGED['objects without their flag']!r}); repr(x)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=300, check=False)
    assert done.returncode < 0  # a signal: it followed AAAAAAAA as a pointer
