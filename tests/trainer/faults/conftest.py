"""Fault tests: one thread of torch, and memory instead of a disk where only the order of operations matters."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOM_BYTES = 256 << 20  # containers have as little as 64 MB


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Children are forked: threads of torch would not be there in them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is some: a process that dies or fails does not ask whether fsync took long."""
    if not os.access("/dev/shm", os.W_OK) or shutil.disk_usage("/dev/shm").free < ROOM_BYTES:
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="ckpt-tui-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"{i} bottles of beer on the wall, {i * 7 % 11} of them empty.\n" for i in range(14)))
    return path
