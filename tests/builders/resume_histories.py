"""Random histories of real small runs, with a model beside them of which checkpoint an automatic resume has to take.

The model knows nothing of lineages: it remembers of every content which contents led to it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ckpt_tui.events.writer import EventWriter
from tests.trainer.faults.states import state_at
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.resume import Source
from trainer.checkpoint.state import NEEDED
from trainer.errors import UsageError

KINDS = ({"rolling"}, {"rolling", "best"}, {"emergency"}, {"epoch"}, set[str]())


@dataclass
class Model:
    """content: the number in a file's weights; 0 is the beginning. before: what led to it, itself included.

    live: what led to where the run is now.
    """

    before: dict[int, frozenset[int]] = field(default_factory=lambda: {0: frozenset()})
    step: dict[int, int] = field(default_factory=lambda: {0: 0})
    live: frozenset[int] = frozenset()
    bad: set[bytes] = field(default_factory=set)  # contents of files that were damaged


class History:
    """A run directory with what the model says of it."""

    def __init__(self, run: Path, seed: int) -> None:
        self.run, self.random, self.model = run, random.Random(seed), Model()
        self.everything: set[bytes] = set()
        self.now = 1_700_000_000.0

    def contents(self) -> Iterator[tuple[Path, int]]:
        """The checkpoints in the run directory that are whole, with their content's number."""
        for path in sorted(self.run.glob("*.pt")):
            if path.read_bytes() not in self.model.bad:
                yield path, int(torch.load(path, weights_only=True)["model"]["number"][0])

    def session(self, wanted: str | None, num_saves: int) -> None:
        """One session: resume, check the choice, save some, and die."""
        log = EventWriter(self.run, clock=lambda: self.now)
        policy = Policy(is_async=False, keep_rolling=3, keep_emergency=2)
        checkpoints = Checkpointer(self.run, policy, log=log, needed=NEEDED, say=lambda line: None)
        try:
            at = 0
            if wanted is not None:
                there = dict(self.contents())
                expected = self.expected(there)
                before = {path.read_bytes() for path in self.run.rglob("*.pt")}
                try:
                    source = checkpoints.find(wanted, settles=False)
                except UsageError:
                    assert wanted != "auto" or expected is None
                    return
                at = self.resumed(wanted, source, expected)
                if source is not None:
                    log.start(
                        start_step=source.step, resumed_from=source.as_event(),
                        lineage=[plain(segment) for segment in checkpoints.lineage],
                    )  # fmt: skip
                    checkpoints.settle(source)
                    # Nothing is ever deleted by a resume.
                    assert before == {path.read_bytes() for path in self.run.rglob("*.pt")}
            if wanted is None or at == 0:
                log.start(lineage=[plain(segment) for segment in checkpoints.lineage])
            self.save(checkpoints, log, at, num_saves)
        finally:
            checkpoints.close()
            log.close()

    def expected(self, there: dict[Path, int]) -> int | None:
        """The highest step of the live branch among what is there and whole."""
        steps = [self.model.step[content] for content in there.values() if content in self.model.live]
        return max(steps, default=None)

    def resumed(self, wanted: str, source: Source | None, expected: int | None) -> int:
        """Hold the choice against the model; gives its content."""
        if source is None:
            assert expected is None
            assert not list(self.run.glob("*.pt"))
            return 0
        content = int(source.state["model"]["number"][0])
        assert source.step == self.model.step[content]
        if wanted == "auto":
            assert content in self.model.live
            assert source.step == expected
        else:
            self.model.live = self.model.before[content]
        return content

    def save(self, checkpoints: Checkpointer, log: EventWriter, at: int, num_saves: int) -> None:
        model = self.model
        line, step = model.before[at], model.step[at]
        for _ in range(num_saves):
            step += self.random.randint(1, 40)
            number = len(model.step)
            line = line | {number}
            model.before[number], model.step[number] = line, step
            self.now += 60
            log.step(step, loss=1.0)
            state = state_at(step, width=200, epoch=number)
            state["model"] = {"number": torch.full((200,), float(number))}
            checkpoints.save(state, self.random.choice(KINDS))
            model.live = line

    def damage(self) -> None:
        """Cut a file or flip a bit in it: every name that shares its bytes is hit."""
        paths = [path for path, _ in self.contents()]
        if not paths:
            return
        path = self.random.choice(paths)
        data = bytearray(path.read_bytes())
        if self.random.random() < 0.5:
            del data[self.random.randrange(len(data)) :]
        else:
            number = int(torch.load(path, weights_only=True)["model"]["number"][0])
            at = bytes(data).index(torch.full((50,), float(number)).numpy().tobytes())
            data[at + self.random.randrange(200)] ^= 1 << self.random.randrange(8)
        with open(path, "r+b") as file:
            file.truncate(0)
            file.write(data)
        self.model.bad.add(bytes(data))

    def forget(self) -> None:
        """Somebody removes the registry, the log, or a checkpoint; or all times become the same."""
        what = self.random.randrange(4)
        if what == 0:
            (self.run / "registry.json").unlink(missing_ok=True)
        elif what == 1:
            (self.run / "events.jsonl").unlink(missing_ok=True)
        elif what == 2:
            paths = sorted(self.run.glob("*.pt"))
            if len(paths) > 2:
                self.random.choice(paths).unlink()
        else:
            for path in self.run.glob("*.pt"):
                os.utime(path, (1, 1))

    def something(self) -> None:
        """One of all that happens to a run."""
        what = self.random.random()
        if what < 0.35:
            self.session("auto", self.random.randint(0, 4))
        elif what < 0.6:
            names = [path.name for path, _ in self.contents()]
            self.session(self.random.choice([*names, "latest", "best"]), self.random.randint(0, 3))
        elif what < 0.85:
            self.damage()
        else:
            self.forget()


def plain(segment: Any) -> dict[str, Any]:
    return {name: getattr(segment, name) for name in ("session", "id", "start_step", "source")}
