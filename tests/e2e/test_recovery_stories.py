"""The README's recovery stories, each on a real training and by the commands that a person types.

What is promised to be exact is compared bit by bit with an undisturbed run of the same settings. Trainers are forks of
one warm process (`Nursery`) where the story does not start them by a command: a second instead of three for each.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.held import Hold
from tests.builders.shell import cli, events, fingerprint, last_step, wait_for

pytest.importorskip("torch")

from tests.trainer.faults.nursery import Nursery

FORMATS = ["file", "dir", pytest.param("dcp", marks=pytest.mark.long)]
# Where nothing hangs on the format the others are for the long suite.
ONE_FORMAT = ["file", *(pytest.param(form, marks=pytest.mark.long) for form in ("dir", "dcp"))]
TRAIN = {
    "n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "batch_size": 4, "mini_batch_size": 2, "dropout": 0.1,
    "max_steps": 200, "eval_freq": 40, "eval_batches": 1, "checkpoint_freq": 20, "threads": 1, "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"{i} bottles of beer on the wall, {i * 7 % 11} of them empty.\n" for i in range(999)))
    return path


class Story:
    """One run directory with one kind of checkpoints, and the trainings on it."""

    def __init__(self, nursery: Nursery, corpus: Path, directory: Path, form: str) -> None:
        self.directory, self._nursery, self._corpus, self.form = directory, nursery, corpus, form
        self.suffix = ".pt" if form == "file" else ""

    def argv(self, out: Path, **changed: object) -> list[str]:
        settings = {**TRAIN, "checkpoint_format": self.form, "data": self._corpus, **changed}
        return ["--out", str(out), *(word for key, value in settings.items() for word in (f"--{key}", str(value)))]

    def start(self, hold: Hold | None = None, **changed: object) -> None:
        self._nursery.start(self.argv(self.directory, **changed), hold=hold)

    def held(self, at: str, *, rests: bool = False, **changed: object) -> Hold:
        """Train until it is there, and wait for that."""
        hold = Hold(self.directory.parent, at, rests=rests)
        self.start(hold, **changed)
        hold.wait()
        return hold

    def to_its_end(self, **changed: object) -> None:
        self.start(**changed)
        self.ends(0)

    def ends(self, code: int) -> None:
        ended = self._nursery.finish()
        assert ended.code == code, ended.output

    def killed_at(self, step: int, **changed: object) -> None:
        """Train, and be killed without a word there, between two saves."""
        hold = self.held(f"step {step}", rests=True, **changed)
        wait_for(self._is_between_saves, "the end of what a thread saves")
        os.kill(hold.pid, signal.SIGKILL)
        self.ends(-signal.SIGKILL)

    def _is_between_saves(self) -> bool:
        saved = {str(e["path"]) for e in events(self.directory) if e["event"] == "checkpoint_saved"}
        rolling = self.names("rolling_step_*")
        return bool(rolling) and rolling <= saved and not list(self.directory.glob(".tmp-*"))

    def undisturbed(self, **changed: object) -> str:
        """The fingerprint of a run with the same settings to which nothing ever happened."""
        straight = Story(self._nursery, self._corpus, self.directory.parent / "straight", self.form)
        straight.to_its_end(**changed)
        return fingerprint(straight.directory)

    def resumed_to_its_end(self, *options: str) -> int:
        """By `ckpt-tui resume`; gives the step that it went on from."""
        started = cli("resume", str(self.directory), *options, "--yes")
        log = Path(started["log"])
        wait_for(lambda: events(self.directory)[-1]["event"] == "run_end", "the end of the training")
        wait_for(lambda: not _is_alive(started["pid"]), "the end of its process")
        assert events(self.directory)[-1]["status"] == "finished", log.read_text()
        return int(started["step"])

    def names(self, pattern: str) -> set[str]:
        return {path.name for path in self.directory.glob(f"{pattern}{self.suffix}")}

    def bytes_of(self, *folder: str) -> dict[str, dict[str, bytes]]:
        """Of each checkpoint in a folder: its files and what is in them."""
        place = self.directory.joinpath(*folder)
        checkpoints = [p for p in place.iterdir() if p.suffix == ".pt" or (p.is_dir() and any(p.glob("*.*")))]
        return {
            one.name: (
                {"": one.read_bytes()}
                if one.is_file()
                else {file.name: file.read_bytes() for file in one.iterdir() if file.is_file()}
            )
            for one in checkpoints
            if one.name not in ("set_aside", "quarantine")
        }

    def spoil(self, name: str) -> None:
        """A bad block under the largest file of a checkpoint, in place: other names of it are hit, too."""
        path = self.directory / f"{name}{self.suffix}"
        files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
        largest = max(files, key=lambda file: file.stat().st_size)
        with open(largest, "r+b") as file:
            file.seek(largest.stat().st_size // 2)
            found = file.read(32)
            file.seek(-len(found), os.SEEK_CUR)
            file.write(bytes(byte ^ 0x5A for byte in found))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(params=FORMATS)
def story(request: pytest.FixtureRequest, nursery: Nursery, corpus: Path, tmp_path: Path) -> Iterator[Story]:
    told = Story(nursery, corpus, tmp_path / "run", request.param)
    yield told
    if (told.directory / "launch.json").exists():
        pid = json.loads((told.directory / "launch.json").read_text())["pid"]
        if _is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_the_latest_checkpoint_is_damaged(story: Story) -> None:
    story.killed_at(130)
    reached = last_step(story.directory, 1)
    story.spoil("latest")
    directory = str(story.directory)
    spoilt = story.bytes_of()[f"latest{story.suffix}"]

    assert cli("validate", f"{directory}/latest{story.suffix}", expect=1)["results"][0]["verdict"] == "damaged"
    plan = cli("restore", directory, "--dry-run")
    assert f"latest{story.suffix}" in {step["target"] for step in plan["steps"]}
    restored = cli("restore", directory, "--yes")
    assert restored["steps"] == plan["steps"]
    listed = cli("list", directory, "--check", "full")
    assert all(row["validity"] == "valid" for kind in listed["checkpoints"].values() for row in kind)
    assert story.bytes_of("set_aside", "1")[f"latest{story.suffix}"] == spoilt, "not deleted, and not touched"

    step = story.resumed_to_its_end()
    assert reached - 25 < step <= reached, "a save each 20 steps: no older one had to be taken"
    assert fingerprint(story.directory) == story.undisturbed()


def test_back_to_an_earlier_step(story: Story) -> None:
    """The loss went wrong after step 100, with nothing damaged: the steps since are given up."""
    story.to_its_end()
    directory, before = str(story.directory), story.bytes_of()
    rolled_back = cli("rollback", directory, "--to", "100", "--yes")
    assert rolled_back["steps_given_up"] == 100
    kept = {**story.bytes_of("set_aside", "1"), **story.bytes_of()}
    assert {name for name, content in before.items() if kept.get(name) != content} <= {f"latest{story.suffix}"}
    assert story.bytes_of("set_aside", "1")[f"latest{story.suffix}"] == before[f"latest{story.suffix}"]

    assert story.resumed_to_its_end() == 100
    assert fingerprint(story.directory) == story.undisturbed()
    # What was given up is there still; the undo says what it displaces.
    assert {name: story.bytes_of("set_aside", "1").get(name) for name in before if "rolling_step_0002" in name} == {
        name: content for name, content in before.items() if "rolling_step_0002" in name
    }


@pytest.mark.parametrize("story", ONE_FORMAT, indirect=True)
def test_stopped_many_times(story: Story) -> None:
    """Ten SIGTERMs. Their checkpoints have a pool of their own: no rolling one goes for them."""
    keep = {"keep_checkpoints": 20, "keep_emergency_checkpoints": 4, "resume": "auto", "max_steps": 400}
    directory, rolling, stopped_at = str(story.directory), set[str](), 0
    for _ in range(10):
        hold = story.held(f"step {stopped_at + 16}", rests=True, **keep)
        os.kill(hold.pid, signal.SIGTERM)
        hold.go_on()
        story.ends(128 + signal.SIGTERM)
        starts = [event for event in events(story.directory) if event["event"] == "run_start"]
        assert starts[-1]["start_step"] == stopped_at, "each went on from where the one before was stopped"
        stopped_at = events(story.directory)[-1]["step"]
        assert rolling <= story.names("rolling_step_*"), "no stop costs a rolling one"
        rolling = story.names("rolling_step_*")
    assert len(story.names("emergency_step_*")) == 4
    assert {f"rolling_step_{step:06d}{story.suffix}" for step in range(20, stopped_at, 20)} <= rolling
    assert cli("status", directory)["lost"]["steps"] == 0

    assert story.resumed_to_its_end() == stopped_at
    assert fingerprint(story.directory) == story.undisturbed(**keep)


@pytest.mark.parametrize("story", ONE_FORMAT, indirect=True)
def test_a_best_that_was_a_spike(story: Story) -> None:
    """A lucky value is never beaten; put back, the previous best is, and so by the next real one."""
    story.to_its_end(monitor="train_loss", eval_freq=4, batch_size=1, mini_batch_size=1, max_steps=320)
    directory, best = str(story.directory), f"best_model{story.suffix}"
    bests = [event for event in events(story.directory) if event["event"] == "best"]
    lucky, real = bests[-1], bests[-2]
    assert lucky["step"] < 300, "lucky: nothing came near it for the rest of the run"
    state = story.bytes_of()

    restored = cli("restore", directory, f"best_model_previous{story.suffix}", "--yes")
    assert [step["target"] for step in restored["steps"]] == [best]
    assert story.bytes_of()[best] == state[f"best_model_previous{story.suffix}"]
    assert story.bytes_of("set_aside", "1")[best] == state[best], "the lucky one is kept, too"
    registry = json.loads((story.directory / "registry.json").read_text())
    assert registry["best"]["value"] == real["value"]
    assert cli("status", directory)["best"] == real["value"]
    # Damaged before the next best: the copy that is put in its place is not that of the lucky one.
    story.spoil("best_model")
    assert f"best_model_previous{story.suffix}" in {s["source"] for s in cli("restore", directory, "--yes")["steps"]}

    assert story.resumed_to_its_end("--set", "max_steps=480") == 320
    later = [event for event in events(story.directory) if event["event"] == "best" and event["session"] == 2]
    assert later, "a real best was recorded"
    assert later[0]["previous"] == real["value"] > later[0]["value"]
    assert lucky["value"] < later[0]["value"], "one that the lucky one would have stood in the way of"
    listed = cli("list", directory)["checkpoints"]["best"]
    assert [row["step"] for row in listed if row["name"] == best] == [later[-1]["step"]]


def test_a_crash_during_a_save(story: Story) -> None:
    """Killed in the midst of saves, again and again: half a file is never taken for one, and the end is the same."""
    rng, size = random.Random(3), {"n_embd": 64, "checkpoint_freq": 5, "resume": "auto"}
    for session in range(1, 9):
        hold = story.held(f"half {rng.randrange(1, 12)}", **size)
        os.kill(hold.pid, signal.SIGKILL)
        story.ends(-signal.SIGKILL)
        halves = list(story.directory.glob(".tmp-*"))
        assert halves
        if session % 4 == 0:
            # Nothing that is half written has a name: all that is listed is whole.
            listed = cli("list", str(story.directory), "--check", "full")["checkpoints"]
            rows = [row for kind in listed.values() for row in kind]
            assert rows
            assert all(row["validity"] == "valid" for row in rows)
            assert not [row["name"] for row in rows if "tmp" in row["name"]]
            assert list(story.directory.glob(".tmp-*")) == halves, "a look cleans nothing up"
    durable = max(event["step"] for event in events(story.directory) if event["event"] == "checkpoint_saved")
    assert story.resumed_to_its_end() >= durable
    assert not list(story.directory.glob(".tmp-*"))
    assert fingerprint(story.directory) == story.undisturbed(**size)
