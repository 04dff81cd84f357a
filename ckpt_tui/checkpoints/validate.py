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
from dataclasses import replace
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.archive import is_archive
from ckpt_tui.checkpoints.growth import Stamp, grows, has_changed, stamp_of
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity, Verdict, bytes_needed
from ckpt_tui.checkpoints.unopened import (
    ANOTHER,
    Unopened,
    judge_empty,
    judge_unopened,
    still_growing,
    unreadable,
)
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.text import count, plural, safe_text

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.integrity import ByteChecks
    from ckpt_tui.checkpoints.manifest import Manifest

LEVELS = ("structure", "integrity", "numbers", "resume")
VERDICTS = ("valid", "damaged", "nonfinite", "incomplete", "unsafe", "not-a-checkpoint", "unreadable")
OUTCOMES = ("pass", "fail", "not-checked", "not-applicable")


@dataclass(frozen=True, slots=True)
class Validation:
    """What is known of one checkpoint after validation.

    verdict: one of `VERDICTS`. levels: an outcome of `OUTCOMES` for every level of `LEVELS`; a level that nobody asked
    for is `not-checked`. bytes_checked: bytes of the file that were read and judged. step: as the checkpoint says.
    asked: the levels that were asked for. digest: what the file was held against, None when no record told one.
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
    asked: tuple[str, ...] = ()
    digest: str | None = None

    @property
    def is_valid(self) -> bool:
        return self.verdict == "valid"

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is missing for an exact resume, in words, where all that is there is whole: `incomplete` for no other
        reason, so that a training may go on from it all the same. () of any other."""
        if self.verdict != "incomplete" or self.levels.get("resume") != "fail":
            return ()
        if any(finding.severity == Severity.ERROR or finding.code == "still-growing" for finding in self.findings):
            return ()
        return tuple(f.message for f in self.findings if f.level == "resume" and f.severity == Severity.WARNING)


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
        asked=tuple(level for level in LEVELS if level in wanted or level == "structure"),
        digest=digest,
    )


_MAX_TENSOR_FINDINGS = 1000


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
        self.name = safe_text(os.path.basename(os.path.abspath(path)) or path)
        self._read_manifest: Manifest | None = None

    def run(self) -> str:
        """Judge; gives the verdict."""
        try:
            kind = os.stat(self.path).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                error = CkptError("Not a file", f"{self.name} is a device, a pipe or a socket")
                return self._could_not(unreadable(self.name, error))
            before = stamp_of(self.path)
        except (OSError, ValueError) as error:
            return self._could_not(unreadable(self.name, _as_error(error, self.path)))
        self.size_bytes = before.size_bytes
        if not before.is_directory and not before.size_bytes:
            return self._could_not(judge_empty(self.path, before))
        from ckpt_tui.checkpoints.registry import open_checkpoint

        try:
            checkpoint = open_checkpoint(self.path)
            self._check_structure(checkpoint)
            if before.is_directory and self.levels["structure"] == "fail" and grows(self.path, before):
                return self._still_growing("it is incomplete, still growing: something is writing it now")
            if self.wanted & {"integrity", "numbers"}:
                self._check_bytes(checkpoint)
        except CkptError as error:
            return self._did_not_open(error, before)
        except OSError as error:
            return self._could_not(unreadable(self.name, _as_error(error, self.path)))
        self._check_resume(checkpoint)
        if has_changed(self.path, before):
            what = "directory" if before.is_directory else "file"
            self._still_growing(f"the {what} changed while it was read: it is incomplete, still growing")
        return self._verdict(checkpoint)

    # --- levels

    def _check_structure(self, checkpoint: Checkpoint) -> None:
        self.format = checkpoint.format
        self.size_bytes = checkpoint.size_bytes or self.size_bytes
        self.findings += checkpoint.findings
        said = {finding.where for finding in self.findings if finding.severity == Severity.ERROR}
        self.findings += [finding for finding in self._manifest().findings if finding.where not in said]
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

        found = check_bytes(checkpoint, self._checks())
        self.findings += found.findings
        self.bytes_checked = found.bytes_checked
        if "integrity" in self.wanted:
            self._set_level("integrity", found.integrity)
        if "numbers" in self.wanted:
            self.levels["numbers"] = found.numbers
            self._note_progress(checkpoint)

    def _checks(self) -> ByteChecks:
        from ckpt_tui.checkpoints.integrity import ByteChecks

        return ByteChecks(
            with_integrity="integrity" in self.wanted,
            with_numbers="numbers" in self.wanted,
            digests={"": self.digest} if self.digest else self._manifest().digests,
            on_bytes=self.on_bytes,
            is_cancelled=self.is_cancelled,
        )

    def _manifest(self) -> Manifest:
        """What the directory's own manifest says of its files; nothing when it is a file, or has none."""
        if self._read_manifest is None:
            from ckpt_tui.checkpoints.manifest import NONE, manifest_of

            self._read_manifest = manifest_of(self.path) if os.path.isdir(self.path) else NONE
        return self._read_manifest

    def _note_progress(self, checkpoint: Checkpoint) -> None:
        for key in ("train_loss", "val_loss"):
            value = checkpoint.progress.get(key)
            if isinstance(value, float) and not math.isfinite(value):
                message = f"{key} is {value} at this save: look at the weights of the next ones"
                self._add("nonfinite-metric", Severity.WARNING, message, where=key, level="numbers")

    def _check_resume(self, checkpoint: Checkpoint) -> None:
        from ckpt_tui.checkpoints.resumable import check_resume, step_of

        self.step = step_of(checkpoint)
        if "resume" not in self.wanted or self.levels["structure"] == "fail":
            return  # what is missing would only be said a second time, as if a resume did without it
        found = check_resume(checkpoint, self.expected_step)
        is_sound = "fail" not in self.levels.values()
        self.findings += [finding for finding in found.findings if is_sound or finding.code != "not-exact"]
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

    def _did_not_open(self, error: CkptError, before: Stamp) -> str:
        judged = judge_unopened(self.path, error, before)
        verdict = self._could_not(judged)
        if verdict == "damaged" and not before.is_directory and judged.finding.level == "structure":
            self._check_records_alone()
        return verdict

    def _could_not(self, judged: Unopened) -> str:
        self.findings.append(judged.finding)
        if judged.verdict in ("damaged", "incomplete"):
            self.levels["structure"] = "fail"
        return judged.verdict

    def _still_growing(self, message: str) -> str:
        self.findings.append(still_growing(self.name, message))
        return "incomplete"

    def _check_records_alone(self) -> None:
        """The state does not decode, yet the archive opens: say which of its records are damaged."""
        from ckpt_tui.checkpoints.integrity import check_bytes

        if "integrity" not in self.wanted:
            return
        try:
            if not is_archive(self.path):
                return
            found = check_bytes(Checkpoint(self.path, "", self.size_bytes), replace(self._checks(), with_numbers=False))
        except CkptError:
            return  # why it does not open has been said
        self.findings += found.findings
        self.bytes_checked = found.bytes_checked
        self.levels["integrity"] = found.integrity

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


def _tensor_findings(checkpoint: Checkpoint) -> list[Finding]:
    """Tensors whose storage is missing, or too small for their shape, strides and offset."""
    findings = []
    has_lost = any(finding.severity == Severity.ERROR for finding in checkpoint.findings)
    for tensor in checkpoint.tensors:
        if tensor.layout != "strided" or tensor.device == "meta" or not tensor.num_elements:
            continue
        storage = checkpoint.storages.get(tensor.storage)
        name = tensor.name
        if storage is None:
            message = f"its storage {safe_text(tensor.storage)} is not in the file"
            findings.append(Finding("storage-missing", Severity.ERROR, name, message, ANOTHER))
            continue
        if storage.offset is None and has_lost:
            continue  # its reader has said which file or record is missing
        needed = bytes_needed(tensor)
        if min((tensor.offset, *tensor.stride)) < 0:
            message = f"its offset or a stride is negative: no place in {safe_text(storage.key)}"
            findings.append(Finding("storage-too-small", Severity.ERROR, name, message, ANOTHER))
        elif needed is not None and needed > storage.size_bytes:
            message = f"needs {count(needed)} bytes of {safe_text(storage.key)}, which has {count(storage.size_bytes)}"
            findings.append(Finding("storage-too-small", Severity.ERROR, name, message, ANOTHER))
    if len(findings) > _MAX_TENSOR_FINDINGS:
        rest = len(findings) - _MAX_TENSOR_FINDINGS
        findings = findings[:_MAX_TENSOR_FINDINGS]
        findings.append(replace(findings[-1], where="", message=f"and {plural(rest, 'more tensor')} like these"))
    return findings


def _as_error(error: OSError | ValueError, path: str) -> CkptError:
    if isinstance(error, OSError):
        return from_os_error(error, safe_text(path))
    return CkptError("Not a path", f"{safe_text(path)}: {error}")
