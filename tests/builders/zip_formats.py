"""Small real files of every format that is a zip archive, and numpy's single arrays."""

from __future__ import annotations

import io
import json
import warnings
import zipfile

import numpy as np
import torch
from torch.package import PackageExporter

from tests.builders.torch_files import save_bytes

_FLOAT = 7  # torch._export.serde.schema.ScalarType
_STRIDED = 7


def torchscript_bytes() -> bytes:
    """A traced module with constants in its code."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x) + torch.tensor([1.0, 2.0])

    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # that it is deprecated
        torch.jit.save(torch.jit.trace(Net(), torch.ones(1, 3)), buffer)
    return buffer.getvalue()


def export_bytes() -> bytes:
    """As torch.export.save of torch 2.13 lays it out; exporting itself takes seconds."""

    def table(names: dict[str, str]) -> str:
        meta = {
            "dtype": _FLOAT, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0},
            "requires_grad": False, "device": {"type": "cpu", "index": None}, "layout": _STRIDED,
        }  # fmt: skip
        config = {
            name: {"path_name": record, "is_param": True, "use_pickle": False, "tensor_meta": meta}
            for name, record in names.items()
        }
        return json.dumps({"config": config})

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(2):
            archive.writestr(f"net/data/weights/weight_{number}", np.ones(2, np.float32).tobytes())
        archive.writestr(
            "net/data/weights/model_weights_config.json", table({"a": "weight_0", "b": "weight_1", "tied": "weight_0"})
        )
        archive.writestr("net/data/constants/tensor_0", np.zeros(2, np.float32).tobytes())
        archive.writestr("net/data/constants/model_constants_config.json", table({"c": "tensor_0"}))
        archive.writestr("net/models/model.json", json.dumps({"graph_module": {}}))
        archive.writestr("net/data/sample_inputs/model.pt", save_bytes(((torch.ones(2),), {})))
        archive.writestr("net/archive_format", "pt2")
        archive.writestr("net/archive_version", "0")
        archive.writestr("net/byteorder", "little")
    return buffer.getvalue()


def package_bytes() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), PackageExporter(buffer) as exporter:
        exporter.extern("**")
        exporter.save_pickle("nets", "state.pkl", {"w": torch.ones(3, 2), "step": 3})
        exporter.save_source_string("nets.code", "x = 1\n")
    return buffer.getvalue()


def npz_bytes() -> bytes:
    """Plain, transposed, big-endian, structured and object arrays, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        w=np.ones((3, 2), np.float32),
        turned=np.asfortranarray(np.ones((3, 2))),
        big=np.arange(3, dtype=">i4"),
        rows=np.zeros(2, dtype=[("a", "<f4"), ("b", "<i8")]),
        objects=np.array([{"a": 1}, None], dtype=object),
    )
    return buffer.getvalue()


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 2), np.float32))
    return buffer.getvalue()
