"""One life of a supervised training: never one that is not on record, and found again by its mark."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from ckpt_tui.process_identity import ProcessIdentity
from ckpt_tui.services.processes import look_at
from ckpt_tui.services.supervised_process import MARK, marked, start
from tests.builders.marked import end_marked
from tests.builders.shell import wait_for


def test_nothing_runs_that_is_not_on_record(tmp_path: Path) -> None:
    """Whoever is killed while it writes the record leaves a child that never becomes the training."""
    ran = tmp_path / "ran"
    pids = os.pipe()

    def die(process: ProcessIdentity) -> None:
        os.write(pids[1], str(process.pid).encode())
        os._exit(0)

    child = os.fork()
    if child == 0:
        try:
            start(
                ["touch", str(ran)],
                cwd=str(tmp_path),
                log_path=str(tmp_path / "x.log"),
                mark="m",
                environment={},
                record=die,
            )
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    pid = int(os.read(pids[0], 20))
    wait_for(lambda: look_at(pid) is None, "it stayed at the gate")  # a zombie, where nobody waits for orphans
    assert not ran.exists()
    for descriptor in pids:
        os.close(descriptor)


def test_a_start_that_cannot_be_recorded_starts_nothing(tmp_path: Path) -> None:
    def refuse(process: ProcessIdentity) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        start(["touch", str(tmp_path / "ran")], cwd=str(tmp_path), log_path=str(tmp_path / "x.log"), mark="m",
              environment={}, record=refuse)  # fmt: skip
    assert not (tmp_path / "ran").exists()


def test_its_processes_are_found_by_their_mark_whatever_became_of_their_parents(tmp_path: Path) -> None:
    mark = f"test-{os.getpid()}"
    training = start(
        ["bash", "-c", "setsid sleep 300 & exit 4"], cwd=str(tmp_path), log_path=str(tmp_path / "x.log"),
        mark=mark, environment=os.environ, record=lambda process: None,
    )  # fmt: skip
    try:
        wait_for(training.poll, "it did not end")
        assert training.exit_code == 4
        [left] = training.members()
        wait_for(lambda: MARK in psutil.Process(left).environ(), "it has none")  # nor had it while it became `sleep`
    finally:
        training.close()
        end_marked(mark)


def test_a_process_is_found_also_while_it_becomes_another_program(tmp_path: Path) -> None:
    """It has no environment then: it was missed in some of a hundred looks, and counted as ended."""
    again = tmp_path / "again.sh"
    again.write_text('#!/bin/sh\nexec "$0"\n')
    again.chmod(0o755)
    mark = f"test-again-{os.getpid()}"
    process = subprocess.Popen([again], env={**os.environ, MARK: mark})
    try:
        assert [list(marked(mark)) for _ in range(150)] == [[process.pid]] * 150
    finally:
        process.kill()
        process.wait()
    assert list(marked(mark)) == []
