"""torch.package archives: pickles among the Python sources of the classes that they name.

Loading one imports those sources, which runs them: a global whose module is in the archive is unknown whatever it is
called, even `torch.nn.Linear`, because the importer takes the archive's own before the installed one.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, GlobalRef, Severity, Verdict
from ckpt_tui.checkpoints.pickle_decode import DecodedPickle
from ckpt_tui.checkpoints.readers.torchscript import judge_code, know_own_classes
from ckpt_tui.checkpoints.readers.zip_records import HINT, PickleBudget, add_pickle, join_storages, read_record
from ckpt_tui.checkpoints.state_walk import name_tensors, tensor_references
from ckpt_tui.checkpoints.zip_index import ZipEntry, ZipIndex
from ckpt_tui.errors import CkptError
from ckpt_tui.text import plural, safe_text

_MAX_PICKLES = 1000
_MAX_LISTED = 20
_MAX_NOTE_BYTES = 1 << 20


def read(
    descriptor: int, file_bytes: int, path: str, limits: ReadLimits, index: ZipIndex, by_name: dict[str, ZipEntry]
) -> Checkpoint:
    """The whole archive; a pickle that does not decode is a finding."""
    checkpoint = Checkpoint(path, "torch-package", file_bytes, findings=index.findings)
    first = index.entries[0].name
    root = first[: first.find("/") + 1]
    hidden = f"{root}.data/"
    for note in ("extern_modules", "python_version", "version"):
        entry = by_name.get(hidden + note)
        if entry is not None and entry.size_bytes <= _MAX_NOTE_BYTES:
            try:
                words = read_record(descriptor, entry, path).decode("utf-8", "replace").split()
            except CkptError:
                continue
            checkpoint.metadata[note] = words if note == "extern_modules" else " ".join(words)
    states: dict[object, object] = {}
    budget = PickleBudget(checkpoint)
    pickled_bytes = num_pickles = 0
    for entry in index.entries:
        if not _is_pickle(descriptor, entry, root, path):
            continue
        num_pickles += 1
        pickled_bytes += max(entry.size_bytes, entry.compressed_bytes)
        if num_pickles > _MAX_PICKLES or pickled_bytes > limits.max_pickle_bytes:
            message = "more pickles than such an archive has: it and those behind it are not looked at"
            checkpoint.findings.append(Finding("several-pickles", Severity.WARNING, entry.name, message, HINT))
            checkpoint.globals.append(GlobalRef(entry.name, Verdict.UNKNOWN, "it was not looked at", path))
            break
        decoded = add_pickle(descriptor, entry, checkpoint, limits, budget)
        if isinstance(decoded, DecodedPickle):
            for reference in tensor_references(decoded.root):  # TorchScript's keys are whole names of records
                reference.info.storage = reference.info.storage.removesuffix(".storage")
            states[_state_name(entry.name, root)] = decoded.root
    sources = {name[len(root) :]: name for name in by_name if name.endswith(".py") and not name.startswith(hidden)}
    _judge_sources(checkpoint, sources)
    judge_code(descriptor, checkpoint, index.entries, f"{hidden}ts_code/", limits, budget)
    know_own_classes(checkpoint)
    checkpoint.state = next(iter(states.values())) if len(states) == 1 else states
    byteorder = by_name.get(f"{root}byteorder")
    if byteorder is not None and byteorder.offset is not None and byteorder.size_bytes <= 64:
        checkpoint.metadata["byteorder"] = read_record(descriptor, byteorder, path).decode("ascii", "replace").strip()
    checkpoint.tensors = name_tensors(checkpoint.state, limits, checkpoint.findings)
    join_storages(checkpoint, f"{root}.", by_name, ".storage")
    return checkpoint


def _is_pickle(descriptor: int, entry: ZipEntry, root: str, path: str) -> bool:
    """Whether a record is a pickle: by its name, or by how it begins and ends, since it may have any name."""
    name = entry.name[len(root) :].lower()  # torch does not tell capitals from small letters
    if name.endswith(".py") or entry.offset is None or not entry.size_bytes:
        return False
    if name.startswith(".data/"):
        return name.startswith(".data/ts_code/") and name.endswith(".pkl")
    if name.endswith((".pkl", ".pickle")):
        return True
    if entry.method:
        return False
    begin = read_exactly(descriptor, min(2, entry.size_bytes), entry.offset, path)
    end = read_exactly(descriptor, 1, entry.offset + entry.size_bytes - 1, path)
    return begin[:1] == b"\x80" and b"\0" < begin[1:] <= b"\x05" and end == b"."


def _state_name(record: str, root: str) -> str:
    """`model/model.pkl`; `script 0` for a TorchScript module, which lies in .data/ts_code/0/data.pkl."""
    name = record[len(root) :]
    if name.startswith(".data/ts_code/"):
        number, _, what = name[len(".data/ts_code/") :].partition("/")
        return f"script {number}" if what == "data.pkl" else f"script {number} {what.removesuffix('.pkl')}"
    return name


def _judge_sources(checkpoint: Checkpoint, sources: dict[str, str]) -> None:
    """Say which code is in it, and which globals loading would take from there."""
    if not sources:
        return
    listed = ", ".join(safe_text(name, 60) for name in list(sources)[:_MAX_LISTED])
    more = f" and {len(sources) - _MAX_LISTED:,} more" if len(sources) > _MAX_LISTED else ""
    message = f"{plural(len(sources), 'Python file')} in it, which loading imports and so runs: {listed}{more}"
    hint = "Read them before loading it: unzip -p FILE '*.py'"
    checkpoint.findings.append(Finding("package-code", Severity.WARNING, "", message, hint, "safety"))
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in sources}
    for place, ref in enumerate(checkpoint.globals):
        words = ref.name.split(".")[:64]
        for length in range(1, len(words)):
            source = modules.get(".".join(words[:length]))
            if source is not None and ref.verdict is not Verdict.DANGEROUS:
                reason = f"its Python source is in the archive ({safe_text(source, 80)}), and loading runs it"
                checkpoint.globals[place] = GlobalRef(ref.name, Verdict.UNKNOWN, reason, ref.where)
                break
    named = {ref.name for ref in checkpoint.globals}
    for module, source in list(modules.items())[:_MAX_LISTED]:
        if not any(name == module or name.startswith(f"{module}.") for name in named):
            reason = f"Python source in the archive ({safe_text(source, 80)}): importing it from there runs it"
            checkpoint.globals.append(GlobalRef(module, Verdict.UNKNOWN, reason, checkpoint.path))
