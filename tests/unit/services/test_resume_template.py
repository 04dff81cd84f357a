"""A command of a person's own: its places are filled, its words stay words, and it is kept for the directory."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.errors import CkptError
from ckpt_tui.services.launch import launch
from ckpt_tui.services.launchers.base import Resume
from ckpt_tui.services.launchers.template import (
    FILE_NAME,
    FORGOTTEN_NAME,
    Template,
    build_template,
    keep_template,
    parse_template,
)
from ckpt_tui.services.resume import plan_resume
from tests.builders.run_directories import damage, run_directory, torch_zip, training_state, write_log
from tests.builders.trees import tree_of

PYTHON = sys.executable


def filled(directory: Path, text: str, **fields: object) -> tuple[str, ...]:
    given = {"name": "a b.pt", "path": "/run/a b.pt", "step": 400, "argument": "", **fields}
    wanted = Resume(str(directory), **given)  # type: ignore[arg-type]
    built = build_template(parse_template(text, str(directory)), wanted)
    assert built.missing == (), built.missing
    return built.command


RECORDED = {"lr": 6e-4, "data": ["a", "b"], "n_layer": 2, "name": "it's"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PY train.py --ckpt {checkpoint}", ["train.py", "--ckpt", "/run/a b.pt"]),
        ("PY train.py --ckpt={checkpoint_name} --at {step}", ["train.py", "--ckpt=a b.pt", "--at", "400"]),
        ("PY train.py {directory}/x", ["train.py", "DIR/x"]),
        ("PY train.py --lr {lr} {{x}} '{name}'", ["train.py", "--lr", "0.0003", "{x}", "it's"]),
        ("PY train.py {settings} --ckpt {checkpoint}", ["train.py", "--lr", "0.0003", "--ckpt", "/run/a b.pt"]),
        ("PY train.py model=x {settings}", ["train.py", "model=x", "lr=0.0003"]),
        ("PY train.py --seed=1 {settings}", ["train.py", "--seed=1", "--lr=0.0003"]),
        ("PY train.py --lr 1 --ckpt {checkpoint}", ["train.py", "--lr", "0.0003", "--ckpt", "/run/a b.pt"]),
        ("PY train.py 'a;b' '$HOME' '`x`' {settings}", ["train.py", "a;b", "$HOME", "`x`", "--lr", "0.0003"]),
    ],
)
def test_places_are_filled(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "train.py").touch()
    settings = {"lr": 3e-4} if "0.0003" in " ".join(expected) else {}
    command = filled(tmp_path, text.replace("PY", PYTHON), settings=settings, recorded=RECORDED)
    assert command == (PYTHON, *(word.replace("DIR", str(tmp_path)) for word in expected))


def test_launcher_option_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    text = f"{PYTHON} -m torch.distributed.run --standalone --lr 7 train.py {{settings}}"
    command = filled(tmp_path, text, settings={"lr": 3e-4}, recorded=RECORDED)
    assert command[4:] == ("--lr", "7", "train.py", "--lr", "0.0003")


def test_what_a_shell_reads_is_quoted_for_it(tmp_path: Path) -> None:
    """Only there: everywhere else a word is a word."""
    text = "sh -c 'printf \"%s|\" {checkpoint} {name} {settings}' {checkpoint}"
    command = filled(
        tmp_path, text, path="/run/$(id) 'x'.pt", settings={"note": "a b; id"}, recorded={**RECORDED, "note": ""}
    )
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "/run/$(id) 'x'.pt|it's|--note|a b; id|"
    assert command[3] == "/run/$(id) 'x'.pt"


@pytest.mark.parametrize(
    ("text", "title", "words"),
    [
        ("python train.py {chekpoint}", "No such place", "{checkpoint}"),
        ("python train.py {x}", "No such place", "{settings}"),
        ("python 'train.py", "Usage", "quotation"),
        ("", "Usage", "empty"),
        ("  ", "Usage", "empty"),
    ],
)
def test_command_that_makes_no_sense_is_an_error(tmp_path: Path, text: str, title: str, words: str) -> None:
    with pytest.raises(CkptError) as caught:
        filled(tmp_path, text, recorded=RECORDED)
    assert caught.value.title == title
    assert words in caught.value.message + caught.value.hint


def test_setting_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    template = parse_template(f"{PYTHON} train.py {{checkpoint}}", str(tmp_path))
    wanted = Resume(str(tmp_path), "a.pt", "/a.pt", None, "", settings={"lr": 1.0}, recorded=RECORDED)
    (missing,) = build_template(template, wanted).missing
    assert "no place for lr: give it {settings} or {lr}" in missing
    template = Template((PYTHON, "gone.py", "{step}"), str(tmp_path))
    missing = " ".join(build_template(template, wanted).missing)
    assert "gone.py is not there" in missing
    assert "the step of this checkpoint is not known" in missing


SCRIPT = """
import pathlib, sys
pathlib.Path(sys.argv[1]).write_text(" ".join(sys.argv[2:]))
"""


def test_it_is_kept_once_it_has_started_and_used_until_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run_directory(tmp_path / "run", log=False)
    write_log(directory, last_step=437, argv=["/gone/train.sh"])
    (tmp_path / "mine.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    text = f"{PYTHON} mine.py seen {{checkpoint_name}} {{step}} {{settings}}"
    before = tree_of(directory)
    assert main(["resume", "run", "--command", text, "--dry-run"]) == 0
    assert "will be kept" in capsys.readouterr().out.replace("\n  ", " ")
    assert tree_of(directory) == before, "--dry-run keeps nothing"
    plan = plan_resume(str(directory), "auto", {"lr": "1e-4"}, command=text)
    assert (plan.launcher, plan.refusals) == ("template", ())
    launched = launch(plan, wait_s=300)
    assert launched.exit_code == 0
    assert (tmp_path / "seen").read_text() == "latest.pt 400 --lr 0.0001"
    # The next one needs not be told, wherever the person is.
    monkeypatch.chdir("/")
    plan = plan_resume(str(directory), "best")
    assert plan.command == (PYTHON, "mine.py", "seen", "best_model.pt", "300")
    assert plan.cwd == str(tmp_path)
    assert plan.template is not None
    assert plan.template.is_kept
    assert main(["resume", str(directory), "--forget-command", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert shlex.split(data["forgotten"]) == shlex.split(text), "so that it can be given again"
    assert not (directory / FILE_NAME).exists()
    assert plan_resume(str(directory)).launcher == "program"
    assert main(["resume", str(directory), "--forget-command"]) == 0
    assert "No command was kept" in capsys.readouterr().out
    # And kept again, whoever forgot it.
    assert main(["resume", str(directory), "--recall-command", "--dry-run"]) == 0
    assert "Would be kept again: " in capsys.readouterr().out
    assert not (directory / FILE_NAME).exists()
    assert main(["resume", str(directory), "--recall-command", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (shlex.split(data["kept_again"]), data["forgotten"], data["done"]) == (shlex.split(text), None, True)
    assert plan_resume(str(directory), "best").command == plan.command
    assert main(["resume", str(directory), "--recall-command"]) == 2
    assert "another command was kept since" in capsys.readouterr().err
    assert main(["resume", str(directory), "--forget-command"]) == 0
    (directory / FORGOTTEN_NAME).unlink()
    assert main(["resume", str(directory), "--recall-command"]) == 0
    assert "No command was forgotten." in capsys.readouterr().out


def test_one_that_does_not_start_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = run_directory(tmp_path / "run")
    (tmp_path / "mine.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CkptError):
        launch(plan_resume(str(directory), command=f"{PYTHON} mine.py {{checkpoint}}"), wait_s=300)
    assert not (directory / FILE_NAME).exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"command": "x"}', '{"command": []}', '{"command": [1]}', "[" * 99999]
)
def test_kept_file_of_nonsense_is_said_and_can_be_forgotten(tmp_path: Path, content: str) -> None:
    directory = run_directory(tmp_path / "run")
    (directory / FILE_NAME).write_text(content)
    with pytest.raises(CkptError, match="Not a command") as caught:
        plan_resume(str(directory))
    assert "--forget-command" in caught.value.hint
    assert main(["resume", str(directory), "--forget-command"]) == 0
    plan_resume(str(directory))


def test_forgetting_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(run_directory(tmp_path / "run"))
    assert main(["resume", directory, "--forget-command", "--set", "lr=1"]) == 2
    assert main(["resume", directory, "--forget-command", "--recall-command"]) == 2
    assert main(["resume", directory, "--recall-command", "--from", "best"]) == 2
    assert main(["resume", str(tmp_path / "nowhere"), "--forget-command"]) == 2


@pytest.mark.parametrize("what", ["rolled back", "damaged", "gone", "saved since"])
def test_a_plan_that_does_not_hold_any_more_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    directory = run_directory(tmp_path / "run")
    (tmp_path / "mine.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    plan = plan_resume(str(directory), command=f"{PYTHON} mine.py seen {{checkpoint_name}} {{step}}")
    if what == "rolled back":
        assert main(["rollback", "run", "--to", "200", "--yes"]) == 0
    elif what == "damaged":
        damage(directory / plan.checkpoint_name)
    elif what == "gone":
        (directory / plan.checkpoint_name).rename(tmp_path / "elsewhere.pt")
    else:
        (directory / "rolling_step_000500.pt").write_bytes(torch_zip(training_state(500)))
    before = tree_of(directory)
    with pytest.raises(CkptError, match="The directory has changed") as caught:
        launch(plan, wait_s=300)
    assert (caught.value.hint, before.keys() - tree_of(directory).keys()) == ("Plan it again.", set())
    assert not (tmp_path / "seen").exists()
    assert not (directory / FILE_NAME).exists()


def test_a_kept_command_in_a_copy_trains_in_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = run_directory(tmp_path / "run")
    (tmp_path / "mine.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    template = parse_template(f"{PYTHON} mine.py seen --out run {{step}}", str(tmp_path))
    keep_template(str(directory), template)
    copy = shutil.copytree(directory, tmp_path / "copy")
    assert plan_resume(str(directory)).command[-3:] == ("--out", "run", "400")
    plan = plan_resume(str(copy))
    assert plan.command[-3:] == ("--out", str(copy), "400")
    assert f"Moved or copied since: {directory} is now {copy}." in plan.warnings
    keep_template(str(directory), parse_template(f"{PYTHON} mine.py seen {{step}}", str(tmp_path)))
    shutil.copy(directory / FILE_NAME, copy / FILE_NAME)
    assert "it would train there, and not here" in plan_resume(str(copy)).refusals[0]


def test_what_only_a_shell_would_understand_is_said(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    plan = plan_resume(str(directory), command=f"{PYTHON} -c pass {{checkpoint}} && echo done")
    assert "&& is an argument like any other here: no shell reads it. `sh -c '...'` would." in plan.warnings
    plan = plan_resume(str(directory), command=f"sh -c '{PYTHON} -c pass {{checkpoint}} && echo done'")
    assert not [warning for warning in plan.warnings if "shell" in warning]


def test_a_trial_says_what_the_deed_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, words = tmp_path / "resume_command.json", ["resume", str(tmp_path)]
    kept.write_text("nonsense")
    for more in (["--dry-run"], []):
        assert main([*words, "--forget-command", *more]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["Would forget.", "Forgotten."]
    for more in (["--dry-run"], []):
        assert main([*words, "--recall-command", *more]) == 2
        assert "Give the command anew" in capsys.readouterr().err
    kept.write_text(json.dumps({"command": ["train"]}))
    for more in (["--dry-run"], []):
        assert main([*words, "--recall-command", *more]) == 2
        assert "A command is kept" in capsys.readouterr().err


def test_what_was_forgotten_before_is_written_over_by_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "resume_command.json"
    for name in ("first", "second", "third"):
        kept.write_text(json.dumps({"command": [name]}))
        assert main(["resume", str(tmp_path), "--forget-command"]) == 0
    lie = {path.name: json.loads(path.read_text())["command"] for path in tmp_path.iterdir()}
    assert lie == {
        "resume_command.forgotten.json": ["third"], "resume_command.forgotten.1.json": ["first"],
        "resume_command.forgotten.2.json": ["second"],
    }  # fmt: skip
    assert main(["resume", str(tmp_path), "--recall-command"]) == 0
    assert json.loads(kept.read_text())["command"] == ["third"]
