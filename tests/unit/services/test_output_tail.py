"""What a training prints is shown as it comes, safely for a terminal, and nobody who does not read holds us up."""

from __future__ import annotations

import os
import pty
import select
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ckpt_tui.services import output_tail
from ckpt_tui.services.output_tail import Outlet, OutputTail, Talk


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read at once is passed on in one look, also where this process has to wait for a core meanwhile."""
    monkeypatch.setattr(output_tail, "_SHARE_S", 300.0)
    monkeypatch.setattr(output_tail, "_LAST_S", 300.0)


def returns(call: Callable[[], object]) -> bool:
    """Whether it comes back although nobody reads; at once is not asked of a busy machine."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(120)
    return not thread.is_alive()


def test_the_output_is_passed_on_as_it_comes_and_its_last_lines_are_those_that_are_seen(
    tmp_path: Path, unhurried: None
) -> None:
    path = tmp_path / "out.log"
    path.write_text("of an earlier session\n")
    out, to = os.pipe()
    tail = OutputTail(str(path), to)
    assert not tail.pump()
    with path.open("a") as file:
        file.write("one\n\n 10 %\r 20 %\r 30 %\nlast \xe9\n")
    assert tail.pump()
    assert os.read(out, 100).startswith(b"one\n")
    assert tail.last_lines(2) == ("30 %", "last é")
    assert tail.last_lines(10) == ("one", "30 %", "last é")
    os.close(out)
    with path.open("a") as file:
        file.write("more\n")
    assert tail.pump()  # who read it has gone: no reason to fail
    os.close(to)
    tail.close()


def test_who_does_not_read_holds_nobody_up_and_gets_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_tail, "MAX_BEHIND_BYTES", 1 << 20)
    path = tmp_path / "out.log"
    out, to = os.pipe()
    tail = OutputTail(str(path), to)
    written = b"".join(b"line %d\n" % number for number in range(30_000))
    path.write_bytes(written)
    had_news: list[bool] = []
    assert returns(lambda: had_news.append(tail.pump()))
    assert returns(lambda: had_news.append(tail.pump()))
    assert had_news == [True, False]  # what is not taken yet is no news
    got = b""
    while len(got) < len(written):
        while not select.select([out], [], [], 0)[0]:
            tail.pump()
        got += os.read(out, 1 << 16)
    assert got == written
    with path.open("ab") as file:
        file.write(b"x" * (3 << 20))
    while not select.select([out], [], [], 0)[0]:
        tail.pump()
    assert b"[3.1 MB not shown; out.log has all]" in os.read(out, 1 << 16)
    os.close(out)
    os.close(to)
    tail.close()


def test_the_last_line_is_ended_so_that_the_next_one_begins_at_the_left(tmp_path: Path, unhurried: None) -> None:
    path = tmp_path / "out.log"
    out, to = os.pipe()
    tail = OutputTail(str(path), to)
    path.write_bytes(b"no newline")
    tail.pump()
    tail.pump(is_last=True)
    assert os.read(out, 100) == b"no newline\n"
    for descriptor in (out, to):
        os.close(descriptor)
    tail.close()


def test_on_a_terminal_colours_stay_and_what_would_command_it_is_text(tmp_path: Path, unhurried: None) -> None:
    path = tmp_path / "out.log"
    master, slave = pty.openpty()
    tail = OutputTail(str(path), slave)
    with path.open("ab", buffering=0) as file:
        for piece in (
            b"\x1b[1;31mred\x1b[0m 10 %\r\xff\x07 \x1b",
            b"]52;c;ZXZpbA==\x07 \x1b[",
            b"6n \x1b[2J \xc2",
            b"\x9b6n \xc3\xa9\x1b[K\x1b",
        ):
            file.write(piece)
            tail.pump()
    tail.pump(is_last=True)
    wanted = (
        b"\x1b[1;31mred\x1b[0m 10 %\r\xff\\x07 \\x1b]52;c;ZXZpbA==\\x07 \\x1b[6n \\x1b[2J \\xc2\\x9b6n \xc3\xa9\x1b[K"
    )
    shown = b""
    while not shown.endswith(b"\n"):  # a terminal gives it piece by piece
        shown += os.read(master, 1000)
    assert shown == wanted + b"\\x1b\r\n"
    for descriptor in (master, slave):
        os.close(descriptor)
    tail.close()


def test_lines_for_a_person_wait_until_they_are_taken() -> None:
    out, to = os.pipe()
    full = Outlet(to)
    while full.write(b"x" * 4096):
        pass
    talk = Talk(to)
    assert returns(lambda: (talk.say("first"), talk.say("second")))
    got = os.read(out, 1 << 20)
    talk.say("third")
    talk.close()
    full.close()
    os.close(to)
    got += os.read(out, 1 << 20)
    assert got.lstrip(b"x") == b"first\nsecond\nthird\n"
    os.close(out)
