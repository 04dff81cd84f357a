"""Every kind of tensor that torch.save writes: names, shapes, dtypes, strides and values are what torch.load says."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, module_weights
from ckpt_tui.checkpoints.model import DTYPE_SIZES
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.values import tensor_statistics
from tests.builders.torch_files import save_bytes
from tests.builders.truth import check_tensor, read_bytes

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of prototypes and of quantization

SAVED_DTYPES = [
    name for name in DTYPE_SIZES if not name.startswith(("q", "complex")) and name != "bool"
]  # quantized ones have constructors of their own, as have complex ones


class Own(torch.Tensor):
    """A subclass that remembers nothing."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return super().__torch_function__(function, types, args, kwargs or {})


class Wrapper(torch.Tensor):
    """A subclass that holds another tensor, as quantized and distributed ones do."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapper:
        return torch.Tensor._make_wrapper_subclass(cls, (inner.shape[0] * 2, *inner.shape[1:]), dtype=torch.bfloat16)

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise NotImplementedError


def _grid() -> torch.Tensor:
    return torch.arange(24.0).reshape(4, 6)


def _with(tensor: torch.Tensor, **attributes: object) -> torch.Tensor:
    for name, value in attributes.items():
        setattr(tensor, name, value)
    return tensor


def strided() -> dict[str, torch.Tensor]:
    """Every tensor with one storage."""
    found: dict[str, torch.Tensor] = {}
    for name in SAVED_DTYPES:
        raw = torch.arange(1, 1 + 6 * DTYPE_SIZES[name], dtype=torch.uint8)
        found[name] = raw.view(getattr(torch, name)).reshape(2, 3)
    found["bool"] = torch.tensor([[True, False], [False, True]])
    base = torch.complex(torch.arange(8.0) - 3.5, torch.arange(8.0) * 2 + 1).reshape(2, 4)
    for name in ("complex32", "complex64", "complex128"):
        found[name] = base.to(getattr(torch, name))
    grid = _grid()
    found |= {
        "base": grid,
        "rows": grid[1:3],
        "columns": grid[:, 1::2],
        "transposed": grid.t(),
        "expanded": grid[:, :1].expand(4, 5),
        "tied": grid,
        "diagonal": grid.diagonal(),
        "windows": grid[0].unfold(0, 3, 1),
        "of another size": torch.ones(1000)[500:502],
        "scalar": torch.tensor(-2.5),
        "one": torch.tensor([7]),
        "none": torch.zeros(0, 3),
        "none at all": torch.empty(0),
        "no rows": grid[4:],
        "conjugated": (base + 1).conj(),
        "conjugated, as it is": (base + 2).conj().resolve_conj(),
        "negated": torch._neg_view(_grid()),
        "negated int": torch._neg_view(torch.tensor([1, -2, 3])),
        "imaginary": (base + 3).imag,
        "imaginary of the conjugate": (base + 4).conj().imag,
        "negated conjugate": torch._neg_view(base + 5).conj(),
        "leaf": _grid().requires_grad_(),
        "parameter": torch.nn.Parameter(_grid()),
        "frozen": torch.nn.Parameter(_grid(), requires_grad=False),
        "buffer": torch.nn.Buffer(_grid()),
        "own": _grid().as_subclass(Own),
        "own parameter": torch.nn.Parameter(_grid().as_subclass(Own)),
        "with a note": _with(_grid(), note="kept", level=3),
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "q per tensor": torch.quantize_per_tensor(grid, 0.1, 3, torch.qint8),
        "q unsigned": torch.quantize_per_tensor(grid, 0.1, 3, torch.quint8),
        "q wide": torch.quantize_per_tensor(grid, 0.1, 3, torch.qint32),
        "q packed": torch.quantize_per_tensor(grid, 0.1, 3, torch.quint4x2),
    }
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_strided_tensor(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes(strided(), protocol))
    checkpoint = open_checkpoint(path)
    truth = torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert [tensor.name for tensor in checkpoint.tensors] == list(truth)
    for mine in checkpoint.tensors:
        check_tensor(checkpoint, mine, truth[mine.name])
    assert checkpoint.findings == []
    by_name = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert by_name["base"].storage == by_name["tied"].storage == by_name["rows"].storage
    assert by_name["base"].storage != by_name["leaf"].storage


def test_statistics_see_through_lazy_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"t": torch._neg_view(torch.tensor([1.0, 2.0, float("inf")]))}))
    checkpoint = open_checkpoint(path)
    found = tensor_statistics(checkpoint, checkpoint.tensors[0])
    assert (found.min, found.max, found.inf) == (-2.0, -1.0, 1)


# --- tensors made of others


def _compressed(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    rows_first = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    if rows_first:
        return {"crow_indices": tensor.crow_indices(), "col_indices": tensor.col_indices(), "values": tensor.values()}
    return {"ccol_indices": tensor.ccol_indices(), "row_indices": tensor.row_indices(), "values": tensor.values()}


def _coo(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"indices": tensor._indices(), "values": tensor._values()}


def _nested(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "values": tensor.values(),
        "sizes": tensor._nested_tensor_size(),
        "strides": tensor._nested_tensor_strides(),
        "offsets": tensor._nested_tensor_storage_offsets(),
    }


def _jagged(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    lengths = tensor.lengths()
    return {"values": tensor.values(), "offsets": tensor.offsets()} | ({} if lengths is None else {"lengths": lengths})


Parts = Callable[[torch.Tensor], dict[str, torch.Tensor]]
COMPOSITES: dict[str, tuple[Callable[[], torch.Tensor], str, Parts]] = {
    "coo": (lambda: _grid().to_sparse(), "sparse_coo", _coo),
    "coo, uncoalesced": (lambda: torch.sparse_coo_tensor([[1, 1]], [2.0, 3.0], (5,)), "sparse_coo", _coo),
    "coo of rows": (lambda: torch.ones(3, 4, 5).to_sparse(1), "sparse_coo", _coo),
    "empty coo": (lambda: torch.sparse_coo_tensor(size=(1 << 30, 1 << 30)), "sparse_coo", _coo),
    "sparse parameter": (lambda: torch.nn.Parameter(_grid().to_sparse()), "sparse_coo", _coo),
    "csr": (lambda: _grid().to_sparse_csr(), "sparse_csr", _compressed),
    "csc": (lambda: _grid().to_sparse_csc(), "sparse_csc", _compressed),
    "bsr": (lambda: _grid().to_sparse_bsr((2, 2)), "sparse_bsr", _compressed),
    "bsc": (lambda: _grid().to_sparse_bsc((2, 3)), "sparse_bsc", _compressed),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(4, 3)]), "nested", _nested),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(4, 3)], layout=torch.jagged),
        "jagged", _jagged,
    ),
    "jagged with lengths": (
        lambda: torch.nested.nested_tensor_from_jagged(
            torch.rand(10, 3), torch.tensor([0, 3, 6]), lengths=torch.tensor([2, 1])
        ),
        "jagged", _jagged,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPOSITES)
def test_tensors_made_of_others(tmp_path: Path, kind: str) -> None:
    make, layout, parts_of = COMPOSITES[kind]
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"before": torch.ones(2), "w": make(), "after": torch.zeros(3)}))
    checkpoint = open_checkpoint(path)
    truth = torch.load(io.BytesIO(path.read_bytes()), weights_only=False)["w"]
    parts = parts_of(truth.detach())
    assert [tensor.name for tensor in checkpoint.tensors] == [
        "before", "w", *(f"w.{name}" for name in parts), "after",
    ]  # fmt: skip
    whole = checkpoint.tensors[1]
    assert (whole.layout, whole.storage, f"torch.{whole.dtype}") == (layout, "", str(truth.dtype))
    num_elements = truth.values().numel() if layout == "jagged" else truth.numel()  # of a jagged one as it is stored
    assert whole.num_elements == num_elements
    if layout.startswith("sparse"):
        assert whole.shape == tuple(truth.shape)
        assert f"torch.{whole.layout}" == str(truth.layout)
    assert whole.is_parameter == isinstance(truth, torch.nn.Parameter)
    for mine, part in zip(checkpoint.tensors[2:-1], parts.values(), strict=True):
        check_tensor(checkpoint, mine, part)
        assert mine.is_component
    assert not whole.is_component
    assert not checkpoint.tensors[-1].is_component
    assert count_parameters(checkpoint.tensors) == 5 + num_elements
    weights = module_weights(checkpoint.tensors)
    assert weights["w"] == (num_elements, sum(part.numel() * part.element_size() for part in parts.values()))
    assert checkpoint.findings == []


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.quint4x2])
def test_scales_of_channels_are_listed(tmp_path: Path, dtype: torch.dtype) -> None:
    scales = torch.rand(4) + 0.1
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"w": torch.quantize_per_channel(_grid(), scales, torch.arange(4).float(), 0, dtype)}))
    checkpoint = open_checkpoint(path)
    whole, found, zeros = checkpoint.tensors
    assert [tensor.name for tensor in checkpoint.tensors] == ["w", "w.scales", "w.zero_points"]
    truth = torch.load(path, weights_only=False)["w"]
    check_tensor(checkpoint, whole, truth)
    check_tensor(checkpoint, found, truth.q_per_channel_scales())
    check_tensor(checkpoint, zeros, truth.q_per_channel_zero_points())
    assert count_parameters(checkpoint.tensors) == 24


def test_attributes_that_are_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    note = torch.arange(3.0)
    path.write_bytes(save_bytes({
        "t": _with(_grid(), note=note, deep={"in": [torch.ones(1)]}), "p": _with(torch.nn.Parameter(_grid()), note=note)
    }))  # fmt: skip
    checkpoint = open_checkpoint(path)
    truth = torch.load(path, weights_only=False)
    assert [tensor.name for tensor in checkpoint.tensors] == ["t", "t.note", "t.deep.in.0", "p", "p.note"]
    check_tensor(checkpoint, checkpoint.tensors[0], truth["t"])
    check_tensor(checkpoint, checkpoint.tensors[1], truth["t"].note)
    check_tensor(checkpoint, checkpoint.tensors[3], truth["p"])
    assert checkpoint.tensors[1].storage == checkpoint.tensors[4].storage
    assert count_parameters(checkpoint.tensors) == 48


def test_a_wrapper_subclass_shows_itself_and_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"w": Wrapper(_grid())}))
    checkpoint = open_checkpoint(path)
    whole, inner = checkpoint.tensors
    assert (whole.name, whole.shape, whole.dtype, whole.storage) == ("w", (8, 6), "bfloat16", "")
    assert (inner.name, inner.is_component) == ("w.inner", True)
    check_tensor(checkpoint, inner, _grid())
    assert count_parameters(checkpoint.tensors) == 48
    assert checkpoint.safety == "unknown"  # its class is not ours to judge
    assert f"{__name__}.Wrapper" in [ref.name for ref in checkpoint.globals]


class Slotted(Wrapper):
    """As a DTensor has it: its parts in slots, so that its state is a pair."""

    __slots__ = ("local",)

    def __init__(self, inner: torch.Tensor) -> None:
        self.local = inner

    def __reduce_ex__(self, protocol: int) -> tuple[object, ...]:
        function, arguments = self._reduce_ex_internal(protocol)
        return torch._tensor._rebuild_from_type_v2, (function, type(self), arguments, ({}, {"local": self.local}))


def test_parts_in_slots_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"v": Slotted(_grid())}))
    checkpoint = open_checkpoint(path)
    assert [tensor.name for tensor in checkpoint.tensors] == ["v", "v.local"]
    check_tensor(checkpoint, checkpoint.tensors[1], _grid())


def test_a_distributed_tensor_shows_its_local_one(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        tensor = distribute_tensor(_grid(), init_device_mesh("cpu", (1,)), [Shard(0)])
        torch.save({"w": tensor, "p": torch.nn.Parameter(tensor)}, tmp_path / "x.pt")
    finally:
        distributed.destroy_process_group()
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    by_name = {tensor.name: tensor for tensor in checkpoint.tensors if "mesh" not in tensor.name}
    assert list(by_name) == ["w", "w._local_tensor", "p", "p._local_tensor"]
    whole, local, parameter, again = by_name.values()
    assert (whole.shape, whole.storage, parameter.is_parameter) == ((4, 6), "", True)
    check_tensor(checkpoint, local, _grid())
    assert again.storage == local.storage


def test_meta_tensors_have_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({
        "m": torch.empty(3, 4, device="meta"),
        "p": torch.nn.Parameter(torch.empty(1 << 40, device="meta", dtype=torch.bfloat16)),
    }))  # fmt: skip
    checkpoint = open_checkpoint(path)
    first, second = checkpoint.tensors
    assert (first.shape, first.stride, first.dtype, first.device, first.storage) == (
        (3, 4), (4, 1), "float32", "meta", "",
    )  # fmt: skip
    assert (second.shape, second.dtype, second.is_parameter) == ((1 << 40,), "bfloat16", True)
    assert checkpoint.findings == []
    assert count_parameters(checkpoint.tensors) == 12 + (1 << 40)


def test_storages_by_themselves(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    state = {"typed": torch.arange(3.0).storage(), "raw": torch.arange(5).untyped_storage()}
    path.write_bytes(save_bytes([state, state["typed"]]))
    checkpoint = open_checkpoint(path)
    typed, raw, again = checkpoint.tensors
    assert [(t.name, t.shape, t.dtype) for t in checkpoint.tensors] == [
        ("0.typed", (3,), "float32"), ("0.raw", (40,), "uint8"), ("1", (3,), "float32"),
    ]  # fmt: skip
    assert read_bytes(checkpoint, typed) == torch.arange(3.0).numpy().tobytes()
    assert read_bytes(checkpoint, raw) == torch.arange(5).numpy().tobytes()
    assert again.storage == typed.storage
    path.write_bytes(save_bytes(torch.arange(3.0).storage()))
    assert [t.shape for t in open_checkpoint(path).tensors] == [(3,)]


def test_nothing_saved_by_torch_is_left_unsaid() -> None:
    """Every dtype that torch has and can save is in the list above."""
    unsaved = []
    for name, dtype in vars(torch).items():
        if not isinstance(dtype, torch.dtype) or str(dtype) != f"torch.{name}" or name in DTYPE_SIZES:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                save_bytes(torch.empty(2, dtype=dtype))
        except Exception:  # noqa: BLE001 - whatever torch says, it cannot be saved
            unsaved.append(name)
        else:
            pytest.fail(f"torch saves {name}, we do not know it")
    assert all(name.startswith(("int", "uint")) for name in unsaved)
