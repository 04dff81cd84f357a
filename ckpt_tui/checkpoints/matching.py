"""Which tensors of two checkpoints are the same thing, whatever their formats, layouts and wrappers.

A tensor is known by its role and its name inside that part: the weights of a training checkpoint, of a directory of
shards and of a file that is nothing else go by the same names. What an optimizer remembers goes by the names of the
parameters where both sides can tell them, else by number. The file that a tensor lies in does not count.
"""

from __future__ import annotations

from collections import Counter

from ckpt_tui.checkpoints.facts import ROLES
from ckpt_tui.checkpoints.model import Checkpoint, Part, ShardedTensor, TensorInfo, TensorRef
from ckpt_tui.checkpoints.prefixes import AS_THEY_ARE, Renaming, find_renaming
from ckpt_tui.records import dataclass

Key = tuple[str, str]  # role, name in it


@dataclass(slots=True)
class Pair:
    """One tensor of a, of b, or of both. role: of which part, "" where that is not known. name: inside the part,
    wrappers' prefix taken off. parameter: whose moment it is, where an optimizer's parameters have names. is_tied: b
    (or a) has it under another name only, one that it shares its bytes with in the other checkpoint."""

    role: str
    name: str
    a: TensorInfo | None
    b: TensorInfo | None
    parameter: str = ""
    is_tied: bool = False


@dataclass(frozen=True, slots=True)
class Matching:
    """pairs: every tensor of either side, once. renaming: what was taken off the model's names. roles_a, roles_b: the
    parts that each side has."""

    pairs: tuple[Pair, ...]
    renaming: Renaming
    roles_a: frozenset[str]
    roles_b: frozenset[str]


def match_tensors(a: Checkpoint, b: Checkpoint) -> Matching:
    """Pair the tensors of two checkpoints."""
    labels_a, labels_b = _labels(a), _labels(b)
    have_models = [any(role == "model" for role, _ in labels) for labels in (labels_a, labels_b)]
    if any(have_models):
        # Weights under a name that nothing is known of (`params`): what is no other part can only be the model.
        labels_a, labels_b = (_with_model(labels_a), _with_model(labels_b))
    parameters_a, parameters_b = _moment_names(a), _moment_names(b)
    if not parameters_a or not parameters_b:
        parameters_a = parameters_b = {}
    renamings = {
        role: find_renaming(_shapes(a, labels_a, role), _shapes(b, labels_b, role))
        for role in ("model", "ema")
        if any(key[0] == role for key in labels_a) and any(key[0] == role for key in labels_b)
    }
    renaming = renamings.get("model", AS_THEY_ARE)
    keys_a = _keys(a, labels_a, parameters_a, renamings, is_a=True)
    keys_b = _keys(b, labels_b, parameters_b, renamings, is_a=False)
    pieces_a, pieces_b = _pieces(a), _pieces(b)
    place_b = {key: index for index, key in enumerate(keys_b) if index not in pieces_b}
    free_b = set(place_b.values())
    pairs: list[Pair] = []
    for index, key in enumerate(keys_a):
        if index in pieces_a:
            continue
        other = place_b.get(key)
        parameter = parameters_a.get(index, ("", ""))[0]
        pair = Pair(*key, a.tensors[index], None if other is None else b.tensors[other], parameter)
        if other is not None:
            free_b.discard(other)
        pairs.append(pair)
    _match_whole_names(pairs, b, free_b - parameters_b.keys(), free_b)
    for index in sorted(free_b):
        pairs.append(Pair(*keys_b[index], None, b.tensors[index], parameters_b.get(index, ("", ""))[0]))
    _match_tied(pairs)
    return Matching(tuple(pairs), renaming, _roles(a, labels_a), _roles(b, labels_b))


def _pieces(checkpoint: Checkpoint) -> set[int]:
    """The places of tensors that are pieces of another one, and are compared with it."""
    pieces = {
        id(piece) for tensor in checkpoint.tensors if isinstance(tensor, ShardedTensor) for _, piece in tensor.chunks
    }
    return {index for index, tensor in enumerate(checkpoint.tensors) if id(tensor) in pieces} if pieces else set()


def view_of(tensor: TensorInfo) -> tuple[object, ...]:
    """What two tensors share when they show the same bytes alike; a tensor without a storage shares with none."""
    place: object = tensor.storage or id(tensor)
    return (place, tensor.shape, tensor.stride, tensor.offset, tensor.dtype, tensor.layout)


def _labels(checkpoint: Checkpoint) -> list[Key]:
    """(role, name inside the part) of every tensor; the whole name where no part holds it."""
    of_file: dict[str, list[Part]] = {}
    for part in checkpoint.parts:
        if part.role in ROLES:
            of_file.setdefault(part.file, []).append(part)
    prefixes = {file: _prefixes(parts) for file, parts in of_file.items()}
    return [_label(tensor.name, prefixes.get(tensor.file, ())) for tensor in checkpoint.tensors]


def _with_model(labels: list[Key]) -> list[Key]:
    if any(role == "model" for role, _ in labels):
        return labels
    return [(role or "model", name) for role, name in labels]


def _prefixes(parts: list[Part]) -> tuple[tuple[str, str, str], ...]:
    """(how names begin, role, what goes before the rest of the name), the longest first."""
    found = []
    for part in parts:
        found.append((part.prefix, part.role, ""))
        if part.role == "optimizer" and isinstance(part.value, (list, tuple)):
            # A list of one optimizer is that optimizer.
            found += [(f"{part.prefix}{n}.", part.role, f"{n}." if n else "") for n in range(len(part.value[:100]))]
    return tuple(sorted(found, key=lambda item: -len(item[0])))


def _label(name: str, prefixes: tuple[tuple[str, str, str], ...]) -> Key:
    for prefix, role, before in prefixes:
        if name.startswith(prefix):
            return role, before + name[len(prefix) :]
        if name == prefix[:-1]:
            return role, ""
    return "", name


def _shapes(checkpoint: Checkpoint, labels: list[Key], role: str) -> dict[str, tuple[int, ...]]:
    tensors = zip(labels, checkpoint.tensors, strict=True)
    return {key[1]: tensor.shape for key, tensor in tensors if key[0] == role and not tensor.is_component}


def _moment_names(checkpoint: Checkpoint) -> dict[int, tuple[str, str]]:
    """(parameter, moment) of the tensors of the optimizer by their places, where its parameters have names."""
    from ckpt_tui.checkpoints.moments import moments_of

    if not any(part.role == "optimizer" for part in checkpoint.parts):
        return {}
    moments, are_named = moments_of(checkpoint)
    if not are_named:
        return {}
    return {
        value.index: (moment.parameter, str(key))
        for moment in moments
        for key, value in moment.values.items()
        if isinstance(value, TensorRef) and 0 <= value.index < len(checkpoint.tensors)
    }


def _keys(
    checkpoint: Checkpoint,
    labels: list[Key],
    parameters: dict[int, tuple[str, str]],
    renamings: dict[str, Renaming],
    is_a: bool,
) -> list[Key]:
    """What each tensor is matched by: never the same for two of one checkpoint."""
    keys: list[Key] = []
    of_model = renamings.get("model", AS_THEY_ARE)
    for index, (role, name) in enumerate(labels):
        if index in parameters:
            parameter, moment = parameters[index]
            renamed = of_model.name_a(parameter) if is_a else of_model.name_b(parameter)
            keys.append(("optimizer", f"of {parameter if renamed is None else renamed}: {moment}"))
            continue
        renaming = renamings.get(role, AS_THEY_ARE)
        renamed = renaming.name_a(name) if is_a else renaming.name_b(name)
        # One that has not the wrapper's prefix is not of the wrapped model, whatever it is called.
        keys.append((role, f"outside: {name}" if renamed is None else renamed))
    counts = Counter(keys)
    if len(counts) == len(keys):
        return keys
    named: list[Key] = []
    seen: Counter[Key] = Counter()
    for key, tensor in zip(keys, checkpoint.tensors, strict=True):
        if counts[key] > 1:  # the same part of several ranks: each in its file
            key = (key[0], f"{tensor.file}:{key[1]}")
            seen[key] += 1
            if seen[key] > 1:
                key = (key[0], f"{key[1]} ({seen[key]})")
        named.append(key)
    return named


def _match_whole_names(pairs: list[Pair], b: Checkpoint, candidates: set[int], free_b: set[int]) -> None:
    """What is left and has the same whole name in the same file is the same, whatever part it is taken for; but not
    what has a parameter's name: there the number in its own name says nothing."""
    left = {(b.tensors[index].file, b.tensors[index].name): index for index in candidates}
    for pair in pairs:
        if pair.b is None and pair.a is not None and not pair.parameter:
            index = left.pop((pair.a.file, pair.a.name), None)
            if index is not None:
                pair.b = b.tensors[index]
                free_b.discard(index)


def _match_tied(pairs: list[Pair]) -> None:
    """Writers of safetensors leave out all but one of the names of tied weights: the others are there through it."""
    other_of_a = {view_of(pair.a): pair.b for pair in pairs if pair.a is not None and pair.b is not None}
    other_of_b = {view_of(pair.b): pair.a for pair in pairs if pair.a is not None and pair.b is not None}
    for pair in pairs:
        if pair.role not in ("model", "ema", ""):
            continue
        if pair.b is None and pair.a is not None and pair.a.num_elements:
            pair.b = other_of_a.get(view_of(pair.a))
            pair.is_tied = pair.b is not None
        elif pair.a is None and pair.b is not None and pair.b.num_elements:
            pair.a = other_of_b.get(view_of(pair.b))
            pair.is_tied = pair.a is not None


def _roles(checkpoint: Checkpoint, labels: list[Key]) -> frozenset[str]:
    return frozenset(part.role for part in checkpoint.parts if part.role in ROLES) | {
        role for role, _ in labels if role
    }
