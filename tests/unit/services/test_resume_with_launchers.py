"""A training that a real launcher started is resumed: the rebuilt command runs, with the settings where they go."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import RunStart
from tests.builders.trees import tree_of

REPO = Path(__file__).parents[3]
# Writes a log and a checkpoint of ten more steps than it began with. Needs no torch: only its launcher does.
SCRIPT = """
import argparse, os, sys
from pathlib import Path
sys.path.insert(0, {repo!r})
parser = argparse.ArgumentParser()
parser.add_argument("--out")
parser.add_argument("--lr", type=float)
parser.add_argument("--nproc_per_node", "--num_processes", type=int, default=1)  # a name that its launcher has, too
parser.add_argument("--resume", default="")
settings = parser.parse_args()
if os.environ.get("RANK", "0") == "0":
    from ckpt_tui.events.writer import EventWriter
    from tests.builders.run_directories import save
    step = int("".join(filter(str.isdigit, Path(settings.resume).name)) or 0)
    log = EventWriter(settings.out)
    log.start(config=vars(settings), start_step=step, total_steps=1000, world_size=int(os.environ.get("WORLD_SIZE", 1)))
    for step in range(step + 1, step + 11):
        log.step(step, loss=1.0)
    save(Path(settings.out, f"step_{{step:04}}.pt"), step, args=vars(settings))
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text(SCRIPT.format(repo=str(REPO)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def begin(directory: Path, *command: str) -> None:
    subprocess.run([*command, "train.py", "--out", "run", "--lr", "1.0"], cwd=directory, check=True, timeout=300,
                   capture_output=True)  # fmt: skip


def starts(directory: Path) -> list[RunStart]:
    lines = (directory / "run" / "events.jsonl").read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), RunStart)]


def resume(directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[dict[str, object], RunStart]:
    """What the plan said, and how the new session began."""
    capsys.readouterr()
    code = main(["resume", str(directory / "run"), "--yes", "--json", *options])
    said = capsys.readouterr().out
    assert code == 0, said
    wait_until(lambda: len(starts(directory)) == 2)
    wait_until(lambda: (directory / "run" / "step_0020.pt").exists())
    return json.loads(said)["data"], starts(directory)[1]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_plain_python(directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    begin(directory, sys.executable, "-u")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data, again = resume(directory, capsys, "--set", "lr=0.5")
    assert data["launcher"] == "python"
    assert data["environment"] == {"OMP_NUM_THREADS": "3"}
    assert again.launcher["environment"]["OMP_NUM_THREADS"] == "3"
    assert (again.start_step, again.config["lr"]) == (10, 0.5)
    assert again.argv[:3] == [sys.executable, "-u", "train.py"]


@pytest.mark.parametrize("says_where", [True, False])
def test_a_copy_trains_in_the_copy_and_its_original_is_left_alone(
    directory: Path, capsys: pytest.CaptureFixture[str], says_where: bool
) -> None:
    begin(directory, sys.executable)
    original, copy = directory / "run", directory / "elsewhere" / "a try"
    if not says_where:  # as older logs
        log = original / "events.jsonl"
        log.write_text(log.read_text().replace(f'"directory":"{original}"', '"directory":null'))
    shutil.copytree(original, copy)
    before = tree_of(original)
    assert main(["resume", str(copy), "--yes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert f"Moved or copied since: {original} is now {copy}." in data["warnings"]
    wait_until(lambda: (copy / "step_0020.pt").exists())
    assert tree_of(original) == before


def test_a_directory_that_the_command_does_not_name_is_resumed_where_it_was(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = directory / "train.py"
    script.write_text(script.read_text().replace('add_argument("--out")', 'add_argument("--out", default="run")'))
    subprocess.run([sys.executable, "train.py"], cwd=directory, check=True, timeout=300, capture_output=True)
    copy = shutil.copytree(directory / "run", directory / "copy")
    assert main(["resume", str(copy), "--yes"]) == 2
    assert "it would train there, and not here. Say it once, with {directory} in a --command" in capsys.readouterr().err
    # With all that lies around it, it is the same as ever.
    project = shutil.copytree(directory, directory.with_name(f"{directory.name}_project"))
    assert main(["resume", str(project / "run"), "--dry-run", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["cwd"], data["refusals"]) == (str(project), [])


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torchrun_on_a_port_that_is_in_use_by_now(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    begin(directory, *launcher)
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection of its may linger
        with suppress(OSError):  # somebody else has it by now: so much the better
            taken.bind(("", port))
            taken.listen()
        data, again = resume(directory, capsys, "--set", "lr=0.5", "--set", "nproc_per_node=3")
    assert data["launcher"] == "torchrun"
    assert (again.world_size, again.start_step) == (2, 10)
    assert (again.config["lr"], again.config["nproc_per_node"]) == (0.5, 3)
    assert again.argv[1:6] == ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    assert any("is in use on this host" in str(words) for words in data["warnings"])  # type: ignore[attr-defined]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")
def test_accelerate_with_its_config(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nuse_cpu: true\nnum_processes: 1\n"
    (directory / "accelerate.yaml").write_text(config + "num_machines: 1\nmixed_precision: 'no'\n")
    launch = [str(Path(sys.executable).parent / "accelerate"), "launch", "--config_file"]
    begin(directory, *launch, "accelerate.yaml", "--num_processes", "1")
    data, again = resume(directory, capsys, "--set", "lr=0.5", "--set", "nproc_per_node=3")
    assert data["launcher"] == "accelerate"
    assert (again.start_step, again.config["lr"], again.config["nproc_per_node"]) == (10, 0.5, 3)
    assert again.argv[2:8] == ["launch", "--config_file", "accelerate.yaml", "--num_processes", "1", "train.py"]
    # Without its config file it would start with other settings.
    (directory / "accelerate.yaml").unlink()
    assert main(["resume", str(directory / "run"), "--yes"]) == 2
    assert "config file accelerate.yaml is not there" in capsys.readouterr().err
