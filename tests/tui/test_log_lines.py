"""Lines of a log that grows, is cut, is replaced: each is found once, at its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ckpt_tui.errors import CkptError
from ckpt_tui.tui import log_lines
from ckpt_tui.tui.log_lines import LogLines, VisibleLines


def all_lines(log: LogLines) -> list[bytes]:
    return [log.line(index) for index in range(len(log))]


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_those_of_the_file_whatever_pieces_it_comes_in(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_lines, "CHUNK_BYTES", 7)
    rng = random.Random(seed)
    path = tmp_path / "log"
    log = LogLines(str(path))
    data = b""
    for _ in range(30):
        data += bytes(rng.choice(b"ab\n") for _ in range(rng.randrange(0, 20)))
        path.write_bytes(data)
        log.scan()
        assert all_lines(log) == [line.rstrip(b"\n") for line in data.splitlines(keepends=True)]
        assert log.has_partial_line == (bool(data) and not data.endswith(b"\n"))
        if len(log):
            expected = [index for index, line in enumerate(all_lines(log)) if b"ab" in line]
            assert list(log.find(["AB"])) == expected
            assert list(log.select(lambda line: b"ab" in line)) == expected


def test_a_file_that_was_cut_or_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nthree\n")
    log = LogLines(str(path))
    log.scan()
    path.write_bytes(b"x\n")
    log.scan()
    assert (all_lines(log), log.times_replaced) == ([b"x"], 1)
    other = tmp_path / "other"
    other.write_bytes(b"a longer file than before\nand more\n")
    other.replace(path)
    log.scan()
    assert (len(log), log.times_replaced) == (2, 2)


def test_a_missing_file_is_told_and_a_line_of_a_vanished_one_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with pytest.raises(CkptError, match="Not found"):
        LogLines(str(path)).scan()
    path.write_bytes(b"one\n")
    log = LogLines(str(path))
    log.scan()
    path.unlink()
    assert log.line(0) == b""


def test_a_cancelled_scan_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "CHUNK_BYTES", 4)
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nthree\n")
    log = LogLines(str(path))
    answers = iter([False, True])
    log.scan(is_cancelled=lambda: next(answers))
    assert all_lines(log) == [b"one"]
    log.scan()
    assert all_lines(log) == [b"one", b"two", b"three"]


def test_visible_lines_are_all_or_those_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\na\n")
    log = LogLines(str(path))
    rows = VisibleLines(log)
    log.scan()
    assert list(rows) == [0, 1, 2]
    rows.found = log.find(["a"])
    assert list(rows) == [0, 2]
