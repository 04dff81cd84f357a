"""Accelerate's `accelerator.save_state()`: models, optimizers and schedulers by number, random states by rank.

It records no step: the `step` in random_states_N.pkl is the position in a gradient accumulation. The step of the
training is in a registered object (custom_checkpoint_N.pkl), or only in the directory's name.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.facts import find_parts
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Part, Severity
from ckpt_tui.checkpoints.readers.directory import Listing, Parts
from ckpt_tui.checkpoints.readers.sharded import add_configs, add_weights, count_bytes, judge_rest, weights_of

_FSDP_WEIGHTS = "pytorch_model_fsdp"
_MAX_NUMBER = 10_000
_NUMBERED = (
    ("optimizer", "optimizer"),
    ("scheduler", "scheduler"),
    ("sampler", "dataloader"),
    ("dl_state_dict", "dataloader"),
)


class AccelerateReader:
    """A directory of `accelerator.save_state()`, also of scripts that keep their models in folders (diffusers)."""

    formats: tuple[str, ...] = ("accelerate",)

    def sniff(self, listing: Listing) -> str | None:
        files = listing.files
        if _ranked(listing, "random_states_", ".pkl") and not _is_only_random(listing):
            return "accelerate"
        if "optimizer.bin" in files and (_has_model(listing) or "scheduler.bin" in files):
            return "accelerate"
        is_custom = bool(_ranked(listing, "custom_checkpoint_", ".pkl"))
        return "accelerate" if is_custom and ("scheduler.bin" in files or _has_model(listing)) else None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        parts = Parts(listing, "accelerate", limits)
        _add_models(parts)
        add_configs(parts)
        for stem, role in _NUMBERED:
            _add_numbered(parts, stem, role)
        if "scaler.pt" in listing.files:
            parts.add("scaler.pt", "scaler")
        for rank in _in_order(parts, "random_states_", ".pkl", "the random states of that process"):
            parts.add(f"random_states_{rank}.pkl", "rng")
        for number in _in_order(parts, "custom_checkpoint_", ".pkl", "the state of a registered object"):
            _add_custom(parts, f"custom_checkpoint_{number}.pkl")
        _say_what_is_missing(parts)
        judge_rest(parts)
        count_bytes(parts)
        return parts.checkpoint


def _add_models(parts: Parts) -> None:
    listing = parts.listing
    found = add_weights(parts, ("model", "pytorch_model"))
    missing: list[int] = [] if found else [0]
    for number in range(1, _highest_model(listing) + 1):
        if add_weights(parts, (f"model_{number}", f"pytorch_model_{number}")):
            for absent in missing:
                name = f"model_{absent}.safetensors" if absent else "model.safetensors"
                parts.missing(name, f"it is not there, though model_{number} is: the models are counted from 0")
            found, missing = True, []
        else:
            missing.append(number)
    if f"{_FSDP_WEIGHTS}.bin" in listing.files:
        parts.add(f"{_FSDP_WEIGHTS}.bin", "model")
        found = True
    for folder in _folders(listing):
        role = "optimizer" if folder.startswith("optimizer_") else "ema" if "ema" in folder else "model"
        parts.add_directory(folder, "" if folder.startswith("pytorch_model") and "fsdp" not in folder else role)
        found = found or role == "model"
    if not found:
        for file in [file for file in listing.files if "/" not in file and file.endswith(".safetensors")]:
            parts.add(file, "model")
            found = True
    if not found:
        parts.missing("model.safetensors", "there is no file of weights: nothing can be loaded from it")


def _highest_model(listing: Listing) -> int:
    highest = 0
    for file in listing.files:
        for stem in ("model_", "pytorch_model_"):
            digits = file.partition(".")[0].removeprefix(stem)
            if file.startswith(stem) and digits.isdecimal() and len(digits) <= 4:
                highest = max(highest, int(digits))
    return highest


def _folders(listing: Listing) -> list[str]:
    """Directories that hold a part: FSDP's shards, DeepSpeed's `pytorch_model`, models in folders of their own."""
    heads = {file.partition("/")[0] for file in listing.files if "/" in file}
    found = []
    for name in sorted(heads):
        inside = {file.partition("/")[2] for file in listing.files if file.startswith(f"{name}/")}
        is_shards = name.startswith((f"{_FSDP_WEIGHTS}_", "optimizer_")) and name.rpartition("_")[2].isdecimal()
        is_deepspeed = name.startswith("pytorch_model") and any(file.endswith("_model_states.pt") for file in inside)
        is_model = bool(inside & {"config.json", "adapter_config.json"})
        if is_shards or is_deepspeed or is_model:
            found.append(name)
    return found


def _has_model(listing: Listing) -> bool:
    has_weights = bool(weights_of(listing, ("model", "pytorch_model"))) or f"{_FSDP_WEIGHTS}.bin" in listing.files
    return has_weights or bool(_folders(listing))


def _is_only_random(listing: Listing) -> bool:
    """Whether the random states stand among things that are no part of such a directory: a run's, for instance."""
    return not (_has_model(listing) or any(f"{stem}.bin" in listing.files for stem, _ in _NUMBERED)) and not any(
        file.endswith(".safetensors") for file in listing.files if "/" not in file
    )


def _add_numbered(parts: Parts, stem: str, role: str) -> None:
    """`optimizer.bin`, `optimizer_1.bin` ...: the first has no number."""
    files = parts.listing.files
    numbers = set(_ranked(parts.listing, f"{stem}_", ".bin"))
    if f"{stem}.bin" in files:
        numbers.add(0)
    last = max(numbers, default=-1)
    for number in range(min(last, _MAX_NUMBER) + 1):
        file = f"{stem}_{number}.bin" if number else f"{stem}.bin"
        if file in files:
            parts.add(file, role)
        elif role != "dataloader":  # only some loaders have a state
            what = f"it is not there, though {stem}_{last}.bin is: {role}s are counted from 0"
            parts.missing(file, what)


def _in_order(parts: Parts, prefix: str, suffix: str, what: str) -> list[int]:
    """The numbers that there are; those that are left out below the highest one are missing."""
    numbers = _ranked(parts.listing, prefix, suffix)
    there = set(numbers)
    for number in range(min(max(numbers, default=-1), _MAX_NUMBER)):
        if number not in there:
            message = f"it is not there, though {prefix}{numbers[-1]}{suffix} is: {what} are lost"
            parts.note("missing-part", Severity.WARNING, f"{prefix}{number}{suffix}", message, level="resume")
    return numbers


def _ranked(listing: Listing, prefix: str, suffix: str) -> list[int]:
    """The numbers of the files `prefix``number``suffix`, in order."""
    numbers = []
    for file in listing.files:
        digits = file.removeprefix(prefix).removesuffix(suffix)
        if file == f"{prefix}{digits}{suffix}" and digits.isdecimal() and len(digits) <= 6:
            numbers.append(int(digits))
    return sorted(numbers)


def _add_custom(parts: Parts, file: str) -> None:
    """A registered object's state: progress and settings are taken from it; its tensors are not the model. Of averaged
    weights neither: they count their own updates."""
    found = parts.add(file, "custom")
    if found is None:
        return
    parts.checkpoint.parts.pop()
    if found.tensors and isinstance(found.state, dict) and "decay" in found.state:
        parts.checkpoint.parts.append(Part("ema", file, "", found.state))
    else:
        parts.checkpoint.parts += [part for part in find_parts(found, file) if part.role != "model"]


def _say_what_is_missing(parts: Parts) -> None:
    listing = parts.listing
    has_deepspeed = any(folder.startswith("pytorch_model") and "fsdp" not in folder for folder in _folders(listing))
    has_optimizer = any(file.startswith("optimizer") for file in listing.files)
    missing = []
    if not has_optimizer and not has_deepspeed:
        missing.append(("optimizer.bin", "the optimizer's moments start at zero"))
    if not _ranked(listing, "random_states_", ".pkl"):
        missing.append(("random_states_0.pkl", "dropout and shuffling do not repeat what would have come"))
    for file, cost in missing:
        hint = "It can be resumed from, but not exactly."
        parts.note("missing-part", Severity.WARNING, file, f"it is not there: {cost}", hint, "resume")


READER = AccelerateReader()
