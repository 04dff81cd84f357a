"""A resume made up its mind: what that changes in the run directory, before training goes on."""

from __future__ import annotations

import os
from collections.abc import Callable

from ckpt_tui.events.schema import CheckpointQuarantined, CheckpointRestored
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import names
from trainer.checkpoint.publish import PublishError, publish
from trainer.checkpoint.publish_directory import flush_directory, link_directory
from trainer.checkpoint.quarantine import quarantine
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import Rejected, Source


def settle(source: Source, registry: Registry, log: EventWriter | None, say: Callable[[str], None]) -> list[str]:
    """Go on from `source`: move what is proven to be bad to quarantine, give a missing latest back, and where a person
    chose the checkpoint, make the session's lineage that of the run.

    Gives the names of the rejected ones that are still in place. What cannot be moved or written is told, and training
    goes on: nothing that it depends on is changed here. Only for the holder of the directory's lock.
    """
    directory = registry.directory
    in_place = []
    num_moved = 0
    for one in source.rejected:
        to = _moved(directory, one.name, one.why, one.damage, say) if one.damage else None
        if to is None:
            in_place.append(one.name)
            num_moved += _kept(one, registry, say)
            continue
        num_moved += 1
        say(f"moved {one.name} to {to}")
        if log is not None:
            log.emit(CheckpointQuarantined(step=source.step, path=one.name, to=to, why=one.why))
    if not source.is_found:
        registry.stored_lineage = registry.lineage
    is_latest_back = _put_latest_back(source, registry, log, say)
    if num_moved or is_latest_back or not source.is_found or registry.is_stale:
        try:
            registry.sync()
            registry.write()
        except PublishError as error:
            say(f"registry.json could not be written ({error.stage}): {error.reason}")
        except OSError as error:
            say(f"the checkpoints could not be listed for registry.json: {error.strerror or error}")
    return in_place


def _kept(one: Rejected, registry: Registry, say: Callable[[str], None]) -> bool:
    """Give what is not proven bad a name that no save replaces, where it has none: it may be the newest of the run,
    made by a newer trainer. Whether it got one."""
    directory, entry = registry.directory, registry.entries.get(one.name)
    if one.damage or one.step is None or entry is None or entry["kind"] not in ("latest", "best"):
        return False
    kinds = {other["kind"] for other in registry.entries.values() if other["inode"] == entry["inode"]}
    if kinds & {"rolling", "emergency", "epoch"}:
        return False
    is_directory = os.path.isdir(os.path.join(directory, one.name))
    name = names.emergency_name(directory, one.step, "" if is_directory else ".pt")
    try:
        if is_directory:
            link_directory(directory, os.path.join(directory, one.name), name)
        else:
            os.link(os.path.join(directory, one.name), os.path.join(directory, name))
            flush_directory(directory)
    except (PublishError, OSError) as error:
        say(f"{one.name} (step {one.step}) cannot be kept under another name: {error}")
        return False
    say(f"{one.name} (step {one.step}) is kept as {name}")
    return True


def _moved(directory: str, name: str, why: str, damage: str, say: Callable[[str], None]) -> str | None:
    try:
        return quarantine(directory, name, why, damage)
    except OSError as error:
        say(f"{name} could not be moved to quarantine: {error.strerror or error}")
        return None


def _put_latest_back(source: Source, registry: Registry, log: EventWriter | None, say: Callable[[str], None]) -> bool:
    """Give a missing `latest.pt` what training goes on from: until the next save, that is the latest."""
    directory = registry.directory
    is_directory = os.path.isdir(source.path)
    name = names.LATEST.removesuffix(".pt") if is_directory else names.LATEST
    latest = os.path.join(directory, name)
    if source.name not in registry.entries or os.path.lexists(latest):
        return False
    try:
        if is_directory:
            link_directory(directory, source.path, name)
        else:
            os.link(source.path, latest)
            flush_directory(directory)
    except PublishError as error:
        say(f"{name} is missing and cannot be put back from {source.name}: {error}")
        return False
    except OSError:
        # A filesystem without hard links: bytes of its own.
        try:
            with open(source.path, "rb") as file:
                publish(directory, [name], file.read())
        except (PublishError, OSError) as error:
            say(f"{name} is missing and cannot be put back from {source.name}: {error}")
            return False
    why = f"{name} was missing"
    if log is not None:
        log.emit(CheckpointRestored(step=source.step, path=name, source=source.name, by="trainer", why=why))
    say(f"{why}: put back from {source.name} (step {source.step})")
    return True
