"""What validation found, remembered by content, so that a list shows it at once.

A record counts only while the file is the one that was validated: same size, modification time and inode. It
lives in `$XDG_CACHE_HOME/ckpt-tui/validations.json`; losing it costs a validation and nothing else, so a cache that
is corrupt or cannot be written is ignored. Never writes into a run directory.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ckpt_tui.checkpoints.model import Finding, Severity
from ckpt_tui.checkpoints.validate import LEVELS, Validation, validate_checkpoint
from ckpt_tui.services.names import read_name
from ckpt_tui.services.recorded import Expected, expected_of

MAX_RECORDS = 4000
MAX_FINDINGS = 12  # kept of each; a person reads the first ones
MAX_CACHE_BYTES = 64 * 1024 * 1024
MAX_FILES_OF_DIRECTORY = 20_000
NOT_CHECKED = "not-checked"

# File times move in ticks of the kernel's clock: a file written less than a tick before it was read may be
# written again without its time changing.
_CLOCK_TICK_NS = 10_000_000


class _Finding(msgspec.Struct, array_like=True):
    code: str
    severity: str
    where: str
    message: str
    hint: str
    level: str


class _Record(msgspec.Struct):
    identity: list[int]
    checked_at: float
    verdict: str
    levels: dict[str, str]
    findings: list[_Finding]
    bytes_checked: int
    seconds: float
    format: str
    step: int | None
    size_bytes: int
    asked: list[str] = []
    digest: str | None = None


class _Records(msgspec.Struct):
    version: int
    records: dict[str, _Record]


_VERSION = 2
_thread_lock = threading.Lock()
_loaded: tuple[str, tuple[int, int, int], dict[str, _Record]] | None = None


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


def recall(path: str) -> Validation | None:
    """What validation found the last time, if the content is still the same."""
    now = identity(path)
    if now is None:
        return None
    key = os.path.realpath(path)
    records = _load()
    record = records.get(key)
    if record is None or tuple(record.identity) != now:
        record = _of_another_name(records, key, now)
    if record is None:
        return None
    findings = tuple(
        Finding(f.code, _severity(f.severity), f.where, f.message, f.hint, f.level) for f in record.findings
    )
    return Validation(
        path=path,
        verdict=record.verdict,
        levels=dict(record.levels),
        findings=findings,
        bytes_checked=record.bytes_checked,
        seconds=record.seconds,
        format=record.format,
        step=record.step,
        size_bytes=record.size_bytes,
        asked=tuple(record.asked),
        digest=record.digest,
    )


def _of_another_name(records: dict[str, _Record], key: str, now: tuple[int, ...]) -> _Record | None:
    """What is known of the same bytes under another name (a hard link) in the same directory.

    Only among names without a step in them: there the verdict depends on the name, too.
    """
    directory = os.path.dirname(key)
    if _says_step(key):
        return None
    wanted = list(now)
    for other, record in records.items():
        if record.identity == wanted and os.path.dirname(other) == directory and not _says_step(other):
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
    with _only_writer():
        return _keep(validation, os.path.realpath(path), now)


def _keep(validation: Validation, key: str, now: tuple[int, ...]) -> bool:
    records = dict(_load())
    old = records.pop(key, None)
    if old is not None and tuple(old.identity) == now and len(old.asked) > len(validation.asked):
        return True
    records[key] = _Record(
        identity=list(now),
        checked_at=time.time(),
        verdict=str(validation.verdict),
        levels={str(level): str(word) for level, word in validation.levels.items()},
        findings=[
            _Finding(f.code, str(f.severity), f.where[:500], f.message[:2000], f.hint[:1000], f.level)
            for f in validation.findings[:MAX_FINDINGS]
        ],
        bytes_checked=validation.bytes_checked,
        seconds=validation.seconds,
        format=validation.format,
        step=validation.step,
        size_bytes=validation.size_bytes,
        asked=list(validation.asked),
        digest=validation.digest,
    )
    if len(records) > MAX_RECORDS:
        newest = sorted(records.items(), key=lambda item: item[1].checked_at)[-MAX_RECORDS:]
        records = dict(newest)
    return _save(records)


def check(
    path: str,
    levels: Sequence[str] = LEVELS,
    *,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Validation:
    """Validate `path` at `levels`, or recall it if that was done and the content is still the same."""
    expected = expected_of(path)
    known = recall(path)
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


def cache_file() -> Path:
    """Where the records are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative one counts as unset
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "ckpt-tui" / "validations.json"


@contextmanager
def _only_writer() -> Iterator[None]:
    """One at a time reads, adds and replaces, among the threads of this process and among processes.

    Where the cache directory cannot be locked, two writers may lose a record, which costs a validation.
    """
    with _thread_lock:
        descriptor = None
        with suppress(OSError):
            directory = cache_file().parent
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)


def _may_have_changed_since(path: str, now: tuple[int, ...], started_ns: int) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return True
    newest_ns = now[1]  # of a directory: of the newest file in it
    return max(newest_ns, status.st_mtime_ns, status.st_ctime_ns) > started_ns - _CLOCK_TICK_NS


def _severity(word: str) -> Severity:
    try:
        return Severity(word)
    except ValueError:
        return Severity.WARNING


def _load() -> dict[str, _Record]:
    """The records on disk, read again only when the file has changed."""
    global _loaded
    path = cache_file()
    try:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        if _loaded is not None and _loaded[:2] == (str(path), stamp):
            return _loaded[2]
        if status.st_size > MAX_CACHE_BYTES:
            return {}
        decoded = msgspec.json.decode(path.read_bytes(), type=_Records)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    records = decoded.records if decoded.version == _VERSION else {}
    _loaded = (str(path), stamp, records)
    return records


def _save(records: dict[str, _Record]) -> bool:
    """Replace the cache file in one rename. A home that cannot be written only means that nothing is kept."""
    path = cache_file()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".validations-", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_Records(version=_VERSION, records=records)))
        os.replace(temporary, path)
    except (OSError, UnicodeError):  # a name that is not UTF-8 cannot be written down: its verdict is not kept
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        return False
    return True
