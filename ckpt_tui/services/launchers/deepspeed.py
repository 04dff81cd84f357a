"""`deepspeed`: processes on this host, or over ssh on those of a host file."""

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

# Options without a value; a test holds them against deepspeed's own parser.
FLAGS = frozenset({
    "-h", "--help", "--module", "--no-python", "--no-local-rank", "--no-ssh", "--no-ssh-check", "--force-multi",
    "--save-pid", "--bind-cores-to-rank", "-q", "--quiet",
})  # fmt: skip
_HOST_FILE = "/job/hostfile"  # deepspeed's own default


class Deepspeed:
    name = "deepspeed"

    def take(self, words: Sequence[str]) -> Taken | None:
        part = python_part(words, ("deepspeed.launcher.runner",), ("deepspeed", "ds"))
        return take_script(words, part[0], FLAGS, modules=("--module",)) if part is not None else None

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        found, notes, missing = program_now(words, where)
        missing += script_now(words, taken, where)
        not_known: list[str] = []
        hosts = option(found, "-H", "--hostfile")
        if hosts is not None and not os.path.isfile(os.path.join(where.cwd, hosts)):
            missing.append(f"deepspeed's host file {hosts} is not there (looked in {where.cwd})")
        if hosts is not None or os.path.isfile(_HOST_FILE):
            not_known.append("Whether the hosts in deepspeed's host file can be reached is not known.")
        port = number(option(found, "--master-port"), DEFAULT_PORT)
        if not is_free(port):
            free = next((p for p in range(port + 1, port + 100) if is_free(p)), port)
            notes.append(f"Port {port} is in use on this host: deepspeed takes {free}.")
            found = with_own_option(found, taken, "--master-port", str(free))
        return Now(tuple(found), tuple(notes), tuple(missing), tuple(not_known))
