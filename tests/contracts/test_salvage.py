"""Every format that is read, damaged in many ways: salvage gives a file that loads safely, or says why it cannot."""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError
from ckpt_tui.services.salvage import SalvagePlan, carry_out, plan_salvage
from tests.contracts.test_readers import BUILDERS, DIRECTORY_BUILDERS

warnings.filterwarnings("ignore", category=UserWarning, module="torch")


@pytest.fixture(autouse=True)
def no_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def salvage(source: Path, out: Path) -> SalvagePlan | None:
    """Salvage as far as it goes; what comes out must load, and hold what was planned. None: a CkptError said why."""
    out.unlink(missing_ok=True)
    said: CkptError | None = None
    try:
        plan = plan_salvage(str(source), str(out))
        if plan.new_file is not None:
            carry_out(plan)
    except CkptError as error:
        said = error
    if said is not None:
        assert said.title
        assert said.message
        assert not out.exists()
        return None
    assert plan.num_written + len(plan.lost) == plan.num_tensors
    assert out.exists() is (plan.new_file is not None)
    if plan.new_file is not None:
        state = load_file(out) if plan.out_format == "safetensors" else torch.load(out, weights_only=True)
        assert state is not None
    return plan


def damaged(whole: bytes, chance: random.Random, number: int) -> list[bytes]:
    variants = [whole[: chance.randrange(len(whole))] for _ in range(number)]
    for _ in range(number):
        raw = bytearray(whole)
        at = chance.randrange(len(raw))
        width = chance.choice((1, 4, 8, 300))
        raw[at : at + width] = chance.choice((b"\xff" * width, b"\0" * width, chance.randbytes(width)))
        variants.append(bytes(raw))
    return variants


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_a_damaged_file_gives_what_is_left_of_it_or_an_error(tmp_path: Path, kind: str) -> None:
    whole = BUILDERS[kind]()
    source, out = tmp_path / "x", tmp_path / "out.pt"
    source.write_bytes(whole)
    plan = salvage(source, out)
    assert plan is not None
    assert not plan.is_damaged
    assert not plan.lost or all(storage.offset is None for storage in open_checkpoint(source).storages.values())
    chance = random.Random(5)
    plans = []
    for raw in damaged(whole, chance, 14):
        source.write_bytes(raw)
        plans.append(salvage(source, out))
        assert source.read_bytes() == raw
    assert any(plan is None or plan.is_damaged for plan in plans)


@pytest.mark.parametrize("kind", list(DIRECTORY_BUILDERS))
def test_a_damaged_directory_gives_what_is_left_of_it_or_an_error(tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / "x", tmp_path / "out.pt"
    source.mkdir()
    DIRECTORY_BUILDERS[kind](source)
    plan = salvage(source, out)
    assert plan is not None
    assert plan.lost == []
    assert plan.num_written == len(open_checkpoint(source).tensors)
    chance = random.Random(5)
    files = sorted(path for path in source.rglob("*") if path.is_file() and path.stat().st_size)
    plans = []
    for path in files:
        whole = path.read_bytes()
        path.unlink()
        plans.append(salvage(source, out))
        for raw in damaged(whole, chance, 2):
            path.write_bytes(raw)
            plans.append(salvage(source, out))
        path.write_bytes(whole)
    assert any(plan is not None and plan.lost for plan in plans)
    assert any(plan is not None and plan.num_written for plan in plans)
