"""What the plans of acts say of other people's checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckpt_tui.services.restore import plan_restore, plan_rollback

pytest.importorskip("torch")

from tests.builders.frameworks import hf_trainer
from tests.builders.run_directories import let_age


@pytest.fixture
def hugging_face(tmp_path: Path) -> Path:
    """checkpoint-100 to checkpoint-300, as transformers' Trainer leaves them: no checksums, no backups."""
    for step in (100, 200, 300):
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir()
        hf_trainer(directory)
        state = directory / "trainer_state.json"
        state.write_text(json.dumps({**json.loads(state.read_text()), "global_step": step}))
        let_age(state)
    return tmp_path


def test_a_level_that_held_is_not_called_unchecked_for_one_that_cannot_be(hugging_face: Path) -> None:
    plan_rollback(str(hugging_face), "200")
    said = plan_rollback(str(hugging_face), "200").sentences
    assert "checkpoint-200 was checked for structure, numbers, resume; integrity could not be checked." in said


def test_restore_says_what_to_do_about_damage_without_a_backup(hugging_face: Path) -> None:
    weights = max((hugging_face / "checkpoint-300").glob("model*"), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:100])
    let_age(weights)
    plan = plan_restore(str(hugging_face))
    assert plan.is_empty
    assert plan.sentences == ("Nothing can be put back; a resume passes over what is damaged.",)
    assert plan.warnings == ("checkpoint-300 is damaged and stays so: it has no backup.",)
    assert plan.resume_takes == "checkpoint-200"
