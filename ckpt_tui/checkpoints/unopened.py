"""Why a checkpoint does not open: what is left of it, said so that a person knows what became of it."""

from __future__ import annotations

import os
import time

from ckpt_tui.checkpoints.archive import ZIP_HEAD, archive_names
from ckpt_tui.checkpoints.growth import Stamp, grows
from ckpt_tui.checkpoints.model import Finding, Severity
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import duration, safe_text, size

ANOTHER = "`ckpt-tui list` on its directory shows which checkpoints are valid."
_UNREADABLE = ("Not found", "No permission", "Cannot read")
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True, slots=True)
class Unopened:
    """verdict: one of damaged, incomplete, not-a-checkpoint, unreadable. finding: why."""

    verdict: str
    finding: Finding


def judge_unopened(path: str, error: CkptError, before: Stamp) -> Unopened:
    """What to say of the checkpoint at `path`, which could not be opened because of `error`."""
    name = safe_text(os.path.basename(os.path.abspath(path)) or path)
    if error.title in _UNREADABLE:
        return unreadable(name, error)
    if grows(path, before):
        message = "it is incomplete, still growing: something is writing it now"
        return Unopened("incomplete", still_growing(name, message))
    if not before.is_directory and _is_all_zero(path):
        message = f"all {size(before.size_bytes)} of it are zeros: its data never reached the disk before a crash"
        return Unopened("damaged", Finding("hole", Severity.ERROR, name, message, ANOTHER, "integrity"))
    if error.title == "Not readable" or "not read yet" in error.message:
        return unreadable(name, error)
    if error.title == "Not a checkpoint" and not _was_a_checkpoint(path, before):
        message = error.message or error.title
        return Unopened("not-a-checkpoint", Finding("not-a-checkpoint", Severity.ERROR, name, message, error.hint))
    message = (error.message or error.title).removeprefix(f"{path}: ").removeprefix(f"{path} is ")
    age = time.time() - before.changed_at
    if 0 <= age < 60:
        message += f"; written {duration(age)} ago: perhaps it is still being saved"
    return Unopened("damaged", Finding(_code_of(error), Severity.ERROR, name, message, error.hint or ANOTHER))


def judge_empty(path: str, before: Stamp) -> Unopened:
    """A file without a byte."""
    name = safe_text(os.path.basename(os.path.abspath(path)) or path)
    if grows(path, before):
        return Unopened("incomplete", still_growing(name, "it is incomplete, still growing"))
    message = "the file is empty: a save was cut off before its first byte, or the disk was full"
    return Unopened("damaged", Finding("empty", Severity.ERROR, name, message, ANOTHER))


def unreadable(name: str, error: CkptError) -> Unopened:
    message = f"{error.title}: {error.message}" if error.message else error.title
    return Unopened("unreadable", Finding("unreadable", Severity.ERROR, name, message, error.hint))


def still_growing(name: str, message: str) -> Finding:
    return Finding("still-growing", Severity.WARNING, name, message, "Try again when the save is done.")


def _was_a_checkpoint(path: str, before: Stamp) -> bool:
    """Whether what is left of the file says that it was one: it is cut before its format can be told, its first
    bytes are damaged but it ends as torch's archives do, or it has torch's records but for their pickle."""
    if before.is_directory:
        return False
    with open(path, "rb") as file:
        head = file.read(8)
        if before.size_bytes <= 8:
            return ZIP_HEAD.startswith(head[:4]) or path.endswith(".safetensors")
        file.seek(-min(22, before.size_bytes), os.SEEK_END)
        tail = file.read()
    if not head.startswith(ZIP_HEAD):
        return tail.startswith(b"PK\x05\x06") and path.endswith(_SUFFIXES)
    try:
        names = archive_names(path)
    except CkptError:
        return True
    return not names.isdisjoint({"serialization_id", "byteorder", ".format_version"})


def _is_all_zero(path: str) -> bool:
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            if piece.count(0) != len(piece):
                return False
    return True


def _code_of(error: CkptError) -> str:
    text = f"{error.title} {error.message}".lower()
    return "truncated" if "truncat" in text or "central directory" in text or "ends before" in text else "damaged"
