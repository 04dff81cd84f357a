"""The rows about watching: time to the first useful paint, loading a long log, and what idling costs."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.measure import CKPT_TUI, PYTHON, Painted, Row, paint, run_process
from tests.bench.reference_files import ReferenceFiles

_BARE_APP = textwrap.dedent(
    """
    from textual.app import App
    from textual.widgets import Footer, Header, Static
    class Bare(App):
        def compose(self):
            yield Header()
            yield Static("painted-by-bare-app")
            yield Footer()
    Bare().run()
    """
)

_FOLD = textwrap.dedent(
    """
    import sys, time
    from ckpt_tui.services.monitor import RunMonitor
    monitor = RunMonitor(sys.argv[1])
    while True:
        state = monitor.poll()
        if monitor.is_caught_up:
            break
    assert state.num_events > 900
    """
)


def _first_paint(command: Sequence[str], until: bytes) -> tuple[float, float]:
    painted = paint(command, until)
    painted.close()
    return painted.seconds, painted.peak_mb


def _settled(directory: Path) -> Painted:
    painted = paint([CKPT_TUI, "watch", str(directory)], b"finished")
    # Until it has been silent for a second: everything is read and drawn.
    deadline = time.perf_counter() + 60
    while painted.read_for(1.0) and time.perf_counter() < deadline:
        pass
    return painted


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    logs = {"L3": files.log(1_000), "L6": files.log(1_000_000)}
    sides: dict[str, Callable[[], tuple[float, float]]] = {
        "bare": lambda: _first_paint([PYTHON, "-c", _BARE_APP], b"painted-by-bare-app")
    }
    for name, directory in logs.items():
        # The step counter with its total is the first useful fact.
        sides[name] = lambda directory=directory: _first_paint([CKPT_TUI, "watch", str(directory)], b"bench")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    for _ in range(repeats):
        for name, side in sides.items():
            took, peak_mb = side()
            seconds[name].append(took)
            peaks[name] = max(peaks.get(name, 0.0), peak_mb)
    bare = statistics.median(seconds["bare"])
    for name in logs:
        took = statistics.median(seconds[name])
        yield Row(
            f"watch {name}: start to first useful paint",
            f"{took * 1e3:.0f} ms {peaks[name]:.0f} MB",
            f"bare Textual app {bare * 1e3:.0f} ms {peaks['bare']:.0f} MB",
            f"{took / bare:.2f}",
            "<= 1.4" + (", <= 60 MB" if name == "L3" else ""),
            took / bare <= 1.4 and (name != "L3" or peaks[name] <= 60),
        )

    loads = [run_process([PYTHON, "-c", _FOLD, str(logs["L6"])]) for _ in range(repeats)]
    load = loads[0]
    yield Row(
        "L6 read and folded",
        f"{statistics.median(run.cpu_s for run in loads):.2f} CPU s {load.peak_mb:.0f} MB",
        "msgspec decode alone 0.9 s",
        "-",
        "<= 2.0 CPU s, <= 110 MB",
        statistics.median(run.cpu_s for run in loads) <= 2.0 and load.peak_mb <= 110,
    )

    painted = _settled(logs["L6"])
    try:
        cpu_before = painted.cpu_seconds()
        idle_s = 10.0
        sent = painted.read_for(idle_s)
        cpu_share = (painted.cpu_seconds() - cpu_before) / idle_s
        peak_mb = painted.rss_mb()
    finally:
        painted.close()
    yield Row(
        "idle on L6",
        f"{cpu_share * 100:.1f} % CPU, {sent / idle_s:.0f} B/s, peak {peak_mb:.0f} MB",
        "nothing happens",
        "-",
        "<= 0.5 % CPU, 0 B/s, <= 110 MB",
        cpu_share <= 0.005 and sent == 0 and peak_mb <= 110,
    )
