"""Real processes over gloo: what they agree on, and who is named when one of them dies, fails or hangs."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.trainer.faults.nursery import Nursery
from trainer.distributed import World
from trainer.errors import UsageError

REPO = Path(__file__).parents[2]
# Each rank agrees with the others on ten steps; rank 1 ends at step 5 in the way that is asked for.
RANK = """
import os, signal, sys, time
import torch.distributed
from trainer.distributed import World
mode = sys.argv[1]
if mode == "kill, and one looks late" and os.environ["RANK"] == "2":
    from trainer.parallel.heartbeat import Heartbeat
    find_lost = Heartbeat.find_lost
    Heartbeat.find_lost = lambda heartbeat: (time.sleep(1.5), find_lost(heartbeat))[1]
world = World.join(float(sys.argv[2]))
try:
    for step in range(10):
        world.at(step)
        if step == 5 and world.rank == 1:
            if mode.startswith("kill"):
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


def environments(size: int) -> list[dict[str, str]]:
    """Of the ranks of a group, as torchrun makes them."""
    port = str(free_port())
    return [
        {
            "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        }
        for rank in range(size)
    ]  # fmt: skip


def free_port() -> int:
    """One that nobody listens on, that no connection of another test is given by the system (those are higher), and
    that no other process of this test run takes between now and its use."""
    chance = random.SystemRandom()
    first = 15_000 + 2_000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8)
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", first + chance.randrange(2_000)))
            return int(listener.getsockname()[1])


@pytest.fixture
def ranks(nursery: Nursery) -> Callable[[str, int, float], list[tuple[int, str]]]:
    """Run that many of them; gives (exit code, output) of each."""
    nursery.load("torch.distributed")  # what a limit is for begins when it is loaded

    def run(mode: str, size: int, timeout_seconds: float) -> list[tuple[int, str]]:
        nursery.start_ranks([mode, str(timeout_seconds)], environments(size), code=RANK)
        return [(rank.code, rank.output) for rank in nursery.finish_ranks()]

    return run


Ranks = Callable[[str, int, float], list[tuple[int, str]]]


def test_ranks_agree(ranks: Ranks) -> None:
    assert ranks("well", 2, 300) == [(0, "")] * 2


@pytest.mark.parametrize("mode", ["kill", "kill, and one looks late"])
def test_a_killed_rank_is_named_with_its_step(mode: str, ranks: Ranks) -> None:
    """By all: who serves what they look into stays until each has."""
    (first, told_first), (killed, _), (third, told_third) = ranks(mode, 3, 300)
    assert (first, killed, third) == (1, -9, 1)
    for told in (told_first, told_third):
        assert "lost at step 5: rank 1 is gone: its process ended at step 5" in told


def test_a_rank_that_fails_by_itself_is_named_with_its_reason(ranks: Ranks) -> None:
    (first, told), (second, own) = ranks("fail", 2, 300)
    assert (first, second) == (1, 1)
    assert "rank 1 failed (RuntimeError: CUDA out of memory) at step 5" in told
    assert "own error: CUDA out of memory" in own


def test_a_hanging_rank_is_named_by_those_that_wait_and_ends_too(ranks: Ranks) -> None:
    (first, told), (hanging, told_itself), (third, told_third) = ranks("hang", 3, 4)
    assert (first, hanging, third) == (1, 1, 1)
    for one in (told, told_third):
        assert "lost at step 5: rank 1 hangs (it is alive, and did not come) at step 5" in one
    assert "rank 1 did not move for 4 s at step 5" in told_itself


def test_a_rank_that_never_comes_is_named(nursery: Nursery) -> None:
    nursery.start_ranks(["well", "3"], environments(2)[:1], code=RANK)
    alone = nursery.finish()
    assert alone.code == 1
    assert "UsageError: 2 processes were to meet" in alone.output


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
