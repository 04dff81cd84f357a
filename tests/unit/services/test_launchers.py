"""A recorded command is taken apart into launchers, script and the script's own arguments, and made to run now."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.services.launchers import accelerate, deepspeed, split_command, torchrun
from ckpt_tui.services.launchers.base import Resume, Where
from ckpt_tui.services.launchers.recorded import RecordedStart, build_recorded, environment_to_set, head_now
from ckpt_tui.services.launchers.spelling import set_setting

SPLITS = [
    # (command, launcher, script, the script's own arguments)
    ("python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("python -u -X dev -W error train.py --lr 1", "python", "train.py", "--lr 1"),
    ("/v/bin/python3.11 -m pkg.train --lr 1", "python", "pkg.train", "--lr 1"),
    ("python -c code --lr 1", "python", "-c", "--lr 1"),
    ("torchrun --nproc_per_node 2 --seed 7 train.py --seed 1", "torchrun", "train.py", "--seed 1"),
    ("torchrun --standalone --nproc-per-node=2 train.py --nproc_per_node 9", "torchrun", "train.py",
     "--nproc_per_node 9"),
    ("torchrun -m pkg.train --lr 1", "torchrun", "pkg.train", "--lr 1"),
    ("/v/bin/python /v/bin/torchrun --nnodes 2 train.py", "torchrun", "train.py", ""),
    ("python -m torch.distributed.run --standalone -r 3 train.py --lr 1", "torchrun", "train.py", "--lr 1"),
    ("accelerate launch --config_file c.yaml --cpu train.py --config_file mine.yaml", "accelerate", "train.py",
     "--config_file mine.yaml"),
    ("/v/python /v/accelerate launch --num_processes 2 --multi_gpu train.py --lr 1", "accelerate", "train.py",
     "--lr 1"),
    ("accelerate-launch -m pkg.train --lr 1", "accelerate", "pkg.train", "--lr 1"),
    ("python -m accelerate.commands.launch --gradient_accumulation_steps 4 train.py x", "accelerate", "train.py", "x"),
    ("deepspeed --num_gpus 2 --no_ssh train.py --deepspeed ds.json", "deepspeed", "train.py", "--deepspeed ds.json"),
    ("nohup nice -n 5 python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("env -u X A=1 B=2 torchrun train.py --lr 1", "torchrun", "train.py", "--lr 1"),
    ("A=1 python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("uv run --with x torchrun --standalone train.py --lr 1", "torchrun", "train.py", "--lr 1"),
    ("uv run train.py --lr 1", "python", "train.py", "--lr 1"),
    ("uv run -m pkg.train --lr 1", "python", "pkg.train", "--lr 1"),
    ("/c/python /c/conda run -n env --no-capture-output python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("srun -N 1 --ntasks-per-node=2 -p gpu python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("timeout -k 5 60 python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("taskset -c 0-3 python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("mpirun -np 2 -x A python train.py --lr 1", "python", "train.py", "--lr 1"),
    ("sbatch -p gpu --time 5 job.sh --lr 1", "python", "job.sh", "--lr 1"),
    ("yolo train model=x.pt lr0=1", "program", "yolo", "train model=x.pt lr0=1"),
    ("litgpt pretrain --lr 1", "program", "litgpt", "pretrain --lr 1"),
    ("bash train.sh --lr 1", "program", "train.sh", "--lr 1"),
    ("python train.py fit --config c.yaml", "python", "train.py", "fit --config c.yaml"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "launcher", "script", "options"), SPLITS)
def test_command_is_split_behind_its_script(command: str, launcher: str, script: str, options: str) -> None:
    words = command.split()
    split = split_command(words)
    assert (split.launcher, split.script, " ".join(split.options)) == (launcher, script, options)
    assert [*split.head, *split.options] == words, "nothing is lost"


@pytest.mark.parametrize("command", ["", "torchrun", "python", "python -m", "accelerate", "uv run", "env A=1", "nohup"])
def test_half_a_command_is_no_error(command: str) -> None:
    words = command.split()
    split = split_command(words)
    assert [*split.head, *split.options] == words


def test_flags_are_those_of_the_real_launchers() -> None:
    """What has a value and what has none decides where the script begins."""
    run = pytest.importorskip("torch.distributed.run")
    launch = pytest.importorskip("accelerate.commands.launch")
    for parser, flags in ((run.get_args_parser(), torchrun.FLAGS), (launch.launch_command_parser(), accelerate.FLAGS)):
        for action in parser._actions:
            for name in action.option_strings:
                is_flag = name.replace("_", "-") in flags
                assert is_flag == (action.nargs == 0), name


@pytest.mark.long  # seconds to import
def test_flags_are_those_of_the_real_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = pytest.importorskip("deepspeed.launcher.runner")
    parsers: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda parser, *_args, **_named: parsers.append(parser))
    with pytest.raises(AttributeError):  # of what it has not parsed
        runner.parse_args([]).user_script  # noqa: B018
    for action in parsers[0]._actions:
        for name in action.option_strings:
            assert (name.replace("_", "-") in deepspeed.FLAGS) == (action.nargs == 0), name


@pytest.mark.parametrize(
    ("options", "key", "value", "recorded", "expected"),
    [
        ("--lr 1", "lr", 2, 1, "--lr 2"),
        ("lr=1 model=gpt", "lr", 0.5, 1, "lr=0.5 model=gpt"),
        ("optim.lr=1 model=gpt", "optim.lr", 2, 1, "optim.lr=2 model=gpt"),
        ("lr=1 model=gpt", "optim.lr", 2, 1, "lr=2 model=gpt"),
        ("+lr=1 model=gpt", "lr", 2, 1, "+lr=2 model=gpt"),
        ("model=gpt", "seed", 3, 1, "model=gpt seed=3"),
        ("model=gpt", "ema", True, False, "model=gpt ema=true"),
        ("model=gpt", "data", ["a", "b"], ["a"], "model=gpt data=[a,b]"),
        ("model=gpt", "note", "two words", "x", "model=gpt \"note='two words'\""),
        ("--config c.yaml lr=1", "seed", 3, 1, "--config c.yaml lr=1 seed=3"),
        ("--env A=1 --lr 1", "seed", 3, 1, "--env A=1 --lr 1 --seed 3"),
        ("--config-name=c lr=1 model=x", "seed", 3, 1, "--config-name=c lr=1 model=x seed=3"),
        ("--batch_size=8 --compile=False", "lr", 0.5, 1.0, "--batch_size=8 --compile=False --lr=0.5"),
        ("--batch_size=8 --compile=False", "compile", True, False, "--batch_size=8 --compile=True"),
        ("config/x.py --batch_size=8", "wandb_log", True, False, "config/x.py --batch_size=8 --wandb_log=True"),
        ("--batch-size 8 --max-steps 5", "warmup_steps", 3, 1, "--batch-size 8 --max-steps 5 --warmup-steps 3"),
        ("--batch_size 8", "warmup_steps", 3, 1, "--batch_size 8 --warmup_steps 3"),
        ("fit --optim.lr 1", "optim.lr", 2, 1, "fit --optim.lr 2"),
        ("--lr 1", "optim.lr", 2, 1, "--lr 2"),
        ("--seed 1", "optim.lr", 2, 1, "--seed 1 --optim.lr 2"),
    ],
)
def test_setting_is_spelt_as_the_script_spells_its_others(
    options: str, key: str, value: object, recorded: object, expected: str
) -> None:
    assert set_setting(shlex.split(options), key, value, recorded=recorded) == shlex.split(expected)


def wanted(directory: Path, **fields: object) -> Resume:
    given = {"name": "latest.pt", "path": str(directory / "latest.pt"), "step": 4, "argument": "latest.pt", **fields}
    return Resume(str(directory), **given)  # type: ignore[arg-type]


def built(directory: Path, command: str, *, text: str = "", **fields: object) -> tuple[list[str], str, tuple[str, ...]]:
    """The script's part of the command, what tells of the way to resume, and what is missing."""
    (directory / "train.py").write_text(text)
    start = RecordedStart((sys.executable, "train.py", *shlex.split(command)), str(directory))
    found = build_recorded(start, wanted(directory, **fields))
    assert found.command[:2] == (sys.executable, "train.py")
    return list(found.command[2:]), found.known_by, found.missing


@pytest.mark.parametrize(
    ("options", "text", "recorded", "expected"),
    [
        # The recorded command tells.
        ("--resume old.pt --lr 1", "", {}, "--resume PATH --lr 1"),
        ("--lr 1 --resume_from_checkpoint=old", "", {}, "--lr 1 --resume_from_checkpoint=PATH"),
        ("fit --config c.yaml --ckpt_path old.ckpt", "", {}, "fit --config c.yaml --ckpt_path PATH"),
        ("model=x ckpt_path=old.ckpt", "", {}, "model=x ckpt_path=PATH"),
        ("model=x resume=true", "", {}, "model=x resume=true"),
        ("--resume --lr 1", "", {}, "--resume --lr 1"),
        ("--resume auto", "", {}, "--resume auto"),
        # The script's text tells.
        ("--lr 1", 'p.add_argument("--resume", default="")', {}, "--lr 1 --resume PATH"),
        ("--lr 1", "p.add_argument('--resume', action='store_true')", {}, "--lr 1 --resume"),
        ("--lr 1", 'p.add_argument(\n    "--resume-from",\n)', {}, "--lr 1 --resume_from PATH"),
        ("--learning_rate 1", "HfArgumentParser((A, TrainingArguments))", {}, "--learning_rate 1 "
         "--resume_from_checkpoint PATH"),
        ("fit --config c.yaml", "cli = LightningCLI(Model)", {}, "fit --config c.yaml --ckpt_path PATH"),
        # The recorded settings tell.
        ("--lr 1", "", {"resume": None}, "--lr 1 --resume PATH"),
        ("model=x", "", {"resume_from_checkpoint": None}, "model=x resume_from_checkpoint=PATH"),
        # nanoGPT.
        ("config/x.py --batch_size=8", "exec(open('configurator.py').read())  # init_from", {},
         "config/x.py --batch_size=8 --out_dir=DIR --init_from=resume"),
        ("--init_from=scratch --out_dir=out", "", {}, "--init_from=resume --out_dir=out"),
    ],
)  # fmt: skip
def test_way_to_resume_is_what_something_tells(
    tmp_path: Path, options: str, text: str, recorded: dict[str, object], expected: str
) -> None:
    path = str(tmp_path / "latest.pt")
    command, known_by, missing = built(tmp_path, options, text=text, recorded=recorded)
    assert command == expected.replace("PATH", path).replace("DIR", str(tmp_path)).split()
    assert known_by
    assert missing == ()


def test_nothing_tells_how_it_resumes(tmp_path: Path) -> None:
    command, known_by, missing = built(tmp_path, "--lr 1", text="train()")
    assert (command, known_by) == (["--lr", "1"], "")
    assert "might begin anew" in missing[0]
    assert "--command" in missing[0]


def test_script_that_resumed_by_itself_is_started_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    start = RecordedStart((sys.executable, "train.py"), str(tmp_path), has_resumed=True)
    found = build_recorded(start, wanted(tmp_path))
    assert found.command == (sys.executable, "train.py")
    assert found.missing == ()
    assert "own choice" in found.not_known[0]
    # One that a person chose would silently not be taken.
    (missing,) = build_recorded(start, wanted(tmp_path, is_automatic=False)).missing
    assert "takes the checkpoint that it finds" in missing
    assert f"rollback {tmp_path} --to latest.pt" in missing


@pytest.mark.parametrize(
    ("options", "resumed_from", "expected"),
    [
        ("--load old.pt --lr 1", "old.pt", "--load PATH --lr 1"),
        ("--load=ckpts/old.pt --lr 1", "ckpts/old.pt", "--load=PATH --lr 1"),
        ("load=old.pt lr=1", "/x/old.pt", "load=PATH lr=1"),
        ("old.pt --lr 1", "old.pt", "PATH --lr 1"),
        ("--load ckpts/checkpoint-5/ --lr 1", "checkpoint-5", "--load PATH --lr 1"),
        # It would begin from the old one again, or not: nobody knows.
        ("--load old.pt --lr 1", "", None),
        ("--init weights.pt --lr 1", "latest.pt", "--init weights.pt --lr 1"),
    ],
)
def test_option_of_any_name_that_named_the_last_checkpoint_names_this_one(
    tmp_path: Path, options: str, resumed_from: str, expected: str | None
) -> None:
    (tmp_path / "train.py").write_text("")
    argv = (sys.executable, "train.py", *options.split())
    start = RecordedStart(argv, str(tmp_path), has_resumed=True, resumed_from=resumed_from)
    found = build_recorded(start, wanted(tmp_path))
    assert (found.missing == ()) == (expected is not None)
    if expected is not None:
        assert list(found.command[2:]) == expected.replace("PATH", str(tmp_path / "latest.pt")).split()


@pytest.mark.parametrize(
    ("text", "is_known"),
    [
        ('from trainer import Checkpointer\nif source := checkpoints.find("auto"): pass', True),
        ("from trainer.integrations.lightning import X\ntrainer.fit(model, ckpt_path=ours.newest())", True),
        ("from trainer.integrations.huggingface import X\ncallback.train(trainer)", True),
        ("from trainer.integrations.huggingface import X\ntrainer.train()", False),
        ("from trainer.integrations.lightning import X\ntrainer.fit(model)", False),
        ('from mine import trainer\nmatch = text.find("auto")', False),
    ],
)
def test_loops_of_the_readme_look_for_the_newest_checkpoint(tmp_path: Path, text: str, is_known: bool) -> None:
    command, known_by, missing = built(tmp_path, "--lr 1", text=text)
    assert command == ["--lr", "1"]
    assert bool(known_by) == is_known == (not missing)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("torchrun --nproc_per_node 2 --seed 7", "--seed 1"),
        ("accelerate launch --seed 7 --cpu", "--seed 1"),
        ("srun --seed 7 python", "--seed 1"),
    ],
)
def test_option_of_the_launcher_with_the_same_name_is_left_alone(tmp_path: Path, head: str, options: str) -> None:
    (tmp_path / "train.py").write_text('"--resume"')
    start = RecordedStart((*head.split(), "train.py", *options.split()), str(tmp_path))
    found = build_recorded(start, wanted(tmp_path, settings={"seed": 2, "nproc_per_node": 4}, recorded={"seed": 1}))
    words = list(found.command)
    at = words.index("train.py")
    assert words[:at][-3:-1] == ["--seed", "7"] or "7" in words[:at]
    assert "4" not in words[:at]
    assert words[at + 1 : at + 3] == ["--seed", "2"]


# -- what is made to run now -------------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is in use."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("torchrun --master_port PORT --nproc_per_node 2 train.py",
         "torchrun --nproc_per_node 2 --standalone train.py"),
        ("torchrun --rdzv_backend=c10d --rdzv_endpoint=localhost:PORT -m pkg",
         "torchrun --rdzv_backend=c10d --rdzv_endpoint=localhost:0 -m pkg"),
        ("torchrun --standalone --master_port PORT train.py", "torchrun --standalone --master_port PORT train.py"),
        ("accelerate launch --num_processes 2 --main_process_port PORT train.py",
         "accelerate launch --num_processes 2 --main_process_port 0 train.py"),
    ],
)  # fmt: skip
def test_port_that_is_in_use_is_given_up(tmp_path: Path, port: int, command: str, expected: str) -> None:
    split = split_command(command.replace("PORT", str(port)).split())
    head, notes, _, _ = head_now(split, Where(str(tmp_path)))
    assert head[1:] == expected.replace("PORT", str(port)).split()[1:]
    assert len(notes) == (head != list(split.head)), notes


def test_other_nodes_have_to_be_started_too(tmp_path: Path) -> None:
    command = shlex.split("torchrun --nnodes 3 --node_rank 0 --master_addr n0 --master_port 29500 train.py")
    head, _, _, not_known = head_now(split_command(command), Where(str(tmp_path)))
    assert head[1:] == command[1:]
    assert "on the other 2 of 3 nodes, each with its own --node_rank" in not_known[0]
    command = shlex.split("accelerate launch --num_machines 2 --machine_rank 1 train.py")
    _, _, _, not_known = head_now(split_command(command), Where(str(tmp_path)))
    assert any("This starts machine 1 of 2" in words for words in not_known)


def test_what_has_to_be_there_is_looked_for(tmp_path: Path) -> None:
    start = RecordedStart(("accelerate", "launch", "--config_file", "c.yaml", "train.py"), str(tmp_path))
    missing = " ".join(build_recorded(start, wanted(tmp_path)).missing)
    assert "config file c.yaml is not there" in missing
    assert "the script train.py is not there" in missing
    (tmp_path / "c.yaml").touch()
    (tmp_path / "train.py").touch()
    missing = " ".join(build_recorded(start, wanted(tmp_path)).missing)
    assert "is not there" not in missing


def test_recorded_environment_is_set_again_where_it_differs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    recorded = {
        "OMP_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_JOB_ID": "1",
        "MASTER_PORT": "5",
        "X": "y",
    }
    assert environment_to_set(recorded, "torchrun") == {"CUDA_VISIBLE_DEVICES": "0,1"}
    (tmp_path / "train.py").write_text('"--resume"')
    start = RecordedStart((sys.executable, "train.py"), str(tmp_path), launcher={"environment": recorded})
    command = build_recorded(start, wanted(tmp_path)).command
    assert command[:4] == ("env", "CUDA_VISIBLE_DEVICES=0,1", sys.executable, "train.py")
    # A process that somebody started as one of several gets its place among them again.
    one_of_two = {**recorded, "RANK": "0", "WORLD_SIZE": "2"}
    found = build_recorded(
        RecordedStart((sys.executable, "train.py"), str(tmp_path), launcher={"environment": one_of_two}),
        wanted(tmp_path),
    )
    assert found.environment["MASTER_PORT"] == "5"
    assert any("one of 2 processes" in words for words in found.not_known)


def test_environment_of_nonsense_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('"--resume"')
    for told in (None, [], "x", {"RANK": "x", "WORLD_SIZE": "x"}, {"RANK": 1, "CUDA_VISIBLE_DEVICES": None}):
        launcher = {"environment": told, "job": told, "cwd": told, "name": told, "argv": told}
        start = RecordedStart((sys.executable, "train.py"), str(tmp_path), launcher=launcher)
        assert build_recorded(start, wanted(tmp_path)).command[-2] == "--resume"


def test_program_of_an_environment_that_is_not_active_is_found(tmp_path: Path) -> None:
    program = tmp_path / "venv" / "bin" / "torchrun"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    where = Where(str(tmp_path), {"VIRTUAL_ENV": str(tmp_path / "venv")})
    head, _, missing, _ = head_now(split_command(["torchrun", "--standalone", "-m", "pkg"]), where)
    assert (head[0], missing) == (str(program), [])


def test_run_of_another_host_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text('"--resume"')
    start = RecordedStart((sys.executable, "train.py"), str(tmp_path), host="elsewhere")
    assert f"It ran on elsewhere: this is {os.uname().nodename}." in build_recorded(start, wanted(tmp_path)).notes
