"""TorchScript archives: tensors, constants and code, against what torch.jit.load says. Nothing in them is run here."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint
from tests.builders.truth import check_tensor, read_bytes

pytestmark = pytest.mark.filterwarnings("ignore")


class Net(torch.nn.Module):
    """Parameters, buffers of both kinds, attributes of every type that TorchScript stores, and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Linear(3, 2)  # a name that is also the part of a training state
        self.norm = torch.nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.ones(2))
        self.register_buffer("hidden", torch.full((2,), 3.0), persistent=False)
        self.names = ["a", "b"]
        self.table: dict[str, int] = {"x": 1}
        self.pair: tuple[int, float] = (1, 2.5)
        self.scale: float = 2.0
        self.heads = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, dtype=torch.float64).float()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.model(x)) * self.mask + torch.tensor([1.0, 2.0]) * self.scale
        for head in self.heads:
            x = head(x) + self.hidden
        return x


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def archives(net: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("torchscript")
    paths = {name: folder / f"{name}.pt" for name in ("scripted", "traced", "frozen", "mobile", "mobile traced")}
    scripted = torch.jit.script(net)
    traced = torch.jit.trace(net, torch.ones(2, 3))
    scripted.save(str(paths["scripted"]), _extra_files={"note.json": b"{}"})
    traced.save(str(paths["traced"]))
    torch.jit.freeze(scripted).save(str(paths["frozen"]))
    scripted._save_for_lite_interpreter(str(paths["mobile"]))
    traced._save_for_lite_interpreter(str(paths["mobile traced"]))
    return paths


@pytest.mark.parametrize("kind", ["scripted", "traced", "mobile", "mobile traced"])
def test_tensors_are_those_of_the_state_dict(archives: dict[str, Path], kind: str) -> None:
    checkpoint = open_checkpoint(archives[kind])
    truth = torch.jit.load(archives[kind]).state_dict(keep_vars=True)
    ours = {tensor.name: tensor for tensor in checkpoint.tensors}
    assert checkpoint.format == "torchscript"
    assert set(truth) <= set(ours)
    for name, tensor in truth.items():
        ours[name].is_parameter = isinstance(tensor, torch.nn.Parameter)  # the file does not say
        check_tensor(checkpoint, ours[name], tensor)
    others = [name for name in ours if name not in truth]
    assert all(name.startswith(("CONSTANTS.c", "bytecode.")) for name in others)
    assert [finding.code for finding in checkpoint.findings] == ["torchscript-code"]
    assert checkpoint.safety == "safe"
    assert checkpoint.has == ["model"]
    assert model_tensors(checkpoint) == checkpoint.tensors


def _constants(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {t.name: read_bytes(checkpoint, t) for t in checkpoint.tensors if t.name.startswith("CONSTANTS.")}


@pytest.mark.parametrize("kind", ["traced", "frozen"])
def test_constants_are_named_as_the_code_names_them(archives: dict[str, Path], kind: str) -> None:
    checkpoint = open_checkpoint(archives[kind])
    code, constants = torch.jit.load(archives[kind]).code_with_constants
    truth = {f"CONSTANTS.{name}": value for name, value in constants.const_mapping.items()}
    tensors = {name: value for name, value in truth.items() if isinstance(value, torch.Tensor)}
    assert tensors
    assert any(name in code for name in tensors)
    found = _constants(checkpoint)
    assert set(tensors) <= set(found)
    for name, value in tensors.items():
        assert found[name] == value.detach().contiguous().numpy().tobytes()


def test_attributes_are_in_the_state(archives: dict[str, Path]) -> None:
    state = open_checkpoint(archives["scripted"]).state
    kept = {key: value for key, value in state.state.items() if key in ("names", "table", "pair", "scale")}
    assert kept == {"names": ["a", "b"], "table": {"x": 1}, "pair": (1, 2.5), "scale": 2.0}


def test_the_code_is_said_to_be_a_program(archives: dict[str, Path]) -> None:
    (finding,) = open_checkpoint(archives["scripted"]).findings
    assert finding.severity == "info"
    assert "TorchScript code" in finding.message
    assert "write files" in finding.message


@pytest.mark.parametrize(
    ("written", "safety"),
    [
        ('torch.save (x, "/x")', "dangerous"),
        ('torch. save(x, "/x")', "dangerous"),
        ('torch.save\\\n(x, "/x")', "dangerous"),
        ('torch.# a word\n  save(x, "/x")', "dangerous"),
        ('ops .aten.save(x, "/x")', "dangerous"),
        ('f = torch.save\n    f(x, "/x")', "dangerous"),
        ('t = torch\n    t.save(x, "/x")', "unknown"),
        ('getattr(torch, "sa\\166e")(x, "/x")', "unknown"),
        ('getattr(torch, "sa" "ve")(x, "/x")', "unknown"),
        ('getattr(torch, #"\n "sa\\166e")(x, "/x")', "unknown"),
        ('getattr(self, "0")', "safe"),
    ],
)
def test_code_that_writes_files_in_other_words_is_not_safe(tmp_path: Path, written: str, safety: str) -> None:
    """Blanks, line ends and comments may stand between the parts of a name: torch takes them, and writes."""
    module = torch.jit.script(torch.nn.Linear(2, 2))
    module.save(str(tmp_path / "honest.pt"))
    with zipfile.ZipFile(tmp_path / "honest.pt") as source, zipfile.ZipFile(tmp_path / "x.pt", "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            copy.writestr(name, data + f"\n    {written}\n".encode() if name.endswith(".py") else data)
    assert open_checkpoint(tmp_path / "honest.pt").safety == "safe"
    assert open_checkpoint(tmp_path / "x.pt").safety == safety


def test_code_that_writes_files_is_dangerous(tmp_path: Path) -> None:
    """It really does: torch's own operators write where the code says."""
    target = tmp_path / "written"
    module = torch.jit.script(torch.nn.Linear(2, 2))
    module.define(f"def go(self, x):\n    torch.save(x, {str(target)!r})\n    return x\n")
    module.save(str(tmp_path / "x.pt"))
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert not target.exists()
    assert checkpoint.safety == "dangerous"
    assert [(ref.name, ref.verdict) for ref in checkpoint.globals if ref.verdict != "known"] == [
        ("torch.save", "dangerous")
    ]
    torch.jit.load(tmp_path / "x.pt").go(torch.ones(1))
    assert target.exists()


def test_a_payload_in_any_of_its_pickles_is_judged(archives: dict[str, Path], tmp_path: Path) -> None:
    for record in ("constants.pkl", "traced_inputs.pkl", "code/__torch__.py.debug_pkl"):
        path = tmp_path / "x.pt"
        with zipfile.ZipFile(archives["traced"]) as source, zipfile.ZipFile(path, "w") as copy:
            for info in source.infolist():
                if not info.filename.endswith(f"/{record}"):
                    copy.writestr(info, source.read(info))
            copy.writestr(f"traced/{record}", b"cos\nsystem\n(X\x02\x00\x00\x00idtR.")
        checkpoint = open_checkpoint(path)
        assert checkpoint.safety == "dangerous", record
        assert "os.system" in [ref.name for ref in checkpoint.globals]


def test_parameters_are_counted_once(archives: dict[str, Path], net: torch.nn.Module) -> None:
    checkpoint = open_checkpoint(archives["mobile"])
    assert count_parameters(checkpoint.tensors) == sum(tensor.numel() for tensor in [*net.parameters(), *net.buffers()])
