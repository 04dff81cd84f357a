"""What was done is told in the past: every sentence of every kind of plan, and of deeds that ended early."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services import journal
from ckpt_tui.services.deed_words import done_words, told_words
from ckpt_tui.services.deeds import read_history
from ckpt_tui.services.journal import Deed, Move
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback
from ckpt_tui.services.undo import plan_redo, plan_undo
from tests.builders.run_directories import damage, let_age, run_directory, save

# Words of what is still to come. Names of checkpoints have none of them.
_STILL_TO_COME = re.compile(r"\b(is|are|becomes|takes|does|starts|names|holds|needs|reads)\b", re.IGNORECASE)


def test_every_kind_of_deed_is_told_as_done(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    for name in ("latest.pt", "best_model.pt"):
        damage(run / name)
        let_age(run / name)
    (run / "before.pt").hardlink_to(run / "best_model.pt")
    plans = []
    for plan_it in (
        plan_restore, lambda at: plan_restore(at, ["best_model_previous.pt"]), lambda at: plan_rollback(at, "200"),
        plan_undo, plan_redo, lambda at: plan_undo(at, to=1), plan_redo, lambda at: plan_rollback(at, "100"),
    ):  # fmt: skip
        if len(plans) == 7:
            save(run / "rolling_step_000100.pt", 100)
        plan = plan_it(str(run))
        plans.append(plan)
        outcome = carry_out(plan)
        assert not [said for said in outcome.sentences if " is copied" in said or "becomes" in said or "Takes" in said]
        assert any(said.startswith("A resume now starts from") for said in outcome.sentences)
    history = read_history(str(run))
    for plan, deed in zip(plans, history.deeds, strict=True):
        assert deed.sentences == plan.sentences
        assert len(deed.told) >= 2
        assert not [said for said in deed.told if _STILL_TO_COME.search(re.sub(r" was damaged: .*", "", said))]
    assert "latest.pt (step 400) was damaged" in history.deeds[0].told[0]
    assert any(said.endswith("was copied to latest.pt.") for said in history.deeds[0].told)
    assert history.deeds[3].told[0].startswith("Took back the rollback of ")
    assert history.deeds[4].told[0].startswith("Did the rollback of ")


@pytest.mark.parametrize(
    ("planned", "told"),
    [
        ("a.ckpt (step 3, valid) is copied to last.ckpt, which is taken for the newest.",
         "a.ckpt (step 3, valid) was copied to last.ckpt, which is taken for the newest."),
        ("is copied to.pt (step 3, valid) is copied to is damaged.pt.",
         "is copied to.pt (step 3, valid) was copied to is damaged.pt."),
        ("latest.pt becomes one more name of it.", "latest.pt became one more name of it."),
        ("latest.pt becomes one more name of rolling.pt (step 3, valid).",
         "latest.pt became one more name of rolling.pt (step 3, valid)."),
        ("a.pt is damaged: archive/data/0: its checksum differs: it is so.",
         "a.pt was damaged: archive/data/0: its checksum differs: it is so."),
        ("a.pt is missing.", "a.pt was missing."),
        ("b.pt is damaged, too.", "b.pt was damaged, too."),
        ("latest names global_step3 instead of global_step5.",
         "latest was made to name global_step3 instead of global_step5."),
        ("a.pt holds at every level: structure, integrity.", "a.pt held at every level: structure, integrity."),
        ("a.pt, b.pt were not there before: set aside.", "a.pt, b.pt were not there before, and were set aside."),
        ("Given up: 3 steps (steps 1 to 4).", "Given up: 3 steps (steps 1 to 4)."),
        ("Needs 3 MB of disk.", None),
    ],
)  # fmt: skip
def test_each_form(planned: str, told: str | None) -> None:
    assert done_words([planned]) == (() if told is None else (told,))


@pytest.mark.parametrize("state", [journal.INTENT, journal.PREPARED, journal.MOVED, journal.CONFLICT])
def test_of_a_deed_that_ended_early_it_is_told_what_was_done_and_what_was_not(tmp_path: Path, state: str) -> None:
    moves = [Move("a.pt", "remove"), Move("b.pt", "copy", source="c.pt"), Move("d.pt", "link", source="b.pt")]
    deed = Deed(1, "rollback", state, moves, sentences=["c.pt (step 3, valid) is copied to b.pt."])
    deed.conflicts = ["b.pt"] if state == journal.CONFLICT else []
    told = " ".join(told_words(str(tmp_path), deed))
    assert (
        told
        == {
            journal.INTENT: "Nothing has its new name yet.",
            journal.PREPARED: "Some names are changed, and some not.",
            journal.MOVED: (
                "c.pt (step 3, valid) was copied to b.pt. All names are in place; its record was not finished."
            ),
            journal.CONFLICT: (
                "It was interrupted, and met what it did not know. Done: a.pt was set aside. Not done: b.pt, d.pt."
            ),
        }[state]
    )


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_directory(tmp_path / "run")
    assert main(["rollback", str(run), "--to", "300", "--yes"]) == 0
    assert " now starts from " in " ".join(capsys.readouterr().out.split())
    assert main(["undo", str(run), "--yes"]) == 0
    capsys.readouterr()
    assert main(["undo", str(run), "--list"]) == 0
    assert "Took back the rollback" in capsys.readouterr().out
    assert main(["undo", str(run), "--list", "--json"]) == 0
    (_, undo) = json.loads(capsys.readouterr().out)["data"]["deeds"]
    assert undo["sentences"][0].startswith("Takes back")
    assert undo["told"][0].startswith("Took back")
