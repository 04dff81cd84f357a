"""Checkpoints of other trainers without a log of their command: what is known, what not, and how to do it by hand."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from ckpt_tui.cli import main
from ckpt_tui.services.resume import plan_resume
from tests.builders.run_directories import FakeTensor, save, torch_zip, training_state
from tests.builders.trees import tree_of

NANOGPT = {
    "out_dir": "out", "eval_interval": 250, "eval_iters": 20, "always_save_checkpoint": False, "init_from": "scratch",
    "dataset": "tiny", "batch_size": 12, "n_layer": 1, "learning_rate": 1e-3, "max_iters": 2000, "compile": False,
}  # fmt: skip


def nanogpt(directory: Path) -> Path:
    """`out/ckpt.pt` as nanoGPT's train.py writes it."""
    state = training_state(500)
    directory.mkdir()
    keep = {"model": state["model"], "optimizer": state["optimizer"], "iter_num": 500, "best_val_loss": 2.0}
    data = torch_zip({**keep, "model_args": {"n_layer": 1}, "config": dict(NANOGPT)})
    (directory / "ckpt.pt").write_bytes(data)
    return directory


def test_nanogpt_tells_every_setting_but_not_where_its_script_is(tmp_path: Path) -> None:
    directory = nanogpt(tmp_path / "out")
    before = tree_of(tmp_path)
    plan = plan_resume(str(directory))
    assert tree_of(tmp_path) == before
    assert any("the script train.py is not there" in refusal for refusal in plan.refusals)
    (tmp_path / "train.py").write_text("exec(open('configurator.py').read())  # init_from")
    plan = plan_resume(str(directory), "auto", {"learning_rate": "1e-4", "compile": "true"})
    assert plan.refusals == ()
    assert plan.cwd == str(tmp_path)
    assert plan.command[:4] == (sys.executable, "train.py", f"--out_dir={directory}", "--init_from=resume")
    assert {"--learning_rate=0.0001", "--compile=True", "--dataset=tiny", "--batch_size=12"} <= set(plan.command)
    assert any("launcher (torchrun?) and the Python" in words for words in plan.not_known)
    assert plan.total_steps == 2000
    # The shape of its model cannot change.
    (refusal,) = plan_resume(str(directory), "auto", {"n_layer": "2"}).refusals
    assert "n_layer: 1 -> 2 is impossible" in refusal


def test_ultralytics_has_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "train"
    (run / "weights").mkdir(parents=True)
    save(run / "weights" / "last.pt", 40)
    (run / "args.yaml").write_text("task: detect\nmode: train\nmodel: yolo11n.pt\nimgsz: 640\nlr0: 0.01\n")
    program = tmp_path / "bin" / "yolo"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    plan = plan_resume(str(run))
    assert plan.command == ("yolo", "train", "resume=True", f"model={run / 'weights' / 'last.pt'}")
    assert (plan.launcher, plan.refusals) == ("ultralytics", ())
    assert "Which environment has the `yolo` command that trained it." in plan.not_known
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert any("program yolo" in refusal for refusal in plan_resume(str(run)).refusals)


def test_wandb_recorded_the_command(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    files = directory / "wandb" / "latest-run" / "files"
    files.mkdir(parents=True)
    save(directory / "checkpoint_7.pt", 7)
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    told = {"program": str(tmp_path / "train.py"), "args": ["--lr", "1"], "executable": sys.executable,
            "root": str(tmp_path), "host": os.uname().nodename}  # fmt: skip
    (files / "wandb-metadata.json").write_text(json.dumps(told))
    plan = plan_resume(str(directory), "auto", {"lr": "0.5"})
    path = str(directory / "checkpoint_7.pt")
    assert plan.command == (sys.executable, str(tmp_path / "train.py"), "--lr", "0.5", "--resume", path)
    assert plan.refusals == ()
    assert any("wandb" in warning for warning in plan.warnings)
    assert any("Whether a launcher" in words for words in plan.not_known)
    for nonsense in ("", "[]", '{"program": 1}', '{"program": "x", "args": "y"}', "[" * 99999):
        (files / "wandb-metadata.json").write_text(nonsense)
        assert plan_resume(str(directory)).command == ()


def test_hydra_recorded_the_overrides(tmp_path: Path) -> None:
    directory = tmp_path / "outputs" / "run"
    (directory / ".hydra").mkdir(parents=True)
    save(directory / "checkpoint_7.pt", 7)
    (directory / ".hydra" / "overrides.yaml").write_text("- lr=0.1\n- model=big\n")
    hydra = f"hydra:\n  job:\n    name: train\n  runtime:\n    cwd: {tmp_path}\n"
    (directory / ".hydra" / "hydra.yaml").write_text(hydra)
    (tmp_path / "train.py").write_text("@hydra.main()")
    plan = plan_resume(str(directory), "auto", {"lr": "0.5"})
    assert plan.command == (sys.executable, "train.py", "lr=0.5", "model=big")
    assert "is told to resume is not known" in plan.refusals[0], "Hydra's settings say nothing of it here"
    (directory / ".hydra" / "overrides.yaml").write_text("- lr=0.1\n- ckpt_path=null\n")
    plan = plan_resume(str(directory))
    assert plan.command[2:] == ("lr=0.1", f"ckpt_path={directory / 'checkpoint_7.pt'}")
    assert plan.refusals == ()
    assert plan.cwd == str(tmp_path)


def test_framework_of_torch_alone_gives_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = training_state(10)
    keep = {"net": state["model"], "optimizer_state_dict": state["optimizer"], "step": 10, "args": {"width": 4}}
    (tmp_path / "it's_10.pt").write_bytes(torch_zip(keep))
    plan = plan_resume(str(tmp_path), "it's_10.pt")
    path = json.dumps(str(tmp_path / "it's_10.pt"))
    assert plan.hints == (
        f"state = torch.load({path}, weights_only=True)",
        'model.load_state_dict(state["net"])',
        'optimizer.load_state_dict(state["optimizer_state_dict"])',
    )
    assert (plan.command, len(plan.refusals)) == ((), 1)
    assert main(["resume", str(tmp_path), "--from", "it's_10.pt", "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert "To resume by hand:" in out
    assert "state = torch.load(" in out
    assert main(["resume", str(tmp_path), "--from", "it's_10.pt", "--yes"]) == 2


def test_unknown_setting_that_is_a_side_of_the_matrices_is_told(tmp_path: Path) -> None:
    matrices = {f"layer{i}.weight": FakeTensor([0.5] * 48, (6, 8)) for i in range(8)}
    optimizer = training_state(10)["optimizer"]
    state = {"model": matrices, "optimizer": optimizer, "step": 10, "args": {"breadth": 8, "x": 5}}
    (tmp_path / "checkpoint_10.pt").write_bytes(torch_zip(state))
    command = f"{sys.executable} -m train {{checkpoint}} {{settings}}"
    plan = plan_resume(str(tmp_path), "checkpoint_10.pt", {"breadth": "16", "x": "6"}, command=command)
    warnings = [warning for warning in plan.warnings if "a side of" in warning]
    assert warnings == [
        "breadth was 8, a side of 8 of the 12 matrices in the checkpoint: if it is the model's width, the resume fails."
    ]
