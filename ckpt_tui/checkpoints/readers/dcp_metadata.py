"""A distributed checkpoint's `.metadata`: which tensors and values there are, and where their pieces lie.

It is a bare pickle of torch's own classes, decoded inertly. What a piece says of its place is not believed before it
is held against the files: that is the reader's work.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import GlobalRef, OpaqueObject, Verdict
from ckpt_tui.checkpoints.pickle_decode import decode_pickle
from ckpt_tui.checkpoints.pickle_rebuild import dtype_name
from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

_MAX_DIMENSIONS = 64
_MAX_EXTENT = 1 << 63
_MAX_PATH = 64  # keys from the state dict down to a value; each level is a container of our own
_MIN_CHUNK_BYTES = 8  # of the pickle; torch writes 40 for one piece and more
_HINT = "Use another checkpoint: `ckpt-tui list` on its directory shows which are valid."

Extents = tuple[int, ...]


class Piece:
    """A box of a tensor: where it begins in the tensor, and its shape."""

    __slots__ = ("offsets", "sizes")

    def __init__(self, offsets: Extents, sizes: Extents) -> None:
        self.offsets = offsets
        self.sizes = sizes


class TensorItem:
    """A tensor as a whole, and the pieces that it is stored in."""

    __slots__ = ("dtype", "layout", "pieces", "requires_grad", "shape")

    def __init__(self, shape: Extents, dtype: str, layout: str, requires_grad: bool, pieces: list[Piece]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.layout = layout
        self.requires_grad = requires_grad
        self.pieces = pieces


class Place:
    """Where a piece or a value lies: a span of a file. transforms: what must be undone before it can be read."""

    __slots__ = ("file", "length", "offset", "transforms")

    def __init__(self, file: str, offset: int, length: int, transforms: tuple[str, ...]) -> None:
        self.file = file
        self.offset = offset
        self.length = length
        self.transforms = transforms


class DcpMetadata:
    """tensors, values: by their name in the state dict. places: by name and where the piece begins in its tensor,
    None for a value. paths: the keys that lead to a name in the nested state. notes: versions and where it was saved.
    num_malformed: entries that make no sense, and are left out.
    """

    __slots__ = ("globals", "notes", "num_malformed", "paths", "places", "tensors", "values")

    def __init__(self) -> None:
        self.tensors: dict[str, TensorItem] = {}
        self.values: dict[str, None] = {}  # in order, each once
        self.places: dict[tuple[str, Extents | None], Place] = {}
        self.paths: dict[str, tuple[str | int, ...]] = {}
        self.notes: dict[str, object] = {}
        self.globals: list[GlobalRef] = []
        self.num_malformed = 0

    def merge(self, other: DcpMetadata) -> None:
        """Take what another rank wrote of its own pieces."""
        for name, item in other.tensors.items():
            mine = self.tensors.setdefault(name, item)
            if mine is not item:
                known = {piece.offsets for piece in mine.pieces}
                mine.pieces += [piece for piece in item.pieces if piece.offsets not in known]
        self.values.update(other.values)
        self.places.update(other.places)
        self.paths.update(other.paths)
        self.notes.update({key: value for key, value in other.notes.items() if key not in self.notes})
        self.num_malformed += other.num_malformed
        named = {ref.key for ref in self.globals}
        self.globals += [ref for ref in other.globals if ref.key not in named]


def decode_metadata(raw: bytes, file: str, limits: ReadLimits) -> DcpMetadata:
    """Raises CkptError when it is no pickle, or not one of a distributed checkpoint."""
    decoded = decode_pickle(raw, file, limits)
    fields = _fields(decoded.root, "Metadata")
    listed = fields.get("state_dict_metadata")
    if not isinstance(listed, dict):
        dangerous = [safe_text(ref.name, 60) for ref in decoded.globals if ref.verdict is Verdict.DANGEROUS][:3]
        warning = f"; it calls for {', '.join(dangerous)}: do not load it" if dangerous else ""
        raise CkptError("Damaged checkpoint", f"{file} does not list what was saved{warning}", _HINT)
    if len(listed) > limits.max_tensors:
        raise CkptError("Not readable", f"{file} lists more tensors than a checkpoint can have")
    found = DcpMetadata()
    found.globals = decoded.globals
    num_chunks = 0
    for key, value in listed.items():
        name = str(key)
        if isinstance(value, OpaqueObject) and value.type_name.endswith(".BytesStorageMetadata"):
            found.values[name] = None
            continue
        chunks = _fields(value, "TensorStorageMetadata").get("chunks")
        num_chunks += len(chunks) if isinstance(chunks, list) else 0
        if num_chunks > len(raw) // _MIN_CHUNK_BYTES + 1:
            message = f"{file} lists more pieces than its {len(raw):,} bytes can hold: the same ones again and again"
            raise CkptError("Not readable", message, "It may have been made to harm.")
        item = _tensor_item(value)
        if item is None:
            found.num_malformed += 1
        else:
            found.tensors[name] = item
    stored = fields.get("storage_data")
    for place_key, info in stored.items() if isinstance(stored, dict) else ():
        index = _fields(decoded.odd_keys.get(str(place_key)), "MetadataIndex")
        owner, offsets, place = index.get("fqn"), index.get("offset"), _place(info)
        if type(owner) is not str or place is None or not (offsets is None or is_extents(offsets)):
            found.num_malformed += 1
            continue
        found.places[(owner, offsets)] = place  # type: ignore[index]  # checked above
    planned = fields.get("planner_data")
    for key, path in planned.items() if isinstance(planned, dict) else ():
        if type(path) is tuple and 0 < len(path) <= _MAX_PATH and all(type(word) in (str, int) for word in path):
            found.paths[str(key)] = path
    _take_notes(fields, found.notes)
    return found


def is_extents(value: object) -> bool:
    """Whether it is a shape, or offsets into one."""
    return (
        type(value) is tuple
        and len(value) <= _MAX_DIMENSIONS
        and all(type(extent) is int and 0 <= extent < _MAX_EXTENT for extent in value)
    )


def _take_notes(fields: dict[object, object], notes: dict[str, object]) -> None:
    """Versions, and where and in which save it was written."""
    if isinstance(fields.get("version"), str):
        notes["dcp_version"] = fields["version"]
    meta = _fields(fields.get("storage_meta"), "StorageMeta")
    if isinstance(meta.get("save_id"), str):
        notes["save_id"] = meta["save_id"]
    saved_as = meta.get("checkpoint_id")
    if isinstance(saved_as, OpaqueObject) and all(isinstance(word, str) for word in saved_as.args):
        saved_as = "/".join(str(word) for word in saved_as.args).replace("//", "/")
    if isinstance(saved_as, str):
        notes["saved_as"] = saved_as


def _fields(value: object, kind: str) -> dict[object, object]:
    """The attributes of an object of torch's class `kind`; none for anything else."""
    if isinstance(value, OpaqueObject) and value.type_name.endswith(f".{kind}") and isinstance(value.state, dict):
        return value.state
    return {}


def _tensor_item(value: object) -> TensorItem | None:
    fields = _fields(value, "TensorStorageMetadata")
    shape, listed = fields.get("size"), fields.get("chunks")
    if not is_extents(shape) or not isinstance(listed, list):
        return None
    assert isinstance(shape, tuple)
    pieces = []
    for chunk in listed:
        box = _fields(chunk, "ChunkStorageMetadata")
        offsets, sizes = box.get("offsets"), box.get("sizes")
        if not is_extents(offsets) or not is_extents(sizes):
            return None
        assert isinstance(offsets, tuple)
        assert isinstance(sizes, tuple)
        if not len(offsets) == len(sizes) == len(shape):
            return None
        pieces.append(Piece(offsets, sizes))
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, OpaqueObject) else None
    if not isinstance(state, tuple) or len(state) < 3:
        return None
    try:
        dtype = dtype_name(state[0])
    except ValueError:
        return None
    layout = state[1].type_name.removeprefix("torch.") if isinstance(state[1], OpaqueObject) else "strided"
    return TensorItem(shape, dtype, layout, state[2] is True, pieces)


def _place(value: object) -> Place | None:
    fields = _fields(value, "_StorageInfo")
    file, offset, length = fields.get("relative_path"), fields.get("offset"), fields.get("length")
    if type(file) is not str or type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
        return None
    listed = fields.get("transform_descriptors")
    transforms = tuple(str(word) for word in listed[:8]) if isinstance(listed, (list, tuple)) else ()
    return Place(file, offset, length, transforms)
