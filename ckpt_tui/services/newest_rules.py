"""What other people's loops take for the newest checkpoint, and what has to change for them to take another one.

- Hugging Face's Trainer (`get_last_checkpoint`): the directory `checkpoint-N` with the highest N.
- Lightning (`ckpt_path="last"`): of `last.ckpt`, `last-v1.ckpt` ... the one that was written last.
- DeepSpeed: the tag in the file `latest`. Megatron-LM: the number in `latest_checkpointed_iteration.txt`.
- accelerate (`load_state()` with automatic names): the entry of `checkpoints/` with the highest number in its name,
  which is no step. An entry without a number ends it, and with `total_limit` it deletes by that number: so nothing of
  ours may lie there.
- Ultralytics and most others: a file called `last` or `latest`, or the highest step.

So beyond setting aside what is newer, a pointer is written anew, and what is called `last` becomes a copy.
"""

from __future__ import annotations

import os
import re

from ckpt_tui.errors import CkptError
from ckpt_tui.services.catalog import Catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.files import content_of
from ckpt_tui.services.journal import Move
from ckpt_tui.services.plans import safe_name
from ckpt_tui.text import run_word, safe_text

POINTER_NAME, MEGATRON_POINTER_NAME = "latest", "latest_checkpointed_iteration.txt"
_MAX_POINTER_BYTES = 4096
_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,18})")
_OF_ACCELERATE = "random_states_0.pkl"  # in each of its checkpoints
_MEGATRON = re.compile(r"iter_0*(\d{1,18})")


def why_nothing_beside(directory: str) -> str:
    """Why nothing of ours may lie in `directory`, in a sentence; "" where it may."""
    path = os.path.abspath(directory)
    if os.path.basename(path) != "checkpoints":
        return ""
    try:
        inside = [name for name in os.listdir(path) if name.startswith("checkpoint_")]
    except OSError:
        return ""
    if not any(os.path.exists(os.path.join(path, name, _OF_ACCELERATE)) for name in inside):
        return ""
    return (
        f"accelerate takes everything in {safe_text(path, 1000)} for its checkpoints: with anything else beside them "
        "it fails to load, or deletes by number."
    )


def require_room_beside(directory: str) -> None:
    """Raise CkptError where a deed's folder would lie among what another program counts and deletes."""
    if why := why_nothing_beside(directory):
        above = os.path.dirname(os.path.abspath(directory))
        raise CkptError(
            "Not in this directory", f"{why} Nothing was changed.",
            f"Give the directory above: {run_word(above)}; the checkpoints are called checkpoints/... there.",
        )  # fmt: skip


def place_of(name: str) -> str:
    """The directory that a checkpoint lies in, relative to the run directory: "" or with a slash at its end."""
    return name[: name.rfind("/") + 1]


def numbered_after(catalog: Catalog, target: CatalogEntry) -> list[CatalogEntry]:
    """Those beside `target` whose names only differ by a higher number: newer ones where no step is told."""
    mine = _NUMBERED.fullmatch(target.name)
    if mine is None:
        return []
    found = []
    for entry in catalog.entries:
        other = _NUMBERED.fullmatch(entry.name)
        if other is not None and other["stem"] == mine["stem"] and int(other["number"]) > int(mine["number"]):
            found.append(entry)
    return found


def called_last(catalog: Catalog, target: CatalogEntry) -> list[CatalogEntry]:
    """What lies beside `target` under the name of the newest one, in the same form, and is of another step."""
    place, suffix = place_of(target.name), os.path.splitext(target.name)[1]
    is_directory = os.path.isdir(target.path)
    found = [
        entry
        for entry in catalog.entries
        if entry.kind == "latest" and not entry.is_backup and entry.name != target.name
        and place_of(entry.name) == place and os.path.splitext(entry.name)[1] == suffix
        and os.path.isdir(entry.path) == is_directory
        and (entry.step != target.step or entry.is_bad)
    ]  # fmt: skip
    return sorted(found, key=lambda entry: (len(entry.name), entry.name))


def pointer_moves(directory: str, target: CatalogEntry, sentences: list[str]) -> list[Move]:
    """The files beside `target` that name the newest one, written to name it."""
    moves = []
    place, base = place_of(target.name), os.path.basename(target.name)
    wanted = {POINTER_NAME: base if os.path.isdir(target.path) else ""}
    if (iteration := _MEGATRON.fullmatch(base)) is not None:
        wanted[MEGATRON_POINTER_NAME] = iteration[1]
    for name, says in wanted.items():
        now = _pointer(os.path.join(directory, place + name))
        if now is None or not says or now.strip() == says:
            continue
        end = "\n" if now.endswith("\n") else ""
        before = content_of(os.path.join(directory, place + name))
        moves.append(Move(place + name, "write", before=before, data=(says + end).encode()))
        sentences.append(f"{safe_name(place + name)} names {safe_name(says)} instead of {safe_name(now.strip())}.")
    return moves


def _pointer(path: str) -> str | None:
    """What a pointer file says; None when it is none."""
    try:
        if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > _MAX_POINTER_BYTES:
            return None
        with open(path, encoding="ascii") as file:
            said = file.read(_MAX_POINTER_BYTES)
    except (OSError, ValueError):
        return None
    return said if said.strip() and "\n" not in said.strip() else None
