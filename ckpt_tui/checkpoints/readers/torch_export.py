"""`.pt2` archives of torch.export.save: weights and constants by the names that the exported module gives them.

Three layouts: since torch 2.9 a record for each weight and a JSON table; before that archives of torch.save inside
the archive; up to 2.6 those under other names. Its graph is data and never run; sample inputs are judged, as loading
unpickles them, and not listed. Compiled libraries in it (AOTInductor) are machine code that loading runs.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import (
    DTYPE_SIZES,
    Checkpoint,
    Finding,
    GlobalRef,
    Severity,
    TensorInfo,
    TensorRef,
    Verdict,
)
from ckpt_tui.checkpoints.readers.zip_records import (
    HINT,
    PickleBudget,
    add_archive,
    add_pickle,
    join_storages,
    read_record,
)
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.checkpoints.zip_index import ZipEntry, ZipIndex
from ckpt_tui.errors import CkptError
from ckpt_tui.text import plural, safe_text

_MAX_FINDINGS = 100
_MAX_PICKLES = 10_000  # weights that are pickled one by one: only those of tensor subclasses are
_MAX_EXTENT = 1 << 63
_STRIDED = 7
# torch._export.serde.schema.ScalarType
_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 28: "uint16",
    29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz", 32: "float8_e5m2fnuz", 33: "float8_e8m0fnu",
    34: "uint32", 35: "uint64",
}  # fmt: skip
_LAYOUTS = {1: "sparse_coo", 2: "sparse_csr", 3: "sparse_csc", 4: "sparse_bsr", 5: "sparse_bsc", 6: "_mkldnn"}
_OLD_STATES = ("serialized_state_dict.pt", "serialized_constants.pt")


def read(
    descriptor: int, file_bytes: int, path: str, limits: ReadLimits, index: ZipIndex, by_name: dict[str, ZipEntry]
) -> Checkpoint:
    """The whole archive. Raises CkptError where nothing of it can be decoded."""
    checkpoint = Checkpoint(path, "torch-export", file_bytes, findings=index.findings)
    first = index.entries[0].name
    root = "" if first in (*_OLD_STATES, "serialized_exported_program.json") else first[: first.find("/") + 1]
    _Export(descriptor, checkpoint, limits, root, by_name, index.entries).read()
    for note in ("byteorder", "archive_version", "version"):
        entry = by_name.get(root + note)
        if entry is not None and entry.offset is not None and entry.method == 0 and entry.size_bytes <= 64:
            raw = read_exactly(descriptor, entry.size_bytes, entry.offset, path)
            checkpoint.metadata[note] = raw.decode("ascii", "replace").strip()
    # A model alone names its tensors as its state dict would; of several each has its name before them.
    checkpoint.tensors = name_tensors(checkpoint.state, limits, checkpoint.findings)
    join_storages(checkpoint, root, by_name)
    return checkpoint


class _Export:
    """One archive being read: fills the checkpoint's state, globals and findings."""

    def __init__(
        self,
        descriptor: int,
        checkpoint: Checkpoint,
        limits: ReadLimits,
        root: str,
        by_name: dict[str, ZipEntry],
        entries: list[ZipEntry],
    ) -> None:
        self.descriptor = descriptor
        self.checkpoint = checkpoint
        self.limits = limits
        self.root = root
        self.by_name = by_name
        self.entries = entries
        self.budget = PickleBudget(checkpoint)
        self.num_pickles = 0
        self.num_malformed = 0

    def read(self) -> None:
        names = [name[len(self.root) :] for name in self.by_name if name.startswith(self.root)]
        models = [name[7:-5] for name in names if name.startswith("models/") and name.endswith(".json")]
        states: dict[object, object] = {}
        state: dict[object, object]
        for model in models[:_MAX_FINDINGS]:
            states[model] = state = {}
            for folder, kind in (("weights", "weights"), ("constants", "constants")):
                self.add_table(f"data/{folder}/", f"{model}_{kind}_config.json", state)
                self.add_archive(f"data/{folder}/{model}.pt", state)  # as torch wrote them before there were tables
            self.add_archive(f"data/sample_inputs/{model}.pt", None)
        if not models:
            states["model"] = state = {}
            for name in _OLD_STATES:
                self.add_archive(name, state)
            self.add_archive("serialized_example_inputs.pt", None)
        self.judge_programs()
        self.judge_doubles()
        libraries = [n for n in names if n.startswith("data/aotinductor/") and n.endswith((".so", ".dylib", ".pyd"))]
        if libraries:
            message = f"{plural(len(libraries), 'compiled library', 'compiled libraries')}: loading runs machine code"
            self.note("native-code", Severity.WARNING, libraries[0], message, "Load it only if you built it.", "safety")
            reason = "machine code that loading the archive runs"
            self.checkpoint.globals.append(GlobalRef(libraries[0], Verdict.UNKNOWN, reason, self.checkpoint.path))
        self.checkpoint.state = next(iter(states.values())) if len(states) == 1 else states

    def judge_programs(self) -> None:
        """Every JSON beside the weights' tables; by their names without capitals, as torch finds them."""
        from ckpt_tui.checkpoints.readers.export_program import judge_program

        for entry in self.entries:
            name = entry.name.lower()
            if name.endswith(".json") and not name.endswith(("_weights_config.json", "_constants_config.json")):
                if not self.is_within_limits(entry.name):
                    return
                judge_program(self.descriptor, entry, self.checkpoint, self.limits)

    def judge_doubles(self) -> None:
        """Records whose name comes twice, with capitals or not: torch may take either, so each is judged."""
        seen: dict[str, ZipEntry] = {}
        for entry in self.entries:
            other = seen.setdefault(entry.name.lower(), entry)
            if other is entry:
                continue
            for one in (other, entry):
                if one.offset is None or not one.size_bytes or not self.is_within_limits(one.name):
                    continue
                head = read_exactly(self.descriptor, min(4, one.size_bytes), one.offset, self.checkpoint.path)
                if head == b"PK\x03\x04":
                    add_archive(self.descriptor, one, self.checkpoint, self.limits, self.budget)
                else:
                    add_pickle(self.descriptor, one, self.checkpoint, self.limits, self.budget)

    def add_table(self, folder: str, config: str, state: dict[object, object]) -> None:
        """The tensors of a JSON table: {"config": {name: {path_name, is_param, use_pickle, tensor_meta}}}."""
        entry = self.by_name.get(f"{self.root}{folder}{config}")
        if entry is None:
            return
        from ckpt_tui.checkpoints.bounded_json import MAX_JSON_BYTES, parse_json

        try:
            if entry.size_bytes > min(self.limits.max_json_bytes, MAX_JSON_BYTES):
                raise CkptError("Not readable", "it is larger than such a table can be")
            found = parse_json(read_record(self.descriptor, entry, self.checkpoint.path), folder + config)
            table = found["config"].items()  # type: ignore[index]
        except CkptError as error:
            message = error.message.removeprefix(f"{self.checkpoint.path}: ")
            self.note("unreadable-part", Severity.ERROR, folder + config, message)
            return
        except (KeyError, TypeError, AttributeError) as error:
            message = f"it is no table of tensors: {safe_text(error, 80)}"
            self.note("unreadable-part", Severity.ERROR, folder + config, message)
            return
        for name, payload in table:
            try:
                record = payload["path_name"]
                if payload["use_pickle"] or payload["tensor_meta"] is None:
                    self.add_pickled(f"{folder}{record}", name, state)
                else:
                    state[name] = TensorRef(_tensor(payload["tensor_meta"], f"{folder}{record}", payload["is_param"]))
            except (ValueError, KeyError, TypeError) as error:
                self.num_malformed += 1
                if self.num_malformed <= _MAX_FINDINGS:
                    message = f"its entry makes no sense: {safe_text(error, 80)}"
                    self.note("malformed-tensor", Severity.ERROR, name, message)

    def add_pickled(self, record: str, name: str, state: dict[object, object]) -> None:
        """A tensor of a subclass, or an object: an archive of torch.save, or a pickle as it is."""
        entry = self.by_name.get(self.root + record)
        if entry is None or entry.offset is None:
            self.note("missing-storage", Severity.ERROR, name, f"its record {record} is not in the file")
            return
        head = read_exactly(self.descriptor, min(4, entry.size_bytes), entry.offset, self.checkpoint.path)
        if head == b"PK\x03\x04":
            self.add_archive(record, state, name)
        elif self.is_within_limits(record):
            decoded = add_pickle(self.descriptor, entry, self.checkpoint, self.limits, self.budget)
            if not isinstance(decoded, CkptError):
                state[name] = decoded.root

    def add_archive(self, record: str, state: dict[object, object] | None, name: str | None = None) -> None:
        """An archive of torch.save: the whole state dict, or what one name stands for. No state: judged only."""
        entry = self.by_name.get(self.root + record)
        if entry is None or not entry.size_bytes or not self.is_within_limits(record):
            return
        found = add_archive(self.descriptor, entry, self.checkpoint, self.limits, self.budget)
        if found is None or state is None:
            return
        if name is not None:
            state[name] = found.state
        elif isinstance(found.state, dict):
            state.update(found.state)

    def is_within_limits(self, record: str) -> bool:
        self.num_pickles += 1
        if self.num_pickles == _MAX_PICKLES:
            self.note("several-pickles", Severity.WARNING, record, "more pickles than an export has: not looked at")
            unknown = GlobalRef(record, Verdict.UNKNOWN, "it was not looked at", self.checkpoint.path)
            self.checkpoint.globals.append(unknown)
        return self.num_pickles < _MAX_PICKLES

    def note(
        self, code: str, severity: Severity, where: str, message: str, hint: str = HINT, level: str = "structure"
    ) -> None:
        self.checkpoint.findings.append(Finding(code, severity, where, message, hint, level))


def _tensor(meta: dict[str, object], storage: str, is_parameter: object) -> TensorInfo:
    """A tensor as the table describes it; ValueError, KeyError or TypeError when it cannot be one."""
    dtype = _DTYPES[meta["dtype"]]  # type: ignore[index]
    shape, strides = _numbers(meta["sizes"]), _numbers(meta["strides"])
    (offset,) = _numbers([meta["storage_offset"]])
    if len(shape) != len(strides):
        raise ValueError("shape and strides do not fit together")
    num_bytes = DTYPE_SIZES[dtype]
    for extent in shape:
        num_bytes *= extent
        if num_bytes >= _MAX_EXTENT:
            raise ValueError("more bytes than there can be")
    place = meta.get("device")
    device = "cpu"
    if isinstance(place, dict) and isinstance(place.get("type"), str):
        number = place.get("index")
        device = f"{place['type']}:{number}" if isinstance(number, int) else place["type"]
    layout = "strided" if meta.get("layout") == _STRIDED else _LAYOUTS.get(meta.get("layout"), "unknown")  # type: ignore[call-overload]
    needs_gradient = meta.get("requires_grad") is True
    return TensorInfo(
        "", "", shape, dtype, num_bytes, storage, strides, offset, device, layout, needs_gradient, is_parameter is True
    )


def _numbers(items: object) -> tuple[int, ...]:
    """[{"as_int": 3}, ...] as whole numbers."""
    if not isinstance(items, list) or len(items) > 64:
        raise ValueError("a shape is a list of at most 64 numbers")
    numbers = tuple(item["as_int"] for item in items)
    if any(type(number) is not int or not 0 <= number < _MAX_EXTENT for number in numbers):
        raise ValueError("a shape holds whole numbers")
    return numbers
