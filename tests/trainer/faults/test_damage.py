"""Bits that flip and files that are cut, in every kind of file of a run: what a resume makes of it."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.events.writer import EventWriter
from tests.builders.unsynced import Journal, materialise
from tests.trainer.faults.states import is_of_its_step, state_at
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy

POLICY = Policy(best_safetensors=True)
NEWEST = 4
ALL_KINDS = {"rolling", "best", "epoch", "emergency"}
OTHERS = ("registry.json", "events.jsonl", "trainer.lock")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Journal:
    """A run with every kind of file; not to be changed."""
    root = tmp_path_factory.mktemp("whole")
    log = EventWriter(root / "run")
    log.start(total_steps=10)
    with Checkpointer(root / "run", POLICY, log=log, say=lambda line: None) as checkpoints:
        for step in (2, NEWEST):
            assert checkpoints.save_now(state_at(step, epoch=step), ALL_KINDS, "regular")
    log.end("failed")
    log.close()
    return Journal(root)


def copy_of(whole: Journal, place: Path) -> Path:
    """The run with its times, and a registry that knows its files: as it is when bits flip in it."""
    if place.exists():
        shutil.rmtree(place)
    materialise(whole, next(whole.crashes()), place)
    return place / "run"


def checkpoint_names(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("*.pt"))


def spoil(path: Path, data: bytes) -> None:
    """In place, and with the times that it had: what a device does, under each of the file's names."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damages(path: Path) -> Iterator[tuple[str, bytes]]:
    """Each part of a checkpoint file with a bit flipped, and the file cut and zeroed."""
    data = path.read_bytes()
    places = {"first byte": 0, "last byte": len(data) - 1, "end of directory": len(data) - 20}
    with zipfile.ZipFile(path) as archive:
        places["central directory"] = archive.start_dir + 30
        for info in archive.infolist():
            inner = info.filename.partition("/")[2]
            name_length, extra_length = data[info.header_offset + 26], data[info.header_offset + 28 :][:2]
            begin = info.header_offset + 30 + name_length + int.from_bytes(extra_length, "little")
            places[f"header of {inner}"] = info.header_offset + 15
            if info.file_size:
                places[f"data of {inner}"] = begin + info.file_size // 2
    for what, at in places.items():
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        yield f"a bit in the {what}", bytes(flipped)
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        yield f"cut to {size}", data[:size]
    hole = bytearray(data)
    hole[len(data) // 2 : len(data) // 2 + 512] = bytes(512)
    if bytes(hole) != data:
        yield "a block of zeros", bytes(hole)
    yield "zeros", bytes(len(data))


def resumed(run: Path) -> tuple[str, int, list[str]]:
    """The name and step that a resume takes, and what it rejects. What it loads is whole."""
    with Checkpointer(run, POLICY, say=lambda line: None) as checkpoints:
        source = checkpoints.find("auto")
        assert source is not None
        assert is_of_its_step(source.state), f"{source.name} is not what was saved"
        return source.name, source.step, [one.name for one in source.rejected]


def kinds_of_files(whole: Journal, place: Path) -> list[str]:
    """One name of each content: names that share it are damaged together."""
    seen, names = set(), []
    run = copy_of(whole, place)
    for name in checkpoint_names(run):
        inode = (run / name).stat().st_ino
        if inode not in seen:
            seen.add(inode)
            names.append(name)
    return names


@pytest.mark.parametrize("is_known", [True, False], ids=["registry", "no registry"])
def test_any_damage_to_any_one_file_costs_no_step(whole: Journal, scratch: Path, is_known: bool) -> None:
    """Where the registry knows each file's digest, and where only the checksums within a file tell."""
    num_tried = num_moved = 0
    names = kinds_of_files(whole, scratch / "tree")
    # The newest state lies in two contents, the file of all its names and the copy; the third is the one before.
    assert len(names) == 3
    for name in names:
        for what, data in damages(copy_of(whole, scratch / "tree") / name):
            run = copy_of(whole, scratch / "tree")
            same = [other for other in checkpoint_names(run) if (run / other).samefile(run / name)]
            spoil(run / name, data)
            if not is_known:
                (run / "registry.json").unlink()
                assert resumed(run)[1] == NEWEST, f"{what} of {name}"
                num_tried += 1
                continue
            taken, step, rejected = resumed(run)
            assert (step, taken in same) == (NEWEST, False), f"{what} of {name}"
            if "latest.pt" in same:
                assert set(rejected) >= set(same), f"{what} of {name} is not named"
                # Out of the way where the damage is proven, in place where it may be something else; whole to the byte.
                moved = list((run / "quarantine").glob("*.pt"))
                in_place = [run / other for other in same if other != "latest.pt" and (run / other).exists()]
                assert {path.read_bytes() for path in [*moved, *in_place]} == {data}, f"{what} of {name}"
                assert len(moved) in (0, len(same)), f"{what} of {name}"
                num_moved += bool(moved)
            num_tried += 1
    assert num_tried > 60
    assert num_moved > 15 or not is_known


def test_both_contents_of_the_newest_damaged_cost_the_steps_since_the_one_before(whole: Journal, scratch: Path) -> None:
    run = copy_of(whole, scratch / "tree")
    for name in ("latest.pt", "rolling_last_backup.pt"):
        spoil(run / name, (run / name).read_bytes()[:-1])
    taken, step, rejected = resumed(run)
    assert (taken, step) == ("rolling_step_000002.pt", 2)
    assert {"latest.pt", "best_model.pt", "best_model_backup.pt", "rolling_last_backup.pt"} <= set(rejected)


@pytest.mark.parametrize("name", OTHERS)
def test_no_damage_to_what_describes_the_run_costs_anything(whole: Journal, scratch: Path, name: str) -> None:
    rng = random.Random(1)
    data = (copy_of(whole, scratch / "tree") / name).read_bytes()
    cases = [data[:size] for size in (0, 1, len(data) // 3, len(data) - 1)]
    cases += [b"\0" * len(data), rng.randbytes(len(data)), b"[" * 100_000, b"{}", b"null", b"\xff\xfe"]
    # Each byte of the lineage, and some of the rest.
    lineage = data.find(b'"lineage"')
    places = [*range(lineage, lineage + 120, 3)] if name == "registry.json" else []
    for at in [*places, *(rng.randrange(len(data)) for _ in range(60))]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        cases.append(bytes(flipped))
    for number, case in enumerate(cases):
        run = copy_of(whole, scratch / "tree")
        spoil(run / name, case)
        log = EventWriter(run)
        log.start(total_steps=10)
        taken, step, rejected = resumed(run)
        assert (taken, step, rejected) == ("latest.pt", NEWEST, []), f"case {number}: {case[:80]!r}"
        assert not (run / "quarantine").exists()
        log.close()


@pytest.mark.long
def test_random_bit_flips(whole: Journal, scratch: Path) -> None:
    rng = random.Random(7)
    names = kinds_of_files(whole, scratch / "tree")
    for _ in range(1500):
        run = copy_of(whole, scratch / "tree")
        name = rng.choice(names)
        data = bytearray((run / name).read_bytes())
        for _ in range(rng.choice([1, 1, 1, 3, 50])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        before = hashlib.sha256((run / name).read_bytes()).digest()
        spoil(run / name, bytes(data))
        if hashlib.sha256(data).digest() != before:
            assert resumed(run)[1] == NEWEST
