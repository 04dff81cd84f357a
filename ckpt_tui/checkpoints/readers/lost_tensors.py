"""Which tensors of a file have not all of their bytes, told one by one up to a limit and then by number."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity, bytes_needed
from ckpt_tui.text import count

_MAX_FINDINGS = 100
_HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


def note_lost_tensors(checkpoint: Checkpoint) -> None:
    """A finding for each tensor whose storage is not there, or is shorter than the tensor needs.

    One for all those whose bytes are there, but not as they are: pickled as text by protocols 0 to 2.
    """
    num_lost = num_texts = 0
    for tensor in checkpoint.tensors:
        if not tensor.storage:
            continue
        needed = bytes_needed(tensor) or 0
        storage = checkpoint.storages.get(tensor.storage)
        if needed == 0 or (storage is not None and storage.offset is not None and needed <= storage.size_bytes):
            continue
        if storage is not None and storage.offset is None and needed <= storage.size_bytes:
            num_texts += 1
            continue
        num_lost += 1
        if num_lost > _MAX_FINDINGS:
            continue
        if storage is None or storage.offset is None:
            code, what = "missing-storage", f"its storage {tensor.storage} is not in the file"
        else:
            code = "short-storage"
            what = f"it needs {count(needed)} bytes, {count(storage.size_bytes)} of them are in the file"
        checkpoint.findings.append(Finding(code, Severity.ERROR, tensor.name, what, _HINT))
    if num_texts:
        words = f"the elements of {count(num_texts)} tensors are written as text, as pickles of protocols 0 to 2 do: "
        words += "they are shown by shape, and their values cannot be read in place"
        checkpoint.findings.append(
            Finding("values-as-text", Severity.INFO, "", words, "Pickle it again by protocol 4.")
        )
    if num_lost > _MAX_FINDINGS:
        rest = f"{count(num_lost - _MAX_FINDINGS)} more tensors have not all of their bytes"
        checkpoint.findings.append(Finding("more-lost", Severity.ERROR, "", rest, _HINT))
