"""Plain pickles of every protocol: arrays and tensors are what numpy and torch say, and text is never taken for one."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import pickletools
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.readers.pickle import READER
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.commands.inspect_json import as_json
from ckpt_tui.errors import CkptError
from tests.builders.hostile_pickles import HAZARDS
from tests.builders.legacy_files import legacy_bytes
from tests.builders.pace import cpu_time
from tests.builders.pickle_routes import payload_routes, text
from tests.unit.checkpoints.test_torch_legacy_reader import assert_holds, raw_elements

_ARRAY_DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8", "c16", ">f4", ">i8"]


_OPENED = legacy_bytes(None)
_MORE_HAZARDS = {
    "many long bytes": b"\x80\x04](" + (b"B\x20\x4e\0\0" + bytes(20_000)) * 300 + b"e.",
    "a line without an end": b"\x80\x02c" + b"a" * 2_000_000,
    "a text of 2 GB": b"\x80\x02X\xff\xff\xff\x7f" + b"a" * 1000,
    "one array again and again": b"\x80\x04C\x08aaaaaaaa\x940" + b"cnumpy._core.numeric\n_frombuffer\n(h\x00cnumpy\n"
    b"dtype\nX\x02\0\0\0f8\x85RK\x01\x85X\x01\0\0\0CtR0" * 10_000 + b"N.",
    "one file opened again and again": b"\x80\x04B" + len(_OPENED).to_bytes(4, "little") + _OPENED + b"\x940"
    b"ctorch.storage\n_load_from_bytes\n\x940" + b"h\x01h\x00\x85R0" * 10_000 + b"N.",
    "many pickles in bytes": b"\x80\x04](" + b"C\x0e\x80\x02cos\nsystem\n." * 50_000 + b"e.",
}  # fmt: skip


def _open(tmp_path: Path, data: bytes) -> Checkpoint:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    assert sniff(path) == "pickle"
    return open_checkpoint(path)


def _arrays() -> dict[str, Any]:
    grid = np.arange(24).reshape(4, 6)
    arrays: dict[str, Any] = {dtype: grid.astype(dtype) for dtype in _ARRAY_DTYPES}
    return arrays | {
        "fortran": np.asfortranarray(grid * 1.5), "scalar": np.array(2.5), "empty": np.zeros((0, 3)),
        "bfloat16": np.array([1.5, -2.0], ml_dtypes.bfloat16), "large": np.arange(50_000, dtype="f4"),
    }  # fmt: skip


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_what_numpy_says(tmp_path: Path, protocol: int) -> None:
    arrays = _arrays()
    checkpoint = _open(tmp_path, pickle.dumps({"weights": arrays, "step": 4, "tied": arrays["f4"]}, protocol))
    assert [finding.code for finding in checkpoint.findings] == (["values-as-text"] if protocol < 3 else [])
    assert checkpoint.safety == "safe"
    assert checkpoint.progress == {"step": 4}
    truth = {f"weights.{name}": array for name, array in arrays.items()} | {"tied": arrays["f4"]}
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert list(ours) == list(truth)
    assert ours["tied"].storage == ours["weights.f4"].storage
    for name, array in truth.items():
        mine = ours[name]
        assert mine.shape == array.shape
        assert mine.size_bytes == array.nbytes
        assert mine.dtype == array.dtype.newbyteorder("=").name
        if array.size:
            assert [step * array.itemsize for step in mine.stride] == list(array.strides)
        storage = checkpoint.storages[mine.storage]
        assert storage.is_big_endian == (array.dtype.byteorder == ">")
        if protocol < 3:  # bytes are written as latin-1 text there
            assert storage.offset is None
        else:
            native = array.astype(array.dtype.newbyteorder("="), order="C")
            assert raw_elements(checkpoint, name) == native.tobytes()


def _tensors() -> dict[str, Any]:
    torch.manual_seed(0)
    grid = torch.arange(60.0).reshape(5, 12)
    parameter = torch.nn.Parameter(torch.ones(3))
    return {
        "model": collections.OrderedDict(a=torch.randn(3, 4), b=torch.arange(5), view=grid[1:3, ::2]),
        "half": torch.ones(3).half(), "bf16": torch.tensor([1.5]).bfloat16(), "bool": torch.tensor([True, False]),
        "parameter": parameter, "again": parameter, "large": torch.arange(20_000.0), "step": 9,
    }  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_torch_tensors_pickled_plainly(tmp_path: Path, protocol: int) -> None:
    """torch puts a whole file of its old format into the pickle for each storage."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = pickle.dumps(_tensors(), protocol)
    checkpoint = _open(tmp_path, raw)
    assert checkpoint.progress == {"step": 9}
    assert checkpoint.safety == "safe", checkpoint.globals
    if protocol == 2:
        assert all(storage.offset is None for storage in checkpoint.storages.values())
        assert [tensor.shape for tensor in checkpoint.tensors][:2] == [(3, 4), (5,)]
    else:
        assert checkpoint.findings == []
        assert_holds(checkpoint, pickle.loads(raw))
    assert any(ref.where.endswith("object") for ref in checkpoint.globals)  # of the files in it


def test_an_opener_of_anything_else_stays_dangerous(tmp_path: Path) -> None:
    opener = b"\x80\x02ctorch.storage\n_load_from_bytes\n"
    inner = pickle.dumps({"a": 1})
    for call in (b"(" + text("x") + b"tR.", b"(C" + bytes([len(inner)]) + inner + b"tR.", b"."):
        checkpoint = _open(tmp_path, opener + call)
        assert checkpoint.safety == "dangerous"


def test_a_file_that_is_opened_again_and_again_is_not_followed(tmp_path: Path) -> None:
    """An honest pickle opens each once; what is not looked into counts as what it may be."""
    assert _open(tmp_path, _MORE_HAZARDS["one file opened again and again"]).safety == "dangerous"
    once = b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + len(_OPENED).to_bytes(4, "little") + _OPENED + b"\x85R."
    assert _open(tmp_path, once).safety == "safe"


def test_a_payload_in_a_tensor_of_a_pickle(tmp_path: Path) -> None:
    inner = legacy_bytes({"w": torch.ones(2)})
    at = inner.index(b".", 15) + 1  # behind the protocol version
    inner = inner[:at] + b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00xtR0" + inner[at:]
    raw = b"\x80\x03ctorch.storage\n_load_from_bytes\nB" + len(inner).to_bytes(4, "little") + inner + b"\x85R."
    checkpoint = _open(tmp_path, raw)
    assert checkpoint.safety == "dangerous"
    assert [tensor.name for tensor in checkpoint.tensors] == ["w"]
    assert [ref.where.rpartition(": ")[2] for ref in checkpoint.globals if ref.name == "os.system"] == ["sys_info"]


@pytest.mark.parametrize("route", list(payload_routes(Path())))
def test_no_route_runs_anything(tmp_path: Path, route: str) -> None:
    marker = tmp_path / "ran"
    checkpoint = _open(tmp_path, b"\x80\x04" + payload_routes(marker)[route] + b".")
    assert checkpoint.safety == "dangerous"
    assert not marker.exists()


def _as_python_2(raw: bytes) -> bytes:
    """The same pickle with its texts and bytes as Python 2 wrote them: SHORT_BINSTRING and BINSTRING."""
    old = bytearray(raw)
    for opcode, _, position in pickletools.genops(raw):
        if opcode.name in ("SHORT_BINBYTES", "BINBYTES", "BINUNICODE"):
            assert position is not None
            old[position] = {"SHORT_BINBYTES": 0x55, "BINBYTES": 0x54, "BINUNICODE": 0x54}[opcode.name]
    return bytes(old)


def test_arrays_that_python_2_pickled(tmp_path: Path) -> None:
    """CIFAR's batches and the models of the first detectron are such files."""
    arrays = {"data": np.arange(20_000, dtype="f4"), "ascii": np.frombuffer(b"words" * 4, "u1"), "n": np.arange(300)}
    raw = _as_python_2(pickle.dumps(arrays, 3))
    assert all((value == arrays[key.decode()]).all() for key, value in pickle.loads(raw, encoding="bytes").items())
    checkpoint = _open(tmp_path, raw)
    assert [tensor.name for tensor in checkpoint.tensors] == list(arrays)
    assert all(raw_elements(checkpoint, name) == array.tobytes() for name, array in arrays.items())


def test_a_legacy_file_that_python_2_wrote(tmp_path: Path) -> None:
    state = {"w": torch.arange(3.0), "step": 2}
    pieces = legacy_bytes(state)
    end = pieces.rindex(b".", 0, -20) + 1
    path = tmp_path / "x.pt"
    stream, position = b"", 0
    while position < end:
        length = _length_of_first(pieces[position:])
        stream += _as_python_2(pieces[position : position + length])
        position += length
    path.write_bytes(stream + pieces[end:])
    assert torch.load(path, weights_only=False)["w"].tolist() == [0.0, 1.0, 2.0]
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "torch-legacy"
    assert checkpoint.progress == {"step": 2}
    assert_holds(checkpoint, state)


def _length_of_first(raw: bytes) -> int:
    """How long the first pickle is."""
    *_, (_, _, last) = pickletools.genops(raw)
    assert last is not None
    return last + 1


def test_a_file_of_joblib_is_called_so(tmp_path: Path) -> None:
    raw = b"\x80\x03cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}b\xff\xff\0\0 the bytes of an array"
    path = tmp_path / "x.joblib"
    path.write_bytes(raw)
    with pytest.raises(CkptError, match="joblib"):
        open_checkpoint(path)


def test_a_payload_without_a_header(tmp_path: Path) -> None:
    assert _open(tmp_path, b"cos\nsystem\n(S'id'\ntR.").safety == "dangerous"


@pytest.mark.parametrize("protocol", range(6))
def test_settings_and_objects(tmp_path: Path, protocol: int) -> None:
    state = {"args": argparse.Namespace(lr=0.5, name="x" * 600), "epoch": 3, "ids": {1, 2}, "big": 1 << 70}
    checkpoint = _open(tmp_path, pickle.dumps(state, protocol))
    assert checkpoint.hyperparameters == {"lr": 0.5, "name": "x" * 600}
    assert checkpoint.progress == {"epoch": 3}
    assert checkpoint.safety == "safe"


@pytest.mark.parametrize("protocol", range(6))
def test_a_long_pickle_is_read_in_windows(tmp_path: Path, protocol: int) -> None:
    state = {f"key {n}": {"x": [n, float(n), "é" * (n % 90)], "y": (None, -n, n << 40)} for n in range(3000)}
    assert _open(tmp_path, pickle.dumps(state, protocol)).state == state


def test_long_bytes_are_shown_as_short_ones_are(tmp_path: Path) -> None:
    state = as_json(_open(tmp_path, pickle.dumps({"short": b"ab", "long": b"x" * 50_000}, 4)).state)
    assert isinstance(state, dict)
    assert state["short"] == {"bytes": 2, "hex": "6162"}
    assert state["long"]["bytes"] == 50_000
    assert state["long"]["hex"].startswith("7878")


def test_pickles_in_a_row(tmp_path: Path) -> None:
    pieces = [pickle.dumps(value, 4) for value in ({"a": np.arange(3.0)}, [1], {"b": np.arange(4)})]
    checkpoint = _open(tmp_path, b"".join(pieces))
    assert checkpoint.metadata["pickles"] == 3
    assert [tensor.name for tensor in checkpoint.tensors] == ["0.a", "2.b"]
    assert raw_elements(checkpoint, "2.b") == np.arange(4).tobytes()
    cut = _open(tmp_path, b"".join(pieces)[:-5] + b"cos\nsystem\n")
    assert [finding.code for finding in cut.findings] == ["trailing-pickle"]
    assert [finding.code for finding in _open(tmp_path, pieces[0] + b"rest").findings] == ["trailing-data"]


def test_a_payload_behind_the_first_pickle_is_judged(tmp_path: Path) -> None:
    assert _open(tmp_path, pickle.dumps({"a": 1}) + b"cos\nsystem\n)R.").safety == "dangerous"
    assert _open(tmp_path, pickle.dumps({"a": 1}) + b"\x80\x02cos\nsystem\n)R").safety == "dangerous"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_cut_says_so(tmp_path: Path, protocol: int) -> None:
    whole = pickle.dumps({"a": np.arange(3.0), "b": [1, 2.5, "x", None]}, protocol)
    path = tmp_path / "x.pkl"
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(CkptError) as caught:
            open_checkpoint(path)
        assert caught.value.title == ("Damaged checkpoint" if end > 2 else "Not a checkpoint")


def _texts() -> list[bytes]:
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_bytes() for path in sorted(library.glob("*.py"))[:150]]
    texts += [path.read_bytes() for path in sorted(Path().glob("*.md"))]
    texts += [
        b"step,loss\n1,2.5\n", b"(1, 2, 3)\n", b"[1, 2]\n", b"[]", b"{}", b"}\n", b"(lp", b"class A:\n  pass\n.", b"c",
        json.dumps({"a": [1, 2, {"b": None}]}).encode(), json.dumps([1, 2]).encode(), b"count\n1\n2\n.", b"cd x\nls\n.",
        b"I5\n.", b"Voice\n.", b"N.", b"Name: x\n", b"(see above)\n", b"(555) 123\n", b"\x80\x02\xff\xff", b"\x80text",
    ]  # fmt: skip
    return texts


def test_text_is_never_taken_for_a_pickle() -> None:
    claimed = [data[:60] for data in _texts() if READER.sniff(data[:512], len(data)) is not None]
    assert claimed == []


@pytest.mark.parametrize("kind", ["pickle", "legacy"])
@pytest.mark.parametrize("hazard", [*HAZARDS, *_MORE_HAZARDS])
def test_a_hazard_ends_soon(tmp_path: Path, hazard: str, kind: str) -> None:
    pickled = {**HAZARDS, **_MORE_HAZARDS}[hazard]
    if kind == "legacy":
        head, tail = legacy_bytes(None).split(pickle.dumps(None, 2) + pickle.dumps([], 2))
        pickled = head + pickled + pickle.dumps([], 2) + tail
    path = tmp_path / "x"
    path.write_bytes(pickled)
    with cpu_time() as took:
        try:
            found = open_checkpoint(path).format
        except CkptError as error:
            found = error.title
    assert found in (kind, f"torch-{kind}", "Damaged checkpoint", "Not readable", "Not a checkpoint")
    assert took.seconds < 2.0  # twice what is allowed


def test_a_large_file_costs_no_memory(tmp_path: Path) -> None:
    """Arrays stay where they lie: only what stands between them is read."""
    from ckpt_tui.checkpoints.pickle_decode import decode_stream
    from ckpt_tui.checkpoints.pickle_source import MemorySource

    class Counted(MemorySource):
        num_read = 0

        def read(self, offset: int, num_bytes: int) -> bytes:
            piece = super().read(offset, num_bytes)
            Counted.num_read += len(piece)
            return piece

    raw = pickle.dumps({str(n): np.zeros(100_000) for n in range(20)}, 4)
    decoded = decode_stream(Counted(raw, "x", 0), 0, "x", takes_arrays=True)
    assert decoded.end == len(raw) > 16_000_000
    assert Counted.num_read < 200_000


def test_a_second_pickle_that_does_not_decode_is_unknown(tmp_path: Path) -> None:
    whole = pickle.dumps({"step": 1}, 2)
    path = tmp_path / "x.pkl"
    path.write_bytes(whole + b"\x80\x02\xff\xff" + pickle.dumps({"step": 2}, 2))
    checkpoint = open_checkpoint(path)
    assert checkpoint.safety == "unknown"
    assert [finding.code for finding in checkpoint.findings] == ["trailing-pickle"]
