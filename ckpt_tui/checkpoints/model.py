"""What is known of a checkpoint: facts without judgement. A reader fills these, everything else reads them.

Nothing here holds tensor data: a `Storage` says where its bytes lie, `values.py` reads them when asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from enum import StrEnum

from ckpt_tui.records import dataclass


class Severity(StrEnum):
    """How bad a finding is."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or odd. `code` is for scripts and never changes; the rest is for people.

    where: the place (`data/17`, `model.h.0.weight`, `byte 81,220`); message: what is wrong and what it means;
    hint: what to do. `level` is the level of validation it belongs to: structure, integrity, numbers, resume, safety.
    """

    code: str
    severity: Severity
    where: str
    message: str
    hint: str = ""
    level: str = "structure"


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes behind one or more tensors.

    key: unique in the checkpoint (`data/17`; a file's name before it where there are several files).
    file: path relative to the checkpoint ("" when the checkpoint is the file). offset: where the bytes begin in
    that file, absolute; None where there are none to read (missing, meta device, compressed by an unknown method).
    size_bytes: of the elements. crc32: of them, as the container records it; None where it records none.
    deflated_bytes: not None when the elements are there only as a raw deflate stream of that many bytes, at `offset`.
    """

    key: str
    file: str
    offset: int | None
    size_bytes: int
    crc32: int | None = None
    is_big_endian: bool = False
    deflated_bytes: int | None = None


@dataclass(slots=True)
class TensorInfo:
    """One named tensor: a view of a storage. Shapes, strides and offset count elements, never bytes.

    One that is made of others (sparse, nested, a wrapper subclass) has no storage of its own (""); its components
    follow it. Nested ones have the shape of their values: how they part is in the elements of a component.

    Not frozen only because 30,000 of them are made per file and freezing triples the cost; treat it as frozen.
    """

    name: str  # dotted path inside its file: keys joined by `.`, list positions as numbers
    file: str  # relative path for directories, "" for a single file
    shape: tuple[int, ...]
    dtype: str  # torch's names: float32, bfloat16, float8_e4m3fn ...
    size_bytes: int  # logical: elements of the shape times the element size
    storage: str  # key of its Storage
    stride: tuple[int, ...]
    offset: int = 0
    device: str = "cpu"
    layout: str = "strided"
    requires_grad: bool = False
    is_parameter: bool = False
    is_component: bool = False  # belongs to the tensor listed before it: `w.indices` of a sparse `w`
    is_conj: bool = False  # torch's lazy bits: the elements are the conjugates of what is stored
    is_neg: bool = False  # ... and its negatives

    @property
    def num_elements(self) -> int:
        total = 1
        for extent in self.shape:
            total *= extent
        return total


@dataclass(slots=True)
class ShardedTensor(TensorInfo):
    """A tensor that several ranks saved in pieces; layout `sharded`. chunks: where each piece begins, and the piece,
    which follows it among the checkpoint's tensors as a component: boxes of its shape."""

    chunks: list[tuple[tuple[int, ...], TensorInfo]] = field(default_factory=list)


class Verdict(StrEnum):
    """What is known of a global that a pickle names."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    DANGEROUS = "dangerous"


@dataclass(frozen=True, slots=True)
class GlobalRef:
    """A global that a pickle names: `torch._utils._rebuild_tensor_v2`. Never imported, never called."""

    name: str
    verdict: Verdict
    reason: str = ""
    where: str = ""  # the record whose pickle names it
    is_in_bytes: bool = False  # only in bytes that the pickle holds: loading the file does not reach it

    @property
    def key(self) -> str:
        """What a list holds once: one pickle may call a name harmlessly, and the next one not."""
        return f"{self.name} {self.verdict}"


_ORDER = {Verdict.KNOWN: 0, Verdict.UNKNOWN: 1, Verdict.DANGEROUS: 2}


def worst_of_each(globals_: list[GlobalRef]) -> list[GlobalRef]:
    """Each name once, in the order of their first places, with the worst verdict that it has anywhere."""
    found: dict[str, GlobalRef] = {}
    for ref in globals_:
        before = found.setdefault(ref.name, ref)
        if _ORDER[ref.verdict] > _ORDER[before.verdict]:
            found[ref.name] = ref
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Part:
    """One of the things that a training state is made of, and where in the checkpoint it was found.

    role: model, optimizer, scheduler, scaler, ema, rng, dataloader; settings and progress for what tells of the run.
    file: relative path in a directory, "" in a file. prefix: how the names of its tensors begin in that file, with
    the dot (`model.`); "" when the whole file is it. value: its decoded state.
    """

    role: str
    file: str
    prefix: str
    value: object

    def holds(self, tensor: TensorInfo) -> bool:
        """Whether a tensor of the checkpoint belongs to it."""
        return tensor.file == self.file and (
            tensor.name.startswith(self.prefix) or tensor.name == self.prefix.removesuffix(".")
        )


@dataclass(slots=True)
class Checkpoint:
    """One checkpoint, a file or a directory, as a reader found it.

    state: the decoded tree without tensor data: dicts (keys as in the file), lists, tuples, str, int, float, bool,
    None, bytes, `TensorRef` and `OpaqueObject`; it may be cyclic and deep. Of a directory: a dict of its files'
    states by relative path.
    parts: what of it is the model, the optimizer and so on; readers of directories name them, `facts` finds them in
    single files.
    findings: what the reader noticed on its way; `validate` looks further.
    """

    path: str
    format: str  # torch-zip, torch-legacy, safetensors ...: the list in SPEC section 11
    size_bytes: int
    tensors: list[TensorInfo] = field(default_factory=list)
    storages: dict[str, Storage] = field(default_factory=dict)
    state: object = None
    globals: list[GlobalRef] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    progress: dict[str, object] = field(default_factory=dict)  # step, epoch, train_loss, val_loss, saved_at ...
    hyperparameters: dict[str, object] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    has: list[str] = field(default_factory=list)  # of: model optimizer scheduler scaler ema rng dataloader
    optimizer: dict[str, object] = field(default_factory=dict)
    metadata: dict[str, object] = field(default_factory=dict)  # versions, byte order, safetensors' __metadata__

    @property
    def safety(self) -> str:
        """safe: every global is known; unknown: some are not; dangerous: one runs code by itself."""
        verdicts = {ref.verdict for ref in self.globals}
        if Verdict.DANGEROUS in verdicts:
            return "dangerous"
        return "unknown" if Verdict.UNKNOWN in verdicts else "safe"


@dataclass(slots=True)
class TensorRef:
    """Stands in `Checkpoint.state` where a tensor stood; `index` is its place in `Checkpoint.tensors`, or -1."""

    info: TensorInfo
    index: int = -1


@dataclass(slots=True)
class CompositeRef(TensorRef):
    """A tensor that is made of others, or has others as attributes: `parts` holds them by name."""

    parts: dict[object, object] = field(default_factory=dict)


@dataclass(slots=True)
class OpaqueObject:
    """Stands in `Checkpoint.state` for an object of a class we do not build: its name and what it was built from."""

    type_name: str
    args: tuple[object, ...] = ()
    state: object = None
    items: list[object] = field(default_factory=list)  # appended, for list subclasses
    entries: dict[object, object] = field(default_factory=dict)  # set, for dict subclasses


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride, in elements, of a tensor of this shape without gaps and not transposed."""
    stride: list[int] = []
    step = 1
    for extent in reversed(shape):
        stride.append(step)
        step *= max(extent, 1)
    return tuple(reversed(stride))


# Bytes of one element, by torch's dtype names. Sub-byte types are packed; their storage counts bytes.
DTYPE_SIZES: Mapping[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
    "complex32": 4, "complex64": 8, "complex128": 16,
    "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1,
    "bits8": 1, "bits16": 2, "bits1x8": 1, "bits2x4": 1, "bits4x2": 1,
}  # fmt: skip
_ELEMENTS_PER_BYTE = {"quint4x2": 2, "quint2x4": 4}  # packed, but counted and strided by element


def bytes_needed(tensor: TensorInfo) -> int | None:
    """Bytes of its storage up to the last element that a tensor shows; None where its dtype, or numbers that do not go
    together, do not tell."""
    item = DTYPE_SIZES.get(tensor.dtype)
    if item is None or len(tensor.shape) != len(tensor.stride):
        return None
    if min((*tensor.shape, *tensor.stride, tensor.offset)) < 0:
        return None
    if 0 in tensor.shape:
        return 0
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True))
    packed = _ELEMENTS_PER_BYTE.get(tensor.dtype)
    return last // packed + 1 if packed else (last + 1) * item
