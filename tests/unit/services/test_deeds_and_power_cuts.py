"""What a cut of the power leaves of a deed, when nothing that was not flushed can be relied on (`unsynced.py`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ckpt_tui.services import copied_deed, files, journal
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.journal import Deed, Move
from tests.builders.trees import tree_of
from tests.builders.unsynced import Journal, Sync, materialise
from tests.builders.unsynced_recording import recorded

NAMES = ("latest.pt", "latest", "rolling.pt")


@pytest.fixture(autouse=True)
def known_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is made anew has other inodes and times. Here every content has a size of its own instead."""

    def is_same(self: Content, other: Content | None) -> bool:
        return other is not None and (self.is_directory, self.size_bytes) == (other.is_directory, other.size_bytes)

    monkeypatch.setattr(Content, "is_same", is_same)
    monkeypatch.setattr(copied_deed, "is_copied", lambda directory, deed: False)  # nor is it a copy: a cut keeps inodes
    # The layer sees what goes through `os`; two renames are the weaker way anyhow.
    monkeypatch.setattr(files, "exchange", lambda a, b: False)


def build(run: Path) -> None:
    run.mkdir(parents=True)
    (run / "latest.pt").write_bytes(b"damaged " * 100)
    (run / "latest_backup.pt").write_bytes(b"backup " * 200)
    (run / "rolling.pt").write_bytes(b"rolling " * 300)
    for name, num in (("latest", 400), ("latest_backup", 500)):
        (run / name).mkdir()
        (run / name / "model.pt").write_bytes(name.encode() * num)
        (run / name / "manifest.json").write_bytes(b"{}")


def moves_of(run: Path) -> list[Move]:
    def before(name: str) -> Content | None:
        return content_of(str(run / name))

    return [
        Move("latest.pt", "copy", before=before("latest.pt"), source="latest_backup.pt"),
        Move("latest", "copy", before=before("latest"), source="latest_backup"),
        Move("rolling.pt", "remove", before=before("rolling.pt")),
    ]


def state_of(run: Path) -> dict[str, bytes | None]:
    return {name: data for name, data in tree_of(run, without=["set_aside"]).items() if data is not None}


def record(root: Path) -> Journal:
    build(root / "run")
    run = root / "run"
    with recorded(root) as recording:
        deed = Deed(number=0, act="restore", state="intent", moves=moves_of(run))
        journal.perform(str(run), deed, finish=lambda deed: None)
        recording.mark("done")
    return recording


def faults(recording: Journal, place: Path, per_cut: int) -> list[str]:
    """What is wrong after a cut and the recovery from it, in words."""
    build(place / "model" / "run")
    before = state_of(place / "model" / "run")
    after = {name: data for name, data in before.items() if name != "rolling.pt"}
    after["latest.pt"] = before["latest_backup.pt"]
    after["latest/model.pt"] = before["latest_backup/model.pt"]
    found = []
    num_seen = 0
    for crash in recording.crashes(per_cut=per_cut):
        held = [node for node in crash.names.values() if node in recording.directories]
        if len(held) != len(set(held)):
            continue  # a directory under two names: the layer knows files, which may have them
        tree = place / "tree"
        materialise(recording, crash, tree)
        num_seen += 1
        try:
            said = journal.recover(str(tree / "run"), lambda deed: None)
            now = state_of(tree / "run")
            if now not in (before, after):
                found.append(f"{crash.told}: half a deed: {sorted(now)} {said}")
            elif "done" in crash.marks and now != after:
                found.append(f"{crash.told}: it was done, and is not")
            elif now == after and not (tree / "run" / "set_aside" / "1" / "rolling.pt").exists():
                found.append(f"{crash.told}: what was set aside is gone")
        finally:
            shutil.rmtree(tree)
    assert num_seen > 30, "too few states to say anything"
    return found


def test_what_was_done_survives_and_the_rest_is_completed_or_cancelled(tmp_path: Path) -> None:
    assert faults(record(tmp_path / "root"), tmp_path / "crashes", per_cut=16) == []


def test_a_deed_that_did_not_flush_would_be_found_out(tmp_path: Path) -> None:
    recording = record(tmp_path / "root")
    names_lost = recording.without_syncs(recording.is_directory)
    bytes_lost = recording.without_syncs(lambda sync: isinstance(sync, Sync) and not recording.is_directory(sync))
    assert faults(names_lost, tmp_path / "names", per_cut=3)
    assert faults(bytes_lost, tmp_path / "bytes", per_cut=3)
