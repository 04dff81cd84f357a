"""torch.distributed.checkpoint with `HuggingFaceStorageWriter(save_distributed=True)`: a safetensors file per rank.

Each has pieces of the tensors, and in its header where in its tensor every piece begins. Nothing says how large the
whole is: a file that is missing shows by its number, and by the gap that it leaves.
"""

from __future__ import annotations

import json
from math import prod

from ckpt_tui.checkpoints.chunk_cover import judge_cover
from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    Checkpoint,
    CompositeRef,
    Part,
    Severity,
    ShardedTensor,
    TensorInfo,
    TensorRef,
    contiguous_stride,
)
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.checkpoints.readers.dcp_metadata import is_extents
from ckpt_tui.checkpoints.readers.directory import Listing, Parts
from ckpt_tui.errors import CkptError
from ckpt_tui.text import plural, safe_text

_KEY = "DCP_SHARDING_INFO"
_MAX_PAIRS = 2_000_000
_HINT = "Copy it again, or use another checkpoint: `ckpt-tui list` on its directory shows which are valid."

Pieces = list[tuple[tuple[int, ...], TensorInfo]]


class DcpSafetensorsReader:
    """Weights only."""

    formats: tuple[str, ...] = ("dcp",)

    def sniff(self, listing: Listing) -> str | None:
        for file in _shards(listing)[:1]:
            try:
                with RegularFile(listing.path_of(file)) as opened:
                    head = read_exactly(opened.descriptor, min(512, opened.file_bytes), 0, file)
            except (CkptError, OSError):
                continue
            if _KEY.encode() in head:
                return "dcp"
        return None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        parts = Parts(listing, "dcp", limits)
        whole = parts.checkpoint
        files = _shards(listing)
        by_name: dict[str, Pieces] = {}
        for file in files:
            known = len(whole.tensors)
            found = parts.add(file)
            if found is None:
                continue
            starts = _starts(parts, file, found.metadata.pop(_KEY, None))
            for tensor in whole.tensors[known:]:
                begins = starts.get(tensor.name, (0,) * len(tensor.shape))
                if len(begins) == len(tensor.shape):
                    by_name.setdefault(tensor.name, []).append((begins, tensor))
                else:
                    message = f"{safe_text(file)} says that it begins at {list(begins)}, it is {list(tensor.shape)}"
                    parts.note("piece-differs", Severity.ERROR, tensor.name, message, _HINT)
        whole.metadata.pop(_KEY, None)
        numbers = {int(file.split("-")[1]) for file in files}
        for number in sorted(set(range(1, min(max(numbers), 100_000))) - numbers)[:1000]:
            parts.missing(f"shard-{number:05d}-*.safetensors", "there is no file of this rank: its pieces are lost")
        _put_together(parts, by_name)
        return whole


def _shards(listing: Listing) -> list[str]:
    """Names as torch makes them: `shard-00001-model-00001-of-00002.safetensors`."""
    names = (name for name in listing.names if name.startswith("shard-") and name.endswith(".safetensors"))
    return sorted(name for name in names if name in listing.files and _is_number(name.split("-")[1]))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 10


def _starts(parts: Parts, file: str, told: object) -> dict[str, tuple[int, ...]]:
    """Where the pieces of a file begin in their tensors."""
    try:
        listed = json.loads(told) if isinstance(told, str) else None
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict):
        message = f"its header has no {_KEY}: where its pieces belong is not known"
        parts.note("metadata-odd", Severity.ERROR, file, message, _HINT)
        return {}
    starts: dict[str, tuple[int, ...]] = {}
    for name, entry in listed.items():
        offsets = entry.get("saved_offsets") if isinstance(entry, dict) else None
        begins = tuple(offsets) if isinstance(offsets, list) else None
        if is_extents(begins):
            assert begins is not None
            starts[name] = begins
    return starts


def _put_together(parts: Parts, by_name: dict[str, Pieces]) -> None:
    """List every tensor as a whole, followed by its pieces; one that is in one piece stays as it is."""
    whole = parts.checkpoint
    whole.tensors = []
    state: dict[object, object] = {}
    pairs_left = _MAX_PAIRS
    for name, pieces in by_name.items():
        starts, first = pieces[0]
        index = len(whole.tensors)
        if len(pieces) == 1 and not any(starts):
            state[name] = TensorRef(first, index)
            whole.tensors.append(first)
            continue
        pieces = [piece for piece in pieces if len(piece[0]) == len(starts) and piece[1].dtype == first.dtype]
        shape = tuple(max(begins[dim] + t.shape[dim] for begins, t in pieces) for dim in range(len(starts)))
        num_bytes = prod(shape) * DTYPE_SIZES.get(first.dtype, 0)
        sharded = ShardedTensor(
            name, "", shape, first.dtype, num_bytes, "", contiguous_stride(shape), 0, "cpu", "sharded"
        )
        sharded.chunks = pieces
        whole.tensors.append(sharded)
        chunks: list[object] = []
        for number, (_, piece) in enumerate(pieces):
            piece.name, piece.is_component = f"{name}.chunks.{number}", True
            chunks.append(TensorRef(piece, len(whole.tensors)))
            whole.tensors.append(piece)
        problem, used = judge_cover(shape, [(begins, piece.shape) for begins, piece in pieces], pairs_left)
        pairs_left -= used
        if problem:
            parts.note("chunks-do-not-cover", Severity.ERROR, name, f"{plural(len(pieces), 'piece')}: {problem}", _HINT)
        state[name] = CompositeRef(sharded, index, {"chunks": chunks})
    for tensor in whole.tensors:
        tensor.file = ""
    whole.state = parts.state = state
    whole.parts = [Part("model", "", "", state)]


READER = DcpSafetensorsReader()
