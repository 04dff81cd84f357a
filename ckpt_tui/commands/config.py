"""Your settings: where the file is, what holds now, and where each value comes from.

The watch and the other screens read them; a flag holds over the file. --init writes an example with every setting in
it, commented out, where there is no file yet. --keys lists every key by the id that a [keys] table calls it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.output import Column, CommandResult, Output, Style, table, wrapped
from ckpt_tui.settings import ROWS, Settings, read_file, settings_path
from ckpt_tui.text import safe_text, shell_word

EXAMPLES = ("ckpt-tui config", "ckpt-tui config --init", "ckpt-tui config --keys", "ckpt-tui config --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--init", action="store_true", help="write an example file; never over one that is there")
    parser.add_argument("--keys", action="store_true", help="list every key, by id")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    path = settings_path(os.environ)
    if args.init:
        _write_example(path)
        return CommandResult(
            data={"path": path, "written": True},
            view=lambda style: [f"Written: {safe_text(path, 1000)}", "Everything in it is commented out: edit it."],
        )
    is_there = Path(path).exists()
    # A file that $CKPT_TUI_CONFIG names has to be there for the watch; here it may be asked where it would be.
    said = read_file(os.environ) if is_there else {}
    held = {**{row.name: getattr(Settings(), row.name) for row in ROWS}, "keymap": {}, **said}
    rows = [{"name": name, "value": _plain(value), "from": "file" if name in said else "built in"}
            for name, value in held.items()]  # fmt: skip
    data: dict[str, object] = {"path": path, "exists": is_there, "settings": rows}
    if args.keys:
        data["keys"] = _keys(said)
        return CommandResult(data=data, view=lambda style: _key_lines(said, style))
    return CommandResult(data=data, view=lambda style: _lines(path, is_there, held, said, style))


def example() -> str:
    """The file with every setting commented out, as it is built in."""
    lines = [
        "# Settings of ckpt-tui. `ckpt-tui config` shows what holds; a flag on the command line holds over it.",
        "",
    ]
    for row in ROWS:
        lines += [f"# {row.meaning}", f"#{row.name} = {row.example}", ""]
    lines += [
        "# Your own keys, by the ids of `ckpt-tui config --keys`. The old key is free then.",
        "#[keys]",
        '#checkpoint.inspect = "f3"',
        '#list.down = "ctrl+n,down"',
    ]
    return "\n".join(lines) + "\n"


def _write_example(path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(example())
    except FileExistsError:
        raise CkptError(
            "Already there", f"{safe_text(path, 1000)} is there, and is not written over", "Edit it, or move it away."
        ) from None
    except OSError as error:
        raise from_os_error(error, safe_text(path, 1000), "write") from None


def _plain(value: object) -> object:
    """As JSON has it. None is what the file calls "auto"."""
    if value is None:
        return "auto"
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _words(value: object) -> str:
    value = _plain(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return safe_text(", ".join(map(str, value)), 200) if value else "none"
    if isinstance(value, dict):
        return f"{len(value)} of your own" if value else "none of your own"
    return safe_text(value, 200) if value != "" else "none"


def _lines(path: str, is_there: bool, held: dict[str, object], said: dict[str, object], style: Style) -> Iterator[str]:
    name, note = safe_text(path, 1000), "" if is_there else "(not there: what is built in holds)"
    if style.width and note and len(name) + 2 + len(note) > style.width:
        yield name  # whole, for a hand that copies it
        yield note
    else:
        yield f"{name}  {note}".rstrip()
    meanings = {row.name: row.meaning for row in ROWS} | {"keymap": "your own: `ckpt-tui config --keys`"}
    columns = [
        Column("setting"),
        Column("value", shrink=True),
        Column("from"),
        Column("what it is", shrink=True, leaves=1),
    ]
    rows = [
        (("keys" if name == "keymap" else name, "bold"), (_words(value), "accent" if name in said else "plain"),
         "file" if name in said else "built in", (meanings[name], "dim"))
        for name, value in held.items()
    ]  # fmt: skip
    yield from table(columns, rows, style)
    if not is_there:
        place = "" if path == settings_path({**os.environ, "CKPT_TUI_CONFIG": ""}) else f" (at {shell_word(path)})"
        yield from wrapped(f"`ckpt-tui config --init` writes an example{place}.", style)


def _keys(said: dict[str, object]) -> list[dict[str, object]]:
    from ckpt_tui.tui.keys import TABLES

    keymap = said.get("keymap", {})
    assert hasattr(keymap, "get")
    found: dict[str, dict[str, object]] = {}
    for screen, rows in TABLES.items():
        for row in rows:
            entry = found.setdefault(
                row.id,
                {"id": row.id, "keys": keymap.get(row.id, row.key).split(","), "default": row.key.split(","),
                 "label": row.label, "what": row.tooltip, "screens": []},
            )  # fmt: skip
            screens = entry["screens"]
            assert isinstance(screens, list)
            screens.append(screen)
    return list(found.values())


def _key_lines(said: dict[str, object], style: Style) -> Iterator[str]:
    from ckpt_tui.tui.keys import key_words

    columns = [
        Column("id"),
        Column("key"),
        Column("on", shrink=True, leaves=1),
        Column("what it does", shrink=True, leaves=2),
    ]
    rows = []
    for entry in _keys(said):
        pressed, default = entry["keys"], entry["default"]
        assert isinstance(pressed, list)
        assert isinstance(entry["screens"], list)
        role = "plain" if pressed == default else "accent"
        rows.append((
            str(entry["id"]), (key_words(",".join(pressed)), role), ", ".join(entry["screens"]),
            (str(entry["what"]), "dim"),
        ))  # fmt: skip
    yield from table(columns, rows, style)
