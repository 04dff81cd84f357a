"""Which checkpoint a resume takes, what it does with bad ones, and what it says: on real files, in one process."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.events.codec import decode, encode
from ckpt_tui.events.schema import CheckpointQuarantined, Event, RunStart, Step
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish_directory import verify_directory
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import Source, find
from trainer.checkpoint.retraining import trained_since
from trainer.errors import UsageError

NEEDED = ("step", "model")


def state(step: int, **more: Any) -> dict[str, Any]:
    """Somebody's training at `step`: what is in it tells the step, so that a mix-up is seen."""
    return {"step": step, "model": {"weight": torch.full((300,), float(step))}, "optimizer": {}, **more}


def session(run: Path, wanted: str | None = "auto", *, steps: tuple[int, ...] = ()) -> Source | None:
    """One session as any loop would have it: begin or resume, save at `steps`, and die without a word."""
    log = EventWriter(run)
    checkpoints = Checkpointer(run, Policy(is_async=False), log=log, needed=NEEDED, say=lambda line: None)
    source = None
    try:
        if wanted is not None:
            source = checkpoints.find(wanted, settles=False)
        log.start(
            start_step=source.step if source else 0,
            resumed_from=source.as_event() if source else None,
            lineage=[vars_of(segment) for segment in checkpoints.lineage],
        )
        if source is not None:
            checkpoints.settle(source)
        for step in steps:
            log.step(step, loss=1.0)
            checkpoints.save(state(step), {"rolling"})
    finally:
        checkpoints.close()
        log.close()
    return source


def vars_of(segment: Any) -> dict[str, Any]:
    return {name: getattr(segment, name) for name in ("session", "id", "start_step", "source")}


def found(run: Path, wanted: str = "auto") -> Source:
    registry = Registry(str(run))
    registry.sync()
    source = find(str(run), wanted, registry, NEEDED)
    assert source is not None
    assert float(source.state["model"]["weight"][7]) == source.step
    return source


def flip(path: Path) -> None:
    """One bit of the weights, in place: every name of the file has it."""
    step = torch.load(path, weights_only=True)["step"]
    index = path.read_bytes().index(struct.pack("<f", step) * 100) + 41
    with open(path, "r+b") as file:
        file.seek(index)
        byte = file.read(1)
        file.seek(index)
        file.write(bytes([byte[0] ^ 1]))


def events(run: Path) -> list[Event]:
    decoded = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    return [event for event in decoded if isinstance(event, Event)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """60, 120, 180 by rolling saves of one session."""
    session(tmp_path / "run", None, steps=(60, 120, 180))
    return tmp_path / "run"


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


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_is_no_reason_to_go_back_to_an_older_one(
    error: Exception, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, num_loads = torch.load, 0

    def scarce(*args: Any, **options: Any) -> Any:
        nonlocal num_loads
        num_loads += 1
        if num_loads == 1:
            raise error
        return load(*args, **options)

    there = sorted(os.listdir(run))
    monkeypatch.setattr(torch, "load", scarce)
    with pytest.raises(UsageError, match=r"latest\.pt cannot be loaded: memory ran out"):
        found(run)
    assert sorted(os.listdir(run)) == there
    assert found(run).step == 180


def test_an_explicit_older_one_leaves_the_later_ones_behind(run: Path) -> None:
    source = session(run, "rolling_step_000060.pt")
    assert source is not None
    assert [name for name, _ in source.left] == [
        "latest.pt", "rolling_last_backup.pt", "rolling_step_000180.pt", "latest_backup.pt", "rolling_step_000120.pt",
    ]  # fmt: skip
    assert source.sentences()[-1].startswith("abandoned, kept, and not taken by `--resume auto` from now on: latest")
    # It died before it saved anything: what it was told to start from is still where the run is.
    assert found(run).name == "rolling_step_000060.pt"
    session(run, steps=(90,))
    assert found(run).step == 90
    assert found(run).name == "latest.pt"
    # A second branch off the first one, by hand, and back to the first one.
    session(run, "rolling_step_000120.pt", steps=(150,))
    assert found(run).step == 150
    session(run, "rolling_step_000090.pt", steps=(100,))
    assert found(run).step == 100


@pytest.mark.parametrize("lost", [("registry.json",), ("registry.json", "events.jsonl"), ("events.jsonl",)])
def test_the_lineage_is_found_again_without_registry_or_log(lost: tuple[str, ...], run: Path) -> None:
    session(run, "rolling_step_000060.pt")
    session(run, steps=(90,))
    session(run)
    for name in lost:
        (run / name).unlink()
    assert found(run).step == 90
    assert found(run, "rolling_step_000180.pt").step == 180


def test_without_the_registry_the_log_knows_a_choice_that_saved_nothing(run: Path) -> None:
    session(run, "rolling_step_000060.pt")
    session(run)  # finds that one by itself, and saves nothing either
    (run / "registry.json").unlink()
    assert found(run).name == "rolling_step_000060.pt"


def test_branches_that_were_left_are_not_taken_even_when_nothing_else_is_good(run: Path) -> None:
    session(run, "rolling_step_000060.pt")
    flip(run / "rolling_step_000060.pt")
    with pytest.raises(UsageError, match=r"on an abandoned branch: latest.pt.*name it: --resume latest.pt") as error:
        found(run)
    assert "rolling_step_000060.pt: the checksum of its record" in str(error.value)
    assert "ckpt-tui salvage" in str(error.value)


def test_retention_neither_counts_nor_removes_what_was_left(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoints = Checkpointer(run, Policy(is_async=False, keep_rolling=3), needed=NEEDED)
    for step in (10, 20, 30, 40):
        checkpoints.save(state(step), {"rolling"})
    checkpoints.close()
    checkpoints = Checkpointer(run, Policy(is_async=False, keep_rolling=3), needed=NEEDED)
    checkpoints.find("rolling_step_000020.pt")
    for step in (25, 45, 55, 65):
        checkpoints.save(state(step), {"rolling"})
    checkpoints.close()
    # 20 is what it was resumed from; 30 and 40 were left, and are below the new ones.
    left = sorted(path.name for path in run.glob("rolling_step_*.pt"))
    assert left == [f"rolling_step_0000{step}.pt" for step in (20, 30, 40, 45, 55, 65)]
    assert found(run).step == 65


def test_a_name_that_the_new_branch_comes_to_keeps_what_was_left_under_another(run: Path) -> None:
    session(run, "rolling_step_000060.pt", steps=(120,))
    # The same step of another branch: both are there, and each can be named.
    assert found(run).step == 120
    left = torch.load(run / "rolling_step_000120_session_1.pt", weights_only=True)
    assert (left["step"], left["lineage"][-1]["session"]) == (120, 1)
    assert torch.load(run / "rolling_step_000120.pt", weights_only=True)["lineage"][-1]["session"] == 2
    session(run, "rolling_step_000060.pt", steps=(120,))
    names = sorted(path.name for path in run.glob("rolling_step_000120*"))
    assert names == [
        "rolling_step_000120.pt", "rolling_step_000120_session_1.pt", "rolling_step_000120_session_2.pt",
    ]  # fmt: skip
    assert session(run, "rolling_step_000120_session_1.pt", steps=(130,)) is not None
    assert found(run).step == 130


def test_another_runs_checkpoint_begins_a_lineage_of_its_own(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    session(other, None, steps=(500,))
    source = session(run, str(other / "latest.pt"))
    assert source is not None
    assert source.lineage is None
    assert [name for name in sorted(os.listdir(other)) if name != "trainer.lock"] == [
        "events.jsonl", "latest.pt", "registry.json", "rolling_last_backup.pt", "rolling_step_000500.pt",
    ]  # fmt: skip
    assert any("is of another run: its history stays there, nothing is copied" in line for line in source.sentences())
    # Everything here is of the branch that was left; nothing is on the new one yet.
    with pytest.raises(UsageError, match="on an abandoned branch"):
        found(run)
    session(run, str(other / "latest.pt"), steps=(510,))
    assert found(run).step == 510


def test_files_of_another_run_with_the_same_session_numbers_are_not_taken_for_ours(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    session(other, None, steps=(500,))
    shutil.copy(other / "rolling_step_000500.pt", run)
    assert found(run).step == 180


def test_checkpoints_without_a_lineage_are_taken_as_before(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for step in (10, 20):
        torch.save({**state(step), "format_version": 1}, tmp_path / "run" / f"rolling_step_{step:06d}.pt")
    assert found(tmp_path / "run").step == 20
    session(tmp_path / "run", "rolling_step_000010.pt")
    assert found(tmp_path / "run").step == 10
    session(tmp_path / "run", steps=(15,))
    assert found(tmp_path / "run").step == 15


def test_what_the_choice_costs_is_said_in_steps_and_seconds(tmp_path: Path) -> None:
    run = tmp_path / "run"
    now = 1000.0
    log = EventWriter(run, clock=lambda: now)
    log.start()
    checkpoints = Checkpointer(run, Policy(is_async=False), log=log, needed=NEEDED)
    for step in range(10, 260, 10):
        now += 7.0
        log.step(step, loss=1.0)
        if step in (180, 240):
            checkpoints.save(state(step), {"rolling"})
    checkpoints.close()
    log.close()
    for name in ("latest.pt", "rolling_last_backup.pt"):
        flip(run / name)
    source = found(run)
    assert source.step == 180
    # 250 was reached: 240 could not be used, and ten steps had not been saved.
    assert (
        source.sentences()[-1] == "resuming from step 180 instead of 240: 70 steps, 49 s of training to be done again"
    )
    (run / "events.jsonl").unlink()
    assert found(run).sentences()[-1] == "resuming from step 180 instead of 240: 60 steps of training to be done again"


def test_what_a_person_gave_up_before_is_not_called_training_to_be_done_again(tmp_path: Path) -> None:
    """Session 1 came to 32, a person went back to 10, and session 2 came to 30, which is where it goes on."""
    lines = [
        RunStart(seq=1, ts=1.0, session=1, step=0, start_step=0),
        *(Step(seq=2 + step, ts=float(step), session=1, step=step) for step in range(1, 33)),
        RunStart(seq=50, ts=100.0, session=2, step=10, start_step=10),
        *(Step(seq=51 + step, ts=100.0 + step, session=2, step=step) for step in range(11, 31)),
    ]
    log = tmp_path / "events.jsonl"
    log.write_bytes(b"".join(encode(line) for line in lines))
    assert trained_since(str(tmp_path), 30) is None
    beyond = trained_since(str(tmp_path), 20)
    assert beyond is not None
    assert beyond.step == 30


def test_a_named_bad_one_is_refused_and_left_alone(run: Path) -> None:
    flip(run / "rolling_step_000120.pt")
    before = sorted(os.listdir(run))
    with pytest.raises(UsageError, match=r"no checkpoint can be used\n  rolling_step_000120.pt: the checksum"):
        session(run, "rolling_step_000120.pt")
    assert sorted(os.listdir(run)) == before


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


def test_a_session_that_goes_back_leaves_what_it_did_since(run: Path) -> None:
    with Checkpointer(run, Policy(is_async=False), needed=NEEDED, say=lambda line: None) as checkpoints:
        assert checkpoints.find("auto") is not None
        checkpoints.save(state(240), {"rolling"})
        checkpoints.save(state(300), {"rolling"})
        assert checkpoints.go_back(10) is None
        source = checkpoints.go_back(200)
        assert source is not None
        assert source.step == 180
        # It dies now: the steps after the onset of the trouble are not taken again.
    assert found(run).step == 180
    with Checkpointer(run, Policy(is_async=False), needed=NEEDED, say=lambda line: None) as checkpoints:
        assert checkpoints.find("auto") is not None
        checkpoints.save(state(190), {"rolling"})
    assert found(run).step == 190
    assert (run / "rolling_step_000300.pt").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"bytes": {}}, {"inode": [1]}, {"step": -1}, {"session": "1"}, {"session_id": 5}, {"digest": 5}, {"metrics": [1]},
     {"metrics": {"val_loss": "x"}}, {"epoch": {}}, {"path": 5}],
)  # fmt: skip
def test_a_registry_of_somebody_elses_making_is_made_again(wrong: dict[str, Any], run: Path) -> None:
    """It may lack the checksum that tells damage: whatever JSON it holds, no resume is refused and nothing is left."""
    session(run, steps=(100, 200))
    registry = json.loads((run / "registry.json").read_bytes())
    before = [dict(row) for row in registry["checkpoints"]]
    del registry["checksum"]
    for row in registry["checkpoints"]:
        row |= wrong
    (run / "registry.json").write_text(json.dumps(registry))
    assert found(run).step == 200
    made_again = Registry(str(run))
    made_again.sync()
    told = ("path", "step", "epoch", "metrics", "digest", "session", "session_id", "bytes", "inode")
    assert [[row[key] for key in told] for row in made_again.entries.values()] == [
        [row[key] for key in told] for row in before
    ]


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
