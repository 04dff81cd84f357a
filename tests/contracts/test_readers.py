"""Torn, flipped and inflated files for every reader: a Checkpoint or a CkptError comes out, nothing else."""

from __future__ import annotations

import argparse
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.readers.base import directory_readers, file_readers
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders import distributed, frameworks
from tests.builders.legacy_files import legacy_bytes
from tests.builders.tar_files import tar_bytes
from tests.builders.torch_files import save_bytes, training_state
from tests.builders.zip_formats import export_bytes, npy_bytes, npz_bytes, package_bytes, torchscript_bytes

BUILDERS: dict[str, Callable[[], bytes]] = {
    "torch-zip": lambda: save_bytes(training_state()),
    "json": lambda: b'{"step": 7, "weights": {"w": [[1.5, 2], [3, NaN]], "b": [1]}, "args": {"lr": 0.5}}',
    "safetensors": lambda: save({"a": torch.ones(4, 4), "b": torch.zeros(3, dtype=torch.bfloat16)}),
    "torch-legacy": lambda: legacy_bytes(training_state()),
    "pickle": lambda: pickle.dumps({"a": np.arange(6.0), "b": torch.ones(3), "args": argparse.Namespace(lr=0.5)}, 4),
    "torchscript": torchscript_bytes,
    "torch-export": export_bytes,
    "torch-package": package_bytes,
    "npz": npz_bytes,
    "npz, one array": npy_bytes,
    "torch-tar": lambda: tar_bytes({"a": torch.ones(4, 4), "step": 1, "b": [torch.zeros(3, dtype=torch.int64)]}),
}

# Each writes a checkpoint of its format into an empty directory.
DIRECTORY_BUILDERS: dict[str, Callable[[Path], object]] = {
    "sharded": frameworks.shards,
    "dcp": distributed.dcp,
    "deepspeed": distributed.deepspeed,
    "hf-trainer": frameworks.hf_trainer,
    "accelerate": frameworks.accelerate,
    "checkpoint-dir": frameworks.checkpoint_dir,
}


def test_every_reader_has_a_builder() -> None:
    assert all(set(reader.formats) & set(BUILDERS) for reader in file_readers())
    assert all(set(reader.formats) & set(DIRECTORY_BUILDERS) for reader in directory_readers())


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_damage_ends_in_a_checkpoint_or_a_ckpt_error(tmp_path: Path, kind: str) -> None:
    whole = BUILDERS[kind]()
    path = tmp_path / "x"
    path.write_bytes(whole)
    assert open_checkpoint(path).format == kind.partition(",")[0]
    chance = random.Random(7)
    damaged = [whole[: chance.randrange(len(whole))] for _ in range(60)]
    for _ in range(250):
        raw = bytearray(whole)
        # Headers and the central directory lie at the ends: damage there is what a reader sees.
        near_end = chance.random() < 0.6
        at = len(raw) - 1 - chance.randrange(min(3000, len(raw))) if near_end else chance.randrange(len(raw))
        width = chance.choice((1, 4, 8))
        raw[at : at + width] = chance.choice((b"\xff" * width, b"\0" * width, chance.randbytes(width)))
        damaged.append(bytes(raw))
    said: list[CkptError] = []
    for raw in damaged:
        path.write_bytes(raw)
        try:
            assert isinstance(open_checkpoint(path), Checkpoint)
        except CkptError as error:
            said.append(error)
    assert said
    assert all(error.title and error.message for error in said)


@pytest.mark.parametrize("kind", list(DIRECTORY_BUILDERS))
def test_a_damaged_directory_ends_in_a_checkpoint_or_a_ckpt_error(tmp_path: Path, kind: str) -> None:
    DIRECTORY_BUILDERS[kind](tmp_path)
    assert open_checkpoint(tmp_path).format == kind
    chance = random.Random(7)
    said: list[str] = []  # titles, codes and messages

    def look() -> None:
        started = time.process_time()
        try:
            checkpoint = open_checkpoint(tmp_path)
        except CkptError as error:
            said.extend((error.title, error.message))
        else:
            assert isinstance(checkpoint, Checkpoint)
            said.extend(word for finding in checkpoint.findings for word in (finding.code, finding.message))
        assert time.process_time() - started < 2

    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.unlink()
        look()
        path.mkdir()  # a directory in the place of a file
        look()
        path.rmdir()
        damaged = [b"", whole[: len(whole) // 2], whole[:-1], b"{}", b"[1]", b"\0" * len(whole)]
        damaged += [
            other.read_bytes() for other in sorted(tmp_path.rglob("*")) if other.is_file()
        ]  # one in another's place
        for _ in range(25):
            raw = bytearray(whole)
            if raw:
                raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            damaged.append(bytes(raw))
        for changed in damaged:
            path.write_bytes(changed)
            look()
        path.write_bytes(whole)
    assert said
    assert all(said)
    assert open_checkpoint(tmp_path).format == kind
