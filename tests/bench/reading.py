"""The rows about opening checkpoints: inspect."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tests.bench.measure import CKPT_TUI, PYTHON, Row, in_turn, run_process
from tests.bench.reference_files import ReferenceFiles

_TORCH_LOAD = "import sys, torch; torch.load(sys.argv[1], mmap=True, weights_only=False, map_location='cpu')"
_SAFE_OPEN = "import sys; from safetensors import safe_open; f = safe_open(sys.argv[1], 'np'); print(list(f.keys()))"


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    first = files.t1_pair()[0]

    sides = in_turn(
        {
            "ours": lambda: run_process([CKPT_TUI, "inspect", str(first)]),
            "torch": lambda: run_process([PYTHON, "-c", _TORCH_LOAD, str(first)]),
            "bare": lambda: run_process([sys.executable, "-I", "-c", "pass"]),
        },
        repeats,
    )
    ours, torch, bare = sides["ours"], sides["torch"], sides["bare"]
    yield Row(
        "inspect T1, whole process",
        f"{ours.wall_s * 1e3:.0f} ms {ours.peak_mb:.0f} MB",
        f"torch.load(mmap) {torch.wall_s * 1e3:.0f} ms {torch.peak_mb:.0f} MB",
        f"{torch.wall_s / ours.wall_s:.0f}x faster",
        ">= 20x faster, <= 90 ms, <= 30 MB",
        torch.wall_s / ours.wall_s >= 20 and ours.wall_s <= 0.090 and ours.peak_mb <= 30,
    )
    yield Row(
        "inspect T1 against a bare interpreter",
        f"{ours.wall_s * 1e3:.0f} ms",
        f"python -c pass {bare.wall_s * 1e3:.0f} ms {bare.peak_mb:.0f} MB",
        f"{ours.wall_s / bare.wall_s:.1f}",
        "-",
        None,
    )

    s1 = files.s1()
    sides = in_turn(
        {
            "ours": lambda: run_process([CKPT_TUI, "inspect", str(s1)]),
            "theirs": lambda: run_process([PYTHON, "-c", _SAFE_OPEN, str(s1)]),
        },
        repeats,
    )
    ours, theirs = sides["ours"], sides["theirs"]
    yield Row(
        "inspect S1",
        f"{ours.wall_s * 1e3:.0f} ms {ours.peak_mb:.0f} MB",
        f"safetensors.safe_open {theirs.wall_s * 1e3:.0f} ms {theirs.peak_mb:.0f} MB",
        f"{theirs.wall_s / ours.wall_s:.1f}x faster",
        "<= 70 ms, <= 25 MB",
        ours.wall_s <= 0.070 and ours.peak_mb <= 25,
    )

    t30k = files.t30k()
    sides = in_turn(
        {
            "ours": lambda: run_process([CKPT_TUI, "inspect", str(t30k)]),
            "torch": lambda: run_process([PYTHON, "-c", _TORCH_LOAD, str(t30k)]),
        },
        repeats,
    )
    ours, torch = sides["ours"], sides["torch"]
    yield Row(
        "inspect T30k",
        f"{ours.wall_s:.2f} s {ours.peak_mb:.0f} MB",
        f"torch.load(mmap) {torch.wall_s:.2f} s {torch.peak_mb:.0f} MB",
        f"{torch.wall_s / ours.wall_s:.1f}x faster",
        "<= 0.7 s, <= 90 MB",
        ours.wall_s <= 0.7 and ours.peak_mb <= 90,
    )
