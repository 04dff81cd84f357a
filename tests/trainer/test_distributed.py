"""Real processes over gloo: what they agree on, and who is named when one of them dies, fails or hangs."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainer.distributed import World
from trainer.errors import UsageError

REPO = Path(__file__).parents[2]
# Each rank agrees with the others on ten steps; rank 1 ends at step 5 in the way that is asked for.
RANK = """
import os, signal, sys, time
import torch.distributed
from trainer.distributed import World
mode = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
world = World.join(float(sys.argv[2]))
try:
    for step in range(10):
        world.at(step)
        if step == 5 and world.rank == 1:
            if mode == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if mode == "hang":
                time.sleep(1000)
            if mode == "fail":
                raise RuntimeError("CUDA out of memory")
        assert world.agree([step * world.rank, -world.rank]) == [step * (world.size - 1), 0]
    assert world.mean([world.rank]) == [(world.size - 1) / 2]
    assert world.mean([float("nan") if world.rank else 1.0])[0] != 0.0
    assert world.from_main(lambda: {"rank": world.rank}) == {"rank": 0}
    assert world.gather(world.rank * "x") == (["x" * rank for rank in range(world.size)] if world.is_main else [])
    import torch
    assert world.rows(torch.arange(4)).tolist() == [2 * world.rank, 2 * world.rank + 1]
except Exception as error:
    print(world.lost(error) or f"own error: {error}", flush=True)
    world.close()
    sys.exit(1)
world.close()
"""


def environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        **os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(REPO),
    }  # fmt: skip


def free_port() -> int:
    """One that nobody listens on, and that no connection of another test is given by the system (those are higher)."""
    chance = random.SystemRandom()
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", chance.randrange(15_000, 32_000)))
            return int(listener.getsockname()[1])


def ranks(mode: str, size: int, timeout_seconds: float) -> list[tuple[int, str]]:
    """(exit code, output) of each rank."""
    port = free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, mode, str(timeout_seconds)], env=environment(rank, size, port), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in range(size)
    ]  # fmt: skip
    # What a limit is for begins when each has loaded torch: how much later one has may be more than the limit.
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_ranks_agree() -> None:
    assert ranks("well", 2, 300) == [(0, "")] * 2


def test_a_killed_rank_is_named_with_its_step() -> None:
    (first, told_first), (killed, _), (third, told_third) = ranks("kill", 3, 300)
    assert (first, killed, third) == (1, -9, 1)
    for told in (told_first, told_third):
        assert "lost at step 5: rank 1 is gone: its process ended at step 5" in told


def test_a_rank_that_fails_by_itself_is_named_with_its_reason() -> None:
    (first, told), (second, own) = ranks("fail", 2, 300)
    assert (first, second) == (1, 1)
    assert "rank 1 failed (RuntimeError: CUDA out of memory) at step 5" in told
    assert "own error: CUDA out of memory" in own


def test_a_hanging_rank_is_named_by_those_that_wait_and_ends_too() -> None:
    (first, told), (hanging, told_itself), (third, told_third) = ranks("hang", 3, 4)
    assert (first, hanging, third) == (1, 1, 1)
    for one in (told, told_third):
        assert "lost at step 5: rank 1 hangs (it is alive, and did not come) at step 5" in one
    assert "rank 1 did not move for 4 s at step 5" in told_itself


def test_a_rank_that_never_comes_is_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RANK, "well", "3"], env=environment(0, 2, free_port()), text=True, capture_output=True,
        timeout=300, check=False, input="go\n",
    )  # fmt: skip
    assert done.returncode == 1
    assert "UsageError: 2 processes were to meet" in done.stderr


@pytest.mark.parametrize("given", [{"RANK": "two"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1"}])
def test_an_environment_that_makes_no_sense_is_refused(given: Mapping[str, str]) -> None:
    with pytest.raises(UsageError):
        World.join(1.0, given)


def test_one_process_needs_no_torch_distributed() -> None:
    program = (
        "import sys; from trainer.distributed import World; world = World.join(1.0, {})\n"
        "assert world.agree([1, 2]) == [1, 2] and world.gather('x') == ['x'] and world.broadcast(3) == 3\n"
        "world.barrier(); world.at(1); world.close(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, timeout=300)
