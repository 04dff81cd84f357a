"""A small training with DeepSpeed in a process of its own, which it wants: it trains on, or tells what it has loaded.

python -m tests.builders.deepspeed_training DIRECTORY ZERO_STAGE STEPS SCALE OUT.pt

It goes on from what `latest` names, where there is one. Into OUT go, for the step that it starts from and for each
that it saves (every second one), the weights and the moments.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

State = tuple[dict[str, torch.Tensor], list[torch.Tensor]]


def train(directory: Path, out: Path, *, stage: int, steps: int, scale: float = 1.0) -> dict[int, State]:
    out.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.builders.deepspeed_training", str(directory), str(stage), str(steps), str(scale),
         str(out)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1800, check=False,
        env={
            **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "0", "LOCAL_RANK": "0",
            "WORLD_SIZE": "1", "LOCAL_SIZE": "1", "DS_ACCELERATOR": "cpu",
        },
    )  # fmt: skip
    # Its exit code says nothing: DeepSpeed's threads abort now and then at the end.
    assert out.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[int, State] = torch.load(out, weights_only=True)
    return found


def main(directory: str, stage: int, steps: int, scale: float, out: str) -> None:
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    torch.set_num_threads(1)
    torch.manual_seed(0)
    deepspeed.init_distributed("gloo", init_method=f"file://{out}.meeting", rank=0, world_size=1)  # no port is taken
    model = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Linear(7, 3))
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": stage},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        },
    )  # fmt: skip

    def state() -> Any:
        weights = {name: safe_get_full_fp32_param(p).clone() for name, p in engine.module.named_parameters()}
        return weights, [moments["exp_avg"].clone() for moments in engine.optimizer.optimizer.state.values()]

    seen = {}
    if Path(directory, "latest").exists():
        path, _ = engine.load_checkpoint(directory)
        assert path is not None
        seen[engine.global_steps] = state()
    for _ in range(steps):
        engine.backward(engine(scale * torch.randn(2, 4)).square().sum())
        engine.step()
        if engine.global_steps % 2 == 0:
            engine.save_checkpoint(directory)
            seen[engine.global_steps] = state()
    torch.save(seen, f"{out}.writing")
    Path(f"{out}.writing").replace(out)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
