"""What we read of torch.save's files is what torch.load says."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.errors import CkptError
from tests.builders.torch_files import save_bytes, training_state, zip_of


def _tensors_of(value: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    found: dict[str, torch.Tensor] = {}
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, (list, tuple)):
        pairs = list(enumerate(value))
    else:
        pairs = []
    for key, item in pairs:
        found |= _tensors_of(item, f"{path}.{key}" if path else str(key))
    return found


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_what_torch_says(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes(training_state(), protocol))
    truth = _tensors_of(torch.load(io.BytesIO(path.read_bytes()), weights_only=False))
    ours = {tensor.name: tensor for tensor in open_checkpoint(path).tensors}
    assert list(ours) == list(truth)
    storages: dict[str, int] = {}
    for name, tensor in truth.items():
        mine = ours[name]
        assert mine.shape == tuple(tensor.shape)
        assert mine.stride == tensor.stride()
        assert mine.offset == tensor.storage_offset()
        assert f"torch.{mine.dtype}" == str(tensor.dtype)
        assert mine.size_bytes == tensor.numel() * tensor.element_size()
        assert mine.is_parameter == isinstance(tensor, torch.nn.Parameter)
        if tensor.numel():
            assert storages.setdefault(mine.storage, tensor.untyped_storage().data_ptr()) == (
                tensor.untyped_storage().data_ptr()
            )


def test_storage_offsets_point_at_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"w": torch.tensor([1.5, -2.5])}))
    checkpoint = open_checkpoint(path)
    storage = checkpoint.storages[checkpoint.tensors[0].storage]
    assert storage.offset is not None
    data = path.read_bytes()[storage.offset : storage.offset + storage.size_bytes]
    assert data == torch.tensor([1.5, -2.5]).numpy().tobytes()


def test_facts_of_a_training_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes(training_state()))
    checkpoint = open_checkpoint(path)
    assert sniff(path) == checkpoint.format == "torch-zip"
    assert checkpoint.safety == "safe"
    assert checkpoint.findings == []
    assert checkpoint.progress == {"step": 7, "epoch": 1, "val_loss": 1.5, "saved_at": 1.7e9}
    assert checkpoint.hyperparameters == {"lr": 0.5, "path": "/a/b", "scalar": 2.5}
    assert checkpoint.has == ["model", "optimizer", "rng"]
    assert checkpoint.optimizer["type"] == "AdamW"
    assert count_parameters(model_tensors(checkpoint)) == 49


def test_a_file_cut_short_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    data = save_bytes(training_state())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path)
    assert caught.value.title == "Damaged checkpoint"
    assert "central directory is missing" in caught.value.message
    assert "cut short" in caught.value.message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_data_pkl_is_judged_too(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(zip_of(b"cos\nsystem\n.", ("archive/data.pkl", "archive/data.pkl")))
    checkpoint = open_checkpoint(path)
    assert [finding.code for finding in checkpoint.findings] == ["duplicate-record"]
    assert checkpoint.safety == "dangerous"


def test_inspect_loads_no_heavy_module(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes(training_state()))
    program = (
        "import sys; from ckpt_tui.cli import main; code = main(['inspect', sys.argv[1]]); "
        "print([m for m in ('torch', 'numpy', 'textual', 'rich', 'typing', 'json', 'zipfile', 'threading', 'msgspec') "
        "if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_hostile_names_reach_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ckpt_tui.cli import main
    from tests.builders.checkpoints_by_hand import HOSTILE_NAMES

    names = (*HOSTILE_NAMES, "new\nline")
    path = tmp_path / "x.pt"
    path.write_bytes(save_bytes({"model": {name: torch.zeros(1) for name in names}, "args": {n: n for n in names}}))
    assert main(["inspect", str(path), "--all"]) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "[/closing]" in shown
