"""NumPy's files against numpy: names, shapes, dtypes, orders, values; objects decoded and never made."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ckpt_tui.checkpoints import inflated
from ckpt_tui.checkpoints.elements import ElementReader
from ckpt_tui.checkpoints.facts import count_parameters
from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject, TensorInfo
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.values import count_nonfinite, tensor_statistics
from ckpt_tui.errors import CkptError
from tests.builders.torch_files import save_bytes
from tests.builders.validation import validate

Save = Callable[..., None]
SAVES: dict[str, Save] = {"stored": np.savez, "deflated": np.savez_compressed}


class Payload:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return __import__("os").system, ("touch /tmp/zzip-payload-ran",)


def arrays() -> dict[str, np.ndarray]:
    chance = np.random.default_rng(0)
    grid = chance.standard_normal((40, 30)).astype(np.float32)
    found: dict[str, np.ndarray] = {
        kind: chance.integers(0, 100, (5, 7)).astype(kind)
        for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1", "c8", "c16")
    }
    return found | {
        "big": grid.astype(">f4"), "big int": np.arange(5, dtype=">i2"), "big complex": np.arange(3).astype(">c8"),
        "fortran": np.asfortranarray(grid), "cube": np.asfortranarray(chance.standard_normal((3, 4, 5))),
        "scalar": np.float64(2.5), "empty": np.zeros((0, 3)), "one": np.array([7]), "layer/0.weight": grid,
    }  # fmt: skip


def values(checkpoint: Checkpoint, tensor: TensorInfo) -> bytes:
    with ElementReader(checkpoint, tensor) as reader:
        return b"".join(np.ascontiguousarray(words).tobytes() for words in reader.blocks())


def check(checkpoint: Checkpoint, tensor: TensorInfo, truth: np.ndarray) -> None:
    truth = np.asarray(truth)
    assert tensor.shape == truth.shape
    assert tensor.dtype == truth.dtype.name
    assert tensor.size_bytes == truth.nbytes
    plain = truth.astype(truth.dtype.newbyteorder("<"))
    assert values(checkpoint, tensor) == np.ascontiguousarray(plain).tobytes()


@pytest.mark.parametrize("kind", SAVES)
def test_an_archive_of_arrays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.npz"
    SAVES[kind](path, **arrays())
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "npz"
    with np.load(path) as truth:
        assert [tensor.name for tensor in checkpoint.tensors] == truth.files
        for tensor in checkpoint.tensors:
            check(checkpoint, tensor, truth[tensor.name])
        assert count_parameters(checkpoint.tensors) == sum(truth[name].size for name in truth.files)
    assert checkpoint.findings == []
    assert checkpoint.has == ["model"]
    assert {s.deflated_bytes is not None for s in checkpoint.storages.values()} == {kind == "deflated"}


@pytest.mark.parametrize("name", arrays())
def test_a_single_array(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.npy"
    np.save(path, arrays()[name])
    checkpoint = open_checkpoint(path)
    assert (checkpoint.format, checkpoint.findings) == ("npz", [])
    check(checkpoint, checkpoint.tensors[0], np.load(path))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_header(tmp_path: Path, version: tuple[int, int]) -> None:
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, np.arange(6.0).reshape(2, 3), version)
    checkpoint = open_checkpoint(path)
    check(checkpoint, checkpoint.tensors[0], np.load(path))


def test_strides_of_fortran_order(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    truth = np.asfortranarray(np.zeros((3, 4, 5)))
    np.save(path, truth)
    (tensor,) = open_checkpoint(path).tensors
    assert tensor.stride == tuple(step // 8 for step in truth.strides)


OTHERS = {
    "structured": np.zeros(3, dtype=[("a", "<f4"), ("b", "<i8", (2,))]),
    "text": np.array(["one", "three"]),
    "bytes": np.array([b"one"]),
    "time": np.array(["2026-01-01"], dtype="M8[s]"),
    "wide": np.zeros(2, dtype=np.longdouble),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_dtypes_are_described(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, plain=np.ones(2), other=OTHERS[name])
    checkpoint = open_checkpoint(path)
    other = checkpoint.state["other"]
    assert isinstance(other, OpaqueObject)
    assert other.type_name == "numpy.ndarray"
    assert other.args[0] == OTHERS[name].shape
    assert str(np.lib.format.dtype_to_descr(OTHERS[name].dtype)) == other.args[1]
    assert [tensor.name for tensor in checkpoint.tensors] == ["plain"]
    assert checkpoint.findings == []


@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_objects_are_decoded_and_judged(tmp_path: Path, kind: str) -> None:
    mark = Path("/tmp/zzip-payload-ran")
    path = tmp_path / "x"
    for payload, safety in (({"a": 1}, "safe"), (Payload(), "dangerous")):
        array = np.array([payload, None], dtype=object)
        buffer = io.BytesIO()
        if kind == "npy":
            np.save(buffer, array, allow_pickle=True)
        else:
            SAVES[kind](buffer, objects=array, w=np.ones(3))
        path.write_bytes(buffer.getvalue())
        checkpoint = open_checkpoint(path)
        assert checkpoint.safety == safety
        assert checkpoint.findings == []
        names = {ref.name for ref in checkpoint.globals}
        assert names & {"numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"}
        assert ("posix.system" in names) == (safety == "dangerous")
    assert not mark.exists()


def test_objects_in_a_field_of_a_structure_are_found(tmp_path: Path) -> None:
    array = np.zeros(2, dtype=[("n", "<f4"), ("inner", [("o", "O")])])
    array["inner"]["o"][0] = Payload()
    np.savez(tmp_path / "x.npz", rows=array)
    assert open_checkpoint(tmp_path / "x.npz").safety == "dangerous"
    np.savez(tmp_path / "y.npz", rows=np.zeros(2, dtype=[("Other name", "<f4")]))
    assert open_checkpoint(tmp_path / "y.npz").safety == "safe"


# --- reading what is compressed


def test_nan_in_compressed_arrays_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    array = np.ones((300, 300), np.float32)
    array[250, 3] = np.nan
    np.savez_compressed(path, good=np.ones(10), bad=array, turned=np.asfortranarray(array))
    checkpoint = open_checkpoint(path)
    found = {tensor.name: count_nonfinite(checkpoint, tensor) for tensor in checkpoint.tensors}
    assert {name: one.nan for name, one in found.items()} == {"good": 0, "bad": 1, "turned": 1}
    assert found["bad"].first_bad_index == found["turned"].first_bad_index == 250 * 300 + 3
    result = validate(path)
    assert result.levels["numbers"] == "fail"
    assert {finding.where for finding in result.findings if finding.code == "nonfinite"} == {"bad", "turned"}


def test_statistics_of_large_compressed_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger than what is gathered in memory, so that a transposed one is read back and forth."""
    from ckpt_tui.checkpoints import elements

    monkeypatch.setattr(elements, "_WHOLE_SPAN_BYTES", 1024)
    monkeypatch.setattr(elements, "_PIECE_BYTES", 64)
    monkeypatch.setattr(elements, "BLOCK_ELEMENTS", 64)
    monkeypatch.setattr(inflated, "_PIECE_BYTES", 128)
    truth = np.random.default_rng(1).standard_normal((60, 50))
    path = tmp_path / "x.npz"
    np.savez_compressed(path, rows=truth, columns=np.asfortranarray(truth))
    checkpoint = open_checkpoint(path)
    for tensor in checkpoint.tensors:
        check(checkpoint, tensor, truth)
        statistics = tensor_statistics(checkpoint, tensor)
        assert statistics.mean == pytest.approx(truth.mean())
        assert (statistics.min, statistics.max) == (truth.min(), truth.max())


def test_deflated_storages_of_torch_are_read_too(tmp_path: Path) -> None:
    """torch loads an archive that another program packed again with compression, and so do we."""
    values_in = {"w": torch.arange(50.0).reshape(5, 10), "t": torch.arange(6).reshape(2, 3).t()}
    path = tmp_path / "x.pt"
    source = zipfile.ZipFile(io.BytesIO(save_bytes(values_in)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as copy:
        for info in source.infolist():
            copy.writestr(info.filename, source.read(info))
    truth = torch.load(path)
    checkpoint = open_checkpoint(path)
    for tensor in checkpoint.tensors:
        assert values(checkpoint, tensor) == truth[tensor.name].contiguous().numpy().tobytes()
    assert checkpoint.findings == []


def _patched(path: Path, **changes: int) -> Checkpoint:
    """The checkpoint with lies about its only storage."""
    import dataclasses

    checkpoint = open_checkpoint(path)
    (key,) = checkpoint.storages
    checkpoint.storages[key] = dataclasses.replace(checkpoint.storages[key], **changes)
    return checkpoint


def test_a_stream_that_lies_about_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.asfortranarray(np.random.default_rng(0).standard_normal((90, 90))))
    checkpoint = _patched(path, size_bytes=1 << 40)
    with pytest.raises(CkptError, match="cannot hold"):
        values(checkpoint, checkpoint.tensors[0])
    checkpoint = _patched(path, deflated_bytes=4000)
    with pytest.raises(CkptError, match="compressed data ends"):
        values(checkpoint, checkpoint.tensors[0])
    (place,) = (storage.offset for storage in open_checkpoint(path).storages.values())
    assert place is not None
    checkpoint = _patched(path, offset=place + 1)
    with pytest.raises(CkptError, match="decompress"):
        values(checkpoint, checkpoint.tensors[0])


def test_a_bomb_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckpt_tui.checkpoints import elements

    monkeypatch.setattr(inflated, "_MOST_SPILLED_BYTES", 1000)
    monkeypatch.setattr(elements, "_WHOLE_SPAN_BYTES", 1024)
    monkeypatch.setattr(elements, "_PIECE_BYTES", 64)
    monkeypatch.setattr(elements, "BLOCK_ELEMENTS", 64)
    path = tmp_path / "x.npz"
    np.savez_compressed(path, w=np.asfortranarray(np.zeros((1000, 1000))))
    checkpoint = open_checkpoint(path)
    with pytest.raises(CkptError, match="too much for a temporary file"):
        values(checkpoint, checkpoint.tensors[0])


# --- headers that lie


def _npy(header: bytes, version: int = 1, data: bytes = b"") -> bytes:
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(width, "little") + header + data


BAD_HEADERS = {
    "no literal": _npy(b"{'descr': os.system('id')}"),
    "a call": _npy(b"__import__('os').system('id')"),
    "not a dict": _npy(b"(1, 2, 3)          "),
    "fields missing": _npy(b"{'shape': (3,)}    "),
    "negative": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}"),
    "huge": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 62,)}"),
    "huge product": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d)}" % (1 << 40, 1 << 40)),
    "a list": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': [3]}"),
    "deep": _npy(b"(" * 60_000),
    "minus": _npy(b"-" * 60_000 + b"1"),
    "nested": _npy(b"{'descr': " + b"[" * 1000 + b"]" * 1000 + b"}"),
    "not utf-8": _npy(b"\xff\xfe" * 20, 3),
    "a header of gigabytes": b"\x93NUMPY\2\0\xff\xff\xff\xff{}",
    "cut off": _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}")[:30],
    "of version 9": b"\x93NUMPY\x09\0" + b" " * 20,
    "nothing": b"\x93NUMPY",
}


@pytest.mark.parametrize("lie", BAD_HEADERS)
def test_headers_that_lie(tmp_path: Path, lie: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(BAD_HEADERS[lie])
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path)
    assert caught.value.title == "Damaged checkpoint"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bad.npy", BAD_HEADERS[lie])
        archive.writestr("good.npy", _npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 1, b"\0" * 12))
    checkpoint = open_checkpoint(path)
    assert [(finding.code, finding.where) for finding in checkpoint.findings] == [("unreadable-array", "bad.npy")]
    assert list(checkpoint.state) == ["good"]
    assert checkpoint.safety == "unknown"  # numpy may read a header that we do not


def test_a_file_cut_short_or_with_more_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones(100))
    whole = path.read_bytes()
    for data, code in ((whole[:-8], "short-storage"), (whole + b"x", "trailing-data")):
        path.write_bytes(data)
        assert [finding.code for finding in open_checkpoint(path).findings] == [code]
