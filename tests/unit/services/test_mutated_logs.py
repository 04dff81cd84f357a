"""A log whose bytes were changed at random, and lines put in any order: told without raising, and the same each way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckpt_tui.run.beside import Beside
from ckpt_tui.run.fold import RunFold
from ckpt_tui.run.wording import end_sentences, header_lines, log_sentences
from ckpt_tui.services.glance import Newest
from ckpt_tui.services.monitor import RunMonitor
from ckpt_tui.sources.jsonl import JsonlSource
from tests.builders.event_logs import LogText


def all_events() -> list[bytes]:
    log = LogText()
    for session in (1, 2):
        log.add("run_start", 4 * session, session, run_name="x", total_steps=20, start_step=4 * session, pid=1)
        for step in range(4 * session, 4 * session + 8):
            log.add("step", step, session, ts=log.ts + 1, loss=1.0, epoch=step / 4, lr=0.1, tokens_per_s=9.0)
        step = 4 * session + 8
        log.add("eval", step, session, val_loss=1.0, seconds=2.0)
        log.add("checkpoint_saved", step, session, path=f"r{step}.pt", kind="rolling", names=["latest.pt"], bytes=7)
        log.add("best", step, session, metric="val_loss", value=1.0)
        log.add("nonfinite", step, session, what="loss", rolled_back_to=step - 2)
        log.add("disk", step, session, free_bytes=9, saves_that_fit=2)
        log.add("system", step, session, cpu_percent=9.0, gpus=[{"utilization_percent": 3}])
        log.add("checkpoint_failed", step, session, path="a.pt", stage="write", error="no space")
        log.add("signal", step, session, signal="SIGTERM")
        log.add("error", step, session, type="X", message="y")
        log.add("lost_work", step, session, lost_session=1, from_step=1, to_step=2, seconds=1.0)
        log.add("advice", step, session, recommended_steps=5)
        log.add("run_end", step, session, status="failed")
    return log.lines


LINES = all_events()
edits = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.binary(max_size=6), st.sampled_from(LINES))), max_size=8
)


@settings(max_examples=80)
@given(
    lines=st.one_of(st.permutations(LINES), st.just(LINES)), edits=edits,
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=5), alive=st.sampled_from([True, False, None]),
)  # fmt: skip
def test_whatever_became_of_its_bytes_a_log_is_told(
    lines: list[bytes], edits: list[tuple[float, int, bytes]], sizes: list[int], alive: bool | None, tmp_path: Path
) -> None:
    text = b"".join(lines)
    for where, num_removed, put in edits:
        at = int(where * len(text))
        text = text[:at] + put + text[at + num_removed :]
    path = tmp_path / "events.jsonl"
    path.write_bytes(text)
    states = []
    for in_blocks in (True, False):
        source, fold = JsonlSource(str(path)), RunFold()
        for size in [*sizes, 1 << 20, 1 << 20]:
            fold.apply_all(source.poll_blocks(size)[0] if in_blocks else source.poll(size).events)
        states.append(fold.state(1100.0, Beside(is_process_alive=alive, existing_names={"latest.pt"})))
    for state in states:
        assert header_lines(state)
        end_sentences(state)
        log_sentences(state)
    blocks, single = map(dataclasses.asdict, states)
    for key, value in single.items():
        assert repr(blocks[key]) == repr(value) or blocks[key] == pytest.approx(value), key
    newest = Newest(str(path)).state(1100.0, Beside(is_process_alive=alive))
    assert not newest.is_whole
    assert header_lines(newest)
    assert RunMonitor(str(tmp_path), newest_first=True).poll().num_events == states[0].num_events
