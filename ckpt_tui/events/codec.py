"""Lines to events and back. `decode()` never raises: what is not an event is a `BadLine`, and says why.

A reader that has to fold millions of lines spends its time in `decode_lines()`, so the common case (a `step` line of
strict JSON) takes the shortest way: one msgspec decode into a dict, seven pops, one frozen struct.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from ckpt_tui.events.schema import (
    EVENT_TYPES,
    SCHEMA_VERSION,
    BadLine,
    Eval,
    Event,
    Step,
    Unknown,
    event_name,
)

# A line longer than this is not decoded: an event is a few hundred bytes, a traceback a few thousand.
MAX_LINE_BYTES = 2 << 20
# Nor is a line longer than this looked at a second time when it is no strict JSON: Python's decoder would keep the
# screen waiting for as long as it takes.
MAX_LENIENT_BYTES = 512 << 10

# What every reader can hold and do arithmetic with. A step outside is no step; another integer is cut to it.
MAX_INTEGER = (1 << 63) - 1

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_decode_json = msgspec.json.Decoder().decode
NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_METRIC_TYPES = (Step, Eval)
_COMMON = frozenset({"seq", "ts", "session", "step", "extra"})
_TYPE_FIELDS = {
    name: frozenset(field for field in event_type.__struct_fields__ if field not in _COMMON and field != "metrics")
    for name, event_type in EVENT_TYPES.items()
}


def decode(line: bytes) -> Event | BadLine:
    """One line of the log, with or without its newline, as an event. Never raises.

    A line from a newer schema (`v` above ours) is decoded as far as its fields are known.
    """
    if len(line) > MAX_LINE_BYTES:
        return _bad("line too long", line)
    if line[:1] != b"{" and (text := line.strip(b"\x00 \t\r\n")[:1]) not in (b"{", _BYTE_ORDER_MARK[:1]):
        return _bad("not a JSON object" if text else "empty line", line)  # at once, for there may be very many
    try:
        fields = _decode_json(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if line.startswith(_BYTE_ORDER_MARK):  # an editor's; it is no part of the line
            return decode(line[len(_BYTE_ORDER_MARK) :])
        if len(line) > MAX_LENIENT_BYTES:
            return _bad("not strict JSON, and too long to look closer", line)
        # Bare NaN and Infinity, invalid UTF-8 inside a string, and everything that is really broken.
        fields = _decode_lenient(line)
        if isinstance(fields, BadLine):
            return fields
    if type(fields) is not dict:
        return _bad("not a JSON object", line)
    try:
        name = fields.pop("event")
    except KeyError:
        return _bad("no `event` field", line)
    fields.pop("v", None)
    return _build(
        name, fields.pop("seq", 0), fields.pop("ts", 0.0), fields.pop("session", 1), fields.pop("step", 0), fields, line
    )


def decode_lines(text: bytes) -> list[Event | BadLine]:
    """Every line of `text` as `decode()` gives it, empty ones too (as bad lines), but faster for `step` lines."""
    # Only a text with these can hold a number that is spelled out in a string.
    may_spell_numbers = b'NaN"' in text or b'nity"' in text or b"\\u" in text
    decoded: list[Event | BadLine] = []
    append, decode_json = decoded.append, _decode_json
    for line in text.split(b"\n"):
        try:
            fields = decode_json(line)
            pop = fields.pop
            if pop("event") == "step":
                seq, ts, session, step = pop("seq"), pop("ts"), pop("session"), pop("step")
                epoch = pop("epoch", None)
                if (
                    type(ts) is float and type(step) is int and type(seq) is int and type(session) is int
                    and -MAX_INTEGER <= step <= MAX_INTEGER and (epoch is None or type(epoch) is float)
                    and len(line) <= MAX_LINE_BYTES
                ):  # fmt: skip
                    pop("v", None)
                    if may_spell_numbers:
                        _metrics(fields)
                    append(Step(seq=seq, ts=ts, session=session, step=step, epoch=epoch, metrics=fields))
                    continue
        except (
            msgspec.DecodeError,
            UnicodeDecodeError,
            RecursionError,
            AttributeError,
            TypeError,
            KeyError,
            IndexError,
        ):
            pass  # not the usual: decode() says what it is
        append(decode(line))
    return decoded


def _build(
    name: Any, seq: Any, ts: Any, session: Any, step: Any, fields: dict[str, Any], line: bytes
) -> Event | BadLine:
    ts, seq, session, step = _float(ts), _int(seq), _int(session), _int(step)
    if not isinstance(name, str):
        return _bad("`event` is not a string", line)
    if ts is None or not math.isfinite(ts) or seq is None or session is None or step is None:
        return _bad("`seq`, `ts`, `session` or `step` is not a number", line)
    event_type = EVENT_TYPES.get(name)
    if event_type is None:
        return Unknown(seq=seq, ts=ts, session=session, step=step, event=name, extra=fields)
    known = {key: fields.pop(key) for key in _TYPE_FIELDS[name] if key in fields}
    if event_type in _METRIC_TYPES:
        values: dict[str, Any] = {"metrics": _metrics(fields)}
    else:
        values = {"extra": fields}
    values.update(seq=seq, ts=ts, session=session, step=step)
    values.update(
        {key: NONFINITE.get(value, value) if isinstance(value, str) else _cut(value) for key, value in known.items()}
    )
    try:
        return msgspec.convert(values, event_type, strict=False)
    except msgspec.ValidationError:
        # A field of a type that we do not expect: keep it where it is still shown, and use the others.
        return _salvage(event_type, values, known)


def _salvage(event_type: type[Event], values: dict[str, Any], known: dict[str, Any]) -> Event:
    refused: dict[str, Any] = {}
    base = {key: value for key, value in values.items() if key not in known}
    good = dict(base)
    for key, value in known.items():
        try:
            msgspec.convert({**base, key: values[key]}, event_type, strict=False)
            good[key] = values[key]
        except msgspec.ValidationError:
            refused[key] = value
    good["extra"] = {**good.get("extra", {}), **refused}
    return msgspec.convert(good, event_type, strict=False)


def _decode_lenient(line: bytes) -> Any:
    text = line.decode("utf-8", "replace").strip("\x00 \t\r\n")
    if not text:
        return _bad("empty line", line)
    import json  # for the few lines that need it: 1 ms of the watch's start

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _bad("not JSON" if text[0] == "{" else "not a JSON object", line)


def _metrics(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with spelled-out non-finite numbers turned back into floats; others untouched."""
    for key, value in fields.items():
        if type(value) is str and value in NONFINITE:
            fields[key] = NONFINITE[value]
    return fields


def _float(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    return NONFINITE.get(value) if isinstance(value, str) else None


def _int(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and -MAX_INTEGER <= value <= MAX_INTEGER else None


def _cut(value: Any) -> Any:
    return max(-MAX_INTEGER, min(value, MAX_INTEGER)) if type(value) is int else value


def _bad(reason: str, line: bytes) -> BadLine:
    return BadLine(reason=reason, start=bytes(line[:200]), num_bytes=len(line))


def encode(event: Event) -> bytes:
    """One event as one line of strict JSON with its newline. Fields at None are written as null.

    Raises TypeError or ValueError for values that JSON cannot hold; the writer catches them.
    """
    fields: dict[str, Any] = {
        "v": SCHEMA_VERSION,
        "event": event_name(event),
        "seq": event.seq,
        "ts": event.ts,
        "session": event.session,
        "step": event.step,
    }
    for key in event.__struct_fields__:
        if key in _COMMON or key == "event":
            continue
        value = getattr(event, key)
        if key == "metrics":
            fields.update({name: number for name, number in value.items() if name not in fields})
        elif value is not None or not isinstance(event, _METRIC_TYPES):
            fields[key] = value
    for key, value in event.extra.items():
        fields.setdefault(key, value)
    import json

    try:
        line = json.dumps(fields, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except ValueError:
        line = json.dumps(_spell_nonfinite(fields), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return line.encode("utf-8", "backslashreplace") + b"\n"


def _spell_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spell_nonfinite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spell_nonfinite(item) for item in value]
    return value
