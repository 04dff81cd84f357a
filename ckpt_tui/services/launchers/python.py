"""A script or a module that Python runs, and any other program with options of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ckpt_tui.services.launchers.base import Now, Taken, Where, after_interpreter, number, program_now, script_now


class Python:
    """`python [flags] SCRIPT` or `-m MODULE`."""

    name = "python"

    def take(self, words: Sequence[str]) -> Taken | None:
        index = after_interpreter(words)
        if index is None:
            return None
        if words[index] in ("-m", "-c"):
            if index + 1 >= len(words):
                return None
            is_module = words[index] == "-m"
            return Taken(index + 2, words[index + 1] if is_module else "-c", is_module, 2)
        return Taken(index + 1, words[index], False, 1)

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        found, notes, missing = program_now(words, where)
        not_known: tuple[str, ...] = ()
        if where.environment.get("RANK") and number(where.environment.get("WORLD_SIZE"), 1) > 1:
            ranks = where.environment["WORLD_SIZE"]
            not_known = (f"It was one of {ranks} processes that were started one by one: the others are not known.",)
        return Now(tuple(found), tuple(notes), (*missing, *script_now(words, taken, where)), not_known)


class Program:
    """A program that is no launcher of ours: `yolo`, `litgpt`, `./train.sh`. What follows it are its arguments."""

    name = "program"
    _SHELLS = ("sh", "bash", "zsh", "dash", "ksh")

    def take(self, words: Sequence[str]) -> Taken | None:
        if len(words) > 1 and os.path.basename(words[0]) in self._SHELLS and not words[1].startswith("-"):
            return Taken(2, words[1], False, 1)
        return Taken(1, words[0], False, 1) if words else None

    def now(self, words: Sequence[str], taken: Taken, where: Where) -> Now:
        found, notes, missing = program_now(words, where)
        not_known: tuple[str, ...] = ()
        if len(words) == 2:
            missing += script_now(words, taken, where)
            if not _passes_arguments(os.path.join(where.cwd, taken.script)):
                not_known = (f"Whether {taken.script} hands its arguments on to the training is not known.",)
        return Now(tuple(found), tuple(notes), tuple(missing), not_known)


def _passes_arguments(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            text = file.read(1 << 20)
    except OSError:
        return False
    return any(word in text for word in (b"$@", b"$*", b"${@", b"${*"))
