"""Makes `deepspeed/`: a small training at every ZeRO stage, of one process and of two, as DeepSpeed saves it.

DeepSpeed compiles an operation at its first start, which takes minutes where the machine is busy, so that the
results are committed:
.venv/bin/python -m tests.samples.make_deepspeed [DIRECTORY]
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

# name: ZeRO stage, processes, whether in bfloat16
SAMPLES = {
    "zero0": (0, 1, False),
    "zero1_two_ranks": (1, 2, False),
    "zero2": (2, 1, False),
    "zero2_two_ranks_bf16": (2, 2, True),
    "zero3": (3, 1, False),
    "zero3_two_ranks": (3, 2, False),
}


def save(directory: str, stage: int, rank: int, num_ranks: int, port: int, is_bf16: bool) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_ranks), LOCAL_SIZE=str(num_ranks), DS_ACCELERATOR="cpu",
    )  # fmt: skip
    import deepspeed
    import torch

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        """A frozen layer, a buffer, and a weight that stands under two names."""

        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(4, 7)
            self.norm = torch.nn.LayerNorm(7)
            self.last = torch.nn.Linear(7, 3)
            self.frozen = torch.nn.Linear(3, 3).requires_grad_(False)
            self.tied = torch.nn.Linear(4, 7, bias=False)
            self.tied.weight = self.first.weight
            self.register_buffer("counter", torch.tensor([3.0]))

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return self.frozen(self.last(self.norm(self.first(batch) + self.tied(batch)))).sum()

    model = Net()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": is_bf16},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10}},
    }
    groups = [
        {"params": [p for name, p in trained.items() if name.endswith("weight")], "weight_decay": 0.1},
        {"params": [p for name, p in trained.items() if name.endswith("bias")], "weight_decay": 0.0},
    ]
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=config)
    for _ in range(3):
        engine.backward(engine(torch.randn(2, 4, dtype=torch.bfloat16 if is_bf16 else torch.float32)))
        engine.step()
    engine.save_checkpoint(directory, client_state={"epoch": 1, "args": {"seed": 7}})


def make(directory: Path, name: str) -> None:
    """One sample into `directory`, without the scripts that DeepSpeed lays beside it."""
    stage, num_ranks, is_bf16 = SAMPLES[name]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [str(directory), str(stage)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.samples.make_deepspeed", *arguments, str(rank), str(num_ranks), str(port),
             str(int(is_bf16))],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
        )
        for rank in range(num_ranks)
    ]  # fmt: skip
    try:
        for process in ranks:
            process.wait(timeout=1800)  # the exit code says nothing: DeepSpeed's threads abort now and then at the end
    finally:
        for process in ranks:
            process.kill()
    for script in directory.glob("*.py"):
        script.unlink()


def main(directory: Path) -> None:
    for name in SAMPLES:
        shutil.rmtree(directory / name, ignore_errors=True)
        make(directory / name, name)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        save(sys.argv[1], *(int(word) for word in sys.argv[2:6]), is_bf16=sys.argv[6] == "1")
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "deepspeed")
