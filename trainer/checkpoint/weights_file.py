"""`best_model.safetensors`: the weights alone, for inference, as every library that reads safetensors takes them."""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import struct
from collections.abc import Mapping
from typing import Any

import torch

from trainer.checkpoint.proven import PublishError
from trainer.checkpoint.publish import publish

NAME = "best_model.safetensors"
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def weights_of(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that were evaluated: those of the model, or their averages where there are any."""
    averages = (state.get("ema") or {}).get("weights") or {}
    weights = {**state.get("model", {}), **{name: value for name, value in averages.items() if name in state["model"]}}
    return {str(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)}


def write_weights(directory: str, weights: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Publish them. about: step and losses, told in the file's metadata. Raises PublishError.

    Tied weights are there under each of their names: the format has no way to say that two are one.
    """
    for name, tensor in weights.items():
        if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided:
            raise PublishError("write", f"{name} is {tensor.dtype}, {tensor.layout}, which safetensors cannot hold")
    # Widest first, as the format's own library has them: so each begins at a multiple of its width.
    ordered = sorted(weights.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    header: dict[str, Any] = {
        "__metadata__": {"format": "pt", **{key: str(value) for key, value in about.items() if value is not None}}
    }
    at = 0
    for name, tensor in ordered:
        end = at + math.prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with mmap.mmap(-1, begin + at) as memory:
        memory[:begin] = struct.pack("<Q", len(text)) + text
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for name, tensor in ordered:
            offset, end = header[name]["data_offsets"]
            if end > offset:
                # Without the interpreter's lock: this runs beside a training.
                whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
                ctypes.memmove(address + begin + offset, whole.data_ptr(), end - offset)
        with memoryview(memory) as content:
            publish(directory, [NAME], content)
