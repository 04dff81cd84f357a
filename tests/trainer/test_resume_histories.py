"""Random histories of real small runs: `--resume auto` takes the newest valid checkpoint of the live branch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.resume_histories import History


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_the_newest_valid_of_the_live_branch(seed: int, tmp_path: Path) -> None:
    """And nothing is ever deleted by a resume: both are held in each session of a history."""
    history = History(tmp_path / "run", seed)
    history.session(None, history.random.randint(1, 4))
    for _ in range(14):
        history.something()
    history.session("auto", 0)
