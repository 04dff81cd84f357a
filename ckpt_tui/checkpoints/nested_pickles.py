"""Pickles inside bytes that a pickle holds: skorch's `net.pkl`, a module of cloudpickle, `torch.save` into a buffer.

Loading the outer file gives those bytes back as bytes. What they name is listed all the same, with its place, because
somebody will open them: known names as known, a dangerous one as `unknown` with what it does, as loading does not
reach it. It counts as dangerous where the bytes lie in an object that is not known, or are handed to a function that
is not: its code may open them, as skorch's does. Bytes in bytes are followed three deep. Nothing is run.
"""

from __future__ import annotations

import os

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import CompositeRef, GlobalRef, OpaqueObject, Verdict
from ckpt_tui.checkpoints.pickle_calls import MAX_EMBEDDED
from ckpt_tui.checkpoints.pickle_decode import DecodedPickle, UnsoundPickleError, decode_stream
from ckpt_tui.checkpoints.pickle_globals import known_reason
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName, StorageRef
from ckpt_tui.checkpoints.pickle_source import DistantBytes, MemorySource, PickleSource
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text

_MAX_DEPTH = 3
_MAX_ZIP_BYTES = 256 << 20  # of an archive in memory; in a file it is read where it lies
_MAX_NODES = 2_000_000
_MAX_PATH = 120
# What our own decoding calls an object that has no class of its own.
_PLAIN = frozenset({"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"})
_ORDER = {Verdict.KNOWN: 0, Verdict.UNKNOWN: 1, Verdict.DANGEROUS: 2}


class _Place:
    """Where bytes lie in the state, and the first object above them that is not known."""

    __slots__ = ("opener", "path")

    def __init__(self, path: str, opener: str) -> None:
        self.path = path
        self.opener = opener


def judge_embedded(
    decoded: DecodedPickle, embedded: list[bytes | DistantBytes], record: str, limits: ReadLimits, depth: int
) -> None:
    """Add what the pickles in `embedded` name to the globals of the pickle that holds them."""
    if depth >= _MAX_DEPTH:
        return
    found: list[tuple[bytes | DistantBytes, list[GlobalRef]]] = []
    for value in embedded:
        names = _names_in(value, record, limits, depth)
        if names:
            found.append((value, names))
    if not found and len(embedded) < MAX_EMBEDDED:
        return
    places = _places(decoded.root, {id(value) for value, _ in found})
    stranger = next((ref.name for ref in decoded.globals if ref.verdict is not Verdict.KNOWN), "")
    listed = {ref.name: ref for ref in decoded.globals}
    for value, names in found:
        place = places.get(id(value)) or _Place("", stranger)
        for ref in names:
            _add(listed, ref, place, record)
    if len(embedded) >= MAX_EMBEDDED:
        words = f"more than {count(MAX_EMBEDDED)} of them; what the others name was not looked at"
        listed.setdefault("bytes", GlobalRef("bytes that look like pickles", Verdict.UNKNOWN, words, record))
    decoded.globals[:] = listed.values()


def _add(listed: dict[str, GlobalRef], ref: GlobalRef, place: _Place, record: str) -> None:
    verdict, reason = ref.verdict, ref.reason
    if verdict is Verdict.DANGEROUS:
        if place.opener:
            reason = f"{reason}; it is inside bytes that {safe_text(place.opener, 60)} may open"
        else:
            verdict = Verdict.UNKNOWN
            reason = f"{reason}; but it is inside bytes, which loading this file does not open: leave them closed"
    where = f"{record}: inside bytes at {place.path}" if place.path else f"{record}: inside bytes"
    before = listed.get(ref.name)
    if before is None or _ORDER[before.verdict] < _ORDER[verdict]:
        is_in_bytes = before is None or before.is_in_bytes
        listed[ref.name] = GlobalRef(ref.name, verdict, reason, where, is_in_bytes)


def _names_in(value: bytes | DistantBytes, record: str, limits: ReadLimits, depth: int) -> list[GlobalRef]:
    """The globals of the pickle, torch file or legacy file that the bytes are; none when they are something else."""
    from ckpt_tui.checkpoints.readers.pickle import READER
    from ckpt_tui.checkpoints.readers.torch_legacy import LegacyFile, begins_like_legacy

    source: PickleSource
    if isinstance(value, bytes):
        source, start, num_bytes = MemorySource(value, record), 0, len(value)
    else:
        source, start, num_bytes = value.source.until(value.offset + value.num_bytes), value.offset, value.num_bytes
    head = source.read(start, 512)
    try:
        if head[:4] == b"PK\x03\x04":
            return _names_in_zip(source, start, num_bytes, record, limits, depth)
        if begins_like_legacy(head):
            return LegacyFile(source, start, record, limits, depth=depth + 1).globals
        if READER.sniff(head, num_bytes) is None:
            return []
        decoded = decode_stream(source, start, record, limits, depth=depth + 1)
    except UnsoundPickleError as error:
        return [ref for ref in error.globals if all(part.isidentifier() for part in ref.name.split("."))]
    except CkptError:
        return []
    return decoded.globals


def _names_in_zip(
    source: PickleSource, start: int, num_bytes: int, record: str, limits: ReadLimits, depth: int
) -> list[GlobalRef]:
    """The globals of every pickle in an archive that lies in bytes."""
    from ckpt_tui.checkpoints.readers.zip_records import read_record
    from ckpt_tui.checkpoints.zip_index import read_zip_index

    descriptor, base, is_copy = source.descriptor, start, False
    if isinstance(source, MemorySource):
        if num_bytes > _MAX_ZIP_BYTES:
            return []
        descriptor, base, is_copy = _in_a_file(source.read(start, num_bytes)), 0, True
    names: list[GlobalRef] = []
    try:
        index = read_zip_index(descriptor, num_bytes, record, limits, base)
        for entry in [entry for entry in index.entries if entry.name.endswith(".pkl")][:16]:
            try:
                data = read_record(descriptor, entry, record)
                names += decode_stream(MemorySource(data, record), 0, record, limits, depth=depth + 1).globals
            except UnsoundPickleError as error:
                names += error.globals
            except CkptError:
                continue
    finally:
        if is_copy:
            os.close(descriptor)
    return names


def _in_a_file(data: bytes) -> int:
    """A descriptor of an unnamed file with these bytes: what reads archives reads files."""
    from tempfile import TemporaryFile

    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        return os.dup(file.fileno())


def _places(root: object, wanted: set[int]) -> dict[int, _Place]:
    """Where each of the wanted values stands in a state. Ends on every graph; the first place of each is told."""
    found: dict[int, _Place] = {}
    waiting: list[tuple[object, str, str]] = [(root, "", "")]
    seen: set[int] = set()
    num_nodes = 0
    while waiting and len(found) < len(wanted) and num_nodes < _MAX_NODES:
        value, path, opener = waiting.pop()
        num_nodes += 1
        if id(value) in wanted and isinstance(value, (bytes, DistantBytes)):
            found.setdefault(id(value), _Place(path, opener))
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        children, name = _children(value)
        if name and not opener and not known_reason(name) and name not in _PLAIN:
            opener = name
        for key, child in children:
            if isinstance(child, (bytes, dict, list, tuple, OpaqueObject, CompositeRef)):
                step = safe_text(key, 40) if isinstance(key, str) else str(key)[:40]
                waiting.append((child, f"{path}.{step}"[-_MAX_PATH:].lstrip(".") if path else step, opener))
    return found


def _children(value: object) -> tuple[list[tuple[object, object]], str]:
    """What a value holds, by key; and the name of its class, when it is an object."""
    if isinstance(value, dict):
        return list(value.items()), ""
    if isinstance(value, (list, tuple)):
        return list(enumerate(value)), ""
    if isinstance(value, CompositeRef):
        return list(value.parts.items()), ""
    if isinstance(value, OpaqueObject) and not isinstance(value, (GlobalName, DistantBytes, StorageRef)):
        inner: list[tuple[object, object]] = list(enumerate(value.args))
        state = value.state
        inner += list(state.items()) if isinstance(state, dict) else [("state", state)]
        return [*inner, *enumerate(value.items), *value.entries.items()], value.type_name
    return [], ""
