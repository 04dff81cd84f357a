"""The tar archives of torch before 0.1.10, written as its `save` did; today's torch.load opens them."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from typing import Any

import torch


def tar_bytes(state: Any, views: list[tuple[int, int, int, int]] | None = None, **members: bytes) -> bytes:
    """`views`: stretches of storages by number, (number, number of the root, first, elements). `members` replace."""
    tensors: dict[int, torch.Tensor] = {}
    storages: dict[int, tuple[int, torch.Tensor]] = {}  # data pointer -> (key, a tensor on it)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> str | None:
            if not isinstance(value, torch.Tensor):
                return None
            key = 1000 + next((n for n, tensor in enumerate(tensors.values()) if tensor is value), len(tensors))
            tensors[key] = value
            storages.setdefault(value.untyped_storage().data_ptr(), (len(storages), value))
            return str(key)

    parts = {"sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2)}
    stream = io.BytesIO()
    Pickler(stream, 2).dump(state)
    parts["pickle"] = stream.getvalue()
    stream = io.BytesIO()
    pickle.dump(len(tensors), stream, 2)
    for key, tensor in tensors.items():
        pickle.dump((key, storages[tensor.untyped_storage().data_ptr()][0], torch.FloatTensor), stream, 2)
        numbers = (*tensor.shape, *tensor.stride(), tensor.storage_offset())
        stream.write(struct.pack(f"<ii{len(numbers)}q", tensor.dim(), 0, *numbers))
    parts["tensors"] = stream.getvalue()
    stream = io.BytesIO()
    pickle.dump(len(storages), stream, 2)
    for key, tensor in storages.values():
        kind = getattr(torch, torch.storage._dtype_to_storage_type_map()[tensor.dtype])
        pickle.dump((key, "cpu", kind), stream, 2)
        raw = bytes(tensor.untyped_storage().tolist())
        stream.write(struct.pack("<q", len(raw) // tensor.element_size()) + raw)
    pickle.dump(views or [], stream, 2)
    parts["storages"] = stream.getvalue()
    return archive_bytes(parts | members)


def archive_bytes(parts: dict[str, bytes]) -> bytes:
    """A tar archive of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            if name in parts:
                info = tarfile.TarInfo(name)
                info.size = len(parts[name])
                archive.addfile(info, io.BytesIO(parts[name]))
    return buffer.getvalue()
