"""Trainers by the hundred: a process that has torch loaded forks one, or all ranks of one, for each line that it reads.

A fresh `python -m trainer` needs two seconds before it does anything; a fork of this process a few hundredths. What it
runs is the same `main`. Used by `Nursery`; run as a script by it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
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
    """The other end of the pipe. pids: of what runs. It is all waited for, by `finish`, before the next is started."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._outputs: list[Path] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.pids: list[int] = []

    @property
    def pid(self) -> int:
        return self.pids[0]

    def load(self, *modules: str) -> None:
        """Import them once, for all that is started from now on."""
        self._ask({"load": modules})

    def run(self, argv: Sequence[str], kill_after_cpu_s: float | None = None, **limits: int) -> Ended:
        """A trainer with these arguments, to its end or until it is killed."""
        self.start(argv, kill_after_cpu_s, **limits)
        return self.finish()

    def start(
        self, argv: Sequence[str], kill_after_cpu_s: float | None = None, hold: Hold | None = None, **limits: int
    ) -> None:
        """kill_after_cpu_s: by the kernel, once it has used so much: where it is then does not hang on what else runs.
        hold: where it stops until it is told to go on.
        limits: user (its number), file_bytes (of any one file), clock (a seed: the time of day jumps by years from call
        to call), fail_at, error and forever: as of `failing_at`, of the operations below --out; num_operations of what
        ended tells how many there were.
        """
        self._start([{"argv": list(argv), "kill_after_cpu_s": kill_after_cpu_s, **_told(hold), **limits}])

    def start_ranks(
        self,
        argv: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        *,
        code: str = "",
        hold: Hold | None = None,
    ) -> None:
        """One process for each environment. code: a program in place of the trainer's. hold: of the first one."""
        self._start(
            [
                {"argv": list(argv), "environment": dict(environment), "code": code, **_told(None if rank else hold)}
                for rank, environment in enumerate(environments)
            ]
        )

    def finish(self) -> Ended:
        """Of the first one."""
        return self.finish_ranks()[0]

    def finish_ranks(self) -> list[Ended]:
        assert self._process.stdout is not None
        ends = json.loads(self._process.stdout.readline())
        self.pids = []
        return [Ended(*end, output.read_text()) for end, output in zip(ends, self._outputs, strict=True)]

    def _start(self, children: list[dict[str, Any]]) -> None:
        self.end_what_runs()
        self._outputs = [self._scratch / f"output-{number}" for number in range(len(children))]
        for child, output in zip(children, self._outputs, strict=True):
            output.write_text("")
            child["output"] = str(output)
        self.pids = self._ask({"start": children})

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self.end_what_runs()
        self._process.kill()
        self._process.communicate()

    def end_what_runs(self) -> None:
        """After a test that failed before it waited for its trainer's end."""
        if self.pids:
            for pid in self.pids:
                if _parent_of(pid) == self._process.pid:  # else it has ended
                    os.kill(pid, signal.SIGKILL)
            self.finish_ranks()


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except FileNotFoundError:
        return 0


def _told(hold: Hold | None) -> dict[str, str]:
    return {"hold": hold.told} if hold is not None else {}


def _train(argv: list[str], output: str, limits: dict[str, Any]) -> None:
    """In the child."""
    from trainer.__main__ import main

    os.environ.update(limits.get("environment", {}))
    if "hold" in limits:
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
    if limits.get("kill_after_cpu_s") is not None:  # to the kernel, SIGPROF is as SIGKILL where nobody handles it
        signal.setitimer(signal.ITIMER_PROF, max(limits["kill_after_cpu_s"], 1e-6))
    if "clock" in limits:
        _unhinge_the_clock(limits["clock"])
    code = 1
    try:
        if limits.get("code"):
            exec(compile(limits["code"], "<a test>", "exec"), {"__name__": "__main__"})
            code = 0
        elif "fail_at" not in limits:
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
        request = json.loads(line)
        for module in request.get("load", ()):
            importlib.import_module(module)
        pids = []
        for child in request.get("start", ()):
            pid = os.fork()
            if pid == 0:
                _train(child["argv"], child["output"], child)
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        if pids:
            for pid in pids:  # until all have ended, each keeps its number
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            ended = [os.wait4(pid, 0) for pid in pids]
            ends = [(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime) for _, status, used in ended]
            print(json.dumps(ends), flush=True)


if __name__ == "__main__":
    _serve()
