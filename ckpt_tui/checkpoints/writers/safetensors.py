"""Pieces of a safetensors file: the header with names, dtypes, shapes and metadata, then the tensors, end to end."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import TensorInfo, contiguous_stride
from ckpt_tui.checkpoints.salvage_facts import Source
from ckpt_tui.checkpoints.writers.pieces import NewFile, NewStorage

DTYPE_CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8",
    "uint16": "U16", "uint32": "U32", "uint64": "U64", "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
_ALIGNMENT = 8


def fits(tensor: TensorInfo, source: Source) -> bool:
    """Whether a tensor is just its storage, all of it, in a dtype that the format knows."""
    return (
        tensor.dtype in DTYPE_CODES
        and tensor.layout == "strided"
        and not tensor.offset
        and tensor.size_bytes == source.size_bytes
        and not (source.is_big_endian or tensor.is_conj or tensor.is_neg)
        and tensor.stride == contiguous_stride(tensor.shape)
    )


def safetensors_pieces(tensors: list[tuple[TensorInfo, Source]], metadata: dict[str, str]) -> NewFile:
    """A file of these tensors in this order; each must fit (see `fits`)."""
    import json

    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for tensor, source in tensors:
        end = position + source.size_bytes
        header[tensor.name] = {
            "dtype": DTYPE_CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end],
        }  # fmt: skip
        position = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    raw += b" " * (-len(raw) % _ALIGNMENT)
    start = 8 + len(raw)
    storages, offset = [], start
    for tensor, source in tensors:
        storages.append(NewStorage(tensor.name, offset, source.size_bytes, source.crc32))
        offset += source.size_bytes
    pieces: list[bytes | Source] = [len(raw).to_bytes(8, "little") + raw, *(source for _, source in tensors)]
    return NewFile(pieces, storages, offset)
