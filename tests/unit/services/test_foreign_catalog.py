"""The catalog of directories that other programs wrote: names, directories, what is no checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from ckpt_tui.services.catalog import read_catalog
from tests.builders import frameworks
from tests.builders.run_directories import let_age


def foreign(directory: Path) -> Path:
    """A directory as several frameworks would leave it, with what is no checkpoint among it."""
    directory.mkdir()
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "iter_num": 40}, directory / "ckpt.pt")
    (directory / "state.pkl").write_bytes(pickle.dumps({"step": 7, "w": [1.0]}))
    torch.save({**state, "step": 30}, directory / "training.pkl")
    (directory / "vocabulary.pkl").write_bytes(pickle.dumps({"a": 1, "b": 2}))
    torch.save({"lr": 0.1}, directory / "training_args.bin")
    lightning = {
        "pytorch-lightning_version": "2.6.0", "epoch": 3, "global_step": 500, "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()], "loops": {},
    }  # fmt: skip
    torch.save(lightning, directory / "epoch=3-step=500.ckpt")
    for name in ("checkpoint-20", "final"):
        (directory / name).mkdir()
        frameworks.shards(directory / name)
    (directory / "logs").mkdir()
    (directory / "logs" / "notes.txt").write_text("nothing")
    return directory


def test_other_peoples_names_and_directories(tmp_path: Path) -> None:
    catalog = read_catalog(str(foreign(tmp_path / "run")))
    found = {entry.name: (entry.step, entry.is_weights_only) for entry in catalog.entries}
    assert found == {
        "ckpt.pt": (40, False), "training.pkl": (30, False), "epoch=3-step=500.ckpt": (500, False),
        "checkpoint-20": (20, True), "final": (None, True),
    }  # fmt: skip
    assert catalog.resume_would_take == "epoch=3-step=500.ckpt"
    entry = catalog.entry("epoch=3-step=500.ckpt")
    assert entry is not None
    assert entry.epoch == 3


def test_weights_alone_are_nothing_to_resume_from(tmp_path: Path) -> None:
    directory = foreign(tmp_path / "run")
    for name in ("ckpt.pt", "training.pkl", "epoch=3-step=500.ckpt"):
        (directory / name).unlink()
    assert read_catalog(str(directory)).resume_would_take is None


def test_a_directory_is_judged_and_remembered_like_a_file(tmp_path: Path) -> None:
    directory = foreign(tmp_path / "run")
    for path in directory.rglob("*"):
        let_age(path)
    first = read_catalog(str(directory), check="full").entry("checkpoint-20")
    assert first is not None
    assert first.validity == "valid"
    again = read_catalog(str(directory)).entry("checkpoint-20")
    assert again == first
    shard = directory / "checkpoint-20" / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-3])
    cut = read_catalog(str(directory)).entry("checkpoint-20")
    assert cut is not None
    assert cut.validity == "damaged"
