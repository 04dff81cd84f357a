"""Ways to spoil a file: blind ones, and ones that know what zips, safetensors and pickles look like inside.

Everything is drawn from the `random.Random` that is given: the same number makes the same file.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Sequence

_ODD_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
                (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 10**9, 10**12)  # fmt: skip
# What a pickle can be made to do: call, build, repeat, nest, refer.
_OPCODES = (
    b"cos\nsystem\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cbuiltins\ngetattr\n",
    b"c_codecs\nencode\n", b"R", b"b", b"\x81", b"\x92", b"o", b"ios\nsystem\n", b"(", b"t", b"0", b"1", b"2", b"]",
    b"}", b")", b"N", b"\x85", b"\x86", b"\x87", b"s", b"u", b"a", b"e", b"l", b"d", b"h\x00", b"h\x01", b"q\x00",
    b"q\x01", b"r\xff\xff\xff\xff", b"j\x00\x00\x00\x00", b"\x93", b"Q", b"P0\n", b"K\x00", b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"X\x01\x00\x00\x00a", b"X\xff\xff\xff\x7f", b"\x8f", b"\x90",
    b"\x91", b"\x94", b"\x95\x00\x00\x00\x00\x00\x00\x00\x00", b"\x97", b"\x98", b"\x82\x01", b".", b"\x80\x02",
)  # fmt: skip


def mutate(raw: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """`raw`, spoiled in one to three ways. others: files to take pieces from."""
    if chance.random() < 0.35:
        inside = _inside(raw, chance, others)
        if inside is not None:
            return inside
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        raw = chance.choice(_BLIND)(raw, chance, others)
    return raw


def _inside(raw: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes | None:
    """Spoil what is in a container and close the container properly again; None when it is none that we know."""
    if raw[:4] == b"PK\x03\x04":
        return _rezipped(raw, chance, others)
    if len(raw) > 9 and raw[8:9] == b"{" and raw[6:8] == b"\0\0":
        return _reheaded(raw, chance)
    if raw[:1] == b"{" and chance.random() < 0.7:
        return _rejsoned(raw, chance)
    if raw[:1] == b"\x80":
        return _repickled(raw, chance, others)
    return None


def _rezipped(raw: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes | None:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            records = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # noqa: BLE001 - zipfile dies in many ways on what was spoiled before
        return None
    which = [i for i, (name, _) in enumerate(records) if name.endswith((".pkl", ".json", "byteorder", ".npy"))]
    at = chance.choice(which) if which and chance.random() < 0.8 else chance.randrange(len(records))
    name, data = records[at]
    turn = chance.random()
    if turn < 0.75:
        spoil = _repickled if name.endswith(".pkl") else chance.choice(_BLIND)
        records[at] = (name, spoil(data, chance, others))
    elif turn < 0.85:
        records.append((name, chance.choice(_BLIND)(data, chance, others)))
    elif turn < 0.95:
        del records[at]
    else:
        records[at] = (
            chance.choice(("../../etc/x", "/x", name + "\x1b[2J", name[:-1] or "x", "data.pkl", "\x01")),
            data,
        )
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, data in records:
                archive.writestr(name, data)
    return buffer.getvalue()


def _reheaded(raw: bytes, chance: random.Random) -> bytes:
    length = int.from_bytes(raw[:8], "little")
    header, rest = raw[8 : 8 + length], raw[8 + length :]
    header = _rejsoned(header, chance) if chance.random() < 0.6 else chance.choice(_BLIND)(header, chance, ())
    return struct.pack("<Q", len(header)) + header + rest


def _rejsoned(raw: bytes, chance: random.Random) -> bytes:
    """Replace one value, somewhere in a JSON document, by something that does not belong there."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return chance.choice(_BLIND)(raw, chance, ())
    places: list[tuple[object, object]] = []
    waiting = [document]
    while waiting and len(places) < 500:
        value = waiting.pop()
        if isinstance(value, (dict, list)):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            places += [(value, key) for key in keys]
            waiting += [value[key] for key in keys]  # type: ignore[index]
    if not places:
        return raw + b" "
    container, key = chance.choice(places)
    odd = chance.choice(
        (None, [], {}, "", "../../x", "/etc/passwd", "\x1b]0;x\x07", -1, 0, 1 << 70, 1e308, float("nan"), True,
         [1 << 62] * 4, [-1, 2], "F32", "x" * 5000, {"weight_map": {}}, list(range(100)))
    )  # fmt: skip
    if chance.random() < 0.2 and isinstance(container, dict):
        container[chance.choice(("\0", "__metadata__", "[/x]", "a\nb", "💥" * 50))] = container.pop(key)
    else:
        container[key] = odd  # type: ignore[index]
    return json.dumps(document).encode()


def _repickled(raw: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    turn = chance.random()
    at = chance.randrange(len(raw) + 1)
    if turn < 0.4:
        return raw[:at] + b"".join(chance.choice(_OPCODES) for _ in range(chance.randrange(1, 6))) + raw[at:]
    if turn < 0.6:
        return raw[:at] + chance.choice(_OPCODES) + raw[at + chance.randrange(1, 12) :]
    return chance.choice(_BLIND)(raw, chance, others)


# --- blind


def _flip(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    if not raw:
        return b"\0"
    data = bytearray(raw)
    for _unused in range(chance.choice((1, 1, 2, 8))):
        data[_place(raw, chance)] ^= 1 << chance.randrange(8)
    return bytes(data)


def _number(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice(_ODD_NUMBERS) & ((1 << 8 * width) - 1)
    at = _place(raw, chance)
    return raw[:at] + value.to_bytes(width, chance.choice(("little", "big"))) + raw[at + width :]


def _noise(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at, width = _place(raw, chance), chance.choice((1, 3, 16, 200))
    return raw[:at] + chance.randbytes(width) + raw[at + width :]


def _zeros(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at, width = _place(raw, chance), chance.choice((1, 8, 64, 512, 4096))
    return raw[:at] + bytes(min(width, len(raw) - at)) + raw[at + width :]


def _cut(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    return raw[: _place(raw, chance)]


def _behead(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    return raw[chance.choice((1, 4, 30, 64, _place(raw, chance))) :]


def _drop(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at = _place(raw, chance)
    return raw[:at] + raw[at + chance.choice((1, 2, 8, 100)) :]


def _repeat(raw: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at, width, times = _place(raw, chance), chance.choice((1, 4, 46, 300)), chance.choice((1, 2, 50))
    return raw[:at] + raw[at : at + width] * times + raw[at:]


def _splice(raw: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    if not others:
        return raw + raw[-64:]
    other = chance.choice(others)
    begin = chance.randrange(len(other) + 1)
    piece = other[begin : begin + chance.choice((4, 64, 1000, 100_000))]
    at = _place(raw, chance)
    return raw[:at] + piece + raw[at + (len(piece) if chance.random() < 0.5 else 0) :]


def _place(raw: bytes, chance: random.Random) -> int:
    """A byte: often near the ends, where headers and directories lie."""
    if not raw:
        return 0
    near = min(len(raw), 2000)
    turn = chance.random()
    if turn < 0.35:
        return chance.randrange(near)
    return len(raw) - 1 - chance.randrange(near) if turn < 0.65 else chance.randrange(len(raw))


_BLIND: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    _flip, _flip, _number, _number, _noise, _zeros, _cut, _behead, _drop, _repeat, _splice,
)  # fmt: skip
