"""What main found or holds, on every rank: the checkpoint that all resume from, and the random numbers of each."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from trainer.checkpoint.formats import load_checkpoint
from trainer.checkpoint.resume import Source
from trainer.checkpoint.state import BadCheckpointError, restore_rng_state, rng_state, seed_all
from trainer.distributed import World


def shared_source(world: World, find: Callable[[], Source | None]) -> Source | None:
    """What `find` gives on main, on every rank with the same state.

    Each rank reads the file itself and holds it against the digest; where the filesystem is not shared, main sends it.
    """
    if world.is_alone:
        return find()
    found: Source | None = None

    def described() -> Source | None:
        nonlocal found
        found = find()
        return None if found is None else replace(found, path=os.path.abspath(found.path), state={})

    told = world.from_main(described)
    if told is None:
        return None
    state: Mapping[str, Any] | None = found.state if found is not None else None
    if not world.is_main:
        try:
            state = load_checkpoint(told.path, told.digest).state
        except (BadCheckpointError, OSError):
            state = None
    if world.sum([state is None])[0]:
        sent = world.broadcast(state)
        state = sent if state is None else state
    assert state is not None
    if found is not None:
        return found
    source = replace(told, state=state)
    return source if told.best_put_back is None else source.with_best(told.best_put_back)


def rng_states(world: World) -> dict[str, Any]:
    """The random numbers' state of main, and under `ranks` of each one. Empty on the others: it is saved once."""
    mine = rng_state()
    if world.is_alone:
        return mine
    ranks = world.gather(mine)
    return {**mine, "ranks": ranks} if world.is_main else {}


def left_rng_state(step: int) -> bytes:
    """This rank's random numbers at `step`, to be left for main where ranks cannot gather any more."""
    buffer = io.BytesIO()
    torch.save({"step": step, "rng_state": rng_state()}, buffer)
    return buffer.getvalue()


def rng_states_left(world: World, step: int) -> dict[str, Any] | None:
    """As `rng_states` on main, of what every rank left; None when one left nothing, or is at another step."""
    words = world.last_words()
    if words is None:
        return None
    left = [torch.load(io.BytesIO(one), weights_only=True) for one in words]
    if any(one["step"] != step for one in left):
        return None
    return {**rng_state(), "ranks": [one["rng_state"] for one in left]}


def restore_rng_states(state: Mapping[str, Any], world: World, seed: int, step: int) -> bool:
    """Go on with this rank's random numbers; whether the state has one for each of these ranks.

    A rank without one gets numbers that follow from seed, step and rank, so that even this resume can be repeated.
    """
    ranks = state.get("ranks") or [state]
    if world.rank < len(ranks):
        restore_rng_state(ranks[world.rank])
    else:
        seed_rank(seed + step, world)
    return len(ranks) == world.size


def seed_rank(seed: int, world: World) -> None:
    """Random numbers of its own for each rank but the first, whose are those of a single process."""
    if world.rank > 0:
        seed_all((seed * 1_000_003 + world.rank * 7_919) % 2**63)
