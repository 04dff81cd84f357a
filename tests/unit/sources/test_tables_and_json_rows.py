"""CSV and JSON lines of the programs that write them: columns, steps, totals, times, and files that are rewritten."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.events.schema import BadLine, Eval, RunEnd, RunStart, Step
from ckpt_tui.sources.csv_table import CsvSource
from ckpt_tui.sources.json_rows import JsonRowsSource
from ckpt_tui.sources.registry import open_source


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def events_at(path: Path) -> list[Any]:
    return list(open_source(str(path)).poll().events)


def start_of(events: list[Any]) -> RunStart:
    return [event for event in events if isinstance(event, RunStart)][-1]


def steps_of(events: list[Any], name: str = "loss") -> list[tuple[int, float]]:
    return [(e.step, e.metrics[name]) for e in events if name in getattr(e, "metrics", {})]


def test_lightning_counts_batches_from_zero_and_rewrites_with_a_new_column(tmp_path: Path) -> None:
    """Lightning 2.6, fabric/loggers/csv_logs.py: the first evaluation brings a column, and the file anew."""
    path = written(tmp_path / "version_0" / "metrics.csv", "epoch,step,train_loss\n0,4,1.5\n0,9,1.4\n")
    written(tmp_path / "version_0" / "hparams.yaml", "lr: 0.1\nwidth: 4\n")
    source = open_source(str(path))
    first = source.poll()
    assert steps_of(first.events) == [(5, 1.5), (10, 1.4)]
    assert start_of(first.events).config == {"lr": 0.1, "width": 4}
    path.write_text("epoch,step,train_loss,val_loss\n0,4,1.5,\n0,9,1.4,\n0,9,,1.6\n")
    second = source.poll()
    assert second.restarted, "told anew, so that nothing is counted twice"
    assert second.notices == (), "it is how Lightning writes, and no accident"
    assert steps_of(second.events) == [(5, 1.5), (10, 1.4)]
    assert [(e.step, e.metrics) for e in second.events if isinstance(e, Eval)] == [(10, {"val_loss": 1.6})]
    with path.open("a") as file:
        file.write("1,14,1.3,\n")
    third = source.poll()
    assert (third.restarted, steps_of(third.events)) == (False, [(15, 1.3)])


def test_the_moment_between_emptying_and_writing_again(tmp_path: Path) -> None:
    path = written(tmp_path / "version_0" / "metrics.csv", "epoch,step,train_loss\n0,4,1.5\n")
    source = CsvSource(str(path))
    source.poll()
    path.write_text("")
    assert source.poll().events == []
    path.write_text("epoch,step,train_loss,val_loss\n0,4,1.5,\n")
    batch = source.poll()
    assert (batch.restarted, steps_of(batch.events), batch.notices) == (True, [(5, 1.5)], ())


def test_ultralytics_counts_epochs_and_tells_seconds(tmp_path: Path) -> None:
    """ultralytics 8.3, engine/trainer.py save_metrics; older headers are padded with spaces (8.0)."""
    path = written(
        tmp_path / "train" / "results.csv",
        "         epoch,      time,    train/box_loss,   metrics/mAP50(B),    val/box_loss,   lr/pg0\n"
        "1,40.5,2.24,0.10,1.90,8e-05\n2,48.5,1.79,0.52,1.85,0.00016\n3,57.0,nan,0.6,inf,0.0002\n",
    )
    written(tmp_path / "train" / "args.yaml", "task: detect\nepochs: 100\nbatch: 16\n")
    os.utime(path, (2000.0, 2000.0))
    events = events_at(path)
    steps = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in steps] == [1, 2, 3]
    assert steps[0].metrics == {
        "train/box_loss": 2.24, "metrics/mAP50(B)": 0.1, "val/box_loss": 1.9, "lr": 8e-05,
    }  # fmt: skip
    assert [event.ts for event in steps] == [1983.5, 1991.5, 2000.0]
    start = start_of(events)
    assert (start.total_steps, start.extra["step_unit"], start.config["batch"]) == (100, "epoch", 16)


def test_keras_and_timm_epochs_from_zero(tmp_path: Path) -> None:
    """keras 3, callbacks/csv_logger.py; timm 1.0, utils/summary.py."""
    keras = events_at(
        written(
            tmp_path / "log.csv", "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,2.0,0.4,2.1\n1,0.6,1.5,0.5,1.8\n"
        )
    )
    assert steps_of(keras) == [(1, 2.0), (2, 1.5)]
    assert steps_of(keras, "val_loss") == [(1, 2.1), (2, 1.8)]
    timm = events_at(
        written(tmp_path / "summary.csv", "epoch,train_loss,eval_loss,eval_top1,lr\n0,6.9,6.8,0.2,1e-05\n")
    )
    assert (steps_of(timm), steps_of(timm, "val_loss"), steps_of(timm, "lr")) == ([(1, 6.9)], [(1, 6.8)], [(1, 1e-5)])


def test_a_table_without_step_and_epoch_counts_rows(tmp_path: Path) -> None:
    events = events_at(written(tmp_path / "x.csv", "loss,accuracy\n2.0,0.1\n1.5,0.2\n"))
    assert (steps_of(events), start_of(events).extra["step_unit"]) == ([(1, 2.0), (2, 1.5)], "row")


def test_bad_rows_are_counted_and_quoted_cells_read(tmp_path: Path) -> None:
    text = 'step,loss,note\r\n1,2.0,"a, b"\r\n2,1.9\r\nx,1.8,c\r\n3,1.7,d\r\nstep,loss,note\r\n4,1.6,e\r\n'
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    events = events_at(path)
    assert steps_of(events) == [(1, 2.0), (3, 1.7), (4, 1.6)]
    bad = [event for event in events if isinstance(event, BadLine)]
    assert [event.reason for event in bad] == ["2 values for 3 columns", "the step is no whole number: x"]
    assert path.read_bytes()[bad[0].offset :].startswith(b"2,1.9")


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_llama_factory(tmp_path: Path) -> None:
    """LLaMA-Factory 0.9.5, train/callbacks.py LogCallback."""
    path = written(tmp_path / "trainer_log.jsonl", lines(
        {"current_steps": 5, "total_steps": 42, "loss": 2.0, "lr": 4e-05, "epoch": 0.25, "percentage": 11.9,
         "elapsed_time": "0:00:10", "remaining_time": "0:01:00", "throughput": 100.5, "total_tokens": 4096},
        {"current_steps": 10, "total_steps": 42, "loss": 1.9, "lr": 4e-05, "epoch": 0.5, "elapsed_time": "0:00:20"},
        {"current_steps": 10, "total_steps": 42, "eval_loss": 2.1, "epoch": 0.5, "elapsed_time": "1 day, 0:00:21"},
    ))  # fmt: skip
    os.utime(path, (100_000.0, 100_000.0))
    events = events_at(path)
    assert steps_of(events) == [(5, 2.0), (10, 1.9)]
    assert start_of(events).total_steps == 42
    assert [event.metrics for event in events if isinstance(event, Eval)] == [{"val_loss": 2.1}]
    times = [event.ts for event in events if isinstance(event, Step | Eval)]
    assert times[-1] == 100_000.0, "the last line was written when the file was"
    assert times[1] - times[0] == 10.0


def test_ms_swift_verl_openmmlab_and_detectron(tmp_path: Path) -> None:
    swift = events_at(written(tmp_path / "logging.jsonl", lines(  # ms-swift 4.6, values as texts
        {"loss": "1.25", "grad_norm": "0.5", "global_step/max_steps": "5/12", "percentage": "41.67%",
         "elapsed_time": "1m 2s", "memory(GiB)": 10.5, "train_speed(s/it)": "12.4"},
        {"train_runtime": "130.0", "global_step/max_steps": "12/12"},
    )))  # fmt: skip
    assert (steps_of(swift), start_of(swift).total_steps) == ([(5, 1.25)], 12)
    assert isinstance(swift[-1], RunEnd)
    verl = events_at(written(tmp_path / "exp.jsonl", lines(  # verl 0.9, utils/tracking.py FileLogger
        {"step": 3, "data": {"actor/pg_loss": 0.5, "critic/rewards/mean": 0.25, "val-core/acc": 0.5}},
    )))  # fmt: skip
    assert steps_of(verl, "critic/rewards/mean") == [(3, 0.25)]
    mmlab = events_at(written(tmp_path / "scalars.json", lines(  # mmengine 0.10, visualization/vis_backend.py
        {"lr": 0.01, "data_time": 0.02, "loss": 1.5, "time": 0.3, "epoch": 1, "iter": 50, "memory": 900, "step": 50},
        {"coco/bbox_mAP": 0.31, "step": 1},
    )))  # fmt: skip
    assert steps_of(mmlab) == [(50, 1.5)]
    assert steps_of(mmlab, "time") == [(50, 0.3)], "a duration is no moment"
    detectron = events_at(written(tmp_path / "metrics.json", lines(  # detectron2 0.6, utils/events.py JSONWriter
        {"data_time": 0.01, "eta_seconds": 9.5, "iteration": 19, "lr": 0.001, "time": 0.2, "total_loss": 1.75},
    )))  # fmt: skip
    assert steps_of(detectron) == [(19, 1.75)]


def test_anybodys_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "my.log"
    path.write_text(
        '{"msg": "config", "lr": 0.1}\n{"epoch": 0, "train_loss": NaN, "time": "2024-01-01T10:00:00+00:00"}\n'
        '{"epoch": 1, "train_loss": 1.5, "time": "2024-01-01T10:01:00Z"}\nnot json\n[1, 2]\n'
    )
    events = events_at(path)
    assert [event.reason for event in events if isinstance(event, BadLine)] == ["not JSON", "not a JSON object"]
    assert [event.ts for event in events if isinstance(event, Step)][-2:] == [1704103200.0, 1704103260.0]


def test_wandb_keys(tmp_path: Path) -> None:
    """The history that wandb exports: `_step`, `_timestamp`, `_runtime`."""
    events = events_at(written(tmp_path / "history.jsonl", lines(
        {"_step": 7, "_timestamp": 1700000000.5, "_runtime": 12.5, "train/loss": 2.5, "eval/loss": 2.75},
    )))  # fmt: skip
    (step,) = [event for event in events if isinstance(event, Step)]
    assert (step.step, step.ts, step.metrics) == (7, 1700000000.5, {"loss": 2.5, "val_loss": 2.75})


@pytest.mark.parametrize("head", [b'{"event": "step", "seq": 1}\n', b'{"a": "b"}\n', b"[]\n", b""])
def test_what_is_not_a_row_is_left_to_others(head: bytes) -> None:
    assert not JsonRowsSource.accepts("x.jsonl", head)


@pytest.mark.parametrize(
    "times", [("1700000000", "1700000600.0"), ('"2023-11-14T22:13:20Z"', '"2023-11-15T00:23:20+02:00"')]
)
def test_a_copied_log_with_times_of_no_zone_is_not_taken_for_a_live_one(times: tuple[str, str], tmp_path: Path) -> None:
    """Its file is two hours younger than its last line, as if the writer's clock were in another zone."""
    rows = written(
        tmp_path / "metrics.jsonl",
        "".join(f'{{"step": {step}, "loss": 2.0, "time": {ts}}}\n' for step, ts in enumerate(times)),
    )
    table = written(
        tmp_path / "metrics.csv",
        "step,loss,timestamp\n" + "".join(f"{step},2.0,{ts}\n" for step, ts in enumerate(times)),
    )
    for source in (JsonRowsSource(str(rows)), CsvSource(str(table))):
        os.utime(source.path, (1_700_007_800.0, 1_700_007_800.0))
        assert [event.ts for event in source.poll().events if isinstance(event, Step)] == [1_700_000_000, 1_700_000_600]
