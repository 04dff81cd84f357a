"""A read that comes back short is continued; a file that ends too early is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.checkpoints import exact_read
from ckpt_tui.checkpoints.exact_read import read_exactly
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from tests.builders.torch_files import save_bytes, training_state


def _three_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    real = os.pread
    asked: list[int] = []

    def short(descriptor: int, num_bytes: int, offset: int) -> bytes:
        asked.append(num_bytes)
        return real(descriptor, min(num_bytes, 3), offset)

    monkeypatch.setattr(exact_read.os, "pread", short)
    return asked


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(100)))
    with path.open("rb") as file:
        asked = _three_bytes_at_a_time(monkeypatch)
        assert read_exactly(file.fileno(), 50, 10, "x") == bytes(range(10, 60))
    assert len(asked) == 17


def test_no_call_asks_for_more_than_the_system_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def nothing(_: int, num_bytes: int, __: int) -> bytes:
        asked.append(num_bytes)
        return b""

    monkeypatch.setattr(exact_read.os, "pread", nothing)
    with pytest.raises(CkptError):
        read_exactly(0, 5 << 30, 0, "x")
    assert asked == [1 << 30]


def test_a_file_that_shrinks_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    with path.open("rb") as file, pytest.raises(CkptError) as caught:
        read_exactly(file.fileno(), 50, 70, "x")
    assert caught.value.title == "Incomplete read"
    assert "20 bytes from byte 100 on" in caught.value.message


@pytest.mark.parametrize("kind", ["torch-zip", "safetensors"])
def test_every_reader_survives_short_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "torch-zip":
        path.write_bytes(save_bytes(training_state()))
    else:
        import torch
        from safetensors.torch import save

        path.write_bytes(save({"a": torch.ones(4, 4), "b": torch.zeros(3)}))
    whole: Any = open_checkpoint(path)
    asked = _three_bytes_at_a_time(monkeypatch)
    assert open_checkpoint(path).tensors == whole.tensors
    assert len(asked) > 50
