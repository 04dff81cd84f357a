"""The thread that looks at a run's checkpoints: what no log tells of, and what a resume would take first of all."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.services.catalog import Catalog
from ckpt_tui.tui import session
from ckpt_tui.tui.messages import CatalogChanged
from ckpt_tui.tui.session import CatalogReader
from tests.builders import run_directories


def comes_true(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 120
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    return holds()


def reader_of(directory: Path) -> tuple[CatalogReader, list[Catalog]]:
    told: list[Catalog] = []
    reader = CatalogReader(
        str(directory), lambda message: told.append(message.catalog) if isinstance(message, CatalogChanged) else None
    )
    return reader, told


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(session, "CATALOG_INTERVAL_S", 0.01)
    monkeypatch.setattr(session, "LOOK_AGAIN_S", 0.05)


def test_a_checkpoint_that_no_log_tells_of_is_found_and_one_that_grows_is_looked_at_again(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    reader, told = reader_of(directory)
    reader.ask()
    assert comes_true(lambda: len(told) == 1)
    assert told[0].entries == ()
    whole = run_directories.save(tmp_path / "elsewhere.pt", 500)
    half = directory / "epoch_3.ckpt"
    half.write_bytes(whole[: len(whole) // 2])
    assert comes_true(lambda: bool(told[-1].entries))
    assert told[-1].entries[0].validity != "valid"
    half.write_bytes(whole)  # no name comes or goes
    assert comes_true(lambda: told[-1].entries[0].validity == "valid")
    reader.stop()


def test_what_a_resume_would_take_is_checked_whole_whatever_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FULL_CHECK_LIMIT_BYTES", 0)
    directory = run_directories.run_directory(tmp_path / "run")
    for path in directory.glob("*.pt"):
        run_directories.let_age(path)
    run_directories.damage(directory / "latest.pt")
    reader, told = reader_of(directory)
    reader.ask(full=True)

    def latest_is_damaged() -> bool:
        entry = told[-1].entry("latest.pt") if told else None
        return entry is not None and entry.validity == "damaged"

    assert comes_true(latest_is_damaged)
    takes = told[-1].entry(told[-1].resume_would_take or "")
    assert takes is not None
    assert (takes.validity, takes.level) == ("valid", "resume")
    reader.stop()
