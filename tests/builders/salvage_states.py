"""States with every kind of tensor that a salvage has to give back, and how to tell whether it did."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import torch

torch.set_num_threads(1)

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex32, torch.complex64,
    torch.complex128,
)  # fmt: skip


def bytes_as(dtype: torch.dtype, seed: int, num_elements: int = 12) -> torch.Tensor:
    """A tensor of any bits at all; of bool, of truths."""
    draw = torch.Generator().manual_seed(seed)
    width = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(
        0, 2 if dtype is torch.bool else 256, (num_elements * width,), dtype=torch.uint8, generator=draw
    )
    return raw.view(dtype)


def every_kind() -> dict[str, Any]:
    """dtypes, views, shared storages, strides, parameters, lazy bits, sparse tensors, odd keys and plain values."""
    grid = torch.arange(64.0).reshape(8, 8)
    wave = bytes_as(torch.complex64, 3)
    tied = bytes_as(torch.float32, 1, 40).reshape(5, 8)
    return {
        "step": 500,
        "loss": 1.25,
        "big": 2**70,
        "negative": -(2**40),
        "text": "ключ\nline",
        "raw": b"\x00\xff raw",
        "flags": (True, False, None, ()),
        "nothing": {},
        "model": {"embed.weight": tied, "head.weight": tied, "bias": torch.zeros(0, 3)},
        "dtypes": {str(dtype): bytes_as(dtype, number) for number, dtype in enumerate(DTYPES)},
        "grid": grid,
        "view": grid[2:4, ::2],
        "transposed": grid.t(),
        "expanded": grid[0].expand(3, 8),
        "scalar": torch.tensor(3),
        "parameter": torch.nn.Parameter(grid[1]),
        "frozen": torch.nn.Parameter(torch.arange(3), requires_grad=False),
        "wants_gradient": torch.ones(2, requires_grad=True),
        "conjugate": wave.conj(),
        "negated": torch.view_as_complex(torch.ones(4, 2)).conj().imag,
        "sparse": torch.eye(4).to_sparse(),
        "rows": torch.eye(4).to_sparse_csr(),
        "dtype": torch.bfloat16,
        "number": 3 + 4j,
        "device": torch.device("cuda:0"),
        "size": torch.Size([2, 3]),
        "set": {1, 2},
        1: (grid, [tied, {"deep": torch.full((4,), 7.0)}]),
        (1, "two"): torch.ones(3),
        "optimizer": {
            "state": {n: {"exp_avg": bytes_as(torch.float32, 90 + n, 20)} for n in range(12)},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": list(range(12))}],
        },
    }  # fmt: skip


def saved(state: object, *, with_checksums: bool = True, protocol: int = 2) -> bytes:
    """What torch.save writes, with its checksums or with them switched off."""
    buffer = io.BytesIO()
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(with_checksums)
    try:
        torch.save(state, buffer, pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(before)
    return buffer.getvalue()


def leaves(state: object, place: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], object]]:
    """Everything in a state that is no container, by its keys."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, (*place, key))
    elif isinstance(state, (list, tuple)):  # torch.Size comes back as a tuple
        for index, value in enumerate(state):
            yield from leaves(value, (*place, index))
    else:
        yield place, state


def are_same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Bit by bit, NaN included, with everything that torch knows of them."""
    if first.layout is not torch.strided:
        return first.layout is second.layout and are_same(first.to_dense(), second.to_dense())
    facts = [
        (t.dtype, t.shape, t.stride(), t.storage_offset(), t.requires_grad, type(t), t.is_conj(), t.is_neg())
        for t in (first, second)
    ]
    contents = [t.detach().untyped_storage().tolist() for t in (first, second)]
    return facts[0] == facts[1] and contents[0] == contents[1]
