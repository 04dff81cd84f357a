"""Low-rank additions to the weights of another run: what is trained, what is kept, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.builders.training import NoSignals
from trainer.checkpoint.state import load
from trainer.config import Config, parse
from trainer.errors import UsageError
from trainer.initial_weights import begin_with
from trainer.loop import Training
from trainer.model import GPT, make_optimizer

SHAPE = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8}


def train(out: Path, *options: str) -> dict[str, torch.Tensor]:
    """The weights at the end."""
    out.mkdir(exist_ok=True)
    corpus = out.parent / "corpus.txt"
    corpus.write_text("to be or not to be, " * 100)
    shape = [word for name, value in SHAPE.items() for word in (f"--{name}", str(value))]
    request = parse(
        ["--out", str(out), "--data", str(corpus), *shape, "--batch_size", "2", "--max_steps", "6", "--threads", "1",
         "--warmup_steps", "0", "--eval_batches", "1", *options]
    )  # fmt: skip
    assert Training(request, NoSignals()).run() == 0  # type: ignore[arg-type]
    return dict(load(os.path.join(out, "latest.pt"))["model"])


def test_only_the_additions_are_trained_and_the_base_stays(tmp_path: Path) -> None:
    base = train(tmp_path / "base")
    adapted = train(tmp_path / "adapted", "--init_from", str(tmp_path / "base" / "latest.pt"), "--lora_rank", "2")
    assert {name for name in adapted if "lora_" not in name} == set(base)
    assert all(torch.equal(adapted[name], base[name]) for name in base)
    added = sorted(name for name in adapted if "lora_" in name)
    assert added == [
        f"blocks.0.{layer}.lora_{part}.weight"
        for layer in ("attention.projection", "attention.queries_keys_values", "mlp.0", "mlp.2")
        for part in "AB"
    ]
    assert all(adapted[name].abs().sum() > 0 for name in added)
    state = load(str(tmp_path / "adapted" / "latest.pt"))
    assert len(state["optimizer"]["state"]) == len(added)
    # A resume needs the base no more.
    (tmp_path / "base" / "latest.pt").unlink()
    train(tmp_path / "adapted", "--init_from", str(tmp_path / "base" / "latest.pt"), "--lora_rank", "2", "--resume",
          "auto", "--max_steps", "8")  # fmt: skip


def test_additions_begin_at_nothing() -> None:
    torch.manual_seed(1)
    base = GPT(Config(**SHAPE))
    adapted = GPT(Config(**SHAPE, lora_rank=3))
    adapted.load_state_dict(base.state_dict(), strict=False)
    tokens = torch.arange(16).reshape(2, 8)
    assert torch.equal(base(tokens), adapted(tokens))
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert all("lora_" in name for name in trained)
    groups = make_optimizer(adapted, Config(**SHAPE, lora_rank=3)).param_groups
    assert [len(group["params"]) for group in groups] == [len(trained), 0]


def test_the_addition_is_what_the_paper_says() -> None:
    model = GPT(Config(**SHAPE, lora_rank=2, lora_alpha=6.0))
    layer = model.blocks[0].get_submodule("mlp.0")
    torch.nn.init.normal_(layer.lora_B.weight)
    inputs = torch.randn(5, 8)
    whole = layer.weight + 3.0 * layer.lora_B.weight @ layer.lora_A.weight
    assert torch.allclose(layer(inputs), inputs @ whole.T, atol=1e-5)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = GPT(Config(**SHAPE))
    for content, words in [
        ({"step": 1, "model": GPT(Config(**{**SHAPE, "n_embd": 16})).state_dict()}, "size mismatch"),
        ({"step": 1, "model": GPT(Config(**{**SHAPE, "n_layer": 2})).state_dict()}, "blocks.1.* has no place here"),
        ({"step": 1, "model": {}}, "it lacks tokens.weight"),
    ]:
        path = tmp_path / "other.pt"
        rest = {"epoch": 0, "optimizer": {}, "scheduler": {}, "rng_state": {}, "dataloader_state": {}, "args": {}}
        torch.save({**rest, **content, "format_version": 1}, path)
        with pytest.raises(UsageError, match=words):
            begin_with(model, str(path))
    with pytest.raises(UsageError, match="No such file"):
        begin_with(model, str(tmp_path / "none.pt"))
