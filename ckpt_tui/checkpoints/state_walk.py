"""Names for the tensors of a decoded state: one walk, without recursion, that ends on every graph."""

from __future__ import annotations

from collections.abc import Iterator

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import CompositeRef, Finding, OpaqueObject, Severity, TensorInfo, TensorRef
from ckpt_tui.checkpoints.pickle_rebuild import StorageRef
from ckpt_tui.errors import CkptError

_MAX_REPEATED_NODES = 200_000  # of containers that stand in several places; a pickle can repeat them exponentially
_CONTAINERS = (dict, list, tuple, OpaqueObject, CompositeRef, StorageRef)
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")


def name_tensors(state: object, limits: ReadLimits, findings: list[Finding]) -> list[TensorInfo]:
    """Every tensor of `state` in order, each under its dotted path; fills the `index` of each `TensorRef`.

    A tensor or container that stands in several places is listed in each. Raises CkptError at the limits of nodes,
    tensors and name bytes; what lies deeper than `max_depth` is left out, with a finding.
    """
    tensors: list[TensorInfo] = []
    if type(state) is StorageRef:
        state.info = state.as_tensor()
    if isinstance(state, TensorRef):
        state.info.name, state.index = "", 0
        tensors.append(state.info)
    seen: set[int] = set()
    path: list[str] = []
    on_path: set[int] = {id(state)}
    frames: list[tuple[Iterator[tuple[object, object]], object]] = [(_children(state), state)]
    num_nodes, num_repeated, name_bytes = 0, 0, 0
    num_composite = int(type(state) is CompositeRef)  # of what is being listed: what is below them is a component
    repeated_at: int | None = None  # the depth at which a container came for the second time
    too_deep = cut = False
    while frames:
        children, container = frames[-1]
        prefix: str | None = None
        for key, value in children:
            num_nodes += 1
            kind = type(value)
            if kind is TensorRef:
                assert isinstance(value, TensorRef)
                if prefix is None:
                    prefix = ".".join(path) + "." if path else ""
                name = prefix + (key if type(key) is str else _key_text(key))
                name_bytes += len(name)
                info, index = value.info, len(tensors)
                if value.index >= 0:
                    info = copy_info(info)
                    if type(container) in (dict, list):
                        container[key] = TensorRef(info, index)  # type: ignore[index]
                else:
                    value.index = index
                info.name = name
                if num_composite:
                    info.is_component = True
                tensors.append(info)
            elif kind in _CONTAINERS:
                place = id(value)
                if place in on_path:
                    continue  # a cycle: it is being listed already
                if kind is StorageRef and isinstance(container, OpaqueObject):
                    continue  # what a tensor was to be made of that makes no sense
                if kind is CompositeRef or kind is StorageRef:
                    assert isinstance(value, TensorRef)
                    info = _listed(value, (".".join(path) + "." if path else "") + _key_text(key), len(tensors))
                    info.is_component = num_composite > 0
                    name_bytes += len(info.name)
                    tensors.append(info)
                    if kind is StorageRef:
                        continue
                if place in seen:
                    if num_repeated > _MAX_REPEATED_NODES:
                        cut = True
                        continue
                    if repeated_at is None:
                        repeated_at = len(frames)
                if len(frames) >= limits.max_depth:
                    too_deep = True
                    continue
                seen.add(place)
                on_path.add(place)
                path.append(key if type(key) is str else _key_text(key))
                frames.append((_children(value), value))
                num_composite += kind is CompositeRef
                break
            if repeated_at is not None:
                num_repeated += 1
        else:
            frames.pop()
            on_path.discard(id(container))
            num_composite -= type(container) is CompositeRef
            if path:
                path.pop()
            if repeated_at is not None and len(frames) <= repeated_at:
                repeated_at = None
            if num_repeated and repeated_at is not None:
                num_repeated += 1
        if num_nodes > limits.max_nodes or len(tensors) > limits.max_tensors or name_bytes > limits.max_string_bytes:
            raise CkptError(
                "Not readable", "it holds more values than a checkpoint can", "It may have been made to harm."
            )
        if repeated_at is not None:
            num_repeated += 1
    if too_deep:
        findings.append(
            Finding(
                "too-deep", Severity.WARNING, "state", f"parts nested deeper than {limits.max_depth:,} are not shown"
            )
        )
    if cut:
        findings.append(
            Finding("repeated", Severity.WARNING, "state", "parts that repeat without end are listed once only")
        )
    return tensors


def tensor_references(state: object) -> Iterator[TensorRef]:
    """Every `TensorRef` object of a state, each once."""
    waiting: list[object] = [state]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, TensorRef):
            seen.add(id(value))
            yield value
            if isinstance(value, CompositeRef):
                waiting += [item for _, item in _children(value) if isinstance(item, (*_CONTAINERS, TensorRef))]
        elif isinstance(value, _CONTAINERS):
            seen.add(id(value))
            waiting += [item for _, item in _children(value) if isinstance(item, (*_CONTAINERS, TensorRef))]


def _listed(value: TensorRef, name: str, index: int) -> TensorInfo:
    """The line for a storage by itself or a tensor made of others; a copy where it is listed already."""
    info = value.info
    if value.index >= 0:
        info = copy_info(info)
    else:
        value.index = index
        if type(value) is StorageRef:
            info = value.info = value.as_tensor()
    info.name = name
    return info


def _children(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, dict):
        return iter(list(value.items()))
    if isinstance(value, (list, tuple)):
        return iter(enumerate(value))
    if isinstance(value, OpaqueObject):
        return _opaque_children(value)
    if isinstance(value, CompositeRef):
        return iter(list(value.parts.items()))
    return iter(())


def _opaque_children(value: OpaqueObject) -> Iterator[tuple[object, object]]:
    yield from enumerate(value.args)
    state = value.state
    if isinstance(state, dict):
        if "_modules" in state and all(isinstance(state.get(name), dict) for name in _MODULE_PARTS):
            # A saved module: its tensors are named as its state dict would name them.
            for name in _MODULE_PARTS:
                yield from list(state[name].items())
            yield from [(name, part) for name, part in state.items() if name not in _MODULE_PARTS]
        else:
            yield from list(state.items())
    elif state is not None:
        yield "state", state
    yield from enumerate(value.items)
    yield from list(value.entries.items())


def _key_text(key: object) -> str:
    if isinstance(key, bytes):
        return key[:200].decode("utf-8", "backslashreplace")
    return str(key)


def copy_info(info: TensorInfo) -> TensorInfo:
    """The same tensor for another name."""
    return TensorInfo(
        "", info.file, info.shape, info.dtype, info.size_bytes, info.storage, info.stride, info.offset, info.device,
        info.layout, info.requires_grad, info.is_parameter, info.is_component, info.is_conj, info.is_neg,
    )  # fmt: skip
