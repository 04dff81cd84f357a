"""Tied weights and views: each name is listed, each byte and each parameter is counted once."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors, module_weights
from ckpt_tui.checkpoints.model import Checkpoint, TensorRef
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.torch_files import save_bytes


def _open(tmp_path: Path, state: object) -> Checkpoint:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes(state))
    return open_checkpoint(path)


def _by_name(checkpoint: Checkpoint) -> dict[str, tuple[str, int, tuple[int, ...]]]:
    return {t.name: (t.storage, t.offset, t.shape) for t in checkpoint.tensors}


def test_tied_weights_of_a_state_dict_share_one_storage(tmp_path: Path) -> None:
    wte, head = torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6, bias=False)
    head.weight = wte.weight
    model = torch.nn.ModuleDict({"wte": wte, "head": head})
    checkpoint = _open(tmp_path, {"model": model.state_dict()})
    named = _by_name(checkpoint)
    assert named["model.wte.weight"] == named["model.head.weight"]
    assert len(checkpoint.storages) == 1
    assert count_parameters(model_tensors(checkpoint)) == 24
    # The first module that has them counts them, the other has none of its own.
    assert module_weights(model_tensors(checkpoint), "model.") == {"wte": (24, 96)}


def test_one_tensor_object_in_two_places_has_two_names(tmp_path: Path) -> None:
    tensor = torch.ones(3)
    checkpoint = _open(tmp_path, {"a": tensor, "b": {"c": tensor}, "d": [tensor], "e": (tensor,)})
    assert list(_by_name(checkpoint)) == ["a", "b.c", "d.0", "e.0"]
    assert len(set(_by_name(checkpoint).values())) == 1
    assert len({id(info) for info in checkpoint.tensors}) == 4
    state = checkpoint.state
    assert isinstance(state, dict)
    for place, index in ((state["a"], 0), (state["b"]["c"], 1), (state["d"][0], 2)):
        assert isinstance(place, TensorRef)
        assert (place.index, place.info) == (index, checkpoint.tensors[index])


def test_equal_tensors_of_their_own_share_nothing(tmp_path: Path) -> None:
    checkpoint = _open(tmp_path, {"model": {"a": torch.ones(3), "b": torch.ones(3)}})
    assert len({tensor.storage for tensor in checkpoint.tensors}) == 2
    assert count_parameters(model_tensors(checkpoint)) == 6


def test_views_of_one_storage_keep_their_own_place(tmp_path: Path) -> None:
    """Two halves of one buffer are different parameters, though they share a storage."""
    flat = torch.arange(20.0)
    checkpoint = _open(tmp_path, {"model": {"a": flat[:8], "b": flat[8:].reshape(3, 4), "all": flat}})
    named = _by_name(checkpoint)
    assert named["model.a"][1:] == (0, (8,))
    assert named["model.b"][1:] == (8, (3, 4))
    assert len(checkpoint.storages) == 1
    assert next(iter(checkpoint.storages.values())).size_bytes == 80
    truth = torch.load(io.BytesIO((tmp_path / "x.pt").read_bytes()))["model"]
    assert truth["a"].data_ptr() == truth["all"].data_ptr()
    assert count_parameters([t for t in checkpoint.tensors if not t.name.endswith("all")]) == 20
