"""Checkpoints of torch.distributed.checkpoint: exact, whole, safe to read, and the same on any number of processes."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders.training import corpus_in, tiny_training
from tests.trainer.faults.nursery import Nursery
from tests.trainer.test_distributed import environments
from trainer.checkpoint.dcp import is_dcp, load_dcp
from trainer.checkpoint.dcp_form import Dcp
from trainer.checkpoint.publish import PublishError
from trainer.checkpoint.publish_directory import FileFacts, commit, new_directory, read_manifest
from trainer.checkpoint.state import BadCheckpointError, fingerprint
from trainer.loop import Training


def state(step: int = 7) -> dict[str, Any]:
    weight = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        "step": step, "epoch": 0, "model": {"a.weight": weight, "tied": weight, "half": torch.ones(2).bfloat16()},
        "optimizer": {
            "state": {0: {"step": torch.tensor(7.0), "exp_avg": weight * 2}, 10: {"exp_avg": torch.ones(1)}},
            "param_groups": [{"lr": 0.1, "params": [0]}, {"lr": 0.2, "params": [10]}],
        },
        "scheduler": {"last_lr": [0.1]}, "scaler": None, "ema": None, "train_loss": 1.5, "val_loss": None,
        "val_metrics": {}, "loss_history": [[1, 2.5]], "dataloader_state": {"train": {"position": 3}},
        "rng_state": {"torch": torch.arange(5, dtype=torch.uint8), "torch_cuda": [],
                      "ranks": [{"torch": torch.zeros(1), "n": 1}, {"torch": torch.ones(1), "n": 2}]},
        "args": {"lr": 0.1, "data": ["x"]}, "best_metric": None,
    }  # fmt: skip


def save(directory: Path, names: list[str], step: int = 7) -> None:
    form = Dcp(str(directory))
    form.take(state(step))
    form.finish()
    form.publish(str(directory), names, {})


def test_what_is_saved_comes_back_equal_and_of_the_same_types(tmp_path: Path) -> None:
    form, saved = Dcp(str(tmp_path)), state()
    form.take(saved)
    expected = fingerprint(saved)
    saved["model"]["a.weight"].zero_()  # training goes on at once
    form.finish()
    assert form.first_nonfinite(("model",)) is None
    published = form.publish(str(tmp_path), ["rolling_step_000007", "latest"], {})
    form.publish(str(tmp_path), ["rolling_last_backup"], {})
    for name in ("rolling_step_000007", "latest", "rolling_last_backup"):
        assert is_dcp(str(tmp_path / name))
        found, digest = load_dcp(str(tmp_path / name), published.digest)
        assert fingerprint(found) == expected
        assert digest == published.digest
        assert found["val_metrics"] == {}
        assert list(found["optimizer"]["state"]) == [0, 10]
        assert found["rng_state"]["ranks"][1]["n"] == 2
    inode = {name: (tmp_path / name / "__0_0.distcp").stat().st_ino for name in os.listdir(tmp_path)}
    assert inode["latest"] == inode["rolling_step_000007"]
    assert inode["rolling_last_backup"] != inode["latest"]
    # The same memory serves the next save, also of other shapes.
    form.take({**state(8), "model": {"b": torch.ones(7)}})
    form.finish()
    form.publish(str(tmp_path), ["latest"], {"latest_backup": "latest"})
    assert load_dcp(str(tmp_path / "latest"))[0]["model"]["b"].tolist() == [1.0] * 7
    assert load_dcp(str(tmp_path / "latest_backup"))[0]["step"] == 7
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]


@pytest.mark.parametrize("file", ["__0_0.distcp", ".metadata", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_damage_in_any_file_is_found(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path, ["latest"])
    path = tmp_path / "latest" / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    expected = "" if file != "manifest.json" else "crc32:00000000"
    with pytest.raises(BadCheckpointError):
        load_dcp(str(tmp_path / "latest"), expected)


def test_a_pickle_that_names_code_is_refused_and_nothing_is_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'run'}",)

    save(tmp_path, ["good"])
    temporary = new_directory(str(tmp_path), "bad")
    for name in ("__0_0.distcp",):
        os.link(tmp_path / "good" / name, os.path.join(temporary, name))
    Path(temporary, ".metadata").write_bytes(pickle.dumps(Payload()))
    commit(str(tmp_path), temporary, ["bad"], about={"format": "dcp"})
    # A dotted name reaches what a module has imported.
    temporary = new_directory(str(tmp_path), "dotted")
    os.link(tmp_path / "good" / "__0_0.distcp", os.path.join(temporary, "__0_0.distcp"))
    words = [b"torch.distributed.checkpoint.filesystem", b"os.system", f"touch {tmp_path / 'run'}".encode()]
    packed = [b"\x8c" + bytes([len(word)]) + word for word in words]
    Path(temporary, ".metadata").write_bytes(b"\x80\x04" + packed[0] + packed[1] + b"\x93" + packed[2] + b"\x85R.")
    commit(str(tmp_path), temporary, ["dotted"], about={"format": "dcp"})
    for name in ("bad", "dotted"):
        with pytest.raises(BadCheckpointError, match="no part of a checkpoint"):
            load_dcp(str(tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_a_state_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    form, bad = Dcp(str(tmp_path)), state()
    bad["model"]["a.weight"][1, 2] = torch.nan
    form.take(bad)
    form.finish()
    assert form.first_nonfinite(("model",)) == "model.a.weight"
    assert os.listdir(tmp_path) == []
    with pytest.raises(PublishError):
        form.publish(str(tmp_path), ["latest"], {})


def test_a_manifest_vouches_for_every_file(tmp_path: Path) -> None:
    save(tmp_path, ["latest"])
    manifest = read_manifest(str(tmp_path / "latest"))
    files = {facts.path for facts in manifest["files"]}
    assert files == {"__0_0.distcp", ".metadata"}
    assert all(isinstance(facts, FileFacts) and facts.digest.startswith("crc32:") for facts in manifest["files"])
    assert (manifest["format"], manifest["world_size"], manifest["facts"]["step"]) == ("dcp", 1, 7)


# --- through a training


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Training]:
    corpus = corpus_in(tmp_path)
    kept = ("--dropout", "0.1", "--keep_checkpoints", "3", "--checkpoint_format", "dcp")
    return lambda *options: tiny_training(tmp_path / "run", corpus, *kept, *options)


def test_a_training_keeps_directories_and_resumes_from_the_newest_whole_one(
    make: Callable[..., Training], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert make().run() == 0
    straight = fingerprint(load_dcp(str(run / "latest"))[0])
    rolling = sorted(path.name for path in run.glob("rolling_step_*"))
    assert rolling == ["rolling_step_000010", "rolling_step_000015", "rolling_step_000020"]
    # A shard of the newest state is damaged under all its names; the best of step 20, too, if it is one.
    damaged = [path for path in run.iterdir() if path.is_dir() and load_dcp(str(path))[0]["step"] == 20]
    for path in damaged:
        shard = path / "__0_0.distcp"
        content = bytearray(shard.read_bytes())
        content[1000] ^= 1
        shard.unlink()
        shard.write_bytes(content)
    resumed = make("--resume", "auto")
    assert resumed.progress.step == 15
    assert "rejected latest: __0_0.distcp is not what was written" in capsys.readouterr().out
    assert not any(path.exists() for path in damaged if path.name != "latest"), "set aside as directories"
    assert resumed.run() == 0
    assert fingerprint(load_dcp(str(run / "latest"))[0]) == straight


def test_the_viewer_understands_what_is_written(make: Callable[..., Training], tmp_path: Path) -> None:
    from ckpt_tui.checkpoints.registry import open_checkpoint
    from ckpt_tui.checkpoints.validate import validate_checkpoint
    from ckpt_tui.services.catalog import read_catalog

    assert make().run() == 0
    latest = str(tmp_path / "run" / "latest")
    checkpoint = open_checkpoint(latest)
    assert (checkpoint.format, checkpoint.progress["step"]) == ("dcp", 20)
    assert {"model", "optimizer", "scheduler", "rng", "dataloader"} <= set(checkpoint.has)
    found = validate_checkpoint(latest)
    assert (found.verdict, set(map(str, found.levels.values()))) == ("valid", {"pass"}), found.findings
    catalog = read_catalog(str(tmp_path / "run"))
    assert catalog.resume_would_take == "latest"
    assert [(entry.kind, entry.step) for entry in catalog.entries if entry.name == "rolling_step_000015"] == [
        ("rolling", 15)
    ]
    shard = tmp_path / "run" / "latest" / "__0_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert validate_checkpoint(latest).verdict == "damaged"


# --- on several processes

SHARDED = """
import sys, torch
from torch.distributed.fsdp import fully_shard
from trainer.checkpoint.dcp import load_dcp
from trainer.checkpoint.dcp_form import Dcp
from trainer.checkpoint.state import fingerprint
from trainer.config import Config
from trainer.distributed import World
from trainer.model import GPT, make_optimizer
from trainer.parallel.network import shard
from trainer.parallel.sharded import spread, whole
torch.set_num_threads(1)
mode, directory, name = sys.argv[1:4]
world = World.join(60)
config = Config(n_layer=1, n_head=1, n_embd=10, block_size=8, parallel="fsdp")
torch.manual_seed(5 if mode == "save" else 6)
model = GPT(config)
is_spread = shard(model, config, world, torch.device("cpu"))
assert is_spread is (world.size > 1)
optimizer = make_optimizer(model, config)
tokens = torch.arange(16).reshape(2, 8)
def state():
    parts = {"step": 3, "epoch": 0, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return parts
form = Dcp(directory)
if mode == "save":
    for _ in range(3):
        model(tokens).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    form.take(state())
    form.finish()
    if world.is_main:
        form.publish(directory, [name], {})
else:
    found = load_dcp(directory + "/" + name)[0]
    if world.size > 1:
        found = spread(found, model, optimizer)
    model.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    some = model.state_dict()["tokens.weight"]
    assert not is_spread or some.to_local().shape[0] < 256
found = fingerprint(whole(state()))
if world.is_main:
    print(found)
world.barrier()
world.close()
"""


Sharded = Callable[[int, str, Path, str], str]


@pytest.fixture
def sharded(nursery: Nursery) -> Sharded:
    """The fingerprint of the whole state, from so many processes."""
    nursery.load("torch.distributed.fsdp")

    def run(size: int, mode: str, directory: Path, name: str) -> str:
        nursery.start_ranks([mode, str(directory), name], environments(size), code=SHARDED)
        ended = nursery.finish_ranks()
        assert [rank.code for rank in ended] == [0] * size, ended
        return ended[0].output.splitlines()[-1]

    return run


def test_two_processes_save_and_three_load_the_same(sharded: Sharded, tmp_path: Path) -> None:
    saved = sharded(2, "save", tmp_path, "two")
    assert len(list((tmp_path / "two").glob("*.distcp"))) == 2
    assert sharded(3, "load", tmp_path, "two") == saved


@pytest.mark.long
def test_two_processes_save_and_one_loads_the_same(sharded: Sharded, tmp_path: Path) -> None:
    saved = sharded(2, "save", tmp_path, "two")
    assert sharded(1, "load", tmp_path, "two") == saved


@pytest.mark.long
def test_one_process_saves_and_two_load_the_same(sharded: Sharded, tmp_path: Path) -> None:
    saved = sharded(1, "save", tmp_path, "one")
    assert sharded(2, "load", tmp_path, "one") == saved
