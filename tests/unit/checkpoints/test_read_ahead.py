"""Reading ahead while the program starts: from the places where the pass begins, and nothing that is cached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_tui.checkpoints import read_ahead, threads

SIZE = 1_000_000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where is read, besides the looks at what is cached."""
    monkeypatch.setattr(threads, "_num_cpus", lambda: 2)
    monkeypatch.setattr(read_ahead, "_MEMORY_BYTES", 4096)
    monkeypatch.setattr(read_ahead, "_STEP_BYTES", 65_536)
    monkeypatch.setattr(read_ahead, "_MOST_BYTES", 4 * 65_536)
    found: list[int] = []
    real = os.preadv

    def noted(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if not flags:
            found.append(offset)
        return real(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", noted)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(bytes(SIZE))
    return tmp_path / "f"


def test_what_is_not_cached_is_read_from_where_each_thread_begins(
    path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "_is_cached", lambda descriptor, position: False)
    read_ahead._open_and_read(str(path))
    half = SIZE // 2
    assert sorted(reads) == [0, 65_536, half, half + 65_536], "no more than is allowed, shared among the two"


def test_what_is_cached_is_left_alone(path: Path, reads: list[int]) -> None:
    path.read_bytes()
    read_ahead._open_and_read(str(path))
    assert reads == []


def test_what_cannot_be_read_is_left_to_whoever_needs_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", ".", "nul\0"):
        read_ahead._open_and_read(str(tmp_path / name))
