"""A person's own keys: what they write in their settings, held against the table of keys.

Two acts on one key of a screen are refused when the settings are read, with both names, and not found out at night.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping

from ckpt_tui.text import safe_text
from ckpt_tui.tui.keys import TABLES, Key, key_words

_NAMED = frozenset(
    {"enter", "escape", "tab", "space", "backspace", "delete", "insert", "home", "end", "pageup", "pagedown",
     "up", "down", "left", "right", *(f"f{number}" for number in range(1, 25))}
)  # fmt: skip
_SPELLINGS = {
    "esc": "escape", "return": "enter", "del": "delete", "ins": "insert", "pgup": "pageup", "pgdn": "pagedown",
    "page_up": "pageup", "page_down": "pagedown", "bksp": "backspace", "question": "question_mark",
}  # fmt: skip
_MODIFIERS = ("ctrl", "alt", "shift", "super")
# What these send is another key: no terminal tells them apart.
_SAME_IN_A_TERMINAL = {"ctrl+i": "tab", "ctrl+m": "enter", "ctrl+h": "backspace", "ctrl+left_square_bracket": "escape"}
# Textual's own way out stays, whatever else is remapped.
_ALWAYS_QUIT = frozenset({"ctrl+q", "ctrl+c"})
# Names of Textual that differ from Unicode's.
_UNICODE_NAMES = {"solidus": "slash", "reverse_solidus": "backslash", "commercial_at": "at", "hyphen_minus": "minus",
                  "plus_sign": "plus", "low_line": "underscore"}  # fmt: skip
# Tables of keys that hold on every screen beside its own.
_EVERYWHERE = ("app", "list")


def checked_keymap(wanted: Mapping[str, str]) -> dict[str, str]:
    """`wanted` (ids to keys as people write them) in Textual's names. KeyError(id, reason) where it cannot hold."""
    known = {key.id: key for table in TABLES.values() for key in table}
    keymap: dict[str, str] = {}
    for key_id, written in wanted.items():
        if key_id not in known:
            raise KeyError(key_id, f"is no id of a key{_near(key_id, known)}")
        try:
            keymap[key_id] = ",".join(key_name(one) for one in _split(written))
        except ValueError as error:
            raise KeyError(key_id, str(error)) from None
        if key_id != "app.quit" and not _ALWAYS_QUIT.isdisjoint(keymap[key_id].split(",")):
            raise KeyError(key_id, "cannot have ctrl+c or ctrl+q: they leave the viewer, always")
    for screen in TABLES:
        _refuse_clashes(screen, keymap)
    return keymap


def _split(written: str) -> Iterator[str]:
    """The keys of `j,down`; a comma by itself is a key."""
    if written.strip() == ",":
        yield ","
        return
    yield from (one.strip() if one.strip() else one for one in written.split(","))


def key_name(written: str) -> str:
    """Textual's name of a key that a person wrote: `?`, `Ctrl+N`, `PgUp`, `f5`. Raises ValueError."""
    if len(written) == 1 and written != " ":
        return _name_of_character(written)
    *modifiers, last = written.replace(" ", "").split("+") if written != " " else ["space"]
    if last == "" and modifiers:  # `ctrl++`
        *modifiers, last = *modifiers[:-1], "plus"
    modifiers = [modifier.lower() for modifier in modifiers]
    if any(modifier not in _MODIFIERS for modifier in modifiers):
        raise ValueError(f"has no key `{safe_text(written, 30)}`: modifiers are {', '.join(_MODIFIERS)}")
    if len(last) == 1:
        if "shift" in modifiers and last.isalpha():  # a terminal sends the capital letter
            modifiers.remove("shift")
            last = last.upper()
        elif modifiers:
            last = _name_of_character(last.lower())
        else:
            last = _name_of_character(last)
    else:
        last = _SPELLINGS.get(last.lower(), last.lower())
        if last not in _NAMED and last not in _PUNCTUATION:
            raise ValueError(f"has no key `{safe_text(written, 30)}`: write it like a, A, ?, f5, enter or ctrl+n")
    name = "+".join([*sorted(modifiers, key=_MODIFIERS.index), last])
    if name in _SAME_IN_A_TERMINAL:
        raise ValueError(f"cannot have {name}: a terminal sends the same for {_SAME_IN_A_TERMINAL[name]}")
    return name


def _name_of_character(character: str) -> str:
    if character.isalnum():
        return character
    try:
        name = unicodedata.name(character).lower().replace("-", "_").replace(" ", "_")
    except ValueError:
        raise ValueError(f"has no key `{safe_text(character, 30)}`") from None
    return _UNICODE_NAMES.get(name, name)


_PUNCTUATION = frozenset(_name_of_character(chr(code)) for code in range(33, 127) if not chr(code).isalnum())


def keys_of(key: Key, keymap: Mapping[str, str]) -> str:
    """What a row is pressed with, the person's own keys heard."""
    return keymap.get(key.id, key.key)


def rows_on(screen: str) -> tuple[Key, ...]:
    """Every row that can act on a screen: its own first."""
    return (*TABLES[screen], *(row for name in _EVERYWHERE if name != screen for row in TABLES[name]))


def _refuse_clashes(screen: str, keymap: Mapping[str, str]) -> None:
    """Two rows of a screen on one key, of which at least one was moved there."""
    taken: dict[str, Key] = {}
    for row in rows_on(screen):
        for pressed in keys_of(row, keymap).split(","):
            other = taken.setdefault(pressed, row)
            if other is row or not {other.id, row.id} & set(keymap):
                continue
            moved, fixed = (row, other) if row.id in keymap else (other, row)
            if pressed in moved.key.split(",") and pressed in fixed.key.split(","):
                continue  # so it is by default: one is meant to hide the other there
            both = "" if fixed.id in keymap else f"; give `{fixed.id}` another key too"
            where = "" if screen in _EVERYWHERE else f" on the screen `{screen}`"
            raise KeyError(
                moved.id, f"cannot have {key_words(pressed)}: {fixed.id} ({fixed.label}) has it{where}{both}"
            )


def _near(word: str, known: Mapping[str, Key]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), n=2, cutoff=0.8)
    if not near:
        near = [key_id for key_id in known if key_id.rpartition(".")[2] == word.rpartition(".")[2]][:2]
    return f". Did you mean {' or '.join(near)}?" if near else "; `ckpt-tui config --keys` lists them"
