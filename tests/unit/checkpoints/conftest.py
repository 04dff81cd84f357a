"""A whole training checkpoint for the tests of validate, and a copy of it to be broken."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from tests.builders.validation import full_state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "rolling_step_000500.pt"
    torch.save(full_state(), path)
    # Old enough that a broken copy of it is not taken for one that is being written.
    os.utime(path, (time.time() - 1000,) * 2)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy2(whole, tmp_path / whole.name))
