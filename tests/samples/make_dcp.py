"""Makes `dcp_two_ranks/`: a small FSDP2 training of two processes, saved by torch.distributed.checkpoint.

Takes 10 s, so that its result is committed: .venv/bin/python -m tests.samples.make_dcp [DIRECTORY]
"""

from __future__ import annotations

import os
import socket
import sys
import warnings
from pathlib import Path

NUM_RANKS = 2


def save(rank: int, port: int, directory: str) -> None:
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(NUM_RANKS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (NUM_RANKS,))
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 7)  # 7 rows on 2 ranks: 4 and 3
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    model_state, optimizer_state = get_state_dict(model, optimizer)
    numbers = torch.arange(15.0).reshape(3, 5)
    state = {
        "model": model_state,
        "optimizer": optimizer_state,
        "step": 7,
        "columns": distribute_tensor(numbers, mesh, [Shard(1)]),
        "one_row": distribute_tensor(numbers[:1], mesh, [Shard(0)]),  # nothing of it is on the second rank
        "replica": distribute_tensor(numbers[0], mesh, [Replicate()]),
    }
    dcp.save(state, checkpoint_id=directory)
    dist.destroy_process_group()


def main(directory: Path) -> None:
    import torch.multiprocessing as mp

    warnings.simplefilter("ignore")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(save, (port, str(directory)), NUM_RANKS)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dcp_two_ranks")
