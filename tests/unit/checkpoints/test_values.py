"""Statistics, counts and comparisons of elements, against torch, for every dtype, layout and byte order."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints import elements
from ckpt_tui.checkpoints.distance import compare_tensors
from ckpt_tui.checkpoints.model import DTYPE_SIZES
from ckpt_tui.checkpoints.values import count_nonfinite, tensor_statistics
from ckpt_tui.errors import Cancelled, CkptError
from tests.builders.raw_tensors import raw_checkpoint

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
COMPLEX = [torch.complex64, torch.complex128]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@pytest.fixture
def numbers() -> torch.Tensor:
    return torch.randn(30, 70, generator=torch.Generator().manual_seed(0)) * 3 + 1


def check_against_torch(path: Path, tensor: torch.Tensor, byteorder: str = "little") -> None:
    checkpoint = raw_checkpoint(path, {"t": tensor}, byteorder=byteorder)
    found = tensor_statistics(checkpoint, checkpoint.tensors[0])
    expected = (tensor.to(torch.complex128).abs() if tensor.dtype.is_complex else tensor.to(torch.float64)).flatten()
    finite = expected[torch.isfinite(expected)]
    assert found.num_elements == tensor.numel()
    assert found.nan == int(torch.isnan(expected).sum())
    assert found.inf == int(torch.isinf(expected).sum())
    bad = torch.nonzero(~torch.isfinite(expected)).flatten()
    assert found.first_bad_index == (int(bad[0]) if len(bad) else None)
    assert found.zeros == int((finite == 0).sum())
    assert found.min == pytest.approx(finite.min().item(), rel=1e-12)
    assert found.max == pytest.approx(finite.max().item(), rel=1e-12)
    assert found.mean == pytest.approx(finite.mean().item(), rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(finite.std().item(), rel=1e-9, abs=1e-12)
    assert found.norm == pytest.approx(finite.norm().item(), rel=1e-9)
    assert len(found.histogram) == 40
    assert sum(found.histogram) == len(finite)
    reference = torch.histc(finite, 40, finite.min().item(), finite.max().item())
    # An element on the edge of a bin may round either way.
    assert sum(abs(a - int(b)) for a, b in zip(found.histogram, reference, strict=True)) <= max(4, 0.001 * len(finite))
    assert found.is_magnitude == tensor.dtype.is_complex


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS + COMPLEX, ids=name_of)
def test_every_dtype_as_torch_says(dtype: torch.dtype, tmp_path: Path, numbers: torch.Tensor) -> None:
    check_against_torch(tmp_path / "t", numbers.to(dtype))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int64, torch.complex64, torch.uint8], ids=name_of
)
def test_big_endian_files(dtype: torch.dtype, tmp_path: Path, numbers: torch.Tensor) -> None:
    check_against_torch(tmp_path / "t", numbers.to(dtype), byteorder="big")


@pytest.mark.parametrize("dtype", FLOATS + COMPLEX, ids=name_of)
def test_nan_and_inf_are_counted_in_every_float(dtype: torch.dtype, tmp_path: Path, numbers: torch.Tensor) -> None:
    wide = numbers.to(torch.complex64 if dtype.is_complex else torch.float32).clone()
    wide[3, 4] = float("nan")
    wide[7, 1] = float("-inf")
    wide[29, 69] = float("inf")
    tensor = wide.to(dtype)
    expected = tensor.to(torch.complex128 if dtype.is_complex else torch.float64)
    num_nan, num_inf = int(torch.isnan(expected).sum()), int(torch.isinf(expected).sum())
    assert num_nan >= 1  # torch clamps Inf in formats without it
    check_against_torch(tmp_path / "t", tensor)
    checkpoint = raw_checkpoint(tmp_path / "u", {"t": tensor})
    counted = count_nonfinite(checkpoint, checkpoint.tensors[0])
    assert (counted.nan, counted.inf, counted.first_bad_index) == (num_nan, num_inf, 3 * 70 + 4)


def test_a_complex_number_with_both_parts_bad_counts_once(tmp_path: Path) -> None:
    inf, nan = float("inf"), float("nan")
    tensor = torch.tensor([1 + 1j, complex(nan, inf), complex(inf, 0), complex(0, nan)])
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": tensor})
    counted = count_nonfinite(checkpoint, checkpoint.tensors[0])
    assert (counted.nan, counted.inf, counted.first_bad_index) == (2, 1, 1)


@pytest.mark.parametrize("dtype", FLOATS, ids=name_of)
def test_all_bit_patterns_of_small_floats_as_torch_judges_them(dtype: torch.dtype) -> None:
    """Each pattern alone: the fast test and torch agree on it."""
    bits = elements.FLOAT_BITS[name_of(dtype)]
    if bits.width == 1:
        patterns = list(range(256))
    else:  # around Inf, zero and the largest mantissa, with either sign
        assert bits.infinity is not None
        near = [v & bits.mask for base in (bits.infinity, bits.infinity - 1, 0, bits.mask) for v in (base, base + 1)]
        patterns = near + [v | (bits.mask + 1) for v in near]
    for pattern in patterns:
        raw = pattern.to_bytes(bits.width, "little")
        value = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).to(torch.float64)
        assert elements.is_suspicious(memoryview(raw), bits) == (not math.isfinite(value.item())), raw.hex()
        assert elements.is_suspicious(memoryview(raw[::-1]), bits, True) == (not math.isfinite(value.item()))


LAYOUTS = {
    "transposed": lambda t: t.T,
    "every third column": lambda t: t[:, ::3],
    "every third row, shifted": lambda t: t[2::3, 5:],
    "expanded": lambda t: t[5:, 3:].expand(3, 25, 67),
    "expanded inside": lambda t: t[:, :1].expand(30, 9),
    "overlapping": lambda t: t[0].unfold(0, 10, 1),
    "one column": lambda t: t[:, 4],
    "permuted": lambda t: t.view(5, 6, 70).permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("block", [16, 256 * 1024])
def test_views(layout: str, block: int, tmp_path: Path, numbers: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "BLOCK_ELEMENTS", block)
    if block == 16:
        monkeypatch.setattr(elements, "_WHOLE_SPAN_BYTES", 0)
        monkeypatch.setattr(elements, "_PIECE_BYTES", 32)
    base = numbers.clone()
    base[4, 4] = float("nan")
    base[20, 30] = float("inf")
    check_against_torch(tmp_path / "t", LAYOUTS[layout](base))


def test_a_slice_does_not_see_the_rest_of_its_storage(tmp_path: Path) -> None:
    base = torch.ones(100)
    base[50] = float("nan")
    checkpoint = raw_checkpoint(tmp_path / "t", {"head": base[:50], "tail": base[51:], "all": base})
    counts = [count_nonfinite(checkpoint, tensor).nan for tensor in checkpoint.tensors]
    assert counts == [0, 0, 1]


def test_small_and_empty_tensors(tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(
        tmp_path / "t",
        {"scalar": torch.tensor(3.5), "none": torch.empty(0, 4), "nans": torch.full((3,), float("nan"))},
    )
    scalar, none, nans = (tensor_statistics(checkpoint, tensor) for tensor in checkpoint.tensors)
    assert (scalar.min, scalar.max, scalar.mean, scalar.std, scalar.norm) == (3.5, 3.5, 3.5, None, 3.5)
    assert sum(scalar.histogram) == 1
    assert (none.num_elements, none.min, none.mean, none.norm, sum(none.histogram)) == (0, None, None, 0.0, 0)
    assert (nans.nan, nans.min, nans.mean, nans.norm, nans.first_bad_index) == (3, None, None, None, 0)


def test_extreme_doubles_neither_overflow_nor_vanish(tmp_path: Path) -> None:
    tensor = torch.tensor([1e300, -1e300, 1e300, 1e-300], dtype=torch.float64)
    tiny = torch.tensor([3e-200, 4e-200], dtype=torch.float64)
    checkpoint = raw_checkpoint(tmp_path / "t", {"large": tensor, "tiny": tiny})
    large, small = (tensor_statistics(checkpoint, t) for t in checkpoint.tensors)
    assert large.norm == pytest.approx(math.sqrt(3) * 1e300)
    assert large.mean == pytest.approx(2.5e299)
    assert sum(large.histogram) == 4
    assert small.norm == pytest.approx(5e-200)


def test_mean_is_stable_far_from_zero(tmp_path: Path) -> None:
    tensor = torch.tensor([1e9 + 1, 1e9 + 2, 1e9 + 3] * 1000, dtype=torch.float64)
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": tensor})
    assert tensor_statistics(checkpoint, checkpoint.tensors[0]).std == pytest.approx(tensor.std().item(), rel=1e-12)


def test_large_integers_are_exact(tmp_path: Path) -> None:
    tensor = torch.tensor([2**62 + 1, -(2**62) - 1, 5])
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": tensor})
    found = tensor_statistics(checkpoint, checkpoint.tensors[0])
    assert (found.min, found.max) == (-(2**62) - 1, 2**62 + 1)


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_SIZES) - elements.COUNTABLE))
def test_packed_and_quantized_types_are_said_not_to_be_countable(dtype: str, tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.zeros(4, dtype=torch.uint8)})
    tensor = dataclasses.replace(checkpoint.tensors[0], dtype=dtype)
    with pytest.raises(CkptError, match="packed or quantized"):
        tensor_statistics(checkpoint, tensor)


@pytest.mark.parametrize(
    "damage",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (1 << 40, 1 << 20), "stride": (1 << 20, 1)},
        {"stride": (2,)},
        {"stride": (1, 1)},
        {"storage": "not there"},
        {"dtype": "float64"},
        {"layout": "sparse_coo"},
        {"shape": (1 << 40, 100), "stride": (1, 1)},
    ],
    ids=str,
)
def test_lies_about_a_tensor_are_refused_before_anything_is_allocated(
    damage: dict[str, object], tmp_path: Path
) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.zeros(100)})
    tensor = dataclasses.replace(checkpoint.tensors[0], **damage)
    tracemalloc.start()
    try:
        with pytest.raises(CkptError):
            tensor_statistics(checkpoint, tensor)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_view_that_shows_the_same_bytes_a_million_times_is_refused(tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.zeros(1 << 18)})
    tensor = dataclasses.replace(checkpoint.tensors[0], shape=(1 << 17, 1 << 17), stride=(1, 1))
    with pytest.raises(CkptError, match="too many times"):
        tensor_statistics(checkpoint, tensor)


def test_an_expanded_view_of_any_size_costs_nothing(tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.tensor([1.0, 3.0])})
    tensor = dataclasses.replace(checkpoint.tensors[0], shape=(1 << 60, 2), stride=(0, 1))
    found = tensor_statistics(checkpoint, tensor)
    assert (found.num_elements, found.mean, sum(found.histogram)) == (1 << 61, 2.0, 1 << 61)


def test_a_file_cut_since_it_was_opened_is_an_error(tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.zeros(1000)})
    with open(tmp_path / "t", "r+b") as file:
        file.truncate(500)
    with pytest.raises(CkptError, match="ends before"):
        tensor_statistics(checkpoint, checkpoint.tensors[0])


def test_names_that_lead_out_of_the_checkpoint_are_refused(tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.zeros(4)})
    for file in ("../../etc/passwd", "/etc/passwd"):
        checkpoint.storages["data/0"] = dataclasses.replace(checkpoint.storages["data/0"], file=file)
        with pytest.raises(CkptError, match="Not inside"):
            tensor_statistics(checkpoint, checkpoint.tensors[0])


def test_memory_is_flat_and_progress_adds_up(tmp_path: Path) -> None:
    tensor = torch.zeros(6_000_000)
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": tensor})
    seen: list[int] = []
    tracemalloc.start()
    try:
        tensor_statistics(checkpoint, checkpoint.tensors[0], on_bytes=seen.append)
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert sum(seen) == pytest.approx(24_000_000, rel=0.01)


def test_cancel(tmp_path: Path) -> None:
    checkpoint = raw_checkpoint(tmp_path / "t", {"t": torch.zeros(1_000_000)})
    answers = iter([False, True])
    with pytest.raises(Cancelled):
        tensor_statistics(checkpoint, checkpoint.tensors[0], is_cancelled=lambda: next(answers))


# --- two tensors


def compare(path: Path, a: torch.Tensor, b: torch.Tensor):
    first, second = raw_checkpoint(path / "a", {"t": a}), raw_checkpoint(path / "b", {"t": b})
    return compare_tensors((first, first.tensors[0]), (second, second.tensors[0]))


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32, torch.complex64], ids=name_of)
def test_change_as_torch_says(dtype: torch.dtype, tmp_path: Path, numbers: torch.Tensor) -> None:
    a = numbers.to(dtype)
    b = (numbers + torch.linspace(-1, 1, numbers.numel()).view_as(numbers)).to(dtype)
    change = compare(tmp_path, a, b)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    x, y = a.to(wide), b.to(wide)
    if dtype.is_complex:
        x, y = torch.view_as_real(x), torch.view_as_real(y)
    assert change.relative_l2 == pytest.approx(((y - x).norm() / x.norm()).item(), rel=1e-9)
    assert change.max_abs == pytest.approx((y - x).abs().max().item(), rel=1e-9)
    assert change.cosine == pytest.approx(torch.nn.functional.cosine_similarity(x.flatten(), y.flatten(), 0).item())
    assert not change.is_equal


def test_equal_values_in_another_layout_and_dtype(tmp_path: Path, numbers: torch.Tensor) -> None:
    half = numbers.to(torch.bfloat16)
    for other in (half.clone(), half.T.contiguous().T, half.float()):
        change = compare(tmp_path, half, other)
        assert (change.is_equal, change.relative_l2, change.max_abs) == (True, 0.0, 0.0)


def test_expanded_against_contiguous(tmp_path: Path, numbers: torch.Tensor) -> None:
    expanded = numbers[0].expand(30, 70)
    assert compare(tmp_path, expanded, expanded.contiguous()).is_equal
    assert compare(tmp_path, expanded, expanded).is_equal
    assert not compare(tmp_path, expanded, numbers).is_equal


def test_nan_is_left_out_and_counted(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    change = compare(tmp_path, torch.tensor([1.0, nan, 3.0, inf]), torch.tensor([1.0, nan, 4.0, inf]))
    assert (change.num_nonfinite, change.max_abs, change.is_equal) == (2, 1.0, False)
    same = compare(tmp_path, torch.tensor([nan, inf, 1.0]), torch.tensor([nan, inf, 1.0]))
    assert (same.num_nonfinite, same.is_equal, same.relative_l2) == (2, True, 0.0)
    assert not compare(tmp_path, torch.tensor([inf, 1.0]), torch.tensor([-inf, 1.0])).is_equal
    nothing = compare(tmp_path, torch.tensor([nan]), torch.tensor([1.0]))
    assert (nothing.relative_l2, nothing.max_abs, nothing.cosine, nothing.is_equal) == (None, None, None, False)


def test_zero_against_something(tmp_path: Path) -> None:
    change = compare(tmp_path, torch.zeros(3), torch.ones(3))
    assert (change.relative_l2, change.cosine, change.max_abs) == (float("inf"), None, 1.0)
    assert compare(tmp_path, torch.tensor([0.0]), torch.tensor([-0.0])).is_equal


def test_extreme_values_do_not_overflow(tmp_path: Path) -> None:
    a = torch.tensor([1e308, 1e308], dtype=torch.float64)
    assert compare(tmp_path, a, a.clone()).num_nonfinite == 0
    assert compare(tmp_path, a, a * 0.5).relative_l2 == pytest.approx(0.5)


def test_large_integers_that_round_to_the_same_double_differ(tmp_path: Path) -> None:
    assert not compare(tmp_path, torch.tensor([2**60]), torch.tensor([2**60 + 1])).is_equal


@pytest.mark.parametrize("dtype", [*FLOATS, torch.complex64], ids=name_of)
def test_a_block_of_the_largest_numbers_holds_no_infinity(dtype: torch.dtype, tmp_path: Path) -> None:
    """NaN and Inf are told by sums of squares: those of the largest numbers must not look like one."""
    kind = torch.float32 if dtype.is_complex else dtype
    a = torch.full((2 * elements.BLOCK_ELEMENTS,), torch.finfo(kind).max, dtype=torch.float64).to(dtype)
    b = a.clone()
    b[7] = 1
    change = compare(tmp_path, a, b)
    assert change.num_nonfinite == 0
    assert change.max_abs == pytest.approx(torch.finfo(kind).max - 1)
    b[elements.BLOCK_ELEMENTS + 7] = float("nan")
    assert compare(tmp_path, a, b).num_nonfinite == 1
    assert compare(tmp_path, b, b.clone()).is_equal
