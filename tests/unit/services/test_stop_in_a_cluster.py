"""A training on another host, in a job of Slurm: asked through the cluster, with programs that answer as Slurm's."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services import slurm
from ckpt_tui.services.launch import start
from ckpt_tui.services.slurm import Job, recorded_job
from ckpt_tui.services.stop_plan import plan_stop
from ckpt_tui.services.stopping import kill, stop
from tests.builders.stand_ins import IGNORES, SAVES, StandIn

ELSEWHERE = "import socket\nsocket.gethostname = lambda: 'node-7'\n"


class Cluster:
    """One job, whose process is known to `scancel`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program("squeue", f"cat {folder}/state 2> /dev/null; true")
        self.program(
            "scancel",
            f"cd {folder}\n"
            'echo "$*" >> asked\n'
            "if [ ! -s pid ]; then [ $# -gt 1 ] || : > state; exit 0; fi\n"
            'case "$*" in\n'
            "*KILL*) kill -KILL $(cat pid); : > state;;\n"
            "*) kill -TERM $(cat pid);;\n"
            "esac",
        )

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.folder / name).chmod(0o755)

    def runs(self, pid: int | None, state: str = "RUNNING") -> None:
        (self.folder / "pid").write_text(str(pid or ""))
        (self.folder / "state").write_text(f"{state}\n")

    def was_asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    (tmp_path / "programs").mkdir()
    monkeypatch.setattr(slurm, "_PATIENCE_S", 300.0)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    return Cluster(tmp_path / "programs")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StandIn]:
    """A trainer on a node of the cluster, in step 0 of job 4711."""
    environment = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}
    one = StandIn(ELSEWHERE + SAVES, tmp_path / "run", environment=environment)
    threading.Thread(target=one.process.wait, daemon=True).start()
    yield one
    one.end()


def test_training_on_a_node_is_asked_through_its_job(tmp_path: Path, cluster: Cluster, node: StandIn) -> None:
    cluster.runs(node.pid)
    plan = plan_stop(str(tmp_path / "run"))
    assert (plan.host, plan.pid, plan.job, plan.targets) == ("node-7", node.pid, "4711", ())
    assert plan.command == ("scancel", "--signal=TERM", "4711.0")
    assert plan.refusals == ()
    assert plan.saves is True, "its lock is held, on this mount"
    stopped = stop(str(tmp_path / "run"), 300, plan=plan)
    assert (stopped.has_ended, stopped.saved_step, stopped.lost_steps) == (True, 7, 0)
    assert cluster.was_asked() == ["--signal=TERM 4711.0"]


def test_it_is_not_asked_twice(tmp_path: Path, cluster: Cluster, node: StandIn) -> None:
    cluster.runs(None)  # the signal goes astray: it never comes
    assert not stop(str(tmp_path / "run"), 0.05).has_ended
    assert plan_stop(str(tmp_path / "run")).asked_at is not None
    assert not stop(str(tmp_path / "run"), 0.05).has_ended
    assert cluster.was_asked() == ["--signal=TERM 4711.0"]


def test_without_the_clusters_programs_it_is_told_what_to_do(
    tmp_path: Path, node: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["stop", str(tmp_path / "run"), "--yes"]) == 2
    said = capsys.readouterr().err
    assert "node-7" in said
    assert "scancel --signal=TERM 4711.0" in said


def test_a_cluster_that_says_no_is_told(tmp_path: Path, cluster: Cluster, node: StandIn) -> None:
    cluster.runs(node.pid)
    cluster.program("scancel", "echo 'scancel: error: Access\033[31m denied' >&2; exit 1")
    with pytest.raises(CkptError, match="says no") as caught:
        stop(str(tmp_path / "run"), 300)
    assert "Access" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert plan_stop(str(tmp_path / "run")).asked_at is None, "it was not asked"


def test_killing_one_in_a_job(tmp_path: Path, cluster: Cluster) -> None:
    node = StandIn(ELSEWHERE + IGNORES, tmp_path / "run", environment={"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"})
    threading.Thread(target=node.process.wait, daemon=True).start()
    cluster.runs(node.pid)
    plan = plan_stop(str(tmp_path / "run"))
    assert plan.saves is None
    assert not stop(str(tmp_path / "run"), 0.05, plan=plan).has_ended
    stopped = kill(str(tmp_path / "run"), plan=plan)
    assert (stopped.has_ended, stopped.was_killed, stopped.lost_steps) == (True, True, 3)
    assert cluster.was_asked()[-1] == "--signal=KILL --full 4711"
    node.end()


def test_job_that_waits_is_taken_out_of_the_queue_and_keeps_a_second_one_away(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.runs(None, "PENDING")
    directory = tmp_path / "run"
    directory.mkdir()
    assert start(str(directory), ["echo", "Submitted batch job 12"], cwd=str(tmp_path), wait_s=300.0).job == "12"
    with pytest.raises(CkptError, match="in the queue already"):
        start(str(directory), ["echo", "Submitted batch job 13"], cwd=str(tmp_path))
    assert main(["stop", str(directory), "--yes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["job"], data["command"], data["done"]) == ("12", ["scancel", "12"], True)
    assert data["sentences"] == ["Job 12 is taken out of the cluster's queue."]
    with pytest.raises(CkptError, match="Not running"):
        plan_stop(str(directory))


@pytest.mark.parametrize(
    ("launcher", "command"),
    [
        ({"job": {"id": "5"}, "environment": {"SLURM_STEP_ID": "2"}}, "scancel --signal=TERM 5.2"),
        ({"job": {"id": "5"}, "environment": {"SLURM_STEP_ID": "4294967291"}}, "scancel --signal=TERM --full 5"),
        ({"job": {"id": "5"}}, "scancel --signal=TERM --full 5"),
        ({"environment": {"SLURM_JOB_ID": "6"}}, "scancel --signal=TERM --full 6"),
        ({"job": {"id": "5; rm -rf /"}}, None),
        ({"job": 3, "environment": []}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_which_part_of_a_job_gets_the_signal(launcher: dict[str, object], command: str | None) -> None:
    job = recorded_job(launcher)
    assert (job and " ".join(job.signal_command("TERM"))) == command


def test_step_is_named_where_it_is_known() -> None:
    assert Job("1", "0").signal_command("KILL") == ("scancel", "--signal=KILL", "1.0")
