"""What the tests of acts share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest


class HasFileno(Protocol):
    def fileno(self) -> int: ...


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A place in memory where there is one: what is flushed thousands of times need not come to a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="ckpt-tui-tests-") as place:
        yield Path(place)


@pytest.fixture(autouse=True)
def no_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a cut of the power is told by tests that record what was flushed, on any disk; the flushes of
    thousands of deeds are waited for by whoever else uses the one here."""

    def fsync(descriptor: int | HasFileno) -> None:
        os.fstat(descriptor if isinstance(descriptor, int) else descriptor.fileno())  # still an error where it was one

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, fsync)
