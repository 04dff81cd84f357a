"""A bounded reader of zip central directories: where every record lies, and what is odd about it.

The zip64 end record is trusted before the classic one, as torch does. Nothing is decompressed or allocated by a size
that the file merely claims. Not `zipfile`: it dies on what we must describe and costs 15 ms to import.
"""

from __future__ import annotations

from struct import Struct

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Finding, Severity
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, shell_word

_END = Struct("<4s4H2IH")
_LOCATOR = Struct("<4sIQI")
_END64 = Struct("<4sQ2H2I4Q")
_CENTRAL = Struct("<4s6H3I5H2I")
_LOCAL = Struct("<4s5H3I2H")
_MAX_COMMENT = 65_535
_STORED = 0
_ENCRYPTED = 0x1
_MAX_FINDINGS = 100  # of one kind: a hostile archive has a million

_USE_BACKUP = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


# Plain classes: a dataclass takes a millisecond to make, and `inspect` has a budget of 70 altogether.
class ZipEntry:
    """One record. `offset`: of its data, absolute; None where there is no data to read. crc32 0: not recorded."""

    __slots__ = ("compressed_bytes", "crc32", "flags", "header_offset", "method", "name", "offset", "size_bytes")

    def __init__(
        self, name: str, header_offset: int, offset: int | None, size_bytes: int, compressed_bytes: int, method: int,
        crc32: int, flags: int,
    ) -> None:  # fmt: skip
        self.name = name
        self.header_offset = header_offset
        self.offset = offset
        self.size_bytes = size_bytes
        self.compressed_bytes = compressed_bytes
        self.method = method
        self.crc32 = crc32
        self.flags = flags


class ZipIndex:
    """Every record in the order of the central directory, duplicates included. start: where that directory begins."""

    __slots__ = ("entries", "findings", "start")

    def __init__(self) -> None:
        self.start = 0
        self.entries: list[ZipEntry] = []
        self.findings: list[Finding] = []


def read_zip_index(
    descriptor: int, file_bytes: int, path: str, limits: ReadLimits = DEFAULT_LIMITS, base: int = 0
) -> ZipIndex:
    """The records of an open zip file of `file_bytes` bytes.

    base: where it begins, for an archive that is embedded in a file: `file_bytes` are its own then; `offset` of its
    records is that in the file, `header_offset` that in the archive.
    Raises CkptError "Damaged checkpoint" when there is no central directory to read, or it does not hold together.
    What is wrong with single records becomes findings of severity error.
    """
    index = ZipIndex()
    start, size, num_entries, end = _find_directory(descriptor, file_bytes, path, index.findings, base)
    if num_entries > limits.max_zip_entries:
        raise _damaged(path, f"its central directory claims {count(num_entries)} records")
    if start + size > end or num_entries * _CENTRAL.size > size:
        raise _damaged(path, f"its central directory does not fit into the {count(file_bytes)} bytes of the file")
    directory = read_exactly(descriptor, size, base + start, path)
    _parse(directory, num_entries, path, index)
    _locate(descriptor, start, path, index, base)
    index.start = base + start
    return index


def _find_directory(
    descriptor: int, file_bytes: int, path: str, findings: list[Finding], base: int
) -> tuple[int, int, int, int]:
    """(start, size, number of records, where it must have ended)."""
    tail_start = max(file_bytes - _END.size - _MAX_COMMENT - _LOCATOR.size, 0)
    tail = read_exactly(descriptor, file_bytes - tail_start, base + tail_start, path)
    at = tail.rfind(b"PK\x05\x06", 0, max(len(tail) - _END.size + 4, 0))
    if at < 0:
        raise CkptError(
            "Damaged checkpoint",
            f"{path} is cut short: its zip central directory is missing, which is written last. "
            f"{count(file_bytes)} bytes are there; the save or the copy did not finish",
            "Use a backup (`ckpt-tui list` on its directory shows which are valid), or get back what is whole: "
            f"ckpt-tui salvage {shell_word(path)} -o OUT",
        )
    _, _, _, _, num_entries, size, start, comment = _END.unpack_from(tail, at)
    end = tail_start + at
    trailing = file_bytes - (end + _END.size + comment)
    if trailing:
        findings.append(
            Finding(
                "trailing-data",
                Severity.WARNING,
                f"byte {count(end + _END.size + comment)}",
                f"{count(abs(trailing))} bytes {'follow' if trailing > 0 else 'are missing after'} the end of the zip",
                "Compare its size with the original's.",
            )
        )
    if at >= _LOCATOR.size and tail[at - _LOCATOR.size : at - _LOCATOR.size + 4] == b"PK\x06\x07":
        _, _, end64, _ = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
        record = read_exactly(descriptor, _END64.size, base + end64, path) if end64 + _END64.size <= end else b""
        if len(record) != _END64.size or record[:4] != b"PK\x06\x06":
            raise _damaged(path, "its zip64 end record is not where the locator says")
        num64, size64, start64 = _END64.unpack(record)[7:10]
        for claimed, true, unset in (
            (num_entries, num64, 0xFFFF),
            (size, size64, 0xFFFFFFFF),
            (start, start64, 0xFFFFFFFF),
        ):
            if claimed not in (true, unset):
                findings.append(
                    Finding(
                        "two-directories",
                        Severity.ERROR,
                        f"byte {count(end)}",
                        "its two end records point to different directories: programs disagree about what is in it",
                        "Do not load it unless you made it.",
                    )
                )
                break
        return start64, size64, num64, end64
    return start, size, num_entries, end


def _parse(directory: bytes, num_entries: int, path: str, index: ZipIndex) -> None:
    unpack, header, position, length = _CENTRAL.unpack_from, _CENTRAL.size, 0, len(directory)
    append = index.entries.append
    for number in range(num_entries):
        if position + header > length:
            raise _damaged(path, f"its central directory ends after {count(number)} of {count(num_entries)} records")
        (signature, _, _, flags, method, _, _, crc, packed, size, num_name, num_extra, num_comment, _, _, _, local) = (
            unpack(directory, position)
        )
        if signature != b"PK\x01\x02":
            raise _damaged(path, f"record {count(number)} of its central directory is not one")
        position += header
        name = directory[position : position + num_name].decode("utf-8", "surrogateescape")
        position += num_name
        if 0xFFFFFFFF in (packed, size, local):
            size, packed, local = _zip64_sizes(directory[position : position + num_extra], size, packed, local)
        position += num_extra + num_comment
        append(ZipEntry(name, local, None, size, packed, method, crc, flags))
    if position > length:
        raise _damaged(path, "its last record goes beyond the central directory")


def _zip64_sizes(extra: bytes, size: int, packed: int, local: int) -> tuple[int, int, int]:
    position = 0
    while position + 4 <= len(extra):
        kind = int.from_bytes(extra[position : position + 2], "little")
        num_bytes = int.from_bytes(extra[position + 2 : position + 4], "little")
        if kind == 1:
            field_bytes = extra[position + 4 : position + 4 + num_bytes]
            values = [int.from_bytes(field_bytes[at : at + 8], "little") for at in range(0, len(field_bytes) - 7, 8)]
            wide = iter(values)
            size = next(wide, size) if size == 0xFFFFFFFF else size
            packed = next(wide, packed) if packed == 0xFFFFFFFF else packed
            local = next(wide, local) if local == 0xFFFFFFFF else local
            break
        position += 4 + num_bytes
    return size, packed, local


def _locate(descriptor: int, directory_start: int, path: str, index: ZipIndex, base: int) -> None:
    """Find where the data of each record begins, by its local header, and what does not agree with it."""
    unpack, size_local = _LOCAL.unpack_from, _LOCAL.size
    note = _Notes(index.findings)
    for name in _doubles([entry.name for entry in index.entries]):
        note("duplicate-record", name, "this name is in the archive twice: programs disagree which one they read")
    for entry in index.entries:
        name = entry.name
        raw_name = name.encode("utf-8", "surrogateescape")
        header_end = entry.header_offset + size_local + len(raw_name)
        header = (
            read_exactly(descriptor, size_local + len(raw_name), base + entry.header_offset, path)
            if header_end <= directory_start
            else b""
        )
        if len(header) < size_local or header[:4] != b"PK\x03\x04":
            note("record-outside", name, f"no record begins at byte {count(entry.header_offset)}, where one should")
            continue
        local = unpack(header)
        flags, method, crc, packed, size, num_name, num_extra = local[2], local[3], *local[6:11]
        if header[size_local:] != raw_name or num_name != len(raw_name) or method != entry.method:
            note("headers-disagree", name, "its local header says another name or method than the central directory")
        elif not flags & 0x8 and (
            (crc and crc != entry.crc32)
            or size not in (entry.size_bytes, 0xFFFFFFFF)
            or packed not in (entry.compressed_bytes, 0xFFFFFFFF)
        ):
            note("headers-disagree", name, "its local header says another size or checksum than the central directory")
        offset = entry.header_offset + size_local + num_name + num_extra
        if offset + entry.compressed_bytes > directory_start:
            note(
                "record-outside",
                name,
                f"it claims {count(entry.compressed_bytes)} bytes, more than lie before the central directory",
            )
            continue
        if entry.flags & _ENCRYPTED:
            note("encrypted-record", name, "it is encrypted: torch writes no such record, and cannot read it")
            continue
        if entry.method == _STORED and entry.size_bytes != entry.compressed_bytes:
            note("size-lies", name, "it is stored as it is, yet claims two different sizes")
            continue
        entry.offset = base + offset
    end = 0
    before = ""
    placed = [entry for entry in index.entries if entry.offset is not None]
    for entry in sorted(placed, key=_header_offset):
        if entry.header_offset < end:
            note("overlapping-records", entry.name, f"it lies over the bytes of {before}")
        assert entry.offset is not None
        reach = entry.offset - base + entry.compressed_bytes
        if reach > end:
            end, before = reach, entry.name


def _doubles(names: list[str]) -> list[str]:
    """The names that came before; torch does not tell capitals from small letters. All of them at once: of 30,000
    names one by one would take as long as the rest of the directory."""
    lowered = "\0".join(names).lower().split("\0")
    if len(lowered) != len(names):  # a name that holds a NUL
        lowered = [name.lower() for name in names]
    if len(set(lowered)) == len(names):
        return []
    seen: set[str] = set()
    doubles = []
    for name, plain in zip(names, lowered, strict=True):
        if plain in seen:
            doubles.append(name)
        seen.add(plain)
    return doubles


def _header_offset(entry: ZipEntry) -> int:
    return entry.header_offset


class _Notes:
    """Errors about records, a bounded number of each kind."""

    def __init__(self, findings: list[Finding]) -> None:
        self._findings = findings
        self._counts: dict[str, int] = {}

    def __call__(self, code: str, where: str, message: str) -> None:
        number = self._counts[code] = self._counts.get(code, 0) + 1
        if number <= _MAX_FINDINGS:
            self._findings.append(Finding(code, Severity.ERROR, where, message, _USE_BACKUP))


def _damaged(path: str, what: str) -> CkptError:
    return CkptError("Damaged checkpoint", f"{path}: {what}", _USE_BACKUP)
