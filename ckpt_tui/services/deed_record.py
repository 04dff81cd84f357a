"""What the journal of a deed says, and how it is read and written: `set_aside/<number>/journal.json`.

Names are those of the file system, whatever bytes they have: one that is no text (not UTF-8) is kept in JSON as its
bytes in hexadecimal behind a NUL, which no name has.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from ckpt_tui.regular_file import open_regular
from ckpt_tui.services import files
from ckpt_tui.services.files import Content

FOLDER_NAME = "set_aside"
JOURNAL_NAME = "journal.json"
INCOMING_NAME = "incoming"
MAX_JOURNAL_BYTES = 16 * 1024 * 1024

INTENT, PREPARED, MOVED, DONE, CONFLICT = "intent", "prepared", "moved", "done", "conflict"
COLLECTED = "collected"  # all that it had set aside was freed by gc, or is being freed

_BYTES_MARK = "\0"


class Move(msgspec.Struct):
    """One name of the run directory, of a file or a directory, that changes hands.

    before: what it was, None when it was not there. Afterwards it is: an independent copy of `source` (how="copy"),
    one more name for the bytes of `source` as that is after the deed (how="link"), the bytes `data` of a small file
    (how="write"), `source` itself, which moves (how="rename"), or not there (how="remove": it only goes to the deed's
    folder). after: what it became, known from `prepared` on. Names are relative to the run directory, with `/`
    between parts.
    outside: the path of the source of a copy that lies outside the run directory; `source` is "" then.
    source_was: what the source was when it was validated, None when nobody looked. was: the verdict on what is set
    aside, as far as it was known then. kept_changed_ns: when it was changed last (ctime, which nobody can set back) as
    it lay there right after the renames; 0 where that is not known.
    """

    target: str
    how: str
    before: Content | None = None
    source: str = ""
    after: Content | None = None
    data: bytes | None = None
    was: str = ""
    outside: str = ""
    source_was: Content | None = None
    kept_changed_ns: int = 0

    def source_path(self, directory: str) -> str:
        """Where its source lies; of a copy, a link or a rename."""
        return self.outside or os.path.join(directory, self.source)


class LogEntry(msgspec.Struct):
    """The `checkpoint_restored` event that a deed writes."""

    path: str
    source: str
    why: str
    step: int = 0


class Freed(msgspec.Struct):
    """Something that lay aside and that gc has freed, or is about to: told before it goes. why: why it could go;
    copy: where a copy of its training state lay at that time, below the run directory, or ""."""

    name: str
    at: float
    why: str = ""
    copy: str = ""


class Deed(msgspec.Struct):
    """One act on a run directory, as its journal tells it.

    takes_back: the deeds that an undo takes back, or the undo that a redo does; `undoes` is the newest of them.
    freed: by name, what gc took of what it had set aside; collected_at: when it did so last. folder_inode: of its
    folder: in a copy of the run directory it is another one; 0 in journals of earlier versions.
    """

    number: int
    act: str
    state: str
    moves: list[Move]
    log: list[LogEntry] = []
    sentences: list[str] = []
    started_at: float = 0.0
    pid: int = 0
    host: str = ""
    undoes: int | None = None
    undone_by: int | None = None
    conflicts: list[str] = []
    version: int = 1
    takes_back: list[int] = []
    collected_at: float = 0.0
    freed: list[Freed] = []
    folder_inode: int = 0


def folder_of(directory: str, number: int) -> str:
    """Where a deed keeps its journal and what it set aside."""
    return os.path.join(directory, FOLDER_NAME, str(number))


def when(deed: Deed) -> str:
    """When a deed was begun, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(deed.started_at))


def read_deeds(directory: str) -> list[Deed]:
    """Every deed of a run directory, the oldest first. Folders without a readable journal are left out."""
    deeds = []
    for number in deed_numbers(directory):
        deed = read_deed(directory, number)
        if deed is not None:
            deeds.append(deed)
    return deeds


def unfinished(directory: str) -> list[Deed]:
    """Deeds that a crash interrupted, the oldest first; also one that died before the first line of its journal."""
    found = []
    for number in deed_numbers(directory):
        deed = read_deed(directory, number)
        if deed is not None and deed.state in (INTENT, PREPARED, MOVED):
            found.append(deed)
        elif deed is None and _is_hardly_begun(folder_of(directory, number)):
            status = os.stat(folder_of(directory, number))
            found.append(Deed(number=number, act="act", state=INTENT, moves=[], started_at=status.st_mtime))
    return found


def _is_hardly_begun(folder: str) -> bool:
    """Whether nothing is in a folder but journals that a crash cut off. A file or a link of that name is no deed's."""
    is_folder = os.path.isdir(folder) and not os.path.islink(folder)
    return is_folder and all(is_unwritten_journal(name) for name in names_in(folder))


def is_unwritten_journal(name: str) -> bool:
    """Whether a name is that of a journal that a crash cut off."""
    return name.startswith(f".{JOURNAL_NAME}.tmp-")


def deed_numbers(directory: str) -> list[int]:
    """The numbers of all folders that may be those of deeds, also where the journal cannot be read."""
    names = names_in(os.path.join(directory, FOLDER_NAME))
    return sorted(int(name) for name in names if name.isdecimal() and len(name) < 10 and str(int(name)) == name)


def names_in(folder: str) -> list[str]:
    """The names in a folder; none where there is no folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def write_deed(directory: str, deed: Deed) -> None:
    """Make the journal of a deed say what `deed` says, durably and at once."""
    data = msgspec.json.format(msgspec.json.encode(_with_names(deed, _as_text)), indent=1)
    files.write_file(os.path.join(folder_of(directory, deed.number), JOURNAL_NAME), data + b"\n")


def read_deed(directory: str, number: int) -> Deed | None:
    """The journal of a deed; None when there is none (a crash before its first line) or it is not ours.

    A journal that names files outside the run directory is not ours: only where a copy came from may lie outside, and
    that is never looked at again.
    """
    path = os.path.join(folder_of(directory, number), JOURNAL_NAME)
    try:
        with open_regular(path) as file:
            deed = _with_names(msgspec.json.decode(file.read(MAX_JOURNAL_BYTES), type=Deed), _as_name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError):
        return None
    is_ours = deed.number == number and all(
        is_plain_path(move.target) and (not move.source or is_plain_path(move.source)) for move in deed.moves
    )
    return deed if is_ours else None


def is_plain_path(name: str) -> bool:
    """Whether a relative path stays inside the directory that it starts from, by its parts."""
    return all(part not in ("", ".", "..") and "\x00" not in part for part in name.split("/"))


def _with_names(deed: Deed, convert: Callable[[str], str]) -> Deed:
    """A copy of `deed` with every text that may hold a file's name converted."""
    replace = msgspec.structs.replace
    return replace(
        deed,
        moves=[
            replace(
                move, target=convert(move.target), source=convert(move.source), outside=convert(move.outside)
            )
            for move in deed.moves
        ],
        log=[replace(entry, path=convert(entry.path), source=convert(entry.source)) for entry in deed.log],
        conflicts=[convert(name) for name in deed.conflicts],
        freed=[replace(one, name=convert(one.name), copy=convert(one.copy)) for one in deed.freed],
    )  # fmt: skip


def _as_text(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        return _BYTES_MARK + os.fsencode(name).hex()
    return name


def _as_name(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text[1:])) if text.startswith(_BYTES_MARK) else text
