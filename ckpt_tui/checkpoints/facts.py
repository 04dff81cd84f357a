"""What a trainer asks first, found in the decoded state: progress, settings, which parts are there, the optimizer."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, TensorInfo
from ckpt_tui.checkpoints.parts import MODEL_KEYS as MODEL_KEYS
from ckpt_tui.checkpoints.parts import OPTIMIZER_KEYS as OPTIMIZER_KEYS
from ckpt_tui.checkpoints.parts import find_parts as find_parts
from ckpt_tui.checkpoints.plain import entries_of as entries_of
from ckpt_tui.checkpoints.plain import plain_value
from ckpt_tui.checkpoints.progress import PROGRESS_KEYS as PROGRESS_KEYS
from ckpt_tui.checkpoints.progress import add_progress, add_progress_of_name
from ckpt_tui.checkpoints.scalar import number_of

ROLES = ("model", "optimizer", "scheduler", "scaler", "ema", "rng", "dataloader")
_MAX_OPTIMIZERS = 100
_MAX_RATES = 1000  # groups whose learning rate is read when it is a tensor
_VERSIONS = ("pytorch_version", "torch_version", "format_version", "pytorch-lightning_version", "version")


def add_facts(checkpoint: Checkpoint) -> None:
    """Fill parts, progress, hyperparameters, has, optimizer and versions; leaves out what it does not find."""
    if not checkpoint.parts:
        checkpoint.parts = find_parts(checkpoint, "")
    for part in checkpoint.parts:
        entries = entries_of(part.value)
        if entries is None:
            continue
        if part.role == "progress":
            # Of mere weights one may be called `step`, too.
            is_weights = any(other.role == "model" and other.value is part.value for other in checkpoint.parts)
            add_progress(checkpoint.progress, entries, None if is_weights else lambda v: number_of(checkpoint, v))
            for key in _VERSIONS:
                if isinstance(entries.get(key), (str, int)):
                    checkpoint.metadata.setdefault(key, entries[key])
        elif part.role == "settings" and entries:
            plain = plain_value(entries)
            assert isinstance(plain, dict)
            checkpoint.hyperparameters.update({k: v for k, v in plain.items() if k not in checkpoint.hyperparameters})
    if isinstance(checkpoint.state, dict) and "pytorch-lightning_version" in checkpoint.state:
        from ckpt_tui.checkpoints.lightning import add_lightning, is_lightning

        if is_lightning(checkpoint.state):
            checkpoint.format = "lightning" if checkpoint.format.startswith("torch-") else checkpoint.format
            add_lightning(checkpoint, checkpoint.state)
    add_progress_of_name(checkpoint.progress, checkpoint.path, checkpoint.format == "accelerate")
    found = {part.role for part in checkpoint.parts}
    checkpoint.has += [role for role in ROLES if role in found and role not in checkpoint.has]
    optimizers = [optimizer for optimizer in optimizers_of(checkpoint) if "param_groups" in optimizer.value]
    # The settings name one type; DeepSpeed's others are the same optimizer on other ranks.
    is_alone = len(optimizers) == 1 or checkpoint.format == "deepspeed"
    settings = checkpoint.hyperparameters if is_alone else {}
    if optimizers:
        checkpoint.optimizer = _optimizer_facts(checkpoint, optimizers[0].value, settings)
    if len(optimizers) > 1 and not is_alone:
        checkpoint.optimizer["name"] = optimizers[0].where
        others = optimizers[1:_MAX_OPTIMIZERS]
        checkpoint.optimizer["others"] = [
            {**_optimizer_facts(checkpoint, o.value, {}), "name": o.where} for o in others
        ]


class OptimizerState:
    """One optimizer of a checkpoint. where: for messages (`optimizer_states.1`). value: its state dict."""

    __slots__ = ("value", "where")

    def __init__(self, where: str, value: dict[object, object]) -> None:
        self.where = where
        self.value = value


def optimizers_of(checkpoint: Checkpoint) -> list[OptimizerState]:
    """The state dict of every optimizer; a part may hold a list of them."""
    found = []
    for part in checkpoint.parts:
        if part.role != "optimizer":
            continue
        where = ": ".join(word for word in (part.file, part.prefix.removesuffix(".")) if word) or "optimizer"
        found += _optimizers_in(part.value, where)
    return found


def _optimizers_in(value: object, where: str) -> list[OptimizerState]:
    """One state dict, a list of them, or a dict of them by name (Composer); Megatron wraps it once more."""
    if isinstance(value, dict):
        if "param_groups" not in value:
            inner = value.get("optimizer")
            if isinstance(inner, dict) and "param_groups" in inner:
                return [OptimizerState(f"{where}.optimizer", inner)]
            named = [(k, v) for k, v in list(value.items())[:100] if isinstance(v, dict) and "param_groups" in v]
            if named:
                return [OptimizerState(f"{where}.{key}", item) for key, item in named]
        return [OptimizerState(where, value)]
    if isinstance(value, (list, tuple)):
        return [
            found
            for number, item in enumerate(value[:100])
            if isinstance(item, dict)
            for found in _optimizers_in(item, f"{where}.{number}")
        ]
    return []


def _optimizer_facts(
    checkpoint: Checkpoint, optimizer: dict[object, object], settings: dict[str, object]
) -> dict[str, object]:
    """Type as far as its state tells, groups without their parameters, which moments each parameter has."""
    groups = optimizer.get("param_groups")
    states = optimizer.get("state")
    facts: dict[str, object] = {}
    kept: list[object] = []
    num_parameters = 0
    for group in groups if isinstance(groups, list) else []:
        if isinstance(group, dict):
            parameters = group.get("params")
            listed = len(parameters) if isinstance(parameters, list) else 0
            num_parameters += listed
            plain = plain_value({key: value for key, value in group.items() if key != "params"})
            assert isinstance(plain, dict)
            rate = number_of(checkpoint, group.get("lr")) if len(kept) < _MAX_RATES else None
            if rate is not None:
                plain["lr"] = rate
            kept.append({**plain, "num_parameters": listed})
    moments: dict[str, int] = {}
    for state in states.values() if isinstance(states, dict) else ():
        if isinstance(state, dict):
            for name, value in list(state.items())[:20]:
                if isinstance(name, str) and value is not None:  # SGD without momentum keeps a buffer that is None
                    moments[name] = moments.get(name, 0) + 1
    kind = _optimizer_kind(moments, kept)
    named = settings.get("optimizer")
    if isinstance(named, str):
        kind = _kind_as_class(named, kind)
    for key in ("optim", "opt", "optimizer_name", "optimizer_type"):
        named = settings.get(key)
        if kind is None and isinstance(named, str):
            kind = named
    if kind is not None:
        facts["type"] = kind
    facts["groups"] = kept
    facts["num_parameters"] = num_parameters
    facts["state"] = moments
    return facts


# What only one optimizer keeps for each parameter. In this order: several keep a momentum besides.
_KEPT_BY = {
    "exp_avg_sq_row": "Adafactor", "exp_avg_sq_col": "Adafactor", "row_var": "Adafactor", "mu_product": "NAdam",
    "exp_inf": "Adamax", "acc_delta": "Adadelta", "square_avg": "RMSprop", "prev": "Rprop", "ax": "ASGD",
    "state2": "Adam with 8 bits", "exp_avg_sq": "Adam", "momentum_buffer": "SGD with momentum", "sum": "Adagrad",
    "exp_avg": "Lion",
}  # fmt: skip
# Settings that only one optimizer's groups have, whatever it keeps: Muon's momentum is called as that of SGD.
_SET_BY = {
    "ns_steps": "Muon", "tolerance_grad": "LBFGS", "beta2_decay": "Adafactor", "lr_decay": "Adagrad",
    "momentum_decay": "NAdam", "etas": "Rprop", "lambd": "ASGD", "rho": "Adadelta", "alpha": "RMSprop",
}  # fmt: skip


def _optimizer_kind(moments: dict[str, int], groups: list[object]) -> str | None:
    """The optimizer's class by what it keeps, else by the settings of its groups."""
    settings = [group for group in groups if isinstance(group, dict)]
    first = settings[0] if settings else {}
    if "ns_steps" in first:
        return "Muon"
    kind = next((kind for name, kind in _KEPT_BY.items() if name in moments), None)
    if kind is None and not moments:
        kind = next((kind for name, kind in _SET_BY.items() if name in first), None)
        if kind is None and ("amsgrad" in first or "decoupled_weight_decay" in first):
            kind = "Adam"
    if kind is None and "tolerance_grad" in first:
        return "LBFGS"
    if kind == "Lion" and not moments.keys() <= {"exp_avg", "step"}:
        return None  # Sophia, AdaBelief and others keep a first moment too
    if kind == "Adam":
        return _kind_of_adam(settings)
    return kind or ("SGD" if "dampening" in first and "nesterov" in first else None)


def _kind_as_class(named: str, kind: str | None) -> str:
    """What a setting names, as the class that the state tells where both mean the same: `adamw` is AdamW."""
    wanted = named.casefold()
    kinds = kind.split(" or ") if kind is not None else []
    exact = next((one for one in kinds if one.casefold() == wanted), None)
    if exact is not None:
        return exact
    return kinds[0] if len(kinds) == 1 and kinds[0].casefold().startswith(f"{wanted} ") else named


def _kind_of_adam(settings: list[dict[object, object]]) -> str:
    """Which of those that keep Adam's two moments, by how its groups differ."""
    # A file may have anything here: only the values are compared, never hashed.
    decoupled = [group.get("decoupled_weight_decay") for group in settings]
    if decoupled and all("decoupled_weight_decay" in group and "amsgrad" not in group for group in settings):
        return "RAdam"
    if decoupled and all("maximize" in group and "weight_decay" not in group for group in settings):
        return "SparseAdam"
    if decoupled and all(value is True for value in decoupled):
        return "AdamW"
    is_plain = decoupled and all(value is False for value in decoupled)
    return "Adam" if is_plain else "Adam or AdamW"


def model_tensors(checkpoint: Checkpoint) -> list[TensorInfo]:
    """The tensors of the model's state dict (buffers included: a file cannot always tell them apart); all of them
    where the file is nothing but weights."""
    parts = [part for part in checkpoint.parts if part.role == "model"]
    if len(parts) == 1 and not parts[0].prefix and not parts[0].file:
        weights = parts[0].value
        if not isinstance(weights, dict) or weights is checkpoint.state or checkpoint.format != "dcp":
            return checkpoint.tensors
        # torchtitan's weights stand at the top, beside everything else.
        from ckpt_tui.checkpoints.state_walk import tensor_references

        held = {id(reference.info) for reference in tensor_references(weights)}
        return [tensor for tensor in checkpoint.tensors if id(tensor) in held]
    whole = {part.file for part in parts if not part.prefix}  # shards: there can be hundreds
    others = [part for part in parts if part.prefix]
    return [t for t in checkpoint.tensors if t.file in whole or any(part.holds(t) for part in others)]


def keeps_order(checkpoint: Checkpoint) -> bool:
    """Whether the model's tensors stand as the model has them: safetensors sorts them, shards are apart."""
    models = [part for part in checkpoint.parts if part.role == "model"]
    return len(models) == 1 and not models[0].file.endswith(".safetensors")


def model_name(checkpoint: Checkpoint, tensor: TensorInfo) -> str:
    """The name of a tensor of the model as the model knows it: without the part's prefix."""
    part = next((p for p in checkpoint.parts if p.role == "model" and p.prefix and p.holds(tensor)), None)
    return tensor.name.removeprefix(part.prefix) if part is not None else tensor.name


def count_parameters(tensors: list[TensorInfo]) -> int:
    """Elements of the tensors, views of the same place of one storage counted once; of a tensor that is made of
    others its own, as torch's `numel()` does, and not those of its components."""
    seen = {(t.storage, t.offset, t.shape) if t.storage else id(t): t for t in tensors if not t.is_component}
    return sum(tensor.num_elements for tensor in seen.values())


def module_weights(tensors: list[TensorInfo], prefix: str = "", depth: int = 1) -> dict[str, tuple[int, int]]:
    """(parameters, bytes) per module, `depth` names below `prefix`; shared ones with the first that has them."""
    seen: set[object] = set()
    weights: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        place: object = (tensor.storage, tensor.offset, tensor.shape) if tensor.storage else id(tensor)
        if place in seen:
            continue
        seen.add(place)
        parts = tensor.name.removeprefix(prefix).split(".", depth)
        module = ".".join(parts[:depth])
        elements, num_bytes = weights.get(module, (0, 0))
        # A sparse or nested tensor has as many elements as it shows, and the bytes of its components.
        added = 0 if tensor.is_component else tensor.num_elements
        is_made_of_others = not tensor.storage and tensor.device != "meta"
        weights[module] = (elements + added, num_bytes + (0 if is_made_of_others else tensor.size_bytes))
    return weights
