"""What a changed setting does to a resume: trainer and viewer say the same of every setting that there is."""

from __future__ import annotations

from dataclasses import fields

import pytest

from ckpt_tui.checkpoints.hparams import effect_of
from trainer.changes import EFFECTS
from trainer.config import Config

SETTINGS = [setting.name for setting in fields(Config)]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_classified_and_both_agree(name: str) -> None:
    """A new setting has to be put into `trainer/changes.py` and `ckpt_tui/checkpoints/hparams.py`."""
    assert name in EFFECTS
    assert EFFECTS[name].value == effect_of(name).value


def test_nothing_is_classified_that_is_no_setting() -> None:
    assert set(EFFECTS) <= set(SETTINGS)
