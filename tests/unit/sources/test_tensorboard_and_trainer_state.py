"""Event files over several sessions, damaged and of other versions; and the state that a Trainer writes anew."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.events.schema import BadLine, Eval, RunEnd, RunStart, Step
from ckpt_tui.run.fold import RunFold
from ckpt_tui.sources import tfrecords
from ckpt_tui.sources.tensorboard import TensorboardSource
from ckpt_tui.sources.trainer_state import TrainerStateSource
from tests.builders.foreign_logs import event_file, record, scalar, tensor_scalar, trainer_state


def steps_of(events: list[Any], name: str = "loss") -> list[int]:
    return [event.step for event in events if name in getattr(event, "metrics", {})]


def test_the_checksum_is_crc32c() -> None:
    assert tfrecords.masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_a_resume_goes_on_in_the_file_that_was_begun_later(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "a" / "events.out.tfevents.1700000000.vm.1.0").write_bytes(event_file(range(1, 31)))
    source = TensorboardSource(str(tmp_path))
    assert steps_of(source.poll().events) == [*range(1, 31)]
    # Resumed from step 20 while we watch.
    (tmp_path / "runs" / "b" / "events.out.tfevents.1700009000.vm.2.0").write_bytes(event_file(range(21, 41)))
    assert steps_of(source.poll().events) == [*range(21, 41)]
    fold = RunFold()
    fold.apply_all(TensorboardSource(str(tmp_path)).poll().events)
    state = fold.state(now=1e9)
    assert (state.step, state.lost.steps) == (40, 10)
    assert state.series["loss"].segments[0].abandoned_after == 20, "the later file wins from its first step"


def test_another_training_in_the_same_place_is_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1700000000.vm.1.0").write_bytes(event_file(range(1, 31)))
    (tmp_path / "events.out.tfevents.1700009000.vm.2.0").write_bytes(event_file(range(1, 11), loss=9.0))
    batch = TensorboardSource(str(tmp_path)).poll()
    assert steps_of(batch.events) == [*range(1, 11)]
    assert batch.notices == (
        "an earlier training in the same place is not shown (events.out.tfevents.1700000000.vm.1.0)",
    )


def test_damage_is_counted_and_what_is_behind_it_is_read(tmp_path: Path) -> None:
    content = event_file(range(1, 21))
    path = tmp_path / "events.out.tfevents.1700000000.vm.1.0"
    one = scalar(1, "train/loss", 1.0)
    at = len(event_file(range(1, 11)))
    flipped = bytearray(content)
    flipped[at + 2] ^= 0x40  # in a length
    path.write_bytes(flipped)
    events = TensorboardSource(str(path)).poll().events
    (bad,) = [event for event in events if isinstance(event, BadLine)]
    assert (bad.offset, bad.num_bytes) == (at, len(one))
    assert steps_of(events) == [*range(1, 11), *range(12, 21)]
    broken = record(b"\x0a\xff\xff\xff\xff\xff")  # a record whose message is no message
    path.write_bytes(content[:at] + broken + content[at:])
    events = TensorboardSource(str(path)).poll().events
    assert sum(isinstance(event, BadLine) for event in events) == 1
    assert steps_of(events) == [*range(1, 21)]


def test_zero_bytes_at_the_end_are_not_written_yet(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1700000000.vm.1.0"
    content = event_file(range(1, 11))
    path.write_bytes(content + bytes(5000))
    source = TensorboardSource(str(path))
    assert not [event for event in source.poll().events if isinstance(event, BadLine)]
    path.write_bytes(content + b"".join(scalar(step, "train/loss", 1.0) for step in range(11, 200)))
    assert steps_of(source.poll().events) == [*range(11, 200)]


def test_tensorflow_2_tensors_pictures_and_several_tags(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1700000000.vm.1.0.v2"
    picture = record(b"\x10\x05" + b"\x2a" + struct.pack("<B", 0x7F) + b"\x00" * 127)
    path.write_bytes(
        tensor_scalar(4, "epoch_loss", 0.5)
        + scalar(5, "train/loss", 2.0) + scalar(5, "train/epoch", 0.25) + scalar(5, "train/learning_rate", 1e-4)
        + picture + record(b"\x10\x05" + b"\x00" * 2_000_000) + scalar(10, "eval/loss", 2.5)
    )  # fmt: skip
    source = TensorboardSource(str(path))
    events = [event for event in source.poll().events if not isinstance(event, RunStart | BadLine)]
    while not (batch := source.poll()).is_caught_up or batch.events:
        events += batch.events
    first, second, third = events
    assert isinstance(first, Step)
    assert (first.step, first.metrics["epoch_loss"]) == (4, 0.5)
    assert isinstance(second, Step)
    assert (second.epoch, second.metrics) == (
        0.25,
        {"loss": 2.0, "lr": pytest.approx(1e-4)},
    )
    assert isinstance(third, Eval)
    assert third.metrics == {"val_loss": 2.5}


def test_lightnings_steps_begin_at_zero_and_hp_metric_is_no_measure(tmp_path: Path) -> None:
    (tmp_path / "hparams.yaml").write_text("lr: 0.1\n")
    (tmp_path / "events.out.tfevents.1700000000.vm.1.0").write_bytes(
        scalar(0, "hp_metric", -1.0) + scalar(49, "train_loss", 2.0) + scalar(49, "epoch", 0.0)
    )
    events = TensorboardSource(str(tmp_path)).poll().events
    assert [(e.step, e.epoch, e.metrics) for e in events if isinstance(e, Step)] == [(50, 0.0, {"loss": 2.0})]


# trainer_state.json


def test_the_newest_state_is_told_on(tmp_path: Path) -> None:
    source = TrainerStateSource(str(tmp_path))
    assert source.poll().events == []
    for last, expected in ((10, [5, 10]), (20, [15, 20]), (30, [25, 30])):
        (tmp_path / f"checkpoint-{last}").mkdir()
        (tmp_path / f"checkpoint-{last}" / "trainer_state.json").write_bytes(trainer_state(last))
        batch = source.poll()
        assert (steps_of(batch.events), batch.restarted) == (expected, False)
        assert source.poll().events == []
    (tmp_path / "trainer_state.json").write_bytes(trainer_state(42))
    assert steps_of(source.poll().events) == [35, 40]


def test_a_resume_from_an_earlier_checkpoint_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(trainer_state(30))
    source = TrainerStateSource(str(path))
    fold = RunFold()
    fold.apply_all(source.poll().events)
    state = json.loads(trainer_state(30))
    state["log_history"] = [e if e["step"] <= 20 else {**e, "loss": 7.0} for e in state["log_history"]]
    path.write_text(json.dumps(state))
    batch = source.poll()
    assert (steps_of(batch.events), batch.restarted) == ([25, 30], False)
    fold.apply_all(batch.events)
    assert fold.state(now=1e9).series["loss"].last == 7.0


def test_another_training_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(trainer_state(20))
    source = TrainerStateSource(str(path))
    source.poll()
    path.write_bytes(trainer_state(10, every=2))
    batch = source.poll()
    assert (steps_of(batch.events), batch.restarted) == ([2, 4, 6, 8, 10], True)


def test_bare_nan_totals_settings_and_the_end(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    history = [
        {"step": 5, "loss": float("nan"), "grad_norm": float("inf")},
        {"step": 42, "train_runtime": 9.5, "train_loss": 1.0},
    ]
    path.write_bytes(trainer_state(42, log_history=history))
    events = TrainerStateSource(str(path)).poll().events
    start = events[0]
    assert isinstance(start, RunStart)
    assert (start.total_steps, start.config) == (
        42, {"num_train_epochs": 3, "logging_steps": 5, "save_steps": 10},
    )  # fmt: skip
    assert isinstance(events[-1], RunEnd)
    loss = events[1].metrics["loss"]  # type: ignore[union-attr]
    assert loss != loss


def test_a_torn_state_is_no_crash_and_said(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(trainer_state(20)[:300])
    source = TrainerStateSource(str(path))
    assert source.poll().events == []
    assert source.unfinished is not None
    path.write_bytes(trainer_state(20))
    assert steps_of(source.poll().events) == [5, 10, 15, 20]
    assert source.unfinished is None
