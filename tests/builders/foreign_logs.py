"""Logs as other programs write them, small: one for each entry of SOURCES, and lines of the programs we know.

The formats are those of the sources named beside each; the numbers are made up.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

from ckpt_tui.sources.tfrecords import masked_crc32c


@dataclass(frozen=True)
class Sample:
    """A whole log of one kind. file_name: as its program calls it. last_step, last_loss: what has to come out of it."""

    file_name: str
    content: bytes
    last_step: int
    last_loss: float
    is_rewritten: bool = False  # as a whole, and never appended to


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    found = b""
    while value > 0x7F:
        found += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return found + bytes((value,))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def record(message: bytes) -> bytes:
    """A record of an event file (tensorflow/core/lib/io/record_writer.cc)."""
    length = struct.pack("<Q", len(message))
    return (
        length + struct.pack("<I", masked_crc32c(length)) + message + struct.pack("<I", masked_crc32c(message))
    )  # fmt: skip


def scalar(step: int, tag: str, value: float, wall_time: float = 1.7e9) -> bytes:
    """What `SummaryWriter.add_scalar` writes (tensorflow/core/util/event.proto, summary.proto)."""
    one = _field(1, tag.encode()) + b"\x15" + struct.pack("<f", value)
    event = b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + _field(5, _field(1, one))
    return record(event)


def tensor_scalar(step: int, tag: str, value: float, wall_time: float = 1.7e9) -> bytes:
    """The same as TensorFlow 2 writes it: a float tensor without dimensions."""
    tensor = b"\x08\x01" + _field(2, b"") + _field(4, struct.pack("<f", value))
    event = b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step)
    return record(event + _field(5, _field(1, _field(1, tag.encode()) + _field(8, tensor))))


def event_file(steps: range, tag: str = "train/loss", loss: float = 2.0) -> bytes:
    """A file of one scalar a step, after the version that every file begins with."""
    version = record(b"\x09" + struct.pack("<d", 1.7e9) + _field(3, b"brain.Event:2"))
    return version + b"".join(scalar(step, tag, loss - step / 1000, 1.7e9 + step) for step in steps)


def trainer_state(last: int, *, every: int = 5, total: int = 42, **fields: Any) -> bytes:
    """transformers 5.23, TrainerState.save_to_json: sorted keys, two spaces."""
    history = [
        {"epoch": step / 20, "grad_norm": 1.5, "learning_rate": 1e-5, "loss": 2 - step / 1000, "step": step}
        for step in range(every, last + 1, every)
    ]
    state = {
        "best_global_step": None, "best_metric": None, "best_model_checkpoint": None, "epoch": last / 20,
        "global_step": last, "log_history": history, "logging_steps": every, "max_steps": total, "num_train_epochs": 3,
        "save_steps": 10, "stateful_callbacks": {}, **fields,
    }  # fmt: skip
    return (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()


def csv_table(last: int = 20) -> bytes:
    """Lightning 2.6, fabric/loggers/csv_logs.py: sorted columns, rows that are not full."""
    rows = "".join(
        f"0,{step},{2 - step / 1000},\n" + (f"0,{step},,{2.5}\n" if step % 10 == 0 else "")
        for step in range(1, last + 1)
    )
    return f"epoch,step,train_loss,val_loss\n{rows}".encode()


def json_lines(last: int = 20, total: int = 42) -> bytes:
    """LLaMA-Factory 0.9.5, train/callbacks.py LogCallback: trainer_log.jsonl."""
    lines = [
        {"current_steps": step, "total_steps": total, "loss": 2 - step / 1000, "lr": 1e-5, "epoch": step / 20,
         "percentage": 2.4 * step, "elapsed_time": f"0:00:{step:02d}", "remaining_time": "0:00:40"}
        for step in range(1, last + 1)
    ]  # fmt: skip
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def nanogpt_text(last: int = 20) -> bytes:
    """karpathy/nanoGPT, train.py."""
    lines = [f"iter {step}: loss {2 - step / 1000:.4f}, time 123.45ms, mfu 30.00%\n" for step in range(1, last + 1)]
    head = "tokens per iteration will be: 491,520\nnumber of parameters: 123.59M\n"
    return (head + "step 0: train loss 10.9, val loss 10.95\n" + "".join(lines)).encode()


def ours(last: int = 20) -> bytes:
    """events.jsonl."""
    lines = [
        {"v": 1, "event": "step", "seq": step, "ts": 1000.0 + step, "session": 1, "step": step, "loss": 2 - step / 1000}
        for step in range(1, last + 1)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


SAMPLES = {
    "TrainerStateSource": Sample("trainer_state.json", trainer_state(20), 20, 1.98, is_rewritten=True),
    "TensorboardSource": Sample("events.out.tfevents.1700000000.vm.1.0", event_file(range(1, 21)), 20, 1.98),
    "JsonRowsSource": Sample("trainer_log.jsonl", json_lines(), 20, 1.98),
    "CsvSource": Sample("metrics.csv", csv_table(), 20, 1.98),
    "JsonlSource": Sample("events.jsonl", ours(), 20, 1.98),
    "TextLogSource": Sample("train.log", nanogpt_text(), 20, 1.98),
}
