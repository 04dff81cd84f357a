"""What we read of torch's format before 1.6 is what torch.load says, and damage to it is told by tensor."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckpt_tui.checkpoints.elements import ElementReader
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.errors import CkptError
from tests.builders.legacy_files import legacy_bytes
from tests.builders.pickle_routes import payload_routes
from tests.builders.torch_files import training_state

_NEWER = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)
_DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128,
)  # fmt: skip


def tensors_of(value: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    found: dict[str, torch.Tensor] = {}
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = list(enumerate(value))
    for key, item in pairs:
        found |= tensors_of(item, f"{path}.{key}" if path else str(key))
    return found


def raw_elements(checkpoint: Checkpoint, name: str) -> bytes:
    """The elements as we read them, in logical order, as bytes."""
    tensor = next(tensor for tensor in checkpoint.tensors if tensor.name == name)
    with ElementReader(checkpoint, tensor, keep_expanded=True) as reader:
        return b"".join(np.ascontiguousarray(block).tobytes() for block in reader.blocks())


def torch_elements(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().contiguous()
    return bytes(plain.flatten().view(torch.uint8).numpy()) if plain.numel() else b""


def assert_is_what_torch_says(path: Path, checkpoint: Checkpoint) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_holds(checkpoint, torch.load(path, weights_only=False))


def assert_holds(checkpoint: Checkpoint, state: object) -> None:
    """The tensors of the checkpoint are those of `state`: names, views, dtypes, what is shared, values."""
    truth = tensors_of(state)
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert list(ours) == list(truth)
    storages: dict[int, str] = {}
    for name, tensor in truth.items():
        mine = ours[name]
        assert mine.shape == tuple(tensor.shape)
        assert mine.stride == tensor.stride()
        assert mine.offset == tensor.storage_offset()
        assert f"torch.{mine.dtype}" == str(tensor.dtype)
        assert mine.is_parameter == isinstance(tensor, torch.nn.Parameter)
        assert mine.requires_grad == tensor.requires_grad
        assert raw_elements(checkpoint, name) == torch_elements(tensor)
        if tensor.numel():
            assert storages.setdefault(tensor.untyped_storage().data_ptr(), mine.storage) == mine.storage
    assert len(set(storages.values())) == len(storages)


def _write(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(legacy_bytes(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_tensors_and_their_values_are_what_torch_says(tmp_path: Path, protocol: int) -> None:
    state = training_state()
    del state["dtypes"]  # see below
    path = _write(tmp_path / "x.pt", state, protocol)
    checkpoint = open_checkpoint(path)
    assert sniff(path) == checkpoint.format == "torch-legacy"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    assert checkpoint.progress == {"step": 7, "epoch": 1, "val_loss": 1.5, "saved_at": 1.7e9}
    assert checkpoint.has == ["model", "optimizer", "rng"]
    assert all(storage.crc32 is None for storage in checkpoint.storages.values())
    assert_is_what_torch_says(path, checkpoint)


def test_a_file_of_protocol_0_without_tensors_is_known(tmp_path: Path) -> None:
    """torch 2 writes ids of storages in it that it cannot read back: only plain states come through."""
    path = _write(tmp_path / "x.pt", {"step": 3, "lr": 0.5}, 0)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torch-legacy"
    assert checkpoint.state == torch.load(path, weights_only=False) == {"step": 3, "lr": 0.5}


def test_every_dtype_view_and_tie(tmp_path: Path) -> None:
    grid = torch.arange(60.0).reshape(5, 12)
    tied = torch.nn.Parameter(grid[1:])
    state = {str(dtype): torch.arange(5).to(dtype) for dtype in _DTYPES} | {
        "view": grid[1:4, ::3], "transposed": grid.t(), "tied": tied, "again": tied, "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5), "expanded": torch.ones(1, 3).expand(4, 3), "bits": torch.tensor([1 + 2j])[0].imag,
    }  # fmt: skip
    path = _write(tmp_path / "x.pt", state)
    checkpoint = open_checkpoint(path)
    assert checkpoint.findings == []
    assert_is_what_torch_says(path, checkpoint)


def test_newer_dtypes_that_torch_writes_and_cannot_read_back(tmp_path: Path) -> None:
    """Their storages are untyped, and torch's reader of this format wants a dtype of each."""
    state = {str(dtype): torch.arange(5).to(dtype) for dtype in _NEWER}
    path = _write(tmp_path / "x.pt", state)
    with pytest.raises(AttributeError, match="dtype"):
        torch.load(path, weights_only=False)
    checkpoint = open_checkpoint(path)
    assert checkpoint.findings == []
    assert_holds(checkpoint, state)


def test_a_whole_module(tmp_path: Path) -> None:
    """Its classes stand in persistent ids, together with their source."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    path = _write(tmp_path / "x.pt", model)
    checkpoint = open_checkpoint(path)
    truth = model.state_dict()
    found = [tensor for tensor in checkpoint.tensors if tensor.shape]
    assert [tensor.shape for tensor in found] == [tuple(tensor.shape) for tensor in truth.values()]
    assert [raw_elements(checkpoint, t.name) for t in found] == [torch_elements(t) for t in truth.values()]
    assert checkpoint.safety == "safe"
    assert checkpoint.findings == []


def test_a_storage_by_itself(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.pt", torch.arange(4.0).untyped_storage())
    checkpoint = open_checkpoint(path)
    assert [(tensor.shape, tensor.dtype) for tensor in checkpoint.tensors] == [((16,), "uint8")]
    assert raw_elements(checkpoint, "") == np.arange(4, dtype="f4").tobytes()


def test_a_state_larger_than_one_window(tmp_path: Path) -> None:
    state = {f"layer.{n}.{'x' * (n % 300)}": torch.tensor([float(n)]) for n in range(3000)}
    path = _write(tmp_path / "x.pt", state | {"notes": "y" * 2_000_000})
    checkpoint = open_checkpoint(path)
    assert [tensor.name for tensor in checkpoint.tensors] == list(state)
    for name in list(state)[::500]:
        assert raw_elements(checkpoint, name) == torch_elements(state[name])


def test_bytes_are_little_endian_whatever_sys_info_says(tmp_path: Path) -> None:
    state = {"w": torch.tensor([1.5, -2.5])}
    path = tmp_path / "x.pt"
    raw = legacy_bytes(state)
    at = raw.index(b"\x88", raw.index(b"little_endian"))
    path.write_bytes(raw[:at] + b"\x89" + raw[at + 1 :])
    checkpoint = open_checkpoint(path)
    assert checkpoint.metadata["written_on"] == "big-endian"
    assert torch.load(path)["w"].tolist() == [1.5, -2.5]
    assert raw_elements(checkpoint, "w") == torch_elements(state["w"])


def test_a_view_of_a_storage_as_old_versions_wrote_it(tmp_path: Path) -> None:
    """The sixth item of an id: (key of the view, first element, number of elements)."""
    raw = legacy_bytes({"w": torch.arange(10.0)[:4]})
    shown = b"(X\x01\x00\x00\x00vK\x03K\x05t"  # ('v', 3, 5) instead of None
    path = tmp_path / "x.pt"
    path.write_bytes(raw.replace(b"K\nNt", b"K\n" + shown + b"t", 1))
    assert torch.load(path)["w"].tolist() == [3.0, 4.0, 5.0, 6.0]
    checkpoint = open_checkpoint(path)
    assert checkpoint.findings == []
    assert_is_what_torch_says(path, checkpoint)


# --- payloads


def _pickles(raw: bytes) -> list[bytes]:
    """The five pickles of a legacy file, and what follows them."""
    stream = io.BytesIO(raw)
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.ones(3).untyped_storage(), dtype=torch.float32, _internal=True
    )
    pieces, start = [], 0
    for _ in range(5):
        unpickler = pickle.Unpickler(stream)
        unpickler.persistent_load = lambda saved_id: storage
        unpickler.load()
        pieces.append(raw[start : stream.tell()])
        start = stream.tell()
    return [*pieces, raw[start:]]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("route", list(payload_routes(Path())))
def test_a_payload_in_any_of_the_five_pickles(tmp_path: Path, route: str, number: int) -> None:
    marker = tmp_path / "ran"
    payload = payload_routes(marker)[route]
    pieces = _pickles(legacy_bytes({"w": torch.ones(3)}))
    # What the payload gives is dropped, the pickle goes on as before.
    pieces[number] = b"\x80\x04" + payload + b"0" + pieces[number]
    path = tmp_path / "x.pt"
    path.write_bytes(b"".join(pieces))
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torch-legacy"
    assert checkpoint.safety == "dangerous"
    assert [ref.where.rpartition(": ")[2] for ref in checkpoint.globals if ref.name == "os.system"] == [
        ("magic number", "protocol version", "sys_info", "object", "storage keys")[number]
    ]
    assert [tensor.shape for tensor in checkpoint.tensors] == [(3,)]
    assert not marker.exists()


def test_the_marker_would_appear_if_it_ran(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    pickle.loads(payload_routes(marker)["REDUCE"] + b".")
    assert marker.exists()


# --- damage


def test_a_cut_file_names_the_tensors_that_are_lost(tmp_path: Path) -> None:
    state = {name: torch.full((50,), float(n)) for n, name in enumerate("abcd")}
    raw = legacy_bytes(state)
    whole = tmp_path / "whole.pt"
    whole.write_bytes(raw)
    order = sorted(open_checkpoint(whole).storages.values(), key=lambda storage: storage.offset or 0)
    names = {tensor.storage: tensor.name for tensor in open_checkpoint(whole).tensors}
    cut_at = (order[2].offset or 0) + 100
    path = tmp_path / "x.pt"
    path.write_bytes(raw[:cut_at])
    checkpoint = open_checkpoint(path)
    assert len(checkpoint.tensors) == 4
    found = {finding.where: finding.code for finding in checkpoint.findings}
    lost = {names[order[2].key]: "short-storage", names[order[3].key]: "missing-storage"}
    assert found == {f"byte {cut_at:,}": "truncated", **lost}
    for storage in order[:2]:
        name = names[storage.key]
        assert raw_elements(checkpoint, name) == torch_elements(state[name])


def test_every_cut_says_so(tmp_path: Path) -> None:
    raw = legacy_bytes({"w": torch.arange(6.0), "n": 1, "b": b"x" * 30})
    path = tmp_path / "x.pt"
    for end in range(len(raw)):
        path.write_bytes(raw[:end])
        try:
            said = {finding.severity.value for finding in open_checkpoint(path).findings}
        except CkptError as error:
            said = {error.title}
        allowed = {"Not a checkpoint", "Empty file"} if end <= 2 else {"Damaged checkpoint", "error"}
        assert said & allowed


def test_a_count_that_does_not_agree_is_an_error_as_for_torch(tmp_path: Path) -> None:
    raw = legacy_bytes({"w": torch.arange(6.0)})
    path = tmp_path / "x.pt"
    path.write_bytes(raw[:-32] + struct.pack("<q", 2**61) + raw[-24:])
    with pytest.raises(RuntimeError):
        torch.load(path)
    checkpoint = open_checkpoint(path)
    assert [finding.code for finding in checkpoint.findings] == ["odd-storage-size", "missing-storage"]


def test_bytes_behind_the_last_storage_are_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(legacy_bytes({"w": torch.ones(2)}) + b"more")
    assert [finding.code for finding in open_checkpoint(path).findings] == ["trailing-data"]
