"""Whole directories in one go: what is taken for a checkpoint, several at once, progress, Ctrl-C."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ckpt_tui.checkpoints.validate import LEVELS
from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.services import validation_run, validity
from ckpt_tui.services.validation_run import bytes_of, find_checkpoints, validate_all
from tests.builders import frameworks
from tests.builders.run_directories import damage, let_age, save
from tests.builders.shell import wait_for

CKPT_TUI = str(Path(sys.executable).with_name("ckpt-tui"))


A_MOMENT_S = 3.0  # of its CPU time: nobody knows when a busy machine lets it run. 0.1 otherwise


def wait_until_it_reads(pid: int) -> float:
    """Until a process has read so much that it is in the midst of the large file; gives its CPU time until then."""
    reading = psutil.Process(pid)
    wait_for(lambda: reading.io_counters().read_chars > 500_000_000, "it did not come to it", timeout_s=300)
    times = reading.cpu_times()
    return float(times.user + times.system)


def waited_for_cpu_s() -> float:
    """The CPU time of all the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def sparse_weights(path: Path, num_bytes: int, num_tensors: int = 1) -> Path:
    """A safetensors file of that size that takes no space: all of it is zeros that were never written."""
    each = num_bytes // num_tensors
    places = [(number * each, (number + 1) * each) for number in range(num_tensors)]
    tensors = {f"w{b}": {"dtype": "U8", "shape": [each], "data_offsets": [b, e]} for b, e in places}
    header = json.dumps(tensors).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + num_bytes)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two files, a directory checkpoint, and what is none."""
    directory = tmp_path / "run"
    (directory / "checkpoint-7").mkdir(parents=True)
    for name in ("latest.pt", "rolling_step_000001.pt"):
        save(directory / name, 1)
    frameworks.shards(directory / "checkpoint-7", pickled=True)
    (directory / "logs").mkdir()
    (directory / "registry.json").write_text("{}")
    (directory / "latest.pt.tmp").write_bytes(b"half")
    for data in ("vocabulary.bin", "train.bin"):
        (directory / data).write_bytes(b"words")
    (directory / "pytorch_model.bin").write_bytes(bytes(100))  # all that a crash left of it
    return directory


def test_files_and_directories_are_found(run: Path) -> None:
    found = find_checkpoints(str(run))
    assert names(found) == ["checkpoint-7", "latest.pt", "pytorch_model.bin", "rolling_step_000001.pt"]
    assert find_checkpoints(str(run / "latest.pt")) == [str(run / "latest.pt")]
    assert find_checkpoints(str(run / "checkpoint-7")) == [str(run / "checkpoint-7")]


def test_a_model_with_checkpoints_beside_it_is_one_of_them(run: Path) -> None:
    frameworks.shards(run)
    for file in run.glob("*.pt"):
        file.unlink()
    (run / "pytorch_model.bin").unlink()
    assert find_checkpoints(str(run)) == [str(run), str(run / "checkpoint-7")]


def test_nothing_to_find(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="No checkpoints"):
        find_checkpoints(str(tmp_path))
    assert find_checkpoints(str(tmp_path / "gone")) == [str(tmp_path / "gone")], "validation says that it is not there"


@pytest.mark.parametrize("num_at_once", [1, 3, None])
def test_every_path_gets_its_own_verdict(run: Path, num_at_once: int | None) -> None:
    damage(run / "latest.pt")
    let_age(run / "latest.pt")
    paths = [*find_checkpoints(str(run)), str(run / "gone.pt")]
    told: list[int] = []
    judged = list(validate_all(paths, LEVELS, on_bytes=told.append, num_at_once=num_at_once))
    verdicts = {Path(paths[one.index]).name: one.validation.verdict for one in judged}
    assert verdicts == {
        "checkpoint-7": "valid", "latest.pt": "damaged", "rolling_step_000001.pt": "valid",
        "pytorch_model.bin": "damaged", "gone.pt": "unreadable",
    }  # fmt: skip
    assert all(one.validation.path == paths[one.index] for one in judged)
    assert sum(told) == sum(one.validation.bytes_checked for one in judged)
    assert 0 < sum(told) <= sum(map(bytes_of, paths))


def test_names_of_one_content_are_read_once(run: Path) -> None:
    os.link(run / "latest.pt", run / "best_model.pt")
    os.link(run / "latest.pt", run / "rolling_step_000009.pt")
    paths = [str(run / name) for name in ("best_model.pt", "latest.pt", "rolling_step_000009.pt")]
    told: list[int] = []
    judged = {
        names([one.validation.path])[0]: one.validation for one in validate_all(paths, LEVELS, on_bytes=told.append)
    }
    assert judged["best_model.pt"].verdict == judged["latest.pt"].verdict == "valid"
    assert {judged["best_model.pt"].bytes_checked > 0, judged["latest.pt"].bytes_checked > 0} == {True, False}
    # A name that says a step has to agree with the content, so it is judged by itself.
    assert any(finding.code == "step-mismatch" for finding in judged["rolling_step_000009.pt"].findings)


def test_what_was_found_is_remembered_also_of_directories(run: Path) -> None:
    for path in run.rglob("*"):
        os.utime(path, (time.time() - 1000,) * 2)
    time.sleep(0.03)  # more than a tick of the file system's clock
    list(validate_all(find_checkpoints(str(run)), LEVELS))
    for name in ("checkpoint-7", "latest.pt"):
        known = validity.recall(str(run / name))
        assert known is not None, name
        assert validity.covers(known, LEVELS), name
    (run / "checkpoint-7" / "config.json").write_text('{"model_type": "other"}')
    assert validity.recall(str(run / "checkpoint-7")) is None


def test_large_files_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (3_000_000, 3_000_000), (3_000_000, 900_000_000)
    for sizes, expected in ((small, 4), (large, 1), ((10_000, 10_000), 1)):
        paths = [str(sparse_weights(tmp_path / f"{i}.safetensors", size)) for i, size in enumerate(sizes)]
        assert validation_run._num_at_once(paths) == expected


def test_cancel_ends_all_of_them(tmp_path: Path) -> None:
    paths = [str(sparse_weights(tmp_path / f"{i}.safetensors", 20_000_000_000)) for i in range(3)]
    told: list[int] = []
    with pytest.raises(Cancelled):
        list(validate_all(paths, LEVELS, on_bytes=told.append, is_cancelled=lambda: sum(told) > 1e8, num_at_once=3))
    assert sum(told) < 20_000_000_000, "none of them was read to its end"


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_ends_within_a_moment_and_shows_what_is_known(tmp_path: Path, as_json: bool) -> None:
    save(tmp_path / "a.pt", 1)
    # Minutes of reading.
    sparse_weights(tmp_path / "b.safetensors", 2_000_000_000_000)
    command = [CKPT_TUI, "validate", str(tmp_path), *(["--json"] if as_json else [])]
    before_s = waited_for_cpu_s()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until_s = wait_until_it_reads(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert waited_for_cpu_s() - before_s - until_s < A_MOMENT_S
    assert "Traceback" not in err
    if as_json:
        answer = json.loads(out)
        assert [Path(result["path"]).name for result in answer["data"]["results"]] == ["a.pt"]
        assert (answer["ok"], answer["errors"][0]["title"]) == (False, "Interrupted")
        return
    assert "valid" in out
    assert "a.pt" in out
    assert "Interrupted: 1 of 2 checkpoints not judged" in err
    assert "b.safetensors" in err


def test_ctrl_c_while_several_threads_read_one_file(tmp_path: Path) -> None:
    path = sparse_weights(tmp_path / "big.safetensors", 10**12, num_tensors=4)
    before_s = waited_for_cpu_s()
    with subprocess.Popen([CKPT_TUI, "validate", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until_s = wait_until_it_reads(process.pid)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)
    assert process.returncode == 130
    assert waited_for_cpu_s() - before_s - until_s < A_MOMENT_S
