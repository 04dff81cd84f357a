"""Salvage of what is not one torch zip: safetensors, older files, directories, tensors in pieces, other writers."""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from ckpt_tui.checkpoints.validate import validate_checkpoint
from ckpt_tui.errors import CkptError
from ckpt_tui.services.salvage import SalvagePlan, carry_out, plan_salvage
from tests.builders import frameworks
from tests.builders.salvage_states import are_same, every_kind, leaves, saved

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(autouse=True)
def no_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def salvage(source: Path, out: Path) -> SalvagePlan:
    out.unlink(missing_ok=True)
    plan = plan_salvage(str(source), str(out))
    if plan.new_file is not None:
        carry_out(plan)
        validation = validate_checkpoint(str(out), levels=("structure", "integrity"))
        assert validation.levels["structure"] == "pass", validation.findings
        assert validation.levels["integrity"] in ("pass", "not-checked")
    return plan


def load(out: Path) -> Any:
    return torch.load(out, weights_only=True)


# --- safetensors


def test_a_truncated_safetensors_gives_the_tensors_before_the_cut(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(40.0).reshape(5, 8), "a": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4), "f8": torch.ones(9).to(torch.float8_e4m3fn), "z": torch.full((100,), 7),
    }  # fmt: skip
    raw = save(tensors, {"format": "pt", "note": "ä\n"})
    path, out = tmp_path / "x.safetensors", tmp_path / "out.safetensors"
    start = 8 + int.from_bytes(raw[:8], "little")
    ends = {
        name: start + entry["data_offsets"][1]
        for name, entry in json.loads(raw[8:start]).items()
        if name != "__metadata__"
    }
    for cut in sorted({start, *ends.values(), *(end - 1 for end in ends.values())} - {len(raw)}):
        path.write_bytes(raw[:cut])
        plan = salvage(path, out)
        expected = {name for name, end in ends.items() if end <= cut}
        assert {tensor.name for tensor in plan.lost} == set(tensors) - expected - {"empty"}
        if plan.new_file is None:
            assert not any(tensors[name].numel() for name in expected)
            continue
        assert plan.num_unvouched == len(expected - {"empty"})
        got = load_file(out)
        assert set(got) == expected | {"empty"}
        assert all(torch.equal(got[name].view(torch.uint8), tensors[name].view(torch.uint8)) for name in got)
        with safe_open(out, "pt") as opened:
            assert opened.metadata() == {"format": "pt", "note": "ä\n"}
    path.write_bytes(raw[: start - 5])
    with pytest.raises(CkptError, match="header"):
        plan_salvage(str(path), str(tmp_path / "new.safetensors"))


def test_the_name_of_out_chooses_the_format(tmp_path: Path) -> None:
    raw = save({"a": torch.ones(3), "b": torch.arange(4)})
    (tmp_path / "x.safetensors").write_bytes(raw[:-1])
    assert salvage(tmp_path / "x.safetensors", tmp_path / "out.pt").out_format == "torch-zip"
    assert list(load(tmp_path / "out.pt")) == ["a"] or list(load(tmp_path / "out.pt")) == ["b"]
    flat = saved({"a": torch.ones(3), "b": torch.arange(4)})
    (tmp_path / "x.pt").write_bytes(flat[: flat.index(b"PK\x01\x02")])
    assert salvage(tmp_path / "x.pt", tmp_path / "out.safetensors").out_format == "safetensors"
    assert load_file(tmp_path / "out.safetensors")["b"].tolist() == [0, 1, 2, 3]


# --- older files


def test_a_truncated_legacy_file_gives_the_storages_before_the_cut(tmp_path: Path) -> None:
    state = {"step": 9, "model": {f"w{n}": torch.full((20,), float(n)) for n in range(6)}}
    path, out = tmp_path / "x.pt", tmp_path / "out.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    num_before = 6
    for cut in range(len(raw), len(raw) - 6 * 88, -29):
        path.write_bytes(raw[:cut])
        plan = salvage(path, out)
        assert plan.num_written <= num_before
        num_before = plan.num_written
        if plan.new_file is None:
            assert num_before == 0
            continue
        got = load(out)
        assert got["step"] == 9
        assert len(got["model"]) == num_before
        for name, tensor in got["model"].items():
            assert torch.equal(tensor, state["model"][name])
    assert num_before <= 1


def test_what_weights_only_refuses_is_written_as_plain_data(tmp_path: Path) -> None:
    grid = np.arange(6, dtype=np.int16).reshape(2, 3)
    state = {
        "args": argparse.Namespace(lr=0.5, out=Path("/a/b"), nested=argparse.Namespace(x=torch.ones(2))),
        "rng": np.random.RandomState(0).get_state(),
        "python": random.Random(0).getstate(),
        "grid": grid,
        "fortran": np.asfortranarray(grid),
        "scalar": np.float64(2.5),
        "version": torch.__version__,
        "frozen": frozenset({1}),
        "module": torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)),
        "function": print,
        "step": 4,
    }
    raw = saved(state)
    (tmp_path / "x.pt").write_bytes(raw[: raw.index(b"PK\x01\x02")])
    plan = salvage(tmp_path / "x.pt", tmp_path / "out.pt")
    assert plan.lost == []
    got = load(tmp_path / "out.pt")
    assert got["args"]["lr"] == 0.5
    assert got["args"]["out"] == "/a/b"
    assert got["args"]["nested"]["x"].tolist() == [1, 1]
    assert got["rng"][0] == "MT19937"
    assert got["rng"][1].dtype is torch.uint32
    assert got["rng"][1].tolist() == state["rng"][1].tolist()  # type: ignore[index]
    assert got["python"] == state["python"]
    assert got["grid"].tolist() == got["fortran"].tolist() == grid.tolist()
    assert got["fortran"].stride() == (1, 2)
    assert (got["scalar"], got["frozen"], got["step"]) == (2.5, {1}, 4)
    module = state["module"]
    assert isinstance(module, torch.nn.Module)
    flat = {".".join(map(str, place)): value for place, value in leaves(got["module"])}
    for name, tensor in module.state_dict().items():
        assert torch.equal(flat[name].detach(), tensor)
    assert "function" not in got
    assert [change.place for change in plan.left_out if change.place == "function"] == ["function"]
    places = {change.place for change in plan.changed}
    assert {"args", "args.out", "args.nested", "rng.1", "grid", "fortran", "frozen", "module"} <= places


def test_cycles_and_depth_end(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"w": torch.ones(2)}
    loop["self"] = loop
    deep: list[Any] = [torch.ones(3)]
    for _ in range(3000):
        deep = [deep]
    laughs: list[Any] = ["ha"]
    for _ in range(60):
        laughs = [laughs] * 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)
        try:
            raw = saved({"loop": loop, "deep": deep, "laughs": laughs})
        finally:
            sys.setrecursionlimit(before)
    (tmp_path / "x.pt").write_bytes(raw[: raw.index(b"PK\x01\x02")])
    plan = salvage(tmp_path / "x.pt", tmp_path / "out.pt")
    assert [change.place for change in plan.left_out] == ["loop.self"]
    assert (tmp_path / "out.pt").stat().st_size < 10 * len(raw)
    got = load(tmp_path / "out.pt")
    assert got["loop"]["w"].tolist() == [1, 1]
    inner = got["deep"]
    for _ in range(3000):
        inner = inner[0]
    assert inner[0].tolist() == [1, 1, 1]


def test_a_big_endian_file_stays_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.arange(5.0)}))) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif "/data/" in name:
                data = np.frombuffer(data, "<f4").astype(">f4").tobytes()
            new.writestr(name, data)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue()[: buffer.getvalue().index(b"PK\x01\x02")])
    plan = salvage(tmp_path / "x.pt", tmp_path / "out.pt")
    assert plan.lost == []
    assert load(tmp_path / "out.pt")["w"].tolist() == [0, 1, 2, 3, 4]


def test_archives_of_other_zip_formats_are_walked_too(tmp_path: Path) -> None:
    large = np.random.RandomState(1).rand(300)
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "x.npz", a=large, b=np.ones((3, 4), "f4"))
        raw = (tmp_path / "x.npz").read_bytes()
        (tmp_path / "x.npz").write_bytes(raw[: raw.index(b"PK\x01\x02")])
        plan = salvage(tmp_path / "x.npz", tmp_path / "out.pt")
        assert plan.lost == []
        assert load(tmp_path / "out.pt")["a"].tolist() == large.tolist()
        flipped = bytearray(raw)
        flipped[raw.index(b"b.npy") - 60] ^= 1
        (tmp_path / "x.npz").write_bytes(flipped)
        plan = salvage(tmp_path / "x.npz", tmp_path / "out.pt")
        assert [tensor.name for tensor in plan.lost] == ["a"]
        assert load(tmp_path / "out.pt")["b"].tolist() == [[1] * 4] * 3


# --- directories


def test_shards_that_are_missing_or_damaged_cost_their_tensors_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {f"w{n}": torch.full((10,), float(n)) for n in range(6)}
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    weight_map = {}
    for number, name in enumerate(names):
        part = {f"w{n}": tensors[f"w{n}"] for n in (2 * number, 2 * number + 1)}
        save_file(part, folder / name)
        weight_map.update(dict.fromkeys(part, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    second = folder / names[1]
    second.write_bytes(second.read_bytes()[:-4])
    (folder / names[2]).unlink()
    out = tmp_path / "out.safetensors"
    plan = salvage(folder, out)
    got = load_file(out)
    assert set(got) == {"w0", "w1", "w2"}
    assert all(torch.equal(got[name], tensors[name]) for name in got)
    lost = {tensor.name: tensor for tensor in plan.lost}
    assert set(lost) == {"w3", "w4", "w5"}
    assert (lost["w3"].shape, lost["w3"].size_bytes) == ((10,), 40)
    assert lost["w4"].shape is None
    assert (lost["w4"].file, lost["w4"].reason) == (names[2], "its shard is missing")


def test_a_cut_shard_of_a_pickled_model_is_walked(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    parts = [{"a": torch.ones(3)}, {"b": torch.arange(5.0), "c": torch.arange(900.0)}]
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        name = f"pytorch_model-0000{number}-of-00002.bin"
        (folder / name).write_bytes(saved(part))
        weight_map.update(dict.fromkeys(part, name))
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    cut = folder / "pytorch_model-00002-of-00002.bin"
    raw = cut.read_bytes()
    cut.write_bytes(raw[: len(raw) // 2])
    plan = salvage(folder, tmp_path / "out.pt")
    got = load(tmp_path / "out.pt")
    assert set(got) == {"a", "b"}
    assert [tensor.name for tensor in plan.lost] == ["c"]
    assert torch.equal(got["b"], parts[1]["b"])


def test_a_trainer_s_directory_is_salvaged_file_by_file(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    frameworks.hf_trainer(folder)
    raw = (folder / "optimizer.pt").read_bytes()
    truth = torch.load(folder / "optimizer.pt", weights_only=True)
    (folder / "optimizer.pt").write_bytes(raw[: len(raw) // 2])
    (folder / "scheduler.pt").unlink()
    plan = salvage(folder, tmp_path / "out.pt")
    parts = {part.role: part for part in plan.parts}
    assert parts["model"].is_whole
    assert 0 < parts["optimizer"].num_written < parts["optimizer"].num_tensors
    assert {tensor.file for tensor in plan.lost} == {"optimizer.pt"}
    got = load(tmp_path / "out.pt")
    there = got["optimizer.pt"]
    assert there["param_groups"] == truth["param_groups"]
    kept = [place for place, value in leaves(there["state"]) if isinstance(value, torch.Tensor)]
    assert len(kept) == parts["optimizer"].num_written
    assert all(torch.equal(there["state"][n][name], truth["state"][n][name]) for n, name in kept)
    weights = load_file(folder / "model-00001-of-00002.safetensors")
    assert all(torch.equal(got["model-00001-of-00002.safetensors"][name], weights[name]) for name in weights)


def test_tensors_in_pieces_are_put_together_as_torch_does(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    folder = tmp_path / "dcp"
    shutil.copytree(SAMPLES / "dcp_two_ranks", folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_to_torch_save(folder, tmp_path / "torch.pt")
    truth = dict(leaves(torch.load(tmp_path / "torch.pt", weights_only=False)))
    plan = salvage(folder, tmp_path / "out.pt")
    assert plan.lost == []
    assert not plan.is_damaged
    got = dict(leaves(load(tmp_path / "out.pt")))
    tensors = {place: value for place, value in truth.items() if isinstance(value, torch.Tensor)}
    assert len(tensors) > 8
    for place, value in tensors.items():
        assert torch.equal(got[place].detach(), value.detach()), place
    # A damaged piece costs the tensors that need it; their other pieces are still there.
    piece = folder / "__1_0.distcp"
    raw = piece.read_bytes()
    columns = truth[("columns",)]
    assert isinstance(columns, torch.Tensor)
    second = columns[:, 3:].contiguous().numpy().tobytes()
    at = raw.index(second)
    piece.write_bytes(raw[:at] + b"\xff" + raw[at + 1 :])
    plan = salvage(folder, tmp_path / "out.pt")
    state = load(tmp_path / "out.pt")
    assert state["columns"]["shape"] == tuple(columns.shape)
    assert torch.equal(state["columns"]["chunks"][0], columns[:, :3])
    assert state["columns"]["chunks"][1] is None
    assert "columns" in {tensor.name for tensor in plan.lost}
    assert torch.equal(state["model"]["weight"].detach(), truth[("model", "weight")].detach())  # type: ignore[attr-defined]


def test_a_state_of_every_kind_comes_through_a_legacy_file(tmp_path: Path) -> None:
    state = {key: value for key, value in every_kind().items() if key not in ("sparse", "rows")}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    plan = plan_salvage(str(tmp_path / "x.pt"), str(tmp_path / "out.pt"))
    assert not plan.is_damaged
    assert plan.lost == []
    carry_out(plan)
    got = dict(leaves(load(tmp_path / "out.pt")))
    for place, value in leaves(state):
        if isinstance(value, torch.Tensor):
            assert are_same(got[place], value), place
