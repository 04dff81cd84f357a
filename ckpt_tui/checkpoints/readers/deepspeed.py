"""DeepSpeed: `latest` beside `global_stepN/`, with a file of the model and, with ZeRO, one of the optimizer per rank.

ZeRO keeps weights and moments as flat partitions. They are listed as they lie in their files, and once more by
parameter, under `fp32.NAME` and `optimizer.state.NAME.exp_avg`: views of the partitions, or pieces of several.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ckpt_tui.checkpoints.facts import find_parts
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Part, Severity, TensorRef
from ckpt_tui.checkpoints.readers.directory import Listing, Parts, is_inside
from ckpt_tui.checkpoints.readers.zero_assembly import Assembly
from ckpt_tui.checkpoints.readers.zero_states import count_of, inner_optimizer, partition_count, scaler_part
from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

_MODEL_END = "_model_states.pt"
_LAYER_END = "-model_states.pt"  # of a pipeline: a file per layer
_OPTIMIZER_END = "_optim_states.pt"
_MAX_LATEST_BYTES = 4096
_MAX_RANKS = 65_536
_HINT = "Use another checkpoint: `ckpt-tui list` on its directory shows which are valid."


class DeepSpeedReader:
    """What `engine.save_checkpoint` leaves: the directory that it was given, or the `global_stepN` in it."""

    formats: tuple[str, ...] = ("deepspeed",)

    def sniff(self, listing: Listing) -> str | None:
        if any(_is_state(name) for name in listing.files if name.count("/") <= 1):
            return "deepspeed"
        return "deepspeed" if _latest(listing).startswith("global_step") else None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        parts = Parts(listing, "deepspeed", limits)
        folder = _choose_folder(listing, parts)
        step = _Step(parts, folder)
        step.read()
        parts.checkpoint.size_bytes = sum(num for name, num in listing.files.items() if name.startswith(folder))
        return parts.checkpoint


def _is_state(file: str) -> bool:
    if file.endswith(_LAYER_END):
        return "layer_" in file
    return file.endswith((_MODEL_END, _OPTIMIZER_END)) and "mp_rank_" in file


def _latest(listing: Listing) -> str:
    """What the file `latest` says; "" without one."""
    if not 0 < listing.files.get("latest", 0) <= _MAX_LATEST_BYTES:
        return ""
    try:
        return listing.read_text("latest", _MAX_LATEST_BYTES).decode("utf-8", "replace").strip()
    except (CkptError, OSError):
        return ""


def _choose_folder(listing: Listing, parts: Parts) -> str:
    """Where the files of the step lie, with a slash at the end; "" when they lie in the directory itself."""
    if any(_is_state(name) for name in listing.files if "/" not in name):
        return ""
    steps = sorted({name.partition("/")[0] for name in listing.files if _is_state(name)}, key=_natural)
    latest = _latest(listing)
    if latest in steps:
        return f"{latest}/"
    if not steps:
        raise CkptError(
            "Damaged checkpoint",
            f"{listing.path}: `latest` names {safe_text(latest, 80)}, and no step is there",
            "Copy it again: the steps are directories beside `latest`.",
        )
    if latest:
        inside = "" if is_inside(latest) else ", which leads out of the directory"
        message = f"it names {safe_text(latest, 80)}, which has no states here{inside}; {steps[-1]} is read instead"
        parts.note("latest-points-nowhere", Severity.ERROR, "latest", message, "A resume would fail or start anew.")
    else:
        message = f"there is no file `latest`; {safe_text(steps[-1], 80)} is read, the newest by its name"
        parts.note("latest-missing", Severity.WARNING, "latest", message, "A resume needs the step to be named.")
    return f"{steps[-1]}/"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `global_step10` behind `global_step9`."""
    words: list[tuple[int, str]] = []
    digits = ""
    for char in name + " ":
        if char.isascii() and char.isdigit() and len(digits) < 18:
            digits += char
            continue
        if digits:
            words.append((int(digits), ""))
            digits = ""
        words.append((0, char))
    return words


class _Step:
    """One `global_stepN` being read."""

    def __init__(self, parts: Parts, folder: str) -> None:
        self.parts = parts
        self.folder = folder
        self.model_states: dict[str, dict[object, object]] = {}
        self.optimizer_states: dict[str, dict[object, object]] = {}
        self.stage: int | None = None

    def read(self) -> None:
        listing = self.parts.listing
        here = sorted(
            (name for name in listing.files if name.startswith(self.folder) and _is_state(name)), key=_natural
        )
        here = [name for name in here if "/" not in name.removeprefix(self.folder)]
        model_files = [name for name in here if not name.endswith(_OPTIMIZER_END)]
        model_files.sort(key=self.is_of_layer)  # the others tell of the run
        for file in model_files:
            state = self.add(file)
            if state is not None:
                self.model_states[file] = state
        for file in here:
            state = self.add(file) if file.endswith(_OPTIMIZER_END) else None
            if state is not None:
                self.optimizer_states[file] = state
        self.stage = self.find_stage()
        self.add_parts()
        self.tell_missing(model_files, [file for file in here if file.endswith(_OPTIMIZER_END)])
        Assembly(self.parts, self.folder.rstrip("/"), self.model_states, self.optimizer_states, self.stage).run()

    def add(self, file: str) -> dict[object, object] | None:
        """Read a file; its parts are named later, when the stage is known."""
        known = len(self.parts.checkpoint.parts)
        found = self.parts.add(file)
        del self.parts.checkpoint.parts[known:]
        if found is None:
            return None
        if isinstance(found.state, dict):
            return found.state
        self.parts.note("odd-part", Severity.ERROR, file, "it holds no dict of states, as DeepSpeed writes", _HINT)
        return None

    def is_of_layer(self, file: str) -> bool:
        """Whether a file has the weights of a layer of a pipeline, or of an expert, and nothing else."""
        return not file.removeprefix(self.folder).startswith(("mp_rank_", "zero_pp_rank_"))

    def find_stage(self) -> int | None:
        """ZeRO's stage: as the optimizer's states say, or the settings."""
        for state in self.optimizer_states.values():
            inner = state.get("optimizer_state_dict")
            stage = count_of(inner.get("zero_stage")) if isinstance(inner, dict) else None
            if stage is not None:
                return stage
        for state in self.model_states.values():
            settings = state.get("ds_config")
            zero = settings.get("zero_optimization") if isinstance(settings, dict) else None
            stage = count_of(zero.get("stage")) if isinstance(zero, dict) else None
            if stage is not None:
                return stage
        return None

    # --- parts

    def add_parts(self) -> None:
        """The first model file tells of the run; the weights of stage 3 are in the optimizer's files alone."""
        checkpoint = self.parts.checkpoint
        is_first = True
        for file, state in self.model_states.items():
            tensors = [value.info for value in state.values() if isinstance(value, TensorRef)]
            found = find_parts(Checkpoint("", "torch-zip", 0, tensors=tensors, state=state), file)
            for part in found:
                if part.role == "model" and self.stage == 3:
                    continue
                if part.role == "optimizer" and isinstance(part.value, dict):
                    part = inner_optimizer(part)
                if is_first or part.role in ("model", "optimizer"):
                    checkpoint.parts.append(part)
            settings = state.get("ds_config")
            if is_first and isinstance(settings, dict):
                checkpoint.parts.append(Part("settings", file, "ds_config.", settings))
            sampler = state.get("data_sampler")
            if is_first and isinstance(sampler, dict) and sampler:
                checkpoint.parts.append(Part("dataloader", file, "data_sampler.", sampler))
            version = state.get("ds_version")
            if isinstance(version, str):
                checkpoint.metadata.setdefault("ds_version", version)
            is_first = False
        for file, state in self.optimizer_states.items():
            checkpoint.parts.append(Part("optimizer", file, "", state))
        scaler = next((part for part in map(scaler_part, self.optimizer_states.items()) if part is not None), None)
        if scaler is not None:
            checkpoint.parts.append(scaler)
        if self.stage is not None:
            checkpoint.metadata["zero_stage"] = self.stage

    # --- what is missing

    def tell_missing(self, model_files: list[str], optimizer_files: list[str]) -> None:
        """Name the ranks that wrote nothing, or whose files were lost."""
        first = next(iter(self.model_states.values()), {})
        num_ranks = count_of(first.get("dp_world_size")) or 1
        counts = [partition_count(state) for state in self.optimizer_states.values()]
        num_ranks = min(max([num_ranks, *counts]), _MAX_RANKS)
        num_model_ranks = min(count_of(first.get("mp_world_size")) or 1, _MAX_RANKS)
        if not any(file.endswith(_LAYER_END) for file in model_files):
            prefixes = [f"zero_pp_rank_{rank}_" for rank in range(num_ranks)] if self.stage == 3 else [""]
            self.note_absent(f"{p}mp_rank_{m:02d}{_MODEL_END}" for m in range(num_model_ranks) for p in prefixes)
        if self.stage and (optimizer_files or first.get("optimizer") is None):
            bf16 = any(file.removeprefix(self.folder).startswith("bf16_") for file in optimizer_files)
            start = "bf16_" if bf16 else ""
            self.note_absent(
                f"{start}zero_pp_rank_{rank}_mp_rank_{m:02d}{_OPTIMIZER_END}"
                for m in range(num_model_ranks)
                for rank in range(num_ranks)
            )

    def note_absent(self, names: Iterable[str]) -> None:
        for name in islice(names, _MAX_RANKS):
            if self.folder + name not in self.parts.listing.files:
                what = "optimizer states" if name.endswith(_OPTIMIZER_END) else "model states"
                rank = name.partition("pp_rank_")[2].partition("_")[0]
                whose = f"of rank {rank}" if rank else "of the model"
                self.parts.missing(
                    self.folder + name, f"it is not there: the {what} {whose}; what was in it is lost", _HINT
                )


READER = DeepSpeedReader()
