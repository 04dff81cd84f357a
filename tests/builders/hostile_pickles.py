"""Pickles that are small in the file and mean to be large, slow or deep in memory."""

from __future__ import annotations

import struct

from tests.builders.pickle_routes import text

_M61 = (1 << 61) - 1


def integer(value: int) -> bytes:
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def tensor(shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A call of _rebuild_tensor_v2 on the float32 storage `0`."""
    numbers = b"".join(b"(" + b"".join(map(integer, extents)) + b"t" for extents in (shape, stride))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x01tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + numbers + b"\x89NtR"


def colliding_tuples(number: int) -> list[tuple[int, int]]:
    """Pairs of integers that share one hash: CPython's hash of a tuple is not seeded, and can be turned around."""
    mask, prime1, prime2, prime5 = (1 << 64) - 1, 11400714785074694791, 14029467366897019727, 2870177450012600261
    unprime1, unprime2 = pow(prime1, -1, 1 << 64), pow(prime2, -1, 1 << 64)

    def turned(value: int, left: int) -> int:
        return ((value << left) | (value >> (64 - left))) & mask

    pairs: list[tuple[int, int]] = []
    first = 0
    wanted = turned(12345 * unprime1 & mask, 33)  # the sum before the last turn
    while len(pairs) < number:
        first += 1
        inner = turned((prime5 + first * prime2) & mask, 31) * prime1 & mask
        second = (wanted - inner) * unprime2 & mask
        if second < _M61:
            pairs.append((first, second))
    return pairs


def _keys(keys: list[bytes]) -> bytes:
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u."


def _copies(call: bytes, value: bytes, times: int) -> bytes:
    """One memoised value given to `call` again and again; every result stays in a list."""
    return b"(" + value + b"q\x00" + (call + b"h\x00\x85R") * times + b"l."


_WORD = text("a" * 1_000_000)
_RAW = b"B" + struct.pack("<I", 10**6) + bytes(10**6)
HAZARDS: dict[str, bytes] = {
    "key nested 100,000 deep": b"}N" + b"\x85" * 100_000 + b"Ns.",
    "integers that share one hash": _keys([integer(n * _M61) for n in range(1, 50_000)]),
    "tuples that share one hash": _keys(
        [integer(a) + integer(b) + b"\x86" for a, b in colliding_tuples(50_000)]
    ),
    "one wide key a thousand times": b"}(" + b"(" + b"N" * 100_000 + b"tq\x00N" + b"h\x00N" * 1_000 + b"u.",
    "keys that cannot be hashed": _keys(
        [b"]", b"}", tensor((1,), (1,)), b"cenum\nColor\nK\x01\x85R", b"cenum\nColor\n", b"(]t"] * 1_000
    ),
    "text encoded a thousand times": _copies(b"c_codecs\nencode\n", _WORD, 1_000),
    "bytes built a thousand times": _copies(b"cbuiltins\nbytes\n", _WORD, 1_000),
    "bytearrays built a thousand times": _copies(b"cbuiltins\nbytearray\n", _RAW, 1_000),
    "dicts copied a thousand times": _copies(
        b"ccollections\nOrderedDict\n", b"}(" + b"".join(integer(n) + b"N" for n in range(50_000)) + b"u", 1_000
    ),
    "sizes copied a thousand times": _copies(b"ctorch\nSize\n", b"](" + b"K\x01" * 500_000 + b"e", 1_000),
    "extents beyond 64 bits": tensor((1 << 62,) * 64, (1,) * 64) + b".",
    "10,000 dimensions": tensor((1,) * 10_000, (1,) * 10_000) + b".",
    "exabytes in one tensor": tensor((1 << 60,), (1,)) + b".",
    "strides beyond everything": tensor((1 << 31, 1 << 31), (1 << 62, 1 << 62)) + b".",
    "list nested 200,000 deep": b"]" * 200_000 + b"a" * 199_999 + b".",
    "billion laughs": b"]q\x00" + b"".join(
        b"](" + (b"h" + bytes([n])) * 10 + b"eq" + bytes([n + 1]) for n in range(60)
    ) + b".",
    "cycle of dicts": b"}q\x00" + text("me") + b"h\x00s" + text("again") + b"](h\x00h\x00es.",
}  # fmt: skip
