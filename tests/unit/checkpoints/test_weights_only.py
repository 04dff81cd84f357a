"""The verdict on `torch.load(weights_only=True)`, held against what torch does with the same file."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import get_unsafe_globals_in_checkpoint

from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.weights_only import ALLOWED, weights_only

torch.set_num_threads(1)


def test_the_list_is_that_of_the_installed_torch() -> None:
    assert set(_get_allowed_globals()) == ALLOWED


def states() -> dict[str, Any]:
    linear = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return {
        "training": {"step": 3, "model": linear.state_dict(), "optimizer": optimizer.state_dict(), "args": {"lr": 1.0}},
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "float8": torch.ones(4).to(torch.float8_e4m3fn),
        "sparse": torch.eye(3).to_sparse(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "plain": {"a": {1, 2}, "b": bytearray(b"x"), "c": 1 + 2j, "d": b"bytes", "e": collections.Counter("aab")},
        "namespace": {"args": argparse.Namespace(lr=0.1), "model": linear.state_dict()},
        "numpy": {"rng": numpy.random.get_state(), "loss": numpy.float64(1.0)},
        "module": linear,
        "several": {
            "p": pathlib.PurePosixPath("/a"),
            "t": datetime.date(2026, 1, 1),
            "d": collections.defaultdict(int),
        },
        "frozenset": {"f": frozenset([1]), "r": range(3), "s": slice(1)},
        "version": torch.__version__,
    }


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", states())
def test_it_says_what_torch_does(tmp_path: Path, name: str, is_zip: bool) -> None:
    if name == "float8" and not is_zip:
        pytest.skip("torch cannot load float8 from its old format at all")
    path = tmp_path / f"{name}.pt"
    torch.save(states()[name], path, _use_new_zipfile_serialization=is_zip)
    try:
        torch.load(path, weights_only=True)
        loads = True
    except pickle.UnpicklingError:
        loads = False
    found = weights_only(open_checkpoint(path))
    assert found.loads is loads, (found.loads, found.refuses, found.reason)
    assert bool(found.refuses) is not loads
    if is_zip:
        assert sorted(found.refuses) == sorted(get_unsafe_globals_in_checkpoint(path))


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_other_protocols_are_refused_or_left_open(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.ones(2), "n": 5, "t": True, "x": 1.5}, path, pickle_protocol=protocol)
    try:
        torch.load(path, weights_only=True)
        loads = True
    except pickle.UnpicklingError:
        loads = False
    found = weights_only(open_checkpoint(path))
    assert found.loads in (None, loads)
    assert found.loads is not None or protocol in (1, 3)
    assert found.reason


def test_torchscript_is_refused_whatever_it_names(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(RuntimeError, match="TorchScript"):
        torch.load(path, weights_only=True)
    assert weights_only(open_checkpoint(path)).loads is False


def test_a_cut_file_is_not_said_to_load(tmp_path: Path) -> None:
    path = tmp_path / "gone.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    assert weights_only(open_checkpoint(path)).loads is None
