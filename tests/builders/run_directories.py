"""Run directories as the trainer leaves them, made in milliseconds and without torch.

`save()` writes a real torch zip file (`torch.load(weights_only=True)` reads it) with everything that an exact resume
needs, for a model of two small tensors. `run_directory()` fills a directory with checkpoints, registry and log.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ckpt_tui.events.codec import encode
from ckpt_tui.events.schema import CheckpointSaved, Event, RunStart, Step

ARGS: dict[str, object] = {
    "n_layer": 1, "n_embd": 4, "lr": 6e-4, "batch_size": 8, "seed": 1, "max_steps": 1000, "log_interval": 10,
    "keep_checkpoints": 10, "keep_emergency_checkpoints": 10, "ema": False,
}  # fmt: skip


@dataclass(frozen=True)
class FakeGlobal:
    """Pickled as a reference to a global, without importing what it names."""

    module: str
    name: str

    def __call__(self, *args: object) -> None:
        raise AssertionError("only pickled, never called")


@dataclass
class FakeTensor:
    values: Sequence[float]
    shape: tuple[int, ...]
    dtype: str = "Float"


@dataclass
class _Storage:
    key: str
    tensor: FakeTensor


@dataclass
class _State:
    storages: list[bytes] = field(default_factory=list)


_FORMATS = {"Float": "f", "Long": "q", "Byte": "B"}


class _Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    def __init__(self, file: io.BytesIO, storages: list[bytes]) -> None:
        super().__init__(file, protocol=2)
        self.storages = storages

    def save(self, obj: object, save_persistent_id: bool = True) -> None:
        if isinstance(obj, FakeGlobal):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
            return
        super().save(obj, save_persistent_id)

    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, _Storage):
            tensor = obj.tensor
            return ("storage", FakeGlobal("torch", f"{tensor.dtype}Storage"), obj.key, "cpu", len(tensor.values))
        return None

    def reducer_override(self, obj: object) -> object:
        if not isinstance(obj, FakeTensor):
            return NotImplemented
        key = str(len(self.storages))
        self.storages.append(struct.pack(f"<{len(obj.values)}{_FORMATS[obj.dtype]}", *obj.values))
        strides, step = [], 1
        for extent in reversed(obj.shape):
            strides.append(step)
            step *= extent
        arguments = (_Storage(key, obj), 0, obj.shape, tuple(reversed(strides)), False, OrderedDict())
        return FakeGlobal("torch._utils", "_rebuild_tensor_v2"), arguments


def torch_zip(state: object) -> bytes:
    """`state` as `torch.save` writes it; every `FakeTensor` in it becomes a tensor."""
    pickled, storages = io.BytesIO(), []
    _Pickler(pickled, storages).dump(state)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as out:
        # Without the time of day: the same state is the same bytes.
        out.writestr(zipfile.ZipInfo("archive/data.pkl"), pickled.getvalue())
        out.writestr(zipfile.ZipInfo("archive/byteorder"), "little")
        for number, data in enumerate(storages):
            out.writestr(zipfile.ZipInfo(f"archive/data/{number}"), data)
        out.writestr(zipfile.ZipInfo("archive/version"), "3\n")
    return archive.getvalue()


def training_state(step: int, *, val_loss: float | None = None, args: Mapping[str, object] = ARGS) -> dict[str, object]:
    """Everything of SPEC section 3, small."""

    def weights(offset: float) -> FakeTensor:
        return FakeTensor([offset + step + index / 8 for index in range(16)], (4, 4))

    def moments(offset: float) -> dict[str, object]:
        return {"step": FakeTensor([float(step)], ()), "exp_avg": weights(offset), "exp_avg_sq": weights(offset + 1)}

    model = OrderedDict([("wte.weight", weights(0.0)), ("head.weight", weights(0.5))])
    group = {"lr": args.get("lr", 6e-4), "betas": (0.9, 0.95), "weight_decay": 0.1, "params": [0, 1]}
    return {
        "step": step, "epoch": step // 100, "model": model,
        "optimizer": {"state": {0: moments(2.0), 1: moments(3.0)}, "param_groups": [group]},
        "scheduler": {"step": step, "last_lr": [6e-4]}, "scaler": None, "train_loss": 2.0, "val_loss": val_loss,
        "val_metrics": {"val_loss": val_loss}, "loss_history": [2.1, 2.0],
        "rng_state": {
            "python": [3, [1, 2, 3], None], "numpy": None,
            "torch": FakeTensor(list(range(16)), (16,), "Byte"), "torch_cuda": [],
        },
        "dataloader_state": {"train": {"shard": 0, "position": step}, "seed": 1, "micro_step": 0},
        "args": dict(args), "best_metric": val_loss, "timestamp": 1_790_000_000.0 + step,
        "checkpoint_type": "regular", "pytorch_version": "2.13.0", "format_version": 1,
    }  # fmt: skip


def save(path: Path, step: int, *, val_loss: float | None = None, args: Mapping[str, object] = ARGS) -> bytes:
    """Write a checkpoint of `step`; gives its bytes."""
    data = torch_zip(training_state(step, val_loss=val_loss, args=args))
    path.write_bytes(data)
    os.utime(path, (1_790_000_000 + step, 1_790_000_000 + step))
    return data


def damage(path: Path) -> None:
    """Flip bits in the middle of the tensors' bytes: nothing but a checksum tells."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        info = max(archive.infolist(), key=lambda info: (info.filename.endswith("/data/0"), info.file_size))
    # The local header's own lengths: torch pads its extra field, so that data begin at multiples of 64.
    len_name, len_extra = struct.unpack_from("<HH", data, info.header_offset + 26)
    data[info.header_offset + 30 + len_name + len_extra + 5] ^= 0x5A
    path.write_bytes(data)


def let_age(path: Path) -> None:
    """Let the file be older than a tick of the kernel's clock: what is found of younger ones is not remembered."""
    deadline = path.stat().st_ctime + 0.015
    while time.time() < deadline:
        time.sleep(0.001)


def write_log(
    directory: Path,
    *,
    last_step: int,
    total_steps: int = 1000,
    argv: Sequence[str] = ("python", "-m", "trainer", "--out", "run"),
    cwd: str = "",
    config: Mapping[str, object] = ARGS,
    saves: Sequence[tuple[int, str]] = (),
    seconds_per_step: float = 0.5,
) -> None:
    """The log of one session of a process that is gone without a word: half a second a step."""
    start = 1_790_000_000.0
    events: list[Event] = [
        RunStart(
            ts=start, run_name="run", config=dict(config), argv=list(argv), cwd=cwd or str(directory.parent),
            pid=2**22 + 1, pid_started=1.0, host=os.uname().nodename, total_steps=total_steps, steps_per_epoch=100,
        )
    ]  # fmt: skip
    saved = dict(saves)
    for step in range(1, last_step + 1):
        ts = start + step * seconds_per_step
        events.append(Step(ts=ts, step=step, epoch=step / 100, metrics={"loss": 4.0 - step / 1000, "lr": 6e-4}))
        if step in saved:
            events.append(CheckpointSaved(ts=ts, step=step, path=saved[step], kind="rolling", names=[saved[step]]))
    lines = []
    for seq, event in enumerate(events, start=1):
        fields = json.loads(encode(event))
        lines.append(json.dumps({**fields, "seq": seq, "session": 1}))
    (directory / "events.jsonl").write_text("".join(line + "\n" for line in lines))


def run_directory(directory: Path, *, log: bool = True) -> Path:
    """A crashed run at step 437 of 1000: rolling 200, 300, 400, latest 400, its backup 300, best 300, previous 200."""
    directory.mkdir(parents=True, exist_ok=True)
    for step in (200, 300, 400):
        save(directory / f"rolling_step_{step:06d}.pt", step, val_loss=3.0 - step / 1000)
    save(directory / "latest.pt", 400, val_loss=2.6)
    save(directory / "latest_backup.pt", 300, val_loss=2.7)
    save(directory / "rolling_last_backup.pt", 400, val_loss=2.6)
    save(directory / "best_model.pt", 300, val_loss=2.5)
    save(directory / "best_model_backup.pt", 300, val_loss=2.5)
    save(directory / "best_model_previous.pt", 200, val_loss=2.8)
    if log:
        saves = [(step, f"rolling_step_{step:06d}.pt") for step in (200, 300, 400)]
        write_log(directory, last_step=437, saves=saves)
    return directory
