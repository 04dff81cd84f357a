"""The recorded command is rebuilt as it was spelt, over the forms that people and launchers write."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from ckpt_tui.services import command_line
from ckpt_tui.services.launchers.base import Resume
from ckpt_tui.services.launchers.recorded import RecordedStart, build_recorded

START = ["/usr/bin/python", "-m", "trainer", "--out", "run"]


@pytest.mark.parametrize(
    ("options", "key", "value", "recorded", "expected"),
    [
        ("--lr 6e-4 --seed 1", "lr", 3e-4, 6e-4, "--lr 0.0003 --seed 1"),
        ("--lr=6e-4 --seed 1", "lr", 3e-4, 6e-4, "--lr=0.0003 --seed 1"),
        ("--seed 1", "lr", 3e-4, 6e-4, "--seed 1 --lr 0.0003"),
        ("--max-steps 10", "max_steps", 20, 10, "--max-steps 20"),
        ("--max_steps=10", "max-steps", 20, 10, "--max_steps=20"),
        ("--lr 1 --lr 2", "lr", 3, 2, "--lr 3"),
        ("--offset -3 --lr 1", "offset", -5, -3, "--offset -5 --lr 1"),
        ("--offset -1e-3", "offset", 0.5, -1e-3, "--offset 0.5"),
        ("--lr_min 1 --lr 2", "lr", 3, 2, "--lr_min 1 --lr 3"),
        ("--data a.txt b.txt --lr 1", "data", ["c.txt"], ["a.txt", "b.txt"], "--data c.txt --lr 1"),
        ("--data a.txt positional", "data", "c.txt", "a.txt", "--data c.txt positional"),
        ("--name 'two words'", "name", "it's $HOME", "two words", """--name "it's $HOME" """),
        ("--ema --lr 1", "ema", False, True, "--lr 1"),
        ("--lr 1", "ema", True, False, "--lr 1 --ema"),
        ("--no-ema --lr 1", "ema", True, False, "--lr 1 --ema"),
        ("--no_ema --lr 1", "ema", True, False, "--lr 1 --ema"),
        ("--lr 1", "ema", False, True, "--lr 1 --no-ema"),
        ("--ema true --lr 1", "ema", False, True, "--ema false --lr 1"),
        ("--ema=true", "ema", False, True, "--ema=false"),
        ("--lr 1 -- --lr 9", "lr", 2, 1, "--lr 2 -- --lr 9"),
        ("--seed 1 -- rest", "lr", 2, 1, "--seed 1 --lr 2 -- rest"),
        ("--resume", "resume", "latest.pt", "", "--resume latest.pt"),
        ("--resume auto --lr 1", "resume", "latest.pt", "", "--resume latest.pt --lr 1"),
    ],
)
def test_option_is_replaced_where_it_stands_or_appended(
    options: str, key: str, value: object, recorded: object, expected: str
) -> None:
    before = [*START, *shlex.split(options)]
    argv = list(before)
    assert command_line.set_option(argv, key, value, recorded=recorded) == [*START, *shlex.split(expected)]
    assert argv == before, "the recorded command itself is left alone"


def test_quoted_command_is_read_back_by_a_shell_as_it_was() -> None:
    command = ["/a dir/python", "-m", "trainer", "--name", 'it\'s "quoted" $HOME `x` \n', "--out", "run;rm"]
    assert shlex.split(command_line.quoted(command)) == command


@pytest.mark.parametrize(
    ("argv", "expected", "note", "missing"),
    [
        ([sys.executable, "-m", "trainer"], [sys.executable, "-m", "trainer"], None, None),
        (["/gone/bin/python3.9", "-m", "trainer"], [sys.executable, "-m", "trainer"], "no longer there", None),
        (["train.py", "--lr", "1"], [sys.executable, "train.py", "--lr", "1"], "not recorded", None),
        (["/x/trainer/__main__.py", "--lr", "1"], [sys.executable, "-m", "trainer", "--lr", "1"], None, None),
        (["/gone/torchrun", "train.py"], ["/gone/torchrun", "train.py"], None, "not found"),
    ],
)
def test_program_that_is_gone_is_replaced_or_refused(
    argv: list[str], expected: list[str], note: str | None, missing: str | None, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    wanted = Resume(str(tmp_path), "latest.pt", str(tmp_path / "latest.pt"), 1, "auto")
    built = build_recorded(RecordedStart(tuple(argv), str(tmp_path)), wanted)
    start = next(i for i in range(len(built.command)) if built.command[i : i + len(expected)] == tuple(expected))
    assert start == (len(built.environment) + 1 if built.environment else 0)  # what `env` sets
    assert (note is None) == (built.notes == ())
    assert note is None or note in built.notes[0]
    assert (built.missing == ()) if missing is None else missing in built.missing[0]


@pytest.mark.parametrize(
    ("text", "recorded", "expected"),
    [
        ("3e-4", 6e-4, 3e-4), ("20", 10, 20), ("true", False, True), ("0", True, False), ("none", 1.0, None),
        ("cosine", "plateau", "cosine"), ("1", "name", "1"), ("a b", ["x"], ["a", "b"]), ("1,2", [3], [1, 2]),
        ("7", None, 7), ("word", None, "word"), ("true", None, True),
    ],
)  # fmt: skip
def test_typed_value_takes_the_recorded_kind(text: str, recorded: object, expected: object) -> None:
    value = command_line.typed_value(text, recorded)
    assert value == expected
    assert type(value) is type(expected)


def test_options_of_one_start_only_are_not_repeated() -> None:
    argv = [*START, "--list_checkpoints", "--lr", "1", "--kill_at_step", "40", "--fault=write"]
    assert command_line.without_once(argv) == [*START, "--lr", "1"]


def test_lost_log_gives_the_command_from_the_settings(tmp_path: Path) -> None:
    settings = {
        "lr": 6e-4,
        "n_layer": 2,
        "ema": True,
        "compile": False,
        "data": [],
        "name": None,
        "out": "x",
        "resume": "auto",
    }
    command = command_line.own_trainer_command(str(tmp_path), settings)
    assert command[1:] == ["-m", "trainer", "--out", str(tmp_path), "--lr", "0.0006", "--n_layer", "2", "--ema"]
