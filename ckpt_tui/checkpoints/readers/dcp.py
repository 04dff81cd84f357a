"""torch.distributed.checkpoint: a directory of `.distcp` files, and `.metadata`, which is written last.

A tensor that ranks share is stored in pieces. It is listed as a whole, with the layout `sharded` and no storage of its
own, followed by its pieces `NAME.chunks.0` ..., whose elements can be read.
"""

from __future__ import annotations

from math import prod

from ckpt_tui.checkpoints.chunk_cover import judge_cover
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    Checkpoint,
    CompositeRef,
    Finding,
    OpaqueObject,
    Severity,
    ShardedTensor,
    Storage,
    TensorInfo,
    TensorRef,
    contiguous_stride,
)
from ckpt_tui.checkpoints.parts import MODEL_KEYS, OPTIMIZER_KEYS
from ckpt_tui.checkpoints.progress import add_progress
from ckpt_tui.checkpoints.readers.dcp_metadata import DcpMetadata, Place, TensorItem, decode_metadata
from ckpt_tui.checkpoints.readers.dcp_parts import dcp_parts, scalars_of
from ckpt_tui.checkpoints.readers.dcp_pieces import Piece, PieceReader
from ckpt_tui.checkpoints.readers.directory import Listing, Parts
from ckpt_tui.checkpoints.state_walk import tensor_references
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural, safe_text

_METADATA = ".metadata"
_MARK = b"torch.distributed.checkpoint.metadata"
_MAX_HEAD_BYTES = 512
_MAX_PIECES = 2_000_000
_MAX_CONTAINERS = 10_000  # of the nested state, beyond two for each name
_MAX_NAME_BYTES = 64 << 20  # of pieces, all together
_MAX_PAIRS = 2_000_000  # of pieces that are held against each other, in all tensors
_MAX_BESIDE = 20  # torch files beside the pieces: Lightning's meta.pt, Megatron's common.pt
_HINT = "Copy it again, or use another checkpoint: `ckpt-tui list` on its directory shows which are valid."
_ROLE_WORDS = (*MODEL_KEYS, *OPTIMIZER_KEYS)


class DcpReader:
    """A directory that torch.distributed.checkpoint wrote, from one process or many."""

    formats: tuple[str, ...] = ("dcp",)

    def sniff(self, listing: Listing) -> str | None:
        return "dcp" if is_dcp(listing) else None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        checkpoint = read_dcp(listing, limits)
        beside = sorted(name for name in listing.names if name.endswith((".pt", ".pth")) and name in listing.files)
        if beside:
            parts = Parts(listing, "dcp", limits)
            parts.checkpoint = checkpoint
            assert isinstance(checkpoint.state, dict)
            parts.state = checkpoint.state
            for name in beside[:_MAX_BESIDE]:
                parts.add(name)
            checkpoint.globals = list({ref.key: ref for ref in reversed(checkpoint.globals)}.values())[::-1]
        return checkpoint


def is_dcp(listing: Listing) -> bool:
    """Whether a distributed checkpoint's files lie directly in the directory."""
    if any(name.endswith(".distcp") for name in listing.names):
        return True
    return any(_names_dcp(listing, name) for name in listing.names if _is_metadata(name))


def read_dcp(listing: Listing, limits: ReadLimits) -> Checkpoint:
    """The distributed checkpoint that lies directly in the listed directory. Raises CkptError without `.metadata`."""
    metadata = _read_metadata(listing, limits)
    checkpoint = Checkpoint(listing.path, "dcp", sum(listing.files.values()))
    checkpoint.metadata.update(metadata.notes)
    checkpoint.globals = list(metadata.globals)
    reader = PieceReader(listing, limits)
    builder = _Builder(checkpoint, metadata, reader)
    builder.run()
    checkpoint.findings += reader.findings
    reader.tell_losses(checkpoint)
    known = {ref.key for ref in checkpoint.globals}
    checkpoint.globals += [ref for ref in reader.globals.values() if ref.key not in known]
    if metadata.num_malformed:
        message = f"{plural(metadata.num_malformed, 'entry', 'entries')} of it make no sense, and are left out"
        checkpoint.findings.append(Finding("metadata-odd", Severity.ERROR, _METADATA, message, _HINT))
    _note_unlisted(listing, metadata, checkpoint)
    checkpoint.parts = dcp_parts(checkpoint)
    add_progress(checkpoint.progress, scalars_of(checkpoint))
    return checkpoint


# --- metadata


def _is_metadata(name: str) -> bool:
    """`.metadata`, or `__3.metadata`: what rank 3 wrote where every rank writes its own."""
    return name == _METADATA or (name.startswith("__") and name[2:].removesuffix(_METADATA).isdigit())


def _names_dcp(listing: Listing, file: str) -> bool:
    from ckpt_tui.checkpoints.opening import RegularFile

    if file not in listing.files:
        return False
    try:
        with RegularFile(listing.path_of(file)) as opened:
            from ckpt_tui.checkpoints.exact_read import read_exactly

            return _MARK in read_exactly(opened.descriptor, min(opened.file_bytes, _MAX_HEAD_BYTES), 0, file)
    except (CkptError, OSError):
        return False


def _read_metadata(listing: Listing, limits: ReadLimits) -> DcpMetadata:
    files = sorted(name for name in listing.names if _is_metadata(name) and name in listing.files)
    if _METADATA in files:
        files = [_METADATA]
    if not files:
        num_pieces = sum(name.endswith(".distcp") for name in listing.names)
        unfinished = ", only a temporary one" if ".metadata.tmp" in listing.names else ""
        raise CkptError(
            "Damaged checkpoint",
            f"{listing.path}: the save never finished: .metadata, which is written last, is not there{unfinished}; "
            f"the {plural(num_pieces, '.distcp file')} cannot be told apart without it",
            "Use another checkpoint: `ckpt-tui list` on its directory shows which are valid.",
        )
    found: DcpMetadata | None = None
    for file in files:
        one = decode_metadata(listing.read_text(file, limits.max_pickle_bytes), file, limits)
        if found is None:
            found = one
        else:
            found.merge(one)
    assert found is not None
    return found


def _note_unlisted(listing: Listing, metadata: DcpMetadata, checkpoint: Checkpoint) -> None:
    """Pieces of an earlier save into the same directory are told, because they only take space."""
    named = {place.file for place in metadata.places.values()}
    extra = sorted(name for name in listing.names if name.endswith(".distcp") and name not in named)
    if extra:
        shown = ", ".join(safe_text(name, 60) for name in extra[:3])
        message = f"{plural(len(extra), 'file')} that the metadata does not name: left over from another save"
        checkpoint.findings.append(Finding("unlisted-part", Severity.WARNING, shown, message, "It is not loaded."))


# --- tensors and values


class _Builder:
    """Puts the pieces together: tensors, storages and the nested state."""

    def __init__(self, checkpoint: Checkpoint, metadata: DcpMetadata, reader: PieceReader) -> None:
        self.checkpoint = checkpoint
        self.metadata = metadata
        self.reader = reader
        self.leaves: dict[str, object] = {}
        self.num_left_out = 0
        self.name_bytes = 0
        self.pairs_left = _MAX_PAIRS

    def run(self) -> None:
        wanted: list[tuple[str, bool, Place]] = []
        places = self.metadata.places
        for name, item in self.metadata.tensors.items():
            found = (places.get((name, piece.offsets)) for piece in item.pieces)
            wanted += [(name, True, place) for place in found if place is not None]
        for name in self.metadata.values:
            place = places.get((name, None))
            if place is not None:
                wanted.append((name, False, place))
        if len(wanted) > _MAX_PIECES:
            message = f"{self.checkpoint.path}: it has {count(len(wanted))} pieces, more than can be read"
            raise CkptError("Not readable", message, "It may have been made to harm.")
        self.pieces = self.reader.read_all(wanted)
        for name, item in self.metadata.tensors.items():
            self.add_tensor(name, item)
        for name in self.metadata.values:
            self.add_value(name)
        if self.num_left_out:
            message = f"{plural(self.num_left_out, 'value')} too large or too many to be shown"
            self.checkpoint.findings.append(Finding("not-shown", Severity.INFO, "state", message))
        self.checkpoint.state = nested_state(self.leaves, self.metadata.paths)

    def piece_of(self, name: str, offsets: tuple[int, ...] | None) -> Piece:
        place = self.metadata.places.get((name, offsets))
        if place is not None:
            return self.pieces[id(place)]
        where = f"{name} at {list(offsets)}" if offsets else name
        self.reader.note("missing-chunk", where, "the metadata lists it, and does not say where it lies: it is lost")
        return Piece("unlisted")

    def add_tensor(self, name: str, item: TensorItem) -> None:
        checkpoint = self.checkpoint
        pieces = [piece for piece in item.pieces if 0 not in piece.sizes or len(item.pieces) == 1]
        if len(pieces) == 1 and pieces[0].sizes == item.shape and not any(pieces[0].offsets):
            reference = self.add_piece(name, name, pieces[0].offsets, item.shape, item, is_component=False)
            self.leaves[name] = reference
            return
        num_bytes = prod(item.shape) * DTYPE_SIZES.get(item.dtype, 0)
        whole = ShardedTensor(
            name, "", item.shape, item.dtype, num_bytes, "", contiguous_stride(item.shape), 0, "cpu", "sharded",
            item.requires_grad,
        )  # fmt: skip
        index = len(checkpoint.tensors)
        checkpoint.tensors.append(whole)
        chunks: list[object] = []
        for number, piece in enumerate(pieces):
            chunk_name = f"{name}.chunks.{number}"
            self.name_bytes += len(chunk_name)
            if self.name_bytes > _MAX_NAME_BYTES:
                message = f"{checkpoint.path}: its names take more than {count(_MAX_NAME_BYTES)} bytes"
                raise CkptError("Not readable", message, "It may have been made to harm.")
            reference = self.add_piece(name, chunk_name, piece.offsets, piece.sizes, item, is_component=True)
            chunks.append(reference)
            whole.chunks.append((piece.offsets, reference.info))
        boxes = [(piece.offsets, piece.sizes) for piece in pieces]
        problem, num_pairs = judge_cover(item.shape, boxes, self.pairs_left)
        self.pairs_left -= num_pairs
        if problem:
            self.reader.note("chunks-do-not-cover", name, f"{plural(len(pieces), 'piece')}: {problem}")
        self.leaves[name] = CompositeRef(whole, index, {"chunks": chunks})

    def add_piece(
        self, name: str, shown_name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], item: TensorItem,
        is_component: bool,
    ) -> TensorRef:  # fmt: skip
        """One piece as a tensor, with its bytes where there are any."""
        checkpoint = self.checkpoint
        piece = self.piece_of(name, offsets)
        if type(piece.value) in (TensorRef, CompositeRef) and piece.tensors:
            assert isinstance(piece.value, TensorRef)
            reference = piece.value
            if reference.index >= 0 and reference.index < len(checkpoint.tensors):
                reference = TensorRef(_copy(reference.info))  # the bytes stand under two names
            info = reference.info
            if info.shape != sizes or info.dtype != item.dtype:
                message = (
                    f"the piece is {info.dtype} {list(info.shape)}, the metadata says {item.dtype} {list(sizes)}: "
                    "it was written by another save"
                )
                self.reader.note("piece-differs", shown_name, message)
        else:
            num_bytes = prod(sizes) * DTYPE_SIZES.get(item.dtype, 0)
            key = f"{shown_name}: {piece.problem}"
            info = TensorInfo("", "", sizes, item.dtype, num_bytes, key, contiguous_stride(sizes))
            checkpoint.storages[key] = Storage(key, "", None, 0)
            reference = TensorRef(info)
            if not piece.problem:
                self.reader.note("piece-differs", shown_name, "what lies in its place is no tensor")
        reference.index = len(checkpoint.tensors)
        for tensor in piece.tensors if reference is piece.value else [info]:
            tensor.name = f"{shown_name}.{tensor.name}" if tensor.name else shown_name
            tensor.requires_grad |= item.requires_grad
            tensor.is_component |= is_component
            checkpoint.tensors.append(tensor)
        checkpoint.storages.update({storage.key: storage for storage in piece.storages})
        return reference

    def add_value(self, name: str) -> None:
        checkpoint = self.checkpoint
        piece = self.piece_of(name, None)
        if piece.problem:
            self.num_left_out += piece.problem == "large"
            self.leaves[name] = OpaqueObject(f"value that is not read: {piece.problem}")
            return
        first = len(checkpoint.tensors)
        if piece.tensors:
            for reference in tensor_references(piece.value):
                reference.index += first
            for tensor in piece.tensors:
                tensor.name = f"{name}.{tensor.name}" if tensor.name else name
            checkpoint.tensors += piece.tensors
            checkpoint.storages.update({storage.key: storage for storage in piece.storages})
        self.leaves[name] = piece.value


def nested_state(leaves: dict[str, object], paths: dict[str, tuple[str | int, ...]]) -> dict[object, object]:
    """The state dict as it was before it was flattened, by the keys that lead to each name; a name without any stands
    at the top, below its first word where that is a part's name."""
    root: dict[object, object] = {}
    containers: set[int] = {id(root)}
    numbered: list[tuple[dict[object, object], object]] = []  # (container, key) of what has numbers for keys
    for name, value in leaves.items():
        path = paths.get(name)
        if path is None:
            word, _, rest = name.partition(".")
            path = (word, rest) if rest and word in _ROLE_WORDS else (name,)
        node = root
        for depth, key in enumerate(path[:-1]):
            below = node.get(key)
            if below is None:
                if len(containers) > 2 * len(leaves) + _MAX_CONTAINERS:
                    break
                made: dict[object, object] = {}
                node[key] = below = made
                containers.add(id(made))
                if type(path[depth + 1]) is int:
                    numbered.append((node, key))
            if id(below) not in containers or not isinstance(below, dict):
                break  # a value stands where another needs a container
            node = below
        else:
            node.setdefault(path[-1], value)
            continue
        root.setdefault(name, value)
    for node, word_or_number in reversed(numbered):
        entries = node[word_or_number]
        if isinstance(entries, dict) and list(entries) != [] and set(entries) == set(range(len(entries))):
            node[word_or_number] = [entries[number] for number in range(len(entries))]
    return root


def _copy(info: TensorInfo) -> TensorInfo:
    return TensorInfo(
        "", "", info.shape, info.dtype, info.size_bytes, info.storage, info.stride, info.offset, info.device,
        info.layout, info.requires_grad, info.is_parameter,
    )  # fmt: skip


READER = DcpReader()
