"""The rows about comparing checkpoints by value."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.measure import CKPT_TUI, PYTHON, Row, in_turn, run_process
from tests.bench.reference_files import ReferenceFiles

# What a person writes by hand: it loads both and compares tensor by tensor.
_BY_HAND = """
import sys, torch
a, b = (torch.load(p, mmap=True, weights_only=False) for p in sys.argv[1:])
for name, w in a["model"].items():
    d = b["model"][name].double() - w.double()
    print(name, (d.norm() / w.double().norm()).item(), d.abs().max().item())
"""


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    first, second = files.t1_pair()
    changed = files.t1c()
    size_gb = first.stat().st_size / 1e9

    sides = in_turn(
        {
            "ours": lambda: run_process([CKPT_TUI, "diff", str(first), str(changed)], expect=(1,)),
            "cat": lambda: run_process(["/bin/sh", "-c", f"cat '{first}' '{changed}' > /dev/null"]),
            "by hand": lambda: run_process([PYTHON, "-c", _BY_HAND, str(first), str(changed)]),
        },
        repeats,
    )
    ours, cat, by_hand = sides["ours"], sides["cat"], sides["by hand"]
    speed = 2 * size_gb / ours.wall_s
    yield Row(
        "diff T1 against T1c: every value changed",
        f"{ours.wall_s:.2f} s {2 * size_gb / ours.wall_s:.1f} GB/s {ours.peak_mb:.0f} MB",
        f"cat of both {cat.wall_s:.2f} s",
        f"{ours.wall_s / cat.wall_s:.1f}",
        ">= 1.5 GB/s, <= 150 MB",
        speed >= 1.5 and ours.peak_mb <= 150,
    )
    yield Row(
        "... in CPU seconds, whatever else the machine does",
        f"{ours.cpu_s:.2f} s {2 * size_gb / ours.cpu_s:.1f} GB/s",
        f"a torch loop over the weights alone {by_hand.cpu_s:.2f} s {by_hand.peak_mb:.0f} MB",
        f"{by_hand.cpu_s / ours.cpu_s:.1f}x less",
        "-",
        None,
    )

    diff = in_turn({"ours": lambda: run_process([CKPT_TUI, "diff", str(first), str(second)], expect=(1,))}, repeats)[
        "ours"
    ]
    yield Row(
        "diff T1 against T1b: one value changed, checksums tell the rest",
        f"{diff.wall_s:.2f} s {diff.peak_mb:.0f} MB",
        f"reading both: {2 * size_gb:.1f} GB",
        f"{2 * size_gb / diff.wall_s:.1f} GB/s",
        ">= 1.5 GB/s, <= 150 MB",
        2 * size_gb / diff.wall_s >= 1.5 and diff.peak_mb <= 150,
    )
