"""torch.save's zip archives: `*/data.pkl` decoded inertly, one stored record per storage.

Left out of the state: what stands beside a container or a tensor and not in it, which is the `_metadata` of a state
dict (versions of its modules), and attributes of tensors and parameters. Their globals are judged all the same.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import DTYPE_SIZES, Checkpoint, Finding, Severity, Storage, TensorInfo
from ckpt_tui.checkpoints.pickle_machine import DecodedPickle, UnsoundPickleError, decode_pickle
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.checkpoints.zip_index import ZipEntry, read_zip_index
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text, size

_MAX_FINDINGS = 100
_MAX_PICKLES = 16  # each is decoded; a hostile archive has a million
_MAX_INFLATED_BYTES = 64 << 20  # torch stores its pickles as they are; a thousandth of this can hold a bomb
_HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


class TorchZipReader:
    """`.pt .pth .bin .ckpt` as torch has written them since 1.6; TorchScript by its state."""

    formats: tuple[str, ...] = ("torch-zip", "torchscript")

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        return "torch-zip" if head[:4] in (b"PK\x03\x04", b"PK\x05\x06") else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits, base: int = 0) -> Checkpoint:
        """base: where the archive begins, for one of several in a file."""
        index = read_zip_index(descriptor, file_bytes, path, limits, base)
        pickles = [e for e in index.entries if e.name == "data.pkl" or e.name.endswith("/data.pkl")]
        if not pickles:
            names = ", ".join(safe_text(entry.name, 40) for entry in index.entries[:3])
            raise CkptError(
                "Not a checkpoint",
                f"{path} is a zip archive without a data.pkl (it holds {names or 'nothing'})",
                "NumPy archives and torch.export packages are known, but not read yet.",
            )
        checkpoint = Checkpoint(path, "torch-zip", file_bytes, findings=index.findings)
        prefix = _decode_every(descriptor, pickles, checkpoint, limits)
        by_name = {entry.name: entry for entry in index.entries}
        if any(f"{prefix}{name}" in by_name for name in ("constants.pkl", "code/__torch__.py")):
            checkpoint.format = "torchscript"
        for note in ("version", "byteorder"):
            entry = by_name.get(prefix + note)
            if entry is not None and entry.offset is not None and entry.method == 0 and entry.size_bytes <= 64:
                raw = read_exactly(descriptor, entry.size_bytes, entry.offset, path)
                checkpoint.metadata[note] = raw.decode("ascii", "replace").strip()
        checkpoint.tensors = name_tensors(checkpoint.state, limits, checkpoint.findings)
        _join_storages(checkpoint, prefix, by_name)
        return checkpoint


def _decode_every(descriptor: int, pickles: list[ZipEntry], checkpoint: Checkpoint, limits: ReadLimits) -> str:
    """Fill state and globals; gives the prefix of the records that belong to the state.

    Programs disagree which of several data.pkl they load, so each is decoded and its globals judged. The first that
    decodes is shown; one that does not is an error, and the end only when none does.
    """
    findings = checkpoint.findings
    shown: ZipEntry | None = None
    first_error: CkptError | None = None
    known: set[str] = set()
    total = sum(max(entry.size_bytes, entry.compressed_bytes) for entry in pickles)
    if len(pickles) > _MAX_PICKLES or total > limits.max_pickle_bytes:
        raise CkptError(
            "Not readable",
            f"{checkpoint.path} holds {count(len(pickles))} data.pkl of {size(total)}: more than a checkpoint can need",
            "It may have been made to harm.",
        )
    for entry in pickles:
        try:
            decoded = _decode(descriptor, entry, checkpoint.path, limits)
        except CkptError as error:
            first_error = first_error or error
            named = error.globals if isinstance(error, UnsoundPickleError) else []
            message = error.message.removeprefix(f"{checkpoint.path}: ")
            findings.append(Finding("unreadable-pickle", Severity.ERROR, entry.name, message, _HINT))
        else:
            named = decoded.globals
            if shown is None:
                shown = entry
                checkpoint.state = decoded.root
            if decoded.end < entry.size_bytes:
                rest = f"{count(entry.size_bytes - decoded.end)} bytes follow the end of the pickle"
                findings.append(Finding("trailing-pickle", Severity.WARNING, entry.name, rest))
            if decoded.num_malformed:
                broken = f"{count(decoded.num_malformed)} of its tensors have shapes or strides that no tensor can have"
                findings.append(Finding("malformed-tensor", Severity.ERROR, entry.name, broken, _HINT))
        checkpoint.globals += [ref for ref in named if ref.name not in known]
        known.update(ref.name for ref in named)
    if shown is None:
        assert first_error is not None
        raise first_error
    if len({entry.name for entry in pickles}) > 1:
        message = f"{count(len(pickles))} records are called data.pkl, {shown.name} is shown; torch.save writes one"
        findings.append(Finding("several-pickles", Severity.WARNING, shown.name, message, _HINT))
    return shown.name[: -len("data.pkl")]


def _decode(descriptor: int, entry: ZipEntry, path: str, limits: ReadLimits) -> DecodedPickle:
    if entry.offset is None:
        raise CkptError("Damaged checkpoint", f"{path}: {entry.name} has no bytes to read", _HINT)
    if entry.method and entry.size_bytes > _MAX_INFLATED_BYTES:
        raise CkptError(
            "Not readable", f"{path}: {entry.name} is compressed, and {size(entry.size_bytes)} when it is not"
        )
    data = read_exactly(descriptor, entry.compressed_bytes, entry.offset, path)
    if entry.method == 8:
        from zlib import decompressobj, error

        try:
            data = decompressobj(-15).decompress(data, entry.size_bytes + 1)
        except error as problem:
            raise CkptError("Damaged checkpoint", f"{path}: {entry.name}: {problem}", _HINT) from None
    elif entry.method:
        raise CkptError("Not readable", f"{path}: {entry.name} is compressed by method {entry.method}")
    if len(data) != entry.size_bytes:
        raise CkptError("Damaged checkpoint", f"{path}: {entry.name} does not have the size it claims", _HINT)
    return decode_pickle(data, f"{path}: {entry.name}", limits)


def _join_storages(checkpoint: Checkpoint, prefix: str, by_name: dict[str, ZipEntry]) -> None:
    """Find every tensor's bytes, and say which have none, or fewer than the tensor shows."""
    storages, num_bad = checkpoint.storages, 0
    is_big_endian = checkpoint.metadata.get("byteorder") == "big"
    for tensor in checkpoint.tensors:
        key = tensor.storage
        if not key:
            continue
        storage = storages.get(key)
        if storage is None:
            entry = by_name.get(prefix + key)
            if entry is None:
                storage = Storage(key, "", None, 0)
            else:
                offset = entry.offset if entry.method == 0 else None
                storage = Storage(key, "", offset, entry.size_bytes, entry.crc32 or None, is_big_endian)
            storages[key] = storage
        needed = _bytes_needed(tensor)
        if needed <= storage.size_bytes and storage.offset is not None:
            continue
        num_bad += 1
        if num_bad <= _MAX_FINDINGS:
            if prefix + key not in by_name:
                code, what = "missing-storage", f"its storage {key} is not in the file"
            elif storage.offset is None:
                code, what = "unreadable-storage", f"the bytes of its storage {key} cannot be read in place"
            else:
                code = "short-storage"
                what = f"it needs {count(needed)} bytes, its storage {key} has {count(storage.size_bytes)}"
            checkpoint.findings.append(Finding(code, Severity.ERROR, tensor.name, what, _HINT))


def _bytes_needed(tensor: TensorInfo) -> int:
    """Bytes of the storage up to the last element that the tensor shows."""
    last = tensor.offset
    for extent, stride in zip(tensor.shape, tensor.stride, strict=True):
        if extent == 0:
            return 0
        last += (extent - 1) * stride
    # Packed dtypes show more elements than bytes.
    return 0 if tensor.dtype in ("quint4x2", "quint2x4") else (last + 1) * DTYPE_SIZES.get(tensor.dtype, 0)


READER = TorchZipReader()
