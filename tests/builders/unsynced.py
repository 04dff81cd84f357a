"""A disk that forgets what was not flushed: every state that a power cut could leave of a piece of work.

`recorded(root)` of unsynced_recording.py journals what really happens below `root`. `Journal.crashes()` then gives
the trees that a cut after each operation could leave, and `materialise` makes real files of one, for the real resume
and the real viewer to look at.

The model is stricter than ext4, and than what POSIX and its filesystems do in practice:

- Data of a file is durable after fsync or fdatasync of that file. Until then each block holds the old bytes, the new
  ones, zeros or garbage, whatever the others hold, and the file is as long as it was at any time since.
- A name (made, replaced, removed) is durable after fsync of its directory, and of nothing else: not after an fsync of
  the file, as on ext4. Until then each name by itself holds any of the values it had since. That a rename takes its
  old name away is seen only where its new name is, and both may be there.
- Making a directory is a name in its parent.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckpt_tui.events import checksum

BLOCK_BYTES = 512  # no sector is torn; blocks of a filesystem are larger
ROOT = 0
NUM_ENDS = 2  # of the choices of names: none of the loose ones is there, or every one


@dataclass(frozen=True)
class Data:
    """`data` written at `offset`; None: the file was cut, or made longer, to `offset` bytes."""

    file: int
    offset: int
    data: bytes | None


@dataclass(frozen=True)
class Names:
    """What one operation does to names: ((directory, name), the node it holds now or None), a new name first."""

    call: str
    values: tuple[tuple[tuple[int, str], int | None], ...]


@dataclass(frozen=True)
class Sync:
    node: int


@dataclass(frozen=True)
class Mark:
    """What the work said of itself at this moment, such as the step that it called durable."""

    value: Any


Operation = Data | Names | Sync | Mark


@dataclass(frozen=True)
class Crash:
    """A tree that a cut could leave. after: the number of operations that had happened.

    names: the node that each name holds. contents: the bytes of each file there; directories are not in it.
    marks: what the work had said until then. told: which choice it is, in words.
    """

    after: int
    names: dict[tuple[int, str], int]
    contents: dict[int, bytes]
    marks: tuple[Any, ...]
    told: str


@dataclass
class File:
    content: bytearray = field(default_factory=bytearray)


class Journal:
    """The operations below one directory, and the tree as the running system sees it."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.operations: list[Operation] = []
        self.files: dict[int, File] = {}
        self.directories: set[int] = {ROOT}
        self.names: dict[tuple[int, str], int] = {}
        self.identities: dict[int, tuple[int, int]] = {}  # of files: inode, and the time of the last change
        self._numbers = itertools.count(1)
        self._scan(self.root, ROOT, {})
        self._durable_names = dict(self.names)
        self._durable_contents = {node: bytes(file.content) for node, file in self.files.items()}

    def _scan(self, path: str, directory: int, by_inode: dict[int, int]) -> None:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    node = self.new_node()
                    self.directories.add(node)
                    self._scan(entry.path, node, by_inode)
                else:
                    status = entry.stat(follow_symlinks=False)
                    node = by_inode.setdefault(status.st_ino, self.new_node())
                    with open(entry.path, "rb") as file:
                        self.files[node] = File(bytearray(file.read()))
                    self.identities[node] = (status.st_ino, status.st_mtime_ns)
                self.names[directory, entry.name] = node

    def new_node(self) -> int:
        return next(self._numbers)

    def mark(self, value: Any) -> None:
        """Note `value` here: crashes from here on have it in `marks`."""
        self.operations.append(Mark(value))

    def without_syncs(self, which: Callable[[Sync], bool]) -> Journal:
        """A journal of the same work without some of its flushes: what would be if the code left them out."""
        other = object.__new__(Journal)
        other.__dict__.update(self.__dict__)
        other.operations = [op for op in self.operations if not (isinstance(op, Sync) and which(op))]
        return other

    def is_directory(self, sync: Sync) -> bool:
        return sync.node in self.directories

    def check_complete(self) -> None:
        """The tree that the journal knows is the one on the disk: nothing was done past it."""
        seen = Journal(Path(self.root))
        mine, theirs = _paths(self.names), _paths(seen.names)
        assert set(mine) == set(theirs), f"not journalled: {sorted(set(mine) ^ set(theirs))}"
        for path, node in mine.items():
            if node in self.files:
                assert self.files[node].content == seen.files[theirs[path]].content, f"{path} was changed unseen"

    def crashes(self, *, per_cut: int = 12, seed: int = 0, first: int = 0) -> Iterator[Crash]:
        """States after each operation from number `first` on; at most `per_cut` of each moment, by `seed` if more.

        Equal trees with equal marks come once.
        """
        seen: set[object] = set()
        for after in range(first, len(self.operations) + 1):
            for crash in self._crashes_after(after, per_cut, random.Random(f"{seed}-{after}")):
                key = (_tree_key(crash), crash.marks)
                if key not in seen:
                    seen.add(key)
                    yield crash

    def _crashes_after(self, after: int, per_cut: int, rng: random.Random) -> Iterator[Crash]:
        done = self.operations[:after]
        marks = tuple(op.value for op in done if isinstance(op, Mark))
        synced = {op.node: at for at, op in enumerate(done) if isinstance(op, Sync)}  # the last flush of each
        values: dict[tuple[int, str], list[int | None]] = {key: [node] for key, node in self._durable_names.items()}
        durable = dict.fromkeys(values, 0)
        # A rename's old name goes only where its new name came: (old, index of its going) needs (new, its index).
        needs: list[tuple[tuple[int, str], int, tuple[int, str], int]] = []
        for at, op in enumerate(done):
            if not isinstance(op, Names):
                continue
            for key, node in op.values:
                values.setdefault(key, [None]).append(node)
                durable.setdefault(key, 0)
                if at < synced.get(key[0], -1):
                    durable[key] = len(values[key]) - 1
            if op.call == "rename":
                (new, _), (old, _) = op.values
                needs.append((old, len(values[old]) - 1, new, len(values[new]) - 1))
        pending = self._pending(done, synced)
        given = 0
        for number, (told, chosen) in enumerate(_choose_names(values, durable, needs, per_cut, rng)):
            names = {key: node for key, index in chosen.items() if (node := values[key][index]) is not None}
            names = {key: node for key, node in names.items() if _is_reachable(key[0], names)}
            for told_data, contents in self._contents(names, pending, rng, is_end=number < NUM_ENDS):
                yield Crash(after, names, contents, marks, f"after {after}: {told}; {told_data}")
                given += 1
                if given >= per_cut:
                    return

    def _pending(self, done: list[Operation], synced: dict[int, int]) -> dict[int, tuple[bytes, list[Data]]]:
        """Of each file that was written: its bytes at its last flush, and what was written since."""
        durable: dict[int, bytearray] = {}
        loose: dict[int, list[Data]] = {}
        for at, op in enumerate(done):
            if not isinstance(op, Data):
                continue
            content = durable.setdefault(op.file, bytearray(self._durable_contents.get(op.file, b"")))
            if at < synced.get(op.file, -1):
                apply(content, op)
            else:
                loose.setdefault(op.file, []).append(op)
        return {node: (bytes(content), loose.get(node, [])) for node, content in durable.items()}

    def _contents(
        self, names: dict[tuple[int, str], int], pending: dict[int, tuple[bytes, list[Data]]], rng: random.Random,
        *, is_end: bool,
    ) -> Iterator[tuple[str, dict[int, bytes]]]:  # fmt: skip
        """What the files hold: at an end of the names each plain way for all, otherwise one at random for each."""
        files = sorted({node for node in names.values() if node in self.files})
        fixed = {node: pending[node][0] if node in pending else self._durable_contents.get(node, b"") for node in files}
        unsure = [node for node in files if node in pending and pending[node][1]]
        if not unsure:
            yield "all data is durable", fixed
            return
        variants = {node: _variants(*pending[node], rng) for node in unsure}
        if is_end:
            for way in ("lost", "all", "zeros"):
                yield f"data {way}", {**fixed, **{node: variants[node][way] for node in unsure}}
        ways = {node: rng.choice(sorted(variants[node])) for node in unsure}
        yield f"data {', '.join(ways.values())}", {**fixed, **{node: variants[node][ways[node]] for node in unsure}}


def materialise(journal: Journal, crash: Crash, target: Path) -> None:
    """Make real files of a crash in the new directory `target`.

    Times are those that they had, and a registry's inodes are put into the numbers of the new files: after a cut of
    the power, a file is still the file that the registry means.
    """
    paths = {ROOT: target}
    target.mkdir()
    todo = dict(crash.names)
    made: dict[int, Path] = {}
    while todo:
        for key, node in list(todo.items()):
            if key[0] not in paths:
                continue
            del todo[key]
            path = paths[key[0]] / key[1]
            if node in journal.directories:
                path.mkdir()
                paths[node] = path
            elif node in made:
                os.link(made[node], path)
            else:
                path.write_bytes(crash.contents[node])
                made[node] = path
    inodes = {}
    for node, path in made.items():
        if node in journal.identities:
            inode, changed_ns = journal.identities[node]
            os.utime(path, ns=(changed_ns, changed_ns))
            inodes[inode, changed_ns] = path.stat().st_ino
    for path in target.rglob("registry.json"):
        _renumber(path, inodes)


def _renumber(path: Path, inodes: dict[tuple[int, int], int]) -> None:
    try:
        content = json.loads(path.read_bytes())
        if not checksum.is_as_written(content):
            return
        rows = content["checkpoints"]
        for row in rows:
            row["inode"] = inodes.get((row["inode"], row["mtime_ns"]), row["inode"])
    except (ValueError, KeyError, TypeError):
        return  # damaged: nobody takes anything from it
    content[checksum.KEY] = checksum.checksum_of(content)
    path.write_bytes(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def _choose_names(
    values: dict[tuple[int, str], list[int | None]],
    durable: dict[tuple[int, str], int],
    needs: list[tuple[tuple[int, str], int, tuple[int, str], int]],
    per_cut: int,
    rng: random.Random,
) -> list[tuple[str, dict[tuple[int, str], int]]]:
    """Which of its values each name holds: the two ends first, then the others in a random order."""
    last = {key: len(found) - 1 for key, found in values.items()}
    loose = sorted(key for key in values if durable[key] < last[key])
    loose = sorted(key for key in values if durable[key] < last[key])
    chosen = [("no loose name", dict(durable)), ("every name", last)]
    ranges = [range(durable[key], last[key] + 1) for key in loose]
    if math.prod(map(len, ranges)) <= 4 * per_cut:
        picks = list(itertools.product(*ranges))
        rng.shuffle(picks)
    else:
        picks = [tuple(rng.choice(span) for span in ranges) for _ in range(4 * per_cut)]
    for pick in picks:
        told = ", ".join(f"{key[1]}#{index}" for key, index in zip(loose, pick, strict=True))
        chosen.append((told, {**durable, **dict(zip(loose, pick, strict=True))}))
    return [
        (told, choice)
        for told, choice in chosen
        if all(choice[old] < went or choice[new] >= came for old, went, new, came in needs)
    ]


def _variants(durable: bytes, loose: list[Data], rng: random.Random) -> dict[str, bytes]:
    """What a file may hold whose last writes were not flushed, by name."""
    whole = bytearray(durable)
    halfway = b""
    for number, op in enumerate(loose):
        if number == len(loose) // 2:
            halfway = bytes(whole)
        apply(whole, op)
    new = bytes(whole)
    size = len(new)
    blocks = range(0, size, BLOCK_BYTES)
    # What was written; the rest of the file is as it was.
    touched = [at for at in blocks if new[at : at + BLOCK_BYTES] != durable[at : at + BLOCK_BYTES]]
    old = durable[:size].ljust(size, b"\0")

    def with_blocks(choose: Callable[[int], str]) -> bytes:
        result = bytearray(new)
        for at in touched:
            end = min(at + BLOCK_BYTES, size)
            what = choose(at)
            if what != "new":
                result[at:end] = {
                    "zeros": bytes(end - at), "old": old[at:end], "garbage": rng.randbytes(end - at),
                }[what]  # fmt: skip
        return bytes(result)

    middle = touched[len(touched) // 2] if touched else 0
    cut = rng.choice(touched) if touched else 0
    variants = {
        "lost": durable,
        "all": new,
        "zeros": with_blocks(lambda at: "zeros"),
        "halfway": halfway,
        "cut at a block": new[:cut],
        "cut at the last block": new[: touched[-1]] if touched else durable,
        "longer, old bytes": old,
        "second half first": with_blocks(lambda at: "zeros" if at < middle else "new"),
        "first half only": with_blocks(lambda at: "new" if at < middle else "zeros"),
        "garbage": with_blocks(lambda at: "garbage"),
        "one block zero": with_blocks(lambda at: "zeros" if at == cut else "new"),
        "one block old": with_blocks(lambda at: "old" if at == cut else "new"),
    }
    for number in range(3):
        variants[f"mixed {number}"] = with_blocks(lambda at: rng.choice(["new", "new", "zeros", "old", "garbage"]))
    return variants


def apply(content: bytearray, op: Data) -> None:
    if op.data is None:
        del content[op.offset :]
        content.extend(bytes(op.offset - len(content)))
        return
    content.extend(bytes(max(op.offset - len(content), 0)))
    content[op.offset : op.offset + len(op.data)] = op.data


def _is_reachable(directory: int, names: dict[tuple[int, str], int]) -> bool:
    while directory != ROOT:
        above = [key[0] for key, node in names.items() if node == directory]
        if not above:
            return False
        directory = above[0]
    return True


def _paths(names: dict[tuple[int, str], int]) -> dict[str, int]:
    """The nodes by their paths from the root."""
    parents = {node: key for key, node in names.items()}

    def path_of(directory: int) -> str:
        if directory == ROOT:
            return ""
        above, name = parents[directory]
        return path_of(above) + name + "/"

    return {path_of(key[0]) + key[1]: node for key, node in names.items()}


def _tree_key(crash: Crash) -> object:
    return tuple(sorted((key, node, hash(crash.contents.get(node))) for key, node in crash.names.items()))
