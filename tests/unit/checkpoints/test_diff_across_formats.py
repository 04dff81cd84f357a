"""The same weights in any two formats, layouts and wrappers are the same; what differs is found under its name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from ckpt_tui.checkpoints.diff import Diff, diff_checkpoints
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.tensor_changes import TensorChange
from tests.builders.tar_files import tar_bytes

torch.set_num_threads(1)
Weights = dict[str, torch.Tensor]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = torch.nn.Linear(6, 6)
        self.norm = torch.nn.LayerNorm(6)


class Net(torch.nn.Module):
    """Blocks of equal shapes, and an output that is tied to the embedding."""

    def __init__(self, num_blocks: int = 3) -> None:
        super().__init__()
        self.wte = torch.nn.Embedding(11, 6)
        self.blocks = torch.nn.ModuleList(Block() for _ in range(num_blocks))
        self.lm_head = torch.nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens)
        for block in self.blocks:
            x = x + block.norm(block.attn(x))
        return self.lm_head(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def diff(a: Path, b: Path, **options: Any) -> Diff:
    return diff_checkpoints(open_checkpoint(a), open_checkpoint(b), **options)


def changes(found: Diff) -> Counter[str]:
    return Counter(tensor.change for tensor in found.tensors)


def of(found: Diff, name: str) -> TensorChange:
    return next(tensor for tensor in found.tensors if tensor.name == name)


def trained(net: Net) -> dict[str, Any]:
    """A training checkpoint after one step."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net(torch.arange(11)).square().mean().backward()
    optimizer.step()
    return {"step": 1, "model": net.state_dict(), "optimizer": optimizer.state_dict(), "args": {"lr": 1e-3}}


def save(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int8], ids=str
)
def test_a_pt_file_and_the_safetensors_made_from_it(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = {f"h.{i}.w": (torch.randn(9, 7, generator=generator) * 3).to(dtype) for i in range(3)}
    a = save(tmp_path / "a.pt", weights)
    save_file(weights, tmp_path / "b.safetensors")
    found = diff(a, tmp_path / "b.safetensors")
    assert found.is_same
    assert changes(found) == {"same": 3}
    weights["h.1.w"] = (weights["h.1.w"].float() + 2).to(dtype)
    save_file(weights, tmp_path / "c.safetensors")
    changed = diff(a, tmp_path / "c.safetensors")
    assert [t.name for t in changed.changed_tensors] == ["h.1.w"]
    x, y = torch.load(a)["h.1.w"].double(), weights["h.1.w"].double()
    assert changed.changed_tensors[0].relative_l2 == pytest.approx(((y - x).norm() / x.norm()).item(), rel=1e-9)


def test_tied_weights_that_safetensors_leaves_out_are_there_through_their_tie(net: Net, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pt", net.state_dict())
    save_model(net, str(tmp_path / "b.safetensors"))
    assert len(open_checkpoint(tmp_path / "b.safetensors").tensors) == len(net.state_dict()) - 1
    for found in (diff(a, tmp_path / "b.safetensors"), diff(tmp_path / "b.safetensors", a)):
        assert found.is_same
        assert changes(found) == {"same": len(net.state_dict())}
        assert [t.key for t in found.tensors if t.is_tied] in (["lm_head.weight"], ["wte.weight"])
    with torch.no_grad():
        net.wte.weight[3, 3] += 1
    moved = diff(save(tmp_path / "c.pt", net.state_dict()), tmp_path / "b.safetensors")
    assert {t.name for t in moved.changed_tensors} == {"wte.weight", "lm_head.weight"}


WRAPPERS = {
    "DistributedDataParallel": "module.", "torch.compile": "_orig_mod.", "both": "module._orig_mod.",
    "Lightning": "model.", "Lightning, compiled": "model._orig_mod.", "a part of another model": "policy.backbone.",
    "PEFT": "base_model.model.", "DeepSpeed": "_forward_module.",
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_model_is_the_model(wrapper: str, net: Net, tmp_path: Path) -> None:
    prefix = WRAPPERS[wrapper]
    plain = save(tmp_path / "plain.pt", net.state_dict())
    wrapped = save(tmp_path / "wrapped.pt", {prefix + name: w for name, w in net.state_dict().items()})
    there, back = diff(plain, wrapped), diff(wrapped, plain)
    assert there.is_same
    assert back.is_same
    assert (there.prefix_a, there.prefix_b) == ("", prefix)
    assert (back.prefix_a, back.prefix_b) == (prefix, "")
    assert {t.name for t in there.tensors} == set(net.state_dict()), "names are those of a"
    assert all(t.name == prefix + t.key and t.name_b == t.key for t in back.tensors)


def test_wrapped_by_torch_itself(net: Net, tmp_path: Path) -> None:
    compiled = torch.compile(net)
    for block in range(3):  # as torchtitan does it: block by block
        net.blocks[block] = torch.compile(net.blocks[block])
    wrapped = save(tmp_path / "wrapped.pt", {"model": torch.nn.DataParallel(compiled).state_dict()})
    names = open_checkpoint(wrapped).tensors
    assert any("._orig_mod.blocks.1._orig_mod.attn" in t.name for t in names), "else this proves nothing"
    torch.manual_seed(0)
    found = diff(save(tmp_path / "plain.pt", {"model": Net().state_dict()}), wrapped)
    assert found.is_same
    assert found.is_unwrapped


def test_two_wrappers_against_each_other(net: Net, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pt", {"module." + name: w for name, w in net.state_dict().items()})
    lightning = {"model._orig_mod." + name: w for name, w in net.state_dict().items()} | {"loss.weight": torch.ones(4)}
    b = save(tmp_path / "b.ckpt", {"state_dict": lightning, "pytorch-lightning_version": "2.6.0"})
    found = diff(a, b)
    assert (found.prefix_a, found.prefix_b) == ("module.", "model._orig_mod.")
    assert changes(found) == {"same": len(net.state_dict()), "added": 1}
    assert found.changed_tensors[0].name == "state_dict.loss.weight"


def test_what_could_be_either_is_not_matched(net: Net, tmp_path: Path) -> None:
    pair = {f"{who}.{name}": w for who in ("student", "teacher") for name, w in net.state_dict().items()}
    both = save(tmp_path / "both.pt", pair)
    found = diff(both, save(tmp_path / "one.pt", net.state_dict()))
    assert changes(found) == {"removed": 2 * len(net.state_dict()), "added": len(net.state_dict())}
    assert (found.prefix_a, found.prefix_b) == ("", "")
    block = save(tmp_path / "block.pt", net.blocks[0].state_dict())
    assert "same" not in changes(diff(save(tmp_path / "net.pt", net.state_dict()), block)), "any of three blocks"


def test_weights_under_a_name_that_is_not_known(net: Net, tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.pt", net.state_dict())
    for key in ("params", "generator_weights"):
        found = diff(plain, save(tmp_path / f"{key}.pt", {key: net.state_dict(), "iter": 5}))
        assert set(changes(found)) == {"same"}
    two = save(tmp_path / "two.pt", {"one_of_them": net.state_dict(), "the_other": net.state_dict()})
    assert "same" not in changes(diff(plain, two)), "either could be meant"


def test_names_that_agree_are_left_alone_whatever_they_begin_with(net: Net, tmp_path: Path) -> None:
    weights = {"model." + name: w for name, w in net.state_dict().items()}
    a, b = save(tmp_path / "a.pt", weights), save(tmp_path / "b.pt", weights | {"model.wte.weight": torch.ones(12, 6)})
    found = diff(a, b)
    assert (found.prefix_a, found.prefix_b) == ("", "")
    assert of(found, "model.wte.weight").change == "shape"


def test_mere_weights_against_a_whole_training(net: Net, tmp_path: Path) -> None:
    state = trained(net)
    a = save(tmp_path / "latest.pt", state)
    save_file({k: v for k, v in state["model"].items() if k != "lm_head.weight"}, tmp_path / "best.safetensors")
    found = diff(a, tmp_path / "best.safetensors")
    assert not found.changed_tensors, "the model is the same, and the optimizer is one line"
    assert not found.is_same
    optimizer = next(part for part in found.parts if part.part == "optimizer")
    num_moments = sum(len(moments) for moments in state["optimizer"]["state"].values())
    assert (optimizer.side, optimizer.num_tensors) == ("a", num_moments)
    assert {part.part for part in found.parts} == {"optimizer", "progress"}
    assert all(t.change == "removed" for t in found.tensors if t.part == "optimizer"), "scripts see each"
    back = diff(tmp_path / "best.safetensors", a)
    assert {(part.part, part.side) for part in back.parts} == {("optimizer", "b"), ("progress", "b")}


def test_moments_go_by_the_names_of_their_parameters(tmp_path: Path) -> None:
    """Saved in another order of parameters, the numbers mean other parameters."""
    paths = []
    for order in ((0, 1), (1, 0)):
        torch.manual_seed(0)
        layers = torch.nn.ModuleDict({"one": torch.nn.Linear(4, 5), "two": torch.nn.Linear(5, 3)})
        groups = list(layers.values())
        optimizer = torch.optim.AdamW([p for at in order for p in groups[at].parameters()])
        layers["two"](layers["one"](torch.ones(2, 4))).sum().backward()
        optimizer.step()
        state = {"model": layers.state_dict(), "optimizer": optimizer.state_dict()}
        paths.append(save(tmp_path / f"{order[0]}.pt", state))
    found = diff(*paths)
    assert not found.changed_tensors
    moment = of(found, "optimizer.state.0.exp_avg")
    assert (moment.name_b, moment.parameter) == ("optimizer.state.2.exp_avg", "one.weight")


def test_moments_under_names_against_moments_under_numbers(net: Net, tmp_path: Path) -> None:
    """As FSDP saves them, of a model without two tensors of one shape in one group left to guess."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    numbered = optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    groups = [dict(numbered["param_groups"][0], params=names)]
    named = {"state": {names[i]: moments for i, moments in numbered["state"].items()}, "param_groups": groups}
    a = save(tmp_path / "a.pt", {"model": model.state_dict(), "optimizer": numbered})
    wrapped = {"module." + name: w for name, w in model.state_dict().items()}
    found = diff(a, save(tmp_path / "b.pt", {"model": wrapped, "optimizer": named}))
    assert found.is_same
    moment = of(found, "optimizer.state.3.exp_avg")
    assert (moment.name_b, moment.parameter) == ("optimizer.state.1.bias.exp_avg", "1.bias")


def test_lightning_names_against_others(net: Net, tmp_path: Path) -> None:
    state = trained(net)
    a = save(tmp_path / "a.pt", state)
    lightning = {
        "pytorch-lightning_version": "2.6.0", "global_step": 1, "epoch": 0, "callbacks": {"x": 1}, "loops": {},
        "state_dict": {"model." + name: w for name, w in state["model"].items()},
        "optimizer_states": [state["optimizer"]], "lr_schedulers": [{"last_epoch": 1}],
        "hyper_parameters": {"lr": 1e-3},
    }  # fmt: skip
    found = diff(a, save(tmp_path / "b.ckpt", lightning))
    assert changes(found) == {"same": len(open_checkpoint(a).tensors)}
    assert not found.hyperparameters
    assert found.prefix_b == "model."
    assert "scheduler" in {part.part for part in found.parts}
    other = dict(lightning, optimizer_states=[dict(state["optimizer"], param_groups=[])])
    paths = {change.path for change in diff(a, save(tmp_path / "c.ckpt", other)).other}
    assert any(path.startswith("optimizer.param_groups") for path in paths)


def test_shards_against_a_file_and_against_other_shards(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    weights = {f"model.layers.{i}.w": torch.full((20, 10), float(i)) for i in range(6)}
    for name, limit in (("two", 2500), ("three", 1700), ("one", 100_000), ("new", 1700)):
        (tmp_path / name).mkdir()
        hub.save_torch_state_dict(weights, tmp_path / name, max_shard_size=limit)
    assert len(list((tmp_path / "three").glob("*.safetensors"))) > len(list((tmp_path / "two").glob("*.safetensors")))
    single = save(tmp_path / "single.pt", weights)
    for pair in (("two", "three"), ("three", "single.pt"), ("single.pt", "two"), ("one", "three")):
        found = diff(tmp_path / pair[0], tmp_path / pair[1])
        assert changes(found) == {"same": 6}, pair
        assert not found.other
    weights["model.layers.4.w"] = torch.zeros(20, 10)
    hub.save_torch_state_dict(weights, tmp_path / "new", max_shard_size=1700)
    assert [t.key for t in diff(single, tmp_path / "new").changed_tensors] == ["model.layers.4.w"]


def test_the_old_format_against_the_new(net: Net, tmp_path: Path) -> None:
    state = trained(net)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    found = diff(tmp_path / "old.pt", save(tmp_path / "new.pt", state))
    assert found.is_same
    assert set(changes(found)) == {"same"}


class Scored(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Linear(6, 5)
        self.norm = torch.nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.score(x))


@pytest.mark.parametrize("kind", ["whole module", "TorchScript", "torch.export", "npz", "compressed npz", "tar"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_weights_against_what_else_can_hold_them(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Scored().eval()
    a, b = save(tmp_path / "a.pt", module.state_dict()), tmp_path / "b"
    with torch.no_grad():
        module.score.bias[2] += 1
    arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    if kind == "whole module":
        save(b, module)
    elif kind == "TorchScript":
        torch.jit.save(torch.jit.script(module), b)
    elif kind == "torch.export":
        b = tmp_path / "b.pt2"
        torch.export.save(torch.export.export(module, (torch.ones(2, 6),)), b)
    elif kind == "tar":
        b.write_bytes(tar_bytes(dict(module.state_dict())))
    else:
        b = tmp_path / "b.npz"
        (np.savez_compressed if kind == "compressed npz" else np.savez)(b, **arrays)
    for found in (diff(a, b), diff(b, a)):
        assert [t.key for t in found.changed_tensors] == ["score.bias"]
        assert found.changed_tensors[0].max_abs == pytest.approx(1)
        assert len(found.tensors) == len(arrays)
        assert not found.other
        assert not found.parts


def test_modules_are_summed_up_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    a = {f"h.{i}.{part}.w": torch.randn(8, 5) for i in range(3) for part in ("attn", "mlp")}
    b = {name: w + (0.1 * torch.randn_like(w) if "h.1" in name else 0) for name, w in a.items()}
    for paths in (
        (save(tmp_path / "a.pt", {"model": a}), save(tmp_path / "b.pt", {"model": b})),  # checksums: not all is read
        (save_file(a, tmp_path / "a.st") or tmp_path / "a.st", save_file(b, tmp_path / "b.st") or tmp_path / "b.st"),
    ):
        modules = {module.name: module for module in diff(*paths).modules}
        assert set(modules) == {
            "",
            "h",
            *(f"h.{i}" for i in range(3)),
            *(f"h.{i}.{p}" for i in range(3) for p in ("attn", "mlp")),
        }
        for name in ("", "h", "h.1", "h.1.mlp"):
            of_module = [key for key in a if key.startswith(name)]
            x = torch.cat([a[key].double().flatten() for key in of_module])
            y = torch.cat([b[key].double().flatten() for key in of_module])
            assert modules[name].relative_l2 == pytest.approx(((y - x).norm() / x.norm()).item(), rel=1e-9)
            assert modules[name].max_abs == pytest.approx((y - x).abs().max().item())
        assert (modules["h.0"].relative_l2, modules["h.0"].num_changed) == (0.0, 0)
        assert (modules["h.1"].num_changed, modules["h.1"].num_tensors) == (2, 2)
        assert diff(*paths).modules[0].name in ("h.1.attn", "h.1.mlp")


def test_tied_weights_count_once_in_their_module(net: Net, tmp_path: Path) -> None:
    a = save(tmp_path / "a.pt", net.state_dict())
    before = torch.cat([p.detach().double().flatten() for p in net.parameters()])
    with torch.no_grad():
        net.wte.weight.mul_(1.5)
    after = torch.cat([p.detach().double().flatten() for p in net.parameters()])
    modules = {module.name: module for module in diff(a, save(tmp_path / "b.pt", net.state_dict())).modules}
    assert modules["lm_head"].relative_l2 == pytest.approx(0.5)
    assert modules[""].relative_l2 == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-9)


def test_sparse_tensors_change_with_their_components(tmp_path: Path) -> None:
    dense = torch.diag(torch.arange(1.0, 6.0))
    a = save(tmp_path / "a.pt", {"w": dense.to_sparse(), "v": torch.ones(2)})
    b = save(tmp_path / "b.pt", {"w": (dense * 2).to_sparse(), "v": torch.ones(2)})
    assert diff(a, a).is_same
    found = diff(a, b)
    assert {t.name for t in found.changed_tensors} == {"w", "w.values"}
    assert of(found, "w").reason == "its values"
    # Another layout with components of its own beside one that did not change.
    c = save(tmp_path / "c.pt", {"w": dense.to_sparse_csr(), "v": torch.ones(2), "same": dense.to_sparse()})
    other = diff(save(tmp_path / "d.pt", {"w": dense.to_sparse(), "v": torch.ones(2), "same": dense.to_sparse()}), c)
    assert of(other, "same").change == "same"
    assert of(other, "w").change == "unknown"
    assert {t.change for t in other.tensors if t.name.startswith("w.")} >= {"removed", "added"}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A distributed checkpoint whose tensors lie in pieces, and the file that torch makes of it."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    sample = Path(__file__).parents[2] / "samples" / "dcp_two_ranks"
    whole = tmp_path_factory.mktemp("dcp") / "whole.pt"
    dcp_to_torch_save(sample, whole)
    return sample, whole


def test_pieces_of_two_ranks_against_the_whole(two_ranks: tuple[Path, Path], tmp_path: Path) -> None:
    sample, whole = two_ranks
    sharded = [t for t in open_checkpoint(sample).tensors if t.layout == "sharded"]
    assert any(t.shape != p.shape for t in sharded for _, p in getattr(t, "chunks", ())), "else this proves nothing"
    for pair in ((sample, whole), (whole, sample), (sample, sample)):
        found = diff(*pair)
        assert {"same"} == {t.change for t in found.tensors if not t.is_in_absent_part}, pair
    state = torch.load(whole, weights_only=False)
    tensors = {id(t): t for t in _tensors(state)}
    largest = max((t for t in tensors.values() if t.is_floating_point()), key=torch.Tensor.numel)
    before = largest.double().clone()
    largest.view(-1)[-1] += 100
    found = diff(sample, save(tmp_path / "changed.pt", state))
    changed = [t for t in found.changed_tensors if t.change == "value"]
    assert len(changed) == 1
    assert changed[0].relative_l2 == pytest.approx(100 / before.norm().item(), rel=1e-5)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inside for tensor in _tensors(item)]
