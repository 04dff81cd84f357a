"""Shards with an index: what is missing, left over or in the wrong place is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint, Finding
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.values import tensor_statistics
from ckpt_tui.errors import CkptError
from tests.builders.frameworks import shards, write_json

_INDEX = "model.safetensors.index.json"
_FIRST, _SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def _codes(checkpoint: Checkpoint) -> set[tuple[str, str]]:
    return {(finding.code, finding.where) for finding in checkpoint.findings}


def _only(checkpoint: Checkpoint, code: str) -> Finding:
    (found,) = [finding for finding in checkpoint.findings if finding.code == code]
    return found


def _change_index(directory: Path, change: Callable[[dict[str, str]], object], **metadata: object) -> None:
    index = json.loads((directory / _INDEX).read_text())
    change(index["weight_map"])
    index["metadata"].update(metadata)
    write_json(directory / _INDEX, index)


@pytest.mark.parametrize("pickled", [False, True])
def test_shards_are_one_model(tmp_path: Path, pickled: bool) -> None:
    truth = shards(tmp_path, pickled=pickled)
    checkpoint = open_checkpoint(tmp_path)
    assert sniff(tmp_path) == checkpoint.format == "sharded"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    assert checkpoint.has == ["model"]
    assert checkpoint.hyperparameters == {"model_type": "tiny", "hidden_size": 4}
    assert checkpoint.metadata["total_size"] == sum(tensor.nbytes for tensor in truth.values())
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert ours.keys() == truth.keys()
    weight_map = json.loads(next(tmp_path.glob("*.index.json")).read_text())["weight_map"]
    for name, tensor in truth.items():
        assert ours[name].shape == tuple(tensor.shape)
        assert ours[name].file == weight_map[name]
        found = tensor_statistics(checkpoint, ours[name])
        assert found.norm == pytest.approx(tensor.double().norm().item(), rel=1e-9)
    assert count_parameters(model_tensors(checkpoint)) == 24 + 20 + 5
    assert checkpoint.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_a_missing_shard_names_what_was_in_it(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / _SECOND).unlink()
    checkpoint = open_checkpoint(tmp_path)
    finding = _only(checkpoint, "missing-part")
    assert finding.where == _SECOND
    assert "2 tensors (head.weight, head.bias) cannot be read" in finding.message
    assert [tensor.name for tensor in checkpoint.tensors] == ["embed.weight"]
    assert len(checkpoint.findings) == 1


def test_a_cut_shard_names_its_tensor(tmp_path: Path) -> None:
    shards(tmp_path)
    whole = (tmp_path / _FIRST).read_bytes()
    (tmp_path / _FIRST).write_bytes(whole[:-1])
    finding = _only(open_checkpoint(tmp_path), "tensor-outside")
    assert finding.where == f"{_FIRST}: embed.weight"


def test_a_shard_of_another_save_is_left_over(tmp_path: Path) -> None:
    shards(tmp_path)
    save_file({"old": torch.ones(3)}, tmp_path / "model-00001-of-00003.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert _codes(checkpoint) == {("extra-shard", "model-00001-of-00003.safetensors")}
    assert "old" not in {tensor.name for tensor in checkpoint.tensors}


def test_tensors_that_no_shard_holds(tmp_path: Path) -> None:
    shards(tmp_path)
    _change_index(tmp_path, lambda weight_map: weight_map.update(ghost=_FIRST))
    finding = _only(open_checkpoint(tmp_path), "tensor-missing")
    assert finding.where == _FIRST
    assert "ghost" in finding.message


def test_tensors_in_another_shard_than_the_index_says(tmp_path: Path) -> None:
    shards(tmp_path)
    _change_index(tmp_path, lambda weight_map: weight_map.update({"head.bias": _FIRST}))
    finding = _only(open_checkpoint(tmp_path), "tensor-elsewhere")
    assert finding.where == _FIRST
    assert "head.bias" in finding.message
    assert _SECOND in finding.message


def test_tensors_that_the_index_does_not_name(tmp_path: Path) -> None:
    shards(tmp_path)
    _change_index(tmp_path, lambda weight_map: weight_map.pop("head.bias"))
    finding = _only(open_checkpoint(tmp_path), "not-in-index")
    assert finding.where == _SECOND
    assert "head.bias" in finding.message


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    truth = shards(tmp_path)
    save_file({"embed.weight": truth["embed.weight"], "head.bias": truth["head.bias"]}, tmp_path / _FIRST)
    finding = _only(open_checkpoint(tmp_path), "tensor-twice")
    assert "head.bias" in finding.message


def test_a_total_that_is_not_the_sum(tmp_path: Path) -> None:
    truth = shards(tmp_path)
    total = sum(tensor.nbytes for tensor in truth.values())
    _change_index(tmp_path, lambda _: None, total_size=total + 4)
    finding = _only(open_checkpoint(tmp_path), "total-size")
    assert str(total) in finding.message
    assert str(total + 4) in finding.message


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "link/s", "."])
def test_names_that_lead_out_of_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    directory, outside = tmp_path / "model", tmp_path / "elsewhere"
    directory.mkdir()
    outside.mkdir()
    shards(directory)
    save_file({"secret": torch.ones(3)}, tmp_path / "secret.safetensors")
    save_file({"secret": torch.ones(3)}, outside / "s")
    (directory / "link").symlink_to(outside)
    _change_index(directory, lambda weight_map: weight_map.update(secret=name))
    checkpoint = open_checkpoint(directory)
    (finding,) = checkpoint.findings
    assert finding.code == ("missing-part" if name == "." else "outside")
    assert "secret" in finding.message
    assert "secret" not in {tensor.name for tensor in checkpoint.tensors}


def test_a_link_to_a_file_is_followed_as_in_the_hub_cache(tmp_path: Path) -> None:
    directory = tmp_path / "snapshot"
    directory.mkdir()
    shards(directory)
    (directory / _FIRST).rename(tmp_path / "blob")
    (directory / _FIRST).symlink_to(tmp_path / "blob")
    assert open_checkpoint(directory).findings == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    shards(tmp_path)
    (tmp_path / _INDEX).write_text(content)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "sharded"
    assert ("unreadable-part", _INDEX) in _codes(checkpoint)
    if "a" not in content.replace("weight_map", ""):  # the shards are there all the same
        assert len(checkpoint.tensors) == 3


@pytest.mark.parametrize("name", [_FIRST, "other.index.json", "pytorch_model.bin"])
def test_an_index_is_no_shard(tmp_path: Path, name: str) -> None:
    shards(tmp_path)
    _change_index(tmp_path, lambda weight_map: weight_map.update({"embed.weight": name, "again": _INDEX}))
    (tmp_path / name).write_bytes((tmp_path / _INDEX).read_bytes())
    for path in (tmp_path, tmp_path / _INDEX):
        checkpoint = open_checkpoint(path)  # and does not open them in turn without end
        assert {("unreadable-part", name), ("unreadable-part", _INDEX)} <= _codes(checkpoint)
        assert len(checkpoint.tensors) == 2


def test_shards_without_an_index(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / _INDEX).unlink()
    (tmp_path / _FIRST).unlink()
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "sharded"
    assert _codes(checkpoint) == {("missing-part", _INDEX), ("missing-part", "model-*.safetensors")}
    assert "1 of 2 shards are not there: 1" in checkpoint.findings[1].message
    assert {tensor.name for tensor in checkpoint.tensors} == {"head.weight", "head.bias"}


def test_a_million_missing_shards_are_not_a_million_findings(tmp_path: Path) -> None:
    shards(tmp_path)
    _change_index(tmp_path, lambda weight_map: weight_map.update({f"t{i}": f"s{i}" for i in range(20_000)}))
    checkpoint = open_checkpoint(tmp_path)
    assert len(checkpoint.findings) == 1000
    assert "not listed" in checkpoint.findings[-1].message


def test_a_pickle_that_is_not_read_is_judged_all_the_same(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return eval, ("1",)

    shards(tmp_path)
    torch.save({"x": Harm(), "w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.safety == "dangerous"
    assert ("not-read", "pytorch_model.bin") in _codes(checkpoint)


def test_one_file_beside_its_config_is_a_model(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    assert open_checkpoint(tmp_path).format == "sharded"  # nothing else lies there
    torch.save({}, tmp_path / "other.pt")
    assert sniff(tmp_path) is None  # a directory of checkpoints, not one
    write_json(tmp_path / "config.json", {"hidden_size": 2})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.format == "sharded"
    assert checkpoint.hyperparameters == {"hidden_size": 2}


def test_an_adapter_without_its_weights(tmp_path: Path) -> None:
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": 4})
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.hyperparameters["r"] == 4
    assert _codes(checkpoint) == {("missing-part", "weights")}


def test_other_directories_are_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    write_json(tmp_path / "config.json", {})
    assert sniff(tmp_path) is None
    with pytest.raises(CkptError, match="no layout that is known"):
        open_checkpoint(tmp_path)


def test_pickles_beside_the_weights_are_judged_also_when_they_do_not_decode(tmp_path: Path) -> None:
    payload = b"\x80\x02cposix\nsystem\n(X\x02\x00\x00\x00idtR"
    for name, raw, safety in (
        ("old/adapter_model.bin", payload + b".", "dangerous"),
        ("extra.pkl", payload + b"\xff\xff", "dangerous"),
        ("vocabulary.bin", b"a b c\n" * 100, "safe"),
    ):
        folder = tmp_path / name.replace("/", "_")
        folder.mkdir()
        save_file({"w": torch.ones(2)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "x"}')
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(raw)
        assert open_checkpoint(folder).safety == safety, name
