"""The rows about watching: time to the first useful paint, loading a long log, what it costs idle and live, and keys.

Everything on a real pseudo terminal, every byte counted. With $CKPT_TUI_BENCH_PEERS the directory of a virtual
environment that has `wandb` and `toolong`, their viewers are measured on the same data beside ours (`wandb leet` on a
run that wandb itself wrote from the same log; toolong on the log).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import instructions, live, loading
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

_MAKE_WANDB_RUN = textwrap.dedent(
    """
    import json, os, sys, wandb
    os.environ["WANDB_SILENT"] = "true"
    run = wandb.init(mode="offline", dir=sys.argv[2], project="bench", name="bench",
                     settings=wandb.Settings(x_disable_stats=True, console="off"))
    for line in open(sys.argv[1]):
        event = json.loads(line)
        if event["event"] == "step":
            run.log({name: event[name] for name in ("loss", "lr", "grad_norm", "tokens_per_s")})
    run.finish()
    """
)

_NUM_STARTS = 9  # at least: a start of 0.3 s differs by a fifth from one to the next
_IDLE_S = 10.0
_LIVE_S = 20.0
_NUM_PRESSES = 60
_KEYS = ((b"f", b"frozen"), (b"f", b"live"))  # hold the chart still, follow the run again
# The logs end with the end of the run: who shows it, shows the newest facts.
_USEFUL = b"finished"


@dataclass(frozen=True, slots=True)
class Start:
    wall_s: float
    cpu_s: float
    peak_mb: float


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    logs = {"L3": files.log(1_000), "L6": files.log(1_000_000), "L7": files.log(10_000_000)}
    peers = Peers(files)
    yield from _start_rows(logs, peers, repeats)
    yield from loading.rows(logs, files.directory, repeats)
    yield from _idle_rows(logs, peers)
    for name in ("L3", "L6"):
        yield from _live_rows(name, logs[name], files.directory)
    yield from peers.live_rows(logs["L6"], files.directory)


# -- start ------------------------------------------------------------------------------------------------------------


def _start(command: Sequence[str], until: bytes, timeout_s: float = 60) -> Start:
    painted = paint(command, until, columns=80, rows=24, timeout_s=timeout_s)
    painted.close()
    return Start(painted.seconds, painted.cpu_s, painted.peak_mb)


def _starts(sides: dict[str, Callable[[], Start]], repeats: int) -> dict[str, Start]:
    """Every side in turn; the first round only warms what is kept on disk and in memory."""
    runs: dict[str, list[Start]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, side in sides.items():
            run = side()
            if round_:
                runs[name].append(run)
    return {
        name: Start(
            statistics.median(run.wall_s for run in found),
            statistics.median(run.cpu_s for run in found),
            max(run.peak_mb for run in found),
        )
        for name, found in runs.items()
    }


def _start_rows(logs: dict[str, Path], peers: Peers, repeats: int) -> Iterator[Row]:
    sides: dict[str, Callable[[], Start]] = {"bare": lambda: _start([PYTHON, "-c", _BARE_APP], b"painted-by-bare-app")}
    for name, directory in logs.items():
        sides[name] = lambda directory=directory: _start([CKPT_TUI, "watch", str(directory)], _USEFUL)
    found = _starts(sides, max(repeats, _NUM_STARTS))
    bare = found["bare"]
    for name in logs:
        ours = found[name]
        ratio, cpu_ratio = ours.wall_s / bare.wall_s, ours.cpu_s / bare.cpu_s
        yield Row(
            f"watch {name}: start to first useful paint",
            f"{ours.wall_s * 1e3:.0f} ms {ours.peak_mb:.0f} MB",
            f"bare Textual app {bare.wall_s * 1e3:.0f} ms {bare.peak_mb:.0f} MB",
            f"{ratio:.2f}",
            "<= 1.4" + (", <= 60 MB" if name == "L3" else ""),
            ratio <= 1.4 and (name != "L3" or ours.peak_mb <= 60),
        )
        yield Row(
            f"watch {name}: ... in CPU time, whatever else the machine does",
            f"{ours.cpu_s * 1e3:.0f} ms",
            f"bare Textual app {bare.cpu_s * 1e3:.0f} ms",
            f"{cpu_ratio:.2f}",
            "<= 1.4",
            cpu_ratio <= 1.4,
        )
    yield from _instruction_rows(logs)
    yield from peers.start_rows(logs, found, max(repeats // 2, 1))
    plain = {
        command: _starts({"ours": lambda command=command: _process([CKPT_TUI, *command.split(), str(logs["L3"])])}, 3)
        for command in ("status", "watch --plain --once")
    }
    for command, sides_found in plain.items():
        run = sides_found["ours"]
        yield Row(
            f"{command} L3, whole process", f"{run.wall_s * 1e3:.0f} ms {run.peak_mb:.0f} MB", "-", "-", "-", None
        )


def _instruction_rows(logs: dict[str, Path]) -> Iterator[Row]:
    if not instructions.is_possible():
        return
    with tempfile.TemporaryDirectory() as scratch:
        bare_app = Path(scratch, "bare_app.py")
        bare_app.write_text(_BARE_APP)
        bare = instructions.to_paint([str(bare_app)], "painted-by-bare-app")
    for name, directory in logs.items():
        ours = instructions.to_paint([CKPT_TUI, "watch", str(directory)], _USEFUL.decode())
        yield Row(
            f"watch {name}: ... in instructions, the same at every load",
            f"{ours / 1e6:,.0f} M",
            f"bare Textual app {bare / 1e6:,.0f} M",
            f"{ours / bare:.2f}",
            "<= 1.4",
            ours / bare <= 1.4,
        )


def _process(command: Sequence[str]) -> Start:
    run = run_process(command, expect=(0, 1))
    return Start(run.wall_s, run.cpu_s, run.peak_mb)


# -- idle and live ----------------------------------------------------------------------------------------------------


def _idle(command: Sequence[str], until: bytes, timeout_s: float = 120) -> tuple[live.Wire, float]:
    painted = live.settled(command, until, timeout_s=timeout_s)
    try:
        return live.wire(painted, _IDLE_S), painted.rss_mb()
    finally:
        painted.close()


def _idle_rows(logs: dict[str, Path], peers: Peers) -> Iterator[Row]:
    found, peak_mb = _idle([CKPT_TUI, "watch", str(logs["L6"])], _USEFUL)
    yield Row(
        "idle on L6",
        f"{_wire_words(found)}, peak {peak_mb:.0f} MB",
        "nothing happens",
        "-",
        "<= 0.5 % CPU, 0 B/s, <= 110 MB",
        found.cpu_share <= 0.005 and found.bytes_per_s == 0 and peak_mb <= 110,
    )
    yield from peers.idle_rows(logs["L6"])


def _live_rows(name: str, finished: Path, scratch: Path) -> Iterator[Row]:
    with live.training(finished, scratch) as directory:
        # The key rows first: they begin while the log is still read.
        painted = paint([CKPT_TUI, "watch", str(directory)], b"running", columns=80, rows=24)
        if name == "L6":
            yield _key_row("while L6 is read back and 100 events/s arrive", painted, 24)
        painted = _calm(painted)
        yield _key_row(f"while 100 events/s arrive on {name}", painted, _NUM_PRESSES)
        painted.close()
        for columns, lines in ((80, 24), (120, 40)):
            found = _live(directory, columns, lines)
            yield Row(
                f"100 events/s on {name} at {columns}x{lines}, 1 Hz screen",
                _wire_words(found),
                "peers 6.9 % and 2.9 kB/s; 42-64 % and 15 kB/s",
                "-",
                "<= 5 % CPU, <= 3 kB/s" if columns == 80 else "<= 5 % CPU",
                found.cpu_share <= 0.05 and (columns != 80 or found.bytes_per_s <= 3000),
            )
        found = _live(directory, 80, 24, "--slow-link")
        yield Row(
            f"100 events/s on {name} at 80x24, --slow-link",
            _wire_words(found),
            "-",
            "-",
            "<= 500 B/s",
            found.bytes_per_s <= 500,
        )


def _live(directory: Path, columns: int, lines: int, *flags: str) -> live.Wire:
    command = [CKPT_TUI, "watch", str(directory), *flags]
    painted = live.settled(command, b"running", columns=columns, rows=lines)
    try:
        return live.wire(painted, _LIVE_S)
    finally:
        painted.close()


def _calm(painted: Painted) -> Painted:
    live.calm_down(painted)
    return painted


def _key_row(when: str, painted: Painted, num_presses: int) -> Row:
    took = live.key_seconds(painted, _KEYS, num_presses)
    slow = live.at_95(took)
    return Row(
        f"key to changed screen, {when}",
        f"{slow * 1e3:.0f} ms at the 95th percentile, {statistics.median(took) * 1e3:.0f} ms median",
        "-",
        "-",
        "<= 50 ms",
        slow <= 0.050,
    )


def _wire_words(found: live.Wire) -> str:
    return f"{found.cpu_share * 100:.1f} % CPU, {found.bytes_per_s:,.0f} B/s"


# -- peers ------------------------------------------------------------------------------------------------------------


class Peers:
    """Other people's viewers on the same data, where they are installed."""

    def __init__(self, files: ReferenceFiles) -> None:
        where = os.environ.get("CKPT_TUI_BENCH_PEERS", "")
        self._bin = Path(where) / "bin" if where else None
        self._files = files

    def _has(self, program: str) -> bool:
        return self._bin is not None and (self._bin / program).exists()

    def _toolong(self, directory: Path) -> list[str]:
        assert self._bin is not None
        return [str(self._bin / "tl"), str(directory / "events.jsonl")]

    def _leet(self, directory: Path) -> list[str]:
        assert self._bin is not None
        return [str(self._bin / "wandb"), "leet", "run", str(self._wandb_run(directory))]

    def _wandb_run(self, directory: Path) -> Path:
        """The same steps as wandb writes them, made once: five minutes for a million."""
        assert self._bin is not None
        at = self._files.directory / f"wandb-{directory.name}"
        if not at.exists():
            partial = at.with_name(at.name + ".partial")
            partial.mkdir(exist_ok=True)
            log = str(directory / "events.jsonl")
            subprocess.run([str(self._bin / "python"), "-c", _MAKE_WANDB_RUN, log, str(partial)], check=True)
            partial.rename(at)
        return next((at / "wandb").glob("offline-run-*"))

    def _missing(self) -> Iterator[Row]:
        for program, name in (("wandb", "wandb leet"), ("tl", "toolong")):
            if not self._has(program):
                yield Row(f"{name}: not installed, not measured ($CKPT_TUI_BENCH_PEERS)", "-", "-", "-", "-", None)

    def start_rows(self, logs: dict[str, Path], ours: dict[str, Start], repeats: int) -> Iterator[Row]:
        yield from self._missing()
        for name in ("L3", "L6"):
            sides: dict[str, Callable[[], Start]] = {}
            if self._has("wandb"):
                leet = self._leet(logs[name])
                sides["wandb leet, its first curve"] = lambda leet=leet: _start(leet, b"loss")
            if self._has("tl"):
                toolong = self._toolong(logs[name])
                sides["toolong, the newest line"] = lambda toolong=toolong: _start(toolong, b"run_end")
            for program, found in _starts(sides, repeats).items():
                yield Row(
                    f"watch {name}: start, against {program}",
                    f"{ours[name].wall_s * 1e3:.0f} ms, {ours[name].cpu_s * 1e3:.0f} ms CPU",
                    f"{found.wall_s * 1e3:.0f} ms, {found.cpu_s * 1e3:.0f} ms CPU, {found.peak_mb:.0f} MB",
                    f"{found.wall_s / ours[name].wall_s:.1f}x faster",
                    "-",
                    None,
                )

    def idle_rows(self, directory: Path) -> Iterator[Row]:
        if self._has("wandb"):
            yield self._idle_row("wandb leet", self._leet(directory), b"Finished")
        if self._has("tl"):
            yield self._idle_row("toolong", self._toolong(directory), b"run_end")

    def _idle_row(self, program: str, command: Sequence[str], until: bytes) -> Row:
        try:
            found, peak_mb = _idle(command, until, 300)
        except TimeoutError:
            return Row(f"idle on L6: {program}", "-", "still reading after 300 s", "-", "-", None)
        return Row(f"idle on L6: {program}", "-", f"{_wire_words(found)}, peak {peak_mb:.0f} MB", "-", "-", None)

    def live_rows(self, finished: Path, scratch: Path) -> Iterator[Row]:
        """toolong alone: a run that wandb writes live is no log of ours."""
        if not self._has("tl"):
            return
        with live.training(finished, scratch) as directory:
            painted = live.settled(self._toolong(directory), b"step", timeout_s=120)
            try:
                found = live.wire(painted, _LIVE_S)
            finally:
                painted.close()
        yield Row("100 events/s on L6 at 80x24: toolong", "-", _wire_words(found), "-", "-", None)
