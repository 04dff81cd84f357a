"""Real disks that are full, small, read-only, gone, or somebody else's, while a real trainer runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckpt_tui.events.codec import decode
from ckpt_tui.events.schema import CheckpointSaved, Event
from tests.builders.held import Hold
from tests.trainer.faults.nursery import Nursery
from tests.trainer.faults.test_random_kills import TRAINING, check_directory, state_hash
from trainer.checkpoint.checkpointer import Checkpointer

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
NOBODY = 65534
SAVED = "checkpoint_saved 1"  # a moment in the midst of a training
Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small memory disk of so many bytes."""
    places: list[Path] = []

    def mounted(options: str) -> Path:
        place = tmp_path / f"disk{len(places)}"
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mounted
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    ended = nursery.run(command(run, corpus))
    assert ended.code == 0, ended.output
    return state_hash(run)


def command(run: Path, corpus: Path, *options: str) -> list[str]:
    return ["--out", str(run), "--data", str(corpus), *TRAINING, "--resume", "auto", *options]


def events(run: Path, name: str) -> list[Event]:
    found = [decode(line) for line in (run / "events.jsonl").read_bytes().splitlines()]
    return [event for event in found if isinstance(event, Event) and event.name == name]


def durable_step(run: Path) -> int:
    """Where a resume starts now."""
    with Checkpointer(run, say=lambda line: None) as checkpoints:
        source = checkpoints.find("auto")
        return -1 if source is None else source.step


@needs_root
def test_a_disk_that_is_full_is_told_and_survived(
    nursery: Nursery, corpus: Path, mount: Mount, undisturbed: str
) -> None:
    disk = mount("size=4m")
    run = disk / "run"
    assert nursery.run(command(run, corpus, "--max_steps", "6")).code == 0
    # Somebody else's file takes all but a little.
    free = shutil.disk_usage(disk).free
    with open(disk / "ballast", "wb") as file:
        file.write(bytes(free - 40_000))
    ended = nursery.run(command(run, corpus))
    assert ended.code == 1, ended.output
    assert "full" in ended.output
    assert "could not be saved" in ended.output
    assert "Traceback" not in ended.output
    assert events(run, "checkpoint_failed")
    assert durable_step(run) >= 6
    (disk / "ballast").unlink()
    ended = nursery.run(command(run, corpus))
    assert ended.code == 0, ended.output
    assert state_hash(run) == undisturbed
    check_directory(run)


@needs_root
def test_a_disk_with_no_byte_left_is_survived(nursery: Nursery, corpus: Path, mount: Mount) -> None:
    disk = mount("size=4m")
    run = disk / "run"
    assert nursery.run(command(run, corpus, "--max_steps", "6")).code == 0
    with open(disk / "ballast", "wb", buffering=0) as file:
        for num_bytes in (1 << 16, 4096, 1):
            try:
                while file.write(bytes(num_bytes)) == num_bytes:
                    pass
            except OSError:
                continue
    ended = nursery.run(command(run, corpus, "--max_steps", "12"))
    assert ended.code == 1, ended.output
    assert "Traceback" not in ended.output
    assert durable_step(run) == 6


def test_a_limit_on_the_size_of_files_is_told_and_survived(nursery: Nursery, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert nursery.run(command(run, corpus, "--max_steps", "6")).code == 0
    ended = nursery.run(command(run, corpus, "--max_steps", "12"), file_bytes=50_000)
    assert ended.code == 1, ended.output
    assert "File too large" in ended.output
    assert "Traceback" not in ended.output
    assert durable_step(run) == 6
    assert nursery.run(command(run, corpus, "--max_steps", "12")).code == 0
    assert durable_step(run) == 12


@needs_root
def test_a_filesystem_that_turns_read_only_is_told_and_survived(
    nursery: Nursery, corpus: Path, tmp_path: Path, undisturbed: str
) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(24 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(
            ["mount", "-o", "loop,errors=remount-ro", str(image), str(disk)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no ext4 in a file here")
    try:
        trigger = Path("/sys/fs/ext4") / Path(device_of(disk)).name / "trigger_fs_error"
        if not os.access(trigger, os.W_OK):
            pytest.skip("this kernel cannot be asked for an error of ext4")
        run = disk / "run"
        hold = Hold(tmp_path, SAVED)
        nursery.start(command(run, corpus), hold=hold)
        hold.wait()
        try:
            trigger.write_text("a test wants it read-only")  # as ext4 itself does when it finds a bad block of its own
        except OSError as error:
            pytest.skip(f"this kernel cannot be asked for an error of ext4: {error.strerror}")
        hold.go_on()
        ended = nursery.finish()
        assert ended.code == 1, ended.output
        # By kernel: nothing can be written, or the journal was given up.
        assert "Read-only file system" in ended.output or "Input/output error" in ended.output
        assert "Traceback" not in ended.output
        # What was told to be durable. A save whose directory could not be flushed may still be seen until the disk is
        # mounted again: nobody was told that it is safe.
        promised = max(event.step for event in events(run, "checkpoint_saved") if isinstance(event, CheckpointSaved))
        assert durable_step_of_a_copy(run, tmp_path) >= promised > 0
    finally:
        nursery.end_what_runs()  # a test that failed may have left it on the disk
        is_free = unmounted(disk)
    if not is_free:
        pytest.skip("somebody else of this machine looks into the disk, which cannot be mounted again")
    subprocess.run(["fsck.ext4", "-fy", str(image)], check=False, capture_output=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"it could be mounted once, and now cannot: {done.stderr.strip()}")
    try:
        assert durable_step(run) >= promised
        assert nursery.run(command(run, corpus)).code == 0
        assert state_hash(run) == undisturbed
    finally:
        nursery.end_what_runs()
        unmounted(disk)


def device_of(place: Path) -> str:
    """What is mounted there."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next(fields[0] for fields in mounts if fields[1] == str(place))


def unmounted(place: Path) -> bool:
    """Take a disk away; whether it is really gone: whoever walks through all files of a machine is in it for a moment,
    and where that does not end the name goes, and the disk when nobody is in it any more."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode == 0:
            return True
        time.sleep(0.1)
    subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)
    return False


def durable_step_of_a_copy(run: Path, tmp_path: Path) -> int:
    shutil.copytree(run, tmp_path / "copy")
    return durable_step(tmp_path / "copy")


@pytest.mark.parametrize("what", ["deleted", "renamed"])
def test_a_run_directory_that_goes_away_in_the_middle(
    nursery: Nursery, corpus: Path, tmp_path: Path, undisturbed: str, what: str
) -> None:
    run = tmp_path / "run"
    hold = Hold(tmp_path, SAVED)
    nursery.start(command(run, corpus), hold=hold)
    hold.wait()
    if what == "deleted":
        shutil.rmtree(run)
    else:
        run.rename(tmp_path / "elsewhere")
    hold.go_on()
    ended = nursery.finish()
    assert "Traceback" not in ended.output
    if what == "renamed":
        assert durable_step(tmp_path / "elsewhere") > 0
    # Either the end is there, or it is told that it is not.
    if ended.code == 0:
        assert state_hash(run) == undisturbed
    else:
        assert ended.code == 1
        assert "could not be saved" in ended.output


@needs_root
def test_a_directory_that_may_not_be_written_any_more(nursery: Nursery, corpus: Path) -> None:
    # pytest's own directories are closed to others.
    with tempfile.TemporaryDirectory() as open_to_all:
        shutil.copy(corpus, open_to_all)
        Path(open_to_all).chmod(0o777)
        run = Path(open_to_all) / "run"
        run.mkdir()
        run.chmod(0o777)
        arguments = command(run, Path(open_to_all) / corpus.name)
        assert nursery.run([*arguments, "--max_steps", "6"], user=NOBODY).code == 0
        arguments += ["--max_steps", "16"]
        hold = Hold(Path(open_to_all), SAVED)
        hold.open_to_all()
        nursery.start(arguments, hold=hold, user=NOBODY)
        hold.wait()
        run.chmod(0o755)
        hold.go_on()
        ended = nursery.finish()
        assert ended.code == 1, ended.output
        assert "Permission denied" in ended.output
        assert "Traceback" not in ended.output
        # Not even a start: the reason in one line, and nothing begun anew.
        ended = nursery.run(arguments, user=NOBODY)
        assert ended.code in (1, 2), ended.output
        assert "Traceback" not in ended.output
        assert durable_step(run) >= 6
