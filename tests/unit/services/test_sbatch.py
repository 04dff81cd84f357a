"""A job of Slurm is submitted again with the line that starts the training changed, and nothing else of its script."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import RunStart
from ckpt_tui.services.launchers import sbatch, split_command
from ckpt_tui.services.launchers.base import Built, Resume
from ckpt_tui.services.launchers.recorded import RecordedStart, build_recorded
from ckpt_tui.services.launchers.sbatch import changed_script
from ckpt_tui.services.launchers.shell_text import simple_commands
from ckpt_tui.services.launchers.spelling import ResumeWay
from tests.builders import slurm as slurm_cluster

REPO = Path(__file__).parents[3]
WAY = ResumeWay("resume", "/run/a b.pt", "a test")


def change(script: str, recorded: str, arguments: tuple[str, ...] = (), **settings: object) -> tuple[str, list[str]]:
    split = split_command(shlex.split(recorded))
    wanted = Resume("/run", "a b.pt", "/run/a b.pt", 4, "", settings=settings, recorded=dict.fromkeys(settings, 1))
    changed = changed_script(script, split, WAY, wanted, arguments)
    assert changed is not None
    return "".join(line for line in changed[0].splitlines(keepends=True) if not line.startswith("# ")), changed[1]


@pytest.mark.parametrize(
    ("line", "recorded", "expected"),
    [
        ("python train.py", "python train.py", "python train.py --resume '/run/a b.pt' --lr 2"),
        ("python train.py --lr 1", "python train.py --lr 1", "python train.py --lr 2 --resume '/run/a b.pt'"),
        # Variables stay as they are written: the new job has values of its own.
        ('srun python train.py --name "$NAME" --lr "$LR"', "python train.py --name x --lr 1",
         "srun python train.py --name \"$NAME\" --lr 2 --resume '/run/a b.pt'"),
        ("srun torchrun --rdzv_endpoint $(hostname | head -n1):29500 --lr 7 train.py --lr 1 > log 2>&1 &",
         "torchrun --rdzv_endpoint n0:29500 --lr 7 train.py --lr 1",
         "srun torchrun --rdzv_endpoint $(hostname | head -n1):29500 --lr 7 train.py --lr 2 --resume '/run/a b.pt'"
         " > log 2>&1 &"),
        ("cd x && python -m pkg.train --lr 1 | tee log; echo done", "python -m pkg.train --lr 1",
         "cd x && python -m pkg.train --lr 2 --resume '/run/a b.pt' | tee log; echo done"),
        ("python train.py \\\n  --lr 1 \\\n  --seed 1\necho", "python train.py --lr 1 --seed 1",
         "python train.py \\\n  --lr 2 --seed 1 --resume '/run/a b.pt'\necho"),
        ("if true; then python train.py --lr 1; fi", "python train.py --lr 1",
         "if true; then python train.py --lr 2 --resume '/run/a b.pt'; fi"),
        ("echo python train.py\ncp train.py x\npython train.py --lr 1", "python train.py --lr 1",
         "echo python train.py\ncp train.py x\npython train.py --lr 2 --resume '/run/a b.pt'"),
        # Of two the one that was recorded.
        ("python train.py --lr 1\npython train.py --lr 5", "python train.py --lr 5",
         "python train.py --lr 1\npython train.py --lr 2 --resume '/run/a b.pt'"),
        ("cat <<END\ndon't python train.py\nEND\npython train.py --lr 1", "python train.py --lr 1",
         "cat <<END\ndon't python train.py\nEND\npython train.py --lr 2 --resume '/run/a b.pt'"),
        ("cat x | \\\n  python train.py --lr 1", "python train.py --lr 1",
         "cat x | \\\n  python train.py --lr 2 --resume '/run/a b.pt'"),
    ],
)  # fmt: skip
def test_line_of_the_training_is_changed_and_no_other(line: str, recorded: str, expected: str, tmp_path: Path) -> None:
    head = "#!/bin/bash\n#SBATCH --time=5\n"
    changed, arguments = change(head + line + "\n", recorded, lr=2)
    assert changed == head + expected + "\n"
    assert arguments == []
    split = split_command(shlex.split(recorded))
    full = changed_script(head + line + "\n", split, WAY, Resume("/run", "a", "/run/a", 1, ""), ())
    assert full is not None
    (tmp_path / "script").write_text(full[0])
    assert subprocess.run(["bash", "-n", str(tmp_path / "script")], capture_output=True, check=False).returncode == 0


def test_arguments_that_are_handed_on_are_changed_where_they_are_given() -> None:
    script = '#!/bin/bash\nexec python train.py --seed 1 "$@"\n'
    changed, arguments = change(script, "python train.py --seed 1 --lr 1", ("--lr", "1"), lr=2)
    assert changed == script
    assert arguments == ["--lr", "2", "--resume", "/run/a b.pt"]


@pytest.mark.parametrize(
    "body", ["./run.sh", "python train.py --lr 1\npython train.py --lr 1", "python -c 'import train'", ""]
)
def test_line_that_is_not_known_is_not_guessed(body: str) -> None:
    split = split_command(["python", "train.py", "--lr", "1"])
    wanted = Resume("/run", "a", "/run/a", 4, "")
    assert changed_script(f"#!/bin/sh\n{body}\n", split, WAY, wanted, ()) is None


@pytest.mark.parametrize("text", ["'", '"', "`", "$(", "${", "\\", "<<", "<<X", "a\\", "((", "#", "$((1+2))", "\0"])
def test_half_a_script_is_no_error(text: str) -> None:
    for script in (text, f"python {text}", f"{text}\npython train.py"):
        for command in simple_commands(script):
            assert all(script[word.begin : word.end] == word.raw for word in command)


SCRIPT = "#!/bin/bash\n#SBATCH --job-name=gpt --nodes=2\n#SBATCH -p gpu\npython train.py --lr $1\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for Slurm's commands, which answer with what the test puts beside them."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        program = directory / name
        program.write_text(f'#!/bin/sh\ncat "{directory}/{name}.says" 2>/dev/null || exit 1\n')
        program.chmod(0o755)
    monkeypatch.setattr(sbatch, "_ASK_S", 300.0)
    monkeypatch.setenv("PATH", f"{directory}:{Path(sys.executable).parent}:/usr/bin:/bin")
    return directory


def plan(tmp_path: Path, job: dict[str, object], **environment: str) -> Built:
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    launcher = {"name": "sbatch", "environment": {"SLURM_SUBMIT_DIR": str(tmp_path), **environment}, "job": job}
    start = RecordedStart((sys.executable, "train.py", "--lr", "1"), str(tmp_path), launcher=launcher)
    wanted = Resume(str(tmp_path), "a.pt", str(tmp_path / "a.pt"), 4, "a.pt", session=3)
    return build_recorded(start, wanted)


def test_job_is_submitted_with_what_it_was_given(tmp_path: Path, slurm: Path) -> None:
    given = {
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ACCOUNT": "lab",
        "SLURM_JOB_NAME": "x",
    }
    built = plan(tmp_path, {"id": "7", "script": SCRIPT, "argv": ["1"]}, **given, SLURM_CPUS_PER_TASK="4")
    # What the script's own #SBATCH lines say is not said again.
    assert built.command == (
        str(slurm / "sbatch"), "--account=lab", "--cpus-per-task=4", str(tmp_path / "session_3.sbatch"), "1",
    )  # fmt: skip
    assert built.cwd == str(tmp_path)
    (file,) = built.files
    assert file.name == "session_3.sbatch"
    assert f"python train.py --lr $1 --resume {tmp_path / 'a.pt'}\n" in file.content
    assert built.missing == ()
    assert built.launcher == "sbatch"
    assert any("time limit" in words for words in built.not_known)


def test_script_that_was_not_recorded_is_asked_of_slurm(tmp_path: Path, slurm: Path) -> None:
    built = plan(tmp_path, {"id": "7"})
    assert any("was not recorded" in words for words in built.missing)
    (slurm / "sacct.says").write_text("Batch Script for 7\n-----\n" + SCRIPT)
    built = plan(tmp_path, {"id": "7"})
    assert built.missing == ()
    assert built.files[0].content.startswith("#!/bin/bash\n#SBATCH")
    assert any("given as arguments" in words for words in built.not_known)


def test_step_of_a_job_is_resumed_by_the_job_and_an_allocation_by_its_command(tmp_path: Path, slurm: Path) -> None:
    (tmp_path / "train.py").write_text('parser.add_argument("--resume")')
    launcher = {"name": "python", "environment": {"SLURM_STEP_ID": "0", "SLURM_ARRAY_TASK_ID": "3"}, "job": {"id": "7"}}
    start = RecordedStart((sys.executable, "train.py"), str(tmp_path), launcher=launcher)
    wanted = Resume(str(tmp_path), "a.pt", str(tmp_path / "a.pt"), 4, "a.pt", session=3)
    built = build_recorded(start, wanted)
    assert built.command == (sys.executable, "train.py", "--resume", str(tmp_path / "a.pt"))
    assert any("allocation of Slurm" in words for words in built.not_known)
    (slurm / "scontrol.says").write_text("#!/bin/bash\nsrun python train.py\n")
    built = build_recorded(start, wanted)
    assert built.command[1:] == ("--array=3", str(tmp_path / "session_3.sbatch"))
    assert f"\nsrun python train.py --resume {tmp_path / 'a.pt'}\n" in built.files[0].content


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_job_that_waits_or_runs_is_not_submitted_twice(tmp_path: Path, slurm: Path, state: str) -> None:
    (slurm / "squeue.says").write_text(f"{state}\n")
    built = plan(tmp_path, {"id": "7", "script": SCRIPT, "argv": ["1"]})
    assert f"job 7 of this training is {state.lower()} in Slurm's queue already" in built.missing[0]


def test_without_slurm_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    built = plan(tmp_path, {"id": "7", "script": SCRIPT, "argv": ["1"]})
    assert any("sbatch is not found here" in words for words in built.missing)


JOB = """#!/bin/bash
#SBATCH --job-name=tiny --output={place}/job-%j.txt
#SBATCH --time=5
export OMP_NUM_THREADS=1
cd {place}
{python} -u -m trainer --out run \\
    --max_steps $1 --n_layer 1 --n_embd 16 --block_size 16 --batch_size 2 --eval_freq 10000 --threads 1 2>&1 | cat
"""


@pytest.mark.long
@pytest.mark.skipif(not slurm_cluster.is_installed(), reason="Slurm is not installed, or this is not root")
def test_job_of_a_real_slurm_is_resumed_by_another_job(tmp_path: Path) -> None:
    """Submitted, killed with its job, and resumed with another learning rate by a job that ckpt-tui submits."""
    run = tmp_path / "run"
    (tmp_path / "job.sh").write_text(JOB.format(place=tmp_path, python=sys.executable))

    def ckpt_tui(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ckpt_tui", *arguments]
        return subprocess.run(
            command, env=environment, cwd=REPO, capture_output=True, text=True, timeout=300, check=False
        )

    def starts() -> list[RunStart]:
        log = run / "events.jsonl"
        lines = log.read_bytes().splitlines() if log.exists() else []
        return [event for line in lines if isinstance(event := decode(line), RunStart)]

    with slurm_cluster.cluster() as environment:
        environment = {**environment, "PYTHONPATH": str(REPO), "CUDA_VISIBLE_DEVICES": ""}
        submit = ["sbatch", "--parsable", "--cpus-per-task=1", str(tmp_path / "job.sh"), "1000000"]
        job = subprocess.run(submit, env=environment, check=True, capture_output=True, text=True).stdout.strip()
        wait_until(lambda: (run / "latest.pt").exists() and bool(starts()))
        assert ckpt_tui("resume", str(run), "--dry-run").returncode == 1, "it runs"
        subprocess.run(["scancel", job], env=environment, check=True)
        wait_until(lambda: not subprocess.run(["squeue", "-h"], env=environment, capture_output=True).stdout.strip())
        assert starts()[0].launcher["job"]["argv"] == ["1000000"]
        done = ckpt_tui("resume", str(run), "--set", "lr=1e-4", "--yes", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        data = json.loads(done.stdout)["data"]
        assert (data["launcher"], data["checkpoint"]) == ("sbatch", "latest.pt")
        wait_until(lambda: len(starts()) == 2)
        again = starts()[1]
        assert again.launcher["job"]["id"] != job
        assert again.config["lr"] == 1e-4
        assert again.config["max_steps"] == 1000000
        assert again.start_step == data["step"] > 0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
