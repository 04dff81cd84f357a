"""What a trainer asks first, found in the decoded state: progress, settings, which parts are there, the optimizer."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject, Part, TensorInfo, TensorRef
from ckpt_tui.checkpoints.plain import entries_of, plain_value

ROLES = ("model", "optimizer", "scheduler", "scaler", "ema", "rng", "dataloader")
MODEL_KEYS = ("model", "model_state_dict", "state_dict", "model_state", "module", "net", "weights")
OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "optimizer_state")
_ROLE_KEYS = {
    "model": MODEL_KEYS,
    "optimizer": OPTIMIZER_KEYS,
    "scheduler": ("scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "lr_scheduler_state_dict"),
    "scaler": ("scaler", "grad_scaler", "scaler_state_dict", "native_amp_scaling_state"),
    "ema": ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model"),
    "rng": ("rng_state", "rng", "rng_states", "random_states", "torch_rng_state"),
    "dataloader": ("dataloader_state", "dataloader", "sampler", "data_state", "dataloader_state_dict"),
}
_STEP_KEYS = ("step", "global_step", "global_steps", "iteration", "iter", "iter_num", "num_timesteps", "current_step")
_PROGRESS = {
    "epoch": ("epoch", "current_epoch"),
    "train_loss": ("train_loss", "loss"),
    "val_loss": ("val_loss", "valid_loss", "eval_loss", "best_val_loss"),
    "best_metric": ("best_metric", "best_score"),
    "checkpoint_type": ("checkpoint_type", "kind"),
}
_TIME_KEYS = ("timestamp", "saved_at", "time", "created_at")
_SETTINGS = ("args", "hyper_parameters", "hparams", "hyperparameters", "config", "cfg", "model_args")
_VERSIONS = ("pytorch_version", "torch_version", "format_version", "pytorch-lightning_version", "version")


def add_facts(checkpoint: Checkpoint) -> None:
    """Fill parts, progress, hyperparameters, has, optimizer and versions; leaves out what it does not find."""
    if not checkpoint.parts:
        checkpoint.parts = find_parts(checkpoint, "")
    found = {part.role for part in checkpoint.parts}
    checkpoint.has += [role for role in ROLES if role in found and role not in checkpoint.has]
    for part in checkpoint.parts:
        entries = entries_of(part.value)
        if entries is None:
            continue
        if part.role == "progress":
            _add_progress(checkpoint, entries)
            for key in _VERSIONS:
                if isinstance(entries.get(key), (str, int)):
                    checkpoint.metadata.setdefault(key, entries[key])
        elif part.role == "settings" and entries:
            plain = plain_value(entries)
            assert isinstance(plain, dict)
            checkpoint.hyperparameters.update({k: v for k, v in plain.items() if k not in checkpoint.hyperparameters})
    for optimizer in optimizers_of(checkpoint):
        if "param_groups" in optimizer.value:
            checkpoint.optimizer = _optimizer_facts(optimizer.value, checkpoint.hyperparameters)
            break


def find_parts(checkpoint: Checkpoint, file: str) -> list[Part]:
    """The parts of a single file by the names in its state; `file`: its name in a directory, "" when it is alone."""
    state = entries_of(checkpoint.state)
    if state is None:
        return []
    if checkpoint.format in ("torchscript", "torch-export"):
        return [Part("model", file, "", state)]  # a module and nothing else, whatever its submodules are called
    parts = []
    for role, keys in _ROLE_KEYS.items():
        for key in keys:
            value = state.get(key)
            if _is_part(value) and value not in ({}, [], ()):
                parts.append(Part(role, file, f"{key}.", value))
                break
    is_bare = bool(checkpoint.tensors) and all(part.role != "model" for part in parts)
    if is_bare and all(isinstance(value, TensorRef) for value in state.values()):
        parts.insert(0, Part("model", file, "", state))
    elif is_bare and isinstance(checkpoint.state, OpaqueObject) and "_modules" in state:
        parts.insert(0, Part("model", file, "", state))  # a whole module, as torch.save(model) writes it
    parts += [Part("settings", file, f"{key}.", state[key]) for key in _SETTINGS if entries_of(state.get(key))]
    parts.append(Part("progress", file, "", state))
    return parts


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
        if isinstance(part.value, dict):
            found.append(OptimizerState(where, part.value))
        elif isinstance(part.value, (list, tuple)):
            items = [item for item in part.value[:100] if isinstance(item, dict)]
            found += [OptimizerState(f"{where}.{number}", item) for number, item in enumerate(items)]
    return found


def _is_part(value: object) -> bool:
    return isinstance(value, (dict, list, tuple, TensorRef, OpaqueObject))


def _add_progress(checkpoint: Checkpoint, state: dict[object, object]) -> None:
    progress = checkpoint.progress
    inner = state.get("train_state")
    nested = inner if isinstance(inner, dict) else {}
    for key in _STEP_KEYS:
        for place in (state, nested):
            if "step" not in progress and type(place.get(key)) is int:
                progress["step"] = place[key]
    for word, keys in _PROGRESS.items():
        for key in keys:
            value = state.get(key, nested.get(key))
            if word not in progress and type(value) in (int, float, str):
                progress[word] = value
    metrics = state.get("val_metrics")
    if isinstance(metrics, dict):
        for name, value in list(metrics.items())[:100]:
            if type(value) in (int, float) and isinstance(name, str):
                progress.setdefault(name, value)
    for key in _TIME_KEYS:
        saved_at = _seconds(state.get(key))
        if saved_at is not None:
            progress["saved_at"] = saved_at
            break


def _seconds(value: object) -> float | None:
    """Unix seconds of a time as trainers store it: a number, or ISO text."""
    if type(value) in (int, float):
        return float(value) if 1e8 < value < 1e11 else None  # type: ignore[operator, arg-type]
    if type(value) is str and 10 <= len(value) <= 40:
        from datetime import datetime

        try:
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    return None


def _optimizer_facts(optimizer: dict[object, object], settings: dict[str, object]) -> dict[str, object]:
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
            kept.append({**plain, "num_parameters": listed})
    moments: dict[str, int] = {}
    for state in states.values() if isinstance(states, dict) else ():
        if isinstance(state, dict):
            for name in list(state)[:20]:
                if isinstance(name, str):
                    moments[name] = moments.get(name, 0) + 1
    named = settings.get("optimizer")
    if isinstance(named, str):
        facts["type"] = named
    elif "exp_avg_sq" in moments:
        decoupled = {group.get("decoupled_weight_decay") for group in kept if isinstance(group, dict)}
        facts["type"] = "AdamW" if decoupled == {True} else "Adam" if decoupled == {False} else "Adam or AdamW"
    elif "momentum_buffer" in moments:
        facts["type"] = "SGD with momentum"
    facts["groups"] = kept
    facts["num_parameters"] = num_parameters
    facts["state"] = moments
    return facts


def model_tensors(checkpoint: Checkpoint) -> list[TensorInfo]:
    """The tensors of the model's state dict (buffers included: a file cannot always tell them apart); all of them
    where the file is nothing but weights."""
    parts = [part for part in checkpoint.parts if part.role == "model"]
    if len(parts) == 1 and not parts[0].prefix and not parts[0].file:
        return checkpoint.tensors
    return [tensor for tensor in checkpoint.tensors if any(part.holds(tensor) for part in parts)]


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
