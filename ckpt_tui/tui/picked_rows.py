"""Which of many rows are shown, and in what order: by words that they must hold, without an object for each row.

What is picked is an array of places and not a list of rows: a list of 100,000 objects is looked through by every
garbage collection that meets it, and while somebody types a filter there is one for every letter.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, Generic, TypeVar, Union, overload

T = TypeVar("T")

Places = Union[range, "array[int]"]  # in Python 3.11 `array` takes no brackets when it runs
_MAX_KEPT = 16
_NUMBERS = re.compile(r"\d+")


def natural(name: str) -> str:
    """What sorts names as a person counts: `h.2` before `h.10`."""
    return _NUMBERS.sub(lambda match: match[0].lstrip("0")[:400].rjust(12, "0"), name)


class PickedRows(Sequence[T], Generic[T]):
    """The rows at some places, each made when it is looked at."""

    def __init__(self, places: Places, row_at: Callable[[int], T]) -> None:
        self._places = places
        self._row_at = row_at

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._row_at(place) for place in self._places[index]]
        return self._row_at(self._places[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._row_at, self._places)


class WordFilter:
    """Texts, one a row, and where those are that hold all of some words."""

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: in lower case, as the words that are asked for must be."""
        self._texts = texts
        self._kept: dict[tuple[str, ...], Places] = {}

    def places(self, words: Sequence[str]) -> Places:
        """In order. A word that got one more letter is looked for only where it was found without it."""
        asked = tuple(words)
        found = self._kept.get(asked)
        if found is None:
            wider = [
                old for before, old in self._kept.items() if all(any(word in new for new in asked) for word in before)
            ]
            found = min(wider, key=len) if wider else range(len(self._texts))
            for word in asked:
                found = self._narrowed(found, word)
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[asked] = found
        return found

    def _narrowed(self, places: Places, word: str) -> Places:
        texts = self._texts
        holding = [place for place in places if word in texts[place]]
        return places if len(holding) == len(places) else array("I", holding)


class Order:
    """All rows in some order; what a filter left of them in the same."""

    def __init__(self, num_rows: int, key: Callable[[int], Any] | None = None, *, is_reversed: bool = False) -> None:
        """key: what the row at a place is sorted by; None: as they come."""
        self._num_rows = num_rows
        self._places: Places
        if key is None:
            self._places = range(num_rows)[::-1] if is_reversed else range(num_rows)
        else:
            self._places = array("I", sorted(range(num_rows), key=key, reverse=is_reversed))

    def of(self, places: Places) -> Places:
        """`places`, which are in the order of the rows themselves, in this one."""
        if len(places) == self._num_rows:
            return self._places
        if isinstance(self._places, range):
            return places if self._places.step > 0 else places[::-1]
        is_wanted = bytearray(self._num_rows)
        for place in places:
            is_wanted[place] = 1
        return array("I", compress(self._places, map(is_wanted.__getitem__, self._places)))
