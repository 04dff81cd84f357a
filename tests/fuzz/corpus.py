"""Small real checkpoints of every format, to be spoiled: what the contract test of readers builds."""

from __future__ import annotations

from pathlib import Path

from tests.contracts import test_readers as contract


def corpus(directory: Path) -> list[str]:
    """Write each into `directory` under its format's name; gives the names."""
    names = []
    for name, build in contract.BUILDERS.items():
        (directory / name).write_bytes(build())
        names.append(name)
    for name, write in getattr(contract, "DIRECTORY_BUILDERS", {}).items():
        (directory / name).mkdir()
        write(directory / name)
        names.append(name)
    return names
