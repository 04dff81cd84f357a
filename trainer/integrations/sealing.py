"""Checkpoint directories that another library writes: made durable behind the training's back, and chosen with care.

Of these directories the manifest is the commit: it comes last, when every byte is on the device. One without is what a
session left that died while it saved.
"""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from trainer.checkpoint.publish import Published, PublishError
from trainer.checkpoint.publish_directory import MANIFEST_NAME, BadDirectoryError, seal_in_place, verify_directory
from trainer.checkpoint.quarantine import quarantine

_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class Sealed:
    """What became of one directory. error: None when it is durable. seconds: that sealing took."""

    path: str
    step: int
    published: Published | None
    error: PublishError | None
    seconds: float


class Sealer:
    """Seals one directory at a time in a thread; the next one waits for it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._done: list[Sealed] = []

    def begin(self, path: str, step: int, about: dict[str, Any]) -> None:
        self.wait()

        def seal() -> None:
            started = time.monotonic()
            published, error = None, None
            try:
                published = seal_in_place(path, about)
            except PublishError as failure:
                error = failure
            except OSError as failure:  # somebody removed it meanwhile
                error = PublishError("sync", failure)
            self._done.append(Sealed(path, step, published, error, time.monotonic() - started))

        self._thread = threading.Thread(target=seal, name="seal")
        self._thread.start()

    def take(self) -> list[Sealed]:
        """What was finished since the last time."""
        done, self._done = self._done, []
        return done

    def wait(self) -> None:
        """Until nothing is in flight."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None


@dataclass(frozen=True)
class Choice:
    """Where to go on from. path: None when there is nothing to go on from. step: of it.

    rejected: (name, why, where it is now) of newer ones, newest first.
    """

    path: str | None
    step: int = 0
    digest: str = ""
    rejected: list[tuple[str, str, str]] = field(default_factory=list)


def newest_valid(
    directory: str, step_of: Callable[[str], int | None], *, required: Collection[str] = (), quarantines: bool = True
) -> Choice:
    """The newest checkpoint directory below `directory` that proves to be whole.

    step_of: a name's step, None for what is no checkpoint. required: files that it has to have. What is damaged or
    unfinished is moved to `quarantine/`, so that nobody else takes it either; only for the holder of the directory's
    lock.
    """
    try:
        names = [name for name in os.listdir(directory) if os.path.isdir(os.path.join(directory, name))]
    except FileNotFoundError:
        return Choice(None)
    steps = {name: step for name in names if (step := step_of(name)) is not None}
    in_order = sorted(steps, key=lambda name: -steps[name])
    is_sealing = any(os.path.exists(os.path.join(directory, name, MANIFEST_NAME)) for name in in_order)
    rejected: list[tuple[str, str, str]] = []
    for name in in_order:
        path = os.path.join(directory, name)
        try:
            digest = _proven(path, is_sealing)
            for file in required:
                if not os.path.exists(os.path.join(path, file)):
                    raise BadDirectoryError(f"it has no {file}", "unfinished")
            return Choice(path, steps[name], digest, rejected)
        except (BadDirectoryError, OSError) as error:
            why = str(error)
            damage = getattr(error, "damage", "") or "unreadable"
        moved = name
        if quarantines:
            moved = quarantine(directory, name, why, damage)
        rejected.append((name, why, moved))
    return Choice(None, rejected=rejected)


def _proven(path: str, is_sealing: bool) -> str:
    """The digest of a directory that is whole. Raises BadDirectoryError, OSError.

    is_sealing: others beside it have a manifest. Where none has, they were saved without us: then what can be checked
    without one has to do.
    """
    if is_sealing:
        if not os.path.exists(os.path.join(path, MANIFEST_NAME)):
            raise BadDirectoryError("it was not durable yet when the session that wrote it ended", "unfinished")
        return verify_directory(path).digest
    for folder, _, files in os.walk(path):
        for file in files:
            _check_file(os.path.join(folder, file), file)
    return ""


def _check_file(path: str, file: str) -> None:
    """What a file says of itself: a zip's checksums, the bytes that a safetensors' header promises, whole JSON."""
    if file.endswith((".pt", ".pth", ".bin")):
        try:
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
        except zipfile.BadZipFile as error:
            raise BadDirectoryError(f"{file} is not a whole zip file ({error})", "cut") from error
        if broken is not None:
            raise BadDirectoryError(f"{file}: the checksum of its record {broken} is wrong", "checksum")
    elif file.endswith(".safetensors"):
        _check_safetensors(path, file)
    elif file.endswith(".json"):
        try:
            with open(path, "rb") as opened:
                json.loads(opened.read())
        except ValueError as error:
            raise BadDirectoryError(f"{file} is no JSON ({error})", "cut") from error


def _check_safetensors(path: str, file: str) -> None:
    size_bytes = os.path.getsize(path)
    try:
        with open(path, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, _MAX_HEADER_BYTES)))
        end = (
            8
            + length
            + max((row["data_offsets"][1] for key, row in header.items() if key != "__metadata__"), default=0)
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise BadDirectoryError(f"{file} has no readable header", "cut") from error
    if end != size_bytes:
        raise BadDirectoryError(f"{file} has {size_bytes:,} bytes, its header promises {end:,}", "cut")
