"""A pickle made into inert data: opened, interpreted by `pickle_machine`, and everything that it names judged."""

from __future__ import annotations

from collections.abc import Callable
from struct import error as struct_error

from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS, ReadLimits
from ckpt_tui.checkpoints.model import GlobalRef, Verdict, worst_of_each
from ckpt_tui.checkpoints.pickle_calls import Stop
from ckpt_tui.checkpoints.pickle_globals import judge
from ckpt_tui.checkpoints.pickle_machine import PickleMachine
from ckpt_tui.checkpoints.pickle_rebuild import resolve_persistent_id
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, safe_text

TYPE_CHECKING = False  # what few pickles need is imported when one does: `inspect` has a budget of 70 ms altogether
if TYPE_CHECKING:
    from ckpt_tui.checkpoints.pickle_source import PickleSource

_HINT = "Use a backup: `ckpt-tui list` on its directory shows which checkpoints are valid."


class DecodedPickle:
    """root: the inert object. globals: everything it names, called or not. end: the byte behind it.

    num_malformed: tensors that no torch could build, because of their shape; they are opaque objects in `root`.
    odd_keys: what stood as the key of a dict where `root` has a text for it, by that text.
    storages, findings: of arrays and tensors whose bytes lie in the pickle itself; only when those are asked for.
    """

    __slots__ = ("end", "findings", "globals", "num_malformed", "odd_keys", "root", "storages")

    def __init__(self, root: object, machine: PickleMachine, record: str) -> None:
        self.root = root
        self.globals = _judged(machine, record)
        self.end = machine.base + machine.position
        self.num_malformed = machine.num_malformed
        self.odd_keys = machine.odd_keys
        in_place = machine.in_place
        self.storages = in_place.storages if in_place is not None else {}
        self.findings = in_place.findings if in_place is not None else []


def decode_pickle(data: bytes, record: str, limits: ReadLimits = DEFAULT_LIMITS, start: int = 0) -> DecodedPickle:
    """Interpret the pickle at `start`. Raises CkptError "Damaged checkpoint" where it is none or asks for too much."""
    return _decoded(PickleMachine(data, start, limits), record)


def decode_stream(
    source: PickleSource,
    start: int,
    record: str,
    limits: ReadLimits = DEFAULT_LIMITS,
    resolve: Callable[[object], object] = resolve_persistent_id,
    *,
    takes_arrays: bool = False,
    depth: int = 0,
) -> DecodedPickle:
    """Interpret the pickle at `start` of a file, reading as far as it goes; long bytes values stay where they lie.

    resolve: what a persistent id stands for. takes_arrays: arrays and tensors whose bytes lie in the pickle become
    tensors. depth: in how many others it lies as bytes. Raises as `decode_pickle` does; OSError as it comes.
    """
    from ckpt_tui.checkpoints.pickle_source import Window

    machine = PickleMachine(b"", 0, limits, resolve)
    machine.window = Window(source, start, limits.max_pickle_bytes)
    machine.base = machine.start = start
    machine.depth = depth
    if takes_arrays:
        from ckpt_tui.checkpoints.pickle_arrays import InPlace

        machine.in_place = InPlace(source, record, limits)
    return _decoded(machine, record)


def _decoded(machine: PickleMachine, record: str) -> DecodedPickle:
    try:
        root = machine.run()
    except Stop as stop:
        raise UnsoundPickleError(record, machine, str(stop)) from None
    except (IndexError, KeyError, struct_error, UnicodeError, ValueError, TypeError, OverflowError) as error:
        raise UnsoundPickleError(record, machine, safe_text(error, 80)) from None
    decoded = DecodedPickle(root, machine, record)
    if machine.embedded:
        from ckpt_tui.checkpoints.nested_pickles import judge_embedded

        opened = machine.in_place.opened if machine.in_place is not None else ()
        embedded = [value for value in machine.embedded if id(value) not in opened]
        judge_embedded(decoded, embedded, record, machine.limits, machine.depth)
    return decoded


class UnsoundPickleError(CkptError):
    """A pickle that ends in nonsense. `globals`: what it names before that, which loading it would have reached.

    is_cut: it is sound as far as it goes, and its end is missing. is_too_much: so it is, and it is longer than is read.
    position: how far that is, about.
    """

    def __init__(self, record: str, machine: PickleMachine, reason: str) -> None:
        names = _judged(machine, record)
        position = machine.base + machine.position - machine.start
        dangerous = [safe_text(ref.name, 60) for ref in names if ref.verdict is Verdict.DANGEROUS][:3]
        warning = f"; before that it calls for {', '.join(dangerous)}: do not load it" if dangerous else ""
        message = f"{record} is no sound pickle: byte {count(position)}: {reason}{warning}"
        super().__init__("Damaged checkpoint", message, _HINT)
        self.globals = names
        self.is_cut = machine.is_cut
        self.is_too_much = machine.is_too_much
        self.position = position


def _judged(machine: PickleMachine, record: str) -> list[GlobalRef]:
    found = []
    in_place, conditional = machine.in_place, machine.conditional
    for (module, name), global_name in machine.names.items():
        verdict, reason = judge(module, name)
        harmless = conditional.reason(global_name.type_name) if conditional is not None else None
        if harmless is not None:
            verdict, reason = Verdict.KNOWN, harmless
        if global_name.type_name in machine.changed:
            verdict, reason = Verdict.DANGEROUS, "the pickle changes it for the whole program, which no honest one does"
        if machine.has_forged_dtype and global_name.type_name == "numpy.dtype":
            from ckpt_tui.checkpoints.numpy_dtypes import REASON

            verdict, reason = Verdict.DANGEROUS, REASON
        found.append(GlobalRef(global_name.type_name, verdict, reason, record))
    if machine.calls_object:
        reason = "it calls an object that it made, not a function that it names: what runs then is not known"
        found.append(GlobalRef("object.__call__", Verdict.UNKNOWN, reason, record))
    return found if in_place is None else worst_of_each(found + in_place.globals)
