"""The list of all tensors: filter, sort, and what is said of one of them."""

from __future__ import annotations

from ckpt_tui.tui.tensor_table import SORTS, TensorTable, contiguous_stride, is_stride_unusual
from tests.builders.checkpoints_by_hand import checkpoint_of, small_gpt, tensor_info


def test_every_word_must_be_in_the_name_the_shape_or_the_dtype() -> None:
    table = TensorTable(small_gpt(num_layers=3))
    assert [tensor.name for tensor in table.select(["ATTN".lower(), "384"])] == [
        f"model.h.{layer}.attn.qkv.weight" for layer in range(3)
    ]
    assert table.select(["float32", "ln_1"]) == [tensor for tensor in table.all if "ln_1" in tensor.name]
    assert table.select(["nowhere"]) == []


def test_sorts_keep_every_tensor_and_begin_with_what_they_say() -> None:
    table = TensorTable(small_gpt())
    for sort in range(len(SORTS)):
        assert {id(tensor) for tensor in table.select(sort=sort)} == {id(tensor) for tensor in table.all}
    assert table.select(sort=0) == table.all
    assert table.select(sort=1)[0].shape == (512, 128)
    assert [tensor.name for tensor in table.select(sort=2)] == sorted(tensor.name for tensor in table.all)


def test_only_what_is_unusual_is_told() -> None:
    plain = tensor_info("model.a", (4, 3))
    transposed = tensor_info("model.b", (3, 4), stride=(1, 3), offset=6, storage="data/model.a")
    table = TensorTable(checkpoint_of([plain, transposed]))
    assert contiguous_stride((4, 3, 2)) == (6, 2, 1)
    assert not is_stride_unusual(plain)
    assert not is_stride_unusual(tensor_info("one", (1, 4), stride=(99, 1)))
    assert table.facts(transposed) == "12 elements, stride 1, 3, shares its bytes with model.a"
    assert table.place(plain) == "data/model.a, byte 128", "the builder puts each storage of the second write last"
    assert table.place(transposed) == "data/model.a, byte 152", "six elements of four bytes further"
    missing = tensor_info("model.c", storage="data/gone")
    assert table.place(missing) == "data/gone is not in the file"
