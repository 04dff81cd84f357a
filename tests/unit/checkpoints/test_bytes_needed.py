"""How much of its storage a tensor shows: the same rule for every reader, validate and salvage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.model import bytes_needed
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.checkpoints_by_hand import tensor_info
from tests.builders.raw_tensors import info_of

BASE = torch.arange(24.0).reshape(4, 6)


@pytest.mark.parametrize(
    ("tensor", "needed"),
    [(BASE, 96), (BASE.T, 96), (BASE[1:3, 2:4], 64), (BASE[:, ::2], 92), (BASE[0].expand(3, 6), 24), (BASE[:0], 0),
     (torch.tensor(1.0), 4), (BASE.to(torch.complex64), 192)],
)  # fmt: skip
def test_up_to_the_last_element_that_is_shown(tensor: torch.Tensor, needed: int) -> None:
    assert bytes_needed(info_of("t", tensor, "0")) == needed


def test_packed_elements_are_several_to_a_byte() -> None:
    packed = torch.quantize_per_tensor(torch.rand(3, 4), 0.1, 3, torch.quint4x2)
    info = tensor_info("t", (3, 4), "quint4x2", stride=packed.stride())
    assert bytes_needed(info) == packed.untyped_storage().nbytes() == 6


@pytest.mark.parametrize("odd", [{"stride": (1,)}, {"stride": (-1, 1)}, {"offset": -1}, {"dtype": "float31"}])
def test_numbers_that_do_not_go_together_tell_nothing(odd: dict[str, object]) -> None:
    assert bytes_needed(tensor_info("t", (3, 5), **odd)) is None  # type: ignore[arg-type]


def test_a_cut_legacy_file_names_packed_tensors_too(tmp_path: Path) -> None:
    path = tmp_path / "legacy.pt"
    packed = torch.quantize_per_tensor(torch.rand(64, 64), 0.1, 3, torch.quint4x2)
    torch.save({"packed": packed}, path, _use_new_zipfile_serialization=False)
    assert not open_checkpoint(str(path)).findings
    path.write_bytes(path.read_bytes()[:-100])
    findings = open_checkpoint(str(path)).findings
    assert any(finding.where == "packed" for finding in findings), findings
