"""The collector is off while any thread decodes, and back as it was when the last one is done."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.checkpoints.garbage import GarbageHeld
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.errors import CkptError


@pytest.fixture(autouse=True)
def _collector_stays_on() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_overlapping_holders_in_threads_restore_it_once() -> None:
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def first() -> None:
        with GarbageHeld():
            first_is_in.set()
            assert second_is_in.wait(120)
        seen.append(gc.isenabled())
        first_is_out.set()

    def second() -> None:
        assert first_is_in.wait(120)
        with GarbageHeld():
            second_is_in.set()
            assert first_is_out.wait(120)
            seen.append(gc.isenabled())

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert seen == [False, False]  # the second one still holds it when the first leaves
    assert gc.isenabled()


def test_many_threads_that_fail_leave_it_on(tmp_path: Path) -> None:
    path = tmp_path / "noise.pt"
    path.write_bytes(b"PK\x03\x04" + b"x" * 200)
    start = threading.Barrier(8)
    said: list[str] = []

    def work() -> None:
        start.wait(120)
        for _ in range(20):
            try:
                open_checkpoint(path)
            except CkptError as error:
                said.append(error.title)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert said == ["Damaged checkpoint"] * 160
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with GarbageHeld():
        pass
    assert not gc.isenabled()
