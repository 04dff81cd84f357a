"""What reaches a real terminal: the colours that it has and no others, the clipboard, nothing that a log says."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_tui.tui.wire import plain_character
from tests.builders.watched_pty import WatchedPty
from tests.tui.test_watch_command import write_log

ROOT = Path(__file__).parents[2]
SGR = re.compile(rb"\x1b\[([0-9;:]*)m")


def environment(tmp_path: Path, **extra: str) -> dict[str, str]:
    base = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
    return base | extra


def parameters(received: bytes) -> Iterator[list[int]]:
    for found in SGR.findall(received):
        yield [int(one or 0) for one in re.split(rb"[;:]", found)]


def depths(received: bytes) -> set[str]:
    """Which kinds of colour were asked for."""
    kinds: set[str] = set()
    for codes in parameters(received):
        at = 0
        while at < len(codes):
            code = codes[at]
            if code in (38, 48):
                kinds.add({5: "256", 2: "truecolor"}[codes[at + 1]])
                at += 3 if codes[at + 1] == 5 else 5
                continue
            if 30 <= code <= 37 or 40 <= code <= 47 or 90 <= code <= 97 or 100 <= code <= 107:
                kinds.add("16")
            at += 1
    return kinds


def painted(tmp_path: Path, env: dict[str, str], *flags: str) -> bytes:
    """Everything that a watch sends: its first picture, the help, the events, and its end."""
    run = tmp_path / "run"
    run.mkdir()
    write_log(run, ended=True)
    terminal = WatchedPty(["watch", str(run), *flags], environment(tmp_path, **env), tmp_path)
    try:
        terminal.read_until(b"finished")
        terminal.write(b"?")
        terminal.read_until(b"Checkpoint")
        terminal.write(b"?")
    finally:
        code = terminal.end()
    assert code == 0
    return terminal.received


@pytest.mark.parametrize(
    ("env", "flags", "expected"),
    [
        ({"TERM": "xterm-256color", "NO_COLOR": "1", "COLORTERM": "truecolor"}, [], set()),
        ({"TERM": "vt220"}, [], set()),
        ({"TERM": "xterm"}, [], {"16"}),
        pytest.param({"TERM": "screen"}, ["--theme", "colour-blind"], {"16"}, marks=pytest.mark.long),
        ({"TERM": "tmux-256color"}, ["--theme", "light"], {"256"}),
        pytest.param({"TERM": "alacritty"}, [], {"256"}, marks=pytest.mark.long),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, [], {"truecolor", "256"}),
        ({"TERM": "xterm-256color"}, ["--theme", "ansi"], {"16"}),
    ],
    ids=lambda one: " ".join(one.values()) if isinstance(one, dict) else None,
)
def test_only_colours_that_the_terminal_has(
    env: dict[str, str], flags: list[str], expected: set[str], tmp_path: Path
) -> None:
    assert depths(painted(tmp_path, env, *flags)) == expected


def test_without_colour_the_row_under_the_cursor_is_turned_around(tmp_path: Path) -> None:
    sent = painted(tmp_path, {"TERM": "xterm-256color", "NO_COLOR": "1"})
    assert any(7 in codes for codes in parameters(sent))


def test_no_glyph_where_there_is_none(tmp_path: Path) -> None:
    sent = painted(tmp_path, {"TERM": "linux"})
    assert depths(sent) == {"16"}
    assert sent.decode().isascii()


def test_plain_characters_on_wish(tmp_path: Path) -> None:
    assert painted(tmp_path, {"TERM": "xterm-256color"}, "--ascii").decode().isascii()


def test_a_copy_reaches_the_clipboard_and_the_theme_changes_live(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_log(run, ended=True)
    terminal = WatchedPty(["watch", str(run)], environment(tmp_path, TERM="xterm-256color"), tmp_path)
    try:
        terminal.read_until(b"finished")
        terminal.write(b"e")
        terminal.read_until(b"run_end")
        terminal.write(b"c")
        terminal.read_until(b"\x1b]52;c;", b"Copied the line")
        terminal.read_until(b"\x07", since=terminal.received.index(b"\x1b]52;c;"))
        encoded = re.search(rb"\x1b\]52;c;([A-Za-z0-9+/=]+)\x07", terminal.received)
        assert encoded is not None
        copied = base64.b64decode(encoded[1]).decode()
        assert copied == (run / "events.jsonl").read_text().splitlines()[-1]
        before = len(terminal.received)
        terminal.write(b"T")
        terminal.read_until(b"Theme: light", b"48;5;231", since=before)  # the light ground is painted
    finally:
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("cell", "plain"), [("─", "-"), ("│", "|"), ("╭", "+"), ("▅", "+"), ("▐", " "), ("✖", "x"), ("界", "?"), ("", "?")]
)
def test_frames_and_glyphs_have_plain_ones_for_them(cell: str, plain: str) -> None:
    assert plain_character(cell) == plain
