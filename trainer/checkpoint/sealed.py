"""What the forms that are directories have in common: a manifest proves their bytes, and tells what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.checkpoint.publish_directory import (
    BadDirectoryError,
    digest_of_directory,
    read_manifest,
    verify_directory,
)


def proven_manifest(path: str, expected_digest: str = "") -> tuple[dict[str, Any], str]:
    """The manifest of a checkpoint directory and its digest, after every file was held against it.

    Raises BadCheckpointError, OSError.
    """
    from trainer.checkpoint.state import BadCheckpointError

    try:
        digest = verify_directory(path).digest
        manifest = read_manifest(path)
    except BadDirectoryError as error:
        raise BadCheckpointError(str(error), error.damage) from error
    if expected_digest.startswith("crc32:") and digest != expected_digest:
        raise BadCheckpointError(f"its content is not what was saved ({digest}, saved as {expected_digest})", "digest")
    return manifest, digest


@contextmanager
def reading() -> Iterator[None]:
    """Around the loading of proven files: raises BadCheckpointError, MemoryError or OSError and nothing else."""
    from trainer.checkpoint.state import unreadable

    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise unreadable(error) from error


def manifest_facts(path: str) -> dict[str, Any]:
    """What the registry tells of the directory, from its manifest; empty when that cannot be read."""
    try:
        facts = read_manifest(path)["facts"]
        if type(facts["step"]) is not int or type(facts.get("epoch")) not in (int, float, type(None)):
            return {}
        return {**facts, "digest": digest_of_directory(path)}
    except (BadDirectoryError, OSError, KeyError, TypeError, AttributeError):
        return {}
