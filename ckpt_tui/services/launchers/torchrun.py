"""`torchrun`, `python -m torch.distributed.run`: several processes, on one node or on many."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from ckpt_tui.services.launchers.base import (
    DEFAULT_PORT,
    Now,
    Taken,
    Where,
    before_script,
    is_free,
    number,
    option,
    program_now,
    python_part,
    script_now,
    take_script,
    with_option,
    without,
)

PROGRAMS = ("torchrun",)
MODULES = ("torch.distributed.run", "torch.distributed.launch")
# Options without a value; a test holds them against torch's own parser.
FLAGS = frozenset({
    "-h", "--help", "--standalone", "-m", "--module", "--no-python", "--run-path", "--virtual-local-rank", "--use-env",
})  # fmt: skip


class Torchrun:
    name = "torchrun"

    def take(self, words: Sequence[str]) -> Taken | None:
        part = python_part(words, MODULES, PROGRAMS)
        return take_script(words, part[0], FLAGS, modules=("-m", "--module")) if part is not None else None

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        found, notes, missing = program_now(words, where)
        missing += script_now(words, taken, where)
        not_known: list[str] = []
        num_nodes = number((option(found, "--nnodes") or "1").rpartition(":")[2], 1)
        if num_nodes > 1:
            not_known.append(self._other_nodes(found, num_nodes))
        elif "--standalone" not in found:
            found, said = self._on_a_free_port(found, taken)
            notes += said
        return Now(tuple(found), tuple(notes), tuple(missing), tuple(not_known))

    def _other_nodes(self, words: Sequence[str], num_nodes: int) -> str:
        rank = option(words, "--node-rank")
        others = f"the other {num_nodes - 1} of {num_nodes} nodes" if num_nodes > 2 else "the other node"
        if rank is None:
            return f"This starts one node: run the same command on {others}; whether they can be reached is not known."
        return (
            f"This starts node {rank}: run the same command on {others}, each with its own --node_rank; whether they"
            " can be reached is not known."
        )

    def _on_a_free_port(self, words: list[str], taken: Taken) -> tuple[list[str], list[str]]:
        """One node needs no fixed port. Where it is taken, the processes would fail, or meet those of another run."""
        backend = option(words, "--rdzv-backend") or "static"
        endpoint = option(words, "--rdzv-endpoint")
        port = number((endpoint or "").rpartition(":")[2] or option(words, "--master-port"), DEFAULT_PORT)
        host = (endpoint or "").rpartition(":")[0] or option(words, "--master-addr") or "localhost"
        if port == 0 or host not in ("localhost", "127.0.0.1", "::1", socket.gethostname()) or is_free(port):
            return words, []
        note = f"Port {port} is in use on this host: torchrun takes a free one."
        if backend == "c10d" and endpoint is not None:
            return with_option(words, "--rdzv-endpoint", "localhost:0"), [note]
        kept = without(words, "--master-port", "--master-addr", "--rdzv-endpoint", "--rdzv-backend", "--rdzv-id")
        return before_script(kept, taken, "--standalone"), [note]
