"""Whole modules, and every container that torch.save writes tensors into: their names and values are torch.load's."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.facts import model_tensors
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.torch_files import save_bytes, training_state
from tests.builders.truth import check_tensor

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of prototypes


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)])
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mask", torch.ones(2), persistent=False)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.plain = torch.ones(4)


@pytest.mark.parametrize("prefix", ["", "net"])
def test_a_whole_module_has_the_names_of_its_state_dict(tmp_path: Path, prefix: str) -> None:
    module = Tied()
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({prefix: module, "step": 3} if prefix else module))
    checkpoint = open_checkpoint(path)
    truth = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    assert set(module.state_dict()) < set(truth)
    dot = f"{prefix}." if prefix else ""
    ours = {tensor.name.removeprefix(dot): tensor for tensor in checkpoint.tensors}
    assert set(ours) == {*truth, "plain"}
    for name, tensor in truth.items():
        check_tensor(checkpoint, ours[name], tensor)
    assert ours["head.weight"].storage == ours["embedding.weight"].storage
    assert checkpoint.has == ["model"]
    assert [tensor.name for tensor in model_tensors(checkpoint)] == [tensor.name for tensor in checkpoint.tensors]


def _with_crc32(on: bool) -> Callable[[], bytes]:
    def save() -> bytes:
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(on)
        try:
            return save_bytes(training_state())
        finally:
            torch.serialization.set_crc32_options(before)

    return save


def _aligned(alignment: int) -> Callable[[], bytes]:
    def save() -> bytes:
        from torch.utils.serialization import config

        with config.patch({"save.storage_alignment": alignment}):
            return save_bytes(training_state())

    return save


CONTAINERS: dict[str, Callable[[], bytes]] = {
    "as usual": lambda: save_bytes(training_state()),
    "checksums off": _with_crc32(False),
    "aligned to 4096": _aligned(4096),
    "aligned to 8": _aligned(8),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_values_in_every_container(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "renamed after saving"
    path.write_bytes(CONTAINERS[kind]())
    checkpoint = open_checkpoint(path)
    truth = dict(_named(torch.load(path, weights_only=False)))
    assert [tensor.name for tensor in checkpoint.tensors] == list(truth)
    for tensor in checkpoint.tensors:
        check_tensor(checkpoint, tensor, truth[tensor.name])
    assert checkpoint.findings == []
    if kind.startswith("aligned"):
        alignment = int(kind.rpartition(" ")[2])
        assert all((storage.offset or 0) % alignment == 0 for storage in checkpoint.storages.values())
    assert all((storage.crc32 is None) == (kind == "checksums off") for storage in _filled(checkpoint))


def _filled(checkpoint: Checkpoint) -> Iterator[object]:
    return (storage for storage in checkpoint.storages.values() if storage.size_bytes)


def _named(value: object, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _named(item, f"{path}.{key}" if path else str(key))


def test_saved_by_path_the_prefix_is_the_name(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "odd name.v2.pt")
    (tmp_path / "odd name.v2.pt").rename(tmp_path / "y")
    checkpoint = open_checkpoint(tmp_path / "y")
    check_tensor(checkpoint, checkpoint.tensors[0], torch.ones(3))


def test_skipped_data_reads_as_zeros(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with torch.serialization.skip_data():
        torch.save({"w": torch.ones(3, 5)}, buffer)
    path = tmp_path / "x.pt"
    path.write_bytes(buffer.getvalue())
    checkpoint = open_checkpoint(path)
    check_tensor(checkpoint, checkpoint.tensors[0], torch.zeros(3, 5))
    assert checkpoint.storages["data/0"].crc32 is None


def test_a_big_endian_file(tmp_path: Path) -> None:
    """Made of a little-endian one: torch swaps each storage by its dtype, and so do we."""
    torch.manual_seed(0)
    values = {
        "f64": torch.randn(3, dtype=torch.float64), "f32": torch.randn(4, 5), "bf16": torch.randn(6).bfloat16(),
        "i64": torch.arange(-3, 4), "u16": torch.arange(5).to(torch.uint16), "c64": torch.randn(3, dtype=torch.cfloat),
        "u8": torch.arange(4, dtype=torch.uint8), "bool": torch.tensor([True, False]),
    }  # fmt: skip
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(save_bytes(values))) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in name:
                tensor = list(values.values())[int(name.rpartition("/")[2])]
                width = tensor.element_size() // (2 if tensor.is_complex() else 1)
                data = b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
            target.writestr(name, data)
    path = tmp_path / "x.pt"
    path.write_bytes(buffer.getvalue())
    checkpoint = open_checkpoint(path)
    truth = torch.load(path)
    assert checkpoint.metadata["byteorder"] == "big"
    for mine in checkpoint.tensors:
        # torch 2.13 forgets to swap storages without a type, on which uint16 lies: it loads 0, 256, 512 ...
        assert torch.equal(truth[mine.name], values[mine.name]) == (mine.name != "u16")
        check_tensor(checkpoint, mine, values[mine.name])


def test_seventy_thousand_records(tmp_path: Path) -> None:
    """More than a classic end record can count."""
    path = tmp_path / "x.pt"
    torch.save([torch.tensor([float(i)]) for i in range(70_000)], path)
    checkpoint = open_checkpoint(path)
    assert len(checkpoint.tensors) == len(checkpoint.storages) == 70_000
    assert checkpoint.findings == []
    for number in (0, 1, 65_534, 65_535, 65_536, 69_999):
        assert checkpoint.tensors[number].name == str(number)
        check_tensor(checkpoint, checkpoint.tensors[number], torch.full((1,), float(number)))
