"""What we read of torch.distributed.checkpoint's directories is what torch itself loads from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint, CompositeRef, TensorInfo, TensorRef
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.state_walk import tensor_references
from ckpt_tui.checkpoints.validate import validate_checkpoint
from tests.builders import distributed
from tests.builders.distributed import SAMPLE


def truth_of(directory: Path, tmp_path: Path) -> dict[str, object]:
    """What torch loads, by dotted name."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(directory, tmp_path / "whole.pt")
    found: dict[str, object] = {}
    _flatten("", torch.load(tmp_path / "whole.pt", weights_only=False), found)
    return found


def _flatten(path: str, value: object, found: dict[str, object]) -> None:
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _flatten(f"{path}.{key}" if path else str(key), item, found)
    else:
        found[path] = value


def leaves_of(state: object) -> dict[str, object]:
    """Plain values and tensors of our state, by dotted name."""
    found: dict[str, object] = {}
    _flatten("", state, found)
    return found


def bytes_of(checkpoint: Checkpoint, tensor: TensorInfo) -> torch.Tensor:
    """A tensor from the bytes where we say that they are."""
    storage = checkpoint.storages[tensor.storage]
    assert storage.offset is not None
    with (Path(checkpoint.path) / storage.file).open("rb") as file:
        file.seek(storage.offset)
        raw = bytearray(file.read(storage.size_bytes))
    flat = torch.frombuffer(raw, dtype=getattr(torch, tensor.dtype))
    return torch.as_strided(flat, tensor.shape, tensor.stride, tensor.offset)


def value_of(checkpoint: Checkpoint, reference: TensorRef) -> torch.Tensor:
    """The values of a tensor, put together from its pieces where it has some."""
    if not isinstance(reference, CompositeRef):
        return bytes_of(checkpoint, reference.info)
    whole = torch.full(reference.info.shape, torch.nan, dtype=getattr(torch, reference.info.dtype))
    for offsets, piece in reference.info.chunks:  # type: ignore[attr-defined]
        box = tuple(slice(begin, begin + extent) for begin, extent in zip(offsets, piece.shape, strict=True))
        whole[box] = bytes_of(checkpoint, piece)
    return whole


@pytest.mark.parametrize("kind", ["one process", "two ranks"])
def test_everything_is_what_torch_loads(saved: Path, tmp_path: Path, kind: str) -> None:
    directory = saved if kind == "one process" else SAMPLE
    checkpoint = open_checkpoint(directory)
    assert sniff(directory) == checkpoint.format == "dcp"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    truth = truth_of(directory, tmp_path)
    ours = leaves_of(checkpoint.state)
    assert set(ours) == set(truth)
    for name, expected in truth.items():
        mine = ours[name]
        if not isinstance(expected, torch.Tensor):
            assert mine == expected
            continue
        assert isinstance(mine, TensorRef)
        assert checkpoint.tensors[mine.index] is mine.info
        assert mine.info.name == name
        assert mine.info.shape == tuple(expected.shape)
        assert f"torch.{mine.info.dtype}" == str(expected.dtype)
        assert mine.info.size_bytes == expected.numel() * expected.element_size()
        assert torch.equal(value_of(checkpoint, mine), expected)
    whole = [tensor for tensor in checkpoint.tensors if not tensor.is_component]
    assert len(whole) == sum(isinstance(value, torch.Tensor) for value in truth.values())


def test_facts_of_one_process(saved: Path) -> None:
    checkpoint = open_checkpoint(saved)
    assert checkpoint.progress == {"step": 7, "epoch": 1, "val_loss": 1.5}
    assert checkpoint.hyperparameters == {"lr": 0.5, "name": "x", "sizes": [1, 2]}
    assert checkpoint.has == ["model", "optimizer", "scheduler", "rng", "dataloader"]
    assert checkpoint.optimizer["type"] == "AdamW"
    assert checkpoint.optimizer["num_parameters"] == 6
    assert checkpoint.metadata["dcp_version"] == "1.0.0"
    assert count_parameters(model_tensors(checkpoint)) == 4 * 8 + 8 + 8 + 8 + 8 * 2 + 2


def test_a_tensor_of_two_ranks_is_one_with_its_pieces() -> None:
    checkpoint = open_checkpoint(SAMPLE)
    place = next(i for i, tensor in enumerate(checkpoint.tensors) if tensor.name == "model.weight")
    whole, first, second = checkpoint.tensors[place : place + 3]
    assert (whole.layout, whole.storage, whole.shape) == ("sharded", "", (7, 4))
    assert [piece.name for piece in (first, second)] == ["model.weight.chunks.0", "model.weight.chunks.1"]
    assert [piece.shape for piece in (first, second)] == [(4, 4), (3, 4)]
    assert {checkpoint.storages[piece.storage].file for piece in (first, second)} == {"__0_0.distcp", "__1_0.distcp"}
    assert count_parameters(model_tensors(checkpoint)) == 7 * 4 + 7
    assert checkpoint.progress == {"step": 7}
    assert checkpoint.has == ["model", "optimizer"]
    names = {tensor.name: tensor.layout for tensor in checkpoint.tensors}
    assert (names["columns"], names["replica"], names["one_row"]) == ("sharded", "strided", "strided")


def test_torchtitan_s_step_weights_and_flat_optimizer_are_found(tmp_path: Path) -> None:
    directory = tmp_path / "step-11"
    distributed.dcp(directory, distributed.torchtitan_state())
    checkpoint = open_checkpoint(directory)
    assert checkpoint.findings == []
    assert checkpoint.progress == {"step": 11}
    assert checkpoint.has == ["model", "optimizer", "scheduler", "dataloader"]
    names = ["layers.weight", "layers.bias", "norm.weight", "norm.bias"]
    assert [tensor.name for tensor in model_tensors(checkpoint)] == names
    assert count_parameters(model_tensors(checkpoint)) == 4 * 8 + 8 + 8 + 8
    assert checkpoint.optimizer["type"] == "AdamW"
    assert checkpoint.optimizer["state"] == {"step": 4, "exp_avg": 4, "exp_avg_sq": 4}
    groups = checkpoint.optimizer["groups"]
    assert isinstance(groups, list)
    assert [(group["weight_decay"], group["num_parameters"]) for group in groups] == [(0.01, 2), (0.0, 2)]
    resume = {finding.code for finding in validate_checkpoint(str(directory)).findings if finding.level == "resume"}
    assert resume <= {"rng-missing", "not-exact"}


def test_a_state_one_level_down_is_found(tmp_path: Path) -> None:
    """torch's own tutorial wraps all of it into one object: `app.model`, `app.optim`."""
    state = distributed.dcp_state()
    distributed.dcp(tmp_path, {"app": {"model": state["model"], "optim": state["optimizer"]}, "step": 3})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.has == ["model", "optimizer"]
    assert checkpoint.progress["step"] == 3
    assert count_parameters(model_tensors(checkpoint)) == 4 * 8 + 8 + 8 + 8 + 8 * 2 + 2
    assert checkpoint.optimizer["num_parameters"] == 6


def test_what_lies_beside_the_pieces_belongs_to_it(tmp_path: Path) -> None:
    """Lightning lays `meta.pt` beside the pieces, with all that is not sharded."""
    state = distributed.dcp_state()
    distributed.dcp(tmp_path, {"state_dict": state["model"], "optimizer_0": state["optimizer"]})
    torch.save({"global_step": 9, "epoch": 2, "hyper_parameters": {"width": 8}}, tmp_path / "meta.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.findings == []
    assert checkpoint.progress == {"step": 9, "epoch": 2}
    assert checkpoint.hyperparameters == {"width": 8}
    assert checkpoint.has == ["model", "optimizer"]


@pytest.mark.parametrize("kind", ["hf-trainer", "accelerate"])
def test_fsdp_s_sharded_states_are_parts_of_a_larger_checkpoint(tmp_path: Path, kind: str) -> None:
    """Transformers and Accelerate keep weights and optimizer in a distributed checkpoint each."""
    state = distributed.dcp_state()
    root = tmp_path / ("checkpoint-7" if kind == "hf-trainer" else "checkpoint_0")
    distributed.dcp(root / "pytorch_model_fsdp_0", {"model": state["model"]})
    distributed.dcp(root / "optimizer_0", {"optimizer": state["optimizer"]})
    if kind == "hf-trainer":
        (root / "trainer_state.json").write_text('{"global_step": 7, "log_history": []}')
        torch.save({"cpu": torch.get_rng_state()}, root / "rng_state.pth")
        torch.save(state["scheduler"], root / "scheduler.pt")
    else:
        torch.save({"step": 7, "torch_manual_seed": torch.get_rng_state()}, root / "random_states_0.pkl")
    checkpoint = open_checkpoint(root)
    assert checkpoint.format == kind
    assert [finding for finding in checkpoint.findings if finding.severity == "error"] == []
    assert checkpoint.safety == "safe"
    assert {"model", "optimizer", "rng"} <= set(checkpoint.has)
    assert count_parameters(model_tensors(checkpoint)) == 4 * 8 + 8 + 8 + 8 + 8 * 2 + 2
    assert checkpoint.optimizer["num_parameters"] == 6
    weight = next(tensor for tensor in model_tensors(checkpoint) if tensor.name == "model.0.weight")
    assert weight.file == "pytorch_model_fsdp_0"
    expected = state["model"]
    assert isinstance(expected, dict)
    assert torch.equal(bytes_of(checkpoint, weight), expected["0.weight"])
    (root / "optimizer_0" / ".metadata").unlink()
    (lost,) = [finding for finding in open_checkpoint(root).findings if finding.severity == "error"]
    assert lost.where == "optimizer_0"
    assert "the save never finished" in lost.message


def test_tensors_saved_as_safetensors_are_read(tmp_path: Path) -> None:
    """`SerializationFormat.SAFETENSORS`: the tensors of a file are one safetensors file at its end, at one offset."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.filesystem import FileSystemWriter, SerializationFormat

    weights = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    writer = FileSystemWriter(tmp_path, serialization_format=SerializationFormat.SAFETENSORS)
    dcp.save({"model": weights, "step": 4}, storage_writer=writer, no_dist=True)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.findings == []
    assert checkpoint.progress == {"step": 4}
    for tensor in checkpoint.tensors:
        assert torch.equal(bytes_of(checkpoint, tensor), weights[tensor.name.removeprefix("model.")])
    assert {tensor.name for tensor in checkpoint.tensors} == {"model.w", "model.b"}
    result = validate_checkpoint(str(tmp_path))
    assert (result.verdict, result.levels["integrity"]) == ("valid", "not-checked")
    path = tmp_path / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-4])
    assert validate_checkpoint(str(tmp_path)).verdict == "damaged"


def test_safetensors_of_every_rank_are_one_checkpoint(tmp_path: Path) -> None:
    """`HuggingFaceStorageWriter(save_distributed=True)`, whose files say where in its tensor each piece begins."""
    import json

    import torch.distributed.checkpoint as dcp
    from safetensors.torch import save_file

    weights = {"w": torch.arange(21.0).reshape(7, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    dcp.save(
        weights, storage_writer=dcp.HuggingFaceStorageWriter(tmp_path / "one", save_distributed=True), no_dist=True
    )
    one = open_checkpoint(tmp_path / "one")
    assert (one.format, one.findings, one.has) == ("dcp", [], ["model"])
    assert {t.name: t.shape for t in one.tensors} == {"w": (7, 3), "b": (3,)}
    (written,) = (tmp_path / "one").glob("*.safetensors")
    assert written.name == "shard-00001-model-00001-of-00001.safetensors"
    # The same from two ranks, as that writer would: 4 and 3 rows.
    two = tmp_path / "two"
    two.mkdir()
    for rank, (begin, end) in enumerate(((0, 4), (4, 7))):
        told = {"w": {"saved_offsets": [begin, 0]}, **({"b": {"saved_offsets": [0]}} if not rank else {})}
        pieces = {"w": weights["w"][begin:end].clone(), **({"b": weights["b"]} if not rank else {})}
        metadata = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(told)}
        save_file(pieces, two / f"shard-0000{rank + 1}-model-00001-of-00001.safetensors", metadata)
    checkpoint = open_checkpoint(two)
    assert (checkpoint.format, checkpoint.findings) == ("dcp", [])
    assert count_parameters(model_tensors(checkpoint)) == 21 + 3
    for name, reference in leaves_of(checkpoint.state).items():
        assert isinstance(reference, TensorRef)
        assert checkpoint.tensors[reference.index] is reference.info
        assert torch.equal(value_of(checkpoint, reference), weights[name])
    assert validate_checkpoint(str(two)).verdict == "valid"
    (two / "shard-00001-model-00001-of-00001.safetensors").unlink()
    found = {finding.code for finding in open_checkpoint(two).findings}
    assert found == {"missing-part", "chunks-do-not-cover"}


def test_an_asynchronous_save_is_the_same(tmp_path: Path) -> None:
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        dcp.async_save({"model": {"w": torch.arange(6.0)}, "step": 2}, checkpoint_id=tmp_path / "async").result()
        dcp.save({"model": {"w": torch.arange(6.0)}, "step": 2}, checkpoint_id=tmp_path / "group")
    finally:
        dist.destroy_process_group()
    for name in ("async", "group"):
        checkpoint = open_checkpoint(tmp_path / name)
        assert checkpoint.findings == []
        assert checkpoint.progress == {"step": 2}
        assert torch.equal(bytes_of(checkpoint, checkpoint.tensors[0]), torch.arange(6.0))


@pytest.mark.long
def test_the_sample_is_what_its_script_makes(tmp_path: Path) -> None:
    made = tmp_path / "made"
    program = [sys.executable, "-m", "tests.samples.make_dcp", str(made)]
    subprocess.run(program, check=True, timeout=300, cwd=SAMPLE.parents[2])
    theirs, ours = open_checkpoint(made), open_checkpoint(SAMPLE)
    assert [(t.name, t.shape, t.dtype) for t in theirs.tensors] == [(t.name, t.shape, t.dtype) for t in ours.tensors]
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        if mine.storage:
            assert torch.allclose(bytes_of(ours, mine), bytes_of(theirs, other))


@pytest.mark.parametrize("kind", ["one process", "two ranks"])
def test_every_reference_leads_to_its_tensor(saved: Path, kind: str) -> None:
    checkpoint = open_checkpoint(saved if kind == "one process" else SAMPLE)
    references = list(tensor_references(checkpoint.state))
    assert {reference.index for reference in references} == set(range(len(checkpoint.tensors)))
    assert all(checkpoint.tensors[reference.index] is reference.info for reference in references)


def test_a_run_s_list_has_them_and_no_resume_takes_an_unfinished_one(tmp_path: Path) -> None:
    from ckpt_tui.services.catalog import read_catalog

    for name in ("step-7", "step-9"):
        shutil.copytree(SAMPLE, tmp_path / name)
    (tmp_path / "step-9" / ".metadata").unlink()
    catalog = read_catalog(str(tmp_path))
    found = {entry.name: (entry.step, entry.validity, entry.resume_takes) for entry in catalog.entries}
    assert found == {"step-7": (7, "unchecked", True), "step-9": (9, "damaged", False)}


# --- damage


# --- validation


def test_statistics_of_a_tensor_in_pieces_are_those_of_the_whole(tmp_path: Path) -> None:
    from ckpt_tui.checkpoints.values import count_nonfinite, tensor_statistics

    checkpoint = open_checkpoint(SAMPLE)
    truth = truth_of(SAMPLE, tmp_path)
    for tensor in checkpoint.tensors:
        expected = truth.get(tensor.name)
        if tensor.layout == "sharded":
            assert isinstance(expected, torch.Tensor)
            found = tensor_statistics(checkpoint, tensor)
            assert found.num_elements == expected.numel()
            assert found.min == expected.min().item()
            assert found.max == expected.max().item()
            assert found.mean == pytest.approx(expected.double().mean().item(), rel=1e-9)
            assert found.std == pytest.approx(expected.double().std().item(), rel=1e-6, abs=1e-9)
            assert count_nonfinite(checkpoint, tensor).nan == 0
