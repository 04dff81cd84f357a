"""Which part of a decoded state is the model, the optimizer and so on: by the names that frameworks give them, and by
what is in them where the name says nothing."""

from __future__ import annotations

from ckpt_tui.checkpoints.model import Checkpoint, OpaqueObject, Part, TensorRef
from ckpt_tui.checkpoints.plain import entries_of, visible_settings

MODEL_KEYS = (
    "model", "model_state_dict", "state_dict", "model_state", "module", "net", "weights", "network_weights",
    "generator", "discriminator", "netG", "netD", "student", "encoder", "decoder", "network", "params",
)  # fmt: skip
OPTIMIZER_KEYS = (
    "optimizer", "optimizer_state_dict", "optimizer_states", "optim", "optimizer_state", "optimizers", "opt",
    "last_optimizer_state", "optimizer_state_dicts",
)  # fmt: skip
ROLE_KEYS = {
    "model": MODEL_KEYS,
    "optimizer": OPTIMIZER_KEYS,
    "scheduler": (
        "scheduler", "lr_scheduler", "lr_schedulers", "scheduler_state_dict", "lr_scheduler_state_dict", "schedulers",
        "param_schedulers", "opt_param_scheduler", "lr_scheduler_state",
    ),
    "scaler": (
        "scaler", "grad_scaler", "scaler_state_dict", "native_amp_scaling_state", "amp_scaler", "fp16_scaler",
        "grad_scaler_state", "loss_scaler", "MixedPrecision", "MixedPrecisionPlugin", "amp",
    ),
    "ema": ("ema", "model_ema", "ema_state_dict", "state_dict_ema", "ema_model", "ema_state", "teacher", "g_ema"),
    "rng": (
        "rng_state", "rng", "rng_states", "random_states", "torch_rng_state", "random_rng_state", "rng_state_dict",
        "cuda_rng_state", "random_state",
    ),
    "dataloader": (
        "dataloader_state", "dataloader", "sampler", "data_state", "dataloader_state_dict", "train_dataloader",
        "dataset_state", "sampler_state", "train_iterator", "data_loader",
    ),
}  # fmt: skip
# Lightning's WeightAveraging (EMAWeightAveraging is one) puts the average where the weights were, and them here.
_OF_AVERAGED: dict[str, tuple[str, ...]] = {"model": ("current_model_state",), "ema": ("state_dict",)}
SETTINGS_KEYS = (
    "args", "hyper_parameters", "datamodule_hyper_parameters", "hparams", "hyperparameters", "config", "cfg",
    "model_args", "train_args", "opt", "options", "init_args", "model_config", "model_kwargs", "training_args",
)  # fmt: skip
_BESIDE_TENSORS = ("_packed_params", "dtype", "_extra_state")  # of a layer's state
_MAX_LOOKED_AT = 10_000  # keys of a state: a state dict of weights can have a million


def find_parts(checkpoint: Checkpoint, file: str) -> list[Part]:
    """The parts of a single file by what is in its state; `file`: its name in a directory, "" when it is alone."""
    state = entries_of(checkpoint.state)
    if state is None:
        return []
    if checkpoint.format in ("torchscript", "torch-export"):
        return [Part("model", file, "", state)]  # a module and nothing else, whatever its submodules are called
    if checkpoint.tensors and state and _are_tensors(state):
        return [Part("model", file, "", state), Part("progress", file, "", state)]
    if isinstance(checkpoint.state, OpaqueObject) and "_modules" in state:
        # A whole module, as torch.save(model) writes it: its submodules may be called anything.
        return [Part("model", file, "", state), Part("progress", file, "", state)]
    if isinstance(checkpoint.state, OpaqueObject) and not checkpoint.tensors:
        return [Part("settings", file, "", visible_settings(state))]  # training_args.bin, a Namespace by itself
    parts = _named_parts(state, file, "")
    if not any(part.role in ("model", "optimizer") for part in parts):
        for key, value in list(state.items())[:100]:  # Composer's `state`, or whatever holds all of it
            inner = value if isinstance(value, dict) else None
            if inner and isinstance(key, str) and _holds_training(inner):
                parts += _named_parts(inner, file, f"{key}.")
                parts += _settings(inner, file, f"{key}.")
                parts.append(Part("progress", file, f"{key}.", inner))
                break
    parts += _parts_by_content(state, file, {part.prefix for part in parts}, {part.role for part in parts})
    parts.sort(key=_model_first)
    parts += _settings(state, file, "")
    parts.append(Part("progress", file, "", state))
    return parts


def _model_first(part: Part) -> int:
    return 0 if part.role == "model" else 1


def _named_parts(state: dict[object, object], file: str, prefix: str) -> list[Part]:
    """Parts by their keys. Of a role the first key counts, and others when they hold what such a part holds."""
    parts = []
    is_averaged = "current_model_state" in state and "averaging_state" in state
    for role, keys in (ROLE_KEYS | _OF_AVERAGED if is_averaged else ROLE_KEYS).items():
        is_first = True
        for key in keys:
            value = state.get(key)
            if value is None or not _can_be(role, key, value):
                continue
            if is_first or _is_like(role, value):
                parts.append(Part(role, file, f"{prefix}{key}.", value))
                is_first = False
    return parts


def _can_be(role: str, key: str, value: object) -> bool:
    """Whether a value can be a part of that role at all."""
    if isinstance(value, TensorRef):
        return role == "rng"
    if not isinstance(value, (dict, list, tuple, OpaqueObject)) or value in ({}, [], ()):
        return False
    if isinstance(value, OpaqueObject) and role != "rng" and not (entries_of(value) or value.items):
        return False  # an enum, a class
    if key in ("opt", "amp", "params", "encoder", "decoder", "network", "generator", "random_state"):
        return _is_like(role, value)  # settings or something else as often
    return True


def _is_like(role: str, value: object) -> bool:
    """Whether a value has in it what a part of that role has, whatever it is called."""
    entries = entries_of(value)
    if entries is None:
        inner = value[:100] if isinstance(value, (list, tuple)) else ()
        return role in ("optimizer", "scheduler") and bool(inner) and all(_is_like(role, item) for item in inner)
    if role == "optimizer":
        if isinstance(entries.get("param_groups"), list):
            return "state" in entries
        return 0 < len(entries) <= 100 and all(
            isinstance(item, dict) and isinstance(item.get("param_groups"), list) for item in entries.values()
        )
    if role == "scheduler":
        return "last_epoch" in entries and ("base_lrs" in entries or "_step_count" in entries or "_last_lr" in entries)
    if role == "scaler":
        return "scale" in entries and "growth_factor" in entries
    if role in ("model", "ema"):
        return _are_tensors(entries) or "_modules" in entries
    return role == "rng" and any(isinstance(item, TensorRef) for item in list(entries.values())[:20])


def _are_tensors(entries: dict[object, object]) -> bool:
    """Whether a dict is a module's state: tensors, and what quantized layers and others keep beside them."""
    if not entries:
        return False
    others = [key for key, item in entries.items() if not isinstance(item, TensorRef)]
    return not others or (
        len(others) < len(entries)
        and all(isinstance(key, str) and key.rpartition(".")[2] in _BESIDE_TENSORS for key in others)
    )


def _holds_training(inner: dict[object, object]) -> bool:
    """Whether a value of the state is itself a training state."""
    return any(key in inner for key in ("model", "state_dict", "model_state_dict")) and any(
        isinstance(inner.get(key), (dict, OpaqueObject)) for key in MODEL_KEYS
    )


def _parts_by_content(state: dict[object, object], file: str, taken: set[str], roles: set[str]) -> list[Part]:
    """Parts whose name says nothing: dicts that look like what an optimizer, scheduler, scaler or module leaves."""
    parts = []
    for key, value in list(state.items())[:_MAX_LOOKED_AT]:
        if not isinstance(key, str) or f"{key}." in taken or not isinstance(value, (dict, OpaqueObject)):
            continue
        for role in ("optimizer", "scheduler", "scaler"):
            if _is_like(role, value):
                parts.append(Part(role, file, f"{key}.", value))
                break
        else:
            if "model" not in roles and _is_like("model", value) and not _is_random(key):
                parts.append(Part("model", file, f"{key}.", value))
    return parts


def _is_random(key: str) -> bool:
    lowered = key.lower()
    return "rng" in lowered or "random" in lowered or "seed" in lowered


def _settings(state: dict[object, object], file: str, prefix: str) -> list[Part]:
    found = []
    for key in SETTINGS_KEYS:
        entries = entries_of(state.get(key))
        if entries and not _is_like("optimizer", entries):
            found.append(Part("settings", file, f"{prefix}{key}.", state[key]))
    return found
