"""What validation found, on disk: a line for each verdict, appended, so that keeping one is as cheap among thousands.

`$XDG_CACHE_HOME/ckpt-tui/verdicts.jsonl`: a first line that says which file this is, then one JSON object a line; of
two lines about one checkpoint the later counts, unless the earlier knows more of the same content. When there are many
more lines than are kept it is written anew and replaced in one rename. Any number of processes append at once (a
lock that they share keeps a replacing one away), none waits long for one that was stopped, and a line that was torn by
a kill or a full disk costs that one verdict. Losing all of it costs validations and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ckpt_tui.records import dataclass
from ckpt_tui.regular_file import open_regular

MAX_RECORDS = 4000
MAX_CACHE_BYTES = 64 * 1024 * 1024  # what is longer is not read
# When it is written anew: as many lines, or bytes. Then a quarter of the bytes is left at most.
NUM_LINES_KEPT = 2
MAX_GROWN_BYTES = MAX_CACHE_BYTES // 2

# A record is what `services/validity.py` makes of a validation, with `identity`, `asked` and `checked_at`. Written and
# read by the standard library: msgspec would be faster on thousands of them, and costs `validate` 25 ms to import.
Record = dict[str, Any]
Records = dict[str, Record]  # by the real path of the checkpoint

_VERSION, _OLD_VERSION = 3, 2
_FIRST_LINE_BYTES = 200
_LOCK_PATIENCE_S = 1.0
_LOCK_LOOK_S = 0.01
_IMPATIENT_S = 60.0  # after one that was waited for in vain
_LEFT_BEHIND_S = 600.0
_LATEST = 1e12  # Unix seconds: what claims to be of later was never written by us
# Of a file that can never be read, and is replaced: no regular one, or of somebody who lets nobody look.
_NEVER_READ = frozenset({errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ELOOP})
_UNREAD = "?"  # as the name of one that could not be read this time: what it holds is not given up
_thread_lock = threading.Lock()
_swept: set[str] = set()  # cache directories that this process has looked through
_impatient_until = float("-inf")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What was read of a file. stamp: of the file then. name: what its first line says; "" where it is no such file.
    end: of its last whole line, in bytes. num_lines: with the torn ones."""

    path: str
    stamp: tuple[int, ...]
    name: str
    end: int
    num_lines: int
    records: Records


_loaded: _Loaded | None = None
_loaded_old: tuple[str, tuple[int, ...], Records] | None = None


def cache_path() -> str:
    """Where the verdicts are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative one counts as unset
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "ckpt-tui", "verdicts.jsonl")


def old_cache_path() -> str:
    """Where versions before this one kept them, all in one object; read as long as there is nothing newer."""
    return os.path.join(os.path.dirname(cache_path()), "validations.json")


def load() -> Records:
    """All that is known, not to be changed; the same object as long as nothing was added. Reads what is new."""
    loaded = _load()
    return loaded.records if loaded is not None else _load_old()


def add(key: str, record: Record) -> bool:
    """Keep a record; False where it cannot be kept."""
    path = cache_path()
    line = _line(key, record)
    if len(line) > MAX_CACHE_BYTES // 4:
        return False
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with _thread_lock:
            loaded = _load()
            is_to_replace = loaded is None or not loaded.name or _is_grown(loaded)
            if is_to_replace and _replace_alone(path, {key: record}):
                return True
            with _held(path, fcntl.LOCK_SH), suppress(PermissionError):
                return _append(path, line)
            # Another user's, as after a `sudo`: the directory may be ours.
            return _replace_alone(path, {key: record}, even_if_small=True)
    except OSError:
        return False


def knows_more(old: Record | None, record: Record) -> bool:
    """Whether `old` is of the same content, and of more levels."""
    return old is not None and old["identity"] == record["identity"] and len(old["asked"]) > len(record["asked"])


def _is_grown(loaded: _Loaded) -> bool:
    return loaded.num_lines > NUM_LINES_KEPT * MAX_RECORDS or loaded.end > MAX_GROWN_BYTES


# -- reading ----------------------------------------------------------------------------------------------------------


def _load() -> _Loaded | None:
    """The file as it is now; None where there is none."""
    global _loaded
    path, known = cache_path(), _loaded
    try:
        status = os.stat(path)
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
        if known is not None and known.path == path and known.stamp == stamp:
            return known
        with open_regular(path) as file:
            name = _name_of(file.readline(_FIRST_LINE_BYTES))
            is_longer = known is not None and known.path == path and name and known.name == name
            if known is None or not is_longer or status.st_size < known.end:
                known = _Loaded(path, stamp, name, 0, 0, {})
            if status.st_size > MAX_CACHE_BYTES or not name:
                known = _Loaded(path, stamp, "", 0, 0, {})
            else:
                file.seek(known.end)
                known = _with_lines(known, stamp, file.read(MAX_CACHE_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        records = known.records if known is not None and known.path == path else {}
        return _Loaded(path, (), "" if error.errno in _NEVER_READ else _UNREAD, 0, 0, records)
    _loaded = known
    return known


def _with_lines(known: _Loaded, stamp: tuple[int, ...], data: bytes) -> _Loaded:
    end = data.rfind(b"\n") + 1  # what comes after it is torn, or still being written
    lines = data[:end].split(b"\n")[:-1]
    records = known.records
    found = [one for one in _decoded(lines) if _is_record(one) and isinstance(one.get("path"), str)]
    if found:
        records = dict(records)  # others may be going through the one before
        for record in found:
            key = record.pop("path")
            if not knows_more(records.get(key), record):
                records.pop(key, None)
                records[key] = record
    return _Loaded(known.path, stamp, known.name, known.end + end, known.num_lines + len(lines), records)


def _decoded(lines: Sequence[bytes]) -> Iterator[Any]:
    """What lines hold; nothing of those that are torn."""
    try:
        yield from json.loads(b"[%s]" % b",".join(filter(None, lines)))  # a third of the time of one by one
    except (ValueError, RecursionError):
        for line in lines:
            with suppress(ValueError, RecursionError):
                yield json.loads(line)


def _name_of(first_line: bytes) -> str:
    try:
        held = json.loads(first_line)
    except (ValueError, RecursionError):
        return ""
    is_ours = isinstance(held, dict) and held.get("verdicts") == _VERSION and isinstance(held.get("name"), str)
    return held["name"] if is_ours else ""


def _is_record(record: object) -> bool:
    """Whether what has to be at hand to find and to sort records is there; the rest is looked at when it is used."""
    return (
        isinstance(record, dict)
        and isinstance(record.get("identity"), list)
        and isinstance(asked := record.get("asked"), list)
        and all(isinstance(level, str) for level in asked)
        and isinstance(checked_at := record.get("checked_at"), (int, float))
        and 0 <= checked_at < _LATEST
    )


def _load_old() -> Records:
    global _loaded_old
    path, known = old_cache_path(), _loaded_old
    try:
        status = os.stat(path)
        stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
        if known is not None and known[:2] == (path, stamp):
            return known[2]
        if status.st_size > MAX_CACHE_BYTES:
            return {}
        with open_regular(path) as file:
            held = json.loads(file.read(MAX_CACHE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    records: Records = {}
    if isinstance(held, dict) and held.get("version") == _OLD_VERSION and isinstance(held.get("records"), dict):
        records = {key: record for key, record in held["records"].items() if _is_record(record)}
    _loaded_old = (path, stamp, records)
    return records


# -- writing ----------------------------------------------------------------------------------------------------------


def _line(key: str, record: Record) -> bytes:
    return json.dumps({"path": key, **record}).encode() + b"\n"


def _append(path: str, line: bytes) -> bool:
    """In one write, behind whatever is there. Where one was torn this one begins a line of its own."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = b"\n" + line if is_torn else line
        return os.write(descriptor, data) == len(data)
    finally:
        os.close(descriptor)


def _replace_alone(path: str, more: Records, *, even_if_small: bool = False) -> bool:
    """Write it anew, the newest records only; False where others are at work on it, and it is done another time."""
    with _held(path, fcntl.LOCK_EX) as is_alone:
        loaded = _load()  # somebody may have done so meanwhile
        is_due = loaded is None or not loaded.name or (is_alone and (even_if_small or _is_grown(loaded)))
        if not is_due:
            return False
        _sweep(os.path.dirname(path))
        records = {**load(), **more}
        lines = _newest([_line(key, one) for key, one in sorted(records.items(), key=_age)])
        first = json.dumps({"verdicts": _VERSION, "name": uuid.uuid4().hex}).encode() + b"\n"
        temporary = f"{path}.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(b"".join((first, *lines)))
                if len(lines) > 1:  # else there is nothing that a power cut could take
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return True


def _age(item: tuple[str, Record]) -> float:
    return float(item[1]["checked_at"])


def _newest(lines: list[bytes]) -> list[bytes]:
    """As many of the last ones as are kept."""
    left = MAX_CACHE_BYTES // 4
    first = len(lines)
    while first > max(len(lines) - MAX_RECORDS, 0) and left >= len(lines[first - 1]):
        first -= 1
        left -= len(lines[first])
    return lines[first:]


def _sweep(directory: str) -> None:
    """Take away what was left behind by processes that were killed while they replaced the file."""
    _swept.add(directory)
    names = (os.path.basename(cache_path()), os.path.basename(old_cache_path()))
    with suppress(OSError):
        for name in os.listdir(directory):
            path = os.path.join(directory, name)
            is_temporary = name.endswith(".tmp") and name.startswith(tuple(f"{one}." for one in names))
            if is_temporary and time.time() - os.stat(path).st_mtime > _LEFT_BEHIND_S:
                os.unlink(path)


@contextmanager
def _held(path: str, how: int) -> Iterator[bool]:
    """The cache directory's lock; whether it was got. Nobody waits for ever: one that holds it may have been stopped,
    and without it two writers may lose a verdict at worst."""
    global _impatient_until
    directory = os.path.dirname(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    now = time.monotonic()
    deadline = now + _LOCK_PATIENCE_S if now >= _impatient_until else now
    is_got = False
    try:
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    _impatient_until = max(_impatient_until, now + _IMPATIENT_S)
                    break
                time.sleep(_LOCK_LOOK_S)
            except OSError:  # a file system without locks
                break
            else:
                is_got = True
                break
        if is_got and directory not in _swept:
            _sweep(directory)
        yield is_got
    finally:
        os.close(descriptor)
