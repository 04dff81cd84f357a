"""The rows about acts: a restore of 1 GB against a durable copy, the first plan of a long undo, deeds in series, and
an act beside a long log against the plan that has read it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.measure import CKPT_TUI, PYTHON, Row, Run, in_turn, run_process
from tests.bench.reference_files import ReferenceFiles

NUM_CHECKPOINTS = 205
CHECKPOINT_BYTES = 4_500_000
NUM_DEEDS = 10
NUM_FLUSHES = 16  # of a deed: the journal four times, what is copied, and every directory in which a name changes
# In one process, as in the app: what an act costs without Python's start.
_DEEDS = """
import sys
from ckpt_tui.services.restore import carry_out, plan_restore, plan_undo
for number in range(int(sys.argv[2])):
    carry_out(plan_undo(sys.argv[1]) if number % 2 else plan_restore(sys.argv[1], ["latest_backup.pt"]))
"""
_PLANNED = """
import sys
from ckpt_tui.services.restore import carry_out, plan_rollback
plan = plan_rollback(sys.argv[1], "100")
if sys.argv[2] == "done":
    carry_out(plan)
"""


def rows(files: ReferenceFiles, repeats: int) -> Iterator[Row]:
    """Each side begins with a directory of its own and an empty memory of validations, as after a crash at night."""
    place = files.directory / "acting"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    try:
        yield from _restore(files.t1_pair()[1], place, repeats)
        yield _first_plan(place, repeats)
        yield _large_undo(place, repeats)
        yield _series(place, repeats)
        yield _long_log(files.log(10**6), place, repeats)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _restore(whole: Path, place: Path, repeats: int) -> Iterator[Row]:
    run, copy = place / "restored", place / "copy.pt"
    # What no restore that keeps its promise can save: the device is asked for every byte once more.
    read_back = f"dd if='{copy}' of=/dev/null bs=4M iflag=direct status=none"

    def damaged() -> None:
        shutil.rmtree(place / "cache", ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        os.link(whole, run / "latest_backup.pt")
        (run / "latest.pt").write_bytes(b"PK\x03\x04 torn by a crash")
        _settle(whole, run / "latest.pt")

    def fresh() -> None:
        copy.unlink(missing_ok=True)
        _settle(whole)

    sides = in_turn(
        {
            "cp": _after(fresh, ["/bin/sh", "-c", f"cp '{whole}' '{copy}' && sync '{copy}'"]),
            "floor": _after(fresh, ["/bin/sh", "-c", f"cp '{whole}' '{copy}' && sync '{copy}' && {read_back}"]),
            "ours": _after(damaged, [CKPT_TUI, "restore", str(run), "--yes"]),
        },
        repeats,
    )
    ours, cp, floor = sides["ours"], sides["cp"], sides["floor"]
    assert (run / "latest.pt").stat().st_size == whole.stat().st_size
    yield Row(
        f"restore of {whole.stat().st_size / 1e9:.1f} GB: validated, copied, read back",
        f"{ours.wall_s:.2f} s {ours.peak_mb:.0f} MB, {ours.cpu_s:.2f} s CPU",
        f"cp and sync {cp.wall_s:.2f} s",
        f"{ours.wall_s / cp.wall_s:.2f}",
        "<= 2.5x cp and sync, <= 100 MB",
        ours.wall_s <= 2.5 * cp.wall_s and ours.peak_mb <= 100,
    )
    yield Row(
        "the same, against a copy that is read back from the device, too",
        f"{ours.wall_s:.2f} s",
        f"cp, sync and dd from the device {floor.wall_s:.2f} s",
        f"{ours.wall_s / floor.wall_s:.2f}",
        "<= 1.5x",
        ours.wall_s <= 1.5 * floor.wall_s,
    )
    shutil.rmtree(run)
    copy.unlink()


def _large_undo(place: Path, repeats: int) -> Row:
    """It renames what nobody has touched, and reads one: from which a resume is going to start."""
    run = place / "large"
    run.mkdir()
    _many(run, CHECKPOINT_BYTES)
    run_process([CKPT_TUI, "rollback", str(run), "--to", "10", "--yes"])

    def forget() -> None:
        shutil.rmtree(place / "cache", ignore_errors=True)
        os.sync()

    undo = [CKPT_TUI, "undo", str(run), "--dry-run"]
    sides = in_turn({"ours": _after(forget, undo), "all": _after(forget, [*undo, "--recheck"])}, repeats)
    ours, everything = sides["ours"], sides["all"]
    total = sum(path.stat().st_size for path in (run / "set_aside" / "1").glob("*.pt"))
    shutil.rmtree(run)
    return Row(
        f"first plan of an undo of {NUM_CHECKPOINTS} checkpoints, {total / 1e9:.1f} GB",
        f"{ours.wall_s:.2f} s {ours.peak_mb:.0f} MB, {ours.cpu_s:.2f} s CPU",
        f"all of it read (--recheck) {everything.wall_s:.2f} s",
        f"{ours.wall_s / everything.wall_s:.2f}",
        "<= 0.6x reading all, <= 2 s CPU",
        ours.wall_s <= 0.6 * everything.wall_s and ours.cpu_s <= 2,
    )


def _many(run: Path, extra_bytes: int = 0) -> None:
    """A run with very many checkpoints, each with `extra_bytes` of one more tensor."""
    from tests.builders.run_directories import FakeTensor, save, torch_zip, training_state, write_log

    names = {step: f"rolling_step_{step:06d}.pt" for step in range(10, 10 * NUM_CHECKPOINTS + 1, 10)}
    more = FakeTensor([0.5] * (extra_bytes // 4), (extra_bytes // 4,))
    for step, name in names.items():
        if extra_bytes:
            (run / name).write_bytes(torch_zip({**training_state(step), "more": more}))
        else:
            save(run / name, step)
    write_log(run, last_step=10 * NUM_CHECKPOINTS, saves=list(names.items()))


def _first_plan(place: Path, repeats: int) -> Row:
    """Of what a rollback set aside its undo reads only what a resume would start from."""
    run = place / "many"
    run.mkdir()
    _many(run)
    run_process([CKPT_TUI, "rollback", str(run), "--to", "10", "--yes"])

    def forget() -> None:
        shutil.rmtree(place / "cache", ignore_errors=True)

    held = run / "set_aside" / "1"
    sides = in_turn(
        {
            "ours": _after(forget, [CKPT_TUI, "undo", str(run), "--dry-run"]),
            "validate": _after(forget, [CKPT_TUI, "validate", str(held)]),
        },
        repeats,
    )
    ours, validate = sides["ours"], sides["validate"]
    return Row(
        f"first plan of an undo of {NUM_CHECKPOINTS} checkpoints",
        f"{ours.wall_s:.2f} s {ours.peak_mb:.0f} MB, {ours.cpu_s:.2f} s CPU",
        f"validate all of them {validate.wall_s:.2f} s",
        f"{ours.wall_s / validate.wall_s:.2f}",
        "<= 2x validating them, <= 2 s CPU",
        ours.wall_s <= 2 * validate.wall_s and ours.cpu_s <= 2,
    )


def _series(place: Path, repeats: int) -> Row:
    """A restore and its undo in turn, against as many flushes of a small file as a deed needs."""
    from tests.builders.run_directories import save, write_log

    run = place / "series"
    run.mkdir()
    for name, step in (("latest.pt", 300), ("latest_backup.pt", 200), ("rolling_step_000300.pt", 300)):
        save(run / name, step)
    write_log(run, last_step=310)

    def deeds(num_deeds: int) -> Run:
        return run_process([PYTHON, "-c", _DEEDS, str(run), str(num_deeds)])

    sides = in_turn({"one": lambda: deeds(1), "all": lambda: deeds(1 + NUM_DEEDS), "flushes": _flushes(place)}, repeats)
    each_s = (sides["all"].wall_s - sides["one"].wall_s) / NUM_DEEDS
    return Row(
        "a deed of a small checkpoint, in series in one process",
        f"{each_s * 1e3:.0f} ms",
        f"{NUM_FLUSHES} flushes of a small file {sides['flushes'].wall_s * 1e3:.0f} ms",
        f"{each_s / sides['flushes'].wall_s:.1f}",
        "<= 0.3 s",
        each_s <= 0.3,
    )


def _flushes(place: Path) -> Callable[[], Run]:
    def run() -> Run:
        path = place / "flushed"
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(NUM_FLUSHES):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(descriptor, b"journal" * 100)
            os.fsync(descriptor)
            os.close(descriptor)
        return Run(time.perf_counter() - started, time.process_time() - cpu, 0.0)

    return run


def _long_log(log: Path, place: Path, repeats: int) -> Row:
    """The act asks again who trains; its plan has read the log."""
    from tests.builders.run_directories import save

    run = place / "long"

    def afresh() -> None:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        shutil.copy(log / "events.jsonl", run)
        for step in (100, 200):
            save(run / f"rolling_step_{step:06d}.pt", step)

    sides = in_turn(
        {what: _after(afresh, [PYTHON, "-c", _PLANNED, str(run), what]) for what in ("planned", "done")}, repeats
    )
    planned, done = sides["planned"], sides["done"]
    return Row(
        "an act beside a log of 10^6 lines, against its plan alone",
        f"{done.wall_s:.2f} s, {done.cpu_s:.2f} s CPU",
        f"plan {planned.wall_s:.2f} s, {planned.cpu_s:.2f} s CPU",
        f"{done.cpu_s / planned.cpu_s:.2f}",
        "<= 1.2x the CPU of its plan",
        done.cpu_s <= 1.2 * planned.cpu_s,
    )


def _after(prepare: Callable[[], None], command: list[str]) -> Callable[[], Run]:
    def run() -> Run:
        prepare()
        return run_process(command)

    return run


def _settle(whole: Path, *damaged: Path) -> None:
    """The source in the page cache, nothing waiting for the device, and what is damaged older than a save may last:
    of a fresh file that is torn, validation waits whether it still grows."""
    for path in damaged:
        os.utime(path, (time.time() - 3600,) * 2)
    with open(whole, "rb") as file:
        while file.read(8 << 20):
            pass
    os.sync()
