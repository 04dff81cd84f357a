"""Trainers by the hundred: a process that has torch loaded forks one for each line that it reads, and kills it in time.

A fresh `python -m trainer` needs two seconds before it does anything; a fork of this process a few hundredths. What it
runs is the same `main`. Used by `Nursery`; run as a script by it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.builders.crashing import CHANGING, LOOKING, failing_at
from tests.builders.held import Hold, hold_here

REPO = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ended:
    """code: as of Popen.returncode. cpu_seconds: that it used. output: what it printed."""

    code: int
    cpu_seconds: float
    output: str

    @property
    def num_operations(self) -> int:
        """What a run with `fail_at` told last."""
        return int(self.output.splitlines()[-1].split()[0])

    @property
    def was_killed(self) -> bool:
        return self.code in (-signal.SIGKILL, -signal.SIGPROF)


class Nursery:
    """The other end of the pipe."""

    def __init__(self, scratch: Path) -> None:
        self._output = scratch / "output"
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pid = 0  # of the trainer that runs

    def run(self, argv: Sequence[str], kill_after_cpu_s: float | None = None, **limits: int) -> Ended:
        """A trainer with these arguments, to its end or until it is killed."""
        self.start(argv, kill_after_cpu_s, **limits)
        return self.finish()

    def start(
        self, argv: Sequence[str], kill_after_cpu_s: float | None = None, hold: Hold | None = None, **limits: int
    ) -> None:
        """One at a time; `finish` waits for it.

        kill_after_cpu_s: by the kernel, once it has used so much: where it is by then does not hang on what else runs.
        hold: where it stops until it is told to go on.
        limits: user (its number), file_bytes (of any one file), clock (a seed: the time of day jumps by years from call
        to call), fail_at, error and forever: as of `failing_at`, of the operations below --out; num_operations of what
        ended tells how many there were.
        """
        self.end_what_runs()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._output.write_text("")
        told = {"kill_after_cpu_s": kill_after_cpu_s, "hold": hold.told if hold is not None else None, **limits}
        self._process.stdin.write(json.dumps([list(argv), str(self._output), told]) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())

    def finish(self) -> Ended:
        assert self._process.stdout is not None
        code, cpu_seconds = json.loads(self._process.stdout.readline())
        self.pid = 0
        return Ended(code, cpu_seconds, self._output.read_text())

    def close(self) -> None:
        self.end_what_runs()
        self._process.kill()
        self._process.communicate()

    def end_what_runs(self) -> None:
        """After a test that failed before it waited for its trainer's end."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.finish()


def _train(argv: list[str], output: str, limits: dict[str, Any]) -> None:
    """In the child."""
    from trainer.__main__ import main

    if limits["hold"] is not None:
        hold_here(limits["hold"])

    if "file_bytes" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if "user" in limits:
        os.setgroups([])
        os.setgid(limits["user"])
        os.setuid(limits["user"])
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["trainer", *argv]
    if limits["kill_after_cpu_s"] is not None:  # to the kernel, SIGPROF is as SIGKILL where nobody handles it
        signal.setitimer(signal.ITIMER_PROF, max(limits["kill_after_cpu_s"], 1e-6))
    if "clock" in limits:
        _unhinge_the_clock(limits["clock"])
    code = 1
    try:
        if "fail_at" not in limits:
            code = main(argv)
        else:
            error = OSError(limits["error"], os.strerror(limits["error"]))
            which: dict[str, Any] = {"calls_of": CHANGING + LOOKING, "within": argv[argv.index("--out") + 1]}
            with failing_at(limits["fail_at"], error, forever=bool(limits["forever"]), **which) as calls:
                code = main(argv)
            print(f"{len(calls)} operations", flush=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  as the interpreter does at its end
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _unhinge_the_clock(seed: int) -> None:
    """The time of day is anything between 1970 and 2100, at each look; the clock that only goes on is as it was."""
    rng, strftime = random.Random(seed), time.strftime
    time.time = lambda: rng.uniform(1.0, 4.1e9)
    time.strftime = lambda form, at=None: strftime(form, time.gmtime(time.time()) if at is None else at)  # type: ignore[misc]


def _warm_up() -> None:
    """Train a step here: torch loads half of itself only when it is used, and no child should do that again."""
    from trainer.__main__ import main

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        corpus = Path(scratch) / "corpus.txt"
        corpus.write_text("warm up " * 100)
        code = main(
            ["--out", f"{scratch}/run", "--data", str(corpus), "--n_layer", "1", "--n_head", "1", "--n_embd", "8",
             "--block_size", "8", "--batch_size", "2", "--max_steps", "1", "--threads", "1"]
        )  # fmt: skip
        assert code == 0


def _serve() -> None:
    _warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        argv, output, limits = json.loads(line)
        child = os.fork()
        if child == 0:
            _train(argv, output, limits)
        print(child, flush=True)
        _, status, used = os.wait4(child, 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)


if __name__ == "__main__":
    _serve()
