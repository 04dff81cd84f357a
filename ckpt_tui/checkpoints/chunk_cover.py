"""Do the boxes of a tensor that is stored in pieces make it up: all of it, and each element once?"""

from __future__ import annotations

from itertools import islice

Box = tuple[tuple[int, ...], tuple[int, ...]]  # where it begins, its shape


_MAX_PAIRS = 2_000_000


def cover_problem(shape: tuple[int, ...], boxes: list[Box]) -> str:
    """What is wrong, in words; "" when nothing is."""
    return judge_cover(shape, boxes, _MAX_PAIRS)[0]


def judge_cover(shape: tuple[int, ...], boxes: list[Box], max_pairs: int) -> tuple[str, int]:
    """(what is wrong in words, "" when nothing is; pairs of boxes compared, which end at `max_pairs`)."""
    volume = 0
    for offsets, sizes in boxes:
        for begin, extent, limit in zip(offsets, sizes, shape, strict=True):
            if begin + extent > limit:
                return f"one of {list(sizes)} at {list(offsets)} reaches beyond its shape {list(shape)}", 0
        volume += _volume(sizes)
    whole = _volume(shape)
    if volume < whole:
        return f"{whole - volume:,} of its {whole:,} elements are in none of them", 0
    overlap, num_pairs = _overlap(boxes, max_pairs)
    if overlap or volume == whole:
        return overlap, num_pairs
    return "they hold more elements than it has", num_pairs


def _overlap(boxes: list[Box], max_pairs: int) -> tuple[str, int]:
    """Two that share elements, in words. In the order of one dimension only neighbours in it can meet."""
    boxes = [box for box in boxes if 0 not in box[1]]
    if len(boxes) < 2:
        return "", 0
    num_dims = len(boxes[0][0])
    by_cuts = sorted(range(num_dims), key=lambda dim: -len({box[0][dim] for box in boxes}))
    axis = by_cuts[0] if by_cuts else 0
    if not by_cuts:
        return "all of them are the same single number", 0
    boxes.sort(key=lambda box: box[0][axis])
    num_pairs = 0
    for place, (offsets, sizes) in enumerate(boxes):
        for others_offsets, others_sizes in islice(boxes, place + 1, None):
            if others_offsets[axis] >= offsets[axis] + sizes[axis]:
                break
            num_pairs += 1
            if num_pairs > max_pairs:
                return "", num_pairs
            if all(
                a < b + m and b < a + n for a, n, b, m in zip(offsets, sizes, others_offsets, others_sizes, strict=True)
            ):
                return f"two overlap at {list(others_offsets)}: which of them a load takes is not said", num_pairs
    return "", num_pairs


def _volume(shape: tuple[int, ...]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total
