"""safetensors: 8 bytes of length, a JSON header, then the tensors without gaps."""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    Checkpoint,
    Finding,
    GlobalRef,
    Severity,
    Storage,
    TensorInfo,
    TensorRef,
    Verdict,
)
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text, size

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
# Of a file that is a pickle at the same time: with them it can step over the header's zeros.
_PICKLE_OPCODES = frozenset(
    b"()]}0124:BCFGIJKLMNSTUVXacdeghijlopqrstu\x80\x82\x83\x84\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96"
)
_MAX_OPCODES = 200_000  # honest headers end as a pickle after a handful
_MAX_PICKLE_BYTES = 16 << 20
_HINT = "Download or save it again; safetensors has no checksum that could say more."


class SafetensorsReader:
    """One `.safetensors` file. Weights only: it says nothing of progress but in its `__metadata__`."""

    formats: tuple[str, ...] = ("safetensors",)

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        return "safetensors" if len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0" else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits, base: int = 0) -> Checkpoint:
        """base: where it begins, when it is embedded in a file; `file_bytes` are its own then."""
        header_bytes = int.from_bytes(read_exactly(descriptor, 8, base, path), "little")
        if header_bytes > file_bytes - 8:
            raise _damaged(
                path,
                f"its header claims {count(header_bytes)} bytes, the file has {count(file_bytes)}: it is cut short",
            )
        if header_bytes > limits.max_json_bytes:
            raise CkptError(
                "Not readable",
                f"{path}: a header of {size(header_bytes)} is too large: up to {size(limits.max_json_bytes)} is read",
                "It may have been made to harm.",
            )
        header = _parse(read_exactly(descriptor, header_bytes, base + 8, path), path)
        metadata = header.pop("__metadata__", {})
        checkpoint = Checkpoint(path, "safetensors", file_bytes)
        if isinstance(metadata, dict):
            checkpoint.metadata.update(metadata)
        state: dict[object, object] = {}
        spans: list[tuple[int, int, str]] = []
        data_start = 8 + header_bytes
        for name, entry in header.items():
            info, begin, end = _tensor(name, entry, path)
            spans.append((begin, end, name))
            state[name] = TensorRef(info, len(checkpoint.tensors))
            checkpoint.tensors.append(info)
            is_there = data_start + end <= file_bytes
            checkpoint.storages[name] = Storage(name, "", base + data_start + begin if is_there else None, end - begin)
            if not is_there:
                checkpoint.findings.append(
                    Finding(
                        "tensor-outside",
                        Severity.ERROR,
                        name,
                        f"it ends at byte {count(data_start + end)}, the file at {count(file_bytes)}: it is cut short",
                        _HINT,
                    )
                )
        checkpoint.state = state
        _check_spans(spans, data_start, file_bytes, checkpoint)
        _judge_as_pickle(descriptor, base, file_bytes, checkpoint, limits)
        return checkpoint


def _judge_as_pickle(descriptor: int, base: int, file_bytes: int, checkpoint: Checkpoint, limits: ReadLimits) -> None:
    """List what the file names when it is read as a pickle too: under the name x.pt torch.load takes it for one."""
    first = read_exactly(descriptor, 1, base, checkpoint.path)
    if first[0] not in _PICKLE_OPCODES:
        return
    from dataclasses import replace

    from ckpt_tui.checkpoints.pickle_decode import UnsoundPickleError, decode_stream
    from ckpt_tui.checkpoints.pickle_source import PickleSource

    source = PickleSource(descriptor, base + file_bytes, checkpoint.path)
    few = replace(limits, max_opcodes=_MAX_OPCODES, max_pickle_bytes=_MAX_PICKLE_BYTES)
    try:
        found = decode_stream(source, base, "the file as a pickle", few).globals
    except UnsoundPickleError as error:
        found = error.globals
        if error.is_too_much:
            reason = "the file is a long pickle too: what it names was not looked at"
            found.append(GlobalRef("pickle.load", Verdict.UNKNOWN, reason, checkpoint.path))
    checkpoint.globals += [ref for ref in found if all(part.isidentifier() for part in ref.name.split("."))]


def _parse(raw: bytes, path: str) -> dict[str, object]:
    import json

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise _damaged(path, f"its header names {safe_text(name)} twice")
                seen.add(name)
        return found

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON: {safe_text(error, 100)}") from None
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    return header


def _tensor(name: str, entry: object, path: str) -> tuple[TensorInfo, int, int]:
    where = f"tensor {safe_text(name)}"
    if not isinstance(entry, dict):
        raise _damaged(path, f"{where} is not described by an object")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    dtype = _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        raise _damaged(path, f"{where} has the unknown dtype {safe_text(entry.get('dtype'), 40)}")
    if not _are_counts(shape) or len(shape) > 64:  # type: ignore[arg-type]
        raise _damaged(path, f"{where} has no sound shape")
    if not _are_counts(offsets) or len(offsets) != 2:  # type: ignore[arg-type]
        raise _damaged(path, f"{where} has no sound data_offsets")
    assert isinstance(shape, list)
    assert isinstance(offsets, list)
    begin, end = offsets
    if end < begin:
        raise _damaged(path, f"{where}: its offsets run backwards, from {count(begin)} to {count(end)}")
    num_bytes = DTYPE_SIZES[dtype]
    stride: list[int] = []
    step = 1
    for extent in reversed(shape):
        stride.append(step)
        step *= max(extent, 1)
        num_bytes *= extent
    if num_bytes != end - begin:
        raise _damaged(path, f"{where}: its shape needs {_needed(num_bytes)} bytes, it has {count(end - begin)}")
    return TensorInfo(name, "", tuple(shape), dtype, num_bytes, name, tuple(reversed(stride))), begin, end


def _needed(num_bytes: int) -> str:
    return count(num_bytes) if num_bytes < 1 << 63 else "more than 2^63"


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_spans(spans: list[tuple[int, int, str]], data_start: int, file_bytes: int, checkpoint: Checkpoint) -> None:
    reach, before = 0, ""
    note = checkpoint.findings.append
    for begin, end, name in sorted(spans):
        if begin < reach:
            note(Finding("overlapping-tensors", Severity.ERROR, name, f"its bytes overlap those of {before}", _HINT))
        elif begin > reach:
            note(
                Finding("gap", Severity.ERROR, name, f"{count(begin - reach)} bytes before it belong to nothing", _HINT)
            )
        if end > reach:
            reach, before = end, name
        if len(checkpoint.findings) > 200:
            return
    if data_start + reach < file_bytes:
        extra = count(file_bytes - data_start - reach)
        note(Finding("trailing-data", Severity.ERROR, "end", f"{extra} bytes follow the last tensor", _HINT))


def _damaged(path: str, what: str) -> CkptError:
    return CkptError("Damaged checkpoint", f"{path}: {what}", _HINT)


READER = SafetensorsReader()
