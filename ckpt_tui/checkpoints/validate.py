"""Is this checkpoint whole, finite, and good to resume from? A verdict with its reasons; damage is never an exception.

The levels are those of SPEC section 5: structure, integrity, numbers, resume. What could not be checked is said to be
not checked, never passed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ckpt_tui.checkpoints.model import Finding

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
    raise NotImplementedError
