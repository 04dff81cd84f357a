"""`python -m tests.fuzz --mutations 1000000 --jobs 2`: spoil real checkpoints of every format, as often as is asked.

Prints what broke, once for each place in the code, with the number that makes the file again
(`--format F --only NUMBER --keep FILE`). Exit code 1 when anything did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz.corpus import corpus
from tests.fuzz.mutate import mutate
from tests.fuzz.target import Target, temporary_root

_CHUNK = 2_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=20_000, help="of all formats together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--format", help="only this one")
    parser.add_argument("--only", type=int, help="only the mutation of this number")
    parser.add_argument("--keep", type=Path, help="with --only: copy the spoiled file there")
    args = parser.parse_args()
    seeds = Path(tempfile.mkdtemp(prefix="ckpt-fuzz-", dir=temporary_root()))
    try:
        formats = [name for name in corpus(seeds) if args.format in (None, name)]
        if args.only is not None:
            broken = spoil(seeds, formats[0], args.seed, args.only, 1, args.keep)
            print("\n".join(report for _, report in broken.values()) or "survived")
            return 1 if broken else 0
        return _run(seeds, formats, args)
    finally:
        shutil.rmtree(seeds, ignore_errors=True)


def _run(seeds: Path, formats: list[str], args: argparse.Namespace) -> int:
    each = max(args.mutations // len(formats), 1)
    tasks = [
        (seeds, name, args.seed, first, min(_CHUNK, each - first))
        for first in range(0, each, _CHUNK)
        for name in formats
    ]
    broken: dict[str, tuple[int, str]] = {}
    started, done = time.monotonic(), 0
    with multiprocessing.Pool(args.jobs, maxtasksperchild=20) as pool:
        for found, number in pool.imap_unordered(_task, tasks):
            done += number
            for place, (times, report) in found.items():
                if place not in broken:
                    print(f"BROKEN {report}", flush=True)
                broken[place] = (broken.get(place, (0, ""))[0] + times, report)
            print(f"\r{done:,} mutations, {done / (time.monotonic() - started):,.0f}/s, {len(broken)} broken places",
                  end="", file=sys.stderr, flush=True)  # fmt: skip
    print(f"\n{done:,} mutations of {len(formats)} formats in {time.monotonic() - started:,.0f} s")
    for place, (times, _) in broken.items():
        print(f"{times:7,} x {place}")
    print("clean" if not broken else f"{len(broken)} broken places")
    return 1 if broken else 0


def _task(task: tuple[Path, str, int, int, int]) -> tuple[dict[str, tuple[int, str]], int]:
    return spoil(*task), task[4]


def spoil(
    seeds: Path, name: str, seed: int, first: int, number: int, keep: Path | None = None
) -> dict[str, tuple[int, str]]:
    """Mutations `first` to `first + number` of a format. Gives what broke, by its place: (times, report)."""
    whole = seeds / name
    is_directory = whole.is_dir()
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()) if is_directory else []
    others = [path.read_bytes() for path in sorted(seeds.iterdir()) if path.is_file()]
    room = Path(tempfile.mkdtemp(prefix="ckpt-fuzz-", dir=temporary_root()))
    broken: dict[str, tuple[int, str]] = {}
    try:
        path = room / name
        if is_directory:
            shutil.copytree(whole, path)
        target = Target(str(whole))
        for index in range(first, first + number):
            chance = random.Random(f"{seed} {name} {index}")
            spoiled, original = path, b""
            if is_directory:
                file = chance.choice(files)
                spoiled, original = path / file, (whole / file).read_bytes()
                if chance.random() < 0.05:
                    spoiled.unlink()
                else:
                    spoiled.write_bytes(mutate(original, chance, others))
            else:
                spoiled.write_bytes(mutate(whole.read_bytes(), chance, others))
            _age(path)
            if keep is not None:
                (shutil.copytree if is_directory else shutil.copy)(path, keep)
            try:
                target.run(str(path), chance)
            except Exception as error:  # noqa: BLE001 - that is what we look for
                where = traceback.extract_tb(error.__traceback__)
                ours = next((f for f in reversed(where) if "ckpt_tui" in f.filename), where[-1])
                place = f"{name}: {type(error).__name__} at {Path(ours.filename).name}:{ours.lineno}"
                if type(error).__name__ == "Broken":
                    place = f"{name}: {str(error).split(':')[0]} at {Path(ours.filename).name}"
                again = f"python -m tests.fuzz --seed {seed} --format {name} --only {index}"
                report = f"{again}\n{''.join(traceback.format_exception(error))}"
                broken[place] = (broken.get(place, (0, ""))[0] + 1, broken.get(place, (0, report))[1])
            if is_directory:
                spoiled.write_bytes(original)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return broken


def _age(path: Path) -> None:
    """Make a checkpoint old: `validate` watches one that changed just now for a moment, to see whether it grows."""
    for inner in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(inner, (1.7e9, 1.7e9))


if __name__ == "__main__":
    raise SystemExit(main())
