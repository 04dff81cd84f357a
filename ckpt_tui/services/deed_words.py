"""What was done, in the past tense: the sentences of a plan once its deed is over, and of a deed that ended early.

A journal keeps the plan's own sentences, of all versions; each form of them has its past here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ckpt_tui.services.copied_deed import is_copied
from ckpt_tui.services.deed_record import CONFLICT, INTENT, MOVED, PREPARED, Deed, Move
from ckpt_tui.services.whereabouts import made_moves
from ckpt_tui.text import safe_text

_MAX_NAMES = 6
_BAD = "damaged|missing|nonfinite|unsafe|unreadable|incomplete|not-a-checkpoint"
# (a plan's sentence, how it is said afterwards): the first that fits. Names may have any words in them, so each looks
# only for the words that stand where no name can.
_PAST: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), past)
    for pattern, past in (
        (r"^Needs .* of disk\.$", ""),
        (r"^To replace it all the same, .*", ""),
        (r"^Takes back ", "Took back "),
        (r"^Does (.*) again\.$", r"Did \1 again."),
        (r"^A resume then starts from ", "A resume then started from "),
        (r"^Not read(?: now)?, (.*?)\. `ckpt-tui .*$", r"Not read for it, \1."),
        (r"^Set aside, not deleted: the present ", "Set aside, not deleted: "),
        (r"^No copy of it is needed: (.*) is one\.$", r"No copy of it was needed: \1 was one."),
        (r"\) is copied to ((?:(?!\) is copied to ).)*)$", r") was copied to \1"),
        (r" becomes one more name of it\.$", " became one more name of it."),
        (r" becomes one more name of the new ", " became one more name of the new "),
        (r" becomes one more name of ((?:(?! becomes ).)*)$", r" became one more name of \1"),
        (r" holds at every level: ([\w, -]*)\.$", r" held at every level: \1."),
        (r" is set aside again\.$", " was set aside again."),
        (r" are set aside again\.$", " were set aside again."),
        (r" was not there before: it is set aside\.$", " was not there before, and was set aside."),
        (r" were not there before: set aside\.$", " were not there before, and were set aside."),
        (r" is to be replaced\.$", " was to be replaced."),
        (rf" is ({_BAD})(, too\.|\.|: .*)$", r" was \1\2"),
        (r" is ([\w-]+): nothing to restore\.$", r" was \1: nothing to restore."),
        (r"^(\S+) names (.*) instead of ", r"\1 was made to name \2 instead of "),
    )
)

_NOW = re.compile(r"^A resume then starts from ")


def done_words(sentences: Iterable[str], *, just_now: bool = False) -> tuple[str, ...]:
    """The sentences of a plan, once it was carried out. just_now: what follows from it is still so."""
    told = (_NOW.sub("A resume now starts from ", one) if just_now else one for one in sentences)
    return tuple(said for sentence in told if (said := _past(sentence)))


def told_words(directory: str, deed: Deed) -> tuple[str, ...]:
    """What a deed did, and what it did not."""
    if deed.state == INTENT:
        return ("Nothing has its new name yet.",)
    if deed.state == PREPARED:
        return ("Some names are changed, and some not.",)
    if deed.state == MOVED:
        return (*done_words(deed.sentences), "All names are in place; its record was not finished.")
    if deed.state != CONFLICT and not deed.conflicts:
        return done_words(deed.sentences)
    if is_copied(directory, deed):
        return ("It was interrupted, and this is a copy of its directory: what it had done by then was left so.",)
    made = made_moves(deed)
    left = deed.moves[len(made) :]
    done = f"Done: {_listed([_move_words(move) for move in made])}." if made else "Done: nothing."
    return ("It was interrupted, and met what it did not know.", done, f"Not done: {_listed(_targets(left))}.")


def _past(sentence: str) -> str:
    for pattern, past in _PAST:
        said, number = pattern.subn(past, sentence, count=1)
        if number:
            return said
    return sentence


def _move_words(move: Move) -> str:
    target, source = safe_text(move.target, 120), safe_text(move.source or move.outside, 120)
    return {
        "copy": f"{target} became a copy of {source}",
        "link": f"{target} became one more name of {source}",
        "rename": f"{target} was put back",
        "remove": f"{target} was set aside",
    }.get(move.how, f"{target} was written")


def _targets(moves: Sequence[Move]) -> list[str]:
    return [safe_text(move.target, 120) for move in moves]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:_MAX_NAMES]) + (f" and {len(words) - _MAX_NAMES} more" if len(words) > _MAX_NAMES else "")
