"""What every file must survive: an answer or a `CkptError`, in bounded time and memory, with nothing run."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import time
from pathlib import Path

from ckpt_tui.checkpoints.diff import diff_checkpoints
from ckpt_tui.checkpoints.facts import count_parameters, model_tensors
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.checkpoints.validate import OUTCOMES, VERDICTS, validate_checkpoint
from ckpt_tui.checkpoints.values import tensor_statistics
from ckpt_tui.commands import inspect, validate
from ckpt_tui.commands.inspect_json import inspect_data
from ckpt_tui.errors import CkptError
from ckpt_tui.output import Output, Style
from ckpt_tui.text import safe_text

MAX_CPU_S = 1.0  # over a good file, which takes a few milliseconds
MAX_GROWTH_MB = 200
HANG_S = 20


class Broken(Exception):  # noqa: N818 - a finding of the fuzzer
    """A promise that a file broke."""


class Target:
    """Reads one spoiled checkpoint after the other, and watches the clock and the memory."""

    def __init__(self, whole: str) -> None:
        self.whole = whole  # the checkpoint before it was spoiled, for `diff`
        self.num_opened = 0
        self._base_kb = _peak_kb()

    def run(self, path: str, chance: random.Random) -> None:
        """Raises whatever breaks: `Broken`, or the exception that no user may see."""
        signal.signal(signal.SIGALRM, _hangs)
        signal.setitimer(signal.ITIMER_REAL, HANG_S)
        started = time.process_time()
        try:
            self._read(path, chance)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        used = time.process_time() - started
        if used > MAX_CPU_S:
            raise Broken(f"{used:.1f} s of CPU")
        peak_kb = _peak_kb()
        if peak_kb - self._base_kb > MAX_GROWTH_MB * 1024:
            grown, self._base_kb = peak_kb - self._base_kb, peak_kb
            raise Broken(f"memory grew by {grown // 1024} MB")

    def _read(self, path: str, chance: random.Random) -> None:
        try:
            checkpoint = open_checkpoint(path)
        except CkptError as error:
            if not error.title or not error.message:
                raise Broken("an error without words") from error
            if chance.random() < 0.05:
                _judge(path)
            return
        self.num_opened += 1
        _check(checkpoint, path)
        turn = chance.random()
        if turn < 0.10:
            for tensor in chance.sample(checkpoint.tensors, min(3, len(checkpoint.tensors))):
                with contextlib.suppress(CkptError):
                    tensor_statistics(checkpoint, tensor, bins=8)
        elif turn < 0.15:
            _judge(path)
        elif turn < 0.17:
            with contextlib.suppress(CkptError):
                diff_checkpoints(open_checkpoint(self.whole), checkpoint)
        elif turn < 0.20:
            _show(path)
        elif turn < 0.21 and sniff(path) is None:
            raise Broken("it opens, yet is not known by its content")


def _check(checkpoint: Checkpoint, path: str) -> None:
    """What every Checkpoint promises, whatever the file."""
    sizes: dict[str, int] = {}
    for storage in checkpoint.storages.values():
        where = os.path.join(path, storage.file) if storage.file else path
        if storage.offset is None:
            continue
        if where not in sizes:
            if os.path.commonpath([os.path.realpath(path), os.path.realpath(where)]) != os.path.realpath(path):
                raise Broken(f"a storage lies outside: {storage.file!r}")
            sizes[where] = Path(where).stat().st_size
        taken = storage.size_bytes if storage.deflated_bytes is None else storage.deflated_bytes
        if storage.offset < 0 or taken < 0 or storage.offset + taken > sizes[where]:
            raise Broken(f"storage {storage.key!r} goes beyond its file: {storage.offset} + {taken} > {sizes[where]}")
    for tensor in checkpoint.tensors:
        if type(tensor.name) is not str or any(type(extent) is not int or extent < 0 for extent in tensor.shape):
            raise Broken(f"tensor {tensor.name!r} of shape {tensor.shape!r}")
    json.dumps(inspect_data(checkpoint, checkpoint.tensors, count_parameters(model_tensors(checkpoint)), {}))


def _judge(path: str) -> None:
    found = validate_checkpoint(path)
    if found.verdict not in VERDICTS or not set(found.levels.values()) <= set(OUTCOMES):
        raise Broken(f"no verdict: {found.verdict} {found.levels}")
    if found.verdict != "valid" and not found.findings:
        raise Broken(f"{found.verdict} without a reason")


def _show(path: str) -> None:
    """The text for people holds no control character."""
    style = Style(width=80, colour=False, unicode=True)
    arguments = argparse.Namespace(path=path, filter=None, all=True, stats=False, screen=False)
    lines: list[str] = []
    try:
        result = inspect.run(arguments, Output("inspect"))
        assert not isinstance(result, int)
        view = result.view
        assert view is not None
        lines += view(style)
    except CkptError as error:
        lines += [safe_text(error.message, 2000), safe_text(error.hint, 2000)]
    lines += validate._lines([validate_checkpoint(path, levels=("structure",))], style)
    if any(char < " " or "\x7f" <= char < "\xa0" for line in lines for char in line):
        raise Broken("a control character in the text for people")


def _hangs(*_: object) -> None:
    raise Broken(f"no answer within {HANG_S} s")


def _peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def temporary_root() -> Path:
    """Memory instead of a disk, where there is one: a million files are written."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
