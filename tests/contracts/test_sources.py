"""Every source in SOURCES takes whatever is in its file, and whatever happens to it, without raising."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_tui.sources.registry import SOURCES
from tests.builders.event_logs import worked_example

GOOD = b"".join(worked_example().lines[:50])
HOSTILE = {
    "empty": b"", "torn": GOOD[:-30], "garbage": b"\x80\x1b]0;x\x07" * 999 + b"\n" + GOOD, "zeros": bytes(9999) + b"\n",
    "deep": b"[" * 100_000 + b"\n", "huge numbers": b'{"event":"step","step":1e999,"seq":9e99,"loss":1e400}\n' * 9,
}  # fmt: skip


@pytest.mark.parametrize("source_type", SOURCES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_and_accidents_never_raise(source_type, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log"
    path.write_bytes(HOSTILE[name])
    source = source_type(str(path))
    source.poll()
    path.write_bytes(GOOD + GOOD)
    source.poll()
    path.write_bytes(GOOD[:100])
    source.poll()
    path.unlink()
    assert source.poll().is_caught_up
    path.write_bytes(GOOD)
    assert source.poll().events
