"""A resume is planned from the newest valid checkpoint, with the recorded command, and says what it costs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.run.timeline import resume_outlook
from ckpt_tui.run.wording import resume_sentence
from ckpt_tui.services import restore
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.damage import read_judged_run
from ckpt_tui.services.resume import plan_resume
from ckpt_tui.services.supervised_start import find_point
from ckpt_tui.text import duration
from tests.builders.run_directories import (
    ARGS,
    damage,
    let_age,
    run_directory,
    save,
    torch_zip,
    training_state,
    write_log,
)
from tests.builders.trees import tree_of


def run_with_command(directory: Path, *options: str, config: dict[str, object] | None = None) -> Path:
    run_directory(directory, log=False)
    argv = [sys.executable, "-m", "trainer", "--out", directory.name, *options]
    write_log(
        directory, last_step=437, argv=argv, config={**ARGS, "resume": None, "out": directory.name, **(config or {})}
    )
    return directory


def test_newest_valid_with_the_recorded_command(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run", "--lr", "6e-4")
    before = tree_of(directory)
    plan = plan_resume(str(directory))
    assert tree_of(directory) == before, "a plan changes nothing"
    assert (plan.checkpoint_name, plan.step, plan.validation.verdict) == ("latest.pt", 400, "valid")
    assert plan.command == (
        sys.executable, "-m", "trainer", "--out", "run", "--lr", "6e-4", "--resume", "latest.pt",
    )  # fmt: skip
    assert plan.cwd == str(tmp_path)
    assert (plan.steps_skipped, plan.steps_redone, plan.steps_new) == (400, 37, 563)
    assert plan.redone_s == pytest.approx(37 * 0.5)
    assert plan.new_s == pytest.approx(563 * 0.5)
    assert (plan.session, plan.refusals, plan.warnings, plan.changes) == (2, (), (), ())
    assert "Skips 400 steps, redoes 37 steps (18 s), then trains 563 new: about 5m 00s." in plan.sentences


def test_the_plan_and_the_header_say_the_same_times(tmp_path: Path) -> None:
    """One engine: what was lost, what a resume redoes and how long it takes, also after damage and slow evaluations."""
    directory = run_with_command(tmp_path / "run")
    log = directory / "events.jsonl"
    lines = [json.loads(line) for line in log.read_bytes().splitlines()]
    later = 0.0
    for event in lines:  # the first step comes late, and the last ones are twice as slow
        later += 30.0 if event["event"] == "step" and event["step"] <= 10 else 0.0
        later += 0.5 if event["step"] > 380 else 0.0
        event["ts"] += later
    saved = {"v": 1, "event": "checkpoint_saved", "session": 1, "kind": "rolling"}
    for step, names in ((300, ["latest_backup.pt"]), (400, ["latest.pt", "rolling_last_backup.pt"])):
        ts = next(event["ts"] for event in lines if event["step"] == step)
        path = f"rolling_step_{step:06d}.pt"
        lines.append({**saved, "step": step, "ts": ts, "path": path, "names": [path, *names]})
    lines.sort(key=lambda event: event["ts"])
    for seq, event in enumerate(lines, 1):
        event["seq"] = seq
    log.write_text("".join(json.dumps(event) + "\n" for event in lines))
    for bad in ((), ("latest.pt",), ("rolling_step_000400.pt", "rolling_last_backup.pt")):
        for name in bad:
            damage(directory / name)
        plan = plan_resume(str(directory))
        state, _ = read_judged_run(str(directory))
        outlook = resume_outlook(state)
        assert (plan.step, plan.steps_redone, plan.steps_new) == (outlook.step, outlook.redone, outlook.new)
        assert (plan.redone_s, plan.new_s) == pytest.approx((outlook.redone_s, outlook.new_s))
        assert state.at_risk is not None
        assert plan.redone_s == pytest.approx(state.at_risk.seconds)
        total = f": about {duration(plan.redone_s + plan.new_s)}."
        assert any(sentence.endswith(total) for sentence in plan.sentences)
        assert resume_sentence(state)[0].endswith(total)  # type: ignore[index]


def test_damaged_newest_is_passed_over_and_its_cost_is_told(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run")
    for name in ("latest.pt", "rolling_step_000400.pt", "rolling_last_backup.pt"):
        damage(directory / name)
    plan = plan_resume(str(directory))
    assert plan.checkpoint_name == "latest_backup.pt" or plan.step == 300
    assert "Passed over: latest.pt (step 400) is damaged." in plan.sentences
    assert "With the newest one whole, it would be 100 steps less to redo." in plan.sentences
    assert plan.steps_redone == 137
    assert plan.command[-2:] == ("--resume", "auto"), "a trainer sets aside what it rejects, if nobody chose for it"
    (tmp_path / "train.py").touch()
    write_log(directory, last_step=437, argv=[sys.executable, "train.py"], config={"lr": 1, "resume": None})
    plan = plan_resume(str(directory))
    assert plan.command[-2:] == ("--resume", plan.checkpoint_path), "what `auto` means to others is not known"


def test_damaged_one_of_unknown_step_is_told(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run")
    (directory / "latest.pt").write_bytes(b"")
    plan = plan_resume(str(directory))
    assert plan.checkpoint_name == "rolling_step_000400.pt"
    assert "Passed over: latest.pt is damaged." in plan.sentences
    assert plan.command[-2:] == ("--resume", "auto")


def test_nothing_valid_is_refused_with_every_reason(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    save(directory / "latest.pt", 10)
    damage(directory / "latest.pt")
    with pytest.raises(CkptError, match="Nothing to resume from") as caught:
        plan_resume(str(directory))
    assert "latest.pt (step 10) is damaged" in caught.value.message
    (directory / "latest.pt").unlink()
    with pytest.raises(CkptError, match="there is no checkpoint"):
        plan_resume(str(directory))


@pytest.mark.parametrize(
    ("source", "name", "argument"),
    [
        ("latest", "latest.pt", "latest.pt"),
        ("best", "best_model.pt", "best_model.pt"),
        ("rolling_step_000200.pt", "rolling_step_000200.pt", "rolling_step_000200.pt"),
        ("{directory}/rolling_step_000200.pt", "rolling_step_000200.pt", "rolling_step_000200.pt"),
        ("{outside}", "{outside}", "{outside}"),
    ],
)
def test_source_by_word_name_or_path(tmp_path: Path, source: str, name: str, argument: str) -> None:
    directory = run_with_command(tmp_path / "run")
    outside = tmp_path / "elsewhere.pt"
    save(outside, 250)
    fill = {"directory": str(directory), "outside": str(outside)}
    plan = plan_resume(str(directory), source.format(**fill))
    assert plan.checkpoint_name == name.format(**fill)
    assert plan.command[-2:] == ("--resume", argument.format(**fill))


def test_source_that_is_not_there_lists_what_is(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="No such checkpoint") as caught:
        plan_resume(str(run_with_command(tmp_path / "run")), "rolling_step_9.pt")
    assert "rolling_step_000400.pt" in caught.value.hint


def test_damaged_source_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run")
    damage(directory / "best_model.pt")
    plan = plan_resume(str(directory), "best")
    assert plan.refusals == ("best_model.pt is damaged: nothing can be resumed from it.",)


def test_going_back_warns_of_the_newer_ones_that_auto_would_take(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run")
    plan = plan_resume(str(directory), "rolling_step_000200.pt")
    assert any("until step 400 is passed" in warning for warning in plan.warnings)
    assert plan.steps_redone == 237


def test_changed_settings_are_compared_and_put_into_the_command(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run", "--lr", "6e-4", "--seed=1", config={"log_freq": 10})
    plan = plan_resume(str(directory), "auto", {"lr": "3e-4", "seed": "2", "log-freq": "5", "batch_size": "8"})
    assert {(c.key, c.a, c.b, str(c.effect)) for c in plan.changes} == {
        ("lr", 6e-4, 3e-4, "course"), ("seed", 1, 2, "exactness"), ("log_freq", None, 5, "safe"),
    }  # fmt: skip
    assert plan.command[5:] == (
        "--lr", "0.0003", "--seed=2", "--resume", "latest.pt", "--log_freq", "5", "--batch_size", "8",
    )  # fmt: skip
    assert "lr: 0.0006 -> 0.0003, changes the course." in plan.sentences
    assert "batch_size is 8 already." in plan.sentences
    assert plan.refusals == ()


def test_impossible_change_is_refused(tmp_path: Path) -> None:
    plan = plan_resume(str(run_with_command(tmp_path / "run")), "auto", {"n_layer": "2"})
    assert len(plan.refusals) == 1
    assert plan.refusals[0].startswith("n_layer: 1 -> 2 is impossible.")


def test_setting_that_the_run_does_not_have_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="No such setting") as caught:
        plan_resume(str(run_with_command(tmp_path / "run")), "auto", {"batchsize": "4"})
    assert "batch_size" in caught.value.hint
    with pytest.raises(CkptError, match="Not a setting"):
        plan_resume(str(run_with_command(tmp_path / "run2")), "auto", {"resume": "best"})


def test_last_session_that_already_changed_a_setting_is_told(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "run", "--lr", "1e-4", config={"lr": 1e-4})
    plan = plan_resume(str(directory))
    assert [(c.key, c.a, c.b) for c in plan.changes] == [("lr", 6e-4, 1e-4)]


def test_moved_run_directory_gets_its_new_place(tmp_path: Path) -> None:
    directory = run_with_command(tmp_path / "old")
    moved = directory.rename(tmp_path / "new")
    plan = plan_resume(str(moved))
    assert plan.command[4] == str(moved)
    assert any("was moved" in warning for warning in plan.warnings)


def test_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run", log=False)
    write_log(
        directory, last_step=437, argv=["/gone/python", "-m", "trainer", "--out", str(directory)], cwd="/gone/dir"
    )
    plan = plan_resume(str(directory))
    assert (plan.cwd, plan.command[0]) == (str(tmp_path), sys.executable)
    assert sum("gone" in warning or "no longer there" in warning for warning in plan.warnings) == 2


def test_program_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    directory = run_directory(tmp_path / "run", log=False)
    write_log(directory, last_step=437, argv=["/gone/torchrun", "train.py"])
    plan = plan_resume(str(directory))
    assert any("/gone/torchrun" in refusal for refusal in plan.refusals)
    assert plan.launcher == "torchrun"


def test_script_of_other_people_that_does_not_tell_how_it_resumes_is_refused(tmp_path: Path) -> None:
    """It might begin anew over its own checkpoints."""
    directory = run_directory(tmp_path / "run", log=False)
    (tmp_path / "train.py").write_text("print('trains')")
    write_log(directory, last_step=437, argv=["train.py", "--lr", "1"], config={"lr": 1.0})
    plan = plan_resume(str(directory), "auto", {"anything": "5"})
    assert plan.command == (sys.executable, "train.py", "--lr", "1", "--anything", "5")
    (refusal,) = plan.refusals
    assert "how train.py is told to resume is not known" in refusal
    assert "--command" in refusal
    assert any("not among the recorded settings" in warning for warning in plan.warnings)
    (tmp_path / "train.py").write_text('parser.add_argument("--resume", type=str)')
    plan = plan_resume(str(directory))
    assert plan.refusals == ()
    assert plan.command[-2:] == ("--resume", str(directory / "latest.pt"))
    assert plan.known_by == "its text has --resume"


def test_lost_log_takes_the_settings_from_the_checkpoint(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run", log=False)
    plan = plan_resume(str(directory))
    assert plan.command[:5] == (sys.executable, "-m", "trainer", "--out", str(directory))
    assert plan.command[plan.command.index("--n_embd") + 1] == "4"
    assert any("no log" in warning for warning in plan.warnings)
    assert (plan.total_steps, plan.session) == (1000, 1)


def test_unknown_command_says_what_is_not_known_and_how_to_do_it_by_hand(tmp_path: Path) -> None:
    save(tmp_path / "epoch=3-step=500.ckpt", 500)
    plan = plan_resume(str(tmp_path))
    assert (plan.step, plan.command, plan.command_line) == (500, (), "")
    (refusal,) = plan.refusals
    assert "the command that started this training is not recorded" in refusal
    assert any("script" in words for words in plan.not_known)
    assert any(str(tmp_path / "epoch=3-step=500.ckpt") in hint for hint in plan.hints)


def test_finished_training_has_nothing_left(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run", log=False)
    write_log(
        directory, last_step=400, total_steps=400, argv=[sys.executable, "-m", "trainer", "--out", str(directory)]
    )
    plan = plan_resume(str(directory))
    assert any("nothing left" in warning for warning in plan.warnings)
    assert (plan.steps_redone, plan.steps_new) == (0, 0)


def test_interrupted_restore_is_completed_before_the_resume_and_said(tmp_path: Path) -> None:
    from functools import partial

    from ckpt_tui.services.restore import carry_out, plan_restore
    from tests.builders.crashing import file_operations, killed_at

    def damaged() -> Path:
        directory = run_with_command(tmp_path / "run")
        damage(directory / "latest.pt")
        let_age(directory / "latest.pt")
        return directory

    number = len(file_operations(partial(carry_out, plan_restore(str(damaged()))))) - 8
    directory = damaged()
    killed_at(number, partial(carry_out, plan_restore(str(directory))))
    plan = plan_resume(str(directory))
    assert any("was interrupted: now completed" in warning for warning in plan.warnings)
    assert plan.checkpoint_name == "latest.pt"


def test_plan_goes_into_json(tmp_path: Path) -> None:
    from ckpt_tui.commands.resume import _plan_data

    plan = plan_resume(str(run_with_command(tmp_path / "run")), "auto", {"lr": "1e-5"})
    assert json.loads(json.dumps(_plan_data(plan), default=str))["checkpoint"] == "latest.pt"


@pytest.mark.parametrize("source", ["300", "step 300", "0,300", "rolling_step_000300.pt"])
def test_the_checkpoint_can_be_named_by_its_step(tmp_path: Path, source: str) -> None:
    directory = str(run_directory(tmp_path / "run"))
    damage(tmp_path / "run" / "latest_backup.pt")  # of the same step
    plan = plan_resume(directory, source)
    assert (plan.step, plan.validation.verdict, plan.refusals) == (300, "valid", ())
    assert plan_resume(directory, "latest_backup.pt").refusals
    with pytest.raises(CkptError, match="No such checkpoint") as caught:
        plan_resume(directory, "350")
    assert "latest.pt (step 400)" in caught.value.hint


def test_a_value_that_looks_like_an_option_stays_a_value(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    for argv in (["train.py"], ["train.py", "--note", "x"], ["train.py", "--note=x"]):
        write_log(directory, last_step=437, argv=[sys.executable, *argv], config={"note": "x"})
        assert "--note=--resume" in plan_resume(str(directory), changes={"note": "--resume"}).command
        plan = plan_resume(str(directory), changes={"note": ""})
        assert "note: not set -> empty, not known." in plan.sentences  # as its checkpoint says
    write_log(directory, last_step=437, argv=[sys.executable, "train.py"], config={"shift": 1.0})
    assert plan_resume(str(directory), changes={"shift": "-2.5"}).command[-2:] == ("--shift", "-2.5")


def lacking_position(path: Path, step: int) -> None:
    """As a loop of somebody's own saves it: no data position."""
    others = ("dataloader_state", "format_version", "checkpoint_type")
    path.write_bytes(torch_zip({key: value for key, value in training_state(step).items() if key not in others}))


def taken_and_lost(directory: Path) -> tuple[str | None, int | None]:
    """What `list` says that a resume takes, and from which step `status` counts what was lost."""
    state, _ = read_judged_run(str(directory))
    at_risk = state.at_risk
    assert at_risk is not None
    return read_catalog(str(directory), check="full").resume_would_take, at_risk.checkpoint_step or None


def test_loop_of_ones_own_goes_on_from_what_is_whole_but_not_exact(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    lacking_position(directory / "rolling_step_000100.pt", 100)
    lacking_position(directory / "rolling_step_000200.pt", 200)
    (directory / "weights_300.pt").write_bytes(torch_zip({"model": training_state(300)["model"], "step": 300}))
    no_model = {key: value for key, value in training_state(250).items() if key != "model"}
    (directory / "rolling_step_000250.pt").write_bytes(torch_zip(no_model))
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    write_log(directory, last_step=237, argv=[sys.executable, "train.py"], config={"lr": 1.0})
    plan = plan_resume(str(directory))
    assert (plan.step, plan.validation.verdict, plan.refusals) == (200, "incomplete", ())
    assert any("not exact" in warning and "no data position" in warning for warning in plan.warnings)
    assert "Passed over: rolling_step_000250.pt (step 250) is incomplete." in plan.sentences
    assert plan_resume(str(directory), "rolling_step_000250.pt").refusals
    assert plan_resume(str(directory), "rolling_step_000100.pt").refusals == ()
    said = plan_resume(str(directory), "weights_300.pt").warnings
    assert "weights_300.pt holds weights only: optimizer, schedule and random numbers would begin anew." in said
    assert taken_and_lost(directory) == ("rolling_step_000200.pt", 200)
    assert find_point(str(directory)).step == 200
    back = restore.plan_rollback(str(directory), "100")
    assert (back.resume_step, "step 100, incomplete" in " ".join(back.sentences)) == (100, True)
    # Where one holds everything, it is taken.
    save(directory / "rolling_step_000150.pt", 150)
    assert plan_resume(str(directory)).step == 150
    assert taken_and_lost(directory) == ("rolling_step_000150.pt", 150)
    assert find_point(str(directory)).step == 150
    (directory / "rolling_step_000150.pt").unlink()
    damage(directory / "rolling_step_000200.pt")
    plan = plan_resume(str(directory))
    assert (plan.step, "Passed over: rolling_step_000200.pt (step 200) is damaged." in plan.sentences) == (100, True)


def test_the_bundled_trainer_resumes_only_from_what_is_complete(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    lacking = {key: value for key, value in training_state(100).items() if key != "dataloader_state"}
    (directory / "rolling_step_000100.pt").write_bytes(torch_zip(lacking))
    write_log(directory, last_step=237, argv=[sys.executable, "-m", "trainer", "--out", "run"])
    with pytest.raises(CkptError, match="Nothing to resume from"):
        plan_resume(str(directory))
    assert plan_resume(str(directory), "rolling_step_000100.pt").refusals
    assert taken_and_lost(directory) == (None, None)
    assert find_point(str(directory)).why_none
