"""What a changed setting does to a resume: trainer and viewer say the same of every setting that there is."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ckpt_tui.checkpoints.hparams import compare_hparams, effect_of
from trainer.changes import EFFECTS, changes
from trainer.config import Config

SETTINGS = [setting.name for setting in fields(Config)]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_classified_and_both_agree(name: str) -> None:
    """A new setting has to be put into `trainer/changes.py` and `ckpt_tui/checkpoints/hparams.py`."""
    assert name in EFFECTS
    assert EFFECTS[name].value == effect_of(name).value


@pytest.mark.parametrize("before", ["cosine", "plateau"])
@pytest.mark.parametrize("after", ["cosine", "plateau"])
def test_both_know_that_evaluations_decide_the_rate_on_a_plateau(before: str, after: str) -> None:
    old = Config(schedule=before, eval_freq=50, eval_batches=2, log_freq=1).as_args()
    new = Config(schedule=after, eval_freq=20, eval_batches=4, log_freq=5)
    told = {change.name: change.effect.value for change in changes(old, new).every}
    assert {change.key: change.effect.value for change in compare_hparams(old, new.as_args())} == told
    assert told["eval_freq"] == told["eval_batches"] == ("course" if "plateau" in (before, after) else "safe")
    assert told["log_freq"] == "safe"


def test_nothing_is_classified_that_is_no_setting() -> None:
    assert set(EFFECTS) <= set(SETTINGS)
