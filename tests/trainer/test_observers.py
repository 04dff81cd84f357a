"""TensorBoard and MLflow get what the log gets, a resumed run goes on in theirs, and they cannot hurt a training."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("tensorboard")
pytest.importorskip("mlflow")

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import Event, Step
from tests.builders.stand_ins import wait_for
from tests.builders.training import NoSignals
from trainer import observers
from trainer.checkpoint.lock import DirectoryLock
from trainer.config import parse
from trainer.errors import UsageError
from trainer.loop import Training
from trainer.observers import observed_log
from trainer.observers.observed_log import ObservedLog


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A training of 20 steps, in this process; gives its directory."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "corpus.txt").write_text("to be or not to be, " * 300)

    def trained(*options: str) -> Path:
        out = tmp_path / "run"
        out.mkdir(exist_ok=True)
        request = parse(
            ["--out", str(out), "--data", str(tmp_path / "corpus.txt"), "--n_layer", "1", "--n_head", "1",
             "--n_embd", "8", "--block_size", "8", "--batch_size", "2", "--max_steps", "20", "--eval_freq", "10",
             "--eval_batches", "1", "--checkpoint_freq", "5", "--log_freq", "1", "--threads", "1", *options]
        )  # fmt: skip
        lock = DirectoryLock(request.out)
        try:
            assert Training(request, NoSignals()).run() == 0  # type: ignore[arg-type]
        finally:
            lock.release()
        return out

    return trained


def losses_in(out: Path) -> dict[int, float]:
    """The loss of each step in the log: of one that was trained twice, the second."""
    events = [decode(line) for line in (out / "events.jsonl").read_bytes().splitlines()]
    return {e.step: e.metrics["loss"] for e in events if isinstance(e, Event) and e.name == "step"}


def test_both_get_what_the_log_gets_and_a_resumed_run_goes_on_in_theirs(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from trainer.observers.mlflow import MLflow

    out = train("--use_tensorboard", "--use_mlflow", "--max_steps", "14")
    for name in ("latest.pt", "latest_backup.pt", "best_model.pt", "best_model_backup.pt"):
        (out / name).unlink(missing_ok=True)
    time.sleep(1.1)  # TensorBoard names and orders its files by the second
    train("--use_tensorboard", "--use_mlflow", "--resume", "rolling_step_000010.pt", "--lr", "0.001", "--seed", "2")
    expected = losses_in(out)
    assert list(expected) == list(range(1, 21))

    found = EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    scalars = found.Scalars("train/loss")
    assert [point.step for point in scalars] == list(range(1, 21))
    assert [point.value for point in scalars] == pytest.approx([expected[step] for step in range(1, 21)], rel=1e-6)
    assert [point.step for point in found.Scalars("eval/val_loss")] == [10, 20]
    assert {"checkpoint/stall_seconds", "train/lr", "train/grad_norm"} <= set(found.Tags()["scalars"])
    text = [event.tensor_proto.string_val[0].decode() for event in found.Tensors("events/run_start/text_summary")]
    assert text[-1] == "resumed from rolling_step_000010.pt at step 10"
    assert "|n_embd|8|" in found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()

    client = MlflowClient((out / "mlruns").as_uri())
    runs = client.search_runs([client.get_experiment_by_name("trainer").experiment_id])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.params["n_embd"] == "8"
    assert (runs[0].data.tags["session"], runs[0].data.tags["session_2.lr"]) == ("2", "0.001")
    history = {m.step: m.value for m in client.get_metric_history(runs[0].info.run_id, "train/loss")}
    assert history == pytest.approx(expected)
    assert json.loads((out / "mlflow_run.json").read_bytes())["run_id"] == runs[0].info.run_id
    # Moved, it goes on; deleted by somebody, there is a new one, and no error.
    moved = MLflow(str(out.rename(out.parent / "elsewhere")))
    moved.observe([Step(step=21, ts=1.0, metrics={"loss": 1.0})])
    (out.parent / "elsewhere").rename(out)
    assert len(client.search_runs([runs[0].info.experiment_id])) == 1
    assert client.get_metric_history(runs[0].info.run_id, "train/loss")[-1].step == 21
    client.delete_run(runs[0].info.run_id)
    train("--use_mlflow", "--resume", "auto", "--max_steps", "21")
    [new] = client.search_runs([runs[0].info.experiment_id])
    assert new.info.run_id != runs[0].info.run_id


def test_a_server_that_is_away_costs_the_training_nothing(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(observed_log, "CLOSE_SECONDS", 0.3)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    out = train("--use_mlflow")
    assert len(losses_in(out)) == 20
    assert [line for line in capfd.readouterr().out.splitlines() if "MLflow" in line]
    # Its thread may still be at it: not in the midst of the next test.
    wait_for(lambda: all(thread.name != "MLflow" for thread in threading.enumerate()), "it did not give up", 300)
    assert "MLflow failed" not in capfd.readouterr().out, "told after the end"


class Broken:
    """Raises at every call, or never comes back from one."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.num_calls = 0
        self.hangs = hangs

    def observe(self, events: Sequence[Event]) -> None:
        self.num_calls += 1
        if self.hangs:
            time.sleep(1000)
        raise OSError("no space left")

    def close(self) -> None:
        raise RuntimeError("nor here")


def test_what_an_observer_raises_is_told_once_and_it_is_given_up(tmp_path: Path) -> None:
    told: list[str] = []
    broken = Broken()
    log = ObservedLog(tmp_path, {"Board": lambda: broken}, told.append)
    for step in range(100):
        assert log.step(step, loss=1.0)
        if step < observed_log.MAX_FAILURES:
            wait_for(lambda step=step: broken.num_calls > step, "it was not told")  # type: ignore[misc]
    log.close()
    assert told == ["Board failed and the training goes on; events.jsonl has it all: OSError: no space left"]
    assert broken.num_calls == observed_log.MAX_FAILURES
    assert log.feeds[0].num_dropped == 100
    assert log.seq == 100
    assert log.dropped == 0


def test_one_that_hangs_neither_holds_up_a_step_nor_grows_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observed_log, "MAX_WAITING", 50)
    monkeypatch.setattr(observed_log, "CLOSE_SECONDS", 0.2)
    told: list[str] = []
    broken = Broken(hangs=True)
    log = ObservedLog(tmp_path, {"Board": lambda: broken}, told.append)
    log.step(0, loss=1.0)
    wait_for(lambda: broken.num_calls == 1, "it was not told")
    for step in range(1, 200):  # one that waits for it would wait for as long as it hangs
        log.step(step, loss=1.0)
    assert broken.num_calls == 1
    log.close()
    assert log.feeds[0].num_dropped == 199 - 50
    assert told == ["Board did not finish in time: 200 events may be missing there"]


def test_one_that_cannot_be_built_is_told_too(tmp_path: Path) -> None:
    told: list[str] = []

    def build() -> Broken:
        raise ImportError("libmagic is not there")

    log = ObservedLog(tmp_path, {"Board": build}, told.append)
    log.step(1, loss=1.0)
    log.close()
    assert told == [
        "Board failed and the training goes on; events.jsonl has it all: ImportError: libmagic is not there"
    ]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_extra_is_a_usage_error_of_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "find_spec", lambda wanted: None)
    config = parse(["--out", "x", f"--use_{name}"]).config
    with pytest.raises(UsageError) as error:
        observers.check_installed(config)
    assert str(error.value) == f"--use_{name}: {name} is not installed. Install it: pip install 'ckpt-tui[{name}]'"
    observers.check_installed(parse(["--out", "x"]).config)
