"""TorchScript archives (`torch.jit.save`, also for mobile): a state like torch.save's, constants, and code.

Tensors are named as `torch.jit.load(...).state_dict()` names them, constants as the code calls them (`CONSTANTS.c0`).
The code is never run here. It is a program: loading runs its `__setstate__`, calling the model runs the rest, and
though it can call nothing of Python, torch's operators write files (tried: `torch.save` with any path).
"""

from __future__ import annotations

import re

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, GlobalRef, OpaqueObject, Severity, Verdict
from ckpt_tui.checkpoints.readers.zip_records import HINT, PickleBudget, add_pickle, read_record
from ckpt_tui.checkpoints.state_walk import tensor_references
from ckpt_tui.checkpoints.zip_index import ZipEntry
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural

_MAX_PICKLES = 16
_MAX_CODE_BYTES = 16 << 20  # of source that is looked through
_MAX_DEBUG_BYTES = 2 << 20  # of pickles that say which line the code came from: nothing but texts in honest files
# Between the parts of a name there may be blanks, line ends and comments; a name may stand for another one.
_GAP = rb"(?:[\s\\]|#[^\n]*\n)*"
_WRITES = _GAP.join((rb"\b(torch|ops", rb"\.", rb"aten)", rb"\.", rb"(save|from_file)\b"))
_MAY_WRITE = rb"\b(?:save|from_file|write_file|read_file)\b"
_GETATTR = rb"\bgetattr\b(?!\([^\"'#\\]*\"[^\"'#\\\n]*\"\))"  # not as torch writes it: getattr(self, "0")


def add_torchscript(
    descriptor: int,
    checkpoint: Checkpoint,
    entries: list[ZipEntry],
    prefix: str,
    limits: ReadLimits,
    budget: PickleBudget,
) -> None:
    """Add what an archive of TorchScript holds beside its data.pkl, which is decoded already, to its state."""
    checkpoint.format = "torchscript"
    root = checkpoint.state
    # torch does not tell capitals from small letters.
    pickles = [e for e in entries if e.name.startswith(prefix) and e.name[-4:].lower() == ".pkl"]
    pickles = [e for e in pickles if e.name.rpartition("/")[2].lower() != "data.pkl"]
    for number, entry in enumerate(pickles):
        if number >= _MAX_PICKLES:
            message = f"{plural(len(pickles) - number, 'more pickle')}: more than such an archive has, not looked at"
            checkpoint.findings.append(Finding("several-pickles", Severity.WARNING, entry.name, message, HINT))
            _unknown(checkpoint, entry)
            break
        decoded = add_pickle(descriptor, entry, checkpoint, limits, budget)
        if isinstance(decoded, CkptError):
            continue
        name = entry.name[len(prefix) : -len(".pkl")]
        if name == "traced_inputs":
            continue  # judged and left out: their shapes are kept, their elements are not
        folder = "constants" if name == "bytecode" else name  # bytecode shares the constants' records
        for reference in tensor_references(decoded.root):
            info = reference.info
            if info.storage.startswith("data/"):
                info.storage = f"{folder}/{info.storage[5:]}"
        value = decoded.root
        if name == "constants":
            name = "CONSTANTS"
            if isinstance(value, tuple):
                value = {f"c{place}": item for place, item in enumerate(value)}
        if value not in ({}, (), []) and isinstance(root, OpaqueObject):
            root.entries[name] = value  # beside the attributes of the module, as the code sees them
    judge_code(descriptor, checkpoint, entries, prefix, limits, budget)
    know_own_classes(checkpoint)


def know_own_classes(checkpoint: Checkpoint) -> None:
    """Classes of TorchScript need no verdict of their own: what their code does is judged by the code."""
    for place, ref in enumerate(checkpoint.globals):
        if ref.verdict is Verdict.UNKNOWN and ref.name.startswith("__torch__."):
            reason = "a class of the archive's own TorchScript, which is compiled and not Python"
            checkpoint.globals[place] = GlobalRef(ref.name, Verdict.KNOWN, reason, ref.where)


def _unknown(checkpoint: Checkpoint, entry: ZipEntry) -> None:
    """What was not looked at is not safe."""
    checkpoint.globals.append(GlobalRef(entry.name, Verdict.UNKNOWN, "it was not looked at", checkpoint.path))


def judge_code(
    descriptor: int,
    checkpoint: Checkpoint,
    entries: list[ZipEntry],
    prefix: str,
    limits: ReadLimits,
    budget: PickleBudget,
) -> None:
    """Say that there is code, and whether it writes files; decode the pickles beside it."""
    sources = [e for e in entries if e.name.startswith(f"{prefix}code/") and e.name[-3:].lower() == ".py"]
    debug = [e for e in entries if e.name.startswith(prefix) and e.name[-10:].lower() == ".debug_pkl"]
    findings, path = checkpoint.findings, checkpoint.path
    if sources:
        message = (
            f"{plural(len(sources), 'file')} of TorchScript code: loading runs its __setstate__ methods, calling the "
            "model runs the rest. It reaches nothing of Python, but torch's operators can write files"
        )
        findings.append(
            Finding(
                "torchscript-code", Severity.INFO, f"{prefix}code", message, "Read it: unzip -p FILE '*.py'", "safety"
            )
        )
    left = _MAX_CODE_BYTES
    for entry in sources:
        left -= entry.size_bytes
        if left < 0:
            message = f"only the first {count(_MAX_CODE_BYTES >> 20)} MB of code are looked through"
            findings.append(Finding("code-not-read", Severity.WARNING, entry.name, message, level="safety"))
            _unknown(checkpoint, entry)
            break
        try:
            source = read_record(descriptor, entry, path)
        except CkptError as error:
            findings.append(Finding("unreadable-code", Severity.ERROR, entry.name, error.message, HINT))
            _unknown(checkpoint, entry)
            continue
        where = f"{path}: {entry.name}"
        names = {f"{'torch' if m[1] == b'torch' else 'ops.aten'}.{m[2].decode()}" for m in re.finditer(_WRITES, source)}
        for name in sorted(names - budget.names):
            reason = "the archive's TorchScript code reads or writes files with it"
            checkpoint.globals.append(GlobalRef(name, Verdict.DANGEROUS, reason, where))
        budget.names |= names
        if not names and (found := re.search(_MAY_WRITE, source) or re.search(_GETATTR, source)):
            words = found[0].decode("ascii")
            reason = f"the archive's code may reach torch's operators for files: it says {words}"
            checkpoint.globals.append(GlobalRef("torch.save", Verdict.UNKNOWN, reason, where))
    left = _MAX_DEBUG_BYTES
    for entry in debug:
        left -= entry.size_bytes
        if left < 0:
            message = f"{plural(len(debug), 'pickle')} of source positions: only the first 2 MB of them are looked at"
            findings.append(Finding("debug-not-read", Severity.INFO, entry.name, message, level="safety"))
            break
        add_pickle(descriptor, entry, checkpoint, limits, budget)
