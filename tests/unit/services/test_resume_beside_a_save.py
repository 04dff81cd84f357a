"""A plan that is made while a trainer saves: a file has its name before the records tell of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_tui.services import resume_choice
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.resume_choice import choose
from tests.builders.run_directories import damage, run_directory


def test_what_looks_damaged_for_the_moment_of_a_save_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run_directory(tmp_path / "run")
    latest = directory / "latest.pt"
    whole = latest.read_bytes()
    damage(latest)
    waits: list[float] = []

    def saved_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        ready = directory / "ready"
        ready.write_bytes(whole)
        ready.replace(latest)

    monkeypatch.setattr(resume_choice.time, "sleep", saved_meanwhile)
    choice = choose(read_catalog(str(directory)), "auto", is_live=True)
    assert waits
    assert [entry.name for entry, _ in choice.passed_over if entry.name == "latest.pt"] == []


def test_what_nobody_saves_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = run_directory(tmp_path / "run")
    damage(directory / "latest.pt")
    monkeypatch.setattr(resume_choice.time, "sleep", lambda seconds: pytest.fail("waited"))
    choice = choose(read_catalog(str(directory)), "auto")
    assert ("latest.pt", "damaged") in [(entry.name, verdict) for entry, verdict in choice.passed_over]
