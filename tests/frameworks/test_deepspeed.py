"""What we read of DeepSpeed's directories is what its own `zero_to_fp32` makes of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint, CompositeRef, ShardedTensor, TensorInfo, TensorRef
from ckpt_tui.checkpoints.readers.zero_partitions import boxes_of
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.state_walk import tensor_references
from ckpt_tui.checkpoints.validate import validate_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders.pace import cpu_time
from tests.samples import make_deepspeed

SAMPLES = Path(__file__).parents[1] / "samples" / "deepspeed"
WITH_ZERO = [name for name, (stage, _, _) in make_deepspeed.SAMPLES.items() if stage]
SHAPES = {
    "counter": (1,), "first.weight": (7, 4), "first.bias": (7,), "norm.weight": (7,), "norm.bias": (7,),
    "last.weight": (3, 7), "last.bias": (3,), "frozen.weight": (3, 3), "frozen.bias": (3,), "tied.weight": (7, 4),
}  # fmt: skip
NUM_PARAMETERS = 7 * 4 + 7 + 7 + 7 + 3 * 7 + 3 + 3 * 3 + 3 + 1  # the tied weight once; the buffer counts as one
CONVERT = """
import sys, torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint as convert
torch.save({name: convert(f"{sys.argv[1]}/{name}") for name in sys.argv[3:]}, sys.argv[2])
"""


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of every sample with ZeRO, as DeepSpeed puts them together."""
    out = tmp_path_factory.mktemp("truth") / "fp32.pt"
    program = [sys.executable, "-c", CONVERT, str(SAMPLES), str(out), *WITH_ZERO]
    subprocess.run(program, check=True, capture_output=True, timeout=300)
    found: dict[str, dict[str, torch.Tensor]] = torch.load(out, weights_only=False)
    return found


def bytes_of(checkpoint: Checkpoint, tensor: TensorInfo) -> torch.Tensor:
    """A tensor from the bytes where we say that they are."""
    storage = checkpoint.storages[tensor.storage]
    assert storage.offset is not None
    with (Path(checkpoint.path) / storage.file).open("rb") as file:
        file.seek(storage.offset)
        raw = bytearray(file.read(storage.size_bytes))
    return torch.as_strided(
        torch.frombuffer(raw, dtype=getattr(torch, tensor.dtype)), tensor.shape, tensor.stride, tensor.offset
    )


def value_of(checkpoint: Checkpoint, reference: TensorRef) -> torch.Tensor:
    """The values of a parameter, put together from its pieces where it has some."""
    if not isinstance(reference, CompositeRef):
        return bytes_of(checkpoint, reference.info)
    assert isinstance(reference.info, ShardedTensor)
    whole = torch.full(reference.info.shape, torch.nan, dtype=getattr(torch, reference.info.dtype))
    for starts, piece in reference.info.chunks:
        box = tuple(slice(begin, begin + extent) for begin, extent in zip(starts, piece.shape, strict=True))
        whole[box] = bytes_of(checkpoint, piece)
    return whole


def state_of(checkpoint: Checkpoint) -> dict[str, dict[str, TensorRef]]:
    assert isinstance(checkpoint.state, dict)
    return checkpoint.state


@pytest.mark.parametrize("name", WITH_ZERO)
def test_weights_are_those_that_deepspeed_puts_together(name: str, truth: dict[str, dict[str, torch.Tensor]]) -> None:
    checkpoint = open_checkpoint(SAMPLES / name)
    assert sniff(SAMPLES / name) == checkpoint.format == "deepspeed"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    stage = make_deepspeed.SAMPLES[name][0]
    module = {part.file for part in checkpoint.parts if part.role == "model"}
    ours = state_of(checkpoint)["fp32"]
    expected = truth[name]
    elsewhere = {"counter", "frozen.weight", "frozen.bias"} if stage < 3 else set()  # whole in the model's own file
    assert set(ours) == set(expected) - elsewhere
    for key, reference in ours.items():
        assert reference.info.shape == tuple(expected[key].shape)
        assert reference.info.name in (f"fp32.{key}", "fp32.first.weight")
        assert checkpoint.tensors[reference.index] is reference.info
        assert torch.equal(value_of(checkpoint, reference), expected[key])
    assert module == ({""} if stage == 3 else {"global_step3/mp_rank_00_model_states.pt"})
    assert {name: SHAPES[name] for name in expected} == {name: tuple(t.shape) for name, t in expected.items()}
    assert count_parameters(model_tensors(checkpoint)) == NUM_PARAMETERS


@pytest.mark.parametrize("name", list(make_deepspeed.SAMPLES))
def test_facts(name: str) -> None:
    checkpoint = open_checkpoint(SAMPLES / name)
    stage = make_deepspeed.SAMPLES[name][0]
    assert checkpoint.progress == {"step": 3, "epoch": 1}
    assert checkpoint.has == ["model", "optimizer", "scheduler"]
    assert checkpoint.hyperparameters["seed"] == 7
    assert checkpoint.hyperparameters["zero_optimization"] == {"stage": stage}
    assert checkpoint.metadata["ds_version"] == "0.19.8"
    assert checkpoint.metadata["zero_stage"] == stage
    assert checkpoint.optimizer["type"] == "AdamW"
    assert checkpoint.optimizer["num_parameters"] == 6
    assert checkpoint.optimizer["state"] == {"exp_avg": 6, "exp_avg_sq": 6, "step": 6}
    groups = checkpoint.optimizer["groups"]
    assert isinstance(groups, list)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


@pytest.mark.parametrize("name", WITH_ZERO)
def test_moments_have_the_shapes_of_their_parameters(name: str) -> None:
    """They lie as the weights do; that they are the right ones shows where the gradient of a row is always zero."""
    checkpoint = open_checkpoint(SAMPLES / name)
    states = state_of(checkpoint)["optimizer"]["state"]
    weights = state_of(checkpoint)["fp32"]
    assert isinstance(states, dict)
    for key, moments in states.items():
        assert moments["exp_avg"].info.shape == moments["exp_avg_sq"].info.shape == weights[key].info.shape
        # The square of a mean is at most the mean of the squares: no other elements keep to that everywhere.
        mean = value_of(checkpoint, moments["exp_avg"]) / (1 - 0.9**3)
        square = value_of(checkpoint, moments["exp_avg_sq"]) / (1 - 0.999**3)
        assert (mean**2 <= square * 1.2 + 1e-12).all()
        assert value_of(checkpoint, moments["step"]).item() == 3


@pytest.mark.parametrize("name", list(make_deepspeed.SAMPLES))
def test_a_sound_one_is_valid(name: str) -> None:
    result = validate_checkpoint(str(SAMPLES / name), levels=("structure", "integrity", "numbers"))
    assert (result.verdict, result.step) == ("valid", 3)
    assert result.levels["numbers"] == "pass"


def test_resume_does_not_take_flat_partitions_for_wrong_shapes() -> None:
    for name in make_deepspeed.SAMPLES:
        codes = {finding.code for finding in validate_checkpoint(str(SAMPLES / name)).findings}
        assert codes.isdisjoint({"optimizer-shape", "moment-order", "moments-missing", "optimizer-missing"})


def test_the_step_may_be_opened_by_itself() -> None:
    whole = open_checkpoint(SAMPLES / "zero3_two_ranks")
    step = open_checkpoint(SAMPLES / "zero3_two_ranks" / "global_step3")
    assert [(t.name, t.shape) for t in step.tensors] == [(t.name, t.shape) for t in whole.tensors]
    assert step.progress == whole.progress


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (1, 4), (4, 1), (2, 3, 4), (2, 1, 1, 3)])
def test_boxes_make_up_every_span_of_a_row(shape: tuple[int, ...]) -> None:
    numbers = torch.arange(torch.Size(shape).numel()).reshape(shape)
    for begin in range(numbers.numel()):
        for end in range(begin + 1, numbers.numel() + 1):
            found = []
            for starts, extents, first in boxes_of(shape, begin, end):
                box = numbers[tuple(slice(s, s + n) for s, n in zip(starts, extents, strict=True))]
                assert box.reshape(-1).tolist() == list(range(first, first + box.numel()))
                found += box.reshape(-1).tolist()
            assert found == list(range(begin, end))


@pytest.mark.parametrize("name", list(make_deepspeed.SAMPLES))
def test_every_reference_leads_to_its_tensor(name: str) -> None:
    checkpoint = open_checkpoint(SAMPLES / name)
    references = list(tensor_references(checkpoint.state))
    assert {reference.index for reference in references} == set(range(len(checkpoint.tensors)))
    assert all(checkpoint.tensors[reference.index] is reference.info for reference in references)


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write one of the files again with something else in it."""
    state = torch.load(path, weights_only=False)
    change(state)
    torch.save(state, path)


def test_a_dynamic_loss_scale_is_the_scaler(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by DeepSpeed itself: it refuses fp16 on a CPU."""
    module = types.ModuleType("deepspeed.runtime.fp16.loss_scaler")
    scaler = type("DynamicLossScaler", (), {"__module__": module.__name__})
    module.DynamicLossScaler = module.LossScaler = scaler  # type: ignore[attr-defined]
    stages = types.ModuleType("deepspeed.runtime.zero.config")
    stages.ZeroStageEnum = type("ZeroStageEnum", (int,), {"__module__": stages.__name__})  # type: ignore[attr-defined]
    fragments = types.ModuleType("deepspeed.utils.tensor_fragment")
    fragments.fragment_address = type("fragment_address", (), {"__module__": fragments.__name__})  # type: ignore[attr-defined]
    for name in (
        "deepspeed",
        "deepspeed.runtime",
        "deepspeed.runtime.fp16",
        "deepspeed.runtime.zero",
        "deepspeed.utils",
    ):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for made in (module, stages, fragments):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    instance = scaler()
    instance.__dict__.update(cur_scale=65536.0, cur_iter=3, raise_error_at_min_scale=True)
    path = copy / "zero2" / "global_step3" / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    changed(path, lambda state: state["optimizer_state_dict"].update(loss_scaler=instance))
    checkpoint = open_checkpoint(copy / "zero2")
    assert checkpoint.has == ["model", "optimizer", "scheduler", "scaler"]
    assert checkpoint.safety == "safe"


def test_a_pipeline_has_a_file_for_every_layer(tmp_path: Path) -> None:
    """By hand, as `PipelineModule.save_state_dict` names them: DeepSpeed's pipelines need more than a CPU."""
    folder = tmp_path / "global_step5"
    folder.mkdir()
    (tmp_path / "latest").write_text("global_step5")
    torch.save({"weight": torch.ones(2, 3)}, folder / "layer_00-model_00-model_states.pt")
    torch.save({"weight": torch.ones(4)}, folder / "layer_01-model_00-model_states.pt")
    run = {"module": None, "optimizer": {"state": {}, "param_groups": []}, "global_steps": 5, "dp_world_size": 1}
    torch.save({**run, "mp_world_size": 1, "ds_config": {}}, folder / "mp_rank_00_model_states.pt")
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.format, checkpoint.findings) == ("deepspeed", [])
    assert checkpoint.progress == {"step": 5}
    assert count_parameters(model_tensors(checkpoint)) == 10


# --- damage


def test_settings_of_another_type_are_taken_as_they_are(copy: Path) -> None:
    path = copy / "zero0" / "global_step3" / "mp_rank_00_model_states.pt"

    def odd(state: dict[str, Any]) -> None:
        state["optimizer"]["param_groups"][0]["decoupled_weight_decay"] = [1, {}]
        state["shared_params"] = {"a": ["b"]}
        state["buffer_names"] = [["c"], None]

    changed(path, odd)
    assert open_checkpoint(copy / "zero0").optimizer["type"] == "Adam or AdamW"


@pytest.mark.parametrize("claim", ["ranks", "names", "the same group", "a shape"])
def test_states_that_claim_too_much_cost_little(copy: Path, claim: str) -> None:
    def claims(state: dict[str, Any]) -> None:
        if claim == "ranks":
            state.update(dp_world_size=2**39, mp_world_size=1)
        elif claim == "names":
            state["param_shapes"] = [{f"p{number}": torch.Size([1]) for number in range(150_000)}]
        elif claim == "the same group":
            state["param_shapes"] = state["param_shapes"] * 100_000
        else:
            state["param_shapes"][0]["first.weight"] = torch.Size([2**62] * 60)

    changed(copy / "zero1_two_ranks" / "global_step3" / "mp_rank_00_model_states.pt", claims)
    with cpu_time() as took:
        checkpoint = open_checkpoint(copy / "zero1_two_ranks")
    assert took.seconds < 4  # a second as a rule
    assert len(checkpoint.findings) <= 1001
    codes = {finding.code for finding in checkpoint.findings}
    expected = {"ranks": "missing-part", "names": "shapes-do-not-fit", "a shape": "shapes-do-not-fit"}
    assert claim == "the same group" or expected[claim] in codes


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SAMPLES, tmp_path / "copy"))


def test_a_missing_rank_is_named_with_what_it_held(copy: Path) -> None:
    for name, start in (("zero1_two_ranks", ""), ("zero2_two_ranks_bf16", "bf16_"), ("zero3_two_ranks", "")):
        file = f"global_step3/{start}zero_pp_rank_1_mp_rank_00_optim_states.pt"
        (copy / name / file).unlink()
        checkpoint = open_checkpoint(copy / name)
        missing, lost = checkpoint.findings
        assert (missing.code, missing.where) == ("missing-part", file)
        assert "rank 1" in missing.message
        assert lost.code == "lost-partition"
        readable = {
            tensor.name
            for tensor in checkpoint.tensors
            if tensor.storage and checkpoint.storages[tensor.storage].offset is not None
        }
        assert any(name.startswith("fp32.") for name in readable)
        weights = state_of(checkpoint)["fp32"]
        assert {key: reference.info.shape for key, reference in weights.items()} == {
            key: SHAPES[key] for key in weights
        }


def test_a_missing_model_file_is_named(copy: Path) -> None:
    (copy / "zero2" / "global_step3" / "mp_rank_00_model_states.pt").unlink()
    (finding,) = open_checkpoint(copy / "zero2").findings
    assert finding.where == "global_step3/mp_rank_00_model_states.pt"
    (copy / "zero3_two_ranks" / "global_step3" / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    codes = {finding.code: finding.where for finding in open_checkpoint(copy / "zero3_two_ranks").findings}
    assert codes["missing-part"] == "global_step3/zero_pp_rank_1_mp_rank_00_model_states.pt"


def test_latest_that_points_to_nothing_is_an_error_and_another_step_is_read(copy: Path) -> None:
    (copy / "zero2" / "latest").write_text("global_step9")
    checkpoint = open_checkpoint(copy / "zero2")
    (finding,) = checkpoint.findings
    assert (finding.code, finding.where) == ("latest-points-nowhere", "latest")
    assert "global_step9" in finding.message
    assert checkpoint.progress["step"] == 3


def test_latest_may_not_lead_out(copy: Path) -> None:
    (copy / "zero2" / "latest").write_text("../zero3")
    checkpoint = open_checkpoint(copy / "zero2")
    assert "leads out of the directory" in checkpoint.findings[0].message
    assert checkpoint.metadata["zero_stage"] == 2


def test_the_newest_step_is_read_when_latest_is_gone(copy: Path) -> None:
    root = copy / "zero2"
    (root / "latest").unlink()
    shutil.copytree(root / "global_step3", root / "global_step10")
    checkpoint = open_checkpoint(root)
    assert [finding.code for finding in checkpoint.findings] == ["latest-missing"]
    assert {tensor.file.partition("/")[0] for tensor in checkpoint.tensors if tensor.file} == {"global_step10"}


def test_latest_alone_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("global_step3")
    with pytest.raises(CkptError) as caught:
        open_checkpoint(tmp_path)
    assert "no step is there" in caught.value.message


def test_a_flipped_bit_is_found_and_names_the_partition(copy: Path) -> None:
    checkpoint = open_checkpoint(copy / "zero3_two_ranks")
    piece = state_of(checkpoint)["fp32"]["last.weight"].info.chunks[-1][1]  # type: ignore[attr-defined]
    storage = checkpoint.storages[piece.storage]
    assert storage.offset is not None
    path = copy / "zero3_two_ranks" / storage.file
    raw = bytearray(path.read_bytes())
    raw[storage.offset + 4 * piece.offset] ^= 1
    path.write_bytes(raw)
    result = validate_checkpoint(str(copy / "zero3_two_ranks"))
    assert result.verdict == "damaged"
    (finding,) = [finding for finding in result.findings if finding.code == "checksum"]
    assert "rank_1" in finding.where


@pytest.mark.long
@pytest.mark.usefixtures("deepspeed_starts")
def test_the_samples_are_what_their_script_makes(tmp_path: Path) -> None:
    for name in ("zero0", "zero3_two_ranks"):
        make_deepspeed.make(tmp_path / name, name)
        theirs, ours = open_checkpoint(tmp_path / name), open_checkpoint(SAMPLES / name)
        assert [(t.name, t.shape, t.dtype) for t in theirs.tensors] == [
            (t.name, t.shape, t.dtype) for t in ours.tensors
        ]
