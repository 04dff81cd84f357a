"""`python -m tests.bench`: the figures of BUDGETS that exist so far, each as a ratio in one run.

A benchmark and not a test: a busy machine changes every time but hardly a ratio. Needs the extras `trainer` and
`dev` and 4 GB of disk for the reference files, which are kept for the next run.
"""

from __future__ import annotations

import argparse
import compileall
import os
import platform
import tempfile
from pathlib import Path

from tests.bench import acting, comparing, inspecting, reading, salvaging, starting, training, validating, watching
from tests.bench.measure import REPO, Row
from tests.bench.reference_files import ReferenceFiles

PARTS = ("reading", "validating", "comparing", "inspecting", "salvaging", "acting", "watching", "training", "starting")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which parts; all by default")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side; the median counts")
    parser.add_argument("--files", type=Path, default=Path(tempfile.gettempdir()) / "ckpt-tui-bench")
    options = parser.parse_args()
    files = ReferenceFiles(options.files)
    # As installed: with $PYTHONDONTWRITEBYTECODE every start would compile what was edited since.
    compileall.compile_dir(REPO / "ckpt_tui", quiet=2)
    parts = {
        "reading": lambda: reading.rows(files, options.repeats),
        "validating": lambda: validating.rows(files, options.repeats),
        "comparing": lambda: comparing.rows(files, options.repeats),
        "inspecting": lambda: inspecting.rows(files, options.repeats),
        "salvaging": lambda: salvaging.rows(files, options.repeats),
        "acting": lambda: acting.rows(files, options.repeats),
        "watching": lambda: watching.rows(files, options.repeats),
        "training": lambda: training.rows(options.repeats, options.files),
        "starting": lambda: starting.rows(options.repeats, options.files),
    }
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; median of {options.repeats}"
    )
    table = [Row("what", "ours", "the other", "ratio", "budget", None)]
    for name in options.parts or PARTS:
        for row in parts[name]():
            table.append(row)
            print(f"  {row.what}: {row.ours} | {row.other} | {row.ratio}", flush=True)
    print()
    print_table(table)


def print_table(table: list[Row]) -> None:
    met = {True: "met", False: "NOT MET", None: "-"}
    lines = [(row.what, row.ours, row.other, row.ratio, row.budget, met[row.met]) for row in table]
    lines[0] = (*lines[0][:5], "met")
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
