"""The list of all tensors: filter, sort, and what is said of one of them."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import contiguous_stride
from ckpt_tui.tui.tensor_table import TensorTable, is_stride_unusual, sort_words
from tests.builders.checkpoints_by_hand import checkpoint_of, small_gpt, tensor_info


def test_every_word_must_be_in_the_name_the_shape_or_the_dtype() -> None:
    table = TensorTable(small_gpt(num_layers=3))
    assert [tensor.name for tensor in table.select(["ATTN".lower(), "384"])] == [
        f"model.h.{layer}.attn.qkv.weight" for layer in range(3)
    ]
    assert list(table.select(["float32", "ln_1"])) == [tensor for tensor in table.all if "ln_1" in tensor.name]
    assert list(table.select(["nowhere"])) == []


def test_every_column_sorts_both_ways_and_keeps_every_tensor() -> None:
    table = TensorTable(small_gpt(num_layers=12))
    keys = {
        "": lambda t: table.all.index(t), "size": lambda t: -t.size_bytes, "name": lambda t: t.name,
        "dtype": lambda t: t.dtype, "shape": lambda t: t.shape, "elements": lambda t: -t.num_elements,
    }  # fmt: skip
    assert table.sorts == tuple(keys)
    for sort in table.sorts:
        for is_reversed in (False, True):
            found = table.select(sort=sort, is_reversed=is_reversed)
            assert {id(tensor) for tensor in found} == {id(tensor) for tensor in table.all}
            values = [keys[sort](tensor) for tensor in (reversed(found) if is_reversed else found)]
            if sort != "name":
                assert values == sorted(values), (sort, is_reversed)
    assert table.select(sort="size")[0].shape == (512, 128)


def test_names_are_sorted_as_a_person_counts() -> None:
    names = ["h.10.b", "h.2.b", "h.2.a", "g.007", "g.7.x", "h.b"]
    table = TensorTable(checkpoint_of([tensor_info(name) for name in names]))
    assert [t.name for t in table.select(sort="name")] == ["g.007", "g.7.x", "h.2.a", "h.2.b", "h.10.b", "h.b"]


def test_files_are_a_column_only_where_there_are_several() -> None:
    one = [tensor_info("a", file="model.pt"), tensor_info("b", file="model.pt")]
    assert "file" not in TensorTable(checkpoint_of(one)).sorts
    table = TensorTable(checkpoint_of([tensor_info("a", file="z.pt"), tensor_info("b", file="a.pt")]))
    assert [tensor.file for tensor in table.select(sort="file")] == ["a.pt", "z.pt"]


def test_how_an_order_is_called() -> None:
    assert [sort_words(sort, False) for sort in ("", "size", "elements", "name")] == [
        "", "largest first", "largest first by elements", "by name",
    ]  # fmt: skip
    assert [sort_words(sort, True) for sort in ("", "size", "name")] == [
        "last in the file first", "smallest first", "by name, reversed",
    ]  # fmt: skip


def test_a_filter_that_grows_letter_by_letter_finds_what_one_asked_at_once_finds() -> None:
    table, fresh = TensorTable(small_gpt(num_layers=20)), small_gpt(num_layers=20)
    typed = "attn 1 128 x"
    for end in [*range(1, len(typed) + 1), *range(len(typed), 0, -1)]:
        words = typed[:end].split()
        names = [tensor.name for tensor in table.select(words)]
        assert names == [tensor.name for tensor in TensorTable(fresh).select(words)], words


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
