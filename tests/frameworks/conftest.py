"""Checkpoints of torch.distributed that several files of tests look at, and may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.builders import distributed
from tests.builders.distributed import SAMPLE


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dcp") / "one"
    distributed.dcp(directory)
    return directory


@pytest.fixture
def one(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "one"))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The same for the checkpoint of two ranks."""
    return Path(shutil.copytree(SAMPLE, tmp_path / "two"))


@pytest.fixture(scope="session")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch_extensions")


@pytest.fixture
def deepspeed_starts(_compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed in processes of their own, which compile an operation at the first start: once for all tests."""
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(_compiled))
