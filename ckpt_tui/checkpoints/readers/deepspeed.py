"""DeepSpeed: `latest` beside `global_stepN/`, with a file of the model and, with ZeRO, one of the optimizer per rank.

ZeRO keeps weights and moments as flat partitions. They are listed as they lie in their files, and once more by
parameter, under `fp32.NAME` and `optimizer.state.NAME.exp_avg`: views of the partitions, or pieces of several.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ckpt_tui.checkpoints.facts import find_parts
from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Part, Severity, Storage, TensorInfo, TensorRef
from ckpt_tui.checkpoints.readers.directory import Listing, Parts, is_inside
from ckpt_tui.checkpoints.readers.zero_partitions import (
    Assembled,
    Flat,
    Row,
    Shape,
    elements_of,
    spans_of_stage_3,
)
from ckpt_tui.checkpoints.readers.zero_states import (
    MAX_NAMES,
    add_steps,
    count_of,
    flat_of,
    flat_row,
    inner_optimizer,
    moment_names,
    named_groups,
    scaler_part,
    shapes_of,
)
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural, safe_text

_MODEL_END = "_model_states.pt"
_OPTIMIZER_END = "_optim_states.pt"
_MAX_LATEST_BYTES = 4096
_MAX_RANKS = 65_536
_MAX_WORK = 20_000_000  # ranks that are looked at for all groups, of every moment
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
    return file.endswith((_MODEL_END, _OPTIMIZER_END)) and ("mp_rank_" in file or "-model_" in file)


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
        model_files = [name for name in here if name.endswith(_MODEL_END)]
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
        self.assemble()

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
            found = find_parts(Checkpoint("", "torch-zip", 0, state=state), file)
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
        counts = [self.partition_count(state) for state in self.optimizer_states.values()]
        num_ranks = min(max([num_ranks, *counts]), _MAX_RANKS)
        num_model_ranks = min(count_of(first.get("mp_world_size")) or 1, _MAX_RANKS)
        if not any("-model_" in file for file in model_files):  # pipelines have a file per layer
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

    def partition_count(self, state: dict[object, object]) -> int:
        inner = state.get("optimizer_state_dict")
        count = inner.get("partition_count") if isinstance(inner, dict) else None
        numbers = [count_of(item) or 0 for item in count] if isinstance(count, list) else [count_of(count) or 0]
        return max(numbers, default=0)

    def note_absent(self, names: Iterable[str]) -> None:
        for name in islice(names, _MAX_RANKS):
            if self.folder + name not in self.parts.listing.files:
                what = "optimizer states" if name.endswith(_OPTIMIZER_END) else "model states"
                rank = name.partition("pp_rank_")[2].partition("_")[0]
                whose = f"of rank {rank}" if rank else "of the model"
                self.parts.missing(
                    self.folder + name, f"it is not there: the {what} {whose}; what was in it is lost", _HINT
                )

    # --- parameters of flat partitions

    def assemble(self) -> None:
        """List weights and moments by parameter."""
        first_file = next(iter(self.model_states), "")
        first = self.model_states.get(first_file, {})
        groups = shapes_of(first.get("param_shapes"))
        num_model_ranks = count_of(first.get("mp_world_size")) or 1
        if not groups or not self.optimizer_states or self.stage not in (1, 2, 3):
            return
        ranks = self.ranks()
        if num_model_ranks > 1 or len(ranks) * len(groups) > _MAX_WORK:
            why = "are cut by tensor parallelism" if num_model_ranks > 1 else "lie in too many pieces"
            message = f"the flat partitions are listed as they are: the parameters in them {why}"
            self.parts.note("not-assembled", Severity.INFO, self.folder.rstrip("/"), message)
            return
        made = Assembled()
        weights: dict[object, object] = {}
        states: dict[object, object] = {}
        kinds = moment_names(ranks)
        if self.stage == 3:
            self.assemble_stage_3(groups, ranks, kinds, made, weights, states)
            self.add_frozen(first, made, weights)
        else:
            self.assemble_stage_2(groups, ranks, kinds, made, weights, states)
        self.take(first, made, weights, states, groups, ranks)
        if made.lost:
            names = list(made.lost)
            shown = ", ".join(safe_text(name, 80) for name in names[:3])
            more = f" and {plural(len(names) - 3, 'more')}" if names[3:] else ""
            message = f"parts of {shown}{more} lay in partitions that are lost"
            self.parts.note("lost-partition", Severity.ERROR, self.folder.rstrip("/"), message, _HINT)
        if made.is_cut:
            message = "it has more pieces than are listed by parameter; the flat partitions are listed as they are"
            self.parts.note("not-assembled", Severity.INFO, self.folder.rstrip("/"), message)

    def ranks(self) -> list[dict[object, object] | None]:
        """The `optimizer_state_dict` of every rank, None where it is lost."""
        by_rank: dict[int, dict[object, object]] = {}
        num_ranks = 0
        for file, state in self.optimizer_states.items():
            inner = state.get("optimizer_state_dict")
            number = file.rpartition("pp_rank_")[2].partition("_")[0]
            if isinstance(inner, dict) and number.isascii() and number.isdigit() and len(number) < 6:
                by_rank[int(number)] = inner
                num_ranks = max(num_ranks, min(self.partition_count(state), _MAX_RANKS))
        num_ranks = max(num_ranks, max(by_rank, default=-1) + 1)
        return [by_rank.get(rank) for rank in range(min(num_ranks, _MAX_RANKS))]

    def assemble_stage_2(
        self, groups: list[dict[str, Shape]], ranks: list[dict[object, object] | None], kinds: list[str],
        made: Assembled, weights: dict[object, object], states: dict[object, object],
    ) -> None:  # fmt: skip
        paddings = next((rank.get("param_alignment_paddings") for rank in ranks if rank is not None), None)
        for number, shapes in enumerate(groups):
            of_group = paddings[number] if isinstance(paddings, list) and number < len(paddings) else None
            for kind in ("", *kinds):
                flats = [flat_of(rank, kind, number, 2) for rank in ranks]
                lengths = [sum(flat.sizes) for flat in flats if flat is not None]
                if not lengths:
                    continue
                row = Row(flats, max(lengths))
                needed = sum(map(elements_of, shapes.values()))
                if needed > row.num_elements:
                    self.note_misfit(f"group {number}", needed, row.num_elements)
                    return
                begin = 0
                for place, (name, shape) in enumerate(shapes.items()):
                    if made.is_cut:
                        return
                    num_elements = elements_of(shape)
                    pieces = row.pieces(begin, num_elements)
                    self.put(name, kind, shape, pieces, made, weights, states, flats)
                    begin += num_elements
                    if isinstance(of_group, list) and place < len(of_group):
                        begin += count_of(of_group[place]) or 0

    def assemble_stage_3(
        self, groups: list[dict[str, Shape]], ranks: list[dict[object, object] | None], kinds: list[str],
        made: Assembled, weights: dict[object, object], states: dict[object, object],
    ) -> None:  # fmt: skip
        for kind in ("", *kinds):
            flats = [flat_of(rank, kind, None, 3) for rank in ranks]
            if not any(flat is not None for flat in flats):
                continue
            needed = sum(-(-elements_of(shape) // len(flats)) for shapes in groups for shape in shapes.values())
            held = min(sum(flat.sizes) for flat in flats if flat is not None)
            if needed > held:
                self.note_misfit("a rank", needed, held)
                return
            begin = 0
            for shapes in groups:
                for name, shape in shapes.items():
                    if made.is_cut:
                        return
                    num_elements = elements_of(shape)
                    pieces = spans_of_stage_3(flats, begin, num_elements)
                    self.put(name, kind, shape, pieces, made, weights, states, flats)
                    begin += -(-num_elements // len(flats))

    def note_misfit(self, whose: str, needed: int, held: int) -> None:
        message = (
            f"the parameters of {whose} have {count(needed)} elements, the partitions {count(held)}: "
            "they are not of the same save"
        )
        self.parts.note("shapes-do-not-fit", Severity.ERROR, self.folder.rstrip("/"), message, _HINT)

    def put(
        self, name: str, kind: str, shape: Shape, pieces: list[tuple[int, int, TensorInfo | None, int]],
        made: Assembled, weights: dict[object, object], states: dict[object, object], flats: list[Flat | None],
    ) -> None:  # fmt: skip
        dtype = next((t.dtype for flat in flats if flat for t in flat.tensors if t is not None), "float32")
        reference = made.add(f"optimizer.state.{name}.{kind}" if kind else f"fp32.{name}", shape, dtype, pieces)
        if reference is None:
            return
        if not kind:
            weights[name] = reference
        else:
            moments = states.setdefault(name, {})
            assert isinstance(moments, dict)
            moments[kind] = reference

    def add_frozen(self, first: dict[object, object], made: Assembled, weights: dict[object, object]) -> None:
        """Parameters that are not trained, which stage 3 cuts as well, and buffers, which are in the model's file."""
        shapes = shapes_of([first.get("frozen_param_shapes") or {}])
        states = list(self.model_states.values())
        for name, shape in (shapes[0] if shapes else {}).items():
            if made.is_cut:
                return
            flats: list[Flat | None] = []
            for state in states:
                fragments = state.get("frozen_param_fragments")
                found = fragments.get(name) if isinstance(fragments, dict) else None
                flats.append(flat_row([found]) if isinstance(found, TensorRef) else None)
            pieces = spans_of_stage_3(flats, 0, elements_of(shape))
            self.put(name, "", shape, pieces, made, weights, {}, flats)
        module, listed = first.get("module"), first.get("buffer_names")
        for name in listed if isinstance(listed, list) else ():
            buffer = module.get(name) if isinstance(module, dict) and isinstance(name, str) else None
            if isinstance(buffer, TensorRef) and buffer.info.storage and name not in weights:
                info = buffer.info
                copy = TensorInfo(
                    f"fp32.{name}", "", info.shape, info.dtype, info.size_bytes, info.storage, info.stride, info.offset
                )
                weights[name] = TensorRef(copy, len(made.tensors))
                made.tensors.append(copy)

    def take(
        self, first: dict[object, object], made: Assembled, weights: dict[object, object],
        states: dict[object, object], groups: list[dict[str, Shape]], ranks: list[dict[object, object] | None],
    ) -> None:  # fmt: skip
        """Put what was assembled into the checkpoint."""
        from ckpt_tui.checkpoints.state_walk import tensor_references

        parts, checkpoint = self.parts, self.parts.checkpoint
        # Of stage 3 these are the weights: its model files have placeholders without elements.
        start, moved = (0, len(made.tensors)) if self.stage == 3 else (len(checkpoint.tensors), 0)
        if moved:
            for reference in tensor_references(parts.state):
                reference.index += moved
        optimizer = {"state": states, "param_groups": named_groups(ranks, groups)}
        for reference in tensor_references([weights, states]):
            reference.index += start
        add_steps(ranks, groups, states)
        for tensor in made.tensors:
            if tensor.storage and tensor.storage not in checkpoint.storages:
                checkpoint.storages[tensor.storage] = Storage(tensor.storage, "", None, 0)
        checkpoint.tensors[start:start] = made.tensors
        shared = first.get("shared_params")
        for name, source in list(shared.items())[:MAX_NAMES] if isinstance(shared, dict) else ():
            if source in weights and name not in weights:
                weights[name] = weights[source]
        parts.state["fp32"] = weights
        parts.state["optimizer"] = optimizer
        if self.stage == 3:
            checkpoint.parts.insert(0, Part("model", "", "fp32.", weights))
        place = next((i for i, part in enumerate(checkpoint.parts) if part.role == "optimizer"), 0)
        checkpoint.parts.insert(place, Part("optimizer", "", "optimizer.", optimizer))


READER = DeepSpeedReader()
