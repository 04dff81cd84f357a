"""What a deed is refused for, and that everything is untouched then."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.services import deed_lock, files, journal
from ckpt_tui.services.restore import carry_out, plan_restore, plan_rollback, plan_undo
from tests.builders.run_directories import damage, let_age, run_directory
from tests.builders.trees import tree_of

Mount = Callable[..., Path]


def damaged_run(directory: Path) -> Path:
    run_directory(directory)
    damage(directory / "latest.pt")
    let_age(directory / "latest.pt")
    return directory


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system in memory, of some MB; for root only."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts")
    mounted: list[Path] = []

    def mount_it(path: Path, options: str) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=False, timeout=300)
        if done.returncode:
            pytest.skip("nothing can be mounted here")
        mounted.append(path)
        return path

    yield mount_it
    for path in reversed(mounted):
        subprocess.run(["umount", str(path)], check=False, timeout=300)


def test_started_training_that_has_not_taken_its_lock_yet(tmp_path: Path) -> None:
    run = damaged_run(tmp_path / "run")
    plan = plan_restore(str(run))
    me = psutil.Process()
    record = {"pid": me.pid, "pid_started": me.create_time(), "host": os.uname().nodename}
    (run / "launch.json").write_text(json.dumps(record))
    before = tree_of(run)
    with pytest.raises(CkptError, match="A training is running here"):
        carry_out(plan)
    assert tree_of(run) == before


def test_another_viewer_at_work(tmp_path: Path) -> None:
    run = damaged_run(tmp_path / "run")
    plan = plan_restore(str(run))
    (run / "set_aside").mkdir()
    before = tree_of(run)
    with open_directory(run / "set_aside") as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(CkptError, match="Another viewer is at work"):
            carry_out(plan)
    assert tree_of(run) == before


@pytest.mark.parametrize("name", ["trainer.lock", "set_aside", "."])
def test_who_only_looks_keeps_nobody_from_acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Another viewer's look whether a trainer lives lasts as long as its process waits for a core."""
    monkeypatch.setattr(deed_lock, "MOMENT_S", 300.0)
    run = damaged_run(tmp_path / "run")
    plan = plan_restore(str(run))
    (run / "trainer.lock").write_text(json.dumps({"pid": os.getpid(), "pid_started": 1.0, "host": os.uname().nodename}))
    (run / "set_aside").mkdir()
    looking = os.open(run / name, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    moment = threading.Timer(0.5, os.close, [looking])
    moment.start()
    carry_out(plan)
    moment.join()
    assert plan_restore(str(run)).is_empty


class open_directory:  # noqa: N801 - used as a function
    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> int:
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def test_set_aside_on_another_file_system(tmp_path: Path, mount: Mount) -> None:
    run = damaged_run(tmp_path / "run")
    plan = plan_restore(str(run))
    mount(run / "set_aside", "size=4m")
    before = tree_of(run)
    with pytest.raises(CkptError, match="On another file system"):
        carry_out(plan)
    assert tree_of(run) == before


def test_checkpoint_that_is_mounted_from_elsewhere(tmp_path: Path, mount: Mount) -> None:
    run = run_directory(tmp_path / "run")
    mounted = mount(run / "step_900", "size=4m")
    shutil.copyfile(run / "latest.pt", mounted / "model.pt")
    content = files.content_of(str(mounted))
    plan = plan_rollback(str(run), "300")
    moves = (*plan.moves, journal.Move("step_900", "remove", before=content))
    before = tree_of(run)
    with pytest.raises(CkptError, match="step_900 is not on that of"):
        carry_out(replace(plan, moves=moves))
    assert tree_of(run) == before


def test_no_room(tmp_path: Path, mount: Mount) -> None:
    run = damaged_run(mount(tmp_path / "small", "size=4m") / "run")
    before = tree_of(run)
    with pytest.raises(CkptError, match="Not enough space"):
        carry_out(plan_restore(str(run)))
    assert tree_of(run) == before


def test_disk_that_fills_up_in_the_middle_of_a_copy(
    tmp_path: Path, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mount(tmp_path / "small", "size=4m") / "run"
    damaged_run(run)
    plan = plan_restore(str(run))
    before = tree_of(run)
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 30))
    with suppress(OSError), open(run.parent / "others", "wb", buffering=0) as other:
        while True:
            other.write(bytes(1 << 16))
    with pytest.raises(CkptError, match=r"The disk is full.*nothing was changed"):
        carry_out(plan)
    assert tree_of(run) == before
    (run.parent / "others").unlink()
    carry_out(plan)


def test_read_only_file_system(tmp_path: Path, mount: Mount) -> None:
    small = mount(tmp_path / "small", "size=40m")
    run = damaged_run(small / "run")
    plan = plan_restore(str(run))
    before = tree_of(run)
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True, timeout=300)
    with pytest.raises(CkptError, match="Read-only directory"):
        carry_out(plan)
    assert tree_of(run) == before
    assert plan_restore(str(run)).steps == plan.steps, "what would be done can be told all the same"


def test_set_aside_that_is_a_link(tmp_path: Path) -> None:
    run = damaged_run(tmp_path / "run")
    plan = plan_restore(str(run))
    (tmp_path / "elsewhere").mkdir()
    (run / "set_aside").symlink_to(tmp_path / "elsewhere")
    before = tree_of(run)
    with pytest.raises(CkptError, match="is a link"):
        carry_out(plan)
    assert tree_of(run) == before
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_name_that_is_no_file_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    run = run_directory(tmp_path / "run")
    (run / "latest.pt").unlink()
    damage(run / "best_model.pt")
    elsewhere = tmp_path / "elsewhere.pt"
    elsewhere.write_bytes(b"somebody's")
    if kind == "link":
        (run / "latest.pt").symlink_to(elsewhere)
    else:
        os.mkfifo(run / "latest.pt")
    with pytest.raises(CkptError, match="a link to .*elsewhere.pt" if kind == "link" else "neither file nor directory"):
        plan_restore(str(run), ["latest.pt"])
    plan = plan_restore(str(run))
    assert [step.target for step in plan.steps] == ["best_model.pt"], "the others are restored all the same"
    assert any("latest.pt is missing and stays so" in warning for warning in plan.warnings)
    carry_out(plan)
    assert elsewhere.read_bytes() == b"somebody's"
    assert not (run / "latest.pt").is_file() or (run / "latest.pt").is_symlink()


def test_other_names_of_a_replaced_file_keep_its_bytes(tmp_path: Path) -> None:
    run = damaged_run(tmp_path / "run")
    os.link(run / "latest.pt", tmp_path / "mine.pt")
    damaged = (run / "latest.pt").read_bytes()
    carry_out(plan_restore(str(run), ["latest.pt"]))
    assert (tmp_path / "mine.pt").read_bytes() == damaged
    assert (run / "latest.pt").read_bytes() != damaged
    assert (tmp_path / "mine.pt").samefile(run / "set_aside/1/latest.pt")


def test_source_that_changed_between_plan_and_deed(tmp_path: Path) -> None:
    run = damaged_run(tmp_path / "run")
    plan = plan_restore(str(run), ["latest.pt"])
    damage(run / plan.steps[0].source)
    before = tree_of(run)
    with pytest.raises(CkptError, match="has changed"):
        carry_out(plan)
    assert tree_of(run) == before


@pytest.mark.parametrize("accident", ["unreadable", "written meanwhile"])
def test_source_that_cannot_be_copied_is_what_the_words_are_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accident: str
) -> None:
    run = damaged_run(tmp_path / "run")
    plan, real = plan_restore(str(run), ["latest.pt"]), os.preadv
    source = str(run / plan.steps[0].source)
    before = tree_of(run)

    def read(descriptor: int, buffers: list[memoryview], position: int) -> int:
        if os.path.realpath(f"/proc/self/fd/{descriptor}") == source:
            if accident == "unreadable":
                raise OSError(errno.EIO, os.strerror(errno.EIO))  # as the system says it: of no name
            os.utime(source)
        return real(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", read)
    with pytest.raises(CkptError, match="Cannot read") as told:
        carry_out(plan)
    assert told.value.message.startswith(f"{source}: ")
    assert ("failing" in told.value.hint) == (accident == "unreadable")
    assert tree_of(run) == before


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    run = damaged_run(tmp_path / "run")
    before = tree_of(run, without=["set_aside", "events.jsonl"])
    monkeypatch.setattr(os, "link", no_link)
    plan = plan_rollback(str(run), "300")
    assert "link" in {step.action for step in plan.steps}
    carry_out(plan)
    assert (run / "latest.pt").read_bytes() == (run / "rolling_step_000300.pt").read_bytes()
    carry_out(plan_undo(str(run)))
    assert tree_of(run, without=["set_aside", "events.jsonl"]) == before


_TWO = """
import sys, time
from ckpt_tui.errors import CkptError
from ckpt_tui.services.restore import carry_out, plan_rollback
plan = plan_rollback(sys.argv[1], "200")
print("planned", flush=True)
sys.stdin.readline()
try:
    carry_out(plan)
    print("done")
except CkptError as error:
    print(error.title)
"""


def test_two_viewers_at_once_do_it_once(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    viewers = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for viewer in viewers:
            assert viewer.stdout is not None
            assert viewer.stdout.readline() == "planned\n"
        for viewer in viewers:
            assert viewer.stdin is not None
            viewer.stdin.write("\n")
            viewer.stdin.flush()
        said = sorted(viewer.communicate(timeout=300)[0].strip() for viewer in viewers)
    finally:
        for viewer in viewers:
            viewer.kill()
    assert said[1] == "done"
    assert said[0] in ("Another viewer is at work", "The directory has changed", "A training is running here")
    (deed,) = journal.read_deeds(str(run))
    assert deed.state == journal.DONE
