"""Bad checkpoints on the way of a resume: what goes to quarantine, and what `latest` and its backup become."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.events.schema import CheckpointQuarantined
from tests.builders.resumed_sessions import NEEDED, events, flip, found, session, state, three_saves
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish_directory import verify_directory
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import Source


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return three_saves(tmp_path / "run")


def test_what_is_proven_bad_goes_to_quarantine_and_the_log_tells(run: Path) -> None:
    flip(run / "latest.pt")  # and the rolling one of 180 with it: they share their bytes
    before = {path.read_bytes() for path in run.glob("*.pt")}
    source = session(run, steps=(240,))
    assert source is not None
    # The independent copy of 180 is whole.
    assert (source.name, source.step) == ("rolling_last_backup.pt", 180)
    assert [(one.name, one.damage, one.step) for one in source.rejected] == [
        ("latest.pt", "checksum", 180), ("rolling_step_000180.pt", "checksum", 180),
    ]  # fmt: skip
    moved = [event for event in events(run) if isinstance(event, CheckpointQuarantined)]
    assert [event.path for event in moved] == ["latest.pt", "rolling_step_000180.pt"]
    for event in moved:
        there = run / event.to
        assert there.parent == run / "quarantine"
        assert there.name.startswith(event.path.removesuffix(".pt") + "_")
        assert there.name.endswith("_checksum.pt")
        about = json.loads(there.with_suffix(".json").read_bytes())
        assert (about["path"], about["to"], about["why"]) == (event.path, event.to, event.why)
    # Nothing was lost: every content that was there still is, somewhere.
    assert before <= {path.read_bytes() for path in run.rglob("*.pt")}
    # And the run has a latest again at once, of what it goes on from.
    restored = next(event for event in events(run) if event.name == "checkpoint_restored")
    assert (restored.path, restored.source) == ("latest.pt", "rolling_last_backup.pt")
    registry = Registry(str(run))
    registry.sync()
    assert not [name for name in registry.entries if "quarantine" in name]
    assert found(run).step == 240


def test_quarantine_never_replaces_what_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.checkpoint.quarantine import num_quarantined, quarantine

    monkeypatch.setattr("time.strftime", lambda *_: "20260131_235959")
    contents = []
    for number in range(3):
        (run / "latest.pt").unlink(missing_ok=True)
        (run / "latest.pt").write_bytes(b"bad %d" % number)
        contents.append(b"bad %d" % number)
        quarantine(str(run), "latest.pt", "why", "cut")
    there = sorted((run / "quarantine").glob("*.pt"))
    assert [path.name for path in there] == [
        "latest_20260131_235959_cut.pt", "latest_20260131_235959_cut_2.pt", "latest_20260131_235959_cut_3.pt",
    ]  # fmt: skip
    assert sorted(path.read_bytes() for path in there) == contents
    assert num_quarantined(str(run)) == 3


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"", "cut"),
        (b"\0" * 3000, "cut"),
        ("half", "cut"),
        ("newer", ""),
        ("weights", ""),
        ("code", ""),
        (b"\x80\x02}q\0.", ""),
        (b"\x10\0\0\0\0\0\0\0{}              ", ""),
        ("nan", "nonfinite"),
    ],
    ids=["empty", "zeros", "half", "newer format", "weights", "pickle code", "legacy", "safetensors", "nan"],
)
def test_only_what_is_proven_bad_is_moved(content: bytes | str, damage: str, run: Path) -> None:
    """A newer trainer's file, somebody else's, one that needs code: passed over, named, and left where it is."""
    path = run / "rolling_step_000240.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "half":
        path.write_bytes((run / "latest.pt").read_bytes()[:1500])
    elif content == "weights":
        torch.save({"layer.weight": torch.ones(3)}, path)
    elif content == "code":
        torch.save({**state(240), "format_version": 1, "path": Path("x")}, path)
    else:
        lineage = json.loads((run / "registry.json").read_bytes())["lineage"]
        bad = state(240, format_version=99 if content == "newer" else 1, lineage=lineage)
        bad["model"]["weight"][5] = float("nan") if content == "nan" else 240.0
        torch.save(bad, path)
    source = session(run)
    assert source is not None
    assert source.step == 180
    assert [(one.name, one.damage) for one in source.rejected] == [("rolling_step_000240.pt", damage)]
    assert path.exists() == (damage == "")
    assert len(list(run.glob("quarantine/*.pt"))) == (damage != "")
    if content == "newer":
        assert "format version 99 is newer than this trainer" in source.rejected[0].why


def test_the_latest_of_a_newer_trainer_is_not_lost_to_the_saves_of_this_one(run: Path) -> None:
    lineage = json.loads((run / "registry.json").read_bytes())["lineage"]
    (run / "latest.pt").unlink()
    torch.save(state(300, format_version=99, lineage=lineage), run / "latest.pt")
    newer = (run / "latest.pt").read_bytes()
    source = session(run, steps=(190, 200, 210))
    assert source is not None
    assert source.step == 180
    [kept] = run.glob("emergency_step_000300_*.pt")
    assert kept.read_bytes() == newer
    assert torch.load(run / "latest.pt", weights_only=True)["step"] == 210


def test_what_may_not_be_read_is_passed_over_and_is_the_newest_again_later(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = open

    def refusing(path: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(path, str) and path.endswith((".pt",)) and "180" not in path and "120" not in path:
            raise PermissionError(13, "Permission denied")
        if isinstance(path, str) and path.endswith("rolling_step_000180.pt"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", refusing)
    source = session(run)
    monkeypatch.undo()
    assert source is not None
    assert source.step == 120
    assert {one.why for one in source.rejected} == {"Permission denied"}
    assert not (run / "quarantine").exists()
    # That session saved nothing: it has left nothing behind.
    assert found(run).step == 180


def test_a_named_one_makes_no_backup_of_a_bad_latest(run: Path) -> None:
    """Nobody looked at latest.pt on the way to the one that was named; the next save would make it a backup."""
    (run / "rolling_step_000180.pt").unlink()
    flip(run / "latest.pt")
    source = session(run, "rolling_step_000060.pt", steps=(70,))
    assert source is not None
    assert [one.name for one in source.rejected] == ["latest.pt"]
    assert len(list(run.glob("quarantine/latest_*_checksum.pt"))) == 1
    # The whole backup that was there stayed, or what training went on from came in its place.
    assert torch.load(run / "latest_backup.pt", weights_only=True)["step"] in (60, 120)
    assert not [one for one in found(run, "latest").rejected if one.damage]


def test_a_quarantine_that_cannot_be_made_ends_no_resume(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(run / "latest.pt")
    real = os.mkdir

    def failing(path: Any, *rest: Any) -> None:
        if str(path).endswith("quarantine"):
            raise OSError(28, "No space left on device")
        real(path, *rest)

    monkeypatch.setattr(os, "mkdir", failing)
    source = session(run, steps=(240,))
    assert source is not None
    assert source.step == 180
    # The bad latest did not become the backup of the new one.
    assert found(run, "latest").step == 240
    for name in ("latest.pt", "latest_backup.pt"):
        assert torch.load(run / name, weights_only=True)["step"] in (120, 240)


def test_checkpoints_that_are_directories_are_found_quarantined_and_put_back(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def begun(wanted: str | None, *steps: int) -> Source | None:
        policy = Policy(is_async=False, checkpoint_format="dir")
        with Checkpointer(run, policy, needed=NEEDED, say=lambda line: None) as checkpoints:
            source = checkpoints.find(wanted) if wanted is not None else None
            for step in steps:
                checkpoints.save(state(step), {"rolling"})
        return source

    begun(None, 60, 120)
    shutil.copytree(run / "latest", tmp_path / "whole")
    with open(run / "latest" / "model.pt", "r+b") as file:
        file.seek(700)
        file.write(b"\xa5\x5a")
    source = begun("auto")
    assert source is not None
    assert (source.name, source.step) == ("rolling_last_backup", 120)
    assert [(one.name, one.damage) for one in source.rejected] == [
        ("latest", "checksum"), ("rolling_step_000120", "checksum"),
    ]  # fmt: skip
    assert sorted(path.name.partition("_2")[0] for path in (run / "quarantine").iterdir() if path.is_dir()) == [
        "latest", "rolling_step_000120",
    ]  # fmt: skip
    assert (run / "latest" / "model.pt").read_bytes() == (tmp_path / "whole" / "model.pt").read_bytes()
    for wanted in ("latest", "rolling_step_000060"):
        source = begun(wanted)
        assert source is not None
        assert source.name == wanted


def test_where_a_person_chose_a_damaged_directory_becomes_no_backup(tmp_path: Path) -> None:
    """As with files: the backup that the next save makes of it would replace the last good one."""
    policy = Policy(checkpoint_format="dir", is_async=False)
    with Checkpointer(tmp_path, policy) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state(step), {"rolling"})
    damaged = tmp_path / "latest" / "model.pt"
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with Checkpointer(tmp_path, policy) as checkpoints:
        source = checkpoints.find("rolling_step_000002")
        assert source is not None
        assert [(one.name, one.damage) for one in source.rejected] == [("latest", "checksum")]
        checkpoints.save(state(4), {"rolling"})
    for name in ("latest", "latest_backup"):
        verify_directory(str(tmp_path / name))
