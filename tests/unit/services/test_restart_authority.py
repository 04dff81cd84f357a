"""Who is in charge of restarts is told by the command and by where we run; memory kills by what counts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ckpt_tui.services.memory_kills import Counted, counted, memory_words
from ckpt_tui.services.restart_authority import Authority, in_charge, is_submission


def nobody_answers(command: Sequence[str]) -> str:
    return ""


def who(command: str = "python train.py", ask: object = nobody_answers, pid: int = 500, **environment: str) -> str:
    found = in_charge(command.split(), environment, pid=pid, parent=400, ask=ask)  # type: ignore[arg-type]
    return found.name if found is not None else ""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("torchrun --nproc_per_node 2 --max_restarts 3 train.py", "torchrun"),
        ("/venv/bin/torchrun --max-restarts=3 -m trainer --out x", "torchrun"),
        ("python -m torch.distributed.run --max_restarts=1 train.py", "torchrun"),
        ("accelerate launch --max_restarts 2 train.py", "accelerate"),
        ("torchrun --max_restarts 0 train.py", ""),
        ("torchrun --nproc_per_node 2 train.py", ""),
        ("torchrun train.py --max_restarts 3", ""),  # the script's own
        ("python train.py --max_restarts 3", ""),
        ("srun --requeue python train.py", "slurm"),
        ("python train.py --requeue", ""),
    ],
)
def test_by_the_command(command: str, name: str) -> None:
    assert who(command) == name


def test_by_the_environment() -> None:
    assert who("torchrun train.py", PET_MAX_RESTARTS="2") == "torchrun"
    assert who(PET_MAX_RESTARTS="2") == ""
    assert who(SLURM_JOB_ID="42") == ""
    assert who(SLURM_JOB_ID="42", SLURM_RESTART_COUNT="1") == "slurm"
    assert who(SLURM_JOB_ID="42", SBATCH_REQUEUE="1") == "slurm"
    assert who(SLURM_JOB_ID="42", ask=lambda command: f"JobId={command[3]}\n   Requeue=1 Restarts=0\n") == "slurm"
    assert who(SLURM_JOB_ID="42", ask=lambda command: "Requeue=0 Restarts=0") == ""
    assert who(KUBERNETES_SERVICE_HOST="10.0.0.1", pid=1) == "kubernetes"
    assert who(KUBERNETES_SERVICE_HOST="10.0.0.1") == ""  # came in by `kubectl exec`


def test_systemd_is_in_charge_only_of_its_own_main_process_with_a_restart_after_exit_codes() -> None:
    # The test's own process is in no unit that systemd started for it.
    assert who(SYSTEMD_EXEC_PID="1", pid=os.getpid()) == ""
    assert who(INVOCATION_ID="abc") == ""


def test_who_it_is_says_by_what() -> None:
    found = in_charge(["torchrun", "--max_restarts", "3", "train.py"], {}, ask=nobody_answers)
    assert found == Authority("torchrun", "--max_restarts 3 in its command")


def test_a_submission_is_no_training() -> None:
    assert is_submission(["sbatch", "job.sh"])
    assert not is_submission([sys.executable, "sbatch.py"])


def cgroup(root: Path, line: str, place: str, name: str, kills: int) -> tuple[str, str]:
    proc = root / "proc" / "self"
    proc.mkdir(parents=True, exist_ok=True)
    (proc / "cgroup").write_text(line)
    (root / "fs" / place).mkdir(parents=True, exist_ok=True)
    (root / "fs" / place / name).write_text(f"low 0\noom 4\noom_kill {kills}\n")
    return str(root / "fs"), str(root / "proc")


@pytest.mark.parametrize(
    ("line", "place", "name"),
    [("0::/job\n", "job", "memory.events"), ("5:memory:/job\n0::/\n", "memory/job", "memory.oom_control"),
     ("5:memory:/hidden/job\n", "memory", "memory.oom_control")],
)  # fmt: skip
def test_kills_are_counted_by_both_kinds_of_control_groups(tmp_path: Path, line: str, place: str, name: str) -> None:
    root, proc = cgroup(tmp_path, line, place, name, 2)
    before = counted(root=root, proc=proc)
    assert before.kills == 2
    cgroup(tmp_path, line, place, name, 3)
    now = counted(root=root, proc=proc)
    assert "counts 1 killed for memory" in memory_words(-9, before, now, (), "")
    assert memory_words(-11, before, now, (), "") == ""
    assert memory_words(-9, before, before, (), "") == ""
    assert memory_words(-9, Counted(None), now, (), "") == ""


def test_the_output_may_say_it_itself() -> None:
    said = memory_words(1, Counted(None), Counted(None), (), "torch.OutOfMemoryError: CUDA out of memory. Tried")
    assert said == "its output says CUDA out of memory"
    assert counted(proc="/nowhere") == Counted(None)
