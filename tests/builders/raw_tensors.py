"""A checkpoint that is one file of raw bytes with torch tensors in it: for what reads elements, without any format."""

from __future__ import annotations

from pathlib import Path

import torch

from ckpt_tui.checkpoints.model import Checkpoint, Storage, TensorInfo, TensorRef


def raw_checkpoint(path: Path, tensors: dict[str, torch.Tensor], *, byteorder: str = "little") -> Checkpoint:
    """Write the storages of `tensors` to `path`, shared ones once, 64 bytes before each, and describe them."""
    checkpoint = Checkpoint(str(path), "raw", 0)
    keys: dict[int, str] = {}
    with open(path, "wb") as file:
        for name, tensor in tensors.items():
            storage = tensor.untyped_storage()
            key = keys.setdefault(storage.data_ptr() or id(storage), f"data/{len(keys)}")
            if key not in checkpoint.storages:
                content = torch.tensor([], dtype=torch.uint8).set_(storage).numpy().tobytes() if len(storage) else b""
                if byteorder == "big":
                    content = swapped(content, tensor)
                file.write(b"\xff" * 64)
                checkpoint.storages[key] = Storage(key, "", file.tell(), len(content), None, byteorder == "big")
                file.write(content)
            checkpoint.tensors.append(info_of(name, tensor, key))
        checkpoint.size_bytes = file.tell()
    checkpoint.state = {info.name: TensorRef(info, i) for i, info in enumerate(checkpoint.tensors)}
    return checkpoint


def info_of(name: str, tensor: torch.Tensor, key: str) -> TensorInfo:
    return TensorInfo(
        name,
        "",
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        tensor.numel() * tensor.element_size(),
        key,
        tuple(tensor.stride()),
        tensor.storage_offset(),
    )


def swapped(content: bytes, tensor: torch.Tensor) -> bytes:
    """The same elements in the other byte order; complex numbers by their parts."""
    size = tensor.element_size() // (2 if tensor.dtype.is_complex else 1)
    return b"".join(content[i : i + size][::-1] for i in range(0, len(content), size))
