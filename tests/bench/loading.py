"""The rows about reading long logs: CPU time and memory of reading and folding, and how long the screen ever waits.

The screen's wait is measured in the running application (without a terminal): the longest time between two turns of
its event loop, from the first picture until a second after the last line was read.
"""

from __future__ import annotations

import statistics
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.measure import PYTHON, REPO, Row, Run, in_turn, run_process

MOST_DECODES = 2.2  # times what decoding takes

_FOLD = textwrap.dedent(
    """
    import sys
    from ckpt_tui.services.monitor import RunMonitor
    monitor = RunMonitor(sys.argv[1], newest_first=True)
    while not monitor.is_caught_up:
        state = monitor.poll(0.1)  # as the watch does
    assert state.num_events == int(sys.argv[2]), state.num_events
    """
)

# The least that any reader does that looks at every field.
_DECODE = textwrap.dedent(
    """
    import sys, msgspec
    decode = msgspec.json.Decoder().decode
    with open(sys.argv[1] + "/events.jsonl", "rb") as file:
        for line in file:
            decode(line)
    """
)

_WATCH = textwrap.dedent(
    """
    import asyncio, sys, time
    from ckpt_tui.tui.app import CkptTuiApp

    async def main():
        app = CkptTuiApp(sys.argv[1], env={"TERM": "xterm-256color", "COLORTERM": "truecolor"})
        longest = 0.0
        async with app.run_test(size=(120, 40)) as pilot:
            while app.state is None:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)  # the first picture is a row of its own
            left, turned = None, time.perf_counter()
            while left is None or time.perf_counter() < left:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                longest, turned = max(longest, now - turned - 0.001), now
                if left is None and app.monitor.is_caught_up:
                    left = now + 1.0
        status = open("/proc/self/status").read()  # not of who started it, as rusage is
        print(longest, int(status.split("VmHWM:")[1].split()[0]) / 1024)

    asyncio.run(main())
    """
)


def rows(logs: dict[str, Path], scratch: Path, repeats: int) -> Iterator[Row]:
    """logs: directories of the reference logs L3, L6 and L7."""
    yield from _fold_rows(logs, repeats)
    yield from _wait_rows(logs, scratch, repeats)


def _fold_rows(logs: dict[str, Path], repeats: int) -> Iterator[Row]:
    for name, directory in logs.items():
        num_lines = 10 ** int(name.removeprefix("L"))
        found = in_turn(
            {
                "ours": lambda directory=directory, lines=num_lines: _run(_FOLD, directory, lines),
                "decode": lambda directory=directory: _run(_DECODE, directory),
            },
            1 if name == "L7" else repeats,
        )
        ours, decode = found["ours"], found["decode"]
        limit_mb = 200 if name == "L7" else 110
        is_timed = name == "L6"
        ratio = ours.cpu_s / decode.cpu_s
        yield Row(
            f"{name} read and folded",
            f"{ours.cpu_s:.2f} CPU s, peak {ours.peak_mb:.0f} MB",
            f"msgspec decode of each line {decode.cpu_s:.2f} CPU s",
            f"{ratio:.2f}",
            (f"<= {MOST_DECODES} (2.0 CPU s where that is 0.9), " if is_timed else "") + f"<= {limit_mb} MB",
            ours.peak_mb <= limit_mb and (not is_timed or ratio <= MOST_DECODES),
        )


def _wait_rows(logs: dict[str, Path], scratch: Path, repeats: int) -> Iterator[Row]:
    for name, directory in (*logs.items(), ("a log with a line of 50 MB", _with_long_line(logs["L3"], scratch))):
        found = [_watch(directory) for _ in range(1 if name == "L7" else repeats)]
        wait_s = statistics.median(wait for wait, _ in found)
        peak_mb = max(peak for _, peak in found)
        limit_mb = 200 if name == "L7" else 110
        yield Row(
            f"{name}: longest wait of the screen while it is read",
            f"{wait_s * 1e3:.0f} ms, peak {peak_mb:.0f} MB",
            "-",
            "-",
            f"<= 50 ms, <= {limit_mb} MB",
            wait_s <= 0.050 and peak_mb <= limit_mb,
        )


def _run(script: str, directory: Path, *more: int) -> Run:
    return run_process([PYTHON, "-c", script, str(directory), *map(str, more)])


def _watch(directory: Path) -> tuple[float, float]:
    command: Sequence[str] = [PYTHON, "-c", _WATCH, str(directory)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    wait_s, peak_mb = map(float, done.stdout.split()[-2:])
    return wait_s, peak_mb


def _with_long_line(short: Path, scratch: Path) -> Path:
    directory = scratch / "L3-with-50-MB"
    log = directory / "events.jsonl"
    if not log.exists():
        directory.mkdir(exist_ok=True)
        lines = (short / "events.jsonl").read_bytes().splitlines(keepends=True)
        middle = len(lines) // 2
        log.write_bytes(b"".join([*lines[:middle], b'{"note": "' + b"x" * 50_000_000 + b'"}\n', *lines[middle:]]))
    return directory
