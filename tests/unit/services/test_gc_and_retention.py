"""A copy that the training's saves will replace or remove is no reason to free the one that lies aside."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.events.codec import encode
from ckpt_tui.events.schema import RunEnd
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.gc import collect, plan_gc
from ckpt_tui.services.lasting import Lasting
from ckpt_tui.services.owner import run_state
from ckpt_tui.services.restore import carry_out, plan_rollback
from tests.builders.deed_histories import made as made
from tests.builders.run_directories import ARGS, run_directory, save
from tests.builders.set_aside import copied, files_of, going
from tests.builders.trees import tree_of
from trainer.checkpoint.names import Name, read_name, rolling_name
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.retention import judged

BEST = "set_aside/4/best_model.pt"  # of step 200, as rolling_step_000200.pt and best_model_previous.pt


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    directory = copied(made, tmp_path / "run")
    (directory / "set_aside/4/latest.pt").unlink()  # one more copy of step 200, that stays
    return directory


@contextmanager
def training(run: Path) -> Iterator[None]:
    """Somebody holds the lock, as a live training does."""
    (run / "trainer.lock").write_text("{}")
    with open(run / "trainer.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def finish(run: Path) -> None:
    with open(run / "events.jsonl", "ab") as log:
        line = json.loads(encode(RunEnd(ts=1_790_000_500.0, step=1000, status="finished")))
        log.write(json.dumps({**line, "seq": 10**6, "session": 1}).encode() + b"\n")


def passing(run: Path, *, is_owned: bool) -> set[str]:
    lasting = Lasting(str(run), run_state(str(run)), is_owned=is_owned)
    return {entry.name for entry in read_catalog(str(run)).entries if lasting.why_not(entry)}


def test_what_a_live_training_rotates_is_no_copy(run: Path) -> None:
    assert files_of(plan_gc(str(run)))[BEST].copy == "rolling_step_000200.pt"
    with training(run):
        plan = plan_gc(str(run))
        file = files_of(plan)[BEST]
        assert (file.is_chosen, file.is_only, file.passing) == (False, True, "rolling_step_000200.pt")
        assert file.why == "the only copy that stays: retention removes rolling_step_000200.pt"
        assert any("nothing else here that stays has" in item.why for item in plan.items if item.number == 4)
        collect(plan)
        assert (run / BEST).exists()
        assert files_of(plan_gc(str(run), picked=[BEST]))[BEST].why == file.why
        forced = plan_gc(str(run), [4])
        assert any(warning.startswith("Nothing else here that stays has what is freed") for warning in forced.warnings)


@pytest.mark.parametrize("how", ["pinned", "every 100th", "an epoch", "a person's"])
def test_what_no_save_takes_is_a_copy_beside_a_training_too(run: Path, how: str) -> None:
    kept = "rolling_step_000200.pt"
    if how == "pinned":
        (run / f"{kept}.keep").touch()
    elif how == "every 100th":
        (run / "registry.json").write_text(json.dumps({"checkpoints": [], "policy": {"keep_every": 100}}))
    else:
        data = (run / kept).read_bytes()
        kept = "epoch_00002.pt" if how == "an epoch" else "before_the_talk.pt"
        (run / kept).write_bytes(data)
    with training(run):
        assert files_of(plan_gc(str(run)))[BEST].copy == kept


def test_while_nothing_trains_what_the_next_saves_take_does_not_count(tmp_path: Path) -> None:
    args = {**ARGS, "keep_checkpoints": 3}
    run = run_directory(tmp_path)
    for step in (200, 300, 400):
        save(run / f"rolling_step_{step:06d}.pt", step, val_loss=3.0 - step / 1000, args=args)
    assert passing(run, is_owned=False) == {
        "latest.pt", "latest_backup.pt", "rolling_last_backup.pt", "rolling_step_000200.pt"
    }  # fmt: skip
    there = [name for path in run.glob("*.pt") if (name := read_name(path.name)) is not None]
    coming = Name(rolling_name(401), "rolling", step=401)
    verdicts = judged([*there, coming], Policy(keep_rolling=3), step=401, protected={coming.name})
    verdicts = [one for one in verdicts if one.name is not coming]
    assert {one.name.name for one in verdicts if one.goes} == {"rolling_step_000200.pt"}
    assert {one.name.name for one in verdicts if one.rule == "replaced, never removed"} >= {"latest.pt"}
    assert passing(run, is_owned=True) == {one.name.name for one in verdicts}
    finish(run)
    assert passing(run, is_owned=False) == set()
    assert passing(run, is_owned=True) == {one.name.name for one in verdicts}, "it is trained on"


def test_the_last_copy_of_a_step_outlives_the_saves_to_come(tmp_path: Path) -> None:
    """As it goes: mended by hand from an older copy, freed, trained on."""
    run = run_directory(tmp_path / "run")
    carry_out(plan_rollback(str(run), "300"))
    (run / "latest.pt").write_bytes((run / "set_aside/1/latest.pt").read_bytes())
    staying = [file for file in files_of(plan_gc(str(run))).values() if file.step == 400 and not file.is_chosen]
    assert [file.place for file in staying] == ["set_aside/1/latest.pt"]
    finish(run)
    assert "set_aside/1/latest.pt" in going(plan_gc(str(run)))


def test_a_training_that_began_since_the_plan_keeps_what_only_the_run_has(run: Path) -> None:
    plan = plan_gc(str(run))
    assert BEST in going(plan)
    before = tree_of(run, without=["trainer.lock"])
    with training(run), pytest.raises(CkptError, match="nothing was freed"):
        collect(plan)
    assert tree_of(run, without=["trainer.lock"]) == before
