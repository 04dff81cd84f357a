"""The tree of a checkpoint's state: grouped by module, rolled up, opened branch by branch, never trusting the file."""

from __future__ import annotations

from typing import Any

import pytest

from ckpt_tui.checkpoints.model import OpaqueObject, TensorRef
from ckpt_tui.tui.state_tree import StateTree, Weights, summary
from tests.builders.checkpoints_by_hand import checkpoint_of, small_gpt, tensor_info

NO_WEIGHTS = Weights([])


def labels(tree: StateTree) -> list[str]:
    return ["  " * node.depth + node.label for node in tree.rows]


def index_of(tree: StateTree, path: str) -> int:
    return next(index for index, node in enumerate(tree.rows) if node.path == path)


def test_dotted_keys_become_modules_and_lone_ones_stay_on_one_row() -> None:
    tree = StateTree({"model": {"wte.weight": 1, "h.0.a": 2, "h.0.b": 3, "h.1.a": 4, "bias": 5}}, NO_WEIGHTS)
    tree.open(0)
    assert labels(tree) == ["model", "  wte.weight", "  h", "  bias"]
    tree.open(2)
    assert labels(tree)[2:5] == ["  h", "    0", "    1.a"]
    tree.close(0)
    assert labels(tree) == ["model"]
    tree.open(0)
    assert labels(tree)[2:5] == ["  h", "    0", "    1.a"], "what was open stays open"


def test_bytes_roll_up_per_module_and_tied_weights_count_once() -> None:
    checkpoint = small_gpt(num_layers=2)
    weights = Weights(checkpoint.tensors)
    layer = 128 + 384 * 128 + 128 * 128 + 512 * 128 * 2
    assert weights.of("model.h.0").num_elements == layer
    assert weights.of("model.h").num_elements == 2 * layer
    assert weights.of("model.lm_head").num_elements == 256 * 128
    assert weights.of("model").num_elements == 2 * layer + 2 * 256 * 128, "wte and lm_head are the same bytes"
    assert weights.of("model").num_tensors == 2 * 5 + 3
    assert weights.total.size_bytes == 4 * (2 * layer + 2 * 256 * 128)


def test_the_weights_are_open_at_first() -> None:
    checkpoint = small_gpt()
    tree = StateTree(checkpoint.state, Weights(checkpoint.tensors))
    tree.open_weights()
    assert "  h" in labels(tree)


def test_parent_is_the_row_that_holds_it() -> None:
    tree = StateTree({"a": {"b": {"c": 1}}, "d": 2}, NO_WEIGHTS)
    tree.open(0)
    tree.open(1)
    assert tree.parent(2) == 1
    assert tree.parent(1) == 0
    assert tree.parent(0) == 0


def test_a_state_that_holds_itself_is_walked_once() -> None:
    state: dict[str, Any] = {"step": 1, "list": [1, 2]}
    state["self"] = state
    tree = StateTree(state, NO_WEIGHTS)
    assert [node.path for node in tree.matching(["step"])] == ["step", "self.step"]
    for _ in range(5):
        tree.open(len(tree.rows) - 1)
    assert tree.rows[-1].path == "self.self.self.self.self.self"


def test_a_deep_state_needs_no_recursion() -> None:
    state: Any = {}
    inner = state
    for _ in range(20_000):
        inner["a"] = {}
        inner = inner["a"]
    inner["needle"] = 1
    assert len(StateTree(state, NO_WEIGHTS).matching(["needle"])) == 1


def test_objects_of_other_classes_show_what_they_were_built_from() -> None:
    thing = OpaqueObject("mypkg.Config", (1, 2), {"lr": 0.1}, [7], {"k": 8})
    tree = StateTree({"args": thing}, NO_WEIGHTS)
    tree.open(0)
    assert [node.label for node in tree.rows] == ["args", "(arguments)", "lr", "0", "k"]
    assert summary(thing) == "mypkg.Config"


@pytest.mark.parametrize("state", [None, 3, "text", [], {}, TensorRef(tensor_info("x")), OpaqueObject("a.B")])
def test_any_value_can_be_the_whole_state(state: object) -> None:
    tree = StateTree(state, NO_WEIGHTS)
    tree.open_weights()
    assert len(tree.rows) <= 1
    tree.matching(["x"])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6e-4, "0.0006"),
        (True, "True"),
        (None, "None"),
        ("", '""'),
        ("\x1b[31m", "\\x1b[31m"),
        (b"abc", "3 bytes"),
        ([0.9, 0.95], "[0.9, 0.95]"),
        (list(range(100)), "100 items"),
        ({"a": 1}, "1 entry"),
        (float("nan"), "nan"),
    ],
)
def test_values_in_a_few_words(value: object, text: str) -> None:
    assert summary(value) == text


def test_an_integer_that_python_refuses_to_print_is_described() -> None:
    assert summary(10**6000) == "an integer of 19,932 bits"
    assert summary({10**6000: 1}) == "1 entry"
    assert StateTree({10**6000: 1}, NO_WEIGHTS).rows[0].label == "an integer of 19,932 bits"


def test_file_names_come_before_names_in_directories() -> None:
    tensors = [tensor_info("weight", file="model.pt"), tensor_info("exp_avg", file="optimizer.pt")]
    weights = Weights(checkpoint_of(tensors).tensors)
    assert (weights.of("model.pt").num_tensors, weights.of("optimizer.pt").num_tensors) == (1, 1)
