"""Rows picked by words and put in order: the same as a list that is filtered and sorted, without being one."""

from __future__ import annotations

import gc
import random

import pytest

from ckpt_tui.tui.picked_rows import Order, PickedRows, WordFilter, natural
from ckpt_tui.tui.screens.inspect_text import derive
from ckpt_tui.tui.tensor_table import TensorTable
from tests.builders.checkpoints_by_hand import checkpoint_of, tensor_info

TEXTS = [f"block{place % 7}.w{place * 7919 % 100}" for place in range(500)]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_typed_and_taken_back_finds_what_a_search_of_everything_finds(seed: int) -> None:
    chance = random.Random(seed)
    texts, typed = WordFilter(TEXTS), ""
    for _ in range(200):
        typed = typed[:-1] if typed and chance.random() < 0.4 else typed + chance.choice("block .w0123456789")
        words = typed.split()
        expected = [place for place, text in enumerate(TEXTS) if all(word in text for word in words)]
        assert list(texts.places(words)) == expected, typed


@pytest.mark.parametrize("is_reversed", [False, True])
def test_what_a_filter_leaves_keeps_the_order_of_all(is_reversed: bool) -> None:
    order = Order(len(TEXTS), [natural(text) for text in TEXTS].__getitem__, is_reversed=is_reversed)
    for words in ([], ["block3"], ["w1", "block6"], ["nowhere"]):
        places = WordFilter(TEXTS).places(words)
        expected = sorted(places, key=lambda place: natural(TEXTS[place]), reverse=is_reversed)
        assert list(order.of(places)) == expected
    as_they_come = Order(len(TEXTS), is_reversed=is_reversed)
    some = WordFilter(TEXTS).places(["block3"])
    assert list(as_they_come.of(some)) == (list(some)[::-1] if is_reversed else list(some))
    assert len(as_they_come.of(range(len(TEXTS)))) == len(TEXTS)


def test_picked_rows_are_a_sequence() -> None:
    rows = PickedRows(WordFilter(TEXTS).places(["block3"]), TEXTS.__getitem__)
    same = [text for text in TEXTS if "block3" in text]
    assert list(rows) == same
    assert rows[2:5] == same[2:5]
    assert (rows[0], rows[-1], len(rows)) == (same[0], same[-1], len(same))
    assert list(reversed(rows)) == same[::-1]


def test_no_letter_leaves_the_garbage_collector_a_list_to_look_through() -> None:
    table = TensorTable(checkpoint_of([tensor_info(f"model.h.{i}.weight") for i in range(5_000)]))
    table.prepare()
    gc.collect()
    before = _num_references()
    shown = [table.select(words, sort) for words in (["h"], ["h", "1"], ["h.4"]) for sort in table.sorts]
    assert min(map(len, shown)) > 1_000
    assert _num_references() - before < 1_000, "one list of what is found has more than that"


def test_what_the_worker_prepared_is_out_of_the_collectors_way() -> None:
    opened = derive(checkpoint_of([tensor_info(f"model.h.{i}.weight") for i in range(5_000)]))
    try:
        opened.prepare()
        assert _num_references() < 5_000, "the texts that a filter looks at would be looked through each time"
        assert len(list(opened.tree.matching(["4999"]))) == 1
    finally:
        gc.unfreeze()


def _num_references() -> int:
    """What a full collection looks at."""
    # By type: to ask what a lazy module of somebody else is an instance of loads it.
    return sum(len(item) for item in gc.get_objects() if type(item) in (list, dict) and len(item) >= 1_000)
