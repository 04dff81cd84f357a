"""torch.package archives, against what PackageImporter makes of them; their Python is never imported by us."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch.package import PackageExporter, PackageImporter, package_exporter

from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.truth import check_tensor

pytestmark = pytest.mark.filterwarnings("ignore")
_SOURCE = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("mask", torch.ones(2))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "packaged_by_the_test.py").write_text(_SOURCE)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(folder))
    patch.setattr(package_exporter, "_gate_torchscript_serialization", False)
    import packaged_by_the_test  # type: ignore[import-not-found]

    net = packaged_by_the_test.Net()
    with PackageExporter(folder / "net.pt") as exporter:
        exporter.extern("torch.**")
        exporter.intern("packaged_by_the_test")
        exporter.save_pickle("nets", "net.pkl", net)
        exporter.save_pickle("nets", "state", {"w": torch.arange(5).short(), "tied": net.linear.weight})
        exporter.save_pickle("scripts", "script.pkl", torch.jit.script(net))
        exporter.save_text("notes", "read.me", "hi")
        exporter.save_binary("notes", "blob", b"\x80\x02 is no pickle.")
    patch.undo()
    return folder / "net.pt"


def test_tensors_of_every_pickle(archive: Path) -> None:
    checkpoint = open_checkpoint(archive)
    importer = PackageImporter(archive)
    net = importer.load_pickle("nets", "net.pkl")
    truth = {f"nets/net.pkl.{name}": tensor for name, tensor in net.state_dict(keep_vars=True).items()}
    truth |= {f"nets/state.{name}": tensor for name, tensor in importer.load_pickle("nets", "state").items()}
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert checkpoint.format == "torch-package"
    for name, tensor in truth.items():
        check_tensor(checkpoint, ours[name], tensor)
    assert {name for name in ours if name not in truth} == {
        "script 0.mask", "script 0.linear.weight", "script 0.linear.bias",
    }  # fmt: skip
    # What was one storage is one: torch.package keeps it for the whole archive.
    assert ours["nets/state.tied"].storage == ours["script 0.linear.weight"].storage
    assert checkpoint.metadata["extern_modules"][:1] == ["torch"]


def test_code_of_the_archive_is_unknown_and_said(archive: Path) -> None:
    checkpoint = open_checkpoint(archive)
    verdicts = {ref.name: ref for ref in checkpoint.globals}
    ref = verdicts["packaged_by_the_test.Net"]
    assert ref.verdict == "unknown"
    assert "packaged_by_the_test.py" in ref.reason
    assert verdicts["torch._utils._rebuild_tensor_v2"].verdict == "known"
    assert {finding.code for finding in checkpoint.findings} == {
        "package-code", "torchscript-code", "unreadable-pickle",
    }  # fmt: skip
    (blob,) = [finding for finding in checkpoint.findings if finding.code == "unreadable-pickle"]
    assert blob.where.endswith("notes/blob")


def test_a_known_name_whose_source_is_in_the_archive_is_not_known(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a") as more:
        more.writestr("net/torch/nn/modules/linear.py", "import os; os.system('id')")
        more.writestr("net/nets/third.pkl", b"ctorch.nn.modules.linear\nLinear\n.")
        more.writestr("net/nets/fourth", b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00idtR.")
    checkpoint = open_checkpoint(path)
    verdicts = {ref.name: ref.verdict for ref in checkpoint.globals}
    assert verdicts["torch.nn.modules.linear.Linear"] == "unknown"
    assert verdicts["os.system"] == "dangerous"


def test_code_that_no_pickle_names_is_unknown_all_the_same(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(archive.read_bytes())
    with zipfile.ZipFile(path, "a") as more:
        more.writestr("net/never/named.py", "import os; os.system('id')")
    verdicts = {ref.name: ref for ref in open_checkpoint(path).globals}
    assert verdicts["never.named"].verdict == "unknown"
    assert "importing it from there runs it" in verdicts["never.named"].reason
