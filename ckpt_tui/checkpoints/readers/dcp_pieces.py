"""The pieces of a distributed checkpoint: every one is a whole torch.save archive somewhere in a `.distcp` file.

They are read in the order of the files, each byte for one piece only: what claims the bytes of another is not read,
so that the work does not grow beyond the files' size whatever the metadata claims.
"""

from __future__ import annotations

import os

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    Checkpoint,
    Finding,
    GlobalRef,
    Severity,
    Storage,
    TensorInfo,
    TensorRef,
    bytes_needed,
)
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.checkpoints.pickle_decode import DecodedPickle, decode_pickle
from ckpt_tui.checkpoints.readers.dcp_metadata import Place
from ckpt_tui.checkpoints.readers.directory import Listing, is_inside
from ckpt_tui.checkpoints.readers.safetensors import READER as SAFETENSORS
from ckpt_tui.checkpoints.readers.torch_zip import READER as TORCH_ZIP
from ckpt_tui.checkpoints.zip_index import read_zip_index
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural, safe_text

_MAX_VALUE_BYTES = 64 << 20  # of one value that is no tensor; a data loader's state is the largest
_MAX_VALUES_BYTES = 512 << 20
_MAX_VALUES = 200_000
_MAX_FINDINGS = 1000
_MAX_CACHED_PICKLES = 10_000
_MAX_CACHED_BYTES = 4096  # the pickle of one tensor has 150
_ZIP_HEAD = b"PK"
_HINT = "Copy it again, or use another checkpoint: `ckpt-tui list` on its directory shows which are valid."


class Piece:
    """What was found at a place. value: the decoded object, a `TensorRef` for a tensor. tensors: those in `value`, by
    their name in it, "" for itself. problem: why there is nothing, in words."""

    __slots__ = ("problem", "storages", "tensors", "value")

    def __init__(self, problem: str = "") -> None:
        self.value: object = None
        self.tensors: list[TensorInfo] = []
        self.storages: list[Storage] = []
        self.problem = problem


class PieceReader:
    """Reads the pieces of one directory. findings, globals: what was noticed in them."""

    def __init__(self, listing: Listing, limits: ReadLimits) -> None:
        self.listing = listing
        self.limits = limits
        self.findings: list[Finding] = []
        self.globals: dict[str, GlobalRef] = {}
        self.lost: dict[tuple[str, str], list[str]] = {}  # (file, what is wrong with it): the names lost by that
        self._decoded: dict[bytes, DecodedPickle] = {}
        self._blobs: dict[tuple[str, int], dict[str, tuple[TensorInfo, Storage]]] = {}
        self._value_bytes = 0
        self._num_values = 0

    def read_all(self, wanted: list[tuple[str, bool, Place]]) -> dict[int, Piece]:
        """The pieces by the id of their place. wanted: name, whether it is a tensor, place."""
        found: dict[int, Piece] = {}
        by_file: dict[str, list[tuple[str, bool, Place]]] = {}
        for item in wanted:
            by_file.setdefault(item[2].file, []).append(item)
        for file in sorted(by_file):
            items = sorted(by_file[file], key=_begin)
            problem = self._problem_of(file)
            if problem:
                self.lost.setdefault((file, problem), []).extend(name for name, _, _ in items)
                found.update({id(place): Piece(problem) for _, _, place in items})
                continue
            self._read_file(file, items, found)
        return found

    def _problem_of(self, file: str) -> str:
        if not is_inside(file):
            return "outside"
        return "" if file in self.listing.files else "missing"

    def _read_file(self, file: str, items: list[tuple[str, bool, Place]], found: dict[int, Piece]) -> None:
        path = self.listing.path_of(file)
        end, before = 0, ""
        last: tuple[tuple[int, int], Piece] | None = None
        with RegularFile(path) as opened:
            for name, is_tensor, place in items:
                span = (place.offset, place.length)
                if last is not None and last[0] == span:
                    found[id(place)] = last[1]  # the same bytes under two names
                    continue
                if is_tensor and not place.transforms and end <= place.offset < opened.file_bytes:
                    self._look_for_safetensors(opened.descriptor, file, opened.file_bytes, place.offset)
                if is_tensor and (file, place.offset) in self._blobs:
                    end, before = opened.file_bytes, name  # it goes to the end of the file
                    found[id(place)] = self._from_safetensors(file, name, place)
                    continue
                if place.offset + place.length > opened.file_bytes:
                    piece = Piece("short")
                    self.lost.setdefault((file, "short"), []).append(name)
                elif place.offset < end:
                    piece = Piece("overlaps")
                    message = f"its bytes in {safe_text(file)} are also claimed by {safe_text(before)}; it is not read"
                    self.note("pieces-overlap", name, message)
                else:
                    end, before = place.offset + place.length, name
                    try:
                        piece = self._read(opened.descriptor, file, name, is_tensor, place)
                    except CkptError as error:
                        piece = Piece("unreadable")
                        words = (error.message or error.title).replace(f"{self._label(file, place)}: ", "")
                        message = f"it cannot be read from {safe_text(file)}, byte {count(place.offset)}: {words}"
                        self.note("unreadable-piece", name, message)
                last = (span, piece)
                found[id(place)] = piece

    def _look_for_safetensors(self, descriptor: int, file: str, file_bytes: int, offset: int) -> None:
        """Keep the tensors of a safetensors file that begins there: all of a file's tensors in one, at one place."""
        head = os.pread(descriptor, 10, offset)
        if head[:2] == _ZIP_HEAD or head[8:9] != b"{" or int.from_bytes(head[:8], "little") > file_bytes - offset:
            return
        try:
            found = SAFETENSORS.read(descriptor, file_bytes - offset, safe_text(file), self.limits, offset)
        except CkptError:
            return  # what lies there is judged as any other piece
        for finding in found.findings:
            self.note(finding.code, finding.where or safe_text(file), finding.message, finding.severity)
        self._blobs[(file, offset)] = {
            tensor.name: (tensor, found.storages[tensor.storage]) for tensor in found.tensors
        }

    def _from_safetensors(self, file: str, name: str, place: Place) -> Piece:
        tensor, storage = self._blobs[(file, place.offset)].pop(name, (None, None))
        if tensor is None or storage is None:
            self.note("missing-chunk", name, f"it is not among the tensors of {safe_text(file)}: it is lost")
            return Piece("not in its file")
        piece = Piece()
        key = tensor.storage = f"{file}:{place.offset}/{name}"
        tensor.name = ""
        piece.value = TensorRef(tensor)
        piece.tensors.append(tensor)
        piece.storages.append(Storage(key, file, storage.offset, storage.size_bytes))
        return piece

    def note(self, code: str, where: str, message: str, severity: Severity = Severity.ERROR) -> None:
        """Add a finding, up to a thousand."""
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(Finding(code, severity, where, message, _HINT))

    @staticmethod
    def _label(file: str, place: Place) -> str:
        return f"{safe_text(file)} at byte {count(place.offset)}"

    def _read(self, descriptor: int, file: str, name: str, is_tensor: bool, place: Place) -> Piece:
        label = self._label(file, place)
        if place.transforms:
            words = ", ".join(safe_text(word, 40) for word in place.transforms)
            message = f"it is stored as a stream ({words}) that must be unpacked as a whole: it cannot be read in place"
            self.note("unreadable-storage", name, message, Severity.WARNING)
            return Piece("packed")
        head = read_exactly(descriptor, min(2, place.length), place.offset, label)
        if head != _ZIP_HEAD:
            raise CkptError("Damaged checkpoint", "no torch archive begins there")
        if is_tensor:
            piece = self._read_tensor(descriptor, file, place, label)
            if piece is not None:
                return piece
        else:
            self._num_values += 1
            self._value_bytes += place.length
            if (
                place.length > _MAX_VALUE_BYTES
                or self._value_bytes > _MAX_VALUES_BYTES
                or self._num_values > _MAX_VALUES
            ):
                return Piece("large")
        return self._read_any(descriptor, file, name, place, label)

    def _read_tensor(self, descriptor: int, file: str, place: Place, label: str) -> Piece | None:
        """The usual case: one plain tensor. None for anything else. The same shape has the same pickle, so that most
        of them are decoded once."""
        index = read_zip_index(descriptor, place.length, label, self.limits, place.offset)
        pickles = [entry for entry in index.entries if entry.name.endswith("/data.pkl") or entry.name == "data.pkl"]
        if len(pickles) != 1 or index.findings:
            return None
        (entry,) = pickles
        if entry.offset is None or entry.method or entry.size_bytes > 64 << 10:
            return None
        raw = read_exactly(descriptor, entry.size_bytes, entry.offset, label)
        decoded = self._decoded.get(raw)
        if decoded is None:
            decoded = decode_pickle(raw, f"{label}: {entry.name}", self.limits)
            if len(self._decoded) < _MAX_CACHED_PICKLES and len(raw) <= _MAX_CACHED_BYTES:
                self._decoded[raw] = decoded
            self._take_globals(decoded.globals)
        if type(decoded.root) is not TensorRef or decoded.root.info.layout != "strided":
            return None
        prefix = entry.name.removesuffix("data.pkl")
        old = decoded.root.info
        record = next((e for e in index.entries if e.name == prefix + old.storage), None)
        needed = bytes_needed(old)
        if record is None or record.offset is None or record.method or needed is None or record.size_bytes < needed:
            return None
        key = f"{file}:{place.offset}/{old.storage}"
        piece = Piece()
        info = TensorInfo("", "", old.shape, old.dtype, old.size_bytes, key, old.stride, old.offset, old.device)
        info.requires_grad, info.is_parameter = old.requires_grad, old.is_parameter
        piece.value = TensorRef(info)
        piece.tensors.append(info)
        is_big = any(e.name == prefix + "byteorder" and e.size_bytes == len("big") for e in index.entries)
        piece.storages.append(Storage(key, file, record.offset, record.size_bytes, record.crc32 or None, is_big))
        return piece

    def _read_any(self, descriptor: int, file: str, name: str, place: Place, label: str) -> Piece:
        """Whatever torch.save writes."""
        found = TORCH_ZIP.read(descriptor, place.length, label, self.limits, place.offset)
        self._take_globals(found.globals)
        for finding in found.findings:
            where = f"{name}: {finding.where}" if finding.where else name
            self.findings.append(Finding(finding.code, finding.severity, where, finding.message, finding.hint))
        piece = Piece()
        piece.value = found.state
        piece.tensors = found.tensors
        keys: dict[str, str] = {}
        for storage in found.storages.values():
            key = keys[storage.key] = f"{file}:{place.offset}/{storage.key}"
            piece.storages.append(
                Storage(
                    key, file, storage.offset, storage.size_bytes, storage.crc32, storage.is_big_endian,
                    storage.deflated_bytes,
                )
            )  # fmt: skip
        for tensor in found.tensors:
            tensor.storage = keys.get(tensor.storage, tensor.storage)
        return piece

    def _take_globals(self, named: list[GlobalRef]) -> None:
        for ref in named:
            self.globals.setdefault(ref.key, ref)

    def tell_losses(self, checkpoint: Checkpoint) -> None:
        """Say which tensors are lost with a file that is missing, short or not inside."""
        for (file, problem), names in sorted(self.lost.items()):
            shown = ", ".join(safe_text(name, 80) for name in names[:3])
            lost = f"lost with it: {shown}" + (f" and {plural(len(names) - 3, 'more piece')}" if names[3:] else "")
            if problem == "missing":
                code, what = "missing-part", f"it is not there; {lost}"
            elif problem == "short":
                code = "truncated"
                what = f"it has {count(self.listing.files[file])} bytes, fewer than were written; {lost}"
            else:
                code, what = "outside", f"the metadata names a file that is not in the directory; {lost}"
            checkpoint.findings.append(Finding(code, Severity.ERROR, safe_text(file), what, _HINT))


def _begin(item: tuple[str, bool, Place]) -> tuple[int, int]:
    return item[2].offset, item[2].length
