"""Every single bit of a small checkpoint turned over, one at a time: none that a checksum covers goes unseen.

In the long suite; in the quick one it is one bit of each byte, another one from byte to byte.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.validate import Validation, validate_checkpoint
from tests.builders.validation import records

LEVELS = ("structure", "integrity")
LONG_AGO = (1e9, 1e9)
NUM_BITS = pytest.mark.parametrize("num_bits", [1, pytest.param(8, marks=pytest.mark.long)])


def content_of(path: Path) -> object:
    """All that a program gets when it loads the checkpoint: its state, and the bytes of its tensors."""
    checkpoint = open_checkpoint(path)
    raw = path.read_bytes()
    held = {
        key: raw[storage.offset : storage.offset + storage.size_bytes]
        for key, storage in checkpoint.storages.items()
        if storage.offset is not None
    }
    return repr(checkpoint.state), held, checkpoint.metadata.get("byteorder"), described(checkpoint)


def described(checkpoint: Checkpoint) -> list[object]:
    return [(t.name, t.shape, t.dtype, t.stride, t.offset, t.storage) for t in checkpoint.tensors]


def flips(path: Path, num_bits: int) -> Iterator[tuple[int, int]]:
    """(byte, bit) of everything in the file, with that bit turned over while the caller looks; `num_bits` a byte."""
    whole = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in ((place + number) % 8 for number in range(num_bits)):
                os.pwrite(file.fileno(), bytes([byte ^ (1 << bit)]), place)
                os.utime(path, LONG_AGO)
                yield place, bit
            os.pwrite(file.fileno(), whole[place : place + 1], place)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), "step": 3, "lr": 0.1}, path)
    os.utime(path, LONG_AGO)
    return path


@NUM_BITS
def test_every_flipped_bit_of_a_torch_zip(small: Path, num_bits: int) -> None:
    whole = content_of(small)
    covered = {place for _, begin, size in records(small) for place in range(begin, begin + size)}
    assert len(covered) > 200
    tried: Counter[str] = Counter()
    for place, bit in flips(small, num_bits):
        where = f"bit {bit} of byte {place}"
        validation = validate_checkpoint(str(small), levels=LEVELS)
        if place in covered:
            assert validation.verdict in ("damaged", "unsafe"), where
            assert validation.levels["integrity"] == "fail", where
            tried["covered"] += 1
        elif validation.verdict == "valid":
            # Padding, times, attributes: a flip that is not seen there has changed nothing that is loaded.
            assert validation.levels == {**validation.levels, "structure": "pass", "integrity": "pass"}
            assert content_of(small) == whole, where
            tried["changes nothing"] += 1
        else:
            tried["seen"] += 1
    assert tried["covered"] == num_bits * len(covered)
    assert tried["seen"] > 125 * num_bits
    assert 0 < tried["changes nothing"] < num_bits * (small.stat().st_size - len(covered))


@pytest.mark.parametrize("kind", ["safetensors", "legacy", "crc-off"])
@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
@NUM_BITS
def test_with_a_digest_every_bit_of_any_file_is_covered(
    kind: str, algorithm: str, num_bits: int, tmp_path: Path
) -> None:
    path = tmp_path / ("m.safetensors" if kind == "safetensors" else "m.pt")
    state = {"w": torch.tensor([1.0, 2.0, 3.0])}
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(state, path)
        finally:
            torch.serialization.set_crc32_options(True)
    raw = path.read_bytes()
    found = f"{zlib.crc32(raw):08x}" if algorithm == "crc32" else hashlib.sha256(raw).hexdigest()
    digest = f"{algorithm}:{found}"

    def judged() -> Validation:
        return validate_checkpoint(str(path), levels=LEVELS, digest=digest)

    os.utime(path, LONG_AGO)
    assert (judged().verdict, judged().levels["integrity"]) == ("valid", "pass")
    unseen = 0
    for place, bit in flips(path, num_bits):
        assert judged().verdict != "valid", f"bit {bit} of byte {place}"
        unseen += validate_checkpoint(str(path), levels=LEVELS).verdict == "valid"
    assert unseen, "without the digest some of them are not seen, and the level says so"
    if kind != "crc-off":
        assert validate_checkpoint(str(path), levels=LEVELS).levels["integrity"] == "not-checked"
