"""Started detached through a launcher, and stopped: it saves, ends, is not started anew, and no process is left."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ckpt_tui.services.launch import Launched, start
from ckpt_tui.services.processes import descendants, send
from ckpt_tui.services.stop_plan import plan_stop
from ckpt_tui.services.stopping import kill, stop
from tests.builders.stand_ins import wait_for
from tests.trainer.conftest import REPO, Trainer
from tests.trainer.test_distributed import free_port

LONG = ["--max_steps", "1000000", "--checkpoint_freq", "20", "--eval_freq", "100000"]
FRAMEWORKS = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "HF_HUB_OFFLINE": "1"}


def launcher(name: str) -> list[str]:
    if name == "torchrun":
        return [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max_restarts", "3",
            "--master_port", str(free_port()),
        ]  # fmt: skip
    if name == "accelerate":
        pytest.importorskip("accelerate")
        return [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    return [] if name == "python" else ["bash", "-c", '"$@"; exit $?', "bash"]


@pytest.fixture
def launched(request: pytest.FixtureRequest, trainer: Trainer, tmp_path: Path) -> Iterator[Launched]:
    command = trainer.command(tmp_path / "run", *LONG)
    words = launcher(request.param)
    # torchrun and accelerate start the interpreter themselves.
    command = [*words, *(command[1:] if request.param in ("torchrun", "accelerate") else command)]
    (tmp_path / "run").mkdir()
    one = start(str(tmp_path / "run"), command, cwd=str(REPO), wait_s=300.0, environment=FRAMEWORKS)
    below = descendants(one.pid)
    yield one
    for process in [one.process, *below]:
        send(process, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.long
@pytest.mark.parametrize("launched", ["python", "bash", "torchrun", "accelerate"], indirect=True)
def test_stopped_through_its_launcher_it_saves_and_is_over(launched: Launched, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert launched.stage == "stepping", (directory / "session_1.log").read_text()
    below = [process.pid for process in descendants(launched.pid)]
    plan = plan_stop(str(directory))
    assert (plan.told_by, plan.saves) == ("trainer.lock", True)
    [target] = plan.targets
    is_torchrun = target.pid == launched.pid and bool(below)
    assert target.role == ("torchrun" if is_torchrun else "training")
    stopped = stop(str(directory), 300, plan=plan)
    assert stopped.has_ended, stopped
    assert (stopped.lost_steps, stopped.saved_step) == (0, stopped.step), stopped
    assert stopped.saved.startswith("emergency_")
    assert all(is_gone(pid) for pid in (launched.pid, *below))
    assert (directory / "events.jsonl").read_text().count('"run_start"') == 1, "started once"


@pytest.mark.long
@pytest.mark.parametrize("launched", ["torchrun"], indirect=True)
def test_killed_it_is_not_started_anew(launched: Launched, tmp_path: Path) -> None:
    below = [process.pid for process in descendants(launched.pid)]
    assert len(below) >= 2
    stopped = kill(str(tmp_path / "run"))
    assert (stopped.has_ended, stopped.was_killed) == (True, True)
    assert all(is_gone(pid) for pid in (launched.pid, *below))
    assert (tmp_path / "run" / "events.jsonl").read_text().count('"run_start"') == 1


# Endless, with or without our callback.
HUGGING_FACE = """
import sys
from pathlib import Path
from tests.trainer.test_huggingface import make
trainer, callback = make(Path(sys.argv[1]), max_steps=10**6, eval_strategy="no", save_steps=10)
if sys.argv[2] == "callback":
    callback.train(trainer)
else:
    trainer.remove_callback(callback)
    trainer.train()
"""


@pytest.mark.long
@pytest.mark.parametrize("which", ["callback", "alone"])
def test_hugging_face_trainer_is_stopped(tmp_path: Path, which: str) -> None:
    pytest.importorskip("transformers")
    directory = tmp_path / "run"
    directory.mkdir()
    command = [sys.executable, "-c", HUGGING_FACE, str(directory), which]
    launched = start(
        str(directory), command, cwd=str(REPO), wait_s=300.0 if which == "callback" else 0.0, environment=FRAMEWORKS
    )
    wait_for(lambda: any(directory.glob("checkpoint-*/trainer_state.json")), "a checkpoint", timeout_s=300)
    plan = plan_stop(str(directory))
    assert plan.pid == launched.pid
    assert plan.saves is (which == "callback"), plan
    assert bool(plan.warnings) is (which == "alone")
    stopped = stop(str(directory), 300, plan=plan)
    assert stopped.has_ended
    if which == "callback":
        assert (stopped.saved, stopped.lost_steps) == (f"checkpoint-{stopped.step}", 0), stopped
    else:
        assert plan.warnings[0].startswith("It does not catch SIGTERM: it ends at once, unsaved")
        assert stopped.saved == ""
