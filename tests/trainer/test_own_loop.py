"""The checkpointing from other people's loops: what the README shows, as it is printed there; and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckpt_tui.services.supervised_start import find_point
from tests.builders.held import Hold
from tests.builders.stand_ins import wait_for
from tests.trainer.faults.nursery import Nursery
from trainer import Checkpointer, Policy, UsageError, restore_rng_state, rng_state
from trainer.checkpoint.formats import load_checkpoint
from trainer.checkpoint.plain import refuse_objects
from trainer.checkpoint.registry import Registry
from trainer.checkpoint.resume import find
from trainer.checkpoint.state import fingerprint

REPO = Path(__file__).parents[2]


def readme_program() -> str:
    section = (REPO / "README.md").read_text("utf-8").partition("## From your own training loop")[2]
    match = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """To be ended, whatever comes."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(
    command: list[str], directory: Path, started: list[subprocess.Popen[str]], hold: Hold | None = None
) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    environment = hold.environment if hold is not None else {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=directory, env={**environment, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    started.append(process)
    return process


def events(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of the log, which may be being written."""
    return [json.loads(line) for line in (directory / "runs/mine/events.jsonl").read_bytes().split(b"\n")[:-1]]


def endless() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["it"] = state
    return state


def hash_of(directory: Path) -> str:
    return fingerprint(load_checkpoint(str(directory / "runs/mine/latest.pt")).state)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's program, run to its end. Only to be looked at."""
    directory = tmp_path_factory.mktemp("undisturbed")
    processes: list[subprocess.Popen[str]] = []
    _, told = start(["-c", readme_program()], directory, processes).communicate(timeout=300)
    assert processes[0].returncode == 0, told
    return directory


def test_the_readmes_program_is_killed_interrupted_and_comes_out_the_same(
    nursery: Nursery, undisturbed: Path, tmp_path: Path
) -> None:
    program = readme_program()
    assert len(program.splitlines()) <= 36
    (tmp_path / "disturbed").mkdir()
    there = f"import os; os.chdir({str(tmp_path / 'disturbed')!r})\n{program}"

    hold = Hold(tmp_path, "step 250")
    nursery.start_ranks([], [{}], code=there, hold=hold)
    os.kill(hold.wait(), signal.SIGKILL)
    assert nursery.finish().was_killed

    hold = Hold(tmp_path, "step 610")
    nursery.start_ranks([], [{}], code=there, hold=hold)
    os.kill(hold.wait(), signal.SIGTERM)
    hold.go_on()
    stopped = nursery.finish()
    assert stopped.code == 128 + signal.SIGTERM, stopped.output

    nursery.start_ranks([], [{}], code=there)
    ended = nursery.finish()
    assert ended.code == 0, ended.output
    assert hash_of(tmp_path / "disturbed") == hash_of(undisturbed)

    found = events(tmp_path / "disturbed")
    starts = [event for event in found if event["event"] == "run_start"]
    assert [event["session"] for event in starts] == [1, 2, 3]
    assert starts[1]["start_step"] in (100, 200)
    assert starts[1]["resumed_from"]["path"].endswith(".pt")
    assert starts[2]["start_step"] == 610
    assert [event["status"] for event in found if event["event"] == "run_end"] == ["preempted", "finished"]
    expected = {e["step"]: e["loss"] for e in events(undisturbed) if e["event"] == "step"}
    assert all(event["loss"] == expected[event["step"]] for event in found if event["event"] == "step")
    kept = sorted(path.name for path in (tmp_path / "disturbed/runs/mine").glob("rolling_step_*"))
    assert kept == [f"rolling_step_{step:06d}.pt" for step in (800, 900, 1000)]
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_tui", "status", str(tmp_path / "disturbed/runs/mine"), "--json"], cwd=REPO,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    status = json.loads(done.stdout)["data"]
    assert (status["state"], status["step"], status["total_steps"]) == ("finished", 1000, 1000)


def viewer(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_tui", *arguments], cwd=REPO, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize("form", ["file", pytest.param("dir", marks=pytest.mark.long)])
def test_the_viewer_takes_what_the_readmes_program_takes_and_resumes_it_to_the_same(
    form: str, undisturbed: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """It keeps no data position, for its data come from the random numbers."""
    program = readme_program().replace("keep_rolling=3", f"keep_rolling=3, checkpoint_format={form!r}")
    hold = Hold(tmp_path, "step 250")
    (tmp_path / "disturbed").mkdir()
    (tmp_path / "disturbed" / "loop.py").write_text(program)
    disturbed = start(["loop.py"], tmp_path / "disturbed", started, hold)
    hold.wait()
    disturbed.kill()
    disturbed.communicate()
    run = tmp_path / "disturbed/runs/mine"
    registry = Registry(str(run))
    registry.sync()
    source = find(str(run), "auto", registry, needed=("step",))
    assert source is not None
    listed = json.loads(viewer("list", str(run), "--check", "full", "--json"))["data"]
    assert (listed["resume_would_take"], source.step in (100, 200)) == (source.name, True)
    status = json.loads(viewer("status", str(run), "--json"))["data"]
    assert status["at_risk"]["steps"] == status["step"] - source.step
    assert "Nothing to do" in viewer("rollback", str(run), "--to", source.name, "--dry-run")
    plan = json.loads(viewer("resume", str(run), "--dry-run", "--json"))["data"]
    assert (plan["step"], plan["checkpoint"], plan["refusals"]) == (source.step, source.name, [])
    assert find_point(str(run)).step == source.step

    viewer("resume", str(run), "--yes")
    wait_for(lambda: events(tmp_path / "disturbed")[-1]["event"] == "run_end", "it did not end", timeout_s=300)
    assert [(e["event"], e.get("status")) for e in events(tmp_path / "disturbed")][-1] == ("run_end", "finished")
    name = "latest.pt" if form == "file" else "latest"
    states = [
        load_checkpoint(str(undisturbed / "runs/mine/latest.pt")).state,
        load_checkpoint(str(tmp_path / "disturbed/runs/mine" / name)).state,
    ]
    assert states[0]["step"] == 1000
    assert fingerprint(states[0]) == fingerprint(states[1])


def test_a_state_of_plain_values_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "step": 3, "mine": {"nested": [1, (2.5, None), {"deep": torch.arange(3)}], 7: "int key"},
        "more": OrderedDict(a={1, 2}, b=b"\0", c=Counter("aab")), "types": [torch.float16, torch.Size([1]), 1j, True],
        "parameter": torch.nn.Parameter(torch.ones(2)), "sparse": torch.eye(3).to_sparse(), "rng_state": rng_state(),
    }  # fmt: skip
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.find() is None
        checkpoints.save(state, {"rolling"})
        checkpoints.wait()
        assert checkpoints.last_step == 3
    drawn = torch.rand(3)
    with Checkpointer(tmp_path, takes_lock=True) as checkpoints:
        source = checkpoints.find()
        assert source is not None
        found = source.state
        assert source.step == 3
        assert found["mine"]["nested"][1] == (2.5, None)
        assert found["mine"][7] == "int key"
        assert torch.equal(found["mine"]["nested"][2]["deep"], torch.arange(3))
        assert found["more"] == state["more"]
        assert found["types"] == state["types"]
        restore_rng_state(found["rng_state"])
        assert torch.equal(torch.rand(3), drawn)
        with pytest.raises(UsageError, match="Another process trains"):
            Checkpointer(tmp_path)


class Meter:
    def state_dict(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"train": [1.0, Meter()]}, r"state\['it'\]\['train'\]\[1\] is an object of .*Meter.*state_dict\(\)"),
        (torch.__version__, r"state\['it'\] is an object of torch.torch_version.TorchVersion.*Save str\("),
        (torch.rand(3).numpy(), r"numpy.ndarray.*torch.as_tensor"),
        (torch.Generator(), r"get_state\(\)"),
        ({(1, Path("a")): 2}, r"state\['it'\]\[key .*PosixPath"),
        (frozenset({1}), r"frozenset.*a dict or a list"),
        (dict, r"the class dict"),
        (lambda: None, r"function"),
        ({"w": torch.ones(2, device="meta")}, r"state\['it'\]\['w'\] is a tensor on the meta device, which has no"),
        (endless(), r"state(\['it'\]){8}\.\.\. is nested too deeply.* Does it hold itself\?$"),
    ],
)  # fmt: skip
def test_what_could_not_be_loaded_again_is_refused_with_its_place(value: Any, told: str, tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match=told):
            checkpoints.save({"step": 1, "it": value}, ())
        with pytest.raises(TypeError, match=told):
            checkpoints.save_now({"step": 1, "it": value}, ())
    assert not list(tmp_path.glob("*.pt"))


def test_what_is_let_through_is_what_torch_loads() -> None:
    """Held against the real `weights_only=True`, in both directions."""
    import io
    from collections import defaultdict, deque, namedtuple
    from datetime import date

    pair = namedtuple("pair", "a b")
    values = [
        {1}, frozenset({1}), b"x", bytearray(b"x"), 1j, (1,), OrderedDict(a=1), Counter("a"), defaultdict(list),
        deque([1]), torch.Size([1]), torch.float32, torch.device("cpu"), torch.nn.Parameter(torch.ones(1)),
        torch.ones(2).numpy(), torch.__version__, pair(1, 2), date.today(), Path("a"), 2**100, torch.strided,
        torch.eye(3).to_sparse(), torch.nn.Buffer(torch.ones(1)), range(3), ..., None, len, dict, True,
        torch.nn.Linear(1, 1).state_dict(), torch.nn.Linear(1, 1),
    ]  # fmt: skip
    for value in values:
        buffer = io.BytesIO()
        try:
            torch.save({"it": [value]}, buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
            is_loaded = True
        except Exception:  # noqa: BLE001  whatever is wrong with it
            is_loaded = False
        try:
            refuse_objects({"step": 1, "it": [value]})
            is_taken = True
        except TypeError:
            is_taken = False
        assert is_taken == is_loaded, value


@pytest.mark.parametrize("step", [None, 1.0, torch.tensor(3), True, -3])
def test_a_state_without_its_step_is_refused(step: Any, tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints, pytest.raises(TypeError, match="number of steps completed"):
        checkpoints.save({"step": step} if step is not None else {}, ())


def test_what_a_save_cannot_mean_is_refused(tmp_path: Path) -> None:
    state = {"step": 1, "model": {"w": torch.ones(2)}}
    with Checkpointer(tmp_path) as checkpoints:
        for kinds in ({"rollin"}, "rolling", {"latest"}):
            with pytest.raises(ValueError, match="best, emergency, epoch, rolling"):
                checkpoints.save(state, kinds)
        with pytest.raises(ValueError, match="regular or emergency"):
            checkpoints.save_now(state, (), "urgent")
        with pytest.raises(TypeError, match="state is a list: it must be a dict"):
            checkpoints.save([state], ())  # type: ignore[arg-type]
    assert not list(tmp_path.glob("*.pt"))


def test_a_closed_one_does_not_save_into_what_another_owns(tmp_path: Path) -> None:
    state = {"step": 1, "model": {"w": torch.ones(2)}}
    closed = Checkpointer(tmp_path)
    closed.close()
    closed.close()
    with Checkpointer(tmp_path) as owner:
        owner.save(state, {"rolling"})
        for save in (closed.save, closed.save_now):
            with pytest.raises(UsageError, match="is closed and saves no more"):
                save({**state, "step": 7}, {"rolling"})
    assert {path.name for path in tmp_path.glob("*.pt")} == {
        "latest.pt", "rolling_step_000001.pt", "rolling_last_backup.pt"
    }  # fmt: skip


def test_several_threads_that_save_get_each_its_own(tmp_path: Path) -> None:
    told: list[str] = []
    with Checkpointer(tmp_path, Policy(keep_rolling=99), say=told.append) as checkpoints:

        def save_some(first: int) -> None:
            for step in range(first, first + 8):
                save = checkpoints.save_now if step % 4 == 0 else checkpoints.save
                save({"step": step, "model": {"w": torch.full((1000,), float(step))}}, {"rolling"}, "regular")

        threads = [threading.Thread(target=save_some, args=(100 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == []
    paths = sorted(tmp_path.glob("rolling_step_*.pt"))
    assert len(paths) == 32
    for path in paths:
        state = load_checkpoint(str(path)).state
        assert path.name == f"rolling_step_{state['step']:06d}.pt"
        assert set(state["model"]["w"].tolist()) == {float(state["step"])}


@pytest.mark.parametrize("form", ["file", "dir"])
def test_losses_that_are_tensors_still_are_told_as_numbers(form: str, tmp_path: Path) -> None:
    """Whoever saves `loss.detach()` and an epoch of 1.5 has a registry, an order and a resume like anybody else."""
    said: list[str] = []
    policy = Policy(checkpoint_format=form)
    for step in (100, 200, 300):
        state = {
            "step": step, "model": {"weight": torch.ones(3)}, "epoch": torch.tensor(step / 200),
            "loss_history": [2.5, 2.0],
            "val_loss": torch.tensor(0.5), "train_loss": torch.tensor(float("nan")), "best_metric": torch.tensor(0.5),
        }  # fmt: skip
        with Checkpointer(tmp_path, policy, say=said.append) as checkpoints:
            assert checkpoints.find() is not None or step == 100
            checkpoints.save(state, {"rolling", "best", "epoch"})
    assert said == []
    registry = json.loads((tmp_path / "registry.json").read_bytes())
    assert registry["best"]["value"] == 0.5
    assert {(row["step"], row["epoch"], row["metrics"]["val_loss"]) for row in registry["checkpoints"]} == {
        (100, 0.5, 0.5), (200, 1.0, 0.5), (300, 1.5, 0.5),
    }  # fmt: skip
    # Made again from the files, it tells the same: what is newest is known where the newest is damaged.
    (tmp_path / "registry.json").unlink()
    suffix = ".pt" if form == "file" else ""
    for name in ("latest", "latest_backup", "rolling_step_000300", "rolling_last_backup", "best_model",
                 "best_model_backup", "best_model_previous", "epoch_00001", "epoch_00002"):  # fmt: skip
        path = tmp_path / (name + suffix)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    with Checkpointer(tmp_path, policy, say=said.append) as checkpoints:
        source = checkpoints.find()
    assert source is not None
    assert source.name == "rolling_step_000200" + suffix
    assert isinstance(source.state["val_loss"], torch.Tensor)


def test_importing_the_package_loads_nothing() -> None:
    code = (
        "import sys, trainer; print('torch' in sys.modules, len([m for m in sys.modules if m.startswith('trainer')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1"]
    with pytest.raises(ImportError):
        from trainer import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_signals_are_given_back_and_policy_says_what_it_cannot_do(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Checkpointer(tmp_path, Policy(is_async=False, checkpoint_format="dir")) as checkpoints:
        with checkpoints.handling_signals():
            assert not checkpoints.should_stop
            os.kill(os.getpid(), signal.SIGTERM)
            assert checkpoints.should_stop
            assert checkpoints.exit_code == 143
        assert signal.getsignal(signal.SIGTERM) == before
        checkpoints.save({"step": 1, "model": {"w": torch.ones(2)}}, {"best"})
    assert (tmp_path / "best_model" / "model.pt").exists()
    with pytest.raises(ValueError, match="checkpoint_format"):
        Policy(checkpoint_format="zip")
