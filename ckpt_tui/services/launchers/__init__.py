"""Launchers: what starts a training's script. A new one is a file here and an entry in `LAUNCHERS`."""

from __future__ import annotations

from collections.abc import Sequence

from ckpt_tui.services.launchers.accelerate import Accelerate
from ckpt_tui.services.launchers.base import Launcher, Split, Taken
from ckpt_tui.services.launchers.deepspeed import Deepspeed
from ckpt_tui.services.launchers.python import Program, Python
from ckpt_tui.services.launchers.torchrun import Torchrun
from ckpt_tui.services.launchers.wrapped import Wrapped

# In the order in which they look at a command; the last one takes whatever is left.
LAUNCHERS: tuple[Launcher, ...] = (Torchrun(), Accelerate(), Deepspeed(), Wrapped(), Python(), Program())


def split_command(argv: Sequence[str]) -> Split:
    """The launchers and the script of a command, and the script's own arguments."""
    words = list(argv)
    parts: list[tuple[Launcher, tuple[str, ...], Taken]] = []
    while words:
        launcher, taken = next((one, found) for one in LAUNCHERS if (found := one.take(words)) is not None)
        parts.append((launcher, tuple(words[: taken.num_words]), taken))
        words = words[taken.num_words :]
        if taken.script:
            break
    last = parts[-1] if parts else None
    name = last[0].name if last is not None else "python"
    return Split(
        tuple(parts), tuple(words), "python" if name == "wrapped" else name,
        last[2].script if last is not None else "", last is not None and last[2].is_module,
    )  # fmt: skip
