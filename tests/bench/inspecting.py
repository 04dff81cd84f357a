"""The rows about the inspect screen with 100,000 tensors: show, a key, filter as you type, sort; DataTable beside it.

Each side is an app in a process of its own, without a terminal: what it paints is turned into the bytes that a
terminal would get, so drawing costs what it costs. A key counts from its being posted to the last paint after it.
"""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench.measure import PYTHON, REPO, Row
from tests.bench.reference_files import ReferenceFiles

_QUIET_S = 0.06  # nothing painted for so long: the key is done
_BLOCKED_S = 0.030  # a turn of the loop that took longer did work
_TYPED = "block7 99"

# what, key in the figures, budget
_ROWS = (
    ("to show, after decoding", "show", 0.2),
    ("a key that moves, 95th percentile", "move", 0.050),
    ("another view, slowest", "view", 0.100),
    ("filter as you type, slowest letter", "filter", 0.100),
    ("the same in the tree", "tree_filter", 0.100),
    ("sort by another column, slowest", "sort", 0.100),
    ("open a branch of 10,000", "branch", 0.100),
)


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    path = str(files.t100k())
    runs = [_figures("ours", path) for _ in range(repeats)]
    other = _figures("DataTable", path)  # once: it takes half a minute
    for what, key, budget_s in _ROWS:
        took = sorted(run[key] for run in runs)[len(runs) // 2]
        theirs = other.get(key)
        yield Row(
            f"inspect screen, 100,000 tensors: {what}",
            f"{took * 1e3:.0f} ms",
            f"DataTable {theirs * 1e3:,.0f} ms" if theirs else "-",
            f"{theirs / took:.0f}x faster" if theirs else "-",
            f"<= {budget_s * 1e3:.0f} ms",
            took <= budget_s,
        )
    peak_mb = max(run["peak_mb"] for run in runs)
    yield Row(
        "inspect screen, 100,000 tensors: peak of the process",
        f"{peak_mb:.0f} MB",
        f"DataTable {other['peak_mb']:.0f} MB",
        f"{peak_mb / other['peak_mb']:.2f}",
        "-",
        None,
    )


def _figures(side: str, path: str) -> dict[str, float]:
    done = subprocess.run(
        [PYTHON, "-m", "tests.bench.inspecting", side, path], cwd=REPO, capture_output=True, check=True, text=True
    )
    figures: dict[str, float] = ast.literal_eval(done.stdout.splitlines()[-1])
    return figures


# -- in the measured process ------------------------------------------------------------------------------------------


class Paints:
    """Knows when the app painted last, and has each paint made into bytes as for a terminal."""

    def __init__(self, app: Any) -> None:
        self.last_at = 0.0
        self.num_bytes = 0
        display = app._display

        def painted(screen: Any, renderable: Any) -> None:
            if hasattr(renderable, "render_segments"):
                self.num_bytes += len(renderable.render_segments(app.console))
            elif renderable is not None:
                self.num_bytes += len(app.console._render_buffer(app.console.render(renderable)))
            display(screen, renderable)
            self.last_at = time.perf_counter()

        app._display = painted

    async def settle(self, since: float, at_least_s: float = 0.0) -> float:
        """Seconds from `since` until the app had painted what there was to paint and would take another key."""
        ready_at, before = since, time.perf_counter()
        while True:
            await asyncio.sleep(0.004)
            now = time.perf_counter()
            if now - before > _BLOCKED_S:
                ready_at = now
            before = now
            ready_at = max(ready_at, self.last_at)
            if now - max(ready_at, since + at_least_s) > _QUIET_S:
                return ready_at - since


def _post_key(app: Any, key: str) -> None:
    from textual import events
    from textual.keys import _character_to_key

    named = _character_to_key(key) if len(key) == 1 else key
    app.post_message(events.Key(named, key if len(key) == 1 else None))


async def _keys(app: Any, paints: Paints, keys: Sequence[str]) -> list[float]:
    took = []
    for key in keys:
        started = time.perf_counter()
        _post_key(app, key)
        took.append(await paints.settle(started))
    return took


def _at_95(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.95)]


async def _ours(path: str) -> dict[str, float]:
    from ckpt_tui.tui.screens import inspect_text
    from ckpt_tui.tui.screens.inspect import InspectScreen
    from tests.builders.screen_app import ScreenApp

    decoded_at = [0.0]

    def derive_and_note(checkpoint: Any) -> Any:
        decoded_at[0] = time.perf_counter()
        return derive(checkpoint)

    derive, inspect_text.derive = inspect_text.derive, derive_and_note
    screen = InspectScreen(path)
    app = ScreenApp(screen)
    paints = Paints(app)
    figures: dict[str, float] = {}
    async with app.run_test(size=(120, 40)):
        while screen.opened is None:
            await asyncio.sleep(0.001)
        opened_at = time.perf_counter()
        while paints.last_at < opened_at:
            await asyncio.sleep(0.001)
        figures["show"] = paints.last_at - decoded_at[0]
        await paints.settle(opened_at, 1.0)
        await _keys(app, paints, ["home", *["down", "right"] * 2])
        figures["branch"] = max(await _keys(app, paints, ["left", "left", "left", "right", "right", "right"]))
        figures["view"] = max(await _keys(app, paints, ["s", "n", "t", "n"]))
        figures["move"] = _at_95(
            await _keys(app, paints, ["down", "pagedown", "up", "pagedown"] * 10 + ["end", "home"])
        )
        figures["sort"] = max(await _keys(app, paints, ["z"] * 6))
        await _keys(app, paints, ["slash"])
        figures["filter"] = max(await _keys(app, paints, [*_TYPED, *["backspace"] * 3]))
        await _keys(app, paints, ["escape", "t", "slash"])
        figures["tree_filter"] = max(await _keys(app, paints, [*_TYPED, *["backspace"] * 3]))
    return figures


async def _data_table(path: str) -> dict[str, float]:
    """The same with Textual's own table, as other viewers do it: filled at once, and anew for every letter."""
    from textual.app import App, ComposeResult
    from textual.widgets import DataTable, Input

    from ckpt_tui.checkpoints.registry import open_checkpoint

    checkpoint = open_checkpoint(path)
    cells = [(t.name, " x ".join(map(str, t.shape)), t.dtype, f"{t.size_bytes} B") for t in checkpoint.tensors]

    class TableApp(App[None]):
        def compose(self) -> ComposeResult:
            yield Input()
            yield DataTable(cursor_type="row")

        def on_mount(self) -> None:
            self.query_one(DataTable).add_columns("name", "shape", "dtype", "size")

        def fill(self, words: list[str]) -> None:
            table = self.query_one(DataTable)
            table.clear()
            table.add_rows([row for row in cells if all(word in row[0] for word in words)])

        def on_input_changed(self, message: Input.Changed) -> None:
            self.fill(message.value.split())

    app = TableApp()
    paints = Paints(app)
    figures: dict[str, float] = {}
    async with app.run_test(size=(120, 40)):
        started = time.perf_counter()
        app.fill([])
        figures["show"] = await paints.settle(started)
        app.query_one(DataTable).focus()
        await paints.settle(time.perf_counter())
        figures["move"] = _at_95(await _keys(app, paints, ["down", "pagedown", "up", "pagedown"] * 3))
        app.query_one(Input).focus()
        figures["filter"] = max(await _keys(app, paints, "bl"))
    return figures


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    found = asyncio.run((_ours if sys.argv[1] == "ours" else _data_table)(sys.argv[2]))
    print({**found, "peak_mb": _peak_mb()})
