"""`checkpoint-N/` of Hugging Face's Trainer: weights or an adapter, optimizer, scheduler, random states, trainer_state.

The data position is the step in trainer_state.json: a resume passes over that many batches of the same permutation.
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Part, Severity
from ckpt_tui.checkpoints.plain import entries_of, visible_settings
from ckpt_tui.checkpoints.readers.directory import Listing, Parts
from ckpt_tui.checkpoints.readers.sharded import add_configs, add_json, add_weights, count_bytes, judge_rest, weights_of
from ckpt_tui.errors import CkptError
from ckpt_tui.text import plural, safe_text

_STATE = "trainer_state.json"
_SETTINGS = "training_args.bin"
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin")  # .bin: FSDP with a full state dict
_FSDP_WEIGHTS = "pytorch_model_fsdp.bin"
_MAX_HISTORY = 1_000_000


class HfTrainerReader:
    """A directory that transformers.Trainer saved: to resume from, or the final model with its settings."""

    formats: tuple[str, ...] = ("hf-trainer",)

    def sniff(self, listing: Listing) -> str | None:
        files = listing.files
        has_weights = bool(weights_of(listing)) or _FSDP_WEIGHTS in files or bool(_folders(listing))
        has_settings = _SETTINGS in files
        if _STATE in files and (has_weights or has_settings or "optimizer.pt" in files):
            return "hf-trainer"
        if has_settings and (has_weights or "optimizer.pt" in files):
            return "hf-trainer"
        is_other = "model.pt" in files  # a layout with a file for each part
        return "hf-trainer" if "optimizer.pt" in files and _rng_files(listing) and not is_other else None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        parts = Parts(listing, "hf-trainer", limits)
        files = listing.files
        state = add_json(parts, _STATE, "progress") if _STATE in files else None
        settings = _add_settings(parts)
        _add_model(parts)
        add_configs(parts)
        for file in _OPTIMIZERS:
            if file in files:
                parts.add(file, "optimizer")
        for file, role in (("scheduler.pt", "scheduler"), ("scaler.pt", "scaler")):
            if file in files:
                parts.add(file, role)
        for file in _rng_files(listing):
            parts.add(file, "rng")
        if state is not None:
            add_trainer_state(parts.checkpoint.progress, state)
        if _is_resumable(parts):
            if state is not None:
                _add_data_position(parts, state, settings)
            _say_what_is_missing(parts, settings)
        else:
            why = "save_only_model was set" if settings.get("save_only_model") is True else "a final model, or a copy"
            what = f"weights without optimizer, scheduler and random states ({why}): it can be loaded, not resumed from"
            parts.note("weights-only", Severity.INFO, "", what, level="resume")
        judge_rest(parts)
        count_bytes(parts)
        return parts.checkpoint


def _add_settings(parts: Parts) -> dict[object, object]:
    """training_args.bin: the attributes of its TrainingArguments, without what is not a setting, or is a secret."""
    if _SETTINGS not in parts.listing.files:
        return {}
    num_parts = len(parts.checkpoint.parts)
    found = parts.add(_SETTINGS, "settings")
    entries = entries_of(found.state) if found is not None else None
    if entries is None:
        return {}
    parts.checkpoint.parts[num_parts] = Part("settings", _SETTINGS, "", visible_settings(entries))
    return entries


def _add_model(parts: Parts) -> None:
    """The weights, whichever way they were saved: transformers' own, FSDP's, or a directory of DeepSpeed's or DCP's."""
    found = add_weights(parts)
    if _FSDP_WEIGHTS in parts.listing.files:
        parts.add(_FSDP_WEIGHTS, "model")
        found = True
    for folder in _folders(parts.listing):
        if folder.startswith("optimizer_"):
            parts.add_directory(folder, "optimizer")
        elif folder.startswith("pytorch_model_fsdp_"):
            parts.add_directory(folder, "model")
            found = True
    step = _deepspeed_step(parts)
    if step:
        num_parts = len(parts.checkpoint.parts)
        parts.add_directory(step)
        if found:  # ZeRO's first stages keep the module once more: it is there, and not counted twice
            added = parts.checkpoint.parts[num_parts:]
            parts.checkpoint.parts[num_parts:] = [part for part in added if part.role != "model"]
        found = True
    if not found:
        parts.missing("weights", "there is no file of weights: nothing can be loaded from it")


def _folders(listing: Listing) -> list[str]:
    """Directories in it that hold a part: DeepSpeed's global_stepN, FSDP's sharded weights and optimizer."""
    heads = {file.partition("/")[0] for file in listing.files if "/" in file}
    return sorted(name for name in heads if _is_part_folder(name))


def _deepspeed_step(parts: Parts) -> str:
    """The directory of DeepSpeed's that a resume takes: what `latest` names, else the last one. "" without one."""
    steps = [folder for folder in _folders(parts.listing) if folder.startswith("global_step")]
    if not steps:
        return ""
    try:
        named = parts.listing.read_text("latest", 4096).decode("utf-8", "replace").strip()
    except (CkptError, OSError):
        named = ""
    if named in steps:
        return named
    last = max(steps, key=lambda folder: int(folder.removeprefix("global_step")))
    what = f"it names {safe_text(named, 80)}, which is not there" if named else "it is not there, or empty"
    hint = f"Write the name of the step into it: {last}"
    parts.note("missing-part", Severity.WARNING, "latest", f"{what}: DeepSpeed finds no step to load", hint, "resume")
    return last


def _is_part_folder(name: str) -> bool:
    for stem in ("global_step", "pytorch_model_fsdp_", "optimizer_"):
        if name.startswith(stem) and name[len(stem) :].isdecimal() and len(name) < 40:
            return True
    return False


def _rng_files(listing: Listing) -> list[str]:
    """rng_state.pth of one process, rng_state_0.pth ... of several, by rank."""
    ranked = [file for file in listing.files if _rank(file) is not None]
    return (["rng_state.pth"] if "rng_state.pth" in listing.files else []) + sorted(ranked, key=lambda f: _rank(f) or 0)


def _rank(file: str) -> int | None:
    digits = file.removeprefix("rng_state_").removesuffix(".pth")
    return int(digits) if file == f"rng_state_{digits}.pth" and digits.isdecimal() and len(digits) < 9 else None


def add_trainer_state(progress: dict[str, object], state: dict[object, object]) -> None:
    """What trainer_state.json tells: the step, the last losses of its history, the best so far."""
    step = state.get("global_step")
    if type(step) is int:
        progress["step"] = step
    if type(state.get("epoch")) in (int, float):
        progress["epoch"] = state["epoch"]
    history = state.get("log_history")
    entries = history[-_MAX_HISTORY:] if isinstance(history, list) else []
    for word, key in (("train_loss", "loss"), ("val_loss", "eval_loss"), ("learning_rate", "learning_rate")):
        for entry in reversed(entries):
            if isinstance(entry, dict) and type(entry.get(key)) in (int, float):
                progress[word] = entry[key]
                break
    for word, key in (("best_metric", "best_metric"), ("best_checkpoint", "best_model_checkpoint")):
        if type(state.get(key)) in (int, float, str):
            progress[word] = state[key]
    if type(state.get("max_steps")) is int:
        progress["max_steps"] = state["max_steps"]


def _add_data_position(parts: Parts, state: dict[object, object], settings: dict[object, object]) -> None:
    if type(state.get("global_step")) is int and settings.get("ignore_data_skip") is not True:
        keys = ("global_step", "epoch", "train_batch_size")
        position = {key: state[key] for key in keys if key in state}
        parts.checkpoint.parts.append(Part("dataloader", _STATE, "", position))


def _has_optimizer(listing: Listing) -> bool:
    folders = _folders(listing)
    return any(file in listing.files for file in _OPTIMIZERS) or any(f.startswith("optimizer_") for f in folders)


def _has_deepspeed(listing: Listing) -> bool:
    return any(folder.startswith("global_step") for folder in _folders(listing))


def _is_resumable(parts: Parts) -> bool:
    """Whether there is more than weights: something that only a resume needs."""
    listing = parts.listing
    has_more = "scheduler.pt" in listing.files or bool(_rng_files(listing))
    return has_more or _has_optimizer(listing) or _has_deepspeed(listing)


def _say_what_is_missing(parts: Parts, settings: dict[object, object]) -> None:
    """Files that a resume needs and that are not there. Of those that cannot be read it has been said."""
    files = parts.listing.files
    has_deepspeed = _has_deepspeed(parts.listing)
    missing = []
    if _STATE not in files:
        missing.append((_STATE, "a resume does not know its step and starts at the first batch"))
    if not (has_deepspeed or _has_optimizer(parts.listing)):
        missing.append((_OPTIMIZERS[0], "the optimizer's moments start at zero"))
    if "scheduler.pt" not in files and not has_deepspeed:
        missing.append(("scheduler.pt", "the learning rate starts over"))
    if settings.get("fp16") is True and "scaler.pt" not in files and not has_deepspeed:
        missing.append(("scaler.pt", "fp16 starts with its first loss scale again, and skips steps until it fits"))
    cost = "dropout and shuffling do not repeat what would have come"
    missing += [(file, cost) for file in _missing_rng(_rng_files(parts.listing), settings)]
    for file, cost in missing:
        what = f"it is not there: {cost}"
        parts.note("missing-part", Severity.WARNING, file, what, "It can be resumed from, but not exactly.", "resume")


def _missing_rng(present: list[str], settings: dict[object, object]) -> list[str]:
    """Random states of processes that have none."""
    if not present:
        return ["rng_state.pth"]
    if present == ["rng_state.pth"]:
        return []
    ranks = {_rank(file) for file in present}
    distributed = entries_of(settings.get("distributed_state")) or {}
    size = distributed.get("num_processes")
    highest = max((rank for rank in ranks if rank is not None), default=0)
    last = max(highest, size - 1 if type(size) is int and 0 < size < 100_000 else 0)
    missing = [rank for rank in range(min(last, 100_000) + 1) if rank not in ranks]
    if len(missing) > 5:
        return [f"rng_state_{missing[0]}.pth and {plural(len(missing) - 1, 'other')}"]
    return [f"rng_state_{rank}.pth" for rank in missing]


READER = HfTrainerReader()
