"""Sessions of a small loop that saves by the real Checkpointer, for tests of what the next one resumes from."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import Source, find

NEEDED = ("step", "model")


def state(step: int, **more: Any) -> dict[str, Any]:
    """Somebody's training at `step`: what is in it tells the step, so that a mix-up is seen."""
    return {"step": step, "model": {"weight": torch.full((300,), float(step))}, "optimizer": {}, **more}


def session(run: Path, wanted: str | None = "auto", *, steps: tuple[int, ...] = ()) -> Source | None:
    """One session as any loop would have it: begin or resume, save at `steps`, and die without a word."""
    log = EventWriter(run)
    checkpoints = Checkpointer(run, Policy(is_async=False), log=log, needed=NEEDED, say=lambda line: None)
    source = None
    try:
        if wanted is not None:
            source = checkpoints.find(wanted, settles=False)
        log.start(
            start_step=source.step if source else 0,
            resumed_from=source.as_event() if source else None,
            lineage=[vars_of(segment) for segment in checkpoints.lineage],
        )
        if source is not None:
            checkpoints.settle(source)
        for step in steps:
            log.step(step, loss=1.0)
            checkpoints.save(state(step), {"rolling"})
    finally:
        checkpoints.close()
        log.close()
    return source


def vars_of(segment: Any) -> dict[str, Any]:
    return {name: getattr(segment, name) for name in ("session", "id", "start_step", "source")}


def found(run: Path, wanted: str = "auto") -> Source:
    registry = Registry(str(run))
    registry.sync()
    source = find(str(run), wanted, registry, NEEDED)
    assert source is not None
    assert float(source.state["model"]["weight"][7]) == source.step
    return source


def flip(path: Path) -> None:
    """One bit of the weights, in place: every name of the file has it."""
    step = torch.load(path, weights_only=True)["step"]
    index = path.read_bytes().index(struct.pack("<f", step) * 100) + 41
    with open(path, "r+b") as file:
        file.seek(index)
        byte = file.read(1)
        file.seek(index)
        file.write(bytes([byte[0] ^ 1]))


def events(run: Path) -> list[Event]:
    decoded = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    return [event for event in decoded if isinstance(event, Event)]


def three_saves(run: Path) -> Path:
    """60, 120, 180 by rolling saves of one session."""
    session(run, None, steps=(60, 120, 180))
    return run
