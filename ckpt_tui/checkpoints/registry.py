"""Opens any checkpoint, file or directory: the reader is found by content, never by the name."""

from __future__ import annotations

import os

from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.facts import add_facts
from ckpt_tui.checkpoints.garbage import GarbageHeld
from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, GlobalRef, Verdict, worst_of_each
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.checkpoints.readers.base import directory_readers, file_readers
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import safe_text, shell_word

_HEAD_BYTES = 512
_TRIED_AS_TAR = ("torch-legacy", "pickle", "safetensors")  # what is no zip archive, torch.load tries as tar first
_MAX_LOOKED_INTO = 100  # names in a directory that is no checkpoint


def sniff(path: str | os.PathLike[str]) -> str | None:
    """The format of the file or directory at `path` by its first bytes, or by the names in it; None for what is no
    checkpoint that we read."""
    where = os.fspath(path)
    try:
        if os.path.isdir(where):
            from ckpt_tui.checkpoints.readers.directory import Listing

            listing = Listing(where)
            return next((found for reader in directory_readers() if (found := reader.sniff(listing))), None)
        with RegularFile(where) as file:
            head = read_exactly(file.descriptor, min(_HEAD_BYTES, file.file_bytes), 0, where)
            return next((found for reader in file_readers() if (found := reader.sniff(head, file.file_bytes))), None)
    except (CkptError, OSError, ValueError):
        return None


def open_checkpoint(path: str | os.PathLike[str], limits: ReadLimits = DEFAULT_LIMITS) -> Checkpoint:
    """Everything that is known of the checkpoint at `path`, without its tensor data.

    Raises CkptError when there is none, or it cannot be decoded; damage that leaves its state readable is a finding.
    """
    where = os.fspath(path)
    try:
        with GarbageHeld():
            is_directory = "\0" not in where and os.path.isdir(where)
            checkpoint = open_directory(where, limits) if is_directory else open_file(where, limits)
            checkpoint.globals = worst_of_each(checkpoint.globals)
            add_facts(checkpoint)
            return checkpoint
    except OSError as error:
        raise from_os_error(error, where) from error


def open_file(path: str, limits: ReadLimits, *, as_part: bool = False) -> Checkpoint:
    """What the reader of a file says, without facts. as_part: of a directory that is the checkpoint."""
    with RegularFile(path) as file:
        head = read_exactly(file.descriptor, min(_HEAD_BYTES, file.file_bytes), 0, path)
        for reader in file_readers(of_parts=as_part):
            if reader.sniff(head, file.file_bytes) is not None:
                checkpoint = reader.read(file.descriptor, file.file_bytes, path, limits)
                if checkpoint.format in _TRIED_AS_TAR and _is_tar(
                    read_exactly(file.descriptor, min(512, file.file_bytes), 0, path)
                ):
                    reason = "the file is a tar archive too, and torch.load opens it as that"
                    checkpoint.globals.append(GlobalRef("tarfile.open", Verdict.DANGEROUS, reason, path))
                return checkpoint
    raise _not_a_checkpoint(path, head)


def _is_tar(header: bytes) -> bool:
    """Whether Python takes 512 bytes for the header of a tar archive: by its checksum alone, however it is written."""
    field = header[148:156]
    if len(header) < 512 or not any(field):
        return False
    try:
        binary = field[0] in (0x80, 0xFF)
        claimed = int.from_bytes(field[1:], "big") if binary else int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return False
    rest = header[:148] + header[156:]
    num_high = sum(byte > 127 for byte in rest)
    return claimed in (256 + sum(rest), 256 + sum(rest) - 256 * num_high)


def open_directory(path: str, limits: ReadLimits, *, as_part: bool = False) -> Checkpoint:
    """What the reader of a directory says, without facts. as_part: of another one that is the checkpoint."""
    from ckpt_tui.checkpoints.readers.directory import Listing

    listing = Listing(path)
    for reader in directory_readers(of_parts=as_part):
        if reader.sniff(listing) is not None:
            return reader.read(listing, limits)
    raise _not_a_checkpoint_directory(path, listing.names)


def _not_a_checkpoint_directory(path: str, names: set[str]) -> CkptError:
    """Say what is in it: most often it is a run, and checkpoints are."""
    inside = [name for name in sorted(names)[:_MAX_LOOKED_INTO] if sniff(os.path.join(path, name)) is not None]
    if not inside:
        return CkptError(
            "Not a checkpoint",
            f"{path} is a directory of no layout that is known, and holds no checkpoint",
            "Give a checkpoint: a file, or the directory that a framework wrote one into.",
        )
    shown = ", ".join(safe_text(name, 60) for name in inside[:3])
    more = f" and {len(inside) - 3:,} more" if len(inside) > 3 else ""
    return CkptError(
        "Not a checkpoint",
        f"{path} is a directory of checkpoints, not one of them: it holds {shown}{more}",
        f"Name one of them, or list them all: ckpt-tui list {shell_word(path)}",
    )


def _not_a_checkpoint(path: str, head: bytes) -> CkptError:
    """Say what it looks like instead."""
    if not head:
        return CkptError(
            "Empty file", f"{path} has no bytes: the save never wrote it", "Use a backup, if there is one."
        )
    start = head.lstrip()[:64].lower()
    if head.startswith(b"version https://git-lfs"):
        what, hint = "a Git LFS pointer, not the file itself", "Fetch it: git lfs pull"
    elif start.startswith((b"<!doctype", b"<html", b"<?xml")):
        what, hint = "a web page: a download that failed, saved under this name", "Download it again."
    elif head[:2] == b"\x1f\x8b":
        what, hint = "compressed with gzip", f"Unpack it first: gzip -dk {path}"
    elif not head.strip(b"\0"):
        what, hint = "nothing but zeros: a crash left a hole", "Use a backup, if there is one."
    elif _is_text(head):
        what, hint = "text", "Look at it with `less`."
    else:
        what, hint = "none of the formats that are known", "If a program wrote it, name the program in an issue."
    return CkptError("Not a checkpoint", f"{path} is {what}", hint)


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character may be cut."""
    from codecs import utf_8_decode

    try:
        words, _ = utf_8_decode(head, "strict", False)
    except UnicodeDecodeError:
        return False
    return not any((char < " " and char not in "\t\n\r") or char == "\x7f" for char in words)
