"""What readers of directories share: a bounded listing, and files read as parts of one checkpoint."""

from __future__ import annotations

import os
import stat
from dataclasses import replace

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, GlobalRef, Part, Severity, Storage, Verdict
from ckpt_tui.checkpoints.opening import RegularFile
from ckpt_tui.errors import CkptError, from_os_error

_MAX_FILES = 100_000
_NO_PICKLES = (".safetensors", ".json", ".npy")  # what is damaged in such a file runs nothing
_MAX_DEPTH = 4  # of directories below the checkpoint; Accelerate and DeepSpeed use two
_MAX_TEXT_BYTES = 64 << 20
_MAX_NOTES = 1000  # an index can name a million shards that are not there
_HINT = "Copy it again, or use another checkpoint: `ckpt-tui list` on its directory shows which are valid."


class Listing:
    """The regular files below `path`, by relative path with their size in bytes; links to files are followed, links
    to directories are not. Raises CkptError when `path` cannot be listed; what cannot be looked at is left out.

    files: of all depths. names: what lies directly in it, directories included.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.files: dict[str, int] = {}
        self.names: set[str] = set()
        self.is_cut = False  # more files than are listed
        try:
            self._list(path, "", 0)
        except OSError as error:
            raise from_os_error(error, path) from error

    def _list(self, folder: str, prefix: str, depth: int) -> None:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=_entry_name):
                if depth == 0:
                    self.names.add(entry.name)
                if len(self.files) >= _MAX_FILES:
                    self.is_cut = True
                    return
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if depth < _MAX_DEPTH:
                            self._list(entry.path, f"{prefix}{entry.name}/", depth + 1)
                        continue
                    status = entry.stat()
                except OSError:
                    continue  # gone meanwhile, not ours to read, or a link to nothing
                if stat.S_ISREG(status.st_mode):
                    self.files[prefix + entry.name] = status.st_size

    def path_of(self, file: str) -> str:
        """The path of a file of the listing."""
        return os.path.join(self.path, *file.split("/"))

    def read_text(self, file: str, max_bytes: int = _MAX_TEXT_BYTES) -> bytes:
        """The bytes of a small file. Raises CkptError when it is not there, cannot be read, or is not small."""
        from ckpt_tui.checkpoints.exact_read import read_exactly

        path = self.path_of(file)
        with RegularFile(path) as opened:
            if opened.file_bytes > max_bytes:
                raise CkptError("Not readable", f"{path}: {opened.file_bytes:,} bytes are too many for what it is")
            return read_exactly(opened.descriptor, opened.file_bytes, 0, path)

    def read_json(self, file: str) -> object:
        """A JSON file; NaN and Infinity are taken, as Hugging Face writes them. CkptError when it is none."""
        from ckpt_tui.checkpoints.bounded_json import parse_json

        return parse_json(self.read_text(file), self.path_of(file))


class Parts:
    """The files of a directory, added one by one to one checkpoint.

    state: `{file: its state}`. Tensors and storages carry the file that they lie in; a storage's key is
    `file:key`. What is wrong with a file becomes a finding that begins with its name.
    """

    def __init__(self, listing: Listing, format_name: str, limits: ReadLimits) -> None:
        self.listing = listing
        self.limits = limits
        self.state: dict[object, object] = {}
        self.checkpoint = Checkpoint(listing.path, format_name, sum(listing.files.values()), state=self.state)
        self._named: set[str] = set()
        self._num_notes = 0
        if listing.is_cut:
            self.note("too-many-files", Severity.WARNING, "", f"only the first {_MAX_FILES:,} files are looked at")

    def add(self, file: str, role: str = "") -> Checkpoint | None:
        """Read a file of the listing and take what is in it.

        role: what the whole file is; without one its parts are found by the names in its state, as in a single file.
        Gives what the file's own reader said; None, and a finding, when it is missing or cannot be read.
        """
        from ckpt_tui.checkpoints.facts import find_parts
        from ckpt_tui.checkpoints.registry import open_file

        if file not in self.listing.files:
            self.missing(file)
            return None
        path = self.listing.path_of(file)
        try:
            found = open_file(path, self.limits, as_part=True)
        except CkptError as error:
            message = (error.message or error.title).replace(f"{path}: ", "").removeprefix(f"{path} is ")
            self.note("unreadable-part", Severity.ERROR, file, message, error.hint or _HINT)
            if not file.endswith(_NO_PICKLES):
                self.not_judged(file, error)
            return None
        except OSError as error:
            self.note("unreadable-part", Severity.ERROR, file, error.strerror or str(error), _HINT)
            return None
        self.take(file, found)
        parts = [Part(role, file, "", found.state)] if role else find_parts(found, file)
        self.checkpoint.parts += parts
        return found

    def add_directory(self, folder: str, role: str = "") -> Checkpoint | None:
        """Read a directory in the listing as a checkpoint of its own layout, and take what is in it.

        role: what all of it is, unless its reader knows which part of it that is; without one its reader says what
        its parts are.
        """
        from ckpt_tui.checkpoints.registry import open_directory

        path = self.listing.path_of(folder)
        try:
            found = open_directory(path, self.limits, as_part=True)
        except CkptError as error:
            message = (error.message or error.title).replace(f"{path}: ", "").removeprefix(f"{path} is ")
            self.note("unreadable-part", Severity.ERROR, folder, message, error.hint or _HINT)
            self.not_judged(folder, error)
            return None
        self._take_directory(folder, found)
        named = [part for part in found.parts if part.role == role]
        if role and not named:
            files = sorted({tensor.file for tensor in found.tensors}) or [folder]
            values = [found.state, *[None] * (len(files) - 1)]
            self.checkpoint.parts += [Part(role, file, "", value) for file, value in zip(files, values, strict=True)]
        else:
            self.checkpoint.parts += [
                Part(part.role, _below(folder, part.file), part.prefix, part.value) for part in named or found.parts
            ]
        return found

    def _take_directory(self, folder: str, found: Checkpoint) -> None:
        whole = self.checkpoint
        self.state[folder] = found.state
        first = len(whole.tensors)
        for tensor in found.tensors:
            tensor.file = _below(folder, tensor.file)
            if tensor.storage:
                tensor.storage = f"{folder}/{tensor.storage}"
        whole.tensors += found.tensors
        _shift_references(found.state, first)
        for storage in found.storages.values():
            key, file = f"{folder}/{storage.key}", _below(folder, storage.file)
            whole.storages[key] = replace(storage, key=key, file=file)
        for finding in found.findings:
            whole.findings.append(replace(finding, where=_below(folder, finding.where)))
        self.take_globals(folder, found)
        for key, value in found.metadata.items():
            whole.metadata.setdefault(key, value)

    def take(self, file: str, found: Checkpoint) -> None:
        """Put what a reader found in `file` under that name."""
        whole = self.checkpoint
        self.state[file] = found.state
        first = len(whole.tensors)
        for tensor in found.tensors:
            tensor.file = file
            if tensor.storage:
                tensor.storage = f"{file}:{tensor.storage}"
        whole.tensors += found.tensors
        _shift_references(found.state, first)
        for storage in found.storages.values():
            key = f"{file}:{storage.key}"
            whole.storages[key] = Storage(
                key, file, storage.offset, storage.size_bytes, storage.crc32, storage.is_big_endian,
                storage.deflated_bytes,
            )  # fmt: skip
        for finding in found.findings:
            where = f"{file}: {finding.where}" if finding.where else file
            message, hint = finding.message, finding.hint
            whole.findings.append(Finding(finding.code, finding.severity, where, message, hint, finding.level))
        self.take_globals(file, found)
        for key, value in found.metadata.items():
            whole.metadata.setdefault(key, value)

    def not_judged(self, file: str, error: CkptError) -> None:
        """What could not be decoded may name anything: the names before its damage, and that the rest is not known."""
        reason = "it could not be decoded to its end: what loading it would do is not known"
        named: list[GlobalRef] = getattr(error, "globals", [])
        self.checkpoint.globals += [*named, GlobalRef(file, Verdict.UNKNOWN, reason, file)]

    def take_globals(self, file: str, found: Checkpoint) -> None:
        """Put what the pickles of `file` name among the globals, each name once."""
        for ref in found.globals:
            if ref.key not in self._named:
                self._named.add(ref.key)
                where = f"{file}: {ref.where.rpartition(': ')[2]}"
                self.checkpoint.globals.append(GlobalRef(ref.name, ref.verdict, ref.reason, where, ref.is_in_bytes))

    def add_data(self, file: str, value: object, role: str = "") -> None:
        """Take plain data that the caller has read itself (JSON, text)."""
        self.state[file] = value
        if role:
            self.checkpoint.parts.append(Part(role, file, "", value))

    def missing(self, file: str, what: str = "it is not there", hint: str = _HINT) -> None:
        """A file that should be there is not."""
        self.note("missing-part", Severity.ERROR, file, what, hint)

    def note(
        self, code: str, severity: Severity, file: str, message: str, hint: str = "", level: str = "structure"
    ) -> None:
        """Add a finding; of a thousand and more the last one says so."""
        self._num_notes += 1
        if self._num_notes < _MAX_NOTES:
            self.checkpoint.findings.append(Finding(code, severity, file, message, hint, level))
        elif self._num_notes == _MAX_NOTES:
            more = "there is more that is wrong like this, which is not listed"
            self.checkpoint.findings.append(Finding(code, severity, "", more, hint, level))


def _shift_references(state: object, first: int) -> None:
    """Let the `TensorRef`s of a file's state point to their tensors in the whole checkpoint."""
    from ckpt_tui.checkpoints.state_walk import tensor_references

    if first:
        for reference in tensor_references(state):
            if reference.index >= 0:
                reference.index += first


def _below(folder: str, file: str) -> str:
    return f"{folder}/{file}" if file else folder


def is_inside(file: str) -> bool:
    """Whether a name that a file gives for another one stays in the directory, and can be a name at all."""
    parts = file.split("/")
    return bool(file) and "\0" not in file and not file.startswith("/") and ".." not in parts and "" not in parts


def _entry_name(entry: os.DirEntry[str]) -> str:
    return entry.name
