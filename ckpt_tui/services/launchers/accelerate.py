"""`accelerate launch`: its settings come from its options and from a config file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckpt_tui.services.launchers.base import (
    DEFAULT_PORT,
    Now,
    Taken,
    Where,
    is_free,
    number,
    option,
    program_now,
    python_part,
    script_now,
    take_script,
    with_own_option,
)

# Options without a value; a test holds them against accelerate's own parser.
FLAGS = frozenset({
    "-h", "--help", "--quiet", "-q", "--cpu", "--multi-gpu", "--tpu", "--enable-cpu-affinity",
    "--dynamo-use-fullgraph", "--dynamo-use-dynamic", "--dynamo-use-regional-compilation", "--use-deepspeed",
    "--use-fsdp", "--use-parallelism-config", "--use-megatron-lm", "--same-network", "-m", "--module", "--no-python",
    "--tpu-cluster", "--no-tpu-cluster", "--tpu-use-sudo", "--downcast-bf16", "--fp8-use-autocast-during-eval",
    "--debug", "--use-xpu", "--ipex",
})  # fmt: skip


class Accelerate:
    name = "accelerate"

    def take(self, words: Sequence[str]) -> Taken | None:
        part = python_part(words, ("accelerate.commands.launch",), ("accelerate-launch",))
        start = part[0] if part is not None else None
        if start is None:
            part = python_part(words, ("accelerate.commands.accelerate_cli",), ("accelerate",))
            if part is None or words[part[0] : part[0] + 1] != ["launch"]:
                return None
            start = part[0] + 1
        return take_script(words, start, FLAGS, modules=("-m", "--module"))

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        found, notes, missing = program_now(words, where)
        missing += script_now(words, taken, where)
        not_known: list[str] = []
        config = option(found, "--config-file")
        if config is not None and not os.path.isfile(os.path.join(where.cwd, config)):
            missing.append(f"accelerate's config file {config} is not there (looked in {where.cwd})")
        if config is None and os.path.isfile(default := _default_config()):
            not_known.append(f"Whether accelerate's config ({default}) is as it was at the start is not known.")
        num_machines = number(option(found, "--num-machines"), 1)
        if num_machines > 1:
            rank = option(found, "--machine-rank") or "0"
            not_known.append(
                f"This starts machine {rank} of {num_machines}: run the same command on the others, each with its own"
                " --machine_rank; whether they can be reached is not known."
            )
        elif number(option(found, "--num-processes"), 1) > 1 or "--multi_gpu" in found:
            port = number(option(found, "--main-process-port"), DEFAULT_PORT)
            if port and not is_free(port):
                notes.append(f"Port {port} is in use on this host: accelerate takes a free one.")
                found = with_own_option(found, taken, "--main-process-port", "0")
        return Now(tuple(found), tuple(notes), tuple(missing), tuple(not_known))


def _default_config() -> str:
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", os.path.join(cache, "huggingface"))
    return os.path.expanduser(os.path.join(home, "accelerate", "default_config.yaml"))
