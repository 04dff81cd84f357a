"""Every source in SOURCES takes whatever is in its file and whatever happens to it: it never raises or tells twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ckpt_tui.events.schema import BadLine, Event, RunStart, Step
from ckpt_tui.run.fold import RunFold
from ckpt_tui.sources.base import EventSource
from ckpt_tui.sources.registry import SOURCES, open_source, source_classes
from tests.builders.event_logs import worked_example
from tests.builders.foreign_logs import SAMPLES, Sample

OUR_LOG = b"".join(worked_example().lines[:50])
HOSTILE = {
    "empty": b"", "torn": OUR_LOG[:-30], "garbage": b"\x80\x1b]0;x\x07" * 999 + b"\n" + OUR_LOG,
    "zeros": bytes(9999) + b"\n", "deep": b"[" * 100_000 + b"\n", "braces": b"{'loss': " * 9999 + b"\n",
    "huge numbers": b'{"event":"step","step":1e999,"seq":9e99,"loss":1e400}\n' * 9,
    "huge steps": b"step 99999999999999999999999999: loss 1e999999\nepoch,step,loss\n" + b"9" * 5000 + b",1,2\n",
    "huge rows": b"step,loss" + b",x" * 100_000 + b"\n" + b"1," * 100_000 + b"\n",
    "escapes": "step 1: loss 2 \x1b[31m\x9b0m\u202e\u200b\x00 saved checkpoint to /\x1b]0;x\x07/c.pt\n".encode() * 9,
    "bars": b"100%|" + "█".encode() * 999 + b"| 99999999999999999999/0 [99:99:99<?, ?it/s, loss=nan]\r" * 99,
    "commas": b",,,,\n" * 999, "quotes": b'"step","loss\n"1,2\n' * 99, "returns": b"\r" * 9999,
    "traceback": b"Traceback (most recent call last):\n" * 99,
}  # fmt: skip

CLASSES = {source_class.__name__: source_class for source_class in source_classes()}


def test_every_source_has_a_sample_that_is_found_by_its_content(tmp_path: Path) -> None:
    assert len(SOURCES) == len(CLASSES)
    assert set(SAMPLES) == set(CLASSES)
    for name, sample in SAMPLES.items():
        path = tmp_path / f"no_name_that_helps_{name}"
        path.write_bytes(sample.content)
        assert type(open_source(str(path))).__name__ == name


@pytest.fixture(params=CLASSES)
def kind(request: pytest.FixtureRequest) -> tuple[Any, Sample]:
    return CLASSES[request.param], SAMPLES[request.param]


def drain(source: EventSource, max_bytes: int = 1 << 20) -> list[Event | BadLine]:
    """Everything that is there now; only what is told anew where the source says so."""
    events: list[Event | BadLine] = []
    for _ in range(100_000):
        batch = source.poll(max_bytes)
        events = list(batch.events) if batch.restarted else events + list(batch.events)
        if batch.is_caught_up:
            return events
    raise AssertionError("never caught up")


def told(events: list[Event | BadLine]) -> list[tuple[str, int, dict[str, float]]]:
    """What is said of the training: one entry a step and kind, however many events it came in."""
    found: list[tuple[str, int, dict[str, float]]] = []
    for event in events:
        if isinstance(event, BadLine | RunStart):
            continue
        entry = (type(event).__name__, event.step, dict(getattr(event, "metrics", {})))
        if found and found[-1][:2] == entry[:2]:
            found[-1][2].update(entry[2])
        else:
            found.append(entry)
    return found


def assert_last(events: list[Event | BadLine], sample: Sample) -> None:
    fold = RunFold()
    fold.apply_all(events)
    state = fold.state(now=1e9)
    assert state.step == sample.last_step
    assert state.series["loss"].last == pytest.approx(sample.last_loss)


def test_its_sample_comes_out(kind: tuple[Any, Sample], tmp_path: Path) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    path.write_bytes(sample.content)
    events = drain(source_class(str(path)))
    assert_last(events, sample)
    assert not [event for event in events if isinstance(event, BadLine)]
    assert sum(isinstance(event, Step) for event in events) >= 4


def test_torn_at_every_byte_nothing_is_lost_or_told_twice(kind: tuple[Any, Sample], tmp_path: Path) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    path.write_bytes(sample.content)
    whole = told(drain(source_class(str(path))))
    for cut in range(0, len(sample.content), len(sample.content) // 400 + 1):
        path.write_bytes(sample.content[:cut])
        source = source_class(str(path))
        events = drain(source)
        with path.open("r+b") as file:  # the rest comes, in the same file
            file.seek(cut)
            file.write(sample.content[cut:])
        events += drain(source)
        if sample.is_rewritten:
            assert_last(events, sample)
        else:
            assert told(events) == whole, cut
        assert not [event for event in events if isinstance(event, BadLine)]


@pytest.mark.parametrize("max_bytes", [1, 17, 300])
def test_many_small_reads_tell_what_one_does(kind: tuple[Any, Sample], tmp_path: Path, max_bytes: int) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    path.write_bytes(sample.content)
    assert told(drain(source_class(str(path)), max_bytes)) == told(drain(source_class(str(path))))


@pytest.mark.parametrize(
    "damage", [b"\x00" * 300, b"\xff\xfe\x80" * 50, b"garbage, and more\n", b"x" * 5_000_000 + b"\n"]
)
def test_what_is_behind_damage_in_the_middle_is_read(kind: tuple[Any, Sample], tmp_path: Path, damage: bytes) -> None:
    source_class, sample = kind
    if sample.is_rewritten:
        pytest.skip("a file that is one value is whole or not")
    middle = len(sample.content) // 2
    middle = sample.content.index(b"\n", middle) + 1 if b"tfevents" not in sample.file_name.encode() else middle
    path = tmp_path / sample.file_name
    path.write_bytes(sample.content[:middle] + damage + sample.content[middle:])
    source = source_class(str(path))
    events = drain(source)
    assert_last(events, sample)
    assert len(told(events)) >= len(told(drain(source_class(_clean(tmp_path, sample))))) - 2
    if not (source_class.__name__ == "TextLogSource" and len(damage) < 1_000_000):  # any text may stand in a text log
        assert [event for event in events if isinstance(event, BadLine)]


def _clean(tmp_path: Path, sample: Sample) -> str:
    path = tmp_path / "clean" / sample.file_name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sample.content)
    return str(path)


@pytest.mark.parametrize("accident", ["truncated", "replaced", "deleted and back", "rewritten in place"])
def test_another_log_in_its_place_is_told_anew(kind: tuple[Any, Sample], tmp_path: Path, accident: str) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    path.write_bytes(sample.content)
    source = source_class(str(path))
    drain(source)
    other = sample.content.replace(b"1.99", b"7.77") if not accident.startswith("trunc") else sample.content[:0]
    if accident == "deleted and back":
        path.unlink()
        gone = source.poll()
        assert gone.is_caught_up
        assert [*gone.notices] == ["the log is gone: it was deleted or moved"]
        assert source.poll().notices == ()
    if accident == "replaced":
        (tmp_path / "new").write_bytes(sample.content)
        (tmp_path / "new").replace(path)
        assert not told(drain(source)), "the same bytes tell nothing new"
        return
    path.write_bytes(other)
    drain(source)
    path.write_bytes(sample.content)
    events = drain(source)
    if accident != "deleted and back" or not sample.is_rewritten:
        assert_last([*events, *drain(source_class(str(path)))], sample)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_and_accidents_never_raise(kind: tuple[Any, Sample], name: str, tmp_path: Path) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    path.write_bytes(HOSTILE[name])
    source_class.accepts(str(path), HOSTILE[name])
    source = source_class(str(path))
    fold = RunFold()
    fold.apply_all(drain(source))
    path.write_bytes(HOSTILE[name] * 2 + sample.content)
    fold.apply_all(drain(source))
    path.write_bytes(sample.content[:100])
    fold.apply_all(drain(source))
    path.unlink()
    assert source.poll().is_caught_up
    path.write_bytes(sample.content)
    events = drain(source)
    assert_last([*events, *drain(source_class(str(path)))], sample)
    fold.apply_all(events)
    fold.state(now=1e9)


def test_random_damage_never_raises(kind: tuple[Any, Sample], tmp_path: Path) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    for seed in range(150):
        random_ = random.Random(seed)
        content = bytearray(sample.content)
        for _ in range(random_.randint(1, 8)):
            at = random_.randrange(len(content))
            if random_.random() < 0.5:
                content[at] = random_.randrange(256)
            else:
                del content[at : at + random_.randrange(40)]
        path.write_bytes(content)
        source_class.accepts(str(path), bytes(content))
        fold = RunFold()
        fold.apply_all(drain(source_class(str(path)), random_.choice([50, 1 << 20])))
        fold.state(now=1e9)


def test_a_directory_in_its_place_and_no_permission_are_said_not_raised(
    kind: tuple[Any, Sample], tmp_path: Path
) -> None:
    source_class, sample = kind
    path = tmp_path / sample.file_name
    path.mkdir()
    source = source_class(str(path))
    assert source.poll().is_caught_up
    assert drain(source) == []


def test_every_kind_is_in_the_readmes_table() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    table = readme.partition("## Logs it reads")[2].partition("\n## ")[0]
    for source_class in CLASSES.values():
        assert f"| {getattr(source_class, 'kind', 'our event log')} |" in table
