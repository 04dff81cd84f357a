"""Step lines in blocks mean what they mean one by one, whatever stands among them and however they are cut."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.events.blocks import BlockDecoder, StepBlock, Told
from ckpt_tui.events.codec import decode_lines
from ckpt_tui.events.schema import Step
from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.state import RunState, Segment, Series
from ckpt_tui.sources.jsonl import JsonlSource
from tests.builders.event_logs import LogText

NAMES = ("loss", "lr", "m0", "train/loss", 'a"b', "back\\slash", "", "größe", "extra", "metrics", "rows")
VALUES = st.one_of(
    st.floats(-1e9, 1e9), st.integers(-9, 9),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "x", None, True, [1], {}]),
    st.just(10**400),
)  # fmt: skip
ODD = (
    b"", b"   ", b"garbage", b"{}", b"[]", b'{"v":1,"event":"step"', b"\x00\x00\x00",
    b'{"event":"step","seq":1,"ts":5.0,"session":1,"step":3,"loss":1e999}',
    b'{"event":"step","seq":1,"ts":5.0,"session":1,"step":3,"loss":NaN}',
    b'{"event":"step","seq":1,"ts":5,"session":1,"step":3.0,"epoch":"1.5","loss":2}',
    b'{"event":"step","seq":1,"ts":5.0,"session":1,"step":99999999999999999999,"loss":2}',
    b'{"event":"step","seq":1,"ts":5.0,"session":1,"step":7,"loss":2}{"event":"step","seq":1,"ts":5.0,"session":1,"step":8}',
    b'\x00\x00{"event":"step","seq":1,"ts":5.0,"session":1,"step":9,"loss":2}', b'{"event":"step","loss":"\xff\xfe"}',
    b'{"event":"eval","seq":2,"ts":6.0,"session":1,"step":9,"val_loss":2,"name":"step"}',
    b'{"event":"checkpoint_saved","seq":3,"ts":6.0,"session":1,"step":9,"path":"a.pt"}',
    b'{"event" : "step","seq":4,"ts":6.5,"session":1,"step":10,"loss":3}',
    b'\xef\xbb\xbf{"event":"step","seq":1,"ts":5.0,"session":1,"step":9,"loss":2}',
)  # fmt: skip


@st.composite
def step_line(draw: st.DrawFn) -> bytes:
    fields = {"v": 1, "event": "step", "seq": draw(st.integers(0, 99)), "ts": draw(st.floats(0, 99)),
              "session": draw(st.integers(0, 3)), "step": draw(st.integers(0, 99))}  # fmt: skip
    if draw(st.booleans()):
        fields["epoch"] = draw(st.one_of(st.none(), st.floats(0, 9), st.just("NaN")))
    fields |= draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
    return json.dumps(fields, separators=draw(st.sampled_from([(",", ":"), (", ", ": ")]))).encode()


plain_line = st.builds(
    lambda step, loss: json.dumps({"v": 1, "event": "step", "seq": step, "ts": 5.0 + step, "session": 1, "step": step,
                                   "loss": loss}).encode(),
    st.integers(1, 999), st.floats(0, 9),
)  # fmt: skip
texts = st.lists(st.one_of(plain_line, plain_line, plain_line, step_line(), st.sampled_from(ODD)), max_size=60)


def state_of(path: Path, sizes: list[int], *, in_blocks: bool) -> RunState:
    source, fold = JsonlSource(str(path)), RunFold()
    for size in [*sizes, 1 << 20, 1 << 20]:
        fold.apply_all(source.poll_blocks(size)[0] if in_blocks else source.poll(size).events)
    return fold.state(200.0, Beside(is_process_alive=True))


@settings(max_examples=150)
@given(lines=texts, sizes=st.lists(st.integers(1, 4000), max_size=6))
def test_blocks_fold_to_the_same_state_as_single_lines(lines: list[bytes], sizes: list[int], tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    blocks, single = (dataclasses.asdict(state_of(path, sizes, in_blocks=way)) for way in (True, False))
    for key, value in single.items():
        if key == "series":
            assert {name: repr(series) for name, series in blocks[key].items()} == {
                name: repr(series) for name, series in value.items()
            }
        else:
            assert repr(blocks[key]) == repr(value) or blocks[key] == pytest.approx(value), key


def test_lines_of_known_fields_become_one_block_and_others_part_it() -> None:
    log = LogText()
    for step in range(1, 11):
        log.add("step", step, loss=1.0)
    decoder = BlockDecoder()
    first = decoder.decode(log.text.rstrip(b"\n"))
    assert [type(one).__name__ for one in first] == ["Step"] * 10  # its fields are learned from these
    assert [type(one) for one in decoder.decode(log.text.rstrip(b"\n"))] == [StepBlock]
    log.add("eval", 10, val_loss=1.0)
    for step in range(11, 21):
        log.add("step", step, loss=1.0)
    told = decoder.decode(log.text.rstrip(b"\n"))
    assert [type(one).__name__ for one in told] == ["StepBlock", "Eval", "StepBlock"]
    assert [len(one.rows) for one in told if isinstance(one, StepBlock)] == [10, 10]
    again = decoder.decode(b"\n".join(log.lines[0].rstrip() for _ in range(10)))
    assert [type(one) for one in again] == [StepBlock]


def test_a_log_of_ever_new_metrics_is_decoded_line_by_line_in_the_end() -> None:
    decoder = BlockDecoder()
    for number in range(0, 2000, 10):
        common = {"event": "step", "seq": 1, "ts": 1.0, "session": 1, "step": 1}
        lines = [json.dumps({**common, f"m{number + i}": 1.0}).encode()
                 for i in range(10)]  # fmt: skip
        text = b"\n".join(lines)
        assert len(decoder.decode(text)) == 10
    assert repr(decoder.decode(text)) == repr(decode_lines(text))


def test_two_objects_in_a_line_and_an_empty_line_are_no_two_steps() -> None:
    """As many objects as lines: only where the lines begin tells that they are not one each."""
    one = b'{"event":"step","seq":1,"ts":5.0,"session":1,"step":3,"loss":1.0}'
    decoder = BlockDecoder()
    text = b"\n".join([one] * 5)
    decoder.decode(text)
    assert [type(told) for told in decoder.decode(text)] == [StepBlock]
    odd = b"\n".join([one, one + one, b"", one, one])
    assert [type(told).__name__ for told in singly(decoder.decode(odd))] == [
        type(told).__name__ for told in decode_lines(odd)
    ]


def singly(told: list[Told]) -> list[object]:
    return [row for one in told for row in ([Step() for _ in one.rows] if isinstance(one, StepBlock) else [one])]


@pytest.mark.parametrize("seed", range(8))
def test_a_long_log_of_every_kind_of_line_folds_to_the_same_state_in_any_texts(seed: int, tmp_path: Path) -> None:
    """Long enough for full buckets, chunks of alerts, and for the decoder to learn and to forget what lines hold."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(changing_log(random.Random(seed), 6000)))
    sizes = random.Random(seed + 100).choices([3000, 20_000, 90_000], k=400)
    blocks, single = (state_of(path, sizes, in_blocks=way) for way in (True, False))
    for name, theirs in segments_of(single).items():
        ours = segments_of(blocks)[name]
        assert list(ours.total) == pytest.approx(list(theirs.total), nan_ok=True), name  # sums: but for rounding
        assert repr(dataclasses.replace(ours, total=theirs.total)) == repr(theirs), name
    assert len(segments_of(blocks)) == len(segments_of(single))
    blocks, single = (dataclasses.replace(state, series={}, epochs=None) for state in (blocks, single))
    assert repr(blocks) == repr(single)
    assert len(single.alerts) > 1
    assert len(single.sessions) > 1


def segments_of(state: RunState) -> dict[tuple[str, int], Segment]:
    several = {**state.series, "of lines": state.epochs or Series("epoch", (), 0, None)}
    return {(name, place): segment for name, series in several.items() for place, segment in enumerate(series.segments)}


def changing_log(rng: random.Random, num_lines: int) -> Iterator[bytes]:
    """Sessions whose lines change: other metrics, whole numbers, spikes, what is not finite, evaluations, clocks."""
    seq, ts, session, step = 0, 1000.0, 0, 0
    spelling = (",", ":")
    shape: dict[str, Any] = {}
    while seq < num_lines:
        seq += 1
        if session == 0 or rng.random() < 0.0008:
            session, spelling = session + 1, rng.choice([(",", ":"), (", ", ": ")])
            step = max(step - rng.randrange(60), 0)
            shape = {"epoch": rng.random() < 0.7, "sparse": rng.random() < 0.5, "lr": rng.choice([1e-3, 1, None])}
            fields: dict[str, Any] = {"event": "run_start", "start_step": step, "total_steps": 9999}
            if rng.random() < 0.4:
                fields["steps_per_epoch"] = 100
        elif rng.random() < 0.004:
            fields = {"event": "eval", "val_loss": rng.random(), "seconds": 3.0}
        elif rng.random() < 0.002:
            fields = {"event": "checkpoint_saved", "path": f"{seq}.pt", "names": ["latest.pt"]}
        elif rng.random() < 0.001:
            fields = {"event": "nonfinite", "what": "loss", "rolled_back_to": max(step - 5, 0)}
        elif rng.random() < 0.001:
            yield rng.choice([b"garbage", b'{"event":"step","seq":', b"\x00\x00", b"{}"]) + b"\n"
            continue
        else:
            step += 1
            ts += rng.choice([0.5, 0.5, 0.6, 1.0]) if rng.random() > 0.001 else rng.choice([-50.0, 700.0])
            loss: Any = 2.0 + rng.random() + (90.0 if rng.random() < 0.003 else 0.0)
            fields = {"event": "step", "loss": loss if rng.random() > 0.002 else rng.choice([3, "NaN", None])}
            fields |= {"epoch": step / 150} if shape["epoch"] else {}
            fields |= {"lr": shape["lr"]} if rng.random() > 0.001 else {}
            fields |= {"grad_norm": rng.random()} if not shape["sparse"] or step % 10 == 0 else {}
        common = {"v": 1, "event": "", "seq": seq, "ts": ts, "session": session, "step": step}
        yield json.dumps(common | fields, separators=spelling).encode() + b"\n"
