"""The rows about validate: against reading alone, against other checkers, from a cold cache, a whole directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import CKPT_TUI, PYTHON, Row, Run, in_turn, run_process
from tests.bench.reference_files import ReferenceFiles

_TESTZIP = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).testzip()"


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    first, second = files.t1_pair()
    size_gb = first.stat().st_size / 1e9
    validate = [CKPT_TUI, "validate", "--level", "numbers"]
    others = {
        "ours": lambda: run_process([*validate, str(first)]),
        "cat": lambda: run_process(["/bin/sh", "-c", f"cat '{first}' > /dev/null"]),
        "zipfile": lambda: run_process([PYTHON, "-c", _TESTZIP, str(first)]),
    }
    if shutil.which("unzip"):
        others["unzip"] = lambda: run_process(["/bin/sh", "-c", f"unzip -tqq '{first}' || true"])
    sides = in_turn(others, repeats)
    ours = sides["ours"]
    yield Row(
        "validate T1: structure, integrity, numbers",
        f"{ours.wall_s:.2f} s {size_gb / ours.wall_s:.1f} GB/s {ours.peak_mb:.0f} MB, {ours.cpu_s:.2f} s CPU",
        f"cat {sides['cat'].wall_s:.2f} s",
        f"{ours.wall_s / sides['cat'].wall_s:.1f}",
        ">= 3 GB/s, <= 3x cat, <= 120 MB",
        size_gb / ours.wall_s >= 3 and ours.wall_s <= 3 * sides["cat"].wall_s and ours.peak_mb <= 120,
    )
    for name, budget in (("unzip", 10.0), ("zipfile", None)):
        if name in sides:
            faster = sides[name].wall_s / ours.wall_s
            yield Row(
                f"validate T1 against {'unzip -t' if name == 'unzip' else 'zipfile.testzip (checksums only)'}",
                f"{ours.wall_s:.2f} s",
                f"{sides[name].wall_s:.2f} s",
                f"{faster:.1f}x faster",
                f">= {budget:.0f}x faster" if budget else "-",
                faster >= budget if budget else None,
            )
    yield _cold(first, repeats)
    with tempfile.TemporaryDirectory(dir=files.directory) as directory:
        for name, source in (("latest.pt", first), ("latest_backup.pt", second)):
            Path(directory, name).symlink_to(source)
        sides = in_turn(
            {
                "ours": lambda: run_process([*validate, directory]),
                "cat": lambda: run_process(["/bin/sh", "-c", f"cat '{directory}'/* > /dev/null"]),
            },
            repeats,
        )
    ours = sides["ours"]
    yield Row(
        "validate a directory of two of them",
        f"{ours.wall_s:.2f} s {2 * size_gb / ours.wall_s:.1f} GB/s {ours.peak_mb:.0f} MB",
        f"cat {sides['cat'].wall_s:.2f} s",
        f"{ours.wall_s / sides['cat'].wall_s:.1f}",
        "<= 3x cat, <= 120 MB",
        ours.wall_s <= 3 * sides["cat"].wall_s and ours.peak_mb <= 120,
    )


def _cold(path: Path, repeats: int) -> Row:
    """Against `dd` with the file out of the cache on both sides; a virtual disk's host may cache it all the same."""

    def cold(command: list[str]) -> Run:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        return run_process(command)

    sides = in_turn(
        {
            "ours": lambda: cold([CKPT_TUI, "validate", "--level", "numbers", str(path)]),
            "dd": lambda: cold(["/bin/sh", "-c", f"dd 'if={path}' of=/dev/null bs=4M 2> /dev/null"]),
        },
        repeats,
    )
    ours, dd = sides["ours"], sides["dd"]
    size_gb = path.stat().st_size / 1e9
    return Row(
        "validate T1, cold cache",
        f"{ours.wall_s:.2f} s {size_gb / ours.wall_s:.1f} GB/s",
        f"dd {dd.wall_s:.2f} s {size_gb / dd.wall_s:.1f} GB/s",
        f"{dd.wall_s / ours.wall_s:.2f} of dd",
        ">= 0.95 of dd",
        dd.wall_s / ours.wall_s >= 0.95,
    )
