"""The plan of a restore, a rollback, an undo or a redo, to be read before it is carried out.

Its sentences are those of the command and of its JSON. Here each has a glyph for what kind of fact it is, the gravest
first, and says in which folder that lies which is set aside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Button

from ckpt_tui.text import cell_width, plural, safe_text, size
from ckpt_tui.tui import keys
from ckpt_tui.tui.dialogs.confirm import ConfirmDialog, written
from ckpt_tui.tui.paragraphs import paragraph
from ckpt_tui.tui.styled import line, lines

if TYPE_CHECKING:
    from ckpt_tui.services.restore import Plan

TITLES = {"restore": "Restore", "rollback": "Roll back", "undo": "Undo", "redo": "Redo"}
YES_LABELS = {"restore": "Restore", "rollback": "Roll back", "undo": "Undo it", "redo": "Do it again"}

# What a sentence tells, by its words: (words, mark, role), in the order in which they are told.
_KINDS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"^(Takes back|Does) "), "↻ ", "accent"),
    (re.compile(r" is (damaged|missing|nonfinite|unsafe|unreadable|incomplete|not-a-checkpoint)\b"), "✖ ", "error"),
    (re.compile(r"\bholds at\b|\bvalid\) is (copied|put)|^Put back"), "✓ ", "good"),
    (re.compile(r"set aside", re.IGNORECASE), "▸ ", ""),
    (re.compile(r"^Given up"), "▲ ", "warning"),
    (re.compile(r"^A resume then"), "↻ ", "accent"),
)
_OTHERS = (len(_KINDS), "· ", "")
_WHY = re.compile(r"[\w.-]+/(data/\d+): its checksum differs: .*\.$")
_RECHECK = re.compile(r"`ckpt-tui [^`]* --recheck` reads ")
_LIST = re.compile(r"(?P<head>.*, not deleted: )(?P<names>.*?)(?: and (?P<more>\d+) more)?\.$", re.DOTALL)
NARROW = 50
MOST_LISTED = 6


def title_of(plan: Plan) -> str:
    """What the plan would do, by name where it is one thing."""
    title = TITLES.get(plan.act, plan.act)
    copied = [step.target for step in plan.steps if getattr(step, "action", "") == "copy"]
    if plan.act == "restore" and copied:
        return f"{title} {safe_text(copied[0], 60) if len(copied) == 1 else plural(len(copied), 'checkpoint')}"
    return title


def folder_words(directory: str) -> str:
    """Where the next deed keeps what it sets aside: `set_aside/3/`."""
    from ckpt_tui.services.journal import FOLDER_NAME, read_deeds

    return f"{FOLDER_NAME}/{max((deed.number for deed in read_deeds(directory)), default=0) + 1}/"


class PlanDialog(ConfirmDialog):
    """Shows `plan`; True when it shall be carried out. Cancel has the focus; an empty plan can only be closed.

    folder: where what is set aside will lie, "" where nobody has looked. wants_all: it ended with False because a
    person wants it planned again, with all read that the plan has only remembered.
    """

    BINDINGS: ClassVar[list[BindingType]] = keys.dialog_bindings("again")

    def __init__(self, plan: Plan, *, title: str = "", folder: str = "") -> None:
        is_refused = bool(getattr(plan, "refusals", ()))
        can_be_done = not plan.is_empty and not is_refused
        super().__init__(
            title or title_of(plan),
            plan.sentences,
            yes_label=YES_LABELS.get(plan.act, plan.act) if can_be_done else "",
            no_label="Cancel" if can_be_done else "Close",
        )
        self.plan = plan
        self.wants_all = False
        self._folder = folder

    def more_buttons(self) -> Iterable[Button]:
        if getattr(self.plan, "unread", ()):
            yield Button(f"Read all ({written(self, 'again')})", id="again", compact=True)

    @on(Button.Pressed, "#again")
    def action_again(self) -> None:
        """Plan it again, and read what was only remembered."""
        if getattr(self.plan, "unread", ()):
            self.wants_all = True
            self.dismiss(False)

    def body(self, width: int) -> Content:
        plan = self.plan
        rows = [paragraph(refusal, width, "error", mark="✖ ") for refusal in getattr(plan, "refusals", ())]
        told = sorted((_kind_of(sentence), place) for place, sentence in enumerate(plan.sentences))
        for (_, mark, role), place in told:
            if self._is_said_twice(plan.sentences[place]):
                continue
            rows.append(_marked(self._shown(plan.sentences[place], width), width, mark, role))
        rows += [paragraph(warning, width, "warning", mark="▲ ") for warning in plan.warnings]
        if plan.steps:
            back = "u takes it back." if plan.act not in ("undo", "redo") else "it can be taken back, too."
            rows += [Content(""), line((f"Nothing is deleted; {back}", "dim"))]
        if len(plan.steps) > MOST_LISTED:
            rows += [Content(""), line(("Every file that changes:", "strong"))]
            rows += [_move_line(step, width - 3) for step in plan.steps]
        return lines(*rows)

    def _is_said_twice(self, sentence: str) -> bool:
        """That it holds at every level, where it is called valid below."""
        name, found, _ = sentence.partition(" holds at every level")
        return bool(found) and any(
            other.startswith(f"{name} (") and "valid) is " in other for other in self.plan.sentences
        )

    def _shown(self, sentence: str, width: int) -> str:
        """`Set aside, not deleted: ...` with the place where it will lie; where there is little room, few names."""
        sentence = _WHY.sub(r"\1 fails its checksum.", sentence)
        # What the button beside it does; the command is for the shell.
        sentence = _RECHECK.sub(lambda _: f"{written(self, 'again')} reads ", sentence)
        told = _LIST.match(sentence)
        if told is None:
            return sentence
        head, names = told["head"], told["names"].split(", ")
        if width < NARROW:
            num_more = len(names[2:]) + int(told["more"] or 0)
            more = f" and {num_more} more" if num_more else ""
            sentence = f"{head.replace(', not deleted', '')}{', '.join(names[:2])}{more}."
        if self._folder:
            sentence = re.sub(r"(?i)set aside(?=[,:])", rf"\g<0> in {self._folder}", sentence, count=1)
        return sentence


def _kind_of(sentence: str) -> tuple[int, str, str]:
    for place, (words, mark, role) in enumerate(_KINDS):
        if words.search(sentence):
            return place, mark, role
    return _OTHERS


def _marked(sentence: str, width: int, mark: str, role: str) -> Content:
    """Only the glyph and what it comes to are in colour: a dialog all in red says nothing."""
    text = paragraph(sentence, width, mark=mark)
    if not role:
        return text
    return text.stylize(_style(role), 0, len(mark))


def _style(role: str) -> str:
    from ckpt_tui.tui.styled import ROLE_STYLES

    return ROLE_STYLES[role]


def _move_line(step: object, width: int) -> Content:
    action, target = str(getattr(step, "action", "")), str(getattr(step, "target", ""))
    told = size(getattr(step, "size_bytes", 0))
    words = f"{action:<10}{safe_text(target, 200)}"
    room = width - cell_width(words) - cell_width(told)
    return line(words, (f"{' ' * max(room, 2)}{told}", "dim"))
