"""`data` of `inspect --json`, and a decoded state as JSON: whatever its keys, depth, cycles and sizes."""

from __future__ import annotations

from ckpt_tui.checkpoints.contents import files_of
from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject, TensorInfo, TensorRef
from ckpt_tui.checkpoints.weights_only import weights_only

_MAX_NODES = 200_000  # of the state; what is beyond is cut, and said to be
_MAX_DEPTH = 60  # json recurses in C and gives up at about 1,000
_MAX_TEXT = 10_000
_MAX_BYTES = 64


def inspect_data(
    checkpoint: Checkpoint, chosen: list[TensorInfo], num_parameters: int, statistics: dict[int, dict[str, object]]
) -> dict[str, object]:
    """As promised in SPEC section 11."""
    judged = weights_only(checkpoint)
    return {
        "path": checkpoint.path,
        "format": checkpoint.format,
        "bytes": checkpoint.size_bytes,
        "tensors": [
            {
                "name": tensor.name, "file": tensor.file, "shape": tensor.shape, "dtype": tensor.dtype,
                "bytes": tensor.size_bytes, "storage": tensor.storage, "stride": tensor.stride,
                "offset": tensor.offset, "device": tensor.device, "layout": tensor.layout,
                "component": tensor.is_component, "at_byte": _at_byte(checkpoint, tensor),
                "in_file": _in_file(checkpoint, tensor),
                **statistics.get(position, {}),
            }
            for position, tensor in enumerate(chosen)
        ],
        "num_tensors": len(checkpoint.tensors),
        "num_parameters": num_parameters,
        "progress": as_json(checkpoint.progress),
        "hyperparameters": as_json(checkpoint.hyperparameters),
        "has": checkpoint.has,
        "optimizer": _optimizer(checkpoint),
        "globals": [
            {"name": ref.name, "verdict": ref.verdict, "reason": ref.reason, "where": ref.where}
            for ref in checkpoint.globals
        ],
        "safety": checkpoint.safety,
        "weights_only": {"loads": judged.loads, "refuses": judged.refuses, "reason": judged.reason},
        "files": [
            {
                "name": file.name, "roles": file.roles, "bytes": file.size_bytes, "num_tensors": file.num_tensors,
                "missing": file.is_missing, "unreadable": file.is_unreadable,
            }
            for file in files_of(checkpoint)
        ],
        "metadata": as_json(checkpoint.metadata),
        "state": as_json(checkpoint.state),
        "findings": [
            {
                "code": finding.code, "severity": finding.severity, "where": finding.where,
                "message": finding.message, "hint": finding.hint, "level": finding.level,
            }
            for finding in checkpoint.findings
        ],
    }  # fmt: skip


def _in_file(checkpoint: Checkpoint, tensor: TensorInfo) -> str:
    """The file that `at_byte` counts in: of a distributed checkpoint's tensors one of many."""
    storage = checkpoint.storages.get(tensor.storage)
    return tensor.file if storage is None else storage.file


def _at_byte(checkpoint: Checkpoint, tensor: TensorInfo) -> int | None:
    """Where in its file its first element lies; None where there is no such place (missing, compressed)."""
    storage = checkpoint.storages.get(tensor.storage)
    if storage is None or storage.offset is None or storage.deflated_bytes is not None:
        return None
    element_bytes = tensor.size_bytes // tensor.num_elements if tensor.num_elements else 0
    return storage.offset + tensor.offset * element_bytes


def _optimizer(checkpoint: Checkpoint) -> object:
    """The facts, and under `moments` the tensors that each parameter has: by the parameter's name where `by_name`."""
    facts = as_json(checkpoint.optimizer)
    assert isinstance(facts, dict)
    if facts:
        from ckpt_tui.checkpoints.moments import moments_of

        moments, by_name = moments_of(checkpoint)
        facts["by_name"] = by_name
        facts["moments"] = [
            {"parameter": entry.parameter, "tensors": {key: info.name for key, info in entry.tensors.items()}}
            for entry in moments
        ]
    return facts


def as_json(state: object) -> object:
    """`state` in JSON's types. Depth is bounded, so the recursion is too; a cycle becomes {"cycle": true}."""
    num_nodes = 0
    on_path: set[int] = set()

    def convert(value: object, depth: int) -> object:
        nonlocal num_nodes
        num_nodes += 1
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, str):
            return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "…"
        if isinstance(value, int):
            return value if value.bit_length() <= 4096 else {"int_bits": value.bit_length()}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": len(value), "hex": value[:_MAX_BYTES].hex()}
        if isinstance(value, TensorRef):
            return {"tensor": value.info.name}
        if num_nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return {"cut": "too many values" if num_nodes > _MAX_NODES else "too deep"}
        if id(value) in on_path:
            return {"cycle": True}
        on_path.add(id(value))
        try:
            if isinstance(value, dict):
                members: dict[str, object] = {}
                for key, item in value.items():
                    name = _key(key)
                    if name in members:  # 1 and "1" are two keys of one dict
                        name = f"{name} ({type(key).__name__} #{len(members)})"
                    members[name] = convert(item, depth + 1)
                return members
            if isinstance(value, (list, tuple)):
                return [convert(item, depth + 1) for item in value]
            if isinstance(value, OpaqueObject):
                left_in_file = getattr(
                    value, "num_bytes", None
                )  # bytes that were not read: `pickle_source.DistantBytes`
                if left_in_file is not None and value.type_name == "builtins.bytes":
                    return {"bytes": left_in_file, "hex": getattr(value, "head", b"")[:_MAX_BYTES].hex()}
                kept: dict[str, object] = {"type": value.type_name}
                for word in ("args", "state", "items", "entries"):
                    inner = getattr(value, word)
                    if inner is not None and inner != () and inner != [] and inner != {}:
                        kept[word] = convert(inner, depth + 1)
                return kept
            return str(type(value).__name__)
        finally:
            on_path.discard(id(value))

    return convert(state, 0)


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    return key[:200].decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
