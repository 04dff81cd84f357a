"""A directory is one checkpoint: every file of it is judged, and the verdict is one."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.validate import Validation, validate_checkpoint
from tests.builders import frameworks


def age(directory: Path) -> None:
    """Old enough that damage is not taken for a save that goes on."""
    for path in [directory, *directory.rglob("*")]:
        os.utime(path, (time.time() - 1000,) * 2)


@pytest.fixture
def zips(tmp_path: Path) -> Path:
    """Shards that are torch zips, and beside them a zip that holds no tensor."""
    directory = tmp_path / "checkpoint-5"
    directory.mkdir()
    frameworks.shards(directory, pickled=True)
    torch.save({"last_epoch": 5, "_last_lr": [0.1]}, directory / "vocabulary.pt")
    age(directory)
    return directory


def validate(directory: Path, **options: object) -> Validation:
    return validate_checkpoint(str(directory), **options)  # type: ignore[arg-type]


def words_of(validation: Validation) -> str:
    return "\n".join(f"{f.code} {f.where}: {f.message}" for f in validation.findings)


def flip(path: Path, record: str) -> None:
    """Turn over a bit in the middle of a record's content."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(record))
        content = archive.read(name)
    raw = bytearray(path.read_bytes())
    raw[raw.index(content) + len(content) // 2] ^= 1
    path.write_bytes(raw)
    os.utime(path, (time.time() - 1000,) * 2)


def test_what_matches_and_what_nothing_vouches_for_is_said(zips: Path) -> None:
    validation = validate(zips)
    assert (validation.verdict, validation.format) == ("valid", "sharded")
    assert validation.levels["structure"] == validation.levels["numbers"] == "pass"
    assert validation.levels["integrity"] == "not-checked", "the index has no checksum"
    assert "match their checksums; nothing vouches for config.json, pytorch_model.bin.index.json" in words_of(
        validation
    )
    archives = [path for path in zips.iterdir() if path.suffix in (".bin", ".pt")]
    assert validation.size_bytes == sum(path.stat().st_size for path in zips.iterdir())
    assert 0 < validation.bytes_checked <= sum(path.stat().st_size for path in archives)


@pytest.mark.parametrize(
    ("file", "record"),
    [
        ("pytorch_model-00001-of-00002.bin", "data/0"),
        ("pytorch_model-00002-of-00002.bin", "data/1"),
        ("vocabulary.pt", "version"),
        ("vocabulary.pt", ".data/serialization_id"),
    ],
)
def test_a_flipped_bit_in_any_archive_of_it_is_found(file: str, record: str, zips: Path) -> None:
    flip(zips / file, record)
    validation = validate(zips)
    assert (validation.verdict, validation.levels["integrity"]) == ("damaged", "fail")
    finding = next(f for f in validation.findings if f.code == "checksum")
    assert finding.where.startswith(f"{file}: ")
    assert finding.where.endswith(record)
    if record.startswith("data/"):
        assert "it holds" in finding.message, "names the tensor"
    other = validate(zips, levels=("structure",))
    assert other.levels["integrity"] == "not-checked"


def test_weights_without_checksums_are_not_passed(tmp_path: Path) -> None:
    frameworks.shards(tmp_path)
    age(tmp_path)
    validation = validate(tmp_path)
    assert (validation.verdict, validation.levels["integrity"]) == ("valid", "not-checked")
    assert "no checksums are recorded" in words_of(validation)
    tensors = frameworks.shards(tmp_path).values()
    assert sum(tensor.nbytes for tensor in tensors) <= validation.bytes_checked <= validation.size_bytes


def test_nan_in_a_shard_names_the_file(tmp_path: Path) -> None:
    frameworks.shards(tmp_path, pickled=True)
    shard = tmp_path / "pytorch_model-00002-of-00002.bin"
    state = torch.load(shard)
    state["head.weight"][1, 2] = torch.nan
    torch.save(state, shard)
    validation = validate(tmp_path)
    assert (validation.verdict, validation.levels["numbers"]) == ("nonfinite", "fail")
    finding = next(f for f in validation.findings if f.code == "nonfinite")
    assert finding.where == "pytorch_model-00002-of-00002.bin: head.weight"
    assert "1 NaN of 20, the first at [1, 2]" in finding.message


def test_a_missing_shard_is_damage_of_the_structure(zips: Path) -> None:
    (zips / "pytorch_model-00002-of-00002.bin").unlink()
    validation = validate(zips)
    assert (validation.verdict, validation.levels["structure"]) == ("damaged", "fail")
    assert "pytorch_model-00002-of-00002.bin" in words_of(validation)


def test_a_cut_file_is_named_once_and_the_rest_is_checked(zips: Path) -> None:
    for name in ("vocabulary.pt", "pytorch_model-00001-of-00002.bin"):
        raw = (zips / name).read_bytes()
        (zips / name).write_bytes(raw[: len(raw) // 2])
    age(zips)
    validation = validate(zips)
    assert (validation.verdict, validation.levels["integrity"]) == ("damaged", "fail")
    for name in ("vocabulary.pt", "pytorch_model-00001-of-00002.bin"):
        assert sum(f.severity == "error" and f.where.startswith(name) for f in validation.findings) == 1, name
    assert validation.bytes_checked > 0


def test_a_directory_that_is_being_written_is_incomplete(zips: Path) -> None:
    last = zips / "pytorch_model-00002-of-00002.bin"
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    stop = threading.Event()

    def write() -> None:
        with last.open("ab") as file:
            while not stop.wait(0.01):
                file.write(b"x" * 50)
                file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        validation = validate(zips)
    finally:
        stop.set()
        writer.join()
    assert validation.verdict == "incomplete"
    assert "still growing" in words_of(validation)


def test_names_that_lead_outside_are_never_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    torch.save({"embed.weight": torch.full((6, 4), torch.nan)}, outside)
    directory = tmp_path / "model"
    directory.mkdir()
    frameworks.shards(directory, pickled=True)
    names = {"embed.weight": "../outside.bin", "head.weight": str(outside), "head.bias": "a/../../outside.bin"}
    frameworks.write_json(directory / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": names})
    age(directory)
    validation = validate(directory)
    assert validation.verdict == "damaged"
    assert "NaN" not in words_of(validation)


def test_a_directory_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    assert validate(tmp_path).verdict == "not-a-checkpoint"


def test_what_is_lost_is_said_once_and_nothing_is_said_of_a_resume() -> None:
    """A piece of a distributed checkpoint is missing: its reader names it, nobody else repeats it for every tensor."""
    sample = Path(__file__).parents[2] / "samples" / "dcp_two_ranks"
    with tempfile.TemporaryDirectory() as directory:
        broken = Path(shutil.copytree(sample, Path(directory) / "step_7"))
        (broken / "__1_0.distcp").unlink()
        age(broken)
        validation = validate(broken)
    assert (validation.verdict, validation.levels["resume"]) == ("damaged", "not-checked")
    assert [f.where for f in validation.findings if f.severity == "error"] == ["__1_0.distcp"]
    assert "can be resumed" not in words_of(validation)
