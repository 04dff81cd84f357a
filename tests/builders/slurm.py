"""A real Slurm of one node, of this test alone: its own keys, sockets, ports and directories, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel")
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
NodeName={host} CPUs=2 State=UNKNOWN
PartitionName=short Nodes={host} Default=YES MaxTime=10 State=UP
"""


def is_installed() -> bool:
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Gives the environment in which Slurm's commands speak to it."""
    place = Path(tempfile.mkdtemp(prefix="slurm-"))
    for name in ("state", "spool"):
        (place / name).mkdir()
    (place / "munge.key").write_bytes(os.urandom(1024))
    (place / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (place / "slurm.conf").write_text(_CONFIG.format(host=host, place=place, ports=[_free_port(), _free_port()]))
    environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf")}
    daemons = [
        ["munged", "-F", "-f", f"--key-file={place}/munge.key", f"--socket={place}/munge.socket",
         f"--pid-file={place}/munge.pid", f"--log-file={place}/munge.log", f"--seed-file={place}/munge.seed"],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    ]  # fmt: skip
    running = []
    try:
        for daemon in daemons:
            running.append(
                subprocess.Popen(daemon, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            if daemon[0] == "munged":
                _wait(lambda: (place / "munge.socket").exists(), "munged did not come up")
        _wait(lambda: "idle" in _said(["sinfo", "-h", "-o", "%T"], environment), "the node did not come up")
        yield environment
        _said(["scancel", "-u", "root"], environment)
        _wait(lambda: not _said(["squeue", "-h"], environment).strip(), "jobs did not end")
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False).stdout


def _wait(condition: object, what: str, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
