"""Real processes: an undisturbed run, and what kills, signals, damage and usage errors do."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import BadLine, Event
from tests.builders.held import Hold
from tests.trainer.conftest import REPO, Trainer

KEYS = {
    "step", "epoch", "model", "optimizer", "scheduler", "scaler", "ema", "train_loss", "val_loss", "val_metrics",
    "loss_history", "rng_state", "dataloader_state", "args", "best_metric", "timestamp", "checkpoint_type",
    "pytorch_version", "format_version", "lineage", "environment",
}  # fmt: skip


def events(out: Path) -> list[Event]:
    decoded = [decode(line) for line in (out / "events.jsonl").read_bytes().splitlines()]
    bad = [line for line in decoded if isinstance(line, BadLine)]
    assert not bad
    return [event for event in decoded if isinstance(event, Event)]


def of(found: list[Event], name: str) -> list[Event]:
    return [event for event in found if event.name == name]


def test_the_log_tells_the_run(straight: tuple[Path, str]) -> None:
    found = events(straight[0])
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    start = found[0]
    assert (start.name, start.session, start.total_steps, start.resumed_from) == ("run_start", 1, 200, None)
    assert start.config["n_embd"] == 32
    assert start.argv[1:3] == ["-m", "trainer"]
    assert [event.step for event in of(found, "step")] == list(range(10, 201, 10))
    assert set(of(found, "step")[0].metrics) == {"loss", "lr", "grad_norm", "tokens_per_s", "step_seconds"}
    assert [event.step for event in of(found, "eval")] == [40, 80, 120, 160, 200]
    assert [event.epoch for event in of(found, "epoch_end")] == [1, 2]
    assert (found[-1].name, found[-1].status, found[-1].step) == ("run_end", "finished", 200)
    losses = [event.metrics["loss"] for event in of(found, "step")]
    assert losses[-1] < losses[0] - 1


def test_every_kind_is_there_and_retention_kept_the_newest(straight: tuple[Path, str]) -> None:
    out = straight[0]
    assert sorted(path.name for path in out.glob("*.pt")) == [
        "best_model.pt", "best_model_backup.pt", "best_model_previous.pt", "epoch_00001.pt", "epoch_00002.pt",
        "latest.pt", "latest_backup.pt", "rolling_last_backup.pt", "rolling_step_000120.pt", "rolling_step_000150.pt",
        "rolling_step_000180.pt",
    ]  # fmt: skip
    removed = [event.path for event in of(events(out), "checkpoint_removed")]
    assert removed == ["rolling_step_000030.pt", "rolling_step_000060.pt", "rolling_step_000090.pt"]
    assert not list(out.glob(".tmp*"))
    inodes = {path.name: path.stat().st_ino for path in out.glob("*.pt")}
    assert inodes["rolling_last_backup.pt"] != inodes["rolling_step_000180.pt"]
    assert inodes["best_model_backup.pt"] != inodes["best_model.pt"]
    assert inodes["latest_backup.pt"] != inodes["latest.pt"]


def test_every_checkpoint_loads_without_pickle_code_and_is_complete(straight: tuple[Path, str]) -> None:
    import torch

    for path in straight[0].glob("*.pt"):
        state = torch.load(path, weights_only=True)
        assert set(state) == KEYS, path.name
        assert set(state["rng_state"]) == {"python", "numpy", "torch", "torch_cuda"}
        assert state["args"]["n_embd"] == 32


def test_the_registry_agrees_with_files_and_log(straight: tuple[Path, str], tmp_path: Path) -> None:
    from trainer.checkpoint.publish import digest_of_file
    from trainer.checkpoint.registry import Registry

    out = straight[0]
    content = json.loads((out / "registry.json").read_bytes())
    rows = {row["path"]: row for row in content["checkpoints"]}
    assert sorted(rows) == sorted(path.name for path in out.glob("*.pt"))
    for name, row in rows.items():
        assert row["digest"] == digest_of_file(str(out / name))
        assert row["bytes"] == (out / name).stat().st_size
    told = {event.path: event.digest for event in of(events(out), "checkpoint_saved")}
    assert told["rolling_step_000180.pt"] == rows["rolling_last_backup.pt"]["digest"]
    # Missing or wrong, it is rebuilt from the files.
    copy = tmp_path / "run"
    shutil.copytree(out, copy)
    for damage in (b"", b'{"checkpoints": [{"path": 5}, 7]}', None):
        (copy / "registry.json").unlink()
        if damage is not None:
            (copy / "registry.json").write_bytes(damage)
        rebuilt = Registry(str(copy))
        rebuilt.sync()
        rebuilt.write()
        facts = ("path", "kind", "step", "epoch", "metrics", "bytes", "digest")
        assert [[row[key] for key in facts] for row in rebuilt.entries.values()] == [
            [rows[name][key] for key in facts] for name in sorted(rows)
        ]


@pytest.mark.parametrize("moment", ["step 50", "step 100", "checkpoint_saved 60"])
def test_a_killed_run_comes_out_bit_by_bit_the_same(
    moment: str, trainer: Trainer, straight: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert trainer.run_until(Hold(tmp_path, moment), signal.SIGKILL, out).was_killed
    done = trainer.run(out, "--resume", "auto")
    assert done.code == 0, done.output
    assert "resumed from step " in done.output
    assert trainer.hash(out) == trainer.hash(straight[0])
    found = events(out)
    assert [event.seq for event in found] == list(range(1, len(found) + 1))
    second = of(found, "run_start")[1]
    assert second.session == 2
    assert second.resumed_from["path"]
    # And so does each loss on the way.
    expected = {event.step: event.metrics["loss"] for event in of(events(straight[0]), "step")}
    assert all(event.metrics["loss"] == expected[event.step] for event in of(found, "step"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "preempted")])
def test_a_signal_saves_stops_and_can_be_resumed_exactly(
    number: signal.Signals, status: str, trainer: Trainer, straight: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stopped = trainer.run_until(Hold(tmp_path, "step 10"), number, out)
    assert stopped.code == 128 + number, stopped.output
    found = events(out)
    assert (found[-1].name, found[-1].status) == ("run_end", status)
    [saved] = of(found, "checkpoint_saved")[-1:]
    assert saved.kind == "emergency"
    assert (out / saved.path).exists()
    assert saved.step == found[-1].step
    assert trainer.run(out, "--resume", "auto").code == 0
    assert trainer.hash(out) == trainer.hash(straight[0])


def test_sigusr1_saves_and_goes_on(trainer: Trainer, tmp_path: Path) -> None:
    asked = trainer.run_until(Hold(tmp_path, "step 10"), signal.SIGUSR1, tmp_path / "run")
    assert asked.code == 0, asked.output
    assert len(list((tmp_path / "run").glob("emergency_step_*.pt"))) == 1


def test_damaged_newest_checkpoints_are_passed_over_and_named(
    trainer: Trainer, straight: tuple[Path, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[0], out)
    for name in ("latest.pt", "best_model.pt", "best_model_backup.pt"):
        data = bytearray((out / name).read_bytes())
        data[len(data) // 2] ^= 1
        (out / name).write_bytes(data)
    (out / "epoch_00002.pt").write_bytes((out / "epoch_00002.pt").read_bytes()[:1000])
    done = trainer.run(out, "--resume", "auto")
    assert done.code == 0, done.output
    assert "rejected latest.pt: the checksum of its record" in done.output
    assert "rejected epoch_00002.pt: it is not a whole zip file" in done.output
    assert "resumed from step 180 (rolling_step_000180.pt)" in done.output
    assert trainer.hash(out) == trainer.hash(straight[0])


def test_a_missing_latest_is_put_back(trainer: Trainer, straight: tuple[Path, str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight[0], out)
    (out / "latest.pt").unlink()
    (out / "best_model.pt").unlink()
    (out / ".tmp-latest.pt-99-0").write_bytes(b"half")
    done = trainer.run(out, "--resume", "auto", "--max_steps", "201")
    assert done.code == 0, done.output
    [restored] = of(events(out), "checkpoint_restored")
    assert (restored.path, restored.source, restored.by) == ("latest.pt", "best_model_backup.pt", "trainer")
    assert not (out / ".tmp-latest.pt-99-0").exists()
    assert "changed --max_steps 200 -> 201: changes the course" in done.output


def test_usage_errors_are_one_line_and_change_nothing(
    trainer: Trainer, straight: tuple[Path, str], tmp_path: Path
) -> None:
    out = straight[0]
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "trainer.lock"}
    for options, message in [
        (("--n_head", "5"), "cannot be divided"),
        (("--mini_batch_size", "3"), "not a multiple"),
        (("--lr", "nan"), "finite"),
        (("--data", str(tmp_path / "none")), "no such file"),
        ((), "--resume auto"),
        (
            ("--resume", "auto", "--n_embd", "64"),
            "it was trained with --n_embd 32, and this is 64: every weight has another shape",
        ),
        (("--resume", "none.pt"), "no such checkpoint"),
    ]:
        done = trainer.run(out, *options)
        assert done.code == 2, (options, done.output)
        assert message in done.output
        assert [line for line in done.output.splitlines() if "trainer: " in line] == [done.output.splitlines()[-1]]
        assert "Traceback" not in done.output
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "trainer.lock"}


def test_a_second_trainer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path: Path) -> None:
    from trainer.checkpoint.lock import LOCK_NAME, DirectoryLock
    from trainer.errors import UsageError

    # A lock file without a holder, as a dead owner leaves it.
    (tmp_path / LOCK_NAME).write_text('{"pid": 1, "host": "elsewhere"}')
    lock = DirectoryLock(str(tmp_path))
    content = json.loads((tmp_path / LOCK_NAME).read_bytes())
    assert set(content) == {"pid", "pid_started", "pid_birth", "host", "started_at"}
    assert content["pid"] == os.getpid()
    with pytest.raises(UsageError, match=f"process {os.getpid()}"):
        DirectoryLock(str(tmp_path))
    lock.release()
    DirectoryLock(str(tmp_path)).release()


def test_the_hash_of_a_run_is_printed(trainer: Trainer, straight: tuple[Path, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "hash", str(straight[0])], cwd=REPO, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, trainer.hash(straight[0])), done.stderr


def test_checkpoints_are_listed_by_kind(trainer: Trainer, straight: tuple[Path, str]) -> None:
    done = trainer.run(straight[0], "--list_checkpoints")
    assert done.code == 0
    lines = done.output.splitlines()
    kinds = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert kinds[:-1] == ["latest", "rolling", "best", "epoch"]
    assert next(line for line in lines if " latest.pt" in line).split()[1] == "200"
    assert lines[-1].startswith("11 checkpoints, ")


def test_a_watch_that_looks_at_the_lock_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.checkpoint import lock
    from trainer.checkpoint.lock import LOCK_NAME, DirectoryLock

    monkeypatch.setattr(lock, "_MOMENT_SECONDS", 120.0)
    with open(tmp_path / LOCK_NAME, "w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.03, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        timer.start()
        DirectoryLock(str(tmp_path)).release()
        timer.join()


def test_damage_that_left_no_trace_but_the_digest_is_found(straight: tuple[Path, str], tmp_path: Path) -> None:
    from trainer.checkpoint.registry import Registry
    from trainer.checkpoint.resume import find

    out = tmp_path / "run"
    shutil.copytree(straight[0], out)
    registry = Registry(str(out))
    registry.sync()
    path = out / "latest.pt"
    status = path.stat()
    # Bytes after the end of the archive: no record of it is wrong.
    with open(path, "ab") as file:
        file.write(b"\x00" * 8)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    source = find(str(out), "auto", registry)
    assert source is not None
    assert source.rejected[0].name == "latest.pt"
    assert "not what was saved" in source.rejected[0].why
