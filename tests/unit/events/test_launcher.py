"""What a process can tell of how it was started: real launchers, and a /proc made by hand for others."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.launcher import launcher_of, recorded_launcher
from ckpt_tui.events.schema import RunStart
from tests.builders.pace import cpu_time

REPO = Path(__file__).parents[3]
TINY = """
import os, sys
sys.path.insert(0, {repo!r})
from ckpt_tui.events.writer import EventWriter
if os.environ.get("RANK", "0") == "0":
    EventWriter("run").start(config={{"lr": 1.0}})
"""


def started(directory: Path, *command: str, **environment: str) -> RunStart:
    """The `run_start` that a script of three lines writes when it is started like this."""
    (directory / "train.py").write_text(TINY.format(repo=str(REPO)))
    subprocess.run(
        command, cwd=directory, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, check=True, timeout=300,
        capture_output=True,
    )  # fmt: skip
    event = decode((directory / "run" / "events.jsonl").read_bytes().splitlines()[0])
    assert isinstance(event, RunStart)
    return event


def tool(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed")
    return str(path)


def test_plain_python_tells_its_own_command_and_few_variables(tmp_path: Path) -> None:
    start = started(tmp_path, sys.executable, "train.py", "--lr", "1", CUDA_VISIBLE_DEVICES="", WANDB_API_KEY="secret")
    assert start.argv == [sys.executable, "train.py", "--lr", "1"]
    assert start.launcher["name"] == "python"
    assert start.launcher["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert "argv" not in start.launcher
    assert "secret" not in json.dumps(start.launcher)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torchrun", ["torchrun", "--standalone", "--nproc_per_node", "2"]),
        pytest.param("torchrun", ["-m", "torch.distributed.run", "--nproc_per_node=1"], marks=pytest.mark.long),
        pytest.param("accelerate", ["accelerate", "launch", "--cpu", "--num_processes", "1"], marks=pytest.mark.long),
    ],
)
def test_launcher_is_what_is_started_again(tmp_path: Path, name: str, options: list[str]) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    is_module = options[0] == "-m"
    command = [sys.executable, *options] if is_module else [tool(options[0]), *options[1:]]
    start = started(tmp_path, *command, "train.py", "--seed", "3", CUDA_VISIBLE_DEVICES="")
    tail = [*options, "train.py", "--seed", "3"] if is_module else [*command, "train.py", "--seed", "3"]
    assert start.argv[-len(tail) :] == tail
    assert start.launcher["name"] == name
    assert start.launcher["argv"] == start.argv
    assert start.launcher["cwd"] == str(tmp_path)
    # Those of the launcher: what it made for its workers would bind a second start to the first one's ports.
    assert "RANK" not in start.launcher["environment"]
    assert "MASTER_PORT" not in start.launcher["environment"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("/opt/bin/torchrun --nproc_per_node 2 train.py", "torchrun"),
        ("/v/bin/python3.11 /v/bin/torchrun train.py", "torchrun"),
        ("python -u -m torch.distributed.run train.py", "torchrun"),
        ("python -m torch.distributed.launch train.py", "torchrun"),
        ("/v/bin/python /v/bin/accelerate launch train.py", "accelerate"),
        ("accelerate-launch train.py", "accelerate"),
        ("python -m accelerate.commands.launch train.py", "accelerate"),
        ("accelerate config", ""),
        ("/v/bin/python /v/bin/deepspeed --num_gpus 1 train.py", "deepspeed"),
        ("python -u -m deepspeed.launcher.launch --world_info=x train.py", "deepspeed"),
        ("uv run train.py", "uv"), ("uv sync", ""),
        ("conda run -n x python train.py", "conda"), ("conda install x", ""),
        ("python train.py --note torchrun", ""), ("python", ""),
        ("bash -c torchrun", ""), ("vim torchrun", ""), ("", ""),
    ],
)  # fmt: skip
def test_launcher_is_known_by_its_command_line(line: str, name: str) -> None:
    assert launcher_of(line.split()) == name


class Processes:
    """A /proc made by hand. Each process: pid, parent, command line, environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def add(self, pid: int, parent: int, line: list[str], **environment: str) -> None:
        place = self.directory / str(pid)
        place.mkdir(parents=True)
        (place / "cmdline").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in line))
        (place / "stat").write_text(f"{pid} (a name) with) S {parent} 1 1")
        (place / "environ").write_bytes(b"".join(f"{k}={v}".encode() + b"\0" for k, v in environment.items()))
        (place / "cwd").symlink_to("/work")

    def told(self, pid: int, **environment: str) -> dict[str, object]:
        return recorded_launcher(environment, proc=str(self.directory), pid=pid)


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path / "proc")


def test_launcher_within_a_launcher_gives_the_outer_command(processes: Processes) -> None:
    processes.add(10, 1, ["bash"])
    processes.add(11, 10, ["uv", "run", "torchrun", "train.py", "--lr", "1"], CUDA_VISIBLE_DEVICES="1")
    processes.add(12, 11, ["/v/python", "/v/torchrun", "train.py", "--lr", "1"])
    processes.add(13, 12, ["/v/python", "-u", "train.py", "--lr", "1"], RANK="0", MASTER_PORT="1")
    told = processes.told(13, TORCHELASTIC_RUN_ID="x", RANK="0")
    assert told["name"] == "torchrun"
    assert told["argv"] == ["uv", "run", "torchrun", "train.py", "--lr", "1"]
    assert told["environment"] == {"CUDA_VISIBLE_DEVICES": "1"}


def test_launcher_of_another_script_is_not_of_this_one(processes: Processes) -> None:
    """A script that torchrun started starts a training of its own."""
    processes.add(12, 1, ["/v/python", "/v/torchrun", "sweep.py"])
    processes.add(13, 12, ["/v/python", "-u", "train.py"])
    assert processes.told(13, TORCHELASTIC_RUN_ID="x")["name"] == "python"


def test_conda_run_and_its_shell(processes: Processes) -> None:
    processes.add(11, 1, ["/c/python", "/c/bin/conda", "run", "-n", "x", "python", "train.py"])
    processes.add(12, 11, ["/bin/bash", "/tmp/tmp7r3k"])
    processes.add(13, 12, ["python", "train.py"])
    assert processes.told(13)["argv"] == ["/c/python", "/c/bin/conda", "run", "-n", "x", "python", "train.py"]


def test_spawned_process_tells_what_was_started(processes: Processes) -> None:
    processes.add(12, 1, ["python", "train.py", "--lr", "1"])
    processes.add(13, 12, ["python", "-c", "from multiprocessing.spawn import spawn_main", "--multiprocessing-fork"])
    assert processes.told(13)["argv"] == ["python", "train.py", "--lr", "1"]


def test_job_of_slurm_with_its_script(processes: Processes, tmp_path: Path) -> None:
    script = tmp_path / "job00012" / "slurm_script"
    script.parent.mkdir()
    script.write_text("#!/bin/bash\n#SBATCH --nodes=1\nmodule load x\npython train.py --lr $1\n")
    processes.add(10, 1, ["slurmstepd: [12.batch]"])
    processes.add(11, 10, ["/bin/bash", str(script), "3e-4"])
    processes.add(12, 11, ["timeout", "5", "python", "train.py"])
    processes.add(13, 12, ["python", "train.py", "--lr", "3e-4"], SLURM_JOB_ID="12", SECRET="x", OMP_NUM_THREADS="4")
    told = processes.told(13, SLURM_JOB_ID="12", SLURM_SUBMIT_DIR="/home/me")
    assert told["name"] == "sbatch"
    assert told["job"] == {"id": "12", "script": script.read_text(), "argv": ["3e-4"]}
    assert told["environment"] == {"SLURM_JOB_ID": "12", "SLURM_SUBMIT_DIR": "/home/me", "OMP_NUM_THREADS": "4"}
    # In a step of that job the script is not among the parents, and what it was given is not known.
    processes.add(20, 1, ["slurmstepd: [12.0]"])
    processes.add(21, 20, ["python", "train.py"])
    assert processes.told(21, SLURM_JOB_ID="12")["job"] == {"id": "12"}
    script.write_text("x" * 100_000)
    assert "script" not in processes.told(13, SLURM_JOB_ID="12")["job"], "the log stays small"  # type: ignore[operator]


def test_nothing_that_can_be_read_is_no_failure(tmp_path: Path) -> None:
    assert recorded_launcher({"SLURM_JOB_ID": "x" * 9, "RANK": "0"}, proc=str(tmp_path), pid=1)["name"] == "python"
    assert recorded_launcher(None, proc="\0") == {}


def test_it_takes_less_than_two_milliseconds() -> None:
    recorded_launcher()
    each_s: list[float] = []
    while not each_s or (each_s[-1] >= 0.002 and len(each_s) < 5):  # a core that is shared may be half as fast
        with cpu_time(time.thread_time) as took:
            for _ in range(20):
                recorded_launcher()
        each_s.append(took.seconds / 20)
    assert min(each_s) < 0.002


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_shell_of_a_script_is_not_a_launcher(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text(f"{sys.executable} train.py --lr 2; true\n")
    assert started(tmp_path, "bash", "run.sh").argv == [sys.executable, "train.py", "--lr", "2"]
