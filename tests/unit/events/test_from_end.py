from __future__ import annotations

import random
from pathlib import Path

import pytest

from ckpt_tui.events import from_end
from ckpt_tui.events.from_end import lines_from_end


@pytest.mark.parametrize("window", [1, 3, 64, 1 << 18])
def test_the_lines_of_any_file_newest_first(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_end, "WINDOW_BYTES", window)
    chance = random.Random(window)
    path = tmp_path / "log"
    for _ in range(60):
        lines = [bytes(chance.choices(b"abc ", k=chance.randint(0, 9))) for _ in range(chance.randint(0, 12))]
        path.write_bytes(b"\n".join(lines))
        assert list(lines_from_end(str(path), 1 << 20)) == [line for line in reversed(lines) if line.strip()]
        marked = [line for line in reversed(lines) if b"cab" in line or b" a" in line]
        assert list(lines_from_end(str(path), 1 << 20, (b"cab", b" a"))) == marked


def test_no_more_than_the_limit_is_read_and_a_line_that_it_cuts_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first line\nsecond line\nthird line\n")
    assert list(lines_from_end(str(path), 20)) == [b"third line"]
    assert list(lines_from_end(str(path), 23)) == [b"third line"]
    assert list(lines_from_end(str(path), 24)) == [b"third line", b"second line"]
    assert list(lines_from_end(str(path), 34)) == [b"third line", b"second line", b"first line"]


def test_a_stretch_without_lines_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_end, "WINDOW_BYTES", 16)
    monkeypatch.setattr(from_end, "MAX_LINE_BYTES", 64)
    path = tmp_path / "log"
    path.write_bytes(b"before\n" + b"x" * 1000 + b"\nafter\n")
    found = list(lines_from_end(str(path), 1 << 20))
    assert (found[0], found[-1]) == (b"after", b"before")
    assert all(len(line) <= 80 for line in found)


def test_what_cannot_be_read_has_no_lines(tmp_path: Path) -> None:
    assert list(lines_from_end(str(tmp_path / "none"), 100)) == []
    assert list(lines_from_end(str(tmp_path), 100)) == []
