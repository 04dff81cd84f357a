"""What a start does not load, and that the optimizers which spare it do the same to the bit."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.eager_optimizer import eager

REPO = Path(__file__).parents[2]


def test_a_training_that_does_not_compile_loads_no_compiler(tmp_path: Path) -> None:
    """`torch._dynamo` takes as long as half of `import torch` or more; the budget of a resume is 1.5 of it."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("to be or not to be, " * 300)
    argv = ["--out", str(tmp_path / "run"), "--data", str(corpus), "--n_layer", "1", "--n_head", "1", "--n_embd", "8",
            "--block_size", "8", "--batch_size", "2", "--eval_freq", "2", "--checkpoint_freq", "1", "--threads", "1",
            "--resume", "auto"]  # fmt: skip
    code = (
        "import sys\nfrom trainer.__main__ import main\n"
        "for steps in ('3', '5'):\n    assert main([*sys.argv[1:], '--max_steps', steps]) == 0\n"
        "heavy = {'torch._dynamo', 'sympy', 'torch.distributed.fsdp', 'torch._inductor', 'rich', 'textual', 'mlflow',\n"
        "         'tensorboard'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], cwd=REPO, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def trained(optimizer_class: type[torch.optim.Optimizer], options: dict, steps: int, state: dict | None = None):  # type: ignore[no-untyped-def, type-arg]
    """Weights and optimizer state after some steps, from `state` on when it is given."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    optimizer = optimizer_class([{"params": [*model.parameters()][:2]}], lr=0.1, **options)
    optimizer.add_param_group({"params": [*model.parameters()][2:], "weight_decay": 0.5})
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(steps):
        model(torch.full((3, 8), 0.1 * step)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert all(weight.grad is None for weight in model.parameters())
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    ],
)
def test_without_the_compilers_marks_it_is_the_same_optimizer(
    optimizer_class: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    plain = eager(optimizer_class)
    assert plain is not optimizer_class
    assert (plain.__name__, issubclass(plain, optimizer_class)) == (optimizer_class.__name__, True)
    theirs, ours = trained(optimizer_class, options, 4), trained(plain, options, 4)
    assert same(theirs, ours)
    # Each goes on from what the other saved.
    assert same(trained(optimizer_class, options, 3, ours), trained(plain, options, 3, theirs))
    assert not same(theirs, trained(plain, options, 5))


def test_an_optimizer_that_torch_does_not_mark_is_left_as_it_is() -> None:
    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            super().zero_grad(set_to_none)

    assert eager(Own) is Own
