"""The lines that a plan gives for other frameworks' checkpoints really resume them, with the real libraries."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.services.resume import ResumePlan, plan_resume


def planned(directory: Path, source: str = "auto") -> ResumePlan:
    plan = plan_resume(str(directory), source)
    assert plan.command == ()
    assert len(plan.refusals) == 1
    assert plan.refusals[0].startswith("It cannot be started: the command that started this training is not recorded")
    assert plan.not_known
    return plan


def test_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import Trainer, TrainingArguments

    from tests.frameworks.test_transformers import Samples, tiny_model, train

    train(tmp_path, tiny_model())
    plan = planned(tmp_path)
    assert (plan.checkpoint_name, plan.launcher, plan.changes) == ("checkpoint-3", "hf-trainer", ())
    arguments = TrainingArguments(str(tmp_path), max_steps=5, report_to=[], use_cpu=True, disable_tqdm=True,
                                  save_strategy="no")  # fmt: skip
    trainer = Trainer(model=tiny_model(), args=arguments, train_dataset=Samples())
    done = eval(plan.hints[0], {"trainer": trainer})
    assert done.global_step == 5
    assert plan.hints[0] == f'trainer.train(resume_from_checkpoint="{tmp_path}/checkpoint-3")'
    # An architecture of another shape cannot go on from it.
    (refusal,) = [r for r in plan_resume(str(tmp_path), "auto", {"n_embd": "16"}).refusals if "n_embd" in r]
    assert "impossible" in refusal


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.loggers import CSVLogger

    from tests.frameworks.test_lightning import Regression

    def trainer(max_steps: int) -> Any:
        return lightning.Trainer(
            max_steps=max_steps, accelerator="cpu", logger=CSVLogger(tmp_path), enable_progress_bar=False,
            enable_model_summary=False, log_every_n_steps=1, limit_val_batches=0,
        )  # fmt: skip

    data = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=2)
    trainer(3).fit(Regression(), data)
    plan = planned(tmp_path)
    assert (plan.step, plan.launcher) == (3, "lightning")
    assert plan.hyperparameters is not None
    assert plan.hyperparameters["dim"] == 4
    again, model = trainer(5), Regression()
    eval(plan.hints[0].replace("(model,", "(model, data,"), {"trainer": again, "model": model, "data": data})
    assert again.global_step == 5


def test_accelerate(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from accelerate import Accelerator

    def prepared() -> tuple[Any, Any, Any]:
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        accelerator = Accelerator(cpu=True)
        return accelerator, *accelerator.prepare(model, optimizer)

    accelerator, model, optimizer = prepared()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    accelerator.save_state(str(tmp_path / "step_100"))
    plan = planned(tmp_path)
    assert (plan.checkpoint_name, plan.launcher) == ("step_100", "accelerate")
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    accelerator, model, optimizer = prepared()
    exec(plan.hints[0], {"accelerator": accelerator})
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("is_plain", [True, False])
def test_torch_alone(tmp_path: Path, is_plain: bool) -> None:
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    settings: object = {"lr": 1e-3} if is_plain else argparse.Namespace(lr=1e-3)
    keep = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict(), "step": 10}
    torch.save({**keep, "args": settings}, tmp_path / "step_10.pt")
    plan = planned(tmp_path)
    names: dict[str, Any] = {"torch": torch, "model": torch.nn.Linear(4, 4)}
    names["optimizer"] = torch.optim.AdamW(names["model"].parameters())
    for line in plan.hints:
        exec(line, names)
    assert torch.equal(names["model"].weight, model.weight)
    assert names["optimizer"].state_dict()["state"][0]["step"] == 1
    assert ("only one that you trust" in plan.hints[0]) == (not is_plain)
