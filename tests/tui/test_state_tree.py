"""The tree of a checkpoint's state: grouped by module, rolled up, opened branch by branch, never trusting the file."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ckpt_tui.checkpoints.contents import files_of
from ckpt_tui.checkpoints.model import Checkpoint, CompositeRef, OpaqueObject, TensorRef
from ckpt_tui.tui.state_tree import StateTree
from ckpt_tui.tui.value_words import summary
from ckpt_tui.tui.weights import Weights
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
    assert [node.path for node in tree.matching(["step"])] == ["step"]
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


def test_a_directory_shows_its_files_first_whatever_dots_their_names_have() -> None:
    tensors = [tensor_info("weight", file="model.safetensors"), tensor_info("0", file="shards/optim.0.pt")]
    state = {
        "model.safetensors": {"weight": TensorRef(tensors[0])},
        "shards/optim.0.pt": {"0": TensorRef(tensors[1])},
        "trainer_state.json": {"global_step": 5},
    }
    files = files_of(Checkpoint("/run", "hf-trainer", 0, tensors, state=state))
    tree = StateTree(state, Weights(tensors), files=files)
    assert labels(tree) == ["model.safetensors", "shards/optim.0.pt", "trainer_state.json"]
    assert [tree.weight(node).num_tensors for node in tree.rows] == [1, 1, 0]
    tree.open(0)
    assert labels(tree)[1] == "  weight"
    assert tree.weight(tree.rows[1]).num_tensors == 1
    assert tree.reveal("trainer_state.json.global_step") == 4
    assert [node.path for node in tree.matching(["global_step"])] == ["trainer_state.json.global_step"]


def test_components_of_a_sparse_tensor_are_below_it_and_counted_once() -> None:
    sparse = tensor_info("w", (10, 10), storage="", layout="sparse_coo", stride=())
    parts = {
        "indices": tensor_info("w.indices", (2, 3), "int64", size_bytes=48, is_component=True),
        "values": tensor_info("w.values", (3,), size_bytes=12, is_component=True),
    }
    state = {"w": CompositeRef(sparse, 0, {name: TensorRef(info) for name, info in parts.items()})}
    weights = Weights([sparse, *parts.values()])
    assert (weights.total.num_tensors, weights.total.num_elements, weights.total.size_bytes) == (1, 100, 60)
    tree = StateTree(state, weights)
    tree.open(0)
    assert labels(tree) == ["w", "  indices", "  values"]
    assert [node.path for node in tree.matching(["w"])] == ["w", "w.indices", "w.values"]


def test_many_tied_tensors_cost_no_more_than_others() -> None:
    tied = [tensor_info(f"m.{i}.w", storage="data/0") for i in range(20_000)]
    weights = Weights(tied)
    started = time.thread_time()
    for i in range(2_000):
        assert weights.of(f"m.{i}").num_elements == 128 * 64
    assert weights.of("m").num_elements == 128 * 64
    assert time.thread_time() - started < 5.0, "a search through all repeats for each row takes 10 s"


def test_branches_are_sorted_side_by_side_and_what_is_open_stays_open() -> None:
    names = {"h.10.w": (4,), "h.2.w": (64,), "h.2.b": (2,), "emb.w": (8,), "emb.b": (1,)}
    tensors = [tensor_info(name, shape) for name, shape in names.items()]
    tree = StateTree({tensor.name: TensorRef(tensor) for tensor in tensors}, Weights(tensors))
    tree.open(0)
    as_in_file = ["h", "  10.w", "  2", "emb"]
    assert labels(tree) == as_in_file
    tree.sort_by("size")
    assert labels(tree) == ["h", "  2", "  10.w", "emb"]
    tree.sort_by("name")
    assert labels(tree) == ["emb", "h", "  2", "  10.w"]
    tree.open(2)
    assert labels(tree) == ["emb", "h", "  2", "    b", "    w", "  10.w"]
    tree.sort_by("elements", is_reversed=True)
    assert labels(tree) == ["emb", "h", "  10.w", "  2", "    b", "    w"]
    tree.close(3)
    tree.sort_by("")
    assert labels(tree) == as_in_file
    assert tree.reveal("h.2.b") == 4, "the weight comes first in the file"


def test_a_state_that_holds_nothing_but_itself_is_opened_a_few_levels_deep() -> None:
    state: dict[str, Any] = {}
    state["me"] = state
    tree = StateTree(state, NO_WEIGHTS)
    tree.open_weights()
    assert 1 < len(tree.rows) < 20
    assert len(tree.matching(["me"])) == 0, "there is no leaf in it"
