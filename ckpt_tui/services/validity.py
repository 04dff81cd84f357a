"""What validation found, remembered by content, so that a list shows it at once.

A record counts only while the file is the one that was validated: same size, modification time and inode. It
lives in the cache (`verdict_cache.py`); losing it costs a validation and nothing else, so a cache that is corrupt or
cannot be written is ignored. Never writes into a run directory.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Callable, Sequence

from ckpt_tui.checkpoints.model import Finding, Severity
from ckpt_tui.checkpoints.validate import LEVELS, OUTCOMES, VERDICTS, Validation, validate_checkpoint
from ckpt_tui.services import verdict_cache
from ckpt_tui.services.names import read_name
from ckpt_tui.services.recorded import Expected, expected_of
from ckpt_tui.services.verdict_cache import Record, Records

MAX_FINDINGS = 12  # kept of each; a person reads the first ones
MAX_FILES_OF_DIRECTORY = 20_000
NOT_CHECKED = "not-checked"
# Of a validation that something is freed or put in place for: long enough for a look at the plan, and the deed.
ACT_AGE_S = 3600.0

# File times move in ticks of the kernel's clock: a file written less than a tick before it was read may be
# written again without its time changing.
_CLOCK_TICK_NS = 10_000_000


# A record is a Validation as JSON has it, with the `identity` of what was validated and `checked_at`.
_bad_directories: tuple[Records, frozenset[str]] | None = None  # made of these records


def identity(path: str) -> tuple[int, ...] | None:
    """What tells this content from any other without reading it; None when there is nothing to stat.

    For a file (size, mtime_ns, inode); for a directory the same of every file in it, folded into five numbers.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return (status.st_size, status.st_mtime_ns, status.st_ino)
        return _directory_identity(path, status)
    except (OSError, ValueError):
        return None


def _directory_identity(path: str, status: os.stat_result) -> tuple[int, ...] | None:
    total, newest, mixed, num_files = 0, status.st_mtime_ns, 0, 0
    for folder, _, names in os.walk(path):
        for name in names:
            num_files += 1
            if num_files > MAX_FILES_OF_DIRECTORY:
                return None
            try:
                inner = os.stat(os.path.join(folder, name))
            except OSError:
                continue  # a link to nothing: no content
            total += inner.st_size
            newest = max(newest, inner.st_mtime_ns)
            mixed ^= (inner.st_ino * 0x9E3779B97F4A7C15 ^ inner.st_mtime_ns ^ inner.st_size) & (2**62 - 1)
    return (total, newest, status.st_ino, num_files, mixed)


def recall(path: str, max_age_s: float | None = None) -> Validation | None:
    """What validation found the last time, if the content is still the same. max_age_s: as `check`."""
    record = _record_of(path)
    if record is not None and max_age_s is not None and not _is_of_late(path, record, max_age_s):
        return None
    return _validation(record, path) if record is not None else None


def validated_at(path: str) -> float | None:
    """When that was found out which `recall` gives, Unix seconds; None where nothing is remembered."""
    record = _record_of(path)
    return float(record["checked_at"]) if record is not None else None


def _record_of(path: str) -> Record | None:
    now = identity(path)
    if now is None:
        return None
    key = os.path.realpath(path)
    records = verdict_cache.load()
    record = records.get(key)
    if record is None or tuple(record["identity"]) != now:
        record = _of_another_name(records, key, now)
    return record


def _is_of_late(path: str, record: Record, max_age_s: float) -> bool:
    """Whether it was validated in the last `max_age_s` seconds, and nothing of it was touched since: nobody can set the
    time of the last change (ctime) back."""
    checked_at, age_s = float(record["checked_at"]), time.time() - float(record["checked_at"])
    if not 0 <= age_s < max_age_s:
        return False
    paths = [path]
    for folder, folders, names in os.walk(path):
        paths += [os.path.join(folder, name) for name in (*folders, *names)]
    try:
        changed_ns, seconds = max(os.stat(inner).st_ctime_ns for inner in paths), float(record["seconds"])
        return seconds >= 0 and changed_ns < (checked_at - seconds) * 1e9 - _CLOCK_TICK_NS
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False


def directories_with_bad() -> frozenset[str]:
    """Where something was found that is not valid, as real paths. Whether it is still so is not looked at."""
    global _bad_directories
    records = verdict_cache.load()
    if _bad_directories is None or _bad_directories[0] is not records:
        bad = (os.path.dirname(key) for key, record in records.items() if record.get("verdict") != "valid")
        _bad_directories = (records, frozenset(bad))
    return _bad_directories[1]


def stamp() -> tuple[int, ...]:
    """Another one as soon as something else is remembered."""
    return identity(verdict_cache.cache_path()) or ()


def _validation(record: Record, path: str) -> Validation | None:
    """What a record says; None when it is none."""
    try:
        found = Validation(
            path=path,
            verdict=record["verdict"],
            levels=dict(record["levels"]),
            findings=tuple(Finding(f[0], Severity(f[1]), *f[2:]) for f in record["findings"]),
            bytes_checked=int(record["bytes_checked"]),
            seconds=float(record["seconds"]),
            format=str(record["format"]),
            step=record["step"],
            size_bytes=int(record["size_bytes"]),
            asked=tuple(record["asked"]),
            digest=record["digest"],
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    return found if _is_sound(found) else None


def _is_sound(found: Validation) -> bool:
    """Whether what was read back is of the kinds that it was written in: others may write in that file, too."""
    words = [found.format, *found.levels, *found.levels.values(), *found.asked]
    words += [word for one in found.findings for word in (one.code, one.where, one.message, one.hint, one.level)]
    return (
        found.verdict in VERDICTS
        and all(isinstance(word, str) for word in words)
        and all(outcome in OUTCOMES for outcome in found.levels.values())
        and (found.step is None or type(found.step) is int)
        and isinstance(found.digest, str | None)
        and 0 <= found.seconds < math.inf
    )


def _of_another_name(records: Records, key: str, now: tuple[int, ...]) -> Record | None:
    """What is known of the same bytes under another name (a hard link) in the same directory.

    Only among names without a step in them: there the verdict depends on the name, too.
    """
    directory = os.path.dirname(key)
    if _says_step(key):
        return None
    wanted = list(now)
    for other, record in records.items():
        if record["identity"] == wanted and os.path.dirname(other) == directory and not _says_step(other):
            return record
    return None


def _says_step(path: str) -> bool:
    facts = read_name(os.path.basename(path))
    return facts is not None and facts.step is not None


def remember(validation: Validation) -> bool:
    """Keep what validation found; False when it cannot be kept (the file changed meanwhile, no place to write).

    A record of the same content that knows more levels is not replaced by one that knows fewer.
    """
    path = validation.path
    now = identity(path)
    if now is None or _may_have_changed_since(path, now, time.time_ns() - int(validation.seconds * 1e9)):
        return False
    key, record = os.path.realpath(path), _record(validation, now)
    return verdict_cache.knows_more(verdict_cache.load().get(key), record) or verdict_cache.add(key, record)


def _record(validation: Validation, identity: tuple[int, ...]) -> Record:
    return {
        "identity": list(identity),
        "checked_at": time.time(),
        "verdict": str(validation.verdict),
        "levels": {str(level): str(word) for level, word in validation.levels.items()},
        "findings": [
            [f.code, str(f.severity), f.where[:500], f.message[:2000], f.hint[:1000], f.level]
            for f in validation.findings[:MAX_FINDINGS]
        ],
        "bytes_checked": validation.bytes_checked,
        "seconds": validation.seconds,
        "format": validation.format,
        "step": validation.step,
        "size_bytes": validation.size_bytes,
        "asked": list(validation.asked),
        "digest": validation.digest,
    }


def check(
    path: str,
    levels: Sequence[str] = LEVELS,
    *,
    max_age_s: float | None = None,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Validation:
    """Validate `path` at `levels`, or recall it if that was done and the content is still the same.

    max_age_s: recall nothing older, and nothing that was touched since and had its times set back: a disk forgets, and
    size and time stay as they were.
    """
    expected = expected_of(path)
    known = recall(path, max_age_s)
    if known is not None and covers(known, levels, expected.digest):
        return known
    return check_now(path, levels, expected=expected, on_bytes=on_bytes, is_cancelled=is_cancelled)


def check_now(
    path: str,
    levels: Sequence[str] = LEVELS,
    *,
    expected: Expected | None = None,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Validation:
    """Validate `path` at `levels`, whatever is remembered of it, against what the run's records say; remembers it."""
    expected = expected if expected is not None else expected_of(path)
    validation = validate_checkpoint(
        path,
        levels=tuple(levels),
        digest=expected.digest,
        expected_step=expected.step,
        on_bytes=on_bytes,
        is_cancelled=is_cancelled,
    )
    remember(validation)
    return validation


def covers(validation: Validation, levels: Sequence[str], digest: str | None = None) -> bool:
    """Whether a validation answers for `levels`: each was asked for, or it failed before it came to them.

    digest: what the run's records say now. One that was not known then is to be held against the file where nothing
    else vouches for it, and one that has changed where the old one was found wrong.
    """
    if digest is not None and digest != validation.digest and "integrity" in levels:
        was_wrong = any(finding.code == "digest" for finding in validation.findings)
        if was_wrong or validation.levels.get("integrity") == NOT_CHECKED:
            return False
    return validation.verdict != "valid" or set(levels) <= set(validation.asked)


def highest_level(validation: Validation) -> str | None:
    """The last level, counted from the first, up to which nothing failed and each was looked at."""
    highest = None
    for level in LEVELS:
        word = validation.levels.get(level, NOT_CHECKED)
        if word == "pass":
            highest = level
        elif word != "not-applicable":
            break
    return highest


def _may_have_changed_since(path: str, now: tuple[int, ...], started_ns: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return True
    newest_ns = now[1]  # of a directory: of the newest file in it
    return max(newest_ns, status.st_mtime_ns, status.st_ctime_ns) > started_ns - _CLOCK_TICK_NS
