"""Checkpoints that are directories: how they become durable, what is found damaged, and what a resume makes of them."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint import publish_directory as module
from trainer.checkpoint.formats import read_facts
from trainer.checkpoint.publish import PublishError, remove_leftovers
from trainer.checkpoint.publish_directory import (
    BadDirectoryError,
    FileFacts,
    commit,
    new_directory,
    publish_directory,
    remove_directory,
    seal_files,
    verify_directory,
)
from trainer.errors import UsageError

FILES = {"model.pt": b"weights" * 1000, "train_state.json": b'{"step": 5}'}
CALLS = ("open", "write", "fsync", "rename", "link", "mkdir")


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "manifest.json"}


def test_names_share_bytes_and_the_manifest_vouches_for_them(tmp_path: Path) -> None:
    published = publish_directory(str(tmp_path), ["rolling_step_000005", "latest"], FILES, about={"step": 5})
    assert published.size_bytes == sum(map(len, FILES.values()))
    for name in ("rolling_step_000005", "latest"):
        assert content(tmp_path / name) == FILES
        assert verify_directory(str(tmp_path / name)) == replace(published, seconds={})
        assert json.loads((tmp_path / name / "manifest.json").read_bytes())["step"] == 5
    assert (tmp_path / "latest" / "model.pt").samefile(tmp_path / "rolling_step_000005" / "model.pt")
    assert sorted(os.listdir(tmp_path)) == ["latest", "rolling_step_000005"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_what_is_replaced_gets_its_second_name_first(
    can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(module, "exchange", lambda a, b: False)
    for number in range(4):
        publish_directory(
            str(tmp_path), ["latest"], {"model.pt": bytes([number])}, previous={"latest_backup": "latest"}
        )
        assert content(tmp_path / "latest") == {"model.pt": bytes([number])}
        if number:
            assert content(tmp_path / "latest_backup") == {"model.pt": bytes([number - 1])}
    assert sorted(os.listdir(tmp_path)) == ["latest", "latest_backup"]


def test_damage_of_every_kind_is_named(tmp_path: Path) -> None:
    def damaged(change: object) -> str:
        remove_directory(str(tmp_path / "latest")) if (tmp_path / "latest").exists() else None
        publish_directory(str(tmp_path), ["latest"], FILES)
        change(tmp_path / "latest")  # type: ignore[operator]
        with pytest.raises(BadDirectoryError) as error:
            verify_directory(str(tmp_path / "latest"))
        return str(error.value)

    def flip(directory: Path) -> None:
        data = bytearray((directory / "model.pt").read_bytes())
        data[3000] ^= 4
        (directory / "model.pt").write_bytes(data)

    def edit(directory: Path, old: str, new: str) -> None:
        text = (directory / "manifest.json").read_text()
        (directory / "manifest.json").write_text(text.replace(old, new))

    assert "model.pt is not what was written" in damaged(flip)
    assert "model.pt has 100 bytes, 7,000 were written" in damaged(lambda d: os.truncate(d / "model.pt", 100))
    assert "model.pt is missing" in damaged(lambda d: (d / "model.pt").unlink())
    assert "has no manifest.json" in damaged(lambda d: (d / "manifest.json").unlink())
    assert "cannot be read" in damaged(lambda d: os.truncate(d / "manifest.json", 40))
    assert "outside the directory" in damaged(lambda d: edit(d, "model.pt", "../model.pt"))
    assert "its checksum differs" in damaged(lambda d: edit(d, "manifest/1", "manifest/3"))


def test_a_manifest_that_cannot_be_read_this_time_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file: permissions or a device may be back at the next resume, and quarantine is for what is proven."""
    publish_directory(str(tmp_path), ["latest"], FILES)

    def refused(path: object, *args: object, **kwargs: object) -> object:
        if str(path).endswith("manifest.json"):
            raise PermissionError(13, "Permission denied")
        return open(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(module, "open", refused, raising=False)
    with pytest.raises(PermissionError):
        verify_directory(str(tmp_path / "latest"))


def test_files_of_others_are_sealed_by_their_checksums(tmp_path: Path) -> None:
    import torch

    temporary = new_directory(str(tmp_path), "latest")
    Path(temporary, "shards").mkdir()
    torch.save({"a": torch.arange(5000)}, os.path.join(temporary, "shards", "0.pt"))
    Path(temporary, "other").write_bytes(b"x")
    mine = seal_files(temporary, ["other"])
    assert mine == [FileFacts("other", 1, "crc32:8cdc1683")]
    commit(str(tmp_path), temporary, ["latest"], sealed=mine)
    assert [facts.path for facts in module.read_manifest(str(tmp_path / "latest"))["files"]] == ["other", "shards/0.pt"]
    # A byte that changed between memory and disk is found by the checksum that torch computed in memory.
    temporary = new_directory(str(tmp_path), "latest")
    torch.save({"a": torch.arange(5000)}, os.path.join(temporary, "0.pt"))
    with open(os.path.join(temporary, "0.pt"), "r+b") as file:
        file.seek(20_000)
        file.write(b"\xff")
    with pytest.raises(PublishError, match="the checksum of its record") as error:
        commit(str(tmp_path), temporary, ["latest"])
    assert error.value.stage == "verify"
    assert os.listdir(tmp_path) == ["latest"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_whatever_call_fails_every_name_holds_a_whole_checkpoint(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The i-th call fails, for every i: nothing is left over, and what stands is the old or the new, whole."""
    old, new = {"model.pt": b"old" * 99}, {"model.pt": b"new" * 99, "optimizer.pt": b"more"}
    run = tmp_path / "run"
    failed = 0
    for index in range(200):
        run.mkdir()
        publish_directory(str(run), ["latest"], old)
        remaining = index
        with monkeypatch.context() as patch:
            for name in CALLS:

                def call(*arguments: object, _real: object = getattr(os, name), **options: object) -> object:
                    nonlocal remaining
                    remaining -= 1
                    if remaining == -1:
                        raise OSError(number, os.strerror(number))
                    return _real(*arguments, **options)  # type: ignore[operator]

                patch.setattr(os, name, call)
            try:
                publish_directory(str(run), ["epoch_00001", "latest"], new, previous={"latest_backup": "latest"})
                has_failed = False
            except PublishError:
                has_failed = True
        left = [name for name in os.listdir(run) if name.startswith(".tmp")]
        # Only when the clearing up itself is what failed; the next session does it then.
        assert not left or not has_failed
        for name in set(os.listdir(run)) - set(left):
            verify_directory(str(run / name))
            assert content(run / name) in (old, new), (index, name)
        assert "latest" in os.listdir(run)
        shutil.rmtree(run)
        if not has_failed and remaining >= 0:
            break
        failed += has_failed
    assert failed > (10 if number == errno.EIO else 20)  # of a device error the first attempt is given up


def test_what_a_dead_session_left_is_cleared(tmp_path: Path) -> None:
    left = new_directory(str(tmp_path), "latest")
    Path(left, "model.pt").write_bytes(b"half")
    assert remove_leftovers(str(tmp_path)) == [Path(left).name]
    assert os.listdir(tmp_path) == []


def awkward_state() -> dict[str, Any]:
    """What a person's loop may save: JSON and YAML would change half of it."""
    import torch

    shared = torch.arange(12.0).reshape(3, 4)
    return {
        "step": 41, "epoch": 2, "model": {"w": shared.t(), "b": torch.zeros(0), "half": torch.ones(3).bfloat16()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": shared}}, "param_groups": [{"lr": 1e-05}]},
        "scheduler": {"last_epoch": 41, "best": math.inf}, "scaler": None, "ema": None,
        "train_loss": 1e-05, "val_loss": -0.0, "val_metrics": {"val_loss": math.nan, 3: "an int key"},
        "loss_history": [[40, 0.1 + 0.2], [41, 1e300]], "rng_state": {"torch": torch.get_rng_state(), "ranks": []},
        "dataloader_state": {"order": [1, 2], "tuple": (1, 2)},
        "args": {"lr": 1e-05, "name": "käse: #1 'x'\n\u2028\udcff", "data": ["a b", "c"], "on": True, "none": None,
                 "nested": {"x": [1.5, None]}, "warm up": -3e22, "off": False},
        "best_metric": None, "big": 2**70, "bytes": b"\x00\xff", "complex": 1 + 2j, "pair": (1, "a"), 7: "int key",
        "extra_tensor": shared[1], "deep": [{"a": [{"b": 0.1}]}], "checkpoint_type": "regular", "format_version": 1,
    }  # fmt: skip


def test_a_state_taken_apart_and_put_together_is_the_same_to_the_bit(tmp_path: Path) -> None:
    from trainer.checkpoint.directory_format import about, is_directory_checkpoint
    from trainer.checkpoint.directory_format import load_directory as load
    from trainer.checkpoint.registry import facts_of

    state = awkward_state()
    files = files_of(state)
    assert {"model.pt", "optimizer.pt", "scheduler.pt", "dataloader.pt", "rng_state.pt", "config.yaml",
            "train_state.json", "metrics.csv", "rest.pt"} == set(files)  # fmt: skip
    published = publish_directory(str(tmp_path), ["latest"], files, about=about(facts_of(state, "")))
    path = str(tmp_path / "latest")
    assert is_directory_checkpoint(path)
    found, digest = load(path)
    assert digest == published.digest
    assert same(found, state), found
    assert list(found["args"]) == list(state["args"])
    facts = read_facts(path)
    assert (facts["step"], facts["epoch"], facts["digest"]) == (41, 2, published.digest)
    # By the real library, apart: what the parts are for.
    import torch

    assert torch.equal(torch.load(tmp_path / "latest" / "model.pt", weights_only=True)["w"], state["model"]["w"])
    assert (tmp_path / "latest" / "metrics.csv").read_text().splitlines() == [
        "step,train_loss,val_loss", "40,0.30000000000000004,", "41,1e+300,", "41,1e-05,-0.0"
    ]  # fmt: skip
    # An empty state has its files, too.
    assert set(files_of({"step": 0})) == {"train_state.json", "metrics.csv"}
    assert bytes(files_of({"step": 0, "t": (1,)})["rest.pt"]) == serialised({"t": (1,)})


def serialised(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def files_of(state: dict[str, Any]) -> dict[str, bytes | memoryview]:
    from trainer.checkpoint.directory_format import take_apart

    parts = take_apart(state)
    return {**{file: serialised(value) for file, value in parts.saved.items()}, **parts.texts}


def same(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def test_settings_are_yaml_for_everybody(tmp_path: Path) -> None:
    """As PyYAML and the viewer read them, not only as we do."""
    yaml = pytest.importorskip("yaml")
    from ckpt_tui.checkpoints.simple_yaml import SimpleYaml

    settings = {
        "lr": 1e-05, "min_lr": 2.5e-7, "big": 1e22, "steps": 100, "data": ["a.txt", "b: c"], "name": "x #1", "on": True,
        "resume": None, "no": "no", "text": "1e-05",
    }  # fmt: skip
    text = bytes(files_of({"step": 1, "args": settings})["config.yaml"]).decode()
    assert yaml.safe_load(text) == settings
    assert SimpleYaml(text).entries == settings
    assert SimpleYaml(text).num_unread == 0


def test_the_viewer_reads_judges_and_lists_it(tmp_path: Path) -> None:
    from ckpt_tui.checkpoints.registry import open_checkpoint
    from tests.builders.validation import validate

    files = files_of(awkward_state())
    publish_directory(str(tmp_path), ["rolling_step_000041"], files)
    path = tmp_path / "rolling_step_000041"
    checkpoint = open_checkpoint(path)
    assert (checkpoint.format, checkpoint.safety, checkpoint.progress["step"]) == ("checkpoint-dir", "safe", 41)
    assert checkpoint.has == ["model", "optimizer", "scheduler", "rng", "dataloader"]
    assert checkpoint.hyperparameters["lr"] == 1e-05
    found = validate(path)
    assert (found.verdict, found.levels["integrity"]) == ("valid", "pass"), found.findings
    # Every byte of every file counts: a flip anywhere is found, in files without checksums of their own, too.
    for file in (*files, "manifest.json"):
        whole = (path / file).read_bytes()
        for at in range(0, len(whole), max(len(whole) // 5, 1)):
            if file == "manifest.json" and chr(whole[at]) in ' \n{}[],"' and at > 0:
                continue  # what it says is the same, or it is no longer JSON, which is seen below
            (path / file).write_bytes(whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :])
            assert validate(path).verdict == "damaged", (file, at)
        (path / file).write_bytes(whole)
    assert validate(path).verdict == "valid"
    (path / "metrics.csv").unlink()
    found = validate(path)
    assert found.verdict == "damaged"
    assert [finding.where for finding in found.findings if finding.code == "missing-part"] == ["metrics.csv"]


class Train:
    """Trainings of 24 steps with `--checkpoint_format dir`, in this process."""

    def __init__(self, corpus: Path) -> None:
        corpus.write_text("to be or not to be, " * 300)
        self.options = [
            "--data", str(corpus), "--n_layer", "1", "--n_head", "1", "--n_embd", "8", "--block_size", "8",
            "--batch_size", "4", "--mini_batch_size", "2", "--dropout", "0.2", "--max_steps", "24", "--eval_freq", "8",
            "--eval_batches", "1", "--checkpoint_freq", "6", "--keep_checkpoints", "3", "--threads", "1",
            "--checkpoint_format", "dir", "--ema", "0.9",
        ]  # fmt: skip

    def __call__(self, out: Path, *options: str, fail_at: int = 0) -> int:
        from trainer.checkpoint.lock import DirectoryLock
        from trainer.config import parse
        from trainer.loop import Training

        class Signals:
            stop = None
            num_steps = 0

            def take_save_request(self) -> bool:
                self.num_steps += 1
                if self.num_steps == fail_at:
                    raise KeyboardInterrupt
                return False

            def release(self) -> None: ...

        out.mkdir(exist_ok=True)
        request = parse(["--out", str(out), *self.options, *options])
        lock = DirectoryLock(request.out)
        try:
            return Training(request, Signals()).run()  # type: ignore[arg-type]
        except KeyboardInterrupt:
            return 130
        finally:
            lock.release()


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    return Train(tmp_path_factory.mktemp("corpus") / "corpus.txt")


@pytest.fixture(scope="module")
def straight(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("straight") / "run"
    assert train(out) == 0
    return out


def hash_of(out: Path) -> str:
    from trainer.checkpoint.formats import load_checkpoint
    from trainer.checkpoint.state import fingerprint

    return fingerprint(load_checkpoint(str(out / "latest")).state)


def test_the_trainer_writes_every_kind_as_a_directory(straight: Path, train: Train, tmp_path: Path) -> None:
    assert sorted(path.name for path in straight.iterdir() if path.is_dir()) == [
        "best_model", "best_model_backup", "best_model_previous", "latest", "latest_backup", "rolling_last_backup",
        "rolling_step_000012", "rolling_step_000018", "rolling_step_000024",
    ]  # fmt: skip
    rows = {row["path"]: row for row in json.loads((straight / "registry.json").read_bytes())["checkpoints"]}
    assert rows["latest"]["inode"] == rows["rolling_step_000024"]["inode"]
    assert rows["latest"]["inode"] != rows["rolling_last_backup"]["inode"]
    total = sum(path.stat().st_size for path in (straight / "latest").iterdir() if path.name != "manifest.json")
    assert rows["latest"]["bytes"] == total
    assert rows["latest"]["digest"] == module.digest_of_directory(str(straight / "latest"))
    # The same training in files holds the same state.
    assert train(tmp_path / "files", "--checkpoint_format", "file") == 0
    from trainer.checkpoint.state import fingerprint, load

    assert fingerprint(load(str(tmp_path / "files" / "latest.pt"))) == hash_of(straight)


@pytest.mark.parametrize("damaged", [(), ("model.pt",), ("rng_state.pt", "config.yaml", "train_state.json")])
def test_it_resumes_to_the_bit_past_what_is_damaged(
    damaged: tuple[str, ...], straight: Path, train: Train, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert train(out, fail_at=20) == 130
    assert {path.name for path in out.glob("rolling_step_*")} == {f"rolling_step_{n:06d}" for n in (6, 12, 18)}
    for file in damaged:
        for name in ("latest", "rolling_last_backup"):
            path = out / name / file
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    assert train(out, "--resume", "auto") == 0
    assert hash_of(out) == hash_of(straight)
    lines = (out / "events.jsonl").read_bytes().splitlines()
    start = next(event for line in reversed(lines) if (event := json.loads(line))["event"] == "run_start")
    assert start["resumed_from"]["path"] == ("latest" if not damaged else "rolling_step_000018")
    found = [path.name.partition("_2")[0] for path in out.glob("quarantine/*_checksum")]
    assert sorted(found) == (["emergency_step_000019", "latest"] if damaged else [])  # of the interrupt; they share


def test_the_viewer_lists_a_run_of_directories(straight: Path) -> None:
    from ckpt_tui.services.catalog import read_catalog

    catalog = read_catalog(str(straight), check="full")
    kinds = {entry.name: (entry.kind, entry.step, entry.is_backup, entry.validity) for entry in catalog.entries}
    assert kinds["latest"] == ("latest", 24, False, "valid")
    assert kinds["latest_backup"] == ("latest", 18, True, "valid")
    assert kinds["rolling_step_000012"] == ("rolling", 12, False, "valid")
    assert kinds["rolling_last_backup"] == ("rolling", 24, True, "valid")
    assert kinds["best_model"][0] == kinds["best_model_previous"][0] == "best"
    assert catalog.resume_would_take == "latest"
    entry = catalog.entry("latest")
    assert entry is not None
    assert "rolling_step_000024" in entry.same_as
    backup = catalog.entry("rolling_last_backup")
    assert backup is not None
    assert backup.backup_of == "rolling_step_000024"
    whole = sum(path.stat().st_size for name in ("latest", "latest_backup") for path in (straight / name).iterdir())
    assert whole <= catalog.total_bytes < sum(entry.size_bytes for entry in catalog.entries)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_seal_that_is_killed_anywhere_leaves_a_directory_that_is_taken_whole_or_not_at_all(
    when: str, tmp_path: Path
) -> None:
    """As the Hugging Face callback seals what Trainer wrote: the older one is there in any case."""
    from tests.builders.crashing import killed_at
    from trainer.checkpoint.publish_directory import seal_in_place, unseal
    from trainer.integrations.sealing import newest_valid

    def step_of(name: str) -> int | None:
        return int(name.removeprefix("checkpoint-")) if name.startswith("checkpoint-") else None

    number, taken = 0, []
    was_killed = True
    while was_killed:
        number += 1
        run = tmp_path / str(number)
        for step in (5, 10):
            (run / f"checkpoint-{step}" / "deep").mkdir(parents=True)
            for file in ("model.safetensors.index", "trainer_state.json", "deep/optimizer"):
                (run / f"checkpoint-{step}" / file).write_bytes(b"[%d]" % step)
        seal_in_place(str(run / "checkpoint-5"))
        was_killed = killed_at(number, lambda: seal_in_place(str(run / "checkpoint-10")), when=when)  # noqa: B023
        choice = newest_valid(str(run), step_of)
        taken.append(choice.step)
        assert (run / f"checkpoint-{choice.step}" / "trainer_state.json").read_bytes() == b"[%d]" % choice.step
        assert choice.step == 10 or choice.rejected[0][2].endswith("_unfinished")
    assert taken == sorted(taken)
    assert set(taken) == {5, 10}
    assert number > 8
    # What is written into again does not look finished meanwhile.
    unseal(str(run / "checkpoint-10"))
    assert newest_valid(str(run), step_of).step == 5


@pytest.mark.parametrize("form", ["dir", "dcp"])
def test_memory_that_runs_out_is_no_fault_of_a_directory(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from trainer.checkpoint.checkpointer import Checkpointer
    from trainer.checkpoint.policy import Policy

    with Checkpointer(tmp_path, Policy(is_async=False, checkpoint_format=form), say=lambda line: None) as checkpoints:
        for step in (1, 2):
            checkpoints.save({"step": step, "model": {"weight": torch.ones(3)}}, {"rolling"})

    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(f"trainer.checkpoint.{'directory_format._load' if form == 'dir' else 'dcp._read'}", full)
    with (
        Checkpointer(tmp_path, say=lambda line: None) as checkpoints,
        pytest.raises(UsageError, match="latest cannot be loaded: memory ran out"),
    ):
        checkpoints.find("auto")
