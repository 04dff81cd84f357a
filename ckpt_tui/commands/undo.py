"""Take the last restore or rollback back; again for the one before it, as far back as there are any.

Every file gets the very bytes back that it had. What was written since is set aside, not deleted, so that --redo can
do it all again, until something else is done. --list shows every deed, what it holds, and what can be taken back.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.commands.acting import act, add_act_arguments
from ckpt_tui.commands.confirm import sentence_lines
from ckpt_tui.errors import CkptError
from ckpt_tui.output import CommandResult, Output, Style

if TYPE_CHECKING:
    from ckpt_tui.services.deeds import History, PastDeed

EXAMPLES = (
    "ckpt-tui undo runs/gpt --dry-run",
    "ckpt-tui undo runs/gpt --yes",
    "ckpt-tui undo runs/gpt --list",
    "ckpt-tui undo runs/gpt --to 2",
    "ckpt-tui undo runs/gpt --redo",
)

_ROLES = {"done": "good", "undone": "dim", "collected": "dim"}
_GLYPHS = {"done": ("✓", "ok"), "undone": ("↶", "<"), "collected": ("·", "-")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--to", metavar="N", type=int, help="take every deed back down to number N, as one")
    which.add_argument("--redo", action="store_true", help="take the last undo back")
    which.add_argument("--list", action="store_true", help="show every deed, and do nothing")
    add_act_arguments(parser)
    parser.add_argument("--recheck", action="store_true", help="read all that is put back, also what nobody touched")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    if args.list:
        from ckpt_tui.services.deeds import read_history
        from ckpt_tui.services.interrupted import require_a_run

        history = read_history(args.directory)
        if not history.deeds:
            require_a_run(history.directory)
        return CommandResult(data=history_data(history), view=lambda style: _history_lines(history, style))
    from ckpt_tui.services.undo import plan_redo, plan_undo

    if args.redo:
        return act(lambda on_bytes: plan_redo(args.directory, recheck=args.recheck, on_bytes=on_bytes), args, out)
    if args.to is not None and args.to < 1:
        listing = f"ckpt-tui undo {text.run_word(args.directory)} --list"
        raise CkptError("Usage", "--to takes the number of a deed", f"`{listing}` shows them.")
    return act(
        lambda on_bytes: plan_undo(args.directory, to=args.to, recheck=args.recheck, on_bytes=on_bytes), args, out
    )


def history_data(history: History) -> dict[str, object]:
    """The history as `undo --list --json` has it."""
    return {
        "directory": history.directory,
        "deeds": [_deed_data(deed) for deed in history.deeds],
        "next_undo": history.next_undo,
        "next_redo": history.next_redo,
        "bytes": history.size_bytes,
        "not_ours": list(history.not_ours),
    }


def _deed_data(deed: PastDeed) -> dict[str, object]:
    return {
        "number": deed.number,
        "act": deed.act,
        "at": deed.at,
        "state": deed.state,
        "sentences": list(deed.sentences),
        "told": list(deed.told),
        "held": [
            {"name": file.name, "path": file.place, "bytes": file.size_bytes, "is_directory": file.is_directory}
            for file in deed.held
        ],
        "bytes": deed.size_bytes,
        "undone_by": deed.undone_by,
        "takes_back": list(deed.takes_back),
        "conflicts": list(deed.conflicts),
        "can_undo": deed.can_undo,
        "can_redo": deed.can_redo,
        "why_not": deed.why_not,
        "collected_at": deed.collected_at,
        "not_ours": list(deed.strangers),
        "freed": [{"name": one.name, "at": one.at, "why": one.why, "copy": one.copy or None} for one in deed.freed],
    }


def _history_lines(history: History, style: Style) -> Iterator[str]:
    if not history.deeds:
        yield f"Nothing was done in {text.safe_text(history.directory, 1000)} yet: there is nothing to undo."
    for deed in reversed(history.deeds):
        yield from _deed_lines(deed, style)
    for name in history.not_ours:
        for line in sentence_lines([f"{name} is not of ckpt-tui, and is left alone."], (), style):
            yield style.paint(line, "dim")
    if history.deeds:
        yield from sentence_lines(_ways_on(history), (), style)


def _deed_lines(deed: PastDeed, style: Style) -> Iterator[str]:
    glyph = style.glyph(*_GLYPHS.get(deed.state, ("▲", "!")))
    held = f"{text.plural(len(deed.held), 'file')}, {text.size(deed.size_bytes)}" if deed.held else "nothing"
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(deed.at))
    role = _ROLES.get(deed.state, "warn")
    act = f"{text.safe_text(deed.act, 20):<9}"
    if style.width is None or style.width >= 76:
        yield f"{deed.number:>3}  {at}  {act} {style.paint(f'{glyph} {deed.state:<9}', role)}  holds {held}"
    else:
        yield f"{deed.number:>3}  {act} {style.paint(f'{glyph} {deed.state}', role)}"
        yield from (f"     {line}" for line in sentence_lines([f"{at}, holds {held}"], (), _narrower(style)))
    notes = list(deed.told if deed.state in ("conflict", "interrupted") else deed.told[:1])
    if deed.why_not and deed.act != "redo":
        notes.append(f"{deed.why_not[0].upper()}{deed.why_not[1:]}.")
    if deed.freed_words:
        notes.append(deed.freed_words)
    if deed.conflicts:
        names = ", ".join(text.safe_text(name, 120) for name in deed.conflicts)
        notes.append(f"It met what it did not know (another's file, or a copy), and left it alone: {names}.")
    notes += [f"{name} is not of ckpt-tui, and is left alone." for name in deed.strangers[:3]]
    for line in sentence_lines(notes, (), _narrower(style)):
        yield style.paint(f"     {line}", "dim")


def _narrower(style: Style) -> Style:
    """For what is indented under the number."""
    return Style(style.width - 5 if style.width is not None else None, style.colour, style.unicode)


def _ways_on(history: History) -> Iterator[str]:
    where = text.run_word(history.directory)
    by_number = {deed.number: deed for deed in history.deeds}
    if history.next_undo is not None:
        yield f"`ckpt-tui undo {where}` takes back {history.next_undo} ({by_number[history.next_undo].act})."
    elif beyond := [deed for deed in history.deeds if deed.can_undo]:
        deed = beyond[-1]
        yield (
            f"`ckpt-tui undo {where} --to {deed.number}` takes back {deed.number} ({deed.act}), and of the deeds after "
            "it what can be."
        )
    else:
        yield "There is nothing that `undo` could take back."
    if history.next_redo is not None:
        again = " and ".join(f"{number}" for number in by_number[history.next_redo].takes_back)
        yield f"`ckpt-tui undo {where} --redo` does {again} again."
    if history.size_bytes:
        yield f"`ckpt-tui gc {where} --dry-run` shows what could be freed of {text.size(history.size_bytes)}."
