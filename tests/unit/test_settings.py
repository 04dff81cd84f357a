"""The settings file: what holds, and that anything wrong in it is refused with its place."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ckpt_tui import settings as module
from ckpt_tui.errors import CkptError
from ckpt_tui.settings import ROWS, Settings, read_settings, settings_path


def written(tmp_path: Path, text: str | bytes) -> dict[str, str]:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return {"CKPT_TUI_CONFIG": str(path)}


def refusal(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(CkptError) as caught:
        read_settings(written(tmp_path, text))
    assert "ckpt-tui config" in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({"CKPT_TUI_CONFIG": "/a/b.toml", "HOME": "/h"}, "/a/b.toml"),
        ({"CKPT_TUI_CONFIG": "", "XDG_CONFIG_HOME": "/x", "HOME": "/h"}, "/x/ckpt-tui/config.toml"),
        ({"XDG_CONFIG_HOME": "not/absolute", "HOME": "/h"}, "/h/.config/ckpt-tui/config.toml"),
        ({"HOME": "/h"}, "/h/.config/ckpt-tui/config.toml"),
    ],
)
def test_where_the_file_is(env: dict[str, str], path: str) -> None:
    assert settings_path(env) == path


def test_no_file_is_what_is_built_in(tmp_path: Path) -> None:
    assert read_settings({"HOME": str(tmp_path)}) == Settings()
    assert read_settings({"CKPT_TUI_CONFIG": "/dev/null"}) == Settings()


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="CKPT_TUI_CONFIG"):
        read_settings({"CKPT_TUI_CONFIG": str(tmp_path / "nowhere.toml")})


def test_everything_that_can_be_set(tmp_path: Path) -> None:
    found = read_settings(
        written(
            tmp_path,
            'theme = "colorblind"\nunicode = false\nslow_link = true\ninterval_s = 5\nreadonly = true\nbell = true\n'
            'alert_command = "notify-send oh"\nsmoothing = 0.6\npins = ["lr", "grad_norm", "lr"]\n'
            '[keys]\n"checkpoint.inspect" = "F3"\nlines.filter = "Ctrl+F, ;"\n',
        )
    )
    assert found == Settings(
        theme="colour-blind", unicode=False, slow_link=True, interval_s=5.0, readonly=True, bell=True,
        alert_command="notify-send oh", smoothing=0.6, pins=("lr", "grad_norm"),
        keymap={"checkpoint.inspect": "f3", "lines.filter": "ctrl+f,semicolon"},
    )  # fmt: skip
    unequal = [f.name for f in dataclasses.fields(found) if getattr(found, f.name) == getattr(Settings(), f.name)]
    assert unequal == [], "a setting that this test does not set"


def test_every_setting_has_a_row_and_its_example_is_what_is_built_in() -> None:
    import tomllib

    example = tomllib.loads("".join(f"{row.name} = {row.example}\n" for row in ROWS))
    values = {row.name: row.check(example[row.name]) for row in ROWS}
    assert Settings(**values) == Settings()  # type: ignore[arg-type]
    assert {row.name for row in ROWS} == {field.name for field in dataclasses.fields(Settings)} - {"keymap"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n# a comment\nthem = 'dark'\n", ["line 3", "`them` is not a setting", "theme"]),
        ("theme = 'drak'\n", ["line 1", "`theme`", "dark"]),
        ("theme = 3\n", ["line 1", "one of auto"]),
        ("bell = 'yes'\n", ["`bell` must be true or false"]),
        ("bell = 1\n", ["`bell` must be true or false"]),
        ("unicode = 'perhaps'\n", ['"auto"']),
        ("interval_s = 0\n", ["from 0.1 to 3600"]),
        ("interval_s = nan\n", ["from 0.1 to 3600"]),
        ("interval_s = true\n", ["from 0.1 to 3600"]),
        ("smoothing = 1.5\n", ["from 0 to 0.99"]),
        ("pins = 'loss'\n", ["list of names"]),
        ("pins = [1]\n", ["list of names"]),
        ("alert_command = []\n", ["text in quotes"]),
        ("theme = \n", ["line 1", "not TOML"]),
        (b"theme = 'dark'\n\xff\n", ["line 2", "UTF-8"]),
        ("a = " + "[" * 50_000, ["not TOML"]),
        (b"#" * 300_000, ["longer than"]),
        ("keys = 3\n", ["table"]),
        ("[keys]\n\ninspekt = 'f3'\n", ["line 3", "`inspekt` is no id"]),
        ("[keys]\n'checkpoint.inspct' = 'f3'\n", ["line 2", "checkpoint.inspect?"]),
        ("[keys]\ncheckpoint.inspect = 3\n", ["line 2", "must be text"]),
        ("[keys]\ncheckpoint.inspect = 'hyper+x'\n", ["modifiers are ctrl, alt, shift, super"]),
        ("[keys]\ncheckpoint.inspect = 'foo'\n", ["no key `foo`"]),
        ("[keys]\ncheckpoint.inspect = 'ctrl+i'\n", ["the same for tab"]),
        ("[keys]\ncheckpoint.inspect = 'ctrl+q'\n", ["leave the viewer"]),
        ("[keys]\ncheckpoint.inspect = 'v'\n", ["line 2", "cannot have v", "checkpoint.validate"]),
        ("[keys]\ncheckpoint.inspect = 'enter'\n", ["list.open"]),
        ("[keys]\ncheckpoint.inspect = 'q'\n", ["app.quit"]),
        ("[keys]\napp.quit = 'z'\n", ["sort", "on the screen `"]),
        ("[keys]\nlist.up = 'x'\nlist.down = 'x'\n", ["cannot have x"]),
        ("\x1b]0;owned\x07 = 1\n", ["not TOML"]),
        ("'\\u001b]0;owned' = 1\n", ["is not a setting"]),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    message = refusal(tmp_path, text)
    assert "config.toml" in message
    assert all(word in message for word in words), message
    assert message.isprintable()


def test_keys_may_change_places(tmp_path: Path) -> None:
    found = read_settings(written(tmp_path, "[keys]\ncheckpoint.inspect = 'v'\ncheckpoint.validate = 'i'\n"))
    assert found.keymap == {"checkpoint.inspect": "v", "checkpoint.validate": "i"}


@pytest.mark.parametrize(
    ("written_key", "name"),
    [
        ("?", "question_mark"), ("/", "slash"), ("+", "plus"), ("-", "minus"), ("=", "equals_sign"), (",", "comma"),
        (".", "full_stop"), ("a", "a"), ("A", "A"), ("shift+a", "A"), ("Ctrl+N", "ctrl+n"), ("PgUp", "pageup"),
        ("space", "space"), ("alt+shift+F5", "alt+shift+f5"), ("esc", "escape"), ("ctrl++", "ctrl+plus"),
        (" ", "space"),
        ("@", "at"), ("_", "underscore"), ("\\", "backslash"), ("é", "é"),
    ],
)  # fmt: skip
def test_a_key_is_written_as_people_write_it(written_key: str, name: str) -> None:
    from ckpt_tui.tui.keymap import key_name

    assert key_name(written_key) == name


def test_our_names_of_keys_are_those_of_textual() -> None:
    from textual.keys import _character_to_key

    from ckpt_tui.tui.keymap import key_name

    for code in range(33, 127):
        assert key_name(chr(code)) == _character_to_key(chr(code))


def test_reading_the_settings_loads_no_screens(tmp_path: Path) -> None:
    env = written(tmp_path, "[keys]\napp.help = 'f1'\n")
    code = (
        f"import sys; from ckpt_tui.settings import read_settings; read_settings({env!r});"
        "sys.exit(any(name in sys.modules for name in ('textual', 'rich', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_directory_in_its_place_is_told_as_settings(tmp_path: Path) -> None:
    with pytest.raises(CkptError, match="is a directory: name the file in it") as refused:
        read_settings({"CKPT_TUI_CONFIG": str(tmp_path)})
    assert "ckpt-tui config" in refused.value.hint


def test_a_pipe_is_read_and_an_empty_one_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`CKPT_TUI_CONFIG=<(...)` is one; nobody may ever write to another."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    env = {"CKPT_TUI_CONFIG": str(path)}
    monkeypatch.setattr(module, "PIPE_PATIENCE_S", 300.0)
    writer = threading.Thread(target=lambda: path.write_bytes(b"interval_s = 5.0\n"))
    writer.start()
    assert read_settings(env).interval_s == 5.0
    writer.join()
    monkeypatch.setattr(module, "PIPE_PATIENCE_S", 0.05)
    with pytest.raises(CkptError, match="is a pipe that nothing came out of"):
        read_settings(env)
    descriptor = os.open(path, os.O_RDWR)  # a writer that says nothing
    with pytest.raises(CkptError, match="is a pipe that nothing came out of"):
        read_settings(env)
    os.close(descriptor)
