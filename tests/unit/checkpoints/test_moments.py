"""Moments under their parameters' names: only where there is one way to join them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ckpt_tui.checkpoints.model import Checkpoint, TensorRef
from ckpt_tui.checkpoints.moments import moments_of
from ckpt_tui.tui.screens.inspect_rows import optimizer_facts
from tests.builders.checkpoints_by_hand import checkpoint_of, tensor_info

MODEL = {"wte.weight": (8, 4), "h.0.qkv.weight": (12, 4), "h.0.qkv.bias": (12,), "h.1.qkv.weight": (12, 4)}


def checkpoint(groups: list[list[int]], shapes: list[tuple[int, ...]], **group_fields: Any) -> Checkpoint:
    tensors = [tensor_info(f"model.{name}", shape) for name, shape in MODEL.items()]
    state = {
        number: {
            "step": TensorRef(tensor_info(f"o.{number}.step", ())),
            "exp_avg": TensorRef(tensor_info(f"o.{number}.exp_avg", shape)),
            "exp_avg_sq": TensorRef(tensor_info(f"o.{number}.exp_avg_sq", shape)),
        }
        for number, shape in enumerate(shapes)
    }
    model: dict[str, Any] = {name: TensorRef(info) for name, info in zip(MODEL, tensors, strict=True)}
    model["head.weight"] = TensorRef(tensor_info("model.head.weight", (8, 4), storage=tensors[0].storage))
    param_groups = [{"lr": 6e-4, "params": group, **group_fields} for group in groups]
    return checkpoint_of(tensors, state={"model": model, "optimizer": {"state": state, "param_groups": param_groups}})


def names(found: Checkpoint) -> list[str]:
    return [entry.parameter for entry in moments_of(found)[0]]


def test_matrices_and_vectors_in_two_groups_find_their_names_and_tied_weights_count_once() -> None:
    found = checkpoint([[0, 1, 2], [3]], [(8, 4), (12, 4), (12, 4), (12,)])
    assert names(found) == ["wte.weight", "h.0.qkv.weight", "h.1.qkv.weight", "h.0.qkv.bias"]
    facts = optimizer_facts(found)
    assert facts[0].key == "moments by parameter"
    assert facts[2].value == "12 x 4 float32  exp_avg, exp_avg_sq  step scalar float32"


def test_a_shape_in_two_groups_could_be_joined_in_two_ways_and_is_not() -> None:
    found = checkpoint([[0, 1], [2, 3]], [(8, 4), (12, 4), (12, 4), (12,)])
    assert names(found) == ["parameter 0", "parameter 1", "parameter 2", "parameter 3"]
    assert optimizer_facts(found)[0].key == "moments by number: names cannot be told"


def test_a_frozen_parameter_of_the_same_shape_leaves_the_numbers() -> None:
    assert names(checkpoint([[0, 1]], [(8, 4), (12, 4)])) == ["parameter 0", "parameter 1"]


def test_another_order_than_the_models_leaves_the_numbers() -> None:
    found = checkpoint([[0, 1, 2, 3]], [(12,), (12, 4), (12, 4), (8, 4)])
    assert names(found) == ["parameter 0", "parameter 1", "parameter 2", "parameter 3"]


def test_a_model_whose_tensors_were_sorted_has_names_for_shapes_of_one_tensor_only() -> None:
    found = checkpoint([[0, 1, 2, 3]], [(8, 4), (12, 4), (12,), (12, 4)])
    assert names(found)[3] == "h.1.qkv.weight"
    for number, part in enumerate(found.parts):
        if part.role == "model":
            found.parts[number] = dataclasses.replace(part, file="model.safetensors")
    assert names(found) == ["parameter 0", "parameter 1", "parameter 2", "parameter 3"]


def test_names_that_torch_recorded_are_taken() -> None:
    found = checkpoint([[0, 1]], [(8, 4), (12, 4)], param_names=["x", "[/y]"])
    assert names(found) == ["x", "[/y]"]


def test_states_of_other_shapes_are_no_error() -> None:
    for optimizer in (None, [], 3, {"state": 1}, {"state": {}, "param_groups": 7}, {"state": {0: 1}}, [[1]]):
        assert moments_of(checkpoint_of([], state={"model": {}, "optimizer": optimizer}))[0] == []
    assert moments_of(checkpoint_of([], state=[1, 2])) == ([], False)
