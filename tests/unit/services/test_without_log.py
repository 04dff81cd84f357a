"""A directory with checkpoints and no log: what `status` and `watch --plain` can say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services.without_log import NewestCheckpoint, newest_checkpoint
from tests.builders.run_directories import save


def test_the_newest_checkpoint_is_told_where_no_log_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (500, 600):
        path = tmp_path / f"rolling_step_{step:06d}.pt"
        save(path, step)
    said = "Newest of 2 checkpoints: rolling_step_000600.pt, step 600, "  # and how old, from what is in it
    assert main(["status", str(tmp_path)]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["status", str(tmp_path), "--json"]) == 0
    newest = json.loads(capsys.readouterr().out)["data"]["newest_checkpoint"]
    assert (newest["name"], newest["kind"], newest["step"]) == ("rolling_step_000600.pt", "rolling", 600)
    assert main(["watch", str(tmp_path), "--plain", "--once"]) == 0
    assert said in capsys.readouterr().out


def test_nothing_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert newest_checkpoint(str(tmp_path)) is None
    assert newest_checkpoint(str(tmp_path / "missing")) is None
    (tmp_path / "rolling_step_000100.pt").write_bytes(b"torn")
    found = newest_checkpoint(str(tmp_path))
    assert found is None or found.step == 100


def test_words_of_a_hostile_name_are_safe() -> None:
    words = NewestCheckpoint("a\x1b[2J.pt", "other", None, None, 1).words(0.0)
    assert words.isprintable()
    assert words.endswith("Its only checkpoint: a\\x1b[2J.pt.")
