"""The trainer's command line: help that can be read, errors in one line, and the list of checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from trainer.__main__ import main
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.registry import Registry
from trainer.config import Config, parse
from trainer.errors import UsageError
from trainer.listing import as_json, lines

REPO = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "x", "--max_step", "5"], "unknown flag --max_step, did you mean --max_steps?"),
        (["--out", "x", "--n-layer", "5"], "unknown flag --n-layer, did you mean --n_layer?"),
        (["--out", "x", "--learning_rate=3"], "unknown flag --learning_rate"),
        (["--out", "x", "surplus"], "'surplus' belongs to no flag"),
        (["--out", "x", "--n_layer", "two"], "argument --n_layer: invalid int value: 'two'"),
        (["--out", "x", "--n_layer", "0"], "--n_layer 0: must be at least 1"),
        (["--out", "x", "--seed", str(2**64)], f"--seed {2**64}: must be at most {2**64 - 1}"),
        (["--out", "x", "--threads", "1000000"], "--threads 1000000: must be at most 1024"),
        (["--out", "x", "--schedule", "sine"], "argument --schedule: invalid choice: 'sine'"),
        ([], "the following arguments are required: --out"),
    ],
)
def test_a_usage_error_is_one_line_that_says_what_is_meant(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError):
        parse(argv)
    assert main(argv) == 2
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith(f"trainer: {message}")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_has_every_flag_with_its_default_and_examples(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for setting in fields(Config):
        assert f"--{setting.name}" in text
    for part in ("largest gradient norm; 0: no clipping (1.0)", "(cosine)", "hash runs/gpt", "128 + signal"):
        assert part in words
    assert "--no-compile" not in text
    assert max(map(len, text.splitlines())) <= max(columns, 80)


def test_usage_and_help_need_no_torch() -> None:
    code = (
        "import sys\nfrom trainer.__main__ import main\nmain(['--out', 'x', '--nonsense'])\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nprint({'torch', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 10 to 40, then a resume from 20 that leaves 30 and 40 behind, and 30 anew; one pinned, one unreadable."""
    directory = tmp_path_factory.mktemp("list") / "run"
    policy = Policy(is_async=False)

    def save(checkpoints: Checkpointer, step: int, kinds: set[str]) -> None:
        state = {"step": step, "epoch": 0, "model": {"weight": torch.full((64,), float(step))}, "optimizer": {},
                 "train_loss": 5.0 - step / 100, "val_loss": 4.0 - step / 100, "best_metric": None}  # fmt: skip
        checkpoints.save(state, kinds)
        checkpoints.wait()

    with Checkpointer(directory, policy) as checkpoints:
        for step in (10, 20, 30, 40):
            save(checkpoints, step, {"rolling", "best"} if step == 20 else {"rolling"})
    with Checkpointer(directory, policy) as checkpoints:
        source = checkpoints.find("rolling_step_000020.pt")
        assert source is not None
        save(checkpoints, 25, {"rolling"})
    (directory / "rolling_step_000010.pt.keep").touch()
    (directory / "rolling_step_000007.pt").write_bytes(b"nothing")
    return directory


def listed(run: Path) -> Registry:
    registry = Registry(str(run))
    registry.sync()
    return registry


def test_the_list_says_what_each_checkpoint_is(run: Path) -> None:
    told = lines(listed(run), time.time(), None)
    kinds = [line.split()[0] for line in told if not line.startswith(" ")]
    assert kinds[:-1] == ["latest", "rolling", "best"]
    row = {line.split()[0]: line for line in told if line.startswith(" ")}
    assert row["rolling_step_000025.pt"].split()[1:5] == ["25", "0", "4.750", "3.750"]
    assert "abandoned" in row["rolling_step_000030.pt"]
    assert "abandoned" in row["rolling_step_000040.pt"]
    assert "abandoned" not in row["rolling_step_000020.pt"]
    assert "pinned" in row["rolling_step_000010.pt"]
    assert "unreadable" in row["rolling_step_000007.pt"]
    assert "backup" in row["rolling_last_backup.pt"]
    assert "= latest.pt" in row["rolling_step_000025.pt"]
    assert told[-1].endswith(" on the disk")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_columns_are_aligned_and_fit(width: int, run: Path) -> None:
    told = lines(listed(run), time.time(), width)
    assert max(map(len, told)) <= width
    at = told[0].index("val") + 3
    assert {line[at - 5 : at] for line in told if line.startswith("  ") and "7" not in line[:20]} >= {"3.750", "3.800"}


def test_json_is_for_scripts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(run), "--list_checkpoints", "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == as_json(listed(run))
    content = json.loads(printed)
    assert (content["schema"], content["ok"], content["errors"]) == ("ckpt-tui/trainer-checkpoints/1", True, [])
    by_path = {row["path"]: row for row in content["data"]["checkpoints"]}
    assert by_path["rolling_step_000030.pt"]["is_abandoned"]
    assert by_path["rolling_step_000010.pt"]["is_pinned"]
    assert by_path["rolling_step_000025.pt"]["metrics"] == {"train_loss": 4.75, "val_loss": 3.75}
    assert by_path["rolling_step_000025.pt"]["shares"] == "latest.pt"
    on_disk = {(run / name).stat().st_ino: (run / name).stat().st_size for name in by_path}
    assert content["data"]["total_bytes"] == sum(on_disk.values())


def test_a_reader_of_the_list_may_go_away(run: Path) -> None:
    command = (
        f"{sys.executable} -m trainer --out {run} --list_checkpoints --json | head -c 10; echo; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=REPO, capture_output=True, text=True, timeout=300, check=True)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")
