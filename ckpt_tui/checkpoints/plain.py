"""Settings as plain values: what a person typed, out of the objects that frameworks wrap it in."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import OpaqueObject, TensorRef

_MAX_NODES = 10_000
_MAX_DEPTH = 20
_MAX_ITEMS = 1000
_MAX_ENTRIES = 5000
_SECRETS = ("hub_token", "push_to_hub_token")  # as transformers masks them where it shows its arguments


def entries_of(value: object) -> dict[object, object] | None:
    """The keys and values of a dict, or the attributes of a Namespace-like object; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, OpaqueObject):
        return None
    state = value.state
    if type(state) is tuple and len(state) == 2 and isinstance(state[1], dict):
        state = state[1] if state[0] is None else {**state[0], **state[1]} if isinstance(state[0], dict) else None
    if isinstance(state, dict) and state:
        # OmegaConf and ml_collections keep what a person typed one level down.
        for key in ("_content", "_fields"):
            if key in state and (value.type_name.startswith("omegaconf.") or key == "_fields"):
                return entries_of(state[key])
        return value.entries if value.entries and value.type_name.endswith("ConfigDict") else state
    return value.entries or None


def visible_settings(entries: dict[object, object]) -> dict[object, object]:
    """The attributes of a settings object without what is not a setting, or is a secret."""
    return {
        key: "hidden" if key in _SECRETS and value is not None else value
        for key, value in entries.items()
        if isinstance(key, str) and not key.startswith("_") and key != "distributed_state"
    }


def plain_value(value: object) -> object:
    """`value` with objects as their attributes, enums as their values, paths and classes as text. Bounded, ends on
    cycles."""
    budget = [_MAX_NODES]

    def plain(item: object, depth: int) -> object:
        budget[0] -= 1
        if item is None or isinstance(item, (str, int, float, bool)):
            return item
        if budget[0] < 0 or depth > _MAX_DEPTH:
            return "..."
        if isinstance(item, (list, tuple)):
            return [plain(inner, depth + 1) for inner in item[:_MAX_ITEMS]]
        if isinstance(item, OpaqueObject) and item.type_name.startswith("omegaconf."):
            item = _typed(item)
            if not isinstance(item, dict):
                return plain(item, depth + 1)
        entries = entries_of(item)
        if entries is not None:
            return {
                key if isinstance(key, str) else str(key): plain(inner, depth + 1)
                for key, inner in list(entries.items())[:_MAX_ENTRIES]
            }
        if isinstance(item, OpaqueObject):
            if item.items:
                return [plain(inner, depth + 1) for inner in item.items[:_MAX_ITEMS]]
            return _spelled(item)
        if isinstance(item, TensorRef):
            return f"tensor {list(item.info.shape)} {item.info.dtype}"
        return f"{len(item):,} bytes" if isinstance(item, bytes) else type(item).__name__

    return plain(value, 0)


def _typed(item: OpaqueObject) -> object:
    """What a node of an OmegaConf tree holds: a dict, a list, or the value of a leaf."""
    state = item.state
    if isinstance(state, dict):
        for key in ("_content", "_val"):
            if key in state:
                return state[key]
    return item.type_name


def _spelled(item: OpaqueObject) -> object:
    """An object without attributes: a path, a device, a set, a member of an enum; else the name of its class."""
    name, args = item.type_name, item.args
    if name.startswith("pathlib.") and all(isinstance(part, str) for part in args):
        return "/".join(str(part) for part in args).replace("//", "/")
    if name == "torch.device" and args:
        return ":".join(str(part) for part in args[:2])
    if name in ("builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"):
        return []
    if name == "datetime.datetime" and args and type(args[0]) is bytes and len(args[0]) == 10:
        raw = args[0]
        date = f"{raw[0] * 256 + raw[1]:04}-{raw[2] & 127:02}-{raw[3]:02}"
        return f"{date}T{raw[4]:02}:{raw[5]:02}:{raw[6]:02}"
    if len(args) == 1 and type(args[0]) in (str, int, float, bool):
        return args[0]  # enums are pickled as a call of their class with their value
    return name
