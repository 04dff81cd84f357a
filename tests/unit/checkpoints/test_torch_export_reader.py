"""torch.export's `.pt2` archives, against the exported program that torch loads from them."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.readers.export_program import is_size
from ckpt_tui.checkpoints.readers.torch_export import _DTYPES
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.torch_files import save_bytes
from tests.builders.truth import check_tensor

pytestmark = pytest.mark.filterwarnings("ignore")
_PAYLOAD = b"cos\nsystem\n(X\x02\x00\x00\x00idtR."


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 2)
        self.second = torch.nn.Linear(3, 2, bias=False)
        self.second.weight = self.first.weight
        self.norm = torch.nn.BatchNorm1d(2)
        self.turned = torch.nn.Parameter(torch.ones(4, 2).t())
        self.coarse = torch.nn.Parameter(torch.tensor([1.0, -2.0]).bfloat16(), requires_grad=False)
        self.register_buffer("mask", torch.ones(2))
        self.register_buffer("hidden", torch.full((2,), 3.0), persistent=False)
        self.constant = torch.arange(2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x) + self.second(x)) * self.mask + torch.tensor([1.0, 2.0]) * self.hidden
        return (x + self.constant + self.coarse) @ self.turned


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.export.save(torch.export.export(Net().eval(), (torch.ones(2, 3),)), path, extra_files={"note.txt": "hi"})
    return path


def _rewritten(archive: Path, path: Path, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as copy:
        for info in source.infolist():
            copy.writestr(info.filename, change(info.filename.partition("/")[2], source.read(info)))
    return path


def test_weights_and_constants_are_those_of_the_program(archive: Path) -> None:
    checkpoint = open_checkpoint(archive)
    program = torch.export.load(archive)
    truth = {**program.state_dict, **program.constants}
    assert checkpoint.format == "torch-export"
    assert [tensor.name for tensor in checkpoint.tensors] == list(truth)
    for tensor in checkpoint.tensors:
        check_tensor(checkpoint, tensor, truth[tensor.name])
    by_name = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert by_name["first.weight"].storage == by_name["second.weight"].storage
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    assert checkpoint.has == ["model"]
    assert model_tensors(checkpoint) == checkpoint.tensors
    unique = {tensor.untyped_storage().data_ptr(): tensor.numel() for tensor in truth.values()}
    assert count_parameters(checkpoint.tensors) == sum(unique.values())


def test_dtypes_are_numbered_as_torch_numbers_them() -> None:
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    assert {number: str(dtype).removeprefix("torch.") for number, dtype in _SERIALIZE_TO_TORCH_DTYPE.items()} == _DTYPES


def test_state_dicts_inside_the_archive_as_older_torch_wrote_them(archive: Path, tmp_path: Path) -> None:
    program = torch.export.load(archive)
    path = tmp_path / "older.pt2"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as copy:
        for info in source.infolist():
            if not info.filename.startswith(("net/data/weights", "net/data/constants")):
                copy.writestr(info.filename, source.read(info))
        copy.writestr("net/data/weights/model.pt", save_bytes(dict(program.state_dict)))
        copy.writestr("net/data/constants/model.pt", save_bytes(dict(program.constants)))
    checkpoint = open_checkpoint(path)
    truth = {**torch.export.load(path).state_dict, **program.constants}
    assert [tensor.name for tensor in checkpoint.tensors] == list(truth)
    for tensor in checkpoint.tensors:
        check_tensor(checkpoint, tensor, truth[tensor.name])
    assert checkpoint.findings == []


def test_the_first_layout(tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    path = tmp_path / "first.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", save_bytes(state))
        archive.writestr("serialized_constants.pt", b"")
        archive.writestr("serialized_example_inputs.pt", save_bytes(((torch.ones(2),), {})))
        archive.writestr("version", "1")
    checkpoint = open_checkpoint(path)
    assert [tensor.name for tensor in checkpoint.tensors] == ["a.weight"]
    check_tensor(checkpoint, checkpoint.tensors[0], state["a.weight"])
    assert checkpoint.findings == []


def test_pickled_weights_are_decoded_and_judged(archive: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            table = json.loads(data)
            table["config"]["first.bias"]["use_pickle"] = True
            return json.dumps(table).encode()
        if name.endswith(f"/{record}"):
            return save_bytes(bias)
        return data

    bias = torch.tensor([5.0, 6.0])
    with zipfile.ZipFile(archive) as source:
        table = json.loads(source.read("net/data/weights/model_weights_config.json"))
    record = table["config"]["first.bias"]["path_name"]
    checkpoint = open_checkpoint(_rewritten(archive, tmp_path / "x.pt2", change))
    (mine,) = [tensor for tensor in checkpoint.tensors if tensor.name == "first.bias"]
    check_tensor(checkpoint, mine, bias)
    assert checkpoint.findings == []


@pytest.mark.parametrize("place", ["data/sample_inputs/model.pt", "an opaque constant"])
def test_a_payload_is_found_wherever_loading_unpickles(archive: Path, tmp_path: Path, place: str) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name == place:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as inner:
                inner.writestr("archive/data.pkl", _PAYLOAD)
            return buffer.getvalue()
        if name == "data/constants/tensor_0" and place == "an opaque constant":
            return _PAYLOAD
        if name.endswith("constants_config.json") and place == "an opaque constant":
            table = json.loads(data)
            for payload in table["config"].values():
                payload["tensor_meta"] = None
            return json.dumps(table).encode()
        return data

    checkpoint = open_checkpoint(_rewritten(archive, tmp_path / "x.pt2", change))
    assert checkpoint.safety == "dangerous"
    assert "os.system" in [ref.name for ref in checkpoint.globals]


def _sized(tmp_path: Path, change: Callable[[str], str] = str) -> Path:
    """An export whose sizes are texts; each of them changed."""

    class Sized(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(x.shape[0] // 2, -1) * (x.shape[0] % 3 + 2 * x.shape[1] ** 2)

    path = tmp_path / "sized.pt2"
    dims = {0: 2 * torch.export.Dim("n", min=2, max=50), 1: torch.export.Dim("m", min=2)}
    torch.export.save(torch.export.export(Sized(), (torch.ones(8, 4),), dynamic_shapes=(dims,)), path)

    def rewrite(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        program = json.loads(data)
        waiting = [program]
        while waiting:
            value = waiting.pop()
            waiting += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
            if isinstance(value, dict) and "expr_str" in value:
                value["expr_str"] = change(value["expr_str"])
        return json.dumps(program).encode()

    return _rewritten(path, tmp_path / "x.pt2", rewrite)


def test_the_sizes_that_torch_writes_are_harmless(tmp_path: Path) -> None:
    assert open_checkpoint(_sized(tmp_path)).safety == "safe"


def test_a_size_that_is_a_program_is_dangerous(tmp_path: Path) -> None:
    """It really is one: torch gives the text to sympy, which evaluates it."""
    marker = tmp_path / "ran"
    command = f"__import__('os').system('touch {marker}')"
    path = _sized(tmp_path, lambda size: f"{command}+{size}")
    checkpoint = open_checkpoint(path)
    assert not marker.exists()
    assert checkpoint.safety == "dangerous"
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert marker.exists(), "else this proves nothing"


def test_a_call_of_the_graph_that_runs_commands_is_dangerous(archive: Path, tmp_path: Path) -> None:
    path = _rewritten(
        archive, tmp_path / "x.pt2", lambda _, data: data.replace(b"torch.ops.aten.linear.default", b"torch.os.system")
    )
    assert [ref.name for ref in open_checkpoint(path).globals if ref.verdict == "dangerous"] == ["torch.os.system"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("s0", True),
        ("2*s77 + Mod(s1, 3)", True),
        ("Symbol('s77', positive=True, integer=True)", True),
        ("FloorDiv(u0, 2)**2", True),
        ("x", False),
        ("s0.func", False),
        ("[s0]", False),
        ("s0 if s1 else 2", False),
        ("exec('1')", False),
        ("S('s0')", False),
        ("Symbol('a(b)')", False),
    ],
)
def test_what_is_a_size(size: str, expected: bool) -> None:
    assert is_size(size) is expected


def test_compiled_code_is_said(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a") as more:
        more.writestr("net/data/aotinductor/model/lib.so", b"\x7fELF")
    checkpoint = open_checkpoint(path)
    assert [finding.code for finding in checkpoint.findings] == ["native-code"]
    assert checkpoint.safety == "unknown"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", 99), ("dtype", [1]), ("sizes", [{"as_int": -1}]), ("sizes", [{"as_int": 1 << 62}] * 2),
        ("sizes", "many"), ("sizes", [{"as_expr": 1}]), ("strides", []), ("storage_offset", None), ("sizes", None),
        ("layout", [1]), ("sizes", [{"as_int": True}]),
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_in_the_table_is_a_finding(archive: Path, tmp_path: Path, key: str, value: object) -> None:
    def change(name: str, data: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            table = json.loads(data)
            table["config"]["mask"]["tensor_meta"][key] = value
            return json.dumps(table).encode()
        return data

    checkpoint = open_checkpoint(_rewritten(archive, tmp_path / "x.pt2", change))
    assert [(finding.code, finding.where) for finding in checkpoint.findings] == [("malformed-tensor", "mask")]
    assert len(checkpoint.tensors) == len(open_checkpoint(archive).tensors) - 1


@pytest.mark.parametrize("table", [b"", b"[]", b'{"config": 3}', b'{"config": {"a": 3}}', b"[" * 100_000])
def test_a_table_that_is_none_is_a_finding(archive: Path, tmp_path: Path, table: bytes) -> None:
    path = _rewritten(
        archive, tmp_path / "x.pt2", lambda name, data: table if name.endswith("weights_config.json") else data
    )
    checkpoint = open_checkpoint(path)
    assert {finding.code for finding in checkpoint.findings} <= {"unreadable-part", "malformed-tensor"}
    assert checkpoint.findings
    assert [tensor.name for tensor in checkpoint.tensors] == ["lifted_tensor_0", "constant", "hidden"]
