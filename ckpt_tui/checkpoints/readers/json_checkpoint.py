"""JSON files that hold training state: weights as nested lists, a trainer_state.json, the index of shards.

Only what says by its keys that it is one: logs, configs and registries are JSON too. Numbers in lists are tensors
without bytes of their own: their storages have no offset.
"""

from __future__ import annotations

from math import isfinite

from ckpt_tui.checkpoints.bounded_json import MAX_JSON_BYTES, parse_json
from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Part, Severity, Storage, TensorInfo, TensorRef
from ckpt_tui.checkpoints.parts import find_parts
from ckpt_tui.checkpoints.state_walk import name_tensors
from ckpt_tui.errors import CkptError
from ckpt_tui.text import size

# Keys whose lists of numbers are weights; of an index, of a trainer_state.json, of XGBoost.
_WEIGHTS = (
    "weights", "state_dict", "model_state_dict", "model_state", "model", "params", "parameters", "coef_", "optimizer",
    "optimizer_state_dict", "optimizer_state", "ema",
)  # fmt: skip
_OF_MODEL = tuple(key for key in _WEIGHTS if not key.startswith(("optimizer", "ema")))
_UNMISTAKABLE = (
    "weights",
    "state_dict",
    "model_state_dict",
    "model_state",
    "coef_",
)  # the others are settings as often
_PROGRESS = ("step", "global_step", "epoch", "iteration", "iter", "num_timesteps", "train_state")
_NO_CHECKPOINT = ('"event"', '"checkpoints"', '"model_type"', '"architectures"', '"_class_name"')
_MAX_DIMENSIONS = 16
_MAX_DEPTH = 100
_MAX_FINDINGS = 100


class JsonReader:
    """A JSON object that looks like training state."""

    formats: tuple[str, ...] = ("json", "sharded")

    def sniff(self, head: bytes, file_bytes: int) -> str | None:
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] != b"{" or b"}\n{" in start:
            return None
        text = start.decode("utf-8", "replace")
        if '"weight_map"' in text or _is_index_head(text):
            return "sharded"
        return "json" if _is_state_head(text) else None

    def read(self, descriptor: int, file_bytes: int, path: str, limits: ReadLimits) -> Checkpoint:
        if file_bytes > MAX_JSON_BYTES:
            raise CkptError("Not readable", f"{path}: JSON of {size(file_bytes)} is too much to be read as one value")
        state = parse_json(read_exactly(descriptor, file_bytes, 0, path), path)
        if not isinstance(state, dict):
            raise CkptError("Not a checkpoint", f"{path} is JSON, but no object with training state")
        if isinstance(state.get("weight_map"), dict):
            from ckpt_tui.checkpoints.readers.sharded import read_index_file

            return read_index_file(path, limits)
        checkpoint = Checkpoint(path, "json", file_bytes, state=state)
        nonfinite: list[tuple[TensorInfo, int]] = []
        for key in (*_WEIGHTS, "learner"):  # the last one is XGBoost's
            if isinstance(state.get(key), (dict, list)):
                state[key] = _with_tensors(state[key], nonfinite)
        checkpoint.tensors = name_tensors(state, limits, checkpoint.findings)
        for number, tensor in enumerate(checkpoint.tensors):
            tensor.storage = f"value/{number}"
            checkpoint.storages[tensor.storage] = Storage(tensor.storage, "", None, tensor.size_bytes)
        for info, num_bad in nonfinite:
            _say_nonfinite(checkpoint, info, num_bad)
        _add_parts(checkpoint, state)
        return checkpoint


def _is_index_head(text: str) -> bool:
    """An index whose weight_map begins behind the first bytes."""
    return text[1:40].lstrip().startswith('"metadata"') and '"total_size"' in text


def _is_state_head(text: str) -> bool:
    if any(key in text for key in _NO_CHECKPOINT):
        return False
    if '"log_history"' in text or ('"best_model_checkpoint"' in text and '"global_step"' in text):
        return True
    if text[1:].lstrip().startswith('"learner"'):
        return True
    begins_with_progress = text[1:].lstrip().startswith(tuple(f'"{key}"' for key in _PROGRESS))
    keys = _WEIGHTS if begins_with_progress else _UNMISTAKABLE
    return any(_opens_container(text, key) for key in keys) and any(f'"{key}"' in text for key in _PROGRESS)


def _opens_container(text: str, key: str) -> bool:
    """Whether `"key": [` or `"key": {` stands in it."""
    rest = text.partition(f'"{key}"')[2].lstrip()
    return rest[:1] == ":" and rest[1:].lstrip()[:1] in ("[", "{")


def _with_tensors(value: object, nonfinite: list[tuple[TensorInfo, int]]) -> object:
    """`value` with rectangular lists of numbers as tensors; those with NaN or Inf are added to `nonfinite`."""
    holder: list[object] = [value]
    waiting: list[tuple[dict[object, object] | list[object], object, int]] = [(holder, 0, 0)]
    while waiting:
        container, key, depth = waiting.pop()
        item = container[key]  # type: ignore[call-overload]
        if isinstance(item, list):
            numbers = _numbers(item)
            if numbers is not None:
                info = _tensor(*numbers)
                container[key] = TensorRef(info)  # type: ignore[call-overload]
                num_bad = sum(type(number) is float and not isfinite(number) for number in numbers[1])
                if num_bad:
                    nonfinite.append((info, num_bad))
                continue
        if isinstance(item, (dict, list)) and depth < _MAX_DEPTH:
            keys = list(item) if isinstance(item, dict) else range(len(item))
            waiting += [(item, inner, depth + 1) for inner in keys]
    return holder[0]


def _numbers(value: list[object]) -> tuple[tuple[int, ...], list[object]] | None:
    """Shape and elements of a rectangular nested list of numbers; None for another list."""
    shape: list[int] = []
    rows: list[object] = value
    while rows and len(shape) < _MAX_DIMENSIONS:
        first = rows[0]
        shape.append(len(value) if not shape else len(rows) // _product(shape))
        if not isinstance(first, list):
            kinds = set(map(type, rows))
            is_plain = kinds <= {int, float} or kinds == {bool}
            return (tuple(shape), rows) if is_plain else None
        if any(type(row) is not list or len(row) != len(first) for row in rows):
            return None
        rows = [item for row in rows if isinstance(row, list) for item in row]
    return None


def _product(shape: list[int]) -> int:
    product = 1
    for extent in shape:
        product *= extent
    return product


def _tensor(shape: tuple[int, ...], numbers: list[object]) -> TensorInfo:
    kinds = set(map(type, numbers))
    dtype = "bool" if bool in kinds else "float64" if float in kinds else "int64"
    stride = [1] * len(shape)
    for at in range(len(shape) - 2, -1, -1):
        stride[at] = stride[at + 1] * shape[at + 1]
    num_bytes = len(numbers) * (1 if dtype == "bool" else 8)
    return TensorInfo("", "", shape, dtype, num_bytes, "", tuple(stride))


def _say_nonfinite(checkpoint: Checkpoint, info: TensorInfo, num_bad: int) -> None:
    """NaN and Infinity among the numbers: they are counted now, as there are no bytes to read later."""
    if len(checkpoint.findings) < _MAX_FINDINGS:
        what = f"{num_bad:,} of {info.num_elements:,} values are NaN or infinite"
        hint = "Use a checkpoint from before it happened."
        checkpoint.findings.append(Finding("nonfinite", Severity.ERROR, info.name, what, hint, "numbers"))


def _add_parts(checkpoint: Checkpoint, state: dict[object, object]) -> None:
    parts = find_parts(checkpoint, "")
    if not any(part.role == "model" for part in parts):
        for key in (*_OF_MODEL, "learner"):
            if isinstance(state.get(key), (dict, list, TensorRef)):
                parts.insert(0, Part("model", "", f"{key}.", {key: state[key]}))
                break
    checkpoint.parts = parts
    if isinstance(state.get("log_history"), list):
        from ckpt_tui.checkpoints.readers.hf_trainer import add_trainer_state

        add_trainer_state(checkpoint.progress, state)


READER = JsonReader()
