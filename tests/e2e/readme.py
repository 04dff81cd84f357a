"""Runs the README's console blocks for real and compares what comes out with what the README shows.

A block is fenced as ```console; a line that begins with `$ ` is a command, the lines under it are its output. All
blocks run in order in one directory, with this interpreter's scripts first on the PATH. A comment before a block
says what to wait for: `<!-- wait: step 300 checkpoints -->`, or `<!-- exit: 1 -->` for a command that ends so.

Numbers, sizes, durations and bars differ from run to run and are masked on both sides; words and layout are not.
`python -m tests.e2e.readme --write` puts the real output into the README.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.builders.shell import process_state

README = Path(__file__).parents[2] / "README.md"

_BLOCK = re.compile(r"(?P<notes>(?:<!-- \w+: [^\n]* -->\n)*)```console\n(?P<body>.*?)```\n", re.DOTALL)
_NOTE = re.compile(r"<!-- (\w+): ([^\n]*) -->")

_MASKS = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    # Names of tensors and values: which come first, and where they are cut, differs.
    (re.compile(r"…?\w+(\.\w+){2,}|…[\w.]+"), "NAME"),
    # ... also in the tables of modules and of moments.
    (re.compile(r"^ +[\w.…]+(?= +\d[\d,]* of \d[\d,]* )"), "  NAME"),
    (re.compile(r"^ +[\w.…]+: (exp_avg(_sq)?|step)(?= )"), "  NAME"),
    (re.compile(r"\b\d{4}-\d\d-\d\d\b"), "DATE"),
    (re.compile(r"\b\d\d:\d\d(:\d\d)?\b"), "TIME"),
    (re.compile(r"[▁▂▃▄▅▆▇█▏▎▍▌▋▊▉━╸╺─■▒░▓□]{2,}"), "BAR"),
    (re.compile(r"[▏▎▍▌▋▊▉█]"), "BAR"),
    (re.compile(r"-?\b\d[\d,]*(\.\d+)? ?(ms|s|m|h|d|us)\b( \d+(m|h|s)\b)?"), "SPAN"),
    (re.compile(r"-?\b\d[\d,]*(\.\d+)? ?(B|kB|MB|GB|TB)(/s)?\b"), "SIZE"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "HEX"),
    (re.compile(r"-?\b\d[\d,]*(\.\d+)?(e-?\d+)?[kMB]?\b"), "N"),
    # One step or six of them: it depends on where the training stood.
    (re.compile(r"(?<=\bN )([a-z]{3,})s\b"), r"\1"),
    (re.compile(r"(?<=_)\d+"), "N"),
    (re.compile(r"\s+"), " "),
    # A row of a table of two values: which values differ depends on where the training stood.
    (re.compile(r"^ ?(NAME|\w+\.\w+)( (N|True|False)){2} ?$"), "NAME N N"),
    # Lists of files break at other places; a sentence that names one file keeps it.
    (re.compile(r"(\S+\.pt, ?)+\S+\.pt\b\.?( and N more\.)?"), "FILES "),
)


# What a long act says while it is at work: how much of it is seen depends on how quick the machine is.
_PROGRESS = re.compile(r"^ *(\d+m \d\ds|\d[\d.]* m?s)  \S")
# Said where the steps that were trained again took longer than nothing, which is a matter of chance.
_BY_CHANCE = re.compile(r"^Training again what they lost took ")
_BROKEN_LIST = re.compile(r"(\.pt,|\.pt|\.pt and|\.pt and \d+)\n\s+(?=\S+\.pt\b|and \d|\d+ more|more\.)")


@dataclass(slots=True)
class Step:
    """One command of the README with the output shown under it."""

    command: str
    shown: list[str]
    exit_code: int = 0
    wait: str = ""
    printed: list[str] = field(default_factory=list)


def parse(readme: str) -> list[list[Step]]:
    """The console blocks, in order."""
    blocks = []
    for match in _BLOCK.finditer(readme):
        notes = dict(_NOTE.findall(match["notes"]))
        steps: list[Step] = []
        for line in match["body"].splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:], []))
            else:
                assert steps, f"output without a command in the README: {line}"
                steps[-1].shown.append(line)
        steps[0].wait = notes.get("wait", "")
        steps[-1].exit_code = int(notes.get("exit", "0"))
        blocks.append(steps)
    return blocks


def mask(line: str) -> str:
    for pattern, word in _MASKS:
        line = pattern.sub(word, line)
    return line.strip()


def masked(lines: list[str]) -> list[str]:
    """Masked lines without empty ones; neighbours that became equal count once (a list may be longer today)."""
    result: list[str] = []
    # A list of files breaks at other places when its names get longer: one line again.
    kept = [line for line in lines if _PROGRESS.match(line) is None and _BY_CHANCE.match(line) is None]
    whole = _BROKEN_LIST.sub(r"\1 ", "\n".join(kept))
    for line in map(mask, whole.split("\n")):
        if line and (not result or result[-1] != line):
            result.append(line)
    return result


def run_all(blocks: list[list[Step]], directory: Path) -> Iterator[Step]:
    """Run every step and give it back with what it printed (stdout and stderr as a terminal mixes them)."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "80",
        "HOME": str(directory),
        "XDG_CACHE_HOME": str(directory / ".cache"),
        "XDG_CONFIG_HOME": str(directory / ".config"),
        "CKPT_TUI_CONFIG": "",
    }
    try:
        for steps in blocks:
            for step in steps:
                if step.wait:
                    _wait(step.wait, directory)
                background = step.command.rstrip().endswith("&")
                command = step.command
                if background:
                    command = command.rstrip("& ").rstrip() + " >background.log 2>&1 </dev/null &"
                done = subprocess.run(
                    ["bash", "-c", command], cwd=directory, env=environment, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
                )  # fmt: skip
                step.printed = _as_anywhere(done.stdout, directory).rstrip("\n").splitlines()
                assert done.returncode == step.exit_code, (
                    f"$ {step.command}\n{done.stdout}\nended with {done.returncode}"
                )
                yield step
    finally:
        _end_trainings(directory)


def _end_trainings(directory: Path) -> None:
    """A story that was cut short leaves nothing running behind: no supervisor, which would start a training again."""
    for record, word in (("supervisor.json", b"supervise"), ("trainer.lock", b"trainer")):
        for path in directory.glob(f"*/{record}"):
            pid = json.loads(path.read_text() or "{}").get("pid", 0)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if pid and word in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)


def _as_anywhere(printed: str, directory: Path) -> str:
    """Without the places of this machine: a reader has others."""
    for place, shown in ((str(directory.resolve()), "~"), (str(directory), "~"), (sys.executable, "python")):
        printed = printed.replace(place, shown)
    return printed


def _wait(what: str, directory: Path) -> None:
    """What a `wait` comment asks for, by the newest event of the log in that run directory:

    `step 300 RUN`: it has trained 300 steps. `between 100 RUN`: it is well between two saves of every 100 steps, and
    held there (SIGSTOP) until the next `wait`, however late what follows comes. `session 2 RUN`: the second session has
    told of a step. `restarts 1 RUN`: so has the one that its supervisor began with its first restart.
    """
    word, number_text, run_name = what.split()
    number = int(number_text)
    deadline = time.monotonic() + 300
    log = directory / run_name / "events.jsonl"
    _let_go_on(directory)
    while time.monotonic() < deadline:
        newest = _newest_step(log)
        if newest is not None:
            session, step = newest
            if word == "step" and step >= number:
                return
            if word == "between" and _is_between(step, number) and _is_held_between(directory / run_name, log, number):
                return
            if word == "session" and session >= number:
                return
            if word == "restarts" and session >= _session_after_restarts(directory / run_name, number):
                return
        time.sleep(0.02)
    raise TimeoutError(f"never {what}")


def _is_between(step: int, number: int) -> bool:
    return 0.2 * number <= step % number <= 0.6 * number


def _is_held_between(run: Path, log: Path, number: int) -> bool:
    """Hold the training; let it go on where it was past that already, or a thread still saves."""
    pid = json.loads((run / "trainer.lock").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    while process_state(pid) != "T":
        time.sleep(0.005)
    newest = _newest_step(log)
    told = log.read_text("utf-8")
    is_saving = list(run.glob(".tmp-*")) or not all(path.name in told for path in run.glob("rolling_step_*"))
    if newest is not None and _is_between(newest[1], number) and not is_saving:
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def _let_go_on(directory: Path) -> None:
    for lock in directory.glob("*/trainer.lock"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = json.loads(lock.read_text() or "{}").get("pid", 0)
            if pid and process_state(pid) == "T":
                os.kill(pid, signal.SIGCONT)


def _session_after_restarts(run: Path, number: int) -> float:
    """Of the training that runs after so many restarts by the supervisor; endless while there is none."""
    try:
        record = json.loads((run / "supervisor.json").read_text())
    except FileNotFoundError:
        return float("inf")
    is_there = record["state"] == "running" and record["restarts"] >= number
    return float(record["session"]) if is_there else float("inf")


def _newest_step(log: Path) -> tuple[int, int] | None:
    """(session, step) of the last `step` event; None while there is none."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the line that is being written
        if event["event"] == "step":
            return event["session"], event["step"]
    return None


def write() -> None:
    """Put the real output of every command into the README."""
    readme = README.read_text("utf-8")
    blocks = parse(readme)
    with tempfile.TemporaryDirectory() as scratch:
        for step in run_all(blocks, Path(scratch)):
            print(f"$ {step.command}  ({len(step.printed)} lines)", flush=True)
    by_order = iter(blocks)

    def fill(match: re.Match[str]) -> str:
        lines = []
        for step in next(by_order):
            lines.append(f"$ {step.command}")
            lines.extend(line.rstrip() for line in step.printed)
        return match["notes"] + "```console\n" + "\n".join(lines) + "\n```\n"

    now = README.read_text("utf-8")  # somebody may have written on while this ran
    commands = [[step.command for step in block] for block in blocks]
    if [[step.command for step in block] for block in parse(now)] != commands:
        sys.exit("The README's commands changed while they ran: nothing is written, run it again.")
    README.write_text(_BLOCK.sub(fill, now), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    write()
