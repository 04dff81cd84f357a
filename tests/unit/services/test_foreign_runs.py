"""Directories as other trainers leave them: which log is read, when things were, which checkpoints there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_tui.run.state import Phase
from ckpt_tui.services.foreign_log import ForeignLog
from ckpt_tui.services.glance import glance
from ckpt_tui.services.monitor import RunMonitor, read_run
from ckpt_tui.services.run_places import RunFinder, holds_runs
from ckpt_tui.sources import versions
from ckpt_tui.sources.csv_table import CsvSource
from ckpt_tui.sources.registry import find_log, open_source
from tests.builders.event_logs import LogText
from tests.builders.foreign_logs import csv_table, event_file, json_lines, nanogpt_text, trainer_state

NOW = 1_700_000_000.0


def put(path: Path, content: bytes | str, ts: float = NOW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (ts, ts))
    return path


def lightning(root: Path, version: int = 0, last: int = 100) -> Path:
    """Lightning's default places; the settings at the start, a checkpoint of step 50, the log at the end."""
    place = root / "lightning_logs" / f"version_{version}"
    rows = "".join(f"0,{step - 1},{2 - step / 1000}\n" for step in range(10, last + 1, 10))
    put(place / "hparams.yaml", "lr: 0.1\n", NOW - 100)
    put(place / "checkpoints" / "epoch=0-step=50.ckpt", b"x", NOW - 60)
    put(place / "metrics.csv", "epoch,step,train_loss\n" + rows, NOW)
    return place


def state_of(path: Path, now: float = NOW + 1):  # type: ignore[no-untyped-def]
    monitor = RunMonitor(str(path), clock=lambda: now)
    state = monitor.poll(1.0)
    while not monitor.is_caught_up:
        state = monitor.poll(1.0)
    return state


def test_lightning_times_and_checkpoints_come_from_the_files(tmp_path: Path) -> None:
    lightning(tmp_path)
    state = state_of(tmp_path)
    assert (state.step, state.last_loss, state.phase) == (100, 1.9, Phase.RUNNING)
    assert state.name == f"{tmp_path.name} version_0"
    assert state.config == {"lr": 0.1}
    assert state.at_risk is not None
    assert state.at_risk.checkpoint == "lightning_logs/version_0/checkpoints/epoch=0-step=50.ckpt"
    assert (state.at_risk.steps, state.at_risk.checkpoint_ts) == (50, NOW - 60)
    assert state.at_risk.seconds == pytest.approx(60.0), "50 steps between the checkpoint and the last line"
    segment = state.series["loss"].segments[0]
    times = dict(zip(segment.steps, segment.ts, strict=True))
    assert times[50] == pytest.approx(NOW - 60)
    assert times[80] == pytest.approx(NOW - 24)
    assert times[30] == pytest.approx(NOW - 76)


def test_the_newest_version_is_read_and_the_others_are_runs_of_their_own(tmp_path: Path) -> None:
    for version in (0, 2, 10):
        lightning(tmp_path, version, last=10 * (version + 6))
    assert state_of(tmp_path).step == 160
    assert state_of(tmp_path / "lightning_logs" / "version_2").step == 80
    found = RunFinder(str(tmp_path / "lightning_logs")).find()
    assert [place.name for place in found.places] == ["version_0", "version_10", "version_2"]
    assert (holds_runs(str(tmp_path)), holds_runs(str(tmp_path / "lightning_logs"))) == (False, True)


def test_a_version_that_comes_while_it_is_watched_is_read_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "LOOK_EVERY_S", 0.0)
    lightning(tmp_path, 0, last=160)
    monitor = RunMonitor(str(tmp_path), clock=lambda: NOW + 1)
    assert (monitor.poll(1.0).step, monitor.path) == (160, str(tmp_path))
    (tmp_path / "lightning_logs" / "version_1").mkdir()
    state = monitor.poll(1.0)
    assert state.step == 160, "Lightning makes the directory first"
    assert state.at_risk is not None
    assert state.at_risk.checkpoint == "lightning_logs/version_0/checkpoints/epoch=0-step=50.ckpt"
    lightning(tmp_path, 1, last=80)
    state = monitor.poll(1.0)
    assert (state.step, state.name, len(state.sessions)) == (80, f"{tmp_path.name} version_1", 1)
    assert state.notices == ("another training began: lightning_logs/version_1 is read now",)
    assert state.series["loss"].num_points == state_of(tmp_path).series["loss"].num_points
    with (tmp_path / "lightning_logs" / "version_1" / "metrics.csv").open("a") as table:
        table.write("0,89,1.5\n")
    assert monitor.poll(1.0).step == 90
    one = RunMonitor(str(tmp_path / "lightning_logs" / "version_0"))
    one.poll(1.0)
    assert one.poll(1.0).step == 160, "a version that was named is what is watched"


def test_a_log_that_ends_is_silent_not_crashed(tmp_path: Path) -> None:
    lightning(tmp_path)
    state = state_of(tmp_path, NOW + 3 * 3600)
    assert (state.phase, state.reason) == (
        Phase.SILENT,
        "nothing written for 3h 00m; its log does not tell whether it ended",
    )
    assert not [alert for alert in state.alerts if "crash" in alert.key]
    assert state.markers[-1].kind != "crash"


def test_hugging_face_reads_the_event_files_for_they_tell_the_times(tmp_path: Path) -> None:
    put(tmp_path / "runs" / "Nov21_vm" / "events.out.tfevents.1700000000.vm.1.0", event_file(range(1, 41)), NOW + 40)
    for step in (10, 20, 30, 40):
        put(tmp_path / f"checkpoint-{step}" / "trainer_state.json", trainer_state(step), NOW + step)
    source = open_source(str(tmp_path))
    assert source.path == str(tmp_path / "runs")
    state = state_of(tmp_path, NOW + 41)
    assert (state.step, state.total_steps) == (40, 42), "the total from the newest trainer_state.json"
    assert [(save.path, save.step, save.ts) for save in state.saves] == [
        (f"checkpoint-{step}", step, NOW + step) for step in (10, 20, 30, 40)
    ]
    assert state.at_risk is not None
    assert state.at_risk.steps == 0


def test_without_event_files_the_state_is_read_and_dated_by_its_checkpoints(tmp_path: Path) -> None:
    for step in (10, 20, 40):
        put(tmp_path / f"checkpoint-{step}" / "trainer_state.json", trainer_state(step), NOW + step * 2)
    state = state_of(tmp_path, NOW + 81)
    assert (state.step, state.total_steps) == (40, 42)
    assert state.steps_per_s == pytest.approx(0.5, rel=0.01)
    assert state.at_risk is not None
    assert state.at_risk.checkpoint == "checkpoint-40"


def test_its_last_step_told_and_nothing_after_it_is_finished(tmp_path: Path) -> None:
    put(tmp_path / "trainer_log.jsonl", json_lines(42, total=42))
    assert state_of(tmp_path).phase is Phase.RUNNING
    state = state_of(tmp_path, NOW + 3600)
    assert (state.phase, state.reason) == (Phase.FINISHED, "its last step was reached")


def test_our_log_comes_first_and_the_chosen_one_of_others_is_said(tmp_path: Path) -> None:
    put(tmp_path / "metrics.csv", csv_table())
    put(tmp_path / "train.log", nanogpt_text())
    batch = open_source(str(tmp_path)).poll()
    assert batch.notices == ("read is metrics.csv; not read: train.log",)
    assert not open_source(str(tmp_path / "train.log")).poll().notices
    put(tmp_path / "events.jsonl", LogText().add("step", 7, loss=1.0))
    assert open_source(str(tmp_path)).path == str(tmp_path / "events.jsonl")


def test_a_log_that_nobody_writes_any_more_is_not_taken_for_the_live_one(tmp_path: Path) -> None:
    put(tmp_path / "runs" / "a" / "events.out.tfevents.1600000000.vm.1.0", event_file(range(1, 9)), NOW - 90_000)
    os.utime(tmp_path / "runs" / "a", (NOW - 90_000, NOW - 90_000))
    os.utime(tmp_path / "runs", (NOW - 90_000, NOW - 90_000))
    put(tmp_path / "train.log", nanogpt_text())
    assert open_source(str(tmp_path)).path == str(tmp_path / "train.log")


def test_data_and_texts_in_a_directory_are_no_run(tmp_path: Path) -> None:
    put(tmp_path / "data.csv", "name,age\nx,1\n")
    put(tmp_path / "README.txt", "Train with python train.py\n")
    put(tmp_path / "server.log", "GET /index 200\n")
    put(tmp_path / "corpus.jsonl", '{"text": "step 5: loss 3"}\n')
    assert find_log(str(tmp_path)) is None
    assert open_source(str(tmp_path)).path == str(tmp_path / "events.jsonl"), "a log is waited for"
    assert RunFinder(str(tmp_path.parent)).find().own_log is None


def test_rows_that_come_while_we_look_are_dated_between_the_looks(tmp_path: Path) -> None:
    path = put(tmp_path / "log.csv", "step,loss\n10,2.0\n", NOW)
    log = ForeignLog(CsvSource(str(path)), str(tmp_path), clock=lambda: NOW)
    log.poll()
    path.write_text("step,loss\n10,2.0\n20,1.9\n30,1.8\n")
    os.utime(path, (NOW + 60, NOW + 60))
    assert [(event.step, event.ts) for event in log.poll().events] == [(20, NOW + 30), (30, NOW + 60)]  # type: ignore[union-attr]


def test_a_rewrite_with_more_columns_keeps_the_times_and_counts_nothing_twice(tmp_path: Path) -> None:
    path = put(tmp_path / "metrics.csv", "epoch,step,loss\n0,10,2.0\n", NOW)
    monitor = RunMonitor(str(tmp_path), clock=lambda: NOW + 61)
    monitor.poll(60.0)
    path.write_text("epoch,step,loss\n0,10,2.0\n0,20,1.9\n")
    os.utime(path, (NOW + 60, NOW + 60))
    monitor.poll(60.0)
    path.write_text("epoch,step,loss,val_loss\n0,10,2.0,\n0,20,1.9,\n0,20,,2.5\n")
    os.utime(path, (NOW + 61, NOW + 61))
    state = monitor.poll(60.0)
    assert state.series["loss"].num_points == 2
    assert [*state.series["loss"].segments[0].ts] == [NOW, NOW + 60]
    assert state.last_val_loss == 2.5
    assert state.notices == ()


def test_copied_files_whose_times_say_nothing_date_nothing(tmp_path: Path) -> None:
    place = lightning(tmp_path, last=100_000)
    for number, name in enumerate(("hparams.yaml", "checkpoints/epoch=0-step=50.ckpt", "metrics.csv")):
        os.utime(place / name, (NOW + number / 1000,) * 2)  # one after the other, as fast as a disk copies
    state = state_of(tmp_path)
    assert (state.step, state.steps_per_s) == (100_000, None)


def test_a_checkpoint_whose_name_does_not_tell_its_step_is_opened_for_it(tmp_path: Path) -> None:
    import json

    put(tmp_path / "train.log", nanogpt_text(20), NOW)
    put(tmp_path / "ckpt.pt", json.dumps({"step": 1}))  # no checkpoint: nothing is said of it
    monitor = RunMonitor(str(tmp_path), clock=lambda: NOW + 1)
    monitor.poll(60.0)
    state = monitor.poll(60.0)
    assert state.at_risk is not None
    assert state.at_risk.checkpoint is None


def test_ultralytics_weights_and_megatrons_directories_are_found(tmp_path: Path) -> None:
    from ckpt_tui.services.checkpoint_places import found_saves

    put(tmp_path / "weights" / "epoch10.pt", b"x")
    put(tmp_path / "weights" / "last.pt", b"x", NOW + 1)
    put(tmp_path / "checkpoint" / "step-500" / ".metadata", b"x", NOW + 2)
    put(tmp_path / "iter_0000050" / "model.pt", b"x", NOW + 3)
    (tmp_path / "iter_0000050").touch()
    found = {(save.name, save.step) for save in found_saves(str(tmp_path))}
    assert found == {
        ("weights/epoch10.pt", None), ("weights/last.pt", None), ("checkpoint/step-500", 500), ("iter_0000050", 50),
    }  # fmt: skip


def test_a_checkpoint_that_is_being_written_is_not_told(tmp_path: Path) -> None:
    from ckpt_tui.services.checkpoint_places import found_saves

    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "model.safetensors").write_bytes(b"x")
    assert found_saves(str(tmp_path)) == []
    put(tmp_path / "checkpoint-10" / "trainer_state.json", trainer_state(10), NOW)
    (save,) = found_saves(str(tmp_path))
    assert (save.step, save.ts, save.size_bytes) == (10, NOW, 1 + len(trainer_state(10)))


def test_what_a_text_log_says_of_saves_and_what_is_there_is_one(tmp_path: Path) -> None:
    text = "".join(f"2024-01-01 10:00:{step:02d} step {step}: loss 2.0\n" for step in range(1, 21))
    text += "Saving model checkpoint to out/checkpoint-20\nSaving model checkpoint to out/checkpoint-30\n"
    put(tmp_path / "train.log", text)
    put(tmp_path / "checkpoint-20" / "trainer_state.json", trainer_state(20), NOW)
    state = read_run(str(tmp_path / "train.log"))
    assert [(save.path, save.removed) for save in state.saves] == [
        ("checkpoint-20", False),
        ("./out/checkpoint-30", False),
    ]


def test_where_epochs_are_counted_a_checkpoint_stands_where_its_time_says(tmp_path: Path) -> None:
    rows = "".join(f"{epoch},{epoch * 40}.0,{2 - epoch / 100}\n" for epoch in range(1, 38))
    put(tmp_path / "results.csv", "epoch,time,train/box_loss\n" + rows, NOW)
    put(tmp_path / "args.yaml", "epochs: 100\n", NOW - 37 * 40)
    put(tmp_path / "weights" / "best.pt", b"x", NOW - 7 * 40 + 1)
    put(tmp_path / "weights" / "last.pt", b"x", NOW + 1)
    state = state_of(tmp_path, NOW + 2)
    assert (state.step, state.total_steps, state.step_unit) == (37, 100, "epoch")
    assert [(save.path, save.step) for save in state.saves] == [("weights/best.pt", 30), ("weights/last.pt", 37)]
    assert state.at_risk is not None
    assert (state.at_risk.checkpoint, state.at_risk.steps) == ("weights/last.pt", 0)


def long_csv(last: int) -> str:
    return "epoch,step,train_loss\n" + "".join(f"{step // 1000},{step},{2 - step / 1e6:.6f}\n" for step in range(last))


def long_text(last: int) -> str:
    head = "number of parameters: 1M\nmax_iters = 99\n"
    return head + "".join(f"iter {step}: loss {2 - step / 1e6:.6f}, time 100.00ms, mfu 1.00%\n" for step in range(last))


@pytest.mark.parametrize("kind", ["csv", "text", "json", "tensorboard"])
def test_of_a_long_log_the_newest_facts_come_first_and_in_the_end_the_same(tmp_path: Path, kind: str) -> None:
    last = 20_000
    if kind == "csv":
        put(tmp_path / "log.csv", long_csv(last + 1))
    elif kind == "text":
        put(tmp_path / "train.log", long_text(last + 1))
    elif kind == "json":
        rows = (f'{{"current_steps": {n}, "total_steps": 30000, "loss": {2 - n / 1e6:.6f}}}\n' for n in range(last + 1))
        put(tmp_path / "trainer_log.jsonl", "".join(rows))
    else:
        put(tmp_path / "events.out.tfevents.1600000000.vm.1.0", event_file(range(1, last + 1)))
    monitor = RunMonitor(str(tmp_path), clock=lambda: NOW + 1, newest_first=True)
    first = monitor.poll(0.001)
    assert (first.is_whole, first.step) == (False, last)
    assert monitor.progress < 1
    if kind == "json":
        assert first.total_steps == 30_000
    while not monitor.is_caught_up:
        state = monitor.poll(0.05)
        assert state.step == last
        for segment, after in zip(state.series["loss"].segments, state.series["loss"].segments[1:], strict=False):
            assert after.steps[0] >= segment.steps[0]
    assert state.is_whole
    assert state.step == last
    assert state.series["loss"].num_points == (last if kind == "tensorboard" else last + 1)
    seen = glance(str(tmp_path), NOW + 1)
    assert (seen.step, seen.is_whole) == (last, False)


def test_where_lines_are_counted_none_is_left_out(tmp_path: Path) -> None:
    put(tmp_path / "log.csv", "loss,accuracy\n" + "1.5,0.25\n" * 40_000)
    monitor = RunMonitor(str(tmp_path), clock=lambda: NOW + 1, newest_first=True)
    state = monitor.poll(0.01)
    while not monitor.is_caught_up:
        state = monitor.poll(0.5)
    assert (state.step, state.step_unit) == (40_000, "row")
