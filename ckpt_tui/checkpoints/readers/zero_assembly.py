"""Puts ZeRO's flat partitions into the checkpoint by parameter: `fp32.NAME`, `optimizer.state.NAME.exp_avg`."""

from __future__ import annotations

from math import prod

from ckpt_tui.checkpoints.model import Part, Severity, Storage, TensorInfo, TensorRef
from ckpt_tui.checkpoints.readers.directory import Parts
from ckpt_tui.checkpoints.readers.zero_partitions import Assembled, Flat, Row, Shape, spans_of_stage_3
from ckpt_tui.checkpoints.readers.zero_states import (
    MAX_NAMES,
    add_steps,
    count_of,
    flat_of,
    flat_row,
    moment_names,
    named_groups,
    partition_count,
    shapes_of,
)  # fmt: skip
from ckpt_tui.checkpoints.state_walk import tensor_references
from ckpt_tui.text import count, plural, safe_text

_MAX_RANKS = 65_536
_MAX_WORK = 20_000_000  # ranks that are looked at for all groups, of every moment
_HINT = "Use another checkpoint: `ckpt-tui list` on its directory shows which are valid."


class Assembly:
    """One step's partitions being put together. weights, states: what goes into the state, by parameter."""

    def __init__(
        self,
        parts: Parts,
        folder: str,
        model_states: dict[str, dict[object, object]],
        optimizer_states: dict[str, dict[object, object]],
        stage: int | None,
    ) -> None:
        self.parts = parts
        self.folder = folder
        self.model_states = model_states
        self.optimizer_states = optimizer_states
        self.stage = stage
        self.first: dict[object, object] = next(iter(model_states.values()), {})
        self.groups = shapes_of(self.first.get("param_shapes"))
        self.ranks: list[dict[object, object] | None] = []
        self.made = Assembled()
        self.weights: dict[object, object] = {}
        self.states: dict[object, object] = {}

    def run(self) -> None:
        """List self.weights and moments by parameter."""
        num_model_ranks = count_of(self.first.get("mp_world_size")) or 1
        if not self.groups or not self.optimizer_states or self.stage not in (1, 2, 3):
            return
        self.ranks = self.find_ranks()
        if num_model_ranks > 1 or len(self.ranks) * len(self.groups) > _MAX_WORK:
            why = "are cut by tensor parallelism" if num_model_ranks > 1 else "lie in too many pieces"
            message = f"the flat partitions are listed as they are: the parameters in them {why}"
            self.parts.note("not-assembled", Severity.INFO, self.folder, message)
            return
        kinds = moment_names(self.ranks)
        if self.stage == 3:
            self.assemble_stage_3(kinds)
            self.add_frozen()
        else:
            self.assemble_stage_2(kinds)
        self.take()
        if self.made.lost:
            names = list(self.made.lost)
            shown = ", ".join(safe_text(name, 80) for name in names[:3])
            more = f" and {plural(len(names) - 3, 'more')}" if names[3:] else ""
            message = f"parts of {shown}{more} lay in partitions that are lost"
            self.parts.note("lost-partition", Severity.ERROR, self.folder, message, _HINT)
        if self.made.is_cut:
            message = "it has more pieces than are listed by parameter; the flat partitions are listed as they are"
            self.parts.note("not-assembled", Severity.INFO, self.folder, message)

    def find_ranks(self) -> list[dict[object, object] | None]:
        """The `optimizer_state_dict` of every rank, None where it is lost."""
        by_rank: dict[int, dict[object, object]] = {}
        num_ranks = 0
        for file, state in self.optimizer_states.items():
            inner = state.get("optimizer_state_dict")
            number = file.rpartition("zero_pp_rank_")[2].partition("_")[0]  # experts' files begin with expp_rank_
            if isinstance(inner, dict) and number.isascii() and number.isdigit() and len(number) < 6:
                by_rank[int(number)] = inner
                num_ranks = max(num_ranks, min(partition_count(state), _MAX_RANKS))
        num_ranks = max(num_ranks, max(by_rank, default=-1) + 1)
        return [by_rank.get(rank) for rank in range(min(num_ranks, _MAX_RANKS))]

    def assemble_stage_2(self, kinds: list[str]) -> None:
        paddings = next((rank.get("param_alignment_paddings") for rank in self.ranks if rank is not None), None)
        for number, shapes in enumerate(self.groups):
            of_group = paddings[number] if isinstance(paddings, list) and number < len(paddings) else None
            for kind in ("", *kinds):
                flats = [flat_of(rank, kind, number, 2) for rank in self.ranks]
                lengths = [sum(flat.sizes) for flat in flats if flat is not None]
                if not lengths:
                    continue
                row = Row(flats, max(lengths))
                needed = sum(map(prod, shapes.values()))
                if needed > row.num_elements:
                    self.note_misfit(f"group {number}", needed, row.num_elements)
                    return
                begin = 0
                for place, (name, shape) in enumerate(shapes.items()):
                    if self.made.is_cut:
                        return
                    num_elements = prod(shape)
                    pieces = row.pieces(begin, num_elements)
                    self.put(name, kind, shape, pieces, flats)
                    begin += num_elements
                    if isinstance(of_group, list) and place < len(of_group):
                        begin += count_of(of_group[place]) or 0

    def assemble_stage_3(self, kinds: list[str]) -> None:
        for kind in ("", *kinds):
            flats = [flat_of(rank, kind, None, 3) for rank in self.ranks]
            if not any(flat is not None for flat in flats):
                continue
            needed = sum(-(-prod(shape) // len(flats)) for shapes in self.groups for shape in shapes.values())
            held = min(sum(flat.sizes) for flat in flats if flat is not None)
            if needed > held:
                self.note_misfit("a rank", needed, held)
                return
            begin = 0
            for shapes in self.groups:
                for name, shape in shapes.items():
                    if self.made.is_cut:
                        return
                    num_elements = prod(shape)
                    pieces = spans_of_stage_3(flats, begin, num_elements)
                    self.put(name, kind, shape, pieces, flats)
                    begin += -(-num_elements // len(flats))

    def note_misfit(self, whose: str, needed: int, held: int) -> None:
        message = (
            f"the parameters of {whose} have {count(needed)} elements, the partitions {count(held)}: "
            "they are not of the same save"
        )
        self.parts.note("shapes-do-not-fit", Severity.ERROR, self.folder, message, _HINT)

    def put(
        self, name: str, kind: str, shape: Shape, pieces: list[tuple[int, int, TensorInfo | None, int]],
        flats: list[Flat | None],
    ) -> None:  # fmt: skip
        dtype = next((t.dtype for flat in flats if flat for t in flat.tensors if t is not None), "float32")
        reference = self.made.add(f"optimizer.state.{name}.{kind}" if kind else f"fp32.{name}", shape, dtype, pieces)
        if reference is None:
            return
        if not kind:
            self.weights[name] = reference
        else:
            moments = self.states.setdefault(name, {})
            assert isinstance(moments, dict)
            moments[kind] = reference

    def add_frozen(self) -> None:
        """Parameters that are not trained, which stage 3 cuts as well, and buffers, which are in the model's file."""
        shapes = shapes_of([self.first.get("frozen_param_shapes") or {}])
        states = list(self.model_states.values())
        for name, shape in (shapes[0] if shapes else {}).items():
            if self.made.is_cut:
                return
            flats: list[Flat | None] = []
            for state in states:
                fragments = state.get("frozen_param_fragments")
                found = fragments.get(name) if isinstance(fragments, dict) else None
                flats.append(flat_row([found]) if isinstance(found, TensorRef) else None)
            pieces = spans_of_stage_3(flats, 0, prod(shape))
            self.put(name, "", shape, pieces, flats)
        module, listed = self.first.get("module"), self.first.get("buffer_names")
        for name in listed if isinstance(listed, list) else ():
            buffer = module.get(name) if isinstance(module, dict) and isinstance(name, str) else None
            if isinstance(buffer, TensorRef) and buffer.info.storage and name not in self.weights:
                info = buffer.info
                copy = TensorInfo(
                    f"fp32.{name}", "", info.shape, info.dtype, info.size_bytes, info.storage, info.stride, info.offset
                )
                self.weights[name] = TensorRef(copy, len(self.made.tensors))
                self.made.tensors.append(copy)

    def take(self) -> None:
        """Put what was assembled into the checkpoint."""
        parts, checkpoint = self.parts, self.parts.checkpoint
        # Of stage 3 these are the weights: its model files have placeholders without elements.
        start, moved = (0, len(self.made.tensors)) if self.stage == 3 else (len(checkpoint.tensors), 0)
        if moved:
            for reference in tensor_references(parts.state):
                reference.index += moved
        optimizer = {"state": self.states, "param_groups": named_groups(self.ranks, self.groups)}
        for reference in tensor_references([self.weights, self.states]):
            reference.index += start
        add_steps(self.ranks, self.groups, self.states)
        for tensor in self.made.tensors:
            if tensor.storage and tensor.storage not in checkpoint.storages:
                checkpoint.storages[tensor.storage] = Storage(tensor.storage, "", None, 0)
        checkpoint.tensors[start:start] = self.made.tensors
        shared = self.first.get("shared_params")
        for name, source in list(shared.items())[:MAX_NAMES] if isinstance(shared, dict) else ():
            if isinstance(source, str) and source in self.weights and name not in self.weights:
                self.weights[name] = self.weights[source]
        parts.state["fp32"] = self.weights
        parts.state["optimizer"] = optimizer
        if self.stage == 3 and self.weights:
            checkpoint.parts.insert(0, Part("model", "", "fp32.", self.weights))
        place = next((i for i, part in enumerate(checkpoint.parts) if part.role == "optimizer"), 0)
        checkpoint.parts.insert(place, Part("optimizer", "", "optimizer.", optimizer))
