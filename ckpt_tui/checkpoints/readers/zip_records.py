"""What the readers of zip archives share: records read within bounds, their pickles decoded, storages found."""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    Checkpoint,
    Finding,
    GlobalRef,
    Severity,
    Storage,
    Verdict,
    bytes_needed,
)
from ckpt_tui.checkpoints.pickle_decode import DecodedPickle, UnsoundPickleError, decode_pickle
from ckpt_tui.checkpoints.zip_index import ZipEntry
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, size

HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."
_MAX_FINDINGS = 100
_MAX_INFLATED_BYTES = 64 << 20  # torch stores its pickles as they are; a thousandth of this can hold a bomb
_FREE_OPCODES = 1_000_000  # of compressed pickles, for all of an archive: they take about a second at worst
_OPCODES_A_BYTE = 2  # more for each compressed byte: of 30,000 tensors it holds 1.8


class PickleBudget:
    """What the pickles of one archive may cost, however many there are. names: keys of those listed already.

    Records that lie over each other would be decoded again and again, and a compressed one can stand for a thousand
    times its size.
    """

    __slots__ = ("free_opcodes", "names", "stored_bytes")

    def __init__(self, checkpoint: Checkpoint, is_nested: bool = False) -> None:
        self.names = {ref.key for ref in checkpoint.globals}
        self.stored_bytes = checkpoint.size_bytes  # every byte of the file once
        self.free_opcodes = 0 if is_nested else _FREE_OPCODES

    def limits_of(self, entry: ZipEntry, limits: ReadLimits) -> ReadLimits:
        """The limits for one more pickle; CkptError when it is one too many."""
        self.stored_bytes -= entry.compressed_bytes
        if self.stored_bytes < 0:
            raise CkptError("Not readable", "pickles that lie over each other: more bytes than the file has")
        if not entry.method:
            return limits
        from dataclasses import replace

        earned = _OPCODES_A_BYTE * entry.compressed_bytes
        allowed = min(limits.max_opcodes, earned + self.free_opcodes)
        self.free_opcodes -= min(max(entry.size_bytes - earned, 0), self.free_opcodes)  # an opcode has a byte at least
        return replace(limits, max_opcodes=allowed)


def read_record(descriptor: int, entry: ZipEntry, path: str, max_bytes: int = _MAX_INFLATED_BYTES) -> bytes:
    """The bytes of a record, inflated where it is deflated. Raises CkptError where it has none, or more than
    `max_bytes` of them come out of a compressed one."""
    if entry.offset is None:
        raise CkptError("Damaged checkpoint", f"{path}: {entry.name} has no bytes to read", HINT)
    if entry.method and entry.size_bytes > max_bytes:
        raise CkptError(
            "Not readable", f"{path}: {entry.name} is compressed, and {size(entry.size_bytes)} when it is not"
        )
    data = read_exactly(descriptor, entry.compressed_bytes, entry.offset, path)
    if entry.method == 8:
        from zlib import decompressobj, error

        try:
            data = decompressobj(-15).decompress(data, entry.size_bytes + 1)
        except error as problem:
            raise CkptError("Damaged checkpoint", f"{path}: {entry.name}: {problem}", HINT) from None
    elif entry.method:
        raise CkptError("Not readable", f"{path}: {entry.name} is compressed by method {entry.method}")
    if len(data) != entry.size_bytes:
        raise CkptError("Damaged checkpoint", f"{path}: {entry.name} does not have the size it claims", HINT)
    return data


def add_pickle(
    descriptor: int, entry: ZipEntry, checkpoint: Checkpoint, limits: ReadLimits, budget: PickleBudget, start: int = 0
) -> DecodedPickle | CkptError:
    """Decode the pickle in a record, from its byte `start` on, and add what it names to the checkpoint; the error, and
    a finding, when it does not decode: what it would do is not known then."""
    findings, path = checkpoint.findings, checkpoint.path
    decoded: DecodedPickle | CkptError
    try:
        allowed = budget.limits_of(entry, limits)
        data = read_record(descriptor, entry, path)
        decoded = decode_pickle(data, f"{path}: {entry.name}", allowed, start)
        named = decoded.globals
    except CkptError as error:
        decoded = error
        named = error.globals if isinstance(error, UnsoundPickleError) else []
        message = error.message.removeprefix(f"{path}: ")
        findings.append(Finding("unreadable-pickle", Severity.ERROR, entry.name, message, HINT))
        reason = "a pickle that could not be decoded to its end: what it would do is not known"
        named = [*named, GlobalRef(entry.name, Verdict.UNKNOWN, reason, path)]
    else:
        if decoded.end < entry.size_bytes:
            rest = f"{count(entry.size_bytes - decoded.end)} bytes follow the end of the pickle"
            findings.append(Finding("trailing-pickle", Severity.WARNING, entry.name, rest))
        if decoded.num_malformed:
            broken = f"{count(decoded.num_malformed)} of its tensors have shapes or strides that no tensor can have"
            findings.append(Finding("malformed-tensor", Severity.ERROR, entry.name, broken, HINT))
    checkpoint.globals += [ref for ref in named if ref.key not in budget.names]
    budget.names.update(ref.key for ref in named)
    return decoded


def join_storages(checkpoint: Checkpoint, prefix: str, by_name: dict[str, ZipEntry], suffix: str = "") -> None:
    """Find every tensor's bytes, and say which have none, or fewer than the tensor shows. The record of a storage is
    called prefix + its key + suffix."""
    storages, num_bad = checkpoint.storages, 0
    judged = set(storages)  # those of archives inside this one
    is_big_endian = checkpoint.metadata.get("byteorder") == "big"
    for tensor in checkpoint.tensors:
        key = tensor.storage
        if not key or key in judged:
            continue
        storage = storages.get(key)
        if storage is None:
            entry = by_name.get(f"{prefix}{key}{suffix}")
            storage = Storage(key, "", None, 0) if entry is None else storage_of(entry, key, is_big_endian)
            storages[key] = storage
        needed = bytes_needed(tensor) or 0
        if needed <= storage.size_bytes and storage.offset is not None:
            continue
        num_bad += 1
        if num_bad <= _MAX_FINDINGS:
            if f"{prefix}{key}{suffix}" not in by_name:
                code, problem = "missing-storage", f"its storage {key} is not in the file"
            elif storage.offset is None:
                code, problem = "unreadable-storage", f"the bytes of its storage {key} cannot be read in place"
            else:
                code = "short-storage"
                problem = f"it needs {count(needed)} bytes, its storage {key} has {count(storage.size_bytes)}"
            checkpoint.findings.append(Finding(code, Severity.ERROR, tensor.name, problem, HINT))


def storage_of(entry: ZipEntry, key: str, is_big_endian: bool = False) -> Storage:
    """A record as a storage."""
    is_readable = entry.method in (0, 8)
    deflated = entry.compressed_bytes if entry.method == 8 else None
    return Storage(
        key, "", entry.offset if is_readable else None, entry.size_bytes, entry.crc32 or None, is_big_endian, deflated
    )


def add_archive(
    descriptor: int, entry: ZipEntry, checkpoint: Checkpoint, limits: ReadLimits, budget: PickleBudget
) -> Checkpoint | None:
    """Read an archive of torch.save that is a record of this one: its storages, globals and findings are added to
    the checkpoint, its state is ready to be walked again. None, and a finding, when it cannot be read."""
    from ckpt_tui.checkpoints.readers.torch_zip import READER
    from ckpt_tui.checkpoints.state_walk import tensor_references

    where, path = entry.name, checkpoint.path
    if entry.method or entry.offset is None:
        message = "an archive inside the archive, which cannot be read in place"
        checkpoint.findings.append(Finding("unreadable-part", Severity.ERROR, where, message, HINT))
        return None
    try:
        budget.limits_of(entry, limits)
        found = READER.read(descriptor, entry.size_bytes, path, limits, entry.offset)
    except CkptError as error:
        budget.names.add(where)
        reason = "an archive that could not be read: what loading it would do is not known"
        checkpoint.globals.append(GlobalRef(where, Verdict.UNKNOWN, reason, path))
        message = (error.message or error.title).replace(f"{path}: ", "").replace(f"{path} is ", "")
        checkpoint.findings.append(Finding("unreadable-part", Severity.ERROR, where, message, HINT))
        return None
    for finding in found.findings:
        place = f"{where}: {finding.where}" if finding.where else where
        note = Finding(finding.code, finding.severity, place, finding.message, finding.hint, finding.level)
        checkpoint.findings.append(note)
    checkpoint.globals += [ref for ref in found.globals if ref.key not in budget.names]
    budget.names.update(ref.key for ref in found.globals)
    for storage in found.storages.values():
        key = f"{where}:{storage.key}"
        checkpoint.storages[key] = Storage(
            key, "", storage.offset, storage.size_bytes, storage.crc32, storage.is_big_endian, storage.deflated_bytes
        )
    for reference in tensor_references(found.state):
        reference.index = -1
        if reference.info.storage:
            reference.info.storage = f"{where}:{reference.info.storage}"
    return found
