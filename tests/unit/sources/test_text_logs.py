"""What comes out of each program's text lines: step, loss, totals, checkpoints, and how it ended.

The lines have the form of the source that is named beside each; the numbers are made up.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.events.schema import CheckpointSaved, ErrorRaised, Eval, Event, RunEnd, RunStart, Step
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import Phase
from ckpt_tui.services.glance import glance
from ckpt_tui.sources.birth import birth_time
from ckpt_tui.sources.registry import open_source
from ckpt_tui.sources.text_log import TextLogSource

SAMPLES = Path(__file__).parents[2] / "samples" / "foreign"


def events_of(tmp_path: Path, text: str | bytes, name: str = "train.log") -> list[Any]:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    source = open_source(str(path))
    assert isinstance(source, TextLogSource)
    return list(source.poll().events)


def steps_of(events: list[Any], name: str = "loss", kind: type[Event] = Step) -> list[tuple[int, float]]:
    return [(e.step, e.metrics[name]) for e in events if isinstance(e, kind) and name in getattr(e, "metrics", {})]


def total_of(events: list[Any]) -> int:
    return [event.total_steps for event in events if isinstance(event, RunStart)][-1]


def saves_of(events: list[Any]) -> list[tuple[int, str]]:
    return [(event.step, event.path) for event in events if isinstance(event, CheckpointSaved)]


def test_nanogpt(tmp_path: Path) -> None:  # train.py, 2024-11
    events = events_of(
        tmp_path,
        "number of parameters: 123.59M\nstep 0: train loss 10.9, val loss 10.95\n"
        "iter 0: loss 10.9886, time 50531.75ms, mfu -100.00%\niter 10: loss 9.5, time 123.45ms, mfu 30.00%\n"
        "step 20: train loss 9.1, val loss 9.2\nsaving checkpoint to out\n"
        "iter 20: loss nan, time 120.00ms, mfu 31.00%\n",
    )
    assert steps_of(events)[:2] == [(0, 10.9886), (10, 9.5)]
    assert steps_of(events)[2][1] != steps_of(events)[2][1], "nan stays nan"
    assert steps_of(events, "val_loss", Eval) == [(0, 10.95), (20, 9.2)]
    assert steps_of(events, "step_seconds")[1] == (10, pytest.approx(0.12345))
    assert saves_of(events) == [(20, "out")]


def test_nanochat(tmp_path: Path) -> None:  # scripts/base_train.py, 2026-01
    line = (
        "step {:05d}/21400 (0.05%) | loss: {:.6f} | lrm: 0.10 | dt: 345.67ms | tok/sec: 1,515,000 | bf16_mfu: 45.20 | "
        "epoch: 1 | total time: 0.05m | eta: 12.0m\n"
    )
    events = events_of(
        tmp_path, line.format(10, 9.1) + line.format(11, 9.0) + "Step 00250 | Validation bpb: 0.912345\n"
    )
    assert steps_of(events) == [(10, 9.1), (11, 9.0)]
    assert steps_of(events, "tokens_per_s") == [(10, 1_515_000), (11, 1_515_000)]
    assert steps_of(events, "val_bpb", Eval) == [(250, 0.912345)]
    assert total_of(events) == 21400


def test_torchtitan(tmp_path: Path) -> None:  # components/metrics.py and checkpoint.py, 2025-07
    events = events_of(
        tmp_path,
        "[rank0]:[titan] 2025-07-01 12:00:00,250 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  8.1234  "
        "\x1b[38;2;180;60;0mgrad_norm:  1.2345  \x1b[38;2;54;234;195mmemory:  1.00GiB(1.27%)  \x1b[34mtps: 12,345  "
        "\x1b[36mtflops: 1.23  \x1b[35mmfu: 4.56%\x1b[39m\n"
        "[titan] 2025-07-01 12:00:10,250 - root - INFO - step: 20  loss:  7.5000  grad_norm:  1.0  memory:  "
        "1.00GiB(1.27%)  tps: 12,400  tflops: 1.23  mfu: 4.56%\n"
        "[titan] 2025-07-01 12:00:11,000 - root - INFO - validate step: 20  loss:  7.9000  memory: 1.00GiB(1%)  "
        "tps: 9,000\n"
        "[titan] 2025-07-01 12:00:12,000 - root - INFO - Saving the checkpoint (or staging if async is enabled).\n"
        "[titan] 2025-07-01 12:00:15,000 - root - INFO - Finished saving the checkpoint (or staging if async is "
        "enabled)in 3.00 seconds.\n"
        "[titan] 2025-07-01 12:00:20,000 - root - INFO - Training completed\n",
    )
    assert steps_of(events) == [(10, 8.1234), (20, 7.5)]
    assert steps_of(events, "grad_norm")[0] == (10, 1.2345)
    assert steps_of(events, "tokens_per_s") == [(10, 12345), (20, 12400)]
    assert steps_of(events, "val_loss", Eval) == [(20, 7.9)]
    assert saves_of(events) == [(20, "")]
    assert events[-1].status == "finished"
    ts = [event.ts for event in events if isinstance(event, Step)]
    assert ts[1] - ts[0] == 10.0


def test_torchtitan_with_the_step_of_all(tmp_path: Path) -> None:  # as forks print it
    line = "[rank0]:2025-04-01 00:25:47,084 - root - INFO - step: 640/644 = 99.3789%  loss:  6.2116  tps: 52,142\n"
    events = events_of(tmp_path, line)
    assert (steps_of(events), total_of(events)) == ([(640, 6.2116)], 644)


def test_litgpt(tmp_path: Path) -> None:  # finetune/lora.py and pretrain.py, 0.5
    events = events_of(
        tmp_path,
        "Epoch 1 | iter 10 step 5 | loss train: 1.250, val: n/a | iter time: 9.00 ms (step) remaining time: 0:10:00\n"
        "Epoch 1 | iter 20 step 10 | loss train: 1.150, val: 1.3 | iter time: 9.00 ms (step) remaining time: 0:10:00\n"
        "iter 20: val loss 1.3000, val time: 120.00 ms\nSaving LoRA weights to 'out/step-000010/lit_model.pth.lora'\n"
        "Training time: 12.34s\n",
    )
    assert steps_of(events) == [(5, 1.25), (10, 1.15)]
    assert steps_of(events, "val_loss", Eval) == [(10, 1.3)]
    assert saves_of(events) == [(10, "out/step-000010/lit_model.pth.lora")]
    assert isinstance(events[-1], RunEnd)


def test_megatron(tmp_path: Path) -> None:  # training/training.py and checkpointing.py, core 0.12
    line = (
        " [2024-01-01 12:00:{:02d}] iteration {:8d}/    1000 | consumed samples:         3200 | elapsed time per "
        "iteration (ms): 500.1 | learning rate: 1.000000E-04 | global batch size:    64 | lm loss: {:.6E} | "
        "loss scale: 1.0 | grad norm: 1.234 | number of skipped iterations:   0 | number of nan iterations:   0 |\n"
    )
    events = events_of(
        tmp_path,
        line.format(0, 40, 8.2) + line.format(5, 50, 8.1)
        + " validation loss at iteration 50 on validation set | lm loss value: 7.1E+00 | lm loss PPL: 1.2E+03 | \n"
        + "  successfully saved checkpoint from iteration      50 to /ckpt/run [ t 1/1, p 1/1 ]\n",
    )  # fmt: skip
    assert steps_of(events) == [(40, 8.2), (50, 8.1)]
    assert steps_of(events, "val_loss", Eval) == [(50, 7.1)]
    assert steps_of(events, "lr")[0] == (40, 1e-4)
    assert steps_of(events, "step_seconds")[0] == (40, pytest.approx(0.5001))
    assert total_of(events) == 1000
    assert saves_of(events) == [(50, "/ckpt/run/iter_0000050")]


def test_torchtune(tmp_path: Path) -> None:  # training/metric_logging.py DiskLogger, 0.6
    events = events_of(
        tmp_path,
        "Step 1 | loss:1.5 lr:2e-05 tokens_per_second_per_gpu:1000.5 \nStep 2 | loss:1.4 lr:2e-05 grad_norm:nan \n",
        "log_1700000000.txt",
    )
    assert steps_of(events) == [(1, 1.5), (2, 1.4)]
    assert steps_of(events, "lr") == [(1, 2e-5), (2, 2e-5)]


def test_timm_and_the_imagenet_example(tmp_path: Path) -> None:  # timm 1.0 train.py; pytorch/examples imagenet/main.py
    events = events_of(
        tmp_path,
        "Train: 1 [  50/1251 (  4%)]  Loss: 6.94 (6.94)  Time: 1.234s,  800.00/s  (1.234s,  800.00/s)  LR: 1.000e-05  "
        "Data: 0.100 (0.100)\n",
    )
    assert steps_of(events) == [(1301, 6.94)]
    assert steps_of(events, "lr") == [(1301, 1e-5)]
    events = events_of(
        tmp_path,
        "Epoch: [3][100/500]\tTime  0.2 ( 0.3)\tData  0.0 ( 0.0)\tLoss 2.3e+00 (2.4e+00)\tAcc@1  10.0 (  9.0)\n",
    )
    assert steps_of(events) == [(1600, 2.3)]


def test_transformers_5_takes_the_step_from_the_bar_behind(tmp_path: Path) -> None:
    """Recorded: 42 steps, a log every 5, an evaluation every 10 with a bar of its own."""
    events = events_of(tmp_path, (SAMPLES / "transformers_5_23_stdout.txt").read_bytes())
    assert [step for step, _ in steps_of(events)] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert steps_of(events)[0] == (5, 0.2044)
    assert [step for step, _ in steps_of(events, "val_loss", Eval)] == [10, 20, 30, 40, 42]
    assert total_of(events) == 42
    assert [event.status for event in events if isinstance(event, RunEnd)] == ["finished"]


def test_transformers_4_and_nan(tmp_path: Path) -> None:
    """transformers 4.57, ProgressCallback: numbers without quotes, bare nan."""
    events = events_of(
        tmp_path,
        "\r  0%|          | 0/100 [00:00<?, ?it/s]\r 10%|#         | 10/100 [00:20<03:00,  2.00s/it]"
        "\r                                 \r{'loss': 1.5, 'grad_norm': nan, 'learning_rate': 5e-05, 'epoch': 0.5}\n"
        "\r 10%|#         | 10/100 [00:20<03:00,  2.00s/it]\r 20%|##        | 20/100 [00:40<02:40,  2.00s/it]"
        "\rSaving model checkpoint to out/checkpoint-20\n"
        "\r{'loss': nan, 'grad_norm': inf, 'learning_rate': 4e-05, 'epoch': 1.0}\n"
        "\r 20%|##        | 20/100 [00:40<02:40]\r",
    )
    (first, second) = steps_of(events)
    assert first == (10, 1.5)
    assert second[0] == 20
    assert second[1] != second[1]
    assert saves_of(events) == [(20, "out/checkpoint-20")]
    assert total_of(events) == 100
    times = {event.step: event.ts for event in events if isinstance(event, Step)}
    assert times[20] - times[10] == pytest.approx(20.0), "the bar says how long it has trained"


def test_progress_between_two_logs(tmp_path: Path) -> None:
    bars = "\r 10%|# | 10/100 [00:20<03:00]\r 17%|# | 17/100 [00:34<02:46]\r"
    events = events_of(tmp_path, "\r  0%|  | 0/100 [00:00<?]\r{'loss': 1.5, 'epoch': 0.1}\n" + bars)
    assert max(event.step for event in events) == 17


def test_what_is_printed_behind_a_bar_whose_line_was_not_ended(tmp_path: Path) -> None:
    """A bar on stderr and print on stdout, both in one file: nobody clears the bar first."""
    bar = "\r {}%|#  | {}/40 [00:{:02d}<00:20,  1.00it/s]"
    text = "".join(
        bar.format(n * 5 // 2, n, n) + (f"{{'loss': {4 - n / 10}, 'epoch': {n / 10}}}\n" if n % 10 == 0 else "")
        for n in range(1, 36)
    )
    events = events_of(tmp_path, text)
    assert [(step, loss) for step, loss in steps_of(events) if loss is not None] == [(10, 3.0), (20, 2.0), (30, 1.0)]
    assert total_of(events) == 40


def test_a_loops_own_line_behind_its_bar(tmp_path: Path) -> None:
    bar = "\r {}%|#  | {}/40 [00:01<00:20,  1.00it/s]"
    text = "".join(bar.format(25, n) + f"step {n}: loss {4 - n / 10}\n" for n in (10, 20))
    assert steps_of(events_of(tmp_path, text)) == [(10, 3.0), (20, 2.0)]


def test_the_dictionary_behind_the_full_bar_waits_for_no_other(tmp_path: Path) -> None:
    bar = "\r {}%|#  | {}/2 [00:01<00:20]"
    logged = "\r       \r{{'loss': {}, 'epoch': 0.1}}\n"
    text = bar.format(50, 1) + logged.format(2.0) + bar.format(50, 1) + bar.format(100, 2) + logged.format(1.0)
    assert steps_of(events_of(tmp_path, text))[-1] == (2, 1.0)


def test_no_bars_no_steps_are_made_up(tmp_path: Path) -> None:
    events = events_of(
        tmp_path, "{'loss': 1.5, 'epoch': 0.1}\n{'loss': 1.4, 'epoch': 0.2}\n{'eval_loss': 1.6, 'epoch': 0.2}\n"
    )
    assert steps_of(events) == [(1, 1.5), (2, 1.4)]
    assert [event.extra["step_unit"] for event in events if isinstance(event, RunStart)][-1] == "row"


def test_ms_swift_tells_the_step_in_the_dictionary(tmp_path: Path) -> None:  # ms-swift 4.6, ProgressCallbackNew
    events = events_of(
        tmp_path,
        "Train:  83%|####   | 10/12 [00:42<00:06,  3.14s/it]\r"
        "{'loss': 4.26, 'epoch': 2.5, 'global_step/max_steps': '10/12', 'percentage': '83.33%', "
        "'elapsed_time': '1m 2s'}\n"
        "[INFO:swift] Saving model checkpoint to output/xxx/checkpoint-10\n",
    )
    assert (steps_of(events), total_of(events)) == ([(10, 4.26)], 12)
    assert saves_of(events) == [(10, "output/xxx/checkpoint-10")]


def test_lightnings_bar(tmp_path: Path) -> None:  # Lightning 2.6, TQDMProgressBar
    events = events_of(
        tmp_path,
        "\rEpoch 0:  50%|##   | 10/20 [00:01<00:01, 10.0it/s, v_num=0, train_loss_step=0.500]"
        "\rEpoch 1:  50%|##   | 10/20 [00:01<00:01, 10.0it/s, v_num=0, train_loss_step=0.400]\r\n"
        "`Trainer.fit` stopped: `max_epochs=2` reached.\n",
    )
    assert steps_of(events) == [(10, 0.5), (30, 0.4)]
    assert (events[-1].status, events[-1].reason) == ("finished", "max_epochs=2")


def test_a_loop_with_a_bar_for_each_epoch_never_goes_back(tmp_path: Path) -> None:
    bar = "\r {}%|#  | {}/4 [00:01<00:01, 10.0it/s, loss={}]"
    text = "".join(bar.format(25 * n, n, 2 - epoch - n / 10) for epoch in range(2) for n in (1, 2, 3, 4)) + "\r"
    steps = [step for step, _ in steps_of(events_of(tmp_path, text))]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("line", "step", "name", "value"),
    [
        ("epoch 3 step 70: loss=0.5 acc=0.9", 70, "loss", 0.5),
        ("Epoch 3/10, step 80/900, train loss 0.45", 80, "loss", 0.45),
        ("2024-01-01 10:00:00 | INFO | global_step=1200 | train_loss: 1.25e-1 | lr: 3e-4", 1200, "loss", 0.125),
        ("[Iter 1,500] Loss: 2.25 PPL: 9.4", 1500, "loss", 2.25),
        ("iteration: 77 val_loss = 3.5", 77, "val_loss", 3.5),
        ("Epoch 12: accuracy=0.91, loss=0.33", 12, "loss", 0.33),
    ],
)
def test_any_line_that_names_a_step_and_a_measure(
    tmp_path: Path, line: str, step: int, name: str, value: float
) -> None:  # fmt: skip
    events = events_of(tmp_path, line + "\n")
    assert (*steps_of(events, name), *steps_of(events, name, Eval)) == ((step, value),)


@pytest.mark.parametrize(
    "text",
    ["hello\n", "step into the light: 5\n", "loss of 5 ships\n", "pip install torch==2.0\nDone in 3.4s\n", "1,2,3\n"],
)
def test_other_texts_are_no_logs(tmp_path: Path, text: str) -> None:
    from ckpt_tui.errors import CkptError

    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(CkptError, match="Not a log"):
        open_source(str(tmp_path / "notes.txt"))


def test_a_traceback_is_told_with_its_message(tmp_path: Path) -> None:
    events = events_of(
        tmp_path,
        "iter 1: loss 2.0, time 1.0ms, mfu 1.00%\n[rank0]: Traceback (most recent call last):\n"
        '[rank0]:   File "train.py", line 1, in <module>\n[rank0]:     loss = 1 / 0  # step 5: loss 1.0\n'
        "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n",
    )
    (error,) = [event for event in events if isinstance(event, ErrorRaised)]
    assert (error.step, error.type) == (1, "torch.OutOfMemoryError")
    assert error.message.startswith("CUDA out of memory")
    assert [step for step, _ in steps_of(events)] == [1], "a line of code in it is no step"


def test_a_clock_in_another_zone_is_set_right_by_the_files_time(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("2024-01-01 10:00:00 step 5: loss 2.0\n2024-01-01 10:00:10 step 6: loss 1.9\n")
    source = TextLogSource(str(path))
    from ckpt_tui.sources.values import moment

    local = moment("2024-01-01 10:00:10")
    assert local is not None
    os.utime(path, (local + 7200, local + 7200))
    times = [event.ts for event in source.poll().events if isinstance(event, Step)]
    assert times == [local + 7190, local + 7200]


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No hour of this day comes twice."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def naive(ts: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ts))


@pytest.mark.usefixtures("in_utc")
@pytest.mark.parametrize("num_lines", [20, 20_000])
def test_a_copy_made_two_hours_later_is_not_alive_in_another_zone(tmp_path: Path, num_lines: int) -> None:
    """As `cp` makes one. It is known by its birth; and as soon as somebody writes it, it is none."""
    path = tmp_path / "train.log"
    path.touch()
    if birth_time(str(path)) is None:
        pytest.skip("the file system does not keep when a file was made")
    now = int(time.time())
    last = now - 7200
    path.write_text(
        "".join(f"{naive(last - 3600 + 3600 * step // num_lines)} step {step}: loss 2.0\n" for step in range(num_lines))
        + f"{naive(last)} step {num_lines}: loss 2.0\n"
    )
    os.utime(path, (now, now))
    state = glance(str(path), now + 1.0)
    assert (state.phase, state.step, state.last_ts) == (Phase.SILENT, num_lines, last)
    source = TextLogSource(str(path))
    events = []
    while not (batch := source.poll()).is_caught_up:
        events += batch.events
    with path.open("a") as file:
        file.write(f"{naive(last + 30)} step {num_lines + 1}: loss 1.9\n")
    os.utime(path, (now + 30, now + 30))
    (step,) = [event for event in source.poll().events if isinstance(event, Step)]
    assert step.ts == now + 30


@pytest.mark.usefixtures("in_utc")
def test_one_that_was_made_when_it_began_is_alive_in_another_zone(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.touch()
    now = int(time.time())
    path.write_text(
        f"{naive(now - 7200)} step 5: loss 2.0\n{naive(now - 3600)} step 6: loss 1.9\n"
    )  # an hour of training, written by a clock that is two hours behind
    os.utime(path, (now + 3600, now + 3600))
    state = glance(str(path), now + 3601.0)
    assert (state.phase, state.last_ts) == (Phase.RUNNING, now + 3600)


def test_a_log_that_ends_in_a_traceback_has_failed_and_one_that_only_ends_has_not(tmp_path: Path) -> None:
    good = "2024-01-01 10:00:00 step 5: loss 2.0\n2024-01-01 10:00:10 step 6: loss 1.9\n"
    fold = RunFold()
    fold.apply_all(events_of(tmp_path, good))
    state = fold.state(now=2e9)
    assert (state.phase, "does not tell whether it ended" in state.reason) == ("silent", True)
    fold = RunFold()
    fold.apply_all(events_of(tmp_path, good + "Traceback (most recent call last):\n  File x\nValueError: boom\n"))
    state = fold.state(now=2e9)
    assert (state.phase, state.reason) == ("failed", "ValueError: boom")


def test_what_a_step_took_gives_the_pace_where_lines_bear_no_times(tmp_path: Path) -> None:
    """nanoGPT's lines have no clock but say what a step took: that is enough for a pace and what is at risk."""
    fold = RunFold()
    line = "iter {}: loss 2.0, time 500.0ms, mfu 1.00%\n"
    fold.apply_all(events_of(tmp_path, "".join(line.format(step) for step in range(1, 11))))
    state = fold.state(now=2e9)
    assert (state.steps_per_s, state.source, state.step_unit) == (2.0, "text log", "step")
    assert state.at_risk is not None
    assert state.at_risk.seconds == pytest.approx(5.0)


def test_a_log_whose_training_has_not_begun_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "slurm-17.out"
    path.write_text("Loading the data ...\n")
    source = open_source(str(path))
    assert source.poll().events == []
    path.write_text("Loading the data ...\nstep 1: loss 2.0\n")
    assert steps_of(list(source.poll().events)) == [(1, 2.0)]


def test_the_pace_of_several_steps_a_second_is_not_taken_for_one(tmp_path: Path) -> None:
    """tqdm tells whole seconds: six steps a second are six, and not the one at which the second changed."""
    bars = "".join(f"\r {n // 2}%|# | {n}/200 [00:{n // 6:02d}<00:22,  6.17it/s]" for n in range(1, 121))
    fold = RunFold()
    fold.apply_all(events_of(tmp_path, "\r  0%| | 0/200 [00:00<?]\r{'loss': 1.5, 'epoch': 0.1}\n" + bars + "\r"))
    assert fold.state(now=2e9).steps_per_s == pytest.approx(6.0)


def test_bars_of_evaluations_are_not_the_trainings(tmp_path: Path) -> None:
    """transformers' evaluation has more batches than the training has steps, below its bar and after it."""
    evaluation = "\n\r  0%|  | 0/900 [00:00<?]\x1b[A\n\r  6%|  | 50/900 [00:00<?]\x1b[A\r"
    first = "\r  0%|  | 0/42 [00:00<?]\r{'loss': 2.0, 'epoch': 0.1}\n\r 12%|#  | 5/42 [00:05<?]\r"
    second = "{'eval_loss': 2.5, 'epoch': 0.1}\n\r 12%|# | 5/42 [00:05<?]\r"
    second += "{'loss': 1.9, 'epoch': 0.2}\n\r 24%|# | 10/42 [00:10<?]\r"
    alone = "\n  0%|  | 0/900 [00:00<?]\r 50%|# | 450/900 [00:00<?]\r"
    events = events_of(tmp_path, first + evaluation + second + alone)
    assert steps_of(events) == [(5, 2.0), (10, 1.9)]
    assert steps_of(events, "val_loss", Eval) == [(5, 2.5)]
    assert total_of(events) == 42
