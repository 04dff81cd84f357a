"""The table of a resume: each recorded setting, the value typed for it, and what that does, without asking the disk.

The command stands among them, in a row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from ckpt_tui.checkpoints.hparams import Effect, effect_among, flat_settings, goes_by_evaluations, same_value
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.services.launchers.template import PLACES, named_places, parse_template
from ckpt_tui.text import safe_text
from ckpt_tui.tui.judgement import effect_role
from ckpt_tui.tui.value_words import summary
from ckpt_tui.tui.widgets.virtual_list import Cell, Column

COLUMNS = (
    Column("setting", 14, grows=True, keep="middle", most=36),
    Column("recorded", 12, grows=True, most=48),
    Column("new", 8, grows=True, most=48),
    Column("effect on the resume", 28, priority=1),  # the line below says it of the row under the cursor
)
# What a person may want to change comes first.
_ORDER = (Effect.COURSE, Effect.EXACTNESS, Effect.SAFE, Effect.UNKNOWN, Effect.IMPOSSIBLE)
_MOST_CHANGED = ("lr", "learning_rate", "max_steps", "total_steps")
# The row of the command: a name that no setting has.
COMMAND = "(command)"
_IF_CHANGED = {
    Effect.COURSE: "changes the course",
    Effect.EXACTNESS: "breaks exactness if changed",
    Effect.SAFE: "safe to change",
    Effect.UNKNOWN: "not known here",
    Effect.IMPOSSIBLE: "cannot be changed",
}


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One recorded hyperparameter and the value typed for it; `new` is None while it stays as it is."""

    key: str
    recorded: object
    new: str | None
    effect: Effect

    @property
    def can_change(self) -> bool:
        """Only single values can be typed."""
        return self.effect is not Effect.IMPOSSIBLE and self.is_single

    @property
    def is_single(self) -> bool:
        return not isinstance(self.recorded, (dict, list, tuple))


def setting_rows(
    recorded: Mapping[str, object], changes: Mapping[str, str], *, words: str = "", only_changed: bool = False
) -> list[SettingRow]:
    """Rows that hold all of `words`, what is most often changed first."""
    changes = {key: text for key, text in changes.items() if key != COMMAND}
    is_by_evaluations = goes_by_evaluations(flat_settings({**recorded, **changes}))
    wanted = words.lower().split()
    rows = [
        SettingRow(key, value, changes.get(key), effect_among(key, is_by_evaluations=is_by_evaluations))
        for key, value in recorded.items()
        if all(word in key.lower() for word in wanted) and (key in changes or not only_changed)
    ]
    return sorted(rows, key=_place_of)


def with_command(
    rows: Sequence[SettingRow], recorded: str, changes: Mapping[str, str], *, words: str = "",
    only_changed: bool = False, is_needed: bool = False,
) -> list[SettingRow]:  # fmt: skip
    """The rows and that of the command: after what can be changed; first where none is known and one `is_needed`."""
    if not all(word in COMMAND for word in words.lower().split()) or (only_changed and COMMAND not in changes):
        return list(rows)
    num_before = 0 if is_needed else sum(row.can_change for row in rows)
    return [*rows[:num_before], SettingRow(COMMAND, recorded, changes.get(COMMAND), Effect.UNKNOWN), *rows[num_before:]]


def _place_of(row: SettingRow) -> tuple[object, ...]:
    return (not row.can_change, row.key not in _MOST_CHANGED, _ORDER.index(row.effect), row.key)


def setting_cells(row: SettingRow) -> tuple[Cell, ...]:
    """As the table shows it."""
    if row.key == COMMAND:
        told = ("of your own, kept here", "accent") if row.new is not None else ("can be one of your own", "dim")
        new = (f"-> {row.new}", "strong") if row.new is not None else ""
        return (COMMAND, summary(row.recorded), new, told)
    if row.new is None:
        return (row.key, summary(row.recorded), "", (_IF_CHANGED[row.effect], "dim"))
    role = effect_role(row.effect.value)
    return ((row.key, "strong"), summary(row.recorded), (f"-> {row.new}", "strong"), (row.effect.words, role))


def judged_command(text: str, recorded: str, settings: Mapping[str, object]) -> tuple[str, str]:
    """What to say about a command while it is typed: words and role. The plan has the last word."""
    if text.strip() in ("", recorded):
        return "as it is", "dim"
    try:
        template = parse_template(text, "")
    except CkptError as error:
        return f"✖ {error.message.replace('--command', 'it')}.", "error"
    unknown = sorted(named_places(template) - {*PLACES, *settings})
    if unknown:
        near = get_close_matches(unknown[0], [*PLACES, *settings], n=1)
        meant = f" Did you mean {{{near[0]}}}?" if near else f" {', '.join(f'{{{one}}}' for one in PLACES)} are."
        return f"✖ {{{safe_text(unknown[0], 30)}}} is no place.{meant}", "error"
    if named_places(template).isdisjoint({"checkpoint", "checkpoint_name", "step", "directory"}):
        return "▲ no {checkpoint} in it: it takes which it will", "warning"
    return "kept for the next resumes, once started", "accent"


def as_template(command: Sequence[str], path: str, name: str) -> str:
    """A planned command to begin with: the checkpoint that it names is a place."""
    from ckpt_tui.services.command_line import quoted

    places = {path: f"{{{PLACES[0]}}}", name: f"{{{PLACES[1]}}}"}
    text = quoted([places.get(word, word.replace("{", "{{").replace("}", "}}")) for word in command])
    for place in places.values():
        text = text.replace(f"'{place}'", place)
    return text


def plain_places(text: str) -> str:
    """A command as a person writes it: a place that is a word of its own needs no quotes."""
    return re.sub(r"(?<!\S)'(\{[\w.-]+\})'(?!\S)", r"\1", text)


def judged(row: SettingRow, text: str, recorded: Mapping[str, object]) -> tuple[str, str]:
    """What to say at the field about what is typed in it: words and role. The plan has the last word."""
    from ckpt_tui.services.overrides import typed

    if text.strip() in ("", summary(row.recorded, 200)):
        return "as recorded", "dim"
    try:
        wanted, _ = typed({row.key: text.strip()}, recorded, is_own=False)
    except CkptError as error:
        return f"✖ {error.title}: {error.message}. {error.hint}", "error"
    if row.key in wanted and same_value(wanted[row.key], row.recorded):
        return "the same as recorded", "dim"
    words = row.effect.explanation
    return (f"✖ {words}" if row.effect is Effect.IMPOSSIBLE else words), effect_role(row.effect.value)


def without_said(sentences: Sequence[str], changes: Mapping[str, str]) -> list[str]:
    """The sentences of a plan but for what stands in the first line and in the table."""
    return [
        sentence
        for sentence in sentences
        if not sentence.startswith("Resumes from ") and not any(sentence.startswith(f"{key}: ") for key in changes)
    ]
