"""What a checkpoint holds: everything that an exact resume needs, in types that `weights_only=True` loads."""

from __future__ import annotations

import random
import sys
import time
import zipfile
from collections.abc import Collection, Mapping
from typing import IO, Any

import torch

from ckpt_tui.events.lineage import Lineage, as_plain
from trainer.checkpoint.checksums import digest_and_broken_record
from trainer.checkpoint.environment import environment
from trainer.failures import is_out_of_memory

FORMAT_VERSION = 1
# What an exact resume cannot do without; the other keys of a checkpoint describe it.
NEEDED = ("step", "epoch", "model", "optimizer", "scheduler", "rng_state", "dataloader_state", "args")
# What must be finite for a state to be worth keeping.
FINITE = ("model", "optimizer", "ema")
# Enough to tell a zip file by.
_START_BYTES = 4096
# What `fingerprint` looks at: the state, free of times, paths and versions.
FINGERPRINTED = (
    "step", "epoch", "model", "optimizer", "scheduler", "scaler", "ema", "train_loss", "val_loss", "val_metrics",
    "loss_history", "rng_state", "dataloader_state", "best_metric",
)  # fmt: skip


class BadCheckpointError(Exception):
    """A checkpoint that cannot be resumed from; the message says why.

    damage: in one word what is proven to be wrong with its content (cut, checksum, digest, nonfinite); "" where the
    content may be fine, and this trainer is not the one to read it: a newer format, somebody else's file.
    """

    def __init__(self, message: str, damage: str = "") -> None:
        super().__init__(message)
        self.damage = damage


def rng_state() -> dict[str, Any]:
    """The global generators. Tensors and plain types instead of the tuples and arrays that would need pickle code."""
    version, words, gauss = random.getstate()
    numpy_state = None
    if "numpy" in sys.modules:
        name, keys, position, has_gauss, cached = sys.modules["numpy"].random.get_state()
        numpy_state = {
            "bit_generator": str(name), "keys": torch.tensor(keys.tolist(), dtype=torch.int64), "pos": int(position),
            "has_gauss": int(has_gauss), "cached_gaussian": float(cached),
        }  # fmt: skip
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss_next": gauss},
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "torch_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def seed_all(seed: int) -> None:
    """Seed the global generators that `rng_state` saves: a state that is saved must be one that a seed gives."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    torch.manual_seed(seed)


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """Set the global generators. To be called last: building loaders and modules draws from them."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss_next"]))
    numpy_state = state["numpy"]
    if numpy_state is not None and "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        numpy.random.set_state(
            (
                numpy_state["bit_generator"], numpy.array(numpy_state["keys"].tolist(), dtype=numpy.uint32),
                numpy_state["pos"], numpy_state["has_gauss"], numpy_state["cached_gaussian"],
            )
        )  # fmt: skip
    torch.set_rng_state(state["torch"])
    if state["torch_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["torch_cuda"])


def stamped(state: Mapping[str, Any], checkpoint_type: str, lineage: Lineage | None = None) -> dict[str, Any]:
    """The state with what describes the checkpoint itself. checkpoint_type: regular or emergency."""
    return {
        **state, "timestamp": time.time(), "checkpoint_type": checkpoint_type,
        "pytorch_version": str(torch.__version__), "format_version": FORMAT_VERSION,
        "lineage": as_plain(lineage) if lineage is not None else None, "environment": environment(),
    }  # fmt: skip


def first_nonfinite(state: Any, path: str = "") -> str | None:
    """The dotted path of the first tensor with a NaN or an infinity in it, None when there is none."""
    if isinstance(state, torch.Tensor):
        if state.dtype.itemsize == 1 and state.is_floating_point():
            state = state.float()  # torch does not sum floats of 8 bits
        # A sum is one pass without a temporary of the tensor's size; only an odd one is looked at closely.
        has_fractions = state.is_floating_point() or state.is_complex()
        return path if has_fractions and not torch.isfinite(state.sum()) and not torch.isfinite(state).all() else None
    items = (
        state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    )
    for key, value in items:
        found = first_nonfinite(value, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None


def load(path: str, needed: Collection[str] = NEEDED) -> dict[str, Any]:
    """A checkpoint file's state, after every record's checksum was found right. Raises BadCheckpointError, OSError."""
    state, _ = read_file(path)
    check_content(state, needed)
    return state


def read_file(path: str, expected_digest: str = "") -> tuple[dict[str, Any], str]:
    """The state in a file, and the digest of the file, after every checksum that is known was found right.

    expected_digest: what it was saved with, "" when nobody knows. Raises BadCheckpointError, OSError.
    """
    with open(path, "rb") as file:  # torch cannot open a name that is not UTF-8 by itself
        digest = proven_digest(file, expected_digest)
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise unreadable(error) from error
    return state, digest


def unreadable(error: Exception) -> BadCheckpointError | MemoryError:
    """What `error` means, raised by the loading of what is as it was written, byte by byte: no damage in any case.

    Where memory ran out, that says nothing of the checkpoint, and an older one is no better.
    """
    told = (str(error).splitlines() or [""])[0][:200]
    if is_out_of_memory(error):
        return MemoryError(told)
    return BadCheckpointError(f"it cannot be read ({type(error).__name__}: {told})")


def proven_digest(file: IO[bytes], expected_digest: str = "") -> str:
    """The digest of a checkpoint file, once every checksum that is known was found right, nothing loaded.

    Raises BadCheckpointError, OSError.
    """
    try:
        digest, broken = digest_and_broken_record(file)
    except zipfile.BadZipFile as error:
        file.seek(0)
        start = file.read(_START_BYTES)
        if start.strip(b"\0") and not start.startswith(b"PK\x03\x04"):
            raise BadCheckpointError(f"it is not a checkpoint file of this trainer ({error})") from error
        raise BadCheckpointError(f"it is not a whole zip file ({error})", "cut") from error
    if broken is not None:
        raise BadCheckpointError(f"the checksum of its record {broken} is wrong", "checksum")
    if expected_digest.startswith("crc32:") and digest != expected_digest:
        raise BadCheckpointError(f"its content is not what was saved ({digest}, saved as {expected_digest})", "digest")
    return digest


def check_content(state: object, needed: Collection[str] = NEEDED) -> None:
    """Raise BadCheckpointError for what is no state that a training can go on from."""
    if not isinstance(state, Mapping):
        raise BadCheckpointError("it does not hold a training state")
    version = state.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise BadCheckpointError(
            f"its format version {version} is newer than this trainer ({FORMAT_VERSION}): resume it with the newer one"
        )
    missing = [key for key in needed if key not in state]
    if missing:
        raise BadCheckpointError(f"it lacks {', '.join(missing)}")
    if type(version) is not int:
        raise BadCheckpointError(f"its format version {version!r} is none that this trainer knows")
    if type(state.get("step")) is not int:
        raise BadCheckpointError(f"its step {state.get('step')!r} is not a number of steps")
    nonfinite = first_nonfinite({key: state[key] for key in FINITE if key in state})
    if nonfinite is not None:
        raise BadCheckpointError(f"{nonfinite} is not finite", "nonfinite")


def fingerprint(state: Mapping[str, Any]) -> str:
    """SHA-256 over the training state in a canonical order; equal exactly when the states are equal bit by bit."""
    import hashlib

    digest = hashlib.sha256()
    for key in FINGERPRINTED:
        _feed(digest, key, state.get(key))
    return digest.hexdigest()


def _feed(digest: Any, path: str, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{path}={value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Mapping):
        digest.update(f"{path}={{{len(value)}}}".encode())
        for key in sorted(value, key=str):
            _feed(digest, f"{path}.{key}", value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"{path}=[{len(value)}]".encode())
        for index, item in enumerate(value):
            _feed(digest, f"{path}.{index}", item)
    else:
        digest.update(f"{path}={value.hex() if isinstance(value, float) else repr(value)};".encode())
