"""Trainings on two processes over gloo: killed, signalled, restarted by torchrun, and exact all the same."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from ckpt_tui.services.launch import stop as stop_training
from tests.builders.held import Hold
from tests.builders.stand_ins import wait_for
from tests.trainer.conftest import REPO, Trainer
from tests.trainer.faults.nursery import Nursery
from tests.trainer.test_distributed import environments, free_port

# Dropout and accumulation on both ranks.
SHORT = ["--mini_batch_size", "1", "--max_steps", "60", "--checkpoint_freq", "20", "--eval_freq", "25"]


class Group:
    """Ranks of one training, forked of a warm process; through torchrun where it has to restart them."""

    def __init__(self, trainer: Trainer, nursery: Nursery) -> None:
        self.trainer = trainer
        self.nursery = nursery

    def start(self, out: Path, *options: str, hold: Hold | None = None) -> list[int]:
        """Two ranks; gives their pids. hold: of rank 0, which writes the log."""
        self.nursery.start_ranks(self.trainer.arguments(out, *SHORT, *options), environments(2), hold=hold)
        return self.nursery.pids

    def train(self, out: Path, *options: str) -> str:
        """To the end; gives what main says."""
        self.start(out, *options)
        first, second = self.nursery.finish_ranks()
        assert (first.code, second.code) == (0, 0), first.output + second.output
        assert second.output == ""
        return first.output

    def torchrun(self, out: Path, *options: str, hold: Hold | None = None) -> subprocess.Popen[str]:
        command = self.trainer.command(out, *SHORT, *options)[1:]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--max_restarts", "2"]
        return subprocess.Popen(
            [*launcher, "--master_port", str(free_port()), *command], cwd=REPO, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
            env={**(hold.environment if hold is not None else os.environ), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def group(trainer: Trainer, nursery: Nursery) -> Group:
    return Group(trainer, nursery)


@pytest.fixture(scope="module")
def undisturbed(group: Group, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of a run on two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    group.train(out)
    [start] = of(out, "run_start")
    assert start.world_size == 2
    assert [event.seq for event in events(out)] == list(range(1, len(events(out)) + 1)), "one process writes the log"
    return group.trainer.hash(out)


def events(out: Path) -> list[Event]:
    return [
        event for line in (out / "events.jsonl").read_bytes().splitlines() if isinstance(event := decode(line), Event)
    ]


def of(out: Path, name: str) -> list[Event]:
    return [event for event in events(out) if event.name == name]


def wait_for_step(out: Path, step: int, session: int = 1) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (out / "events.jsonl").exists():
            steps = [event for event in of(out, "step") if event.session >= session]
            if steps and steps[-1].step >= step:
                return
        time.sleep(0.02)
    raise AssertionError(f"step {step} did not come")


def end_all(launcher: subprocess.Popen[str]) -> None:
    """The launcher and what it started."""
    if launcher.poll() is None:
        for process in psutil.Process(launcher.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    launcher.kill()
    launcher.communicate()


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = next((int(v.partition(b"=")[2]) for v in variables if v.startswith(b"RANK=")), None)
        if rank is not None:
            found[rank] = pid
    return [found[rank] for rank in sorted(found)]


def test_killed_on_two_processes_it_resumes_exactly(group: Group, undisturbed: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    hold = Hold(tmp_path, "step 30")
    pids = group.start(out, hold=hold)
    hold.wait()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert all(rank.was_killed for rank in group.nursery.finish_ranks())
    told = group.train(out, "--resume", "auto")
    assert "resumed from step " in told
    assert "not exact" not in told
    assert group.trainer.hash(out) == undisturbed
    # On another number of processes it goes on, and says that this is not the same to the bit.
    alone = group.trainer.run(out, *SHORT, "--resume", "rolling_step_000040.pt", "--max_steps", "50")
    assert alone.code == 0, alone.output
    assert "saved by 2 processes, resumed by 1: the resume is not exact to the bit" in alone.output


def test_torchrun_restarts_after_a_rank_was_killed(group: Group, undisturbed: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    hold = Hold(tmp_path, "step 30")
    launcher = group.torchrun(out, hold=hold)
    try:
        hold.wait()
        os.kill(ranks_of(launcher)[1], signal.SIGKILL)
        hold.go_on()
        output, _ = launcher.communicate(timeout=300)
    finally:
        end_all(launcher)
    assert launcher.returncode == 0, output
    assert group.trainer.hash(out) == undisturbed
    assert len(of(out, "run_start")) == 2
    assert of(out, "run_start")[1].resumed_from["path"]
    [error] = of(out, "error")
    assert error.message.startswith(
        f"lost at step {error.step}: rank 1 is gone: its process ended at step {error.step}"
    )
    assert of(out, "run_end")[0].status == "failed"
    # The viewer starts it again as it was started.
    assert of(out, "run_start")[1].argv[1:5] == ["-m", "torch.distributed.run", "--nproc_per_node", "2"]


@pytest.mark.long
def test_a_signal_to_one_rank_stops_all_with_one_save(group: Group, undisturbed: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    hold = Hold(tmp_path, "step 10")
    pids = group.start(out, hold=hold)
    hold.wait()
    os.kill(pids[1], signal.SIGTERM)
    hold.go_on()
    ended = group.nursery.finish_ranks()
    assert [rank.code for rank in ended] == [143, 143], ended
    assert [event.kind for event in of(out, "checkpoint_saved")].count("emergency") == 1
    assert of(out, "run_end")[-1].status == "preempted"
    group.train(out, "--resume", "auto")
    assert group.trainer.hash(out) == undisturbed


# One rank in trouble: WHAT FIRST LAST RANK|all -- ARGUMENTS, from batch FIRST to LAST.
TROUBLED = """
import math, sys, time
import trainer.step
from trainer.__main__ import main
what, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
taken = -1
take, loss = trainer.step.Stepper.take, trainer.step.Stepper.loss
def counted(stepper, *arguments):
    global taken
    taken += 1
    return take(stepper, *arguments)
def troubled(stepper, *batch):
    if stepper.network.training and sys.argv[4] in ("all", str(stepper.world.rank)) and first <= taken <= last:
        if what == "raise":
            raise RuntimeError("CUDA out of memory")
        if what == "hang":
            time.sleep(1000)
        return loss(stepper, *batch) * math.nan
    return loss(stepper, *batch)
trainer.step.Stepper.take, trainer.step.Stepper.loss = counted, troubled
sys.exit(main(sys.argv[6:]))
"""


def troubled(
    group: Group, out: Path, what: str, first: int, last: int, who: str, *options: str
) -> list[tuple[int, str]]:
    arguments = group.trainer.arguments(out, *SHORT, *options)
    group.nursery.start_ranks([what, str(first), str(last), who, "--", *arguments], environments(2), code=TROUBLED)
    return [(rank.code, rank.output) for rank in group.nursery.finish_ranks()]


def test_what_is_not_finite_on_one_rank_is_skipped_and_rolled_back_on_all(group: Group, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = troubled(group, out, "nan", 29, 31, "1", "--max_nonfinite", "3", "--max_rollbacks", "1")
    assert [code for code, _ in done] == [0, 0], done
    told = of(out, "nonfinite")
    assert [(event.step, event.action) for event in told[:3]] == [(30, "skipped"), (31, "skipped"), (32, "skipped")]
    assert told[3].action.startswith("rolled back to "), told[3]
    assert of(out, "run_end")[-1].status == "finished"


@pytest.mark.long
def test_a_rank_that_hangs_in_a_step_is_named_and_ends_itself(group: Group, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = troubled(group, out, "hang", 9, 9, "1", "--timeout_seconds", "8")
    assert [code for code, _ in done] == [1, 1], done
    [error] = of(out, "error")
    assert "rank 1 hangs (it is alive, and did not come) at step 9" in error.message
    assert of(out, "run_end")[-1].status == "failed"
    assert "rank 1: lost at step 9" in done[1][1], "it ended itself"


@pytest.mark.long
@pytest.mark.parametrize("who", ["1", "all"])
def test_an_error_of_one_rank_ends_all_and_a_resume_is_exact(
    who: str, group: Group, undisturbed: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = troubled(group, out, "raise", 29, 29, who)
    assert [code for code, _ in done] == [1, 1], done
    named = "rank 1 failed (RuntimeError: CUDA out of memory) at step 29" if who == "1" else "CUDA out of memory"
    assert any(named in error.message for error in of(out, "error"))
    assert "CUDA out of memory" in done[1][1]
    # Nothing is lost: each rank left its random numbers for main's save.
    saved = of(out, "checkpoint_saved")[-1]
    assert (saved.kind, saved.step) == ("emergency", 29)
    group.train(out, "--resume", "auto")
    assert group.trainer.hash(out) == undisturbed


@pytest.mark.long
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "preempted")])
def test_a_signal_to_torchrun_saves_before_it_ends(
    stop: signal.Signals, status: str, group: Group, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    launcher = group.torchrun(out, "--max_steps", "5000")
    try:
        wait_for_step(out, 10)
        launcher.send_signal(stop)
        output, _ = launcher.communicate(timeout=300)
    finally:
        end_all(launcher)
    assert launcher.returncode == 1, output
    assert [event.status for event in of(out, "run_end")] == [status], output
    assert [event.kind for event in of(out, "checkpoint_saved")].count("emergency") == 1


@pytest.mark.long
def test_the_viewer_stops_what_torchrun_would_start_again(group: Group, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launcher = group.torchrun(out, "--max_steps", "5000")
    waiter = threading.Thread(target=launcher.communicate)
    try:
        wait_for_step(out, 10)
        waiter.start()
        assert stop_training(str(out), timeout_s=300).has_ended
        waiter.join(300)
    finally:
        end_all(launcher)
    assert launcher.returncode == 1
    assert [event.status for event in of(out, "run_end")] == ["preempted"]


@pytest.mark.long
def test_what_outlives_its_torchrun_keeps_the_directory_until_it_is_stopped(group: Group, tmp_path: Path) -> None:
    out = tmp_path / "run"
    launcher = group.torchrun(out, "--max_steps", "100000", "--checkpoint_freq", "500")
    try:
        wait_for_step(out, 10)
        pids = ranks_of(launcher)
        launcher.kill()
        launcher.wait()
        wait_for_step(out, of(out, "step")[-1].step + 100)
        second = group.torchrun(out, "--resume", "auto")
        output, _ = second.communicate(timeout=300)
        assert second.returncode == 1
        assert f"Another process trains in {out} (process {pids[0]}" in output
    finally:
        assert stop_training(str(out), timeout_s=300).has_ended
    assert of(out, "run_end")[-1].status == "preempted"
    assert len(of(out, "run_start")) == 1


@pytest.mark.long
def test_a_hanging_rank_ends_all_and_is_named(group: Group, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pids = group.start(out, "--max_steps", "5000", "--timeout_seconds", "8")
    wait_for_step(out, 10)
    os.kill(pids[1], signal.SIGSTOP)
    wait_for(lambda: bool(of(out, "run_end")), "it did not end", timeout_s=300)
    os.kill(pids[1], signal.SIGKILL)
    first, _ = group.nursery.finish_ranks()
    assert first.code == 1
    [error] = of(out, "error")
    assert f"rank 1 hangs: it is stopped at step {error.step}" in error.message
    assert error.message in first.output


@pytest.mark.long
def test_what_main_refuses_is_told_once(group: Group, undisturbed: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / "latest.pt").mkdir(parents=True)
    group.start(out, "--resume", "nothing.pt")
    first, second = group.nursery.finish_ranks()
    assert (first.code, second.code) == (2, 2), first
    assert "--resume nothing.pt" in first.output
    assert second.output == ""


@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--parallel", "fsdp", "--checkpoint_format", "dcp"]], ids=["ddp", "fsdp-dcp"])
def test_ranks_killed_at_random_times_cost_no_exactness(options: list[str], group: Group, tmp_path: Path) -> None:
    """Saves are in flight all the time; torchrun starts the group anew after each kill."""
    often = [*options, "--checkpoint_freq", "3", "--log_freq", "1"]
    group.train(tmp_path / "straight", *often)
    out = tmp_path / "run"
    chance = random.Random(7)
    launcher = group.torchrun(out, *often)
    try:
        for session in (1, 2):
            wait_for_step(out, 25 * session - chance.randrange(20), session)
            time.sleep(chance.random() / 10)
            os.kill(ranks_of(launcher)[chance.randrange(2)], signal.SIGKILL)
        output, _ = launcher.communicate(timeout=300)
    finally:
        end_all(launcher)
    assert launcher.returncode == 0, output
    assert [event.session for event in of(out, "run_start")] == [1, 2, 3]
    assert not list(out.glob(".tmp-*"))
    assert group.trainer.hash(out) == group.trainer.hash(tmp_path / "straight")
