"""Saves in the background: what is in the file is what the state was when `save` returned, and errors come up."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ckpt_tui.events.codec import decode
from ckpt_tui.events.lineage import Segment
from ckpt_tui.events.schema import Event
from ckpt_tui.events.writer import EventWriter
from trainer.checkpoint import proven, snapshot
from trainer.checkpoint.checkpointer import Checkpointer
from trainer.checkpoint.policy import Policy
from trainer.checkpoint.publish import digest_of_file
from trainer.checkpoint.snapshot import Snapshot
from trainer.checkpoint.state import load


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def state_at(step: int, num_elements: int = 5000) -> dict[str, Any]:
    """Every number in it says the step: a mixture of two steps can be told."""
    weight = torch.full((num_elements,), float(step))
    return {
        "step": step, "epoch": 0, "val_loss": float(step), "best_metric": None,
        "model": {"weight": weight, "tied": weight, "row": weight[10:20], "odd": torch.full((7,), step).short()},
        "optimizer": {"state": {0: {"exp_avg": torch.full((num_elements,), float(step))}}},
    }  # fmt: skip


def overwrite(state: dict[str, Any], value: float) -> None:
    for tensor in (*state["model"].values(), state["optimizer"]["state"][0]["exp_avg"]):
        tensor.fill_(value)


def steps_in(path: Path) -> set[float]:
    state = load(str(path), ("step",))
    tensors = (*state["model"].values(), state["optimizer"]["state"][0]["exp_avg"])
    return {state["step"], *(number for tensor in tensors for number in tensor.double().unique().tolist())}


def events(directory: Path) -> list[Any]:
    lines = (directory / "events.jsonl").read_bytes().splitlines()
    return [event for line in lines if isinstance(event := decode(line), Event)]


class HeldWriting:
    """`os.write` of checkpoints, held until `go`: so that a save is surely in flight."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.go = threading.Event()
        self.began = threading.Event()
        real = os.write

        def write(fd: int, data: Any) -> int:
            if threading.current_thread().name == "checkpoint" and ".tmp-" in str(
                Path(f"/proc/self/fd/{fd}").readlink()
            ):
                self.began.set()
                assert self.go.wait(120)
                if error is not None:
                    raise error
            return real(fd, data)

        monkeypatch.setattr(proven.os, "write", write)


def test_what_is_overwritten_at_once_is_not_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldWriting(monkeypatch)
    with Checkpointer(tmp_path) as checkpoints:
        state = state_at(3)
        checkpoints.save(state, {"rolling"})
        overwrite(state, 99.0)
        state["model"].clear()
        assert held.began.wait(120)
        assert checkpoints.last_step == -1
        held.go.set()
        checkpoints.wait()
        assert checkpoints.last_step == 3
    for name in ("latest.pt", "rolling_step_000003.pt", "rolling_last_backup.pt"):
        assert steps_in(tmp_path / name) == {3.0}


def test_no_file_mixes_steps_while_every_step_is_saved(tmp_path: Path) -> None:
    """Weights change all the time, and every file is one step's, whole: under every name, at any time."""
    seen: set[float] = set()
    with Checkpointer(tmp_path, Policy(keep_rolling=2)) as checkpoints:
        state = state_at(0, 200_000)
        for step in range(1, 13):
            state["step"] = step
            overwrite(state, step)
            checkpoints.save(state, {"rolling"})
            overwrite(state, -1.0)
            if step > 1:
                steps = steps_in(tmp_path / "latest.pt")
                assert len(steps) == 1
                seen |= steps
    assert -1.0 not in seen
    assert steps_in(tmp_path / "latest.pt") == {12.0}
    assert steps_in(tmp_path / "latest_backup.pt") == {11.0}
    assert {path.name for path in tmp_path.glob("rolling_step_*")} == {
        "rolling_step_000011.pt", "rolling_step_000012.pt",
    }  # fmt: skip


def test_in_the_background_or_not_the_file_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    state = state_at(4)
    for is_async in (True, False):
        log = EventWriter(tmp_path / str(is_async), session=1)
        with Checkpointer(tmp_path / str(is_async), Policy(is_async=is_async), log=log) as checkpoints:
            checkpoints.registry.lineage = (Segment(1, "a"),)  # whose id is drawn anew otherwise
            checkpoints.save(state, {"rolling"})
    assert digest_of_file(str(tmp_path / "True" / "latest.pt")) == digest_of_file(str(tmp_path / "False" / "latest.pt"))


def test_the_records_are_those_that_torch_saves(tmp_path: Path) -> None:
    state = state_at(4) | {"generator": torch.get_rng_state(), "texts": ["a", {"b": (1, 2.5, None)}]}
    copied = Snapshot()
    copied.take(state)
    copied.finish()
    (tmp_path / "ours.pt").write_bytes(copied.content)
    torch.save(state, tmp_path / "theirs.pt")
    with zipfile.ZipFile(tmp_path / "theirs.pt") as theirs, zipfile.ZipFile(tmp_path / "ours.pt") as ours:
        assert ours.testzip() is None
        insides = [name.partition("/")[2] for name in theirs.namelist()]
        assert sorted(ours.namelist()) == sorted(f"archive/{inside}" for inside in insides)
        for inside in insides:
            if inside != ".data/serialization_id":
                assert ours.read(f"archive/{inside}") == theirs.read(f"theirs/{inside}"), inside
        for info in ours.infolist():
            if info.filename.startswith("archive/data/"):
                assert (
                    torch._C.PyTorchFileReader(str(tmp_path / "ours.pt")).get_record_offset(info.filename[8:]) % 64 == 0
                )
    back = torch.load(tmp_path / "ours.pt", weights_only=True, mmap=True)
    assert (
        back["model"]["tied"].data_ptr() == back["model"]["weight"].data_ptr() == back["model"]["row"].data_ptr() - 40
    )


def test_a_failure_in_the_background_comes_up_at_the_next_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    log = EventWriter(tmp_path)
    with Checkpointer(tmp_path, log=log, say=said.append) as checkpoints:
        checkpoints.save_now(state_at(1), {"rolling"}, "regular")
        held = HeldWriting(monkeypatch, OSError(errno.EROFS, "Read-only file system"))
        checkpoints.save(state_at(2), {"rolling"})
        assert held.began.wait(120)
        checkpoints.poll()
        assert said == []
        held.go.set()
        checkpoints._background.wait()  # without telling
        assert [event.stage for event in events(tmp_path) if event.name == "checkpoint_failed"] == ["write"]
        checkpoints.poll()
        assert said == ["save of rolling_step_000002.pt failed (write): Read-only file system"]
        assert checkpoints.last_step == 1
        monkeypatch.undo()
        checkpoints.save(state_at(3), {"rolling"})
    assert steps_in(tmp_path / "latest.pt") == {3.0}
    assert said[1:] == ["saving works again: rolling_step_000003.pt"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_next_save_waits_for_the_one_in_flight_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldWriting(monkeypatch)
    log = EventWriter(tmp_path)
    with Checkpointer(tmp_path, log=log) as checkpoints:
        checkpoints.save(state_at(1), {"rolling"})  # comes back while the file is not written
        assert held.began.wait(120)
        wait = checkpoints._background.wait

        def wait_for_it() -> None:
            threading.Timer(0.2, held.go.set).start()
            wait()

        monkeypatch.setattr(checkpoints._background, "wait", wait_for_it)
        checkpoints.save(state_at(2), {"rolling"})
    first, second = [event for event in events(tmp_path) if event.name == "checkpoint_saved"]
    assert first.stall_seconds < first.save_seconds
    assert first.save_seconds > 0.15
    assert second.stall_seconds > 0.15
    assert set(first.stages) == {"snapshot", "serialize", "write", "sync", "verify", "publish", "backup"}
    assert sum(first.stages.values()) <= first.save_seconds + 0.01


def test_an_emergency_waits_for_the_save_in_flight_but_not_for_its_backups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = HeldWriting(monkeypatch)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(state_at(1), {"rolling"})
        assert held.began.wait(120)
        wait = checkpoints._background.wait

        def wait_for_it() -> None:  # it is known by now that there is haste
            held.go.set()
            wait()

        monkeypatch.setattr(checkpoints._background, "wait", wait_for_it)
        name = checkpoints.save_now(state_at(2), {"emergency"})
        assert not (tmp_path / "rolling_last_backup.pt").exists()
        assert steps_in(tmp_path / "rolling_step_000001.pt") == {1.0}
        assert name is not None
        assert steps_in(tmp_path / name) == steps_in(tmp_path / "latest.pt") == {2.0}
        checkpoints.save(state_at(3), {"rolling"})
    assert steps_in(tmp_path / "rolling_last_backup.pt") == {3.0}


def test_a_process_that_just_ends_waits_for_the_save(tmp_path: Path) -> None:
    program = f"""
import torch
torch.set_num_threads(1)
from trainer.checkpoint.checkpointer import Checkpointer
checkpoints = Checkpointer({str(tmp_path)!r})
checkpoints.save({{"step": 1, "model": {{"w": torch.ones(3_000_000)}}}}, {{"rolling"}})
"""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
    assert load(str(tmp_path / "rolling_step_000001.pt"), ("step",))["model"]["w"].sum() == 3_000_000


def test_where_no_thread_can_be_started_the_save_is_done_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    torch.set_num_threads(2)
    monkeypatch.setattr(snapshot, "_COPY_BYTES", 1 << 16)  # enough pieces for two threads
    monkeypatch.setattr(threading.Thread, "start", refused)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(state_at(1, 300_000), {"rolling"})
        assert checkpoints.last_step == 1
    torch.set_num_threads(1)
    assert steps_in(tmp_path / "rolling_last_backup.pt") == {1.0}


def test_saving_draws_no_random_number_and_changes_nothing(tmp_path: Path) -> None:
    def train(directory: Path, every: int) -> tuple[bytes, bytes]:
        torch.manual_seed(5)
        model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        with Checkpointer(directory, Policy(keep_rolling=2)) as checkpoints:
            for step in range(1, 21):
                model(torch.randn(4, 8)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                checkpoints.poll()
                if every and step % every == 0:
                    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                    checkpoints.save(state, {"rolling", "best"})
        weights = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
        return weights, torch.get_rng_state().numpy().tobytes()

    assert train(tmp_path / "a", 1) == train(tmp_path / "b", 0) == train(tmp_path / "c", 7)


def test_odd_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    sparse = torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.tensor([1.0, 2.0]), (3,))
    model = {
        "transposed": base.t(), "stepped": base[:, ::2], "scalar": torch.tensor(3.5), "empty": torch.empty(0, 3),
        "half": base.half(), "bf16": base.bfloat16(), "float8": base.to(torch.float8_e4m3fn),
        "u16": torch.arange(5).to(torch.uint16), "bool": base > 3, "sparse": sparse,
        "complex": torch.complex(base, base),
        "parameter": torch.nn.Parameter(base.clone()), "expanded": torch.ones(1).expand(1000, 1000),
        "conjugate": torch.complex(base, base).conj(),
    }  # fmt: skip
    state = {"step": 1, "model": model, "again": base}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(state, ())
    back = torch.load(tmp_path / "latest.pt", weights_only=True)
    mapped = torch.load(tmp_path / "latest.pt", weights_only=True, mmap=True)
    for name, tensor in model.items():
        for found in (back["model"][name], mapped["model"][name]):
            assert (found.dtype, found.shape, type(found)) == (tensor.dtype, tensor.shape, type(tensor))
            if not tensor.is_sparse:
                assert found.stride() == tensor.stride()
            plain = [t.to_dense().contiguous().detach() for t in (found, tensor)]
            if tensor.dtype is torch.float8_e4m3fn:
                plain = [t.float() for t in plain]
            assert torch.equal(*plain), name
    assert back["again"].untyped_storage().data_ptr() == back["model"]["stepped"].untyped_storage().data_ptr()
    # A million ones that are one in memory are one in the file.
    assert (tmp_path / "latest.pt").stat().st_size < 100_000


def test_memory_seen_as_two_types_is_refused_as_torch_refuses_it(tmp_path: Path) -> None:
    said: list[str] = []
    numbers = torch.arange(8.0)
    with Checkpointer(tmp_path, say=said.append) as checkpoints:
        checkpoints.save({"step": 1, "model": {"a": numbers, "b": numbers.view(torch.int32)}}, ())
    assert said[0].startswith("save of latest.pt failed (snapshot)")
    assert "different types" in said[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_no_number_that_is_none_is_saved(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    said: list[str] = []
    weight = torch.full((100_000,), 60_000.0, dtype=dtype)  # whose sum is beyond what fp16 holds
    state = {"step": 1, "model": {"layer": {"weight": weight}}, "history": torch.tensor([value])}
    with Checkpointer(tmp_path, say=said.append) as checkpoints:
        checkpoints.save(state, ())
        checkpoints.wait()
        assert said == []
        weight[77_777] = value
        checkpoints.save(state | {"step": 2}, {"best"})
    assert said == [
        "save of best_model.pt failed (snapshot): model.layer.weight is not finite: such a state is not saved"
    ]
    assert load(str(tmp_path / "latest.pt"), ("step",))["step"] == 1


def test_memory_that_cuda_knows_is_taken_from_it_before_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What CUDA is asked, without one; tests/trainer need no GPU."""
    known: list[int] = []

    runtime = SimpleNamespace(
        cudaHostRegister=lambda address, size, flags: known.append(address) or 0,
        cudaHostUnregister=known.remove,
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    taken = Snapshot()
    taken.take({"step": 1, "weight": torch.ones(1000)})
    taken._pin()
    assert len(known) == 1
    taken.take({"step": 1, "weight": torch.ones(10_000_000)})
    assert not known
    taken._pin()
    assert len(known) == 1
    del taken
    assert not known


def test_an_interrupted_wait_costs_the_next_saves_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpointer(tmp_path, Policy(is_async=False), say=lambda line: None) as checkpoints:
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "wait", lambda: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                checkpoints.save_now(state_at(1), {"emergency"})
        checkpoints.save(state_at(2), {"rolling"})
    assert steps_in(tmp_path / "rolling_last_backup.pt") == {2}


def test_what_is_not_finite_is_found_in_tuples_too(tmp_path: Path) -> None:
    said: list[str] = []
    with Checkpointer(tmp_path, say=said.append) as checkpoints:
        checkpoints.save({"step": 1, "optimizer": {"state": {"moments": (torch.tensor([float("nan")]),)}}}, ())
    assert said[0].endswith("optimizer.state.moments.0 is not finite: such a state is not saved")


def test_an_interrupted_copy_leaves_no_thread_that_still_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever caught the interrupt may let go of the tensors, or save again into the same memory."""
    memmove, begun, running = ctypes.memmove, threading.Event(), set[int]()

    def slow(*args: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(120)
            raise KeyboardInterrupt
        running.add(threading.get_ident())
        begun.set()
        time.sleep(0.05)
        memmove(*args)
        running.remove(threading.get_ident())

    monkeypatch.setattr(snapshot.torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(snapshot.ctypes, "memmove", slow)
    with pytest.raises(KeyboardInterrupt):
        Snapshot().take({"step": 1, "weight": torch.zeros(32 << 20)})
    assert not running
    assert not [thread for thread in threading.enumerate() if thread.name == "snapshot"]


def test_the_buffers_are_used_again_and_a_state_that_grows_is_whole(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        addresses = []
        for step, size, notes in ((1, 1000, 1), (2, 1000, 200), (3, 400_000, 1), (4, 7, 100_000), (5, 7, 1)):
            checkpoints.save(state_at(step, size) | {"notes": "x" * notes}, ())
            checkpoints.wait()
            assert steps_in(tmp_path / "latest.pt") == {float(step)}
            addresses.append(checkpoints._saver._form._places[0].data_ptr())
    assert addresses[0] == addresses[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_overwritten_on_a_gpu_is_not_in_the_file(tmp_path: Path) -> None:
    weight = torch.full((20_000_000,), 3.0, device="cuda")
    state = {"step": 3, "model": {"weight": weight, "tied": weight, "on_cpu": torch.full((5,), 3.0)}}
    with Checkpointer(tmp_path) as checkpoints:
        for _ in range(3):
            weight.fill_(3.0)
            checkpoints.save(state, {"rolling"})
            weight.fill_(99.0)
            checkpoints.wait()
            found = torch.load(tmp_path / "latest.pt", weights_only=True)["model"]
            assert found["weight"].device.type == "cuda"
            assert found["weight"].data_ptr() == found["tied"].data_ptr()
            assert (found["weight"] == 3.0).all()
        assert torch.frombuffer(checkpoints._saver._form._memory, dtype=torch.uint8).is_pinned()
