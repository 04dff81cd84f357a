"""NaN and Inf: found and counted per tensor, in every float that torch has."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints import registry
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.validate import Validation
from tests.builders.raw_tensors import swapped
from tests.builders.validation import codes, full_state, save, validate, words_of

FLOAT_TYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex32, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip
NOT_IN_SAFETENSORS = {torch.complex32, torch.complex128}
EIGHT_BITS = [*(dtype for dtype in FLOAT_TYPES if dtype.itemsize == 1), torch.float8_e8m0fnu]


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_nan_is_found_and_counted_in_every_float(dtype: torch.dtype, kind: str, tmp_path: Path) -> None:
    tensor = torch.randn(30, 40, dtype=torch.complex128 if dtype.is_complex else torch.float32)
    tensor[3, 4] = tensor[20, 1] = float("nan")
    path = tmp_path / f"w.{kind}"
    weights = {"good": torch.randn(10).to(dtype), "bad": tensor.to(dtype)}
    if kind == "pt":
        torch.save(weights, path)
    elif dtype in NOT_IN_SAFETENSORS:
        pytest.skip("safetensors does not write it")
    else:
        save_file(weights, path)
    validation = validate(path)
    assert (validation.verdict, validation.levels["numbers"]) == ("nonfinite", "fail")
    finding = next(f for f in validation.findings if f.code == "nonfinite")
    assert (finding.where, finding.message) == ("bad", "2 NaN of 1,200, the first at [3, 4]")


def test_nan_in_the_optimizer(tmp_path: Path) -> None:
    state = full_state()
    state["optimizer"]["state"][1]["exp_avg_sq"][7] = float("inf")  # type: ignore[index]
    validation = validate(save(tmp_path / "rolling_step_000500.pt", state))
    assert validation.verdict == "nonfinite"
    assert "optimizer.state.1.exp_avg_sq: 1 Inf of 30, the first at [7]" in words_of(validation)


def test_every_name_of_a_tied_tensor_is_counted(tmp_path: Path) -> None:
    weights = {"wte": torch.full((3, 3), float("nan"))}
    weights["lm_head"] = weights["wte"]
    validation = validate(save(tmp_path / "w.pt", weights))
    assert [f.where for f in validation.findings] == ["wte", "lm_head"]


def test_nan_that_no_tensor_shows_is_no_finding(tmp_path: Path) -> None:
    base = torch.full((1000,), float("nan"))
    base[:10] = 1
    validation = validate(save(tmp_path / "w.pt", {"head": base[:10]}))
    assert (validation.verdict, validation.findings) == ("valid", ())


def test_an_attention_mask_may_be_infinite(tmp_path: Path) -> None:
    mask = torch.triu(torch.full((8, 8), float("-inf")), 1)
    validation = validate(save(tmp_path / "w.pt", {"attn.mask": mask, "w": torch.ones(3)}))
    assert (validation.verdict, codes(validation)) == ("valid", {"mask"})
    one = torch.zeros(8)
    one[3] = float("inf")
    assert validate(save(tmp_path / "v.pt", {"w": one})).verdict == "nonfinite"


def test_infinite_metrics_are_a_warning(tmp_path: Path) -> None:
    state = full_state()
    state["loss_history"] = torch.tensor([1.0, float("nan")])
    state["train_loss"] = float("nan")
    validation = validate(save(tmp_path / "rolling_step_000500.pt", state))
    assert (validation.verdict, codes(validation)) == ("valid", {"nonfinite-metric"})
    assert len(validation.findings) == 2


def test_a_best_value_that_is_not_there_yet_is_infinite(tmp_path: Path) -> None:
    """Lightning's ModelCheckpoint, which is on by default, and its EarlyStopping keep theirs as tensors."""
    infinite, state = torch.tensor(float("inf")), full_state()
    state["callbacks"] = {"ModelCheckpoint": {"kth_value": infinite}, "EarlyStopping": {"best_score": -infinite}}
    validation = validate(save(tmp_path / "rolling_step_000500.pt", state))
    assert (validation.verdict, codes(validation)) == ("valid", {"no-best-value"})
    state["callbacks"] = {"EarlyStopping": {"best_score": torch.tensor(float("nan"))}}
    validation = validate(save(tmp_path / "rolling_step_000500.pt", state))
    assert (validation.verdict, codes(validation)) == ("valid", {"nonfinite-metric"})


def test_a_single_weight_is_a_weight(tmp_path: Path) -> None:
    state = full_state()
    state["model"]["best_score"] = torch.tensor(float("inf"))
    assert validate(save(tmp_path / "rolling_step_000500.pt", state)).verdict == "nonfinite"
    assert validate(save(tmp_path / "w.pt", {"kth_value": torch.tensor(float("inf"))})).verdict == "nonfinite"


def test_without_floats_numbers_do_not_apply(tmp_path: Path) -> None:
    assert validate(save(tmp_path / "w.pt", {"ids": torch.arange(10)})).levels["numbers"] == "not-applicable"


# --- every pattern, every layout


def counts(validation: Validation) -> dict[str, tuple[int, int]]:
    """(NaN, Inf) that the findings tell, by tensor."""
    found = {}
    for finding in validation.findings:
        if finding.code == "nonfinite":
            told = re.match(r"(?:([\d,]+) NaN)?(?: and )?(?:([\d,]+) Inf)? of", finding.message)
            assert told is not None, finding.message
            found[finding.where] = (number(told[1]), number(told[2]))
    return found


def number(digits: str | None) -> int:
    return int((digits or "0").replace(",", ""))


def truth(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, int]]:
    """The same as torch sees it; of a complex number that has both, it is NaN."""
    found = {}
    for name, tensor in tensors.items():
        wide = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
        nan = wide.isnan()
        found[name] = (int(nan.sum()), int((wide.isinf() & ~nan).sum()))
    return {name: both for name, both in found.items() if any(both)}


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
def test_every_pattern_of_eight_bits_by_itself(dtype: torch.dtype, tmp_path: Path) -> None:
    """256 tensors of one pattern each among ordinary numbers: what torch calls NaN or Inf is found, only that."""
    tensors = {}
    for pattern in range(256):
        tensor = torch.full((33,), 0x38, dtype=torch.uint8)
        tensor[pattern % 33] = pattern
        tensors[f"p{pattern}"] = tensor.view(dtype)
    assert counts(validate(save(tmp_path / "w.pt", tensors), levels=("numbers",))) == truth(tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_pattern_of_sixteen_bits_by_row(dtype: torch.dtype, tmp_path: Path) -> None:
    patterns = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).reshape(256, 256)
    tensors = {f"row{row}": patterns[row].clone() for row in range(256)}
    assert counts(validate(save(tmp_path / "w.pt", tensors), levels=("numbers",))) == truth(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_the_edges_of_wide_floats(dtype: torch.dtype, tmp_path: Path) -> None:
    real = torch.float32 if dtype in (torch.float32, torch.complex64) else torch.float64
    word = {4: torch.int32, 8: torch.int64}[real.itemsize]
    info = torch.finfo(real)
    edges = torch.tensor([info.max, info.min, info.tiny, 0.0, -0.0, torch.inf, -torch.inf], dtype=real).view(word)
    near = torch.cat([edges, edges + 1, edges - 1])  # next to Inf: the largest number, and a NaN
    tensors = {}
    for place, pattern in enumerate(near.tolist()):
        tensor = torch.ones(20, dtype=dtype)
        flat = (torch.view_as_real(tensor) if dtype.is_complex else tensor).view(-1).view(word)
        flat[place % len(flat)] = pattern
        tensors[f"p{place}"] = tensor
    found = truth(tensors)
    assert len(found) >= 4
    assert counts(validate(save(tmp_path / "w.pt", tensors), levels=("numbers",))) == found


def bad_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {}
    for dtype in FLOAT_TYPES:
        tensor = torch.randn(70, 9, dtype=torch.complex128 if dtype.is_complex else torch.float32)
        tensor[5, 5] = tensor[69, 8] = torch.nan
        tensors[str(dtype)] = tensor.to(dtype)
        tensors[f"{dtype} good"] = torch.randn(50).to(dtype)
    return tensors


def test_big_endian(tmp_path: Path) -> None:
    """As torch on a machine of the other byte order writes it."""
    tensors = bad_tensors()
    plain = save(tmp_path / "plain.pt", tensors)
    of_record = {f"plain/{tensor.storage}": tensors[tensor.name] for tensor in open_checkpoint(plain).tensors}
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as other:
        for name in source.namelist():
            content = source.read(name)
            if name in of_record:
                content = swapped(content, of_record[name])
            other.writestr(name, b"big" if name == "plain/byteorder" else content)
    assert all(torch.load(path)[name].isnan().any() == tensors[name].isnan().any() for name in ("torch.float32",))
    assert counts(validate(path, levels=("numbers",))) == truth(tensors)


def test_deflated(tmp_path: Path) -> None:
    """As a zip tool packs it again: the numbers are in the streams, and so are their checksums."""
    tensors = {**bad_tensors(), "long": torch.zeros(400_000), "late": torch.zeros(400_000)}
    tensors["late"][399_999] = torch.inf
    plain = save(tmp_path / "plain.pt", tensors)
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in source.namelist():
            packed.writestr(name, source.read(name))
    validation = validate(path, levels=("integrity", "numbers"))
    assert (validation.levels["integrity"], validation.levels["numbers"]) == ("pass", "fail")
    assert counts(validation) == truth(tensors)


def test_sparse_tensors_by_their_components(tmp_path: Path) -> None:
    dense = torch.zeros(6, 5)
    dense[2, 3], dense[5, 0], dense[0, 0] = torch.nan, torch.inf, 1.0
    good = torch.eye(4)
    state = {
        "coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "csc": dense.to_sparse_csc(),
        "good": good.to_sparse(), "dense": good,
    }  # fmt: skip
    validation = validate(save(tmp_path / "w.pt", state), levels=("numbers",))
    assert validation.levels["numbers"] == "fail"
    assert counts(validation) == {f"{kind}.values": (1, 1) for kind in ("coo", "csr", "csc")}
    validation = validate(save(tmp_path / "g.pt", {"good": good.to_sparse()}), levels=("numbers",))
    assert (validation.levels["numbers"], codes(validation)) == ("pass", set())


def test_a_float_that_has_no_nan_passes(tmp_path: Path) -> None:
    packed = torch.arange(256, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    validation = validate(save(tmp_path / "w.pt", {"w": packed}), levels=("numbers",))
    assert (validation.levels["numbers"], codes(validation)) == ("pass", set())


def test_chunks_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    from torch.distributed import checkpoint as dcp

    tensors = bad_tensors()
    dcp.save({"model": tensors}, checkpoint_id=tmp_path / "dcp", no_dist=True)
    validation = validate(tmp_path / "dcp", levels=("numbers",))
    told = {name.partition("model.")[2]: both for name, both in counts(validation).items()}
    assert told == truth(tensors), words_of(validation)


def test_numbers_that_do_not_begin_where_their_record_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader may find a storage inside a record: it is looked at all the same."""
    path = save(tmp_path / "w.pt", {"w": torch.tensor([1.0, 2.0, torch.nan, 4.0]), "v": torch.ones(4)})
    open_it = registry.open_checkpoint

    def inside(where: str) -> Checkpoint:
        checkpoint = open_it(where)
        for tensor in checkpoint.tensors:
            key = tensor.storage
            storage = checkpoint.storages[key]
            assert storage.offset is not None
            checkpoint.storages[key] = replace(storage, offset=storage.offset + 4, size_bytes=12)
            tensor.shape = (3,)
        return checkpoint

    monkeypatch.setattr(registry, "open_checkpoint", inside)
    assert counts(validate(path, levels=("integrity", "numbers"))) == {"w": (1, 0)}
