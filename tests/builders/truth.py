"""Holds what we read of a file against what torch or safetensors load from it: names, shapes, dtypes, every value."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load

from ckpt_tui.checkpoints.elements import COUNTABLE, ElementReader
from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo


def tensors_in(value: object, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a loaded state under their dotted paths."""
    if isinstance(value, torch.Tensor):
        return {path: value}
    pairs: list[tuple[object, object]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = list(enumerate(value))
    found: dict[str, torch.Tensor] = {}
    for key, item in pairs:
        found |= tensors_in(item, f"{path}.{key}" if path else str(key))
    return found


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file as the library that wrote it loads them."""
    if path.suffix == ".safetensors":
        return dict(load(path.read_bytes()))
    return tensors_in(torch.load(io.BytesIO(path.read_bytes()), weights_only=False, map_location="cpu"))


def values_of(checkpoint: Checkpoint, info: TensorInfo) -> torch.Tensor:
    """The elements that `info` says it shows, read from where it says they lie."""
    dtype = getattr(torch, info.dtype)
    storage = checkpoint.storages[info.storage]
    path = Path(checkpoint.path) / storage.file if storage.file else Path(checkpoint.path)
    assert storage.offset is not None
    raw = path.read_bytes()[storage.offset : storage.offset + storage.size_bytes]
    if not raw:
        return torch.zeros(info.shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).as_strided(info.shape, info.stride, info.offset)


def check_file(checkpoint: Checkpoint, directory: Path, file: str) -> int:
    """Every tensor of one file of a directory is what its library loads. Gives how many there are."""
    truth = loaded(directory / file)
    ours = {tensor.name: tensor for tensor in checkpoint.tensors if tensor.file == file}
    assert set(ours) == set(truth)
    for name, expected in truth.items():
        info = ours[name]
        assert info.shape == tuple(expected.shape)
        assert f"torch.{info.dtype}" == str(expected.dtype)
        assert torch.equal(values_of(checkpoint, info), expected.detach())
    return len(truth)


def plain_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in logical order, as the file's byte order has them."""
    plain = tensor.detach().as_subclass(torch.Tensor)
    if plain.is_quantized:
        return bytes(plain.untyped_storage())  # type: ignore[call-overload]
    plain = plain.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


def read_bytes(checkpoint: Checkpoint, tensor: TensorInfo) -> bytes:
    """The same by our reader; of dtypes that it does not read, the storage."""
    if tensor.dtype in COUNTABLE:
        with ElementReader(checkpoint, tensor, keep_expanded=True) as reader:
            return b"".join(np.ascontiguousarray(words).tobytes() for words in reader.blocks())
    storage = checkpoint.storages[tensor.storage]
    assert storage.offset is not None
    return Path(checkpoint.path).read_bytes()[storage.offset : storage.offset + storage.size_bytes]


def check_tensor(checkpoint: Checkpoint, mine: TensorInfo, truth: torch.Tensor) -> None:
    """All that is told of one tensor is so, to its last element."""
    assert mine.shape == tuple(truth.shape)
    assert mine.stride == truth.stride()
    assert mine.offset == truth.storage_offset()
    assert f"torch.{mine.dtype}" == str(truth.dtype)
    assert mine.size_bytes == truth.numel() * truth.element_size()
    assert mine.requires_grad == truth.requires_grad
    assert mine.is_parameter == isinstance(truth, torch.nn.Parameter)
    assert mine.layout == "strided"
    if truth.numel():
        assert read_bytes(checkpoint, mine) == plain_bytes(truth)
