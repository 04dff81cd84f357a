"""TensorBoard's event files, read without TensorBoard: records, and the numbers in the summaries they hold.

A record is its length (8 bytes), a checksum of that (4), the message, and a checksum of the message (4); a message is
an `Event` of TensorFlow's `event.proto`. Only scalars and short texts are taken out of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import field
from typing import Any

from ckpt_tui.records import dataclass

HEADER_BYTES = 12
FOOTER_BYTES = 4
MAX_MESSAGE_BYTES = 1 << 20  # larger ones are pictures and histograms: passed over unread
MAX_TAG_BYTES = 1000

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LENGTH = struct.Struct("<QI")
_DOUBLE, _FLOAT = struct.Struct("<d"), struct.Struct("<f")
# Of a TensorProto: the type, and how one value of it is unpacked from `tensor_content`.
_ONE_OF = {1: _FLOAT, 2: _DOUBLE, 3: struct.Struct("<i"), 9: struct.Struct("<q"), 14: None, 19: struct.Struct("<e")}


@dataclass(slots=True)
class TfEvent:
    """wall_time: Unix seconds. scalars and texts: by tag."""

    wall_time: float = 0.0
    step: int = 0
    scalars: dict[str, float] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        rows.append(byte)
    return tuple(rows)


_CRC = _table()


def masked_crc32c(data: bytes) -> int:
    """The checksum of a record: CRC-32C, rotated and shifted as TensorFlow does."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def message_length(header: bytes) -> int | None:
    """The length in a record's first bytes, None where they are no record's."""
    length, crc = _LENGTH.unpack(header)
    return length if masked_crc32c(header[:8]) == crc else None


def next_record(data: bytes, start: int) -> int | None:
    """Where in `data`, at or after `start`, a record begins; None where no place looks like one."""
    at = data.find(b"\x00\x00\x00\x00\x00", start)  # the upper bytes of a length
    while at >= 0:
        begins = at - 3
        if begins >= start and begins + HEADER_BYTES <= len(data):
            length = message_length(data[begins : begins + HEADER_BYTES])
            if length:
                return begins
        at = data.find(b"\x00\x00\x00\x00\x00", at + 1)
    return None


def decode_event(message: bytes) -> TfEvent | None:
    """The event in a record's message; None where it is none."""
    event = TfEvent()
    try:
        for number, kind, value in _fields(message):
            if number == 1 and kind == _FIXED64:
                event.wall_time = _DOUBLE.unpack(value)[0]
            elif number == 2 and kind == _VARINT:
                event.step = value - (1 << 64) if value >> 63 else value
            elif number == 5 and kind == _BYTES:
                for inner, inner_kind, summary in _fields(value):
                    if inner == 1 and inner_kind == _BYTES:
                        _take_value(summary, event)
    except (IndexError, struct.error, ValueError, OverflowError):
        return None
    return event


def _take_value(message: bytes, event: TfEvent) -> None:
    tag, scalar, tensor = "", None, None
    for number, kind, value in _fields(message):
        if number == 1 and kind == _BYTES:
            tag = value[:MAX_TAG_BYTES].decode("utf-8", "replace")
        elif number == 2 and kind == _FIXED32:
            scalar = _FLOAT.unpack(value)[0]
        elif number == 8 and kind == _BYTES:
            tensor = value
    if tensor is not None and scalar is None:
        scalar = _of_tensor(tensor, tag, event)
    if tag and scalar is not None:
        event.scalars[tag] = scalar


def _of_tensor(message: bytes, tag: str, event: TfEvent) -> float | None:
    """The one number of a tensor; of a text tensor the text goes to the event."""
    dtype, content, values, texts, num_elements = 0, b"", list[float](), list[bytes](), 1
    for number, kind, value in _fields(message):
        if number == 1 and kind == _VARINT:
            dtype = value
        elif number == 2 and kind == _BYTES:
            for inner, inner_kind, dim in _fields(value):
                if inner == 2 and inner_kind == _BYTES:
                    sizes = [size for what, how, size in _fields(dim) if what == 1 and how == _VARINT]
                    num_elements *= sizes[0] if sizes else 1
        elif number == 4 and kind == _BYTES:
            content = value
        elif number == 5 and kind == _BYTES:
            values += [one for (one,) in _FLOAT.iter_unpack(value[: len(value) // 4 * 4])]
        elif number == 5 and kind == _FIXED32:
            values.append(_FLOAT.unpack(value)[0])
        elif number == 6 and kind == _BYTES:
            values += [one for (one,) in _DOUBLE.iter_unpack(value[: len(value) // 8 * 8])]
        elif number == 6 and kind == _FIXED64:
            values.append(_DOUBLE.unpack(value)[0])
        elif number == 8 and kind == _BYTES:
            texts.append(value)
    if texts and tag:
        event.texts[tag] = texts[0]
    if num_elements != 1:
        return None
    one = _ONE_OF.get(dtype)
    if content and one is not None and len(content) == one.size:
        return float(one.unpack(content)[0])
    if content and dtype == 14 and len(content) == 2:  # bfloat16: the upper half of a float
        return float(_FLOAT.unpack(b"\x00\x00" + content)[0])
    return values[0] if len(values) == 1 else None


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field of a protobuf message. Raises IndexError or ValueError."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind == _FIXED64:
            length = 8
        elif kind == _FIXED32:
            length = 4
        else:
            raise ValueError(f"no such wire type: {kind}")
        if at + length > end:
            raise IndexError("a field is longer than its message")
        yield number, kind, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
