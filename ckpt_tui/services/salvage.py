"""Salvage: what can be got back from a damaged checkpoint, and the new file that holds it.

The original is opened for reading only, and every byte of it is read and judged before anything is written.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import field

from ckpt_tui.checkpoints.garbage import GarbageHeld
from ckpt_tui.checkpoints.inert_state import Change, InertState, identity, make_inert
from ckpt_tui.checkpoints.limits import DEFAULT_LIMITS
from ckpt_tui.checkpoints.model import Checkpoint, Severity, ShardedTensor, TensorInfo, TensorRef, Verdict
from ckpt_tui.checkpoints.salvage import examine
from ckpt_tui.checkpoints.salvage_facts import Examined, LostTensor, Source
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.checkpoints.writers.pickle_writer import StorageKeys, write_pickle
from ckpt_tui.checkpoints.writers.pieces import NewFile
from ckpt_tui.checkpoints.writers.safetensors import fits, safetensors_pieces
from ckpt_tui.checkpoints.writers.torch_zip import torch_zip_pieces
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.services.new_file import ReadBackError as ReadBackError
from ckpt_tui.services.new_file import write_new_file
from ckpt_tui.text import safe_text, size

_SAFETENSORS = ".safetensors"
_TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True, slots=True)
class PartLeft:
    """How many of the tensors of the model, the optimizer ... are got back."""

    role: str
    num_written: int
    num_tensors: int

    @property
    def is_whole(self) -> bool:
        return self.num_written == self.num_tensors


@dataclass(slots=True)
class SalvagePlan:
    """What will be written to `out`, and what is lost. new_file: None when nothing can be got back.

    num_tensors, num_bytes: all that the checkpoint has or had, as far as that is known (bytes of storages, shared ones
    once); num_written, bytes_written: those that OUT will hold. num_unvouched: of them, tensors whose bytes no checksum
    vouches for.
    """

    path: str
    out: str
    format: str
    out_format: str
    is_damaged: bool
    has_names: bool
    examined: Examined
    lost: list[LostTensor]
    num_tensors: int = 0
    num_written: int = 0
    num_bytes: int = 0
    bytes_written: int = 0
    num_unvouched: int = 0
    changed: list[Change] = field(default_factory=list)
    left_out: list[Change] = field(default_factory=list)
    progress: dict[str, object] = field(default_factory=dict)
    parts: list[PartLeft] = field(default_factory=list)
    new_file: NewFile | None = None
    names: list[str] = field(default_factory=list)  # of the tensors that OUT will hold


def plan_salvage(
    path: str,
    out: str,
    *,
    names_from: str | None = None,
    trusts_checksums: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> SalvagePlan:
    """Read all of the checkpoint and decide what OUT will hold; nothing is written.

    names_from: another checkpoint of the same run, which tells what the storages are when data.pkl is lost.
    trusts_checksums: leave the reading of a truncated zip to `carry_out`, which raises `ReadBackError` when a storage
    is not what its checksum says; the plan then has to be made again without.
    Raises CkptError when the checkpoint cannot be looked at, when OUT is no place to write to, or when nothing at all
    is left; Cancelled.
    """
    _check_out(path, out)
    with GarbageHeld():
        return _plan(path, out, names_from, trusts_checksums, on_bytes, is_cancelled)


def _plan(
    path: str,
    out: str,
    names_from: str | None,
    trusts_checksums: bool,
    on_bytes: Callable[[int], None] | None,
    is_cancelled: Callable[[], bool] | None,
) -> SalvagePlan:
    examined = examine(
        path, names_from=names_from, trusts_checksums=trusts_checksums, on_bytes=on_bytes, is_cancelled=is_cancelled
    )
    checkpoint = examined.checkpoint
    reasons = {id(tensor): examined.lost_reason(tensor) for tensor in checkpoint.tensors}
    state, is_flat = _state_to_write(checkpoint)
    inert = make_inert(
        state,
        lambda info: bool(reasons[id(info)] if id(info) in reasons else examined.lost_reason(info)),
        lambda tensor: _assembled(examined, tensor),
        frozenset(ref.name for ref in checkpoint.globals if ref.verdict is Verdict.DANGEROUS),
        is_big_endian=_is_big_endian(examined),
        only_tensors=not examined.has_own_names,
    )
    written = name_tensors(inert.state, DEFAULT_LIMITS, [])
    plan = SalvagePlan(
        path, out, checkpoint.format, "", examined.is_damaged, examined.has_names, examined,
        _lost_tensors(examined, inert.kept), changed=inert.changed, left_out=inert.left_out,
    )  # fmt: skip
    _add_figures(plan, written)
    _add_progress(plan)
    plan.out_format = _out_format(plan, written, is_flat)
    plan.names = [tensor.name for tensor in written]
    if plan.bytes_written or (inert.state and not plan.lost):
        plan.new_file = _new_file(plan, inert, written)
        _check_space(plan)
    return plan


def carry_out(
    plan: SalvagePlan,
    *,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> None:
    """Write OUT. Raises CkptError, and Cancelled; OUT is then not there, and nothing else is left behind."""
    assert plan.new_file is not None
    write_new_file(plan.out, plan.new_file, lambda path: _reopen(path, plan), on_bytes, is_cancelled)


# --- planning


def _check_out(path: str, out: str) -> None:
    shown = safe_text(out, 1000)
    if "\0" in out or not os.path.basename(out) or os.path.basename(out) in (".", ".."):
        raise CkptError("Not a file name", f"{shown} cannot be the name of a new file", "Give one with -o OUT.")
    try:
        if os.path.lexists(out):
            raise CkptError(
                "Already there", f"{shown} exists, and nothing is overwritten", "Give another name with -o OUT."
            )
        folder = os.path.dirname(out) or "."
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise CkptError(
                "Not a directory", f"{safe_text(folder, 1000)} is a file", "Give another place with -o OUT."
            )
        if "\0" not in path and os.path.isdir(path):
            inside = os.path.commonpath([os.path.realpath(folder), os.path.realpath(path)])
            if inside == os.path.realpath(path):
                raise CkptError(
                    "Inside the original",
                    f"{shown} lies in the checkpoint",
                    "The original is never touched: -o elsewhere.",
                )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise CkptError(
                "No permission", f"may not write into {safe_text(folder, 1000)}", "Give another place with -o OUT."
            )
    except OSError as error:
        raise from_os_error(error, safe_text(os.path.dirname(out) or ".", 1000), "write") from error


def _assembled(examined: Examined, tensor: ShardedTensor) -> str:
    from ckpt_tui.checkpoints.salvage_pieces import assemble

    return assemble(examined, tensor)


def _state_to_write(checkpoint: Checkpoint) -> tuple[object, bool]:
    """The state of OUT, and whether it is the shards of a directory put into one flat dict by the tensors' names."""
    state = checkpoint.state
    if checkpoint.format != "sharded" or not isinstance(state, dict):
        return state, False
    flat: dict[object, object] = {}
    for part in state.values():
        if not isinstance(part, dict):
            continue
        for key, value in part.items():
            if isinstance(value, TensorRef) and flat.setdefault(key, value) is not value:
                return state, False  # two shards with one name: both are kept, under their files
    return flat, True


def _lost_tensors(examined: Examined, kept: set[object]) -> list[LostTensor]:
    """Every tensor of the original that OUT will not hold, with the reason."""
    lost: list[LostTensor] = []
    for tensor in examined.checkpoint.tensors:
        if identity(tensor) in kept:
            continue
        reason = examined.lost_reason(tensor)
        if not reason and not tensor.storage and tensor.device != "meta":
            reason = "one of its parts is lost"
        lost.append(
            LostTensor(
                tensor.name, tensor.file, tensor.shape, tensor.dtype, tensor.size_bytes,
                reason or "it stands in something that cannot be written",
            )
        )  # fmt: skip
    return [*lost, *examined.missing]


def _add_figures(plan: SalvagePlan, written: list[TensorInfo]) -> None:
    """Bytes of storages, each once; of those that are lost, what their tensors show."""
    examined = plan.examined
    storages = examined.checkpoint.storages
    plan.num_tensors = len(examined.checkpoint.tensors) + len(examined.missing)
    plan.num_written = plan.num_tensors - len(plan.lost)
    kept = {tensor.storage for tensor in written}
    plan.bytes_written = sum(examined.sources[key].size_bytes for key in kept if key in examined.sources)
    plan.num_bytes = plan.bytes_written
    seen: set[str] = set(kept)
    largest: dict[str, int] = {}
    for tensor in examined.checkpoint.tensors:
        if tensor.storage and tensor.storage not in seen:
            known = storages[tensor.storage].size_bytes if tensor.storage in storages else 0
            largest[tensor.storage] = max(largest.get(tensor.storage, known), tensor.size_bytes)
    plan.num_bytes += sum(largest.values())
    plan.num_unvouched = sum(
        tensor.storage in examined.sources and not examined.sources[tensor.storage].is_vouched and tensor.size_bytes > 0
        for tensor in written
    )


def _add_progress(plan: SalvagePlan) -> None:
    from ckpt_tui.checkpoints.facts import add_facts

    checkpoint = plan.examined.checkpoint
    if not plan.has_names:
        return
    if not checkpoint.parts:
        add_facts(checkpoint)
    plan.progress = dict(checkpoint.progress) if plan.examined.has_own_names else {}
    lost = Counter((tensor.file, tensor.name) for tensor in plan.lost)
    for role in dict.fromkeys(part.role for part in checkpoint.parts):
        parts = [part for part in checkpoint.parts if part.role == role]
        held = [tensor for tensor in checkpoint.tensors if any(part.holds(tensor) for part in parts)]
        num_gone = sum(lost[tensor.file, tensor.name] > 0 for tensor in held)
        # What an index names and no shard holds is of the model, too.
        num_tensors = len(held) + (len(plan.examined.missing) if role == "model" else 0)
        if num_tensors:
            plan.parts.append(PartLeft(role, len(held) - num_gone, num_tensors))


def _is_big_endian(examined: Examined) -> bool:
    return any(source.is_big_endian for source in examined.sources.values())


def _out_format(plan: SalvagePlan, written: list[TensorInfo], is_flat: bool) -> str:
    """safetensors when the original is, or OUT's name says so; else a torch zip."""
    sources = plan.examined.sources
    is_possible = plan.has_names and all(
        tensor.storage in sources and fits(tensor, sources[tensor.storage]) for tensor in written
    )
    state = plan.examined.checkpoint.state
    if not is_flat:
        is_possible &= isinstance(state, dict) and all(isinstance(value, TensorRef) for value in state.values())
    suffix = os.path.splitext(plan.out)[1].lower()
    if suffix == _SAFETENSORS:
        if not is_possible:
            raise CkptError(
                "Not possible as safetensors",
                f"{safe_text(plan.path, 1000)} holds more than plain tensors, and loaders go by the name of a file",
                "Give OUT the ending .pt: -o NAME.pt",
            )
        return "safetensors"
    was_safetensors = plan.format == "safetensors" or (
        is_flat and all(tensor.file.endswith(_SAFETENSORS) for tensor in plan.examined.checkpoint.tensors)
    )
    return "safetensors" if was_safetensors and is_possible and suffix not in _TORCH_SUFFIXES else "torch-zip"


def _new_file(plan: SalvagePlan, inert: InertState, written: list[TensorInfo]) -> NewFile:
    sources = plan.examined.sources
    if plan.out_format == "safetensors":
        in_order = sorted(written, key=lambda t: (sources[t.storage].path, sources[t.storage].offset))
        metadata = {
            str(key): value
            for key, value in plan.examined.checkpoint.metadata.items()
            if isinstance(value, str) and key not in ("version", "byteorder")
        }
        return safetensors_pieces([(tensor, sources[tensor.storage]) for tensor in in_order], metadata)
    dtypes: dict[str, set[str]] = {}
    for tensor in written:
        dtypes.setdefault(tensor.storage, set()).add(tensor.dtype)
    literals = inert.literals
    keys = StorageKeys(
        lambda key: len(literals[key]) if key in literals else sources[key].size_bytes,
        lambda key: len(dtypes.get(key, ())) == 1,
    )
    pickled = write_pickle(inert.state, keys)
    contents: list[tuple[str, bytes | Source]] = [
        (name, literals[key] if key in literals else sources[key]) for key, name in keys.names.items()
    ]
    return torch_zip_pieces(pickled, contents, "big" if _is_big_endian(plan.examined) else "little")


def _check_space(plan: SalvagePlan) -> None:
    assert plan.new_file is not None
    folder = os.path.dirname(plan.out) or "."
    try:
        status = os.statvfs(folder)
    except OSError:
        return  # writing will tell
    free = status.f_bavail * status.f_frsize
    if free < plan.new_file.size_bytes:
        raise CkptError(
            "No space",
            f"{safe_text(plan.out, 1000)} needs {size(plan.new_file.size_bytes)}, {size(free)} are free",
            "Make room, or give another place with -o OUT.",
        )


def _reopen(temporary: str, plan: SalvagePlan) -> None:
    """Open the new file as anybody would: it must hold what was planned, and nothing may be wrong with it."""
    from ckpt_tui.checkpoints.registry import open_file

    checkpoint = open_file(temporary, DEFAULT_LIMITS)
    errors = [finding.message for finding in checkpoint.findings if finding.severity == Severity.ERROR]
    names = sorted(tensor.name for tensor in checkpoint.tensors)
    assert not errors, f"the new file is not sound: {errors[:3]}"
    assert names == sorted(plan.names), "the new file does not hold what was planned"
