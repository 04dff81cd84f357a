"""Is this checkpoint whole, finite, and good to resume from? A verdict with its reasons; damage is never an exception.

The levels are those of SPEC section 5: structure, integrity, numbers, resume. What could not be checked is said to be
not checked, never passed.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.model import DTYPE_SIZES, Checkpoint, Finding, Severity, Verdict
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.text import count, duration, plural, safe_text, size

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.integrity import Record

LEVELS = ("structure", "integrity", "numbers", "resume")
VERDICTS = ("valid", "damaged", "nonfinite", "incomplete", "unsafe", "not-a-checkpoint", "unreadable")
OUTCOMES = ("pass", "fail", "not-checked", "not-applicable")


@dataclass(frozen=True, slots=True)
class Validation:
    """What is known of one checkpoint after validation.

    verdict: one of `VERDICTS`. levels: an outcome of `OUTCOMES` for every level of `LEVELS`; a level that nobody asked
    for is `not-checked`. bytes_checked: bytes of the file that were read and judged. step: as the checkpoint says.
    """

    path: str
    verdict: str
    levels: dict[str, str]
    findings: tuple[Finding, ...]
    bytes_checked: int
    seconds: float
    format: str
    step: int | None
    size_bytes: int

    @property
    def is_valid(self) -> bool:
        return self.verdict == "valid"


def validate_checkpoint(
    path: str,
    *,
    levels: Collection[str] = LEVELS,
    digest: str | None = None,
    expected_step: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Validation:
    """Judge the checkpoint at `path` at the given levels; structure is always judged.

    digest: `sha256:hex` or `crc32:hex` of the whole file, as a log or registry recorded it; makes integrity checkable
    where the format has no checksums. expected_step: what the log or registry says its step is.
    on_bytes: called with the number of bytes read since the last call. Raises Cancelled when `is_cancelled` says so,
    ValueError for a level that does not exist, and nothing else: a file that cannot be read is a verdict.
    """
    wanted = set(levels)
    if unknown := wanted - set(LEVELS):
        raise ValueError(f"no such level: {', '.join(sorted(unknown))}")
    judge = _Judge(path, wanted, digest, expected_step, on_bytes, is_cancelled)
    started = time.monotonic()
    verdict = judge.run()
    return Validation(
        path=path,
        verdict=verdict,
        levels=judge.levels,
        findings=tuple(judge.findings),
        bytes_checked=judge.bytes_checked,
        seconds=time.monotonic() - started,
        format=judge.format,
        step=judge.step,
        size_bytes=judge.size_bytes,
    )


_ANOTHER = "`ckpt-tui list` on its directory shows which checkpoints are valid."
_ZIP_HEAD = b"PK\x03\x04"
_RECENT_S = 5.0  # a file changed less than this ago is looked at twice
_GROWTH_WAIT_S = 0.4


class _Judge:
    """One validation under way."""

    def __init__(
        self,
        path: str,
        wanted: set[str],
        digest: str | None,
        expected_step: int | None,
        on_bytes: Callable[[int], None] | None,
        is_cancelled: Callable[[], bool] | None,
    ) -> None:
        self.path = path
        self.wanted = wanted
        self.digest = digest
        self.expected_step = expected_step
        self.on_bytes = on_bytes
        self.is_cancelled = is_cancelled
        self.levels = dict.fromkeys(LEVELS, "not-checked")
        self.findings: list[Finding] = []
        self.bytes_checked = 0
        self.format = ""
        self.step: int | None = None
        self.size_bytes = 0
        self.name = safe_text(Path(path).name or path)

    def run(self) -> str:
        """Judge; gives the verdict."""
        try:
            before = Path(self.path).stat()
        except (OSError, ValueError) as error:
            return self._unreadable(_as_error(error, self.path))
        self.size_bytes = before.st_size
        if not (stat.S_ISREG(before.st_mode) or stat.S_ISDIR(before.st_mode)):
            return self._unreadable(CkptError("Not a file", f"{self.name} is a device, a pipe or a socket"))
        is_file = stat.S_ISREG(before.st_mode)
        if is_file and not before.st_size:
            return self._empty(before)
        from ckpt_tui.checkpoints.registry import open_checkpoint

        try:
            checkpoint = open_checkpoint(self.path)
            self._check_structure(checkpoint)
            if self.wanted & {"integrity", "numbers"}:
                self._check_bytes(checkpoint)
        except CkptError as error:
            return self._did_not_open(error, before)
        except OSError as error:
            return self._unreadable(_as_error(error, self.path))
        self._check_resume(checkpoint)
        if is_file and self._changed_since(before):
            message = "the file changed while it was read: it is incomplete, still growing"
            self._add("still-growing", Severity.WARNING, message, "Try again when the save is done.")
        return self._verdict(checkpoint)

    # --- levels

    def _check_structure(self, checkpoint: Checkpoint) -> None:
        self.format = checkpoint.format
        self.size_bytes = checkpoint.size_bytes or self.size_bytes
        self.findings += checkpoint.findings
        known = {(finding.where, finding.severity) for finding in self.findings}
        for finding in _tensor_findings(checkpoint):
            if (finding.where, finding.severity) not in known:
                self.findings.append(finding)
        for ref in checkpoint.globals:
            if ref.verdict == Verdict.DANGEROUS:
                message = f"its pickle names {safe_text(ref.name)}" + (
                    f": {safe_text(ref.reason)}" if ref.reason else ""
                )
                hint = "Loading it with weights_only=False can run code. Do not load it; find out where it came from."
                self._add(
                    "dangerous-global", Severity.ERROR, message, hint, safe_text(ref.where) or self.name, "safety"
                )
        self._set_level("structure")

    def _check_bytes(self, checkpoint: Checkpoint) -> None:
        from ckpt_tui.checkpoints.integrity import check_bytes

        found = check_bytes(
            checkpoint,
            archive_records,
            with_integrity="integrity" in self.wanted,
            with_numbers="numbers" in self.wanted,
            digest=self.digest,
            on_bytes=self.on_bytes,
            is_cancelled=self.is_cancelled,
        )
        self.findings += found.findings
        self.bytes_checked = found.bytes_checked
        self.levels["integrity"], self.levels["numbers"] = found.integrity, found.numbers
        if "integrity" in self.wanted:
            self._set_level("integrity", found.integrity)
            if self.levels["integrity"] == "not-checked":
                self._say_why_not_checked()
        if "numbers" in self.wanted:
            self._note_progress(checkpoint)

    def _say_why_not_checked(self) -> None:
        if any(finding.code == "checksum-not-recorded" for finding in self.findings):
            return
        message = "no checksums are recorded in it, so that a changed byte cannot be seen"
        self._add(
            "no-checksums", Severity.INFO, message, "A run's log or registry may hold a digest.", level="integrity"
        )

    def _note_progress(self, checkpoint: Checkpoint) -> None:
        for key in ("train_loss", "val_loss"):
            value = checkpoint.progress.get(key)
            if isinstance(value, float) and not math.isfinite(value):
                message = f"{key} is {value} at this save: look at the weights of the next ones"
                self._add("nonfinite-metric", Severity.WARNING, message, where=key, level="numbers")

    def _check_resume(self, checkpoint: Checkpoint) -> None:
        from ckpt_tui.checkpoints.resumable import check_resume, step_of

        self.step = step_of(checkpoint)
        if "resume" in self.wanted:
            found = check_resume(checkpoint, self.expected_step)
            self.findings += found.findings
            self.levels["resume"] = found.outcome

    def _set_level(self, level: str, outcome: str = "pass") -> None:
        """Fail a level that has an error among its findings."""
        failed = any(f.level == level and f.severity == Severity.ERROR for f in self.findings)
        self.levels[level] = "fail" if failed else outcome

    def _verdict(self, checkpoint: Checkpoint) -> str:
        if checkpoint.safety == "dangerous":
            return "unsafe"
        if any(finding.code == "still-growing" for finding in self.findings):
            return "incomplete"
        if "fail" in (self.levels["structure"], self.levels["integrity"]):
            return "damaged"
        if self.levels["numbers"] == "fail":
            return "nonfinite"
        return "incomplete" if self.levels["resume"] == "fail" else "valid"

    # --- what cannot be opened

    def _did_not_open(self, error: CkptError, before: os.stat_result) -> str:
        if error.title in ("Not found", "No permission", "Cannot read"):
            return self._unreadable(error)
        is_file = stat.S_ISREG(before.st_mode)
        if is_file and self._grows(before):
            self.levels["structure"] = "fail"
            message = "it is incomplete, still growing: something is writing it now"
            self._add("still-growing", Severity.WARNING, message, "Try again when the save is done.")
            return "incomplete"
        if is_file and self._is_all_zero():
            self.levels["structure"] = "fail"
            message = f"all {size(before.st_size)} of it are zeros: its data never reached the disk before a crash"
            self._add("hole", Severity.ERROR, message, _ANOTHER, level="integrity")
            return "damaged"
        if error.title == "Not readable" or "not read yet" in error.message:
            return self._unreadable(error)
        if error.title == "Not a checkpoint" and not self._was_a_checkpoint():
            self._add("not-a-checkpoint", Severity.ERROR, error.message or error.title, error.hint)
            return "not-a-checkpoint"
        self.levels["structure"] = "fail"
        message = (error.message or error.title).removeprefix(f"{self.path}: ").removeprefix(f"{self.path} is ")
        age = time.time() - before.st_mtime
        if 0 <= age < 60:
            message += f"; written {duration(age)} ago: perhaps it is still being saved"
        self._add(_code_of(error), Severity.ERROR, message, error.hint or _ANOTHER)
        self._check_records_alone()
        return "damaged"

    def _check_records_alone(self) -> None:
        """The state does not decode, yet the archive opens: say which of its records are damaged."""
        from ckpt_tui.checkpoints.integrity import check_bytes

        if "integrity" not in self.wanted:
            return
        try:
            if archive_records(self.path) is None:
                return
            found = check_bytes(
                Checkpoint(self.path, "", self.size_bytes),
                archive_records,
                with_integrity=True,
                with_numbers=False,
                digest=None,
                on_bytes=self.on_bytes,
                is_cancelled=self.is_cancelled,
            )
        except CkptError:
            return  # why it does not open has been said
        self.findings += found.findings
        self.bytes_checked = found.bytes_checked
        self.levels["integrity"] = found.integrity

    def _empty(self, before: os.stat_result) -> str:
        if self._grows(before):
            self._add("still-growing", Severity.WARNING, "it is incomplete, still growing", "Try again in a while.")
            return "incomplete"
        self.levels["structure"] = "fail"
        message = "the file is empty: a save was cut off before its first byte, or the disk was full"
        self._add("empty", Severity.ERROR, message, _ANOTHER)
        return "damaged"

    def _unreadable(self, error: CkptError) -> str:
        message = f"{error.title}: {error.message}" if error.message else error.title
        self._add("unreadable", Severity.ERROR, message, error.hint)
        return "unreadable"

    def _was_a_checkpoint(self) -> bool:
        """Whether what is left of the file says that it was one: it is cut before its format can be told, its first
        bytes are damaged but it ends as torch's archives do, or it has torch's records but for their pickle."""
        if not Path(self.path).is_file():
            return False
        with open(self.path, "rb") as file:
            head = file.read(8)
            if self.size_bytes <= 8:
                return _ZIP_HEAD.startswith(head[:4]) or self.path.endswith(".safetensors")
            file.seek(-min(22, self.size_bytes), os.SEEK_END)
            tail = file.read()
        if not head.startswith(_ZIP_HEAD):
            return tail.startswith(b"PK\x05\x06") and self.path.endswith((".pt", ".pth", ".ckpt", ".bin"))
        try:
            names = {record.name.rpartition("/")[2] for record in archive_records(self.path) or ()}
        except CkptError:
            return True
        return not names.isdisjoint({"serialization_id", "byteorder", ".format_version"})

    def _is_all_zero(self) -> bool:
        with open(self.path, "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                if piece.count(0) != len(piece):
                    return False
        return True

    def _grows(self, before: os.stat_result) -> bool:
        """Whether somebody is writing the file: only one that changed just now is watched for a moment."""
        if self._changed_since(before):
            return True
        if not -_RECENT_S < time.time() - before.st_mtime < _RECENT_S:
            return False
        deadline = time.monotonic() + _GROWTH_WAIT_S
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if self._changed_since(before):
                return True
        return False

    def _changed_since(self, before: os.stat_result) -> bool:
        try:
            now = Path(self.path).stat()
        except OSError:
            return False
        same_file = (now.st_ino, now.st_dev) == (before.st_ino, before.st_dev)
        return same_file and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)

    def _add(
        self,
        code: str,
        severity: Severity,
        message: str,
        hint: str = "",
        where: str = "",
        level: str = "structure",
    ) -> None:
        self.findings.append(Finding(code, severity, where or self.name, message, hint, level))


def archive_records(path: str) -> list[Record] | None:
    """The records of the zip archive at `path`, None when it is none. CkptError when its directory cannot be read."""
    from ckpt_tui.checkpoints.integrity import Record
    from ckpt_tui.checkpoints.zip_index import read_zip_index

    try:
        with open(path, "rb") as file:
            if file.read(4) != _ZIP_HEAD:
                return None
            index = read_zip_index(file.fileno(), os.fstat(file.fileno()).st_size, safe_text(path))
    except OSError as error:
        raise from_os_error(error, safe_text(path)) from error
    return [
        Record(e.name, e.offset, e.size_bytes, e.compressed_bytes, e.crc32, e.method == 0)
        for e in index.entries
        if e.offset is not None
    ]


def _tensor_findings(checkpoint: Checkpoint) -> list[Finding]:
    """Tensors whose storage is missing, or too small for their shape, strides and offset."""
    findings = []
    for tensor in checkpoint.tensors:
        if tensor.layout != "strided" or tensor.device == "meta" or not tensor.num_elements:
            continue
        storage, item = checkpoint.storages.get(tensor.storage), DTYPE_SIZES.get(tensor.dtype)
        name = tensor.name
        if storage is None:
            message = f"its storage {safe_text(tensor.storage)} is not in the file"
            findings.append(Finding("storage-missing", Severity.ERROR, name, message, _ANOTHER))
            continue
        if item is None or len(tensor.stride) != len(tensor.shape):
            continue
        reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride, strict=True)) + 1
        end = (tensor.offset + reach) * item
        if tensor.offset < 0 or min(tensor.stride, default=0) < 0 or end > storage.size_bytes:
            message = f"needs {count(end)} bytes of {safe_text(storage.key)}, which has {count(storage.size_bytes)}"
            findings.append(Finding("storage-too-small", Severity.ERROR, name, message, _ANOTHER))
    if len(findings) > _MAX_TENSOR_FINDINGS:
        rest = len(findings) - _MAX_TENSOR_FINDINGS
        findings = findings[:_MAX_TENSOR_FINDINGS]
        findings.append(replace(findings[-1], where="", message=f"and {plural(rest, 'more tensor')} like these"))
    return findings


_MAX_TENSOR_FINDINGS = 1000


def _as_error(error: OSError | ValueError, path: str) -> CkptError:
    if isinstance(error, OSError):
        return from_os_error(error, safe_text(path))
    return CkptError("Not a path", f"{safe_text(path)}: {error}")


def _code_of(error: CkptError) -> str:
    text = f"{error.title} {error.message}".lower()
    return "truncated" if "truncat" in text or "central directory" in text or "ends before" in text else "damaged"
