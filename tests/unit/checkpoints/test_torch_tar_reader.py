"""What we read of torch's tar archives is what torch.load, which still opens them, says."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.errors import CkptError
from tests.builders.pickle_routes import payload_routes
from tests.builders.tar_files import archive_bytes, tar_bytes
from tests.unit.checkpoints.test_torch_legacy_reader import assert_is_what_torch_says, raw_elements, torch_elements


def _state() -> dict[str, object]:
    grid = torch.arange(24.0).reshape(4, 6)
    return {
        "step": 12,
        "model": OrderedDict(a=grid, b=grid.t(), view=grid[1:3, ::2], n=torch.tensor([1, -2]), h=torch.ones(3).half()),
        "tied": [grid, torch.tensor([1.5], dtype=torch.float64)],
        "bytes": torch.arange(5, dtype=torch.uint8),
    }


def test_tensors_and_their_values_are_what_torch_says(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(tar_bytes(_state()))
    checkpoint = open_checkpoint(path)
    assert sniff(path) == checkpoint.format == "torch-tar"
    assert checkpoint.findings == []
    assert checkpoint.safety == "safe"
    assert checkpoint.progress["step"] == 12
    assert_is_what_torch_says(path, checkpoint)


def test_a_view_of_a_storage(tmp_path: Path) -> None:
    """Old versions saved a storage that was a part of another one as (key, key of the root, first, elements)."""
    path = tmp_path / "x.pt"
    whole = torch.arange(10.0)
    part = torch.tensor([7.0, 8.0])
    raw = tar_bytes({"whole": whole, "part": part}, views=[(1, 0, 7, 2)])
    path.write_bytes(raw)
    checkpoint = open_checkpoint(path)
    assert torch.load(path, weights_only=False)["part"].tolist() == [7.0, 8.0]
    assert_is_what_torch_says(path, checkpoint)
    first, second = checkpoint.storages["data/0"], checkpoint.storages["data/1"]
    assert (second.offset or 0) - (first.offset or 0) == 28


def test_another_tar_archive_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(archive_bytes({"sys_info": b"hello"}).replace(b"sys_info", b"setup.py"))
    assert sniff(path) is None


@pytest.mark.parametrize("member", ["sys_info", "pickle", "tensors", "storages"])
@pytest.mark.parametrize("route", list(payload_routes(Path())))
def test_a_payload_in_any_member(tmp_path: Path, route: str, member: str) -> None:
    marker = tmp_path / "ran"
    payload = b"\x80\x04" + payload_routes(marker)[route] + b"."
    path = tmp_path / "x.pt"
    path.write_bytes(tar_bytes(_state(), **{member: payload}))
    try:
        checkpoint = open_checkpoint(path)
    except CkptError as error:
        assert member in error.message  # noqa: PT017 - one of two good answers
    else:
        assert [ref.where.rpartition(": ")[2] for ref in checkpoint.globals if ref.name == "os.system"] == [member]
        assert checkpoint.safety == "dangerous"
    assert not marker.exists()


def test_a_second_member_of_a_name_is_judged_too(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    raw = tar_bytes({"step": 1})
    payload = archive_bytes({"pickle": b"cos\nsystem\n)R."})
    path.write_bytes(payload[:1024] + raw)
    checkpoint = open_checkpoint(path)
    assert checkpoint.state == {"step": 1} == torch.load(path, weights_only=False)
    assert [finding.code for finding in checkpoint.findings] == ["duplicate-record"]
    assert checkpoint.safety == "dangerous"


def test_a_cut_archive_names_the_tensors_that_are_lost(tmp_path: Path) -> None:
    """`storages` is the last member: what is cut off it are tensors whose names are still there."""
    state = {name: torch.full((300,), float(n)) for n, name in enumerate("abcd")}
    whole = tar_bytes(state)
    path = tmp_path / "x.pt"
    path.write_bytes(whole)
    third = open_checkpoint(path).storages["data/2"].offset or 0
    path.write_bytes(whole[: third + 50])
    checkpoint = open_checkpoint(path)
    found = {finding.code: finding.where for finding in checkpoint.findings}
    assert found == {
        "truncated": f"byte {third + 50:,}", "damaged-record": f"byte {third + 1200:,}", "short-storage": "c",
        "missing-storage": "d",
    }  # fmt: skip
    assert [tensor.shape for tensor in checkpoint.tensors] == [(300,)] * 4
    for name in "ab":
        assert raw_elements(checkpoint, name) == torch_elements(state[name])


def test_every_cut_is_an_error(tmp_path: Path) -> None:
    whole = tar_bytes({"w": torch.ones(3)})
    whole = whole[: whole.rindex(pickle.dumps([], 2)) + 4]
    path = tmp_path / "x.pt"
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        try:
            said = {finding.severity.value for finding in open_checkpoint(path).findings}
        except CkptError as error:
            said = {error.title}
        allowed = {"Not a checkpoint", "Empty file"} if end < 512 else {"Damaged checkpoint", "error"}
        assert said & allowed, end
