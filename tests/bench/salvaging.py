"""The rows about salvage: a training checkpoint cut in half, against copying what is left of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.measure import CKPT_TUI, Row, Run, in_turn, run_process
from tests.bench.reference_files import ReferenceFiles


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    half = _half_of(files.t1_pair()[0])
    out = half.with_name("salvaged.pt")
    sides = in_turn(
        {
            "ours": _fresh(out, [CKPT_TUI, "salvage", str(half), "-o", str(out)]),
            "cp": _fresh(out, ["cp", str(half), str(out)]),
            "cp and sync": _fresh(out, ["/bin/sh", "-c", f"cp '{half}' '{out}' && sync '{out}'"]),
        },
        repeats,
    )
    out.unlink()
    ours, copy, durable = sides["ours"], sides["cp"], sides["cp and sync"]
    size_gb = half.stat().st_size / 1e9
    yield Row(
        "salvage of T1 cut in half",
        f"{ours.wall_s:.2f} s {size_gb / ours.wall_s:.1f} GB/s {ours.peak_mb:.0f} MB",
        f"cp {copy.wall_s:.2f} s",
        f"{ours.wall_s / copy.wall_s:.1f}",
        "<= 3x cp of what is left",
        ours.wall_s <= 3 * copy.wall_s,
    )
    yield Row(
        "salvage of T1 cut in half, against a durable copy",
        f"{ours.wall_s:.2f} s",
        f"cp and sync {durable.wall_s:.2f} s",
        f"{ours.wall_s / durable.wall_s:.1f}",
        "-",
        None,
    )


def _half_of(whole: Path) -> Path:
    half = whole.with_name(f"{whole.stem}.half{whole.suffix}")
    size = whole.stat().st_size // 2
    if not half.exists() or half.stat().st_size != size:
        partial = half.with_suffix(".partial")
        with open(whole, "rb") as source, open(partial, "wb") as target:
            shutil.copyfileobj(source, target, 8 << 20)
            target.truncate(size)
        partial.rename(half)
    half.read_bytes()  # into the page cache
    return half


def _fresh(out: Path, command: Sequence[str]) -> Callable[[], Run]:
    """A run that begins without OUT."""

    def run() -> Run:
        out.unlink(missing_ok=True)
        return run_process(command)

    return run
