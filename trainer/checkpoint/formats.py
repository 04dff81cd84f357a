"""The forms that a checkpoint takes on disk: which one a path has, and how it is proven and loaded.

A new form is one entry in `FORMATS`; a resume, the registry and `python -m trainer hash` then know it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's whole state, on the CPU, and the digest that vouches for every byte of it (`algorithm:hex`)."""

    state: Mapping[str, Any]
    digest: str


@dataclass(frozen=True)
class Format:
    """One form.

    is_it: whether a path has this form, by a look at its names or first bytes.
    load: (path, expected digest or "") -> Loaded. Proves every byte by its checksum, and the whole by the expected
    digest, before it gives anything. Raises BadCheckpointError, OSError.
    facts: (path) -> step, epoch, metrics, digest, time, session, session_id as of `registry.facts_of`, tensors left
    on the disk; empty when it cannot be read. Raises nothing.
    """

    name: str
    is_it: Callable[[str], bool]
    load: Callable[[str, str], Loaded]
    facts: Callable[[str], dict[str, Any]]


def format_of(path: str) -> Format | None:
    """The form of what lies at `path`, None when it is none of ours."""
    return next((form for form in FORMATS if form.is_it(path)), None)


def load_checkpoint(path: str, expected_digest: str = "") -> Loaded:
    """What lies at `path`, proven and loaded. Raises BadCheckpointError, OSError."""
    from trainer.checkpoint.state import BadCheckpointError

    form = format_of(path)
    if form is None:
        os.stat(path)  # says why, where it cannot even be looked at
        raise BadCheckpointError("it is no form of checkpoint that this trainer knows")
    return form.load(path, expected_digest)


def read_facts(path: str) -> dict[str, Any]:
    """What the registry tells of the checkpoint at `path`; empty when it cannot be read."""
    form = format_of(path)
    return form.facts(path) if form is not None else {}


def _load_file(path: str, expected_digest: str) -> Loaded:
    from trainer.checkpoint.state import read_file

    return Loaded(*read_file(path, expected_digest))


def _file_facts(path: str) -> dict[str, Any]:
    from trainer.checkpoint.registry import file_facts

    return file_facts(path)


def _is_dcp(path: str) -> bool:
    from trainer.checkpoint.dcp import is_dcp

    return is_dcp(path)


def _load_dcp(path: str, expected_digest: str) -> Loaded:
    from trainer.checkpoint.dcp import load_dcp

    return Loaded(*load_dcp(path, expected_digest))


def _is_directory(path: str) -> bool:
    from trainer.checkpoint.directory_format import is_directory_checkpoint

    return is_directory_checkpoint(path)


def _load_directory(path: str, expected_digest: str) -> Loaded:
    from trainer.checkpoint.directory_format import load_directory

    return Loaded(*load_directory(path, expected_digest))


def _manifest_facts(path: str) -> dict[str, Any]:
    from trainer.checkpoint.sealed import manifest_facts

    return manifest_facts(path)


FORMATS: tuple[Format, ...] = (
    Format("file", os.path.isfile, _load_file, _file_facts),
    Format("dcp", _is_dcp, _load_dcp, _manifest_facts),
    Format("dir", _is_directory, _load_directory, _manifest_facts),
)
