"""Plain pickles of every protocol, one or several in a row: settings, states of numpy arrays, torch tensors by value.

Arrays are tensors here, other than in torch's own files, where they are random states and the like: in a pickle they
are what weights are. Protocols 0 and 1 have no header: a file is only taken for one when it decodes, not when it might.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, GlobalRef, OpaqueObject, Severity, TensorRef, Verdict
from ckpt_tui.checkpoints.pickle_decode import DecodedPickle, UnsoundPickleError, decode_stream
from ckpt_tui.checkpoints.pickle_rebuild import GlobalName
from ckpt_tui.checkpoints.pickle_source import MemorySource, PickleSource
from ckpt_tui.checkpoints.readers.lost_tensors import note_lost_tensors
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count

_MAX_PICKLES = 10_000  # in a row
_MAX_FINDINGS = 100
_SNIFF_LIMITS = ReadLimits(max_opcodes=1_000, max_stack=1_000, max_memo=1_000)
_FIRST_OPCODES = b"(]}c"  # of a container or an object: what protocols 0 and 1 begin with
_MIN_SOUND_BYTES = 16  # of a pickle without a header that goes on behind the first bytes of a file
_JOBLIB = ("joblib.numpy_pickle.NumpyArrayWrapper", "sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper")
_HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


class PickleReader:
    """`pickle.dump` of anything."""

    formats: tuple[str, ...] = ("pickle",)

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        if head[:1] == b"\x80":
            # The next opcode is there and is one: 0xff or text behind the header is another kind of file.
            is_pickle = len(head) > 2 and 2 <= head[1] <= 5 and not _fails_at_once(head)
            return "pickle" if is_pickle else None
        return "pickle" if head[:1] in _OPENINGS and _decodes(head, file_bytes) else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
        checkpoint = Checkpoint(path, "pickle", file_bytes)
        roots = _Stream(PickleSource(descriptor, file_bytes, path), checkpoint, limits).read()
        checkpoint.state = roots[0] if len(roots) == 1 else roots
        if len(roots) > 1:
            checkpoint.metadata["pickles"] = len(roots)
        checkpoint.tensors = name_tensors(checkpoint.state, limits, checkpoint.findings)
        note_lost_tensors(checkpoint)
        return checkpoint


class _Stream:
    """The pickles of a file, one behind the other, as `pickle.dump` appends them."""

    def __init__(self, source: PickleSource, checkpoint: Checkpoint, limits: ReadLimits) -> None:
        self.source = source
        self.checkpoint = checkpoint
        self.limits = limits
        self.named: dict[str, GlobalRef] = {}

    def read(self) -> list[object]:
        roots: list[object] = []
        position, end = 0, self.source.end
        while position < end and len(roots) < _MAX_PICKLES:
            record = self.checkpoint.path if not roots else f"{self.checkpoint.path}: pickle {count(len(roots) + 1)}"
            try:
                decoded = decode_stream(self.source, position, record, self.limits, takes_arrays=True)
            except UnsoundPickleError as error:
                if any(ref.name in _JOBLIB for ref in error.globals):
                    raise _from_joblib(self.checkpoint.path) from None
                if not roots:
                    raise
                self.say_rest(position, error)
                break
            roots.append(decoded.root)
            self.take(decoded)
            position = decoded.end
            if self.source.read(position, 512).strip() == b"" and end - position <= 512:
                break  # a line end behind it: an editor, or a copy through a terminal
        return roots

    def take(self, decoded: DecodedPickle) -> None:
        checkpoint = self.checkpoint
        for ref in decoded.globals:
            if ref.key not in self.named:
                self.named[ref.key] = ref
                checkpoint.globals.append(ref)
        checkpoint.storages.update(decoded.storages)
        room = _MAX_FINDINGS - len(checkpoint.findings)
        checkpoint.findings += decoded.findings[: max(room, 0)]
        if decoded.num_malformed:
            broken = f"{count(decoded.num_malformed)} of its tensors have shapes or strides that no tensor can have"
            checkpoint.findings.append(Finding("malformed-tensor", Severity.ERROR, "", broken, _HINT))

    def say_rest(self, position: int, error: UnsoundPickleError) -> None:
        """What follows the last sound pickle: another one that is damaged, or something else."""
        self.checkpoint.globals += [ref for ref in error.globals if ref.key not in self.named]
        where = f"byte {count(position)}"
        rest = f"{count(self.source.end - position)} bytes follow the end of the pickle"
        if self.source.read(position, 1) == b"\x80":
            message = error.message.removeprefix(f"{self.checkpoint.path}: ")
            rest = f"{rest}; they begin like another one that is damaged: {message}"
            self.checkpoint.findings.append(Finding("trailing-pickle", Severity.ERROR, where, rest, _HINT))
            reason = "a pickle that does not decode to its end: what it names after that is not known"
            name = f"pickle at byte {position}"
            self.checkpoint.globals.append(GlobalRef(name, Verdict.UNKNOWN, reason, self.checkpoint.path))
        else:
            self.checkpoint.findings.append(
                Finding("trailing-data", Severity.WARNING, where, rest, "Compare its size.")
            )


def _from_joblib(path: str) -> CkptError:
    what = f"{path} was written by joblib, which puts the bytes of arrays between the opcodes of its pickle"
    return CkptError("Not readable", what, "Opening it runs what it names. Its writer can save the arrays as .npz.")


_OPENINGS = frozenset(bytes([code]) for code in _FIRST_OPCODES)


def _fails_at_once(head: bytes) -> bool:
    """Whether what follows the header is no pickle from its first opcodes on."""
    try:
        decode_stream(MemorySource(head, ""), 0, "head", _SNIFF_LIMITS)
    except UnsoundPickleError as error:
        return not error.is_cut and error.position <= 3 and not error.globals
    except CkptError:
        return False
    return False


def _decodes(head: bytes, file_bytes: int) -> bool:
    """Whether a file that begins with these bytes is a pickle without a header, as far as they go."""
    try:
        decoded = decode_stream(MemorySource(head, ""), 0, "head", _SNIFF_LIMITS)
    except UnsoundPickleError as error:
        is_sound = error.is_cut and file_bytes > len(head) and error.position >= _MIN_SOUND_BYTES
        return is_sound and _are_names(error.globals)
    except CkptError:
        return False
    if not _are_names(decoded.globals):
        return False
    if any(ref.verdict is Verdict.DANGEROUS for ref in decoded.globals):
        return True  # whatever follows it: pickle.load reads no further, and has run it by then
    if file_bytes > len(head):
        return decoded.end >= _MIN_SOUND_BYTES
    is_value = isinstance(decoded.root, (dict, list, tuple, TensorRef, OpaqueObject))
    return is_value and type(decoded.root) is not GlobalName and not head[decoded.end :].strip()


def _are_names(refs: list[GlobalRef]) -> bool:
    """Whether what it names could be names of Python: text that happens to decode has others."""
    return all(part.isidentifier() for ref in refs for part in ref.name.split("."))


READER = PickleReader()
