"""The verdicts on disk: appended by many at once, torn, corrupt, grown, and read by who comes later."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckpt_tui.services import validity, verdict_cache
from ckpt_tui.services.verdict_cache import Record, add, load
from tests.builders.run_directories import damage, let_age, save

ROOT = Path(__file__).parents[3]


def record(number: int, *, asked: int = 4, at: float | None = None) -> Record:
    levels = list(validity.LEVELS)[:asked]
    return {"identity": [number, 1, 2], "asked": levels, "checked_at": at if at is not None else float(number)}


@pytest.fixture
def cache() -> Path:
    path = Path(verdict_cache.cache_path())
    path.parent.mkdir(parents=True, exist_ok=True)
    assert not path.exists(), "the tests have a cache of their own"
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(verdict_cache, "MAX_RECORDS", 8)
    return 8


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process, which has read nothing."""
    monkeypatch.setattr(verdict_cache, "_loaded", None)
    monkeypatch.setattr(verdict_cache, "_loaded_old", None)


def test_a_verdict_is_a_line_and_what_is_there_is_not_written_again(cache: Path) -> None:
    assert add("/run/a.pt", record(1))
    before, inode = cache.read_bytes(), cache.stat().st_ino
    assert add("/run/b.pt", record(2))
    after = cache.read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == before.count(b"\n") + 1 == 3
    assert cache.stat().st_ino == inode
    assert load() == {"/run/a.pt": record(1), "/run/b.pt": record(2)}


def test_the_later_counts_unless_the_earlier_knows_more_of_the_same(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("/run/a.pt", record(1))
    add("/run/a.pt", record(1, asked=1, at=9.0))
    add("/run/b.pt", record(1))
    add("/run/b.pt", record(2, asked=1))
    for _ in range(2):
        assert load() == {"/run/a.pt": record(1), "/run/b.pt": record(2, asked=1)}
        forget(monkeypatch)


def test_what_others_append_is_known_without_reading_all_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("/run/a.pt", record(1))
    before = load()
    assert load() is before
    with cache.open("ab") as file:
        file.write(json.dumps({"path": "/run/b.pt", **record(2)}).encode() + b"\n")
    decoded = verdict_cache._decoded
    seen: list[int] = []
    monkeypatch.setattr(verdict_cache, "_decoded", lambda lines: seen.append(len(lines)) or decoded(lines))
    assert set(load()) == {"/run/a.pt", "/run/b.pt"}
    assert seen == [1]
    assert set(before) == {"/run/a.pt"}, "who goes through it is not disturbed"


@pytest.mark.parametrize("cut", range(2, 120, 7))
def test_a_torn_last_line_costs_that_verdict_and_no_other(
    cache: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    add("/run/a.pt", record(1))
    whole = len(cache.read_bytes())
    add("/run/b.pt", record(2))
    os.truncate(cache, max(len(cache.read_bytes()) - cut, whole))
    assert set(load()) == {"/run/a.pt"}
    add("/run/c.pt", record(3))
    assert set(load()) == {"/run/a.pt", "/run/c.pt"}
    forget(monkeypatch)
    assert set(load()) == {"/run/a.pt", "/run/c.pt"}


@pytest.mark.parametrize(
    "garbage", [b"\0" * 700, b"\xff\xfe\n{\n[]\nnull\n7\n", b'{"path": "/x"}\n', b"[" * 100_000 + b"\n", b'{"a":[\n']
)
def test_garbage_in_the_middle_is_passed_over(cache: Path, garbage: bytes) -> None:
    add("/run/a.pt", record(1))
    with cache.open("ab") as file:
        file.write(garbage)
    add("/run/b.pt", record(2))
    assert load() == {"/run/a.pt": record(1), "/run/b.pt": record(2)}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"verdicts": 99, "name": "x"}\n{}\n', b"\xff\xfe" * 50, b"\n\n", b"7\n"]
)
def test_a_file_that_is_none_is_replaced(cache: Path, content: bytes) -> None:
    cache.write_bytes(content)
    assert load() == {}
    assert add("/run/a.pt", record(1))
    assert load() == {"/run/a.pt": record(1)}


def test_it_is_replaced_by_another_of_the_same_size_and_read_anew(cache: Path) -> None:
    add("/run/a.pt", record(1))
    assert set(load()) == {"/run/a.pt"}
    first = cache.read_bytes()
    cache.unlink()
    add("/run/b.pt", record(1))
    assert len(cache.read_bytes()) == len(first)
    assert set(load()) == {"/run/b.pt"}


def test_the_file_of_older_versions_is_read_and_taken_over(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Path(verdict_cache.old_cache_path())
    old.write_text(json.dumps({"version": 2, "records": {"/run/old.pt": record(1), "/run/bad.pt": {}}}))
    assert load() == {"/run/old.pt": record(1)}
    assert add("/run/new.pt", record(2))
    old.write_text("{}")
    forget(monkeypatch)
    assert load() == {"/run/old.pt": record(1), "/run/new.pt": record(2)}
    for content in ("", "{", "[]", '{"version": 9, "records": {}}', '{"version": 2, "records": []}'):
        cache.unlink(missing_ok=True)
        old.write_text(content)
        assert load() == {}, content


def test_it_is_bounded_and_the_newest_are_kept(cache: Path, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10 * small):
        add(f"/run/{number}.pt", record(number))
        assert cache.read_bytes().count(b"\n") <= 2 * small + 2
        assert f"/run/{number}.pt" in load()
    forget(monkeypatch)
    newest = {f"/run/{number}.pt" for number in range(9 * small + 1, 10 * small)}
    assert newest <= set(load())
    assert not list(cache.parent.glob("*.tmp"))
    monkeypatch.setattr(verdict_cache, "MAX_GROWN_BYTES", 1)
    monkeypatch.setattr(verdict_cache, "MAX_CACHE_BYTES", 4 * len(verdict_cache._line("/run/99.pt", record(99))))
    assert add("/run/99.pt", record(99))
    assert set(load()) == {"/run/99.pt"}, "what is too long is not kept, the newest is"


def test_many_threads_and_processes_at_once_lose_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\n"
        "from ckpt_tui.services import verdict_cache\n"
        "verdict_cache._LOCK_PATIENCE_S = 600.0\n"
        "for number in range(40):\n"
        "    path = f'/run/{sys.argv[1]}-{number}.pt'\n"
        "    assert verdict_cache.add(path, {'identity': [number], 'asked': [], 'checked_at': float(number)})\n"
    )
    monkeypatch.setattr(verdict_cache, "_LOCK_PATIENCE_S", 600.0)  # however long one of them is kept from running
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(number)], cwd=ROOT, stdin=subprocess.DEVNULL)
        for number in range(4)
    ]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda number: add(f"/run/own-{number}.pt", record(number)), range(40)))
    assert [process.wait() for process in started] == [0] * 4
    forget(monkeypatch)
    expected = {f"/run/{who}-{number}.pt" for who in ("own", 0, 1, 2, 3) for number in range(40)}
    assert set(load()) == expected


def test_nobody_waits_for_one_that_was_stopped_while_it_held_the_lock(
    cache: Path, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict_cache, "_LOCK_PATIENCE_S", 0.02)
    monkeypatch.setattr(verdict_cache, "_impatient_until", float("-inf"))
    add("/run/0.pt", record(0))
    descriptor = os.open(cache.parent, os.O_RDONLY)
    try:
        for how in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            fcntl.flock(descriptor, how)
            inode = cache.stat().st_ino
            for number in range(1, 3 * small):
                assert add(f"/run/{how}-{number}.pt", record(number))
            assert cache.stat().st_ino == inode, "it is written anew only by one that is alone"
            assert f"/run/{how}-{3 * small - 1}.pt" in load()
    finally:
        os.close(descriptor)
    assert add("/run/last.pt", record(99))
    assert cache.read_bytes().count(b"\n") == small + 1


def test_what_killed_processes_left_behind_is_swept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long_ago = time.time() - 7200.0
    left = [cache.parent / f"{name}.{pid}.9.tmp" for pid, name in enumerate(("validations.json", "verdicts.jsonl"))]
    others = [cache.parent / name for name in ("notes.tmp", "validations.json.bak", "verdicts.jsonl.1.2.tmp")]
    for path in (*left, *others):
        path.touch()
        if path.name != "verdicts.jsonl.1.2.tmp":  # of one that is at work now
            os.utime(path, (long_ago, long_ago))
    monkeypatch.setattr(verdict_cache, "_swept", set())
    add("/run/a.pt", record(1))
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in others)


def test_a_home_that_cannot_be_written_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert not add("/run/a.pt", record(1))
    assert load() == {}


def test_a_full_disk_keeps_what_was_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("/run/a.pt", record(1))
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        assert not add("/run/b.pt", record(2))
    assert set(load()) == {"/run/a.pt"}


def test_verdicts_of_checkpoints_are_kept_at_once_and_known_elsewhere(tmp_path: Path) -> None:
    paths = [tmp_path / f"rolling_step_{step:06d}.pt" for step in range(1, 4)]
    for step, path in enumerate(paths, start=1):
        save(path, step)
    damage(paths[2])
    let_age(paths[2])
    verdicts = [validity.check(str(path)).verdict for path in paths]
    assert verdicts == ["valid", "valid", "damaged"]
    found = validity.check_now(str(paths[0]), ("structure",))
    assert found.asked == ("structure",)
    known = validity.recall(str(paths[0]))
    assert known is not None
    assert known.asked == validity.LEVELS, "what knows more is not replaced"
    code = (
        "import sys\n"
        "from ckpt_tui.services import validity\n"
        "print(*(validity.recall(path).verdict for path in sys.argv[1:]))\n"
        "print(*validity.directories_with_bad())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == ["valid valid damaged", os.path.realpath(tmp_path)]


@pytest.mark.parametrize("kind", ["fifo", "loop", "dangling"])
def test_what_is_no_file_is_replaced_and_nobody_waits_for_it(cache: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(cache)
    else:
        cache.symlink_to(cache.name if kind == "loop" else "nowhere")
    assert load() == {}
    assert add("/run/a.pt", record(1))
    assert load() == {"/run/a.pt": record(1)}
    assert cache.is_file()
    assert not cache.is_symlink()


def test_a_file_of_another_user_is_taken_over_where_the_directory_is_ours(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `sudo ckpt-tui` leaves it behind: readable, and never to be written again."""
    add("/run/a.pt", record(1))
    its, opened = cache.stat().st_ino, os.open

    def refusing(path: str, flags: int, *more: int) -> int:
        if path == str(cache) and flags & os.O_RDWR and cache.stat().st_ino == its:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", refusing)
    assert add("/run/b.pt", record(2))
    assert load() == {"/run/a.pt": record(1), "/run/b.pt": record(2)}
    assert add("/run/c.pt", record(3))
    assert set(load()) == {"/run/a.pt", "/run/b.pt", "/run/c.pt"}


def test_one_that_cannot_be_read_this_time_is_not_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("/run/a.pt", record(1))
    opened = os.open

    def failing(path: str, flags: int, *more: int) -> int:
        if path == str(cache) and not flags & os.O_RDWR:
            raise OSError(5, "Input/output error", path)
        return opened(path, flags, *more)

    with monkeypatch.context() as disk:
        forget(disk)
        disk.setattr(os, "open", failing)
        assert load() == {}
        assert add("/run/b.pt", record(2))
    forget(monkeypatch)
    assert set(load()) == {"/run/a.pt", "/run/b.pt"}


HOSTILE = ("NaN", "1e400", "-1e400", "1" + "0" * 400, "null", "true", '"x"', "[]", "{}", '[["a"]]', '{"structure": 5}',
           '[["code", "warning", 1, 2, 3, 4]]', "-1")  # fmt: skip


def test_whatever_a_line_holds_for_a_verdict_it_is_one_or_none(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "latest.pt"
    save(path, 1)
    let_age(path)
    real = validity.check(str(path))
    first, told = cache.read_text().splitlines()
    names = list(json.loads(told))
    for name in names:
        for value in HOSTILE:
            words = {key: json.dumps(one) for key, one in json.loads(told).items()} | {name: value}
            line = "{" + ", ".join(f'"{key}": {word}' for key, word in words.items()) + "}"
            cache.write_text(f"{first}\n{line}\n")
            forget(monkeypatch)
            known = validity.recall(str(path), 60.0) or validity.recall(str(path))
            if known is not None:
                assert validity.check(str(path)).verdict == real.verdict
                for field in ("verdict", "bytes_checked", "seconds", "size_bytes", "format"):
                    assert type(getattr(known, field)) is type(getattr(real, field)), (name, value)
            at = validity.validated_at(str(path))
            assert at is None or 0 <= at < 1e12, (name, value)
            validity.directories_with_bad()
            with monkeypatch.context() as grown:
                grown.setattr(verdict_cache, "MAX_GROWN_BYTES", 1)
                assert add("/run/a.pt", record(1)), (name, value)
