"""What takes a line of its own in the header: why a run ended, damage, alerts, trouble with the log, the next keys.

Each is a few texts, from the fullest to the shortest, and how much it matters where there is not room for all.
The sentences are those of `status` (run/wording.py, services/damage.py); only the shorter ones are made here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.run import wording
from ckpt_tui.run.state import Alert, Phase, RunState
from ckpt_tui.run.timeline import resume_outlook
from ckpt_tui.text import count, duration, plural, safe_text
from ckpt_tui.tui import facts
from ckpt_tui.tui.facts import Part

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.services.catalog_entries import CatalogEntry
    from ckpt_tui.tui.row_acts import RowAct

MAX_DAMAGES = 2
_DATE = re.compile(r"(?:\d{4}-)?\d\d-\d\d (?=\d\d:\d\d:\d\d\)\.$)")


@dataclass(frozen=True, slots=True)
class News:
    """A line of the header in several lengths, the fullest first. rank: what is left out first where there is no room
    for all, the highest; 0 never. num_brief: how many of the shortest leave facts out: two lines are better, if there
    are two."""

    variants: tuple[tuple[Part, ...], ...]
    rank: int = 0
    num_brief: int = 0


def end_news(state: RunState, damages: Sequence[News] = ()) -> list[News]:
    """Why the run is over, what was lost, what is damaged, and what a resume would do: the sentences of `status`,
    and shorter ones where they do not fit."""
    news: list[News] = []
    reason, lost, resume = wording.reason_sentence(state), wording.lost_sentence(state), wording.resume_sentence(state)
    if reason is not None:
        killed = state.phase is Phase.CRASHED
        short = (
            f"Killed without a word at step {count(state.step)}." if killed and reason[0].startswith("Killed") else ""
        )
        said = safe_text(state.reason, 200)
        # The date is in the line above, too.
        undated = _DATE.sub("", reason[0])
        news.append(_news((reason[0], undated, short or said or undated), reason[1], 5 if killed else 1))
    if lost is not None:
        news.append(_news(_shorter_losses(lost[0]), lost[1], 0, num_brief=1))
    news += damages
    if resume is not None:
        outlook = resume_outlook(state)
        about = duration(outlook.seconds) if outlook.seconds is not None and state.total_steps else ""
        redo, new = (
            count(outlook.redone) if outlook.redone else "",
            f"{count(outlook.new)} new" if state.total_steps else "",
        )
        does = [f"redoes {redo}"] if redo else []
        does += [new if does else f"trains {new}"] if new else []
        short = f"A resume {', then '.join(does)}{about and f': about {about}'}."
        brief = f"Resume: {' + '.join(word for word in (redo and f'redo {redo}', new) if word)}{about and f', {about}'}"
        tight = resume[0].replace(", then trains ", ", trains ")
        news.append(_news((resume[0], tight, short, brief), resume[1], 2))
    return news


def between_news(state: RunState) -> list[News]:
    """What is on its way after an end, and what that end has cost: without seconds that tick."""
    reason, lost = wording.reason_sentence(state, is_ticking=False), wording.lost_sentence(state)
    news: list[News] = []
    if reason is not None:
        coming = ""
        if state.next_start is not None:
            coming = f": {wording.coming_words(state.next_start, state.now, is_ticking=False)}"
        word = wording.phase_word(state.phase).capitalize()
        undated = f"{reason[0].partition(' (last line: ')[0].rstrip('.')}."
        news.append(_news((reason[0], undated, f"{word}{coming}.", f"{word}."), reason[1], 0, num_brief=1))
    if lost is not None:
        news.append(_news(_shorter_losses(lost[0]), lost[1], 1, num_brief=1))
    return news


def _shorter_losses(sentence: str) -> tuple[str, ...]:
    shorter = sentence.replace(" of training since ", " since ")
    return sentence, shorter, f"{shorter.split(' since ')[0].split(':')[0].rstrip('.')}."


def _news(variants: Sequence[str], role: str, rank: int, *, num_brief: int = 0) -> News:
    """The same in several lengths. Only what it comes to is in its colour: a screen all in red says nothing."""
    mapped = facts.role_of(role)
    made: list[tuple[Part, ...]] = []
    for words in variants:
        head = next((mark for mark in (": ", " of training", " since ", " at step ") if mark in words), "")
        cut = words.index(head) + (1 if head == ": " else 0) if head else len(words)
        made.append(((words[:cut], mapped), (words[cut:], "")) if mapped and words[cut:] else ((words, mapped),))
    return News(tuple(made), rank, num_brief)


def damage_news(name: str, what: str, instead: str | None) -> News:
    """`latest.pt is damaged: data/41: its checksum differs. latest_backup.pt is valid.`; the cause is cut first.

    what: `is damaged: why it is`.
    """
    shown, verb = safe_text(name, 60), what.split(":")[0]
    causes = [verb, *cause_of(what.partition(": ")[2]).split(": ")]
    tail: tuple[Part, ...] = ((f" {safe_text(instead, 60)} is valid.", "good"),) if instead else ()
    variants: list[tuple[Part, ...]] = [
        ((f"{shown} {verb}", "error"), (f"{''.join(f': {cause}' for cause in causes[1:num])}.", ""), *tail)
        for num in range(len(causes), 0, -1)
        if causes[num - 1]
    ]
    if instead:
        variants.append(((f"{shown} {verb}", "error"), ("; its backup is valid.", "good")))
        variants.append(((f"{shown} {verb.removeprefix('is ')}", "error"), (", backup valid", "good")))
    return News(tuple(variants), 1)


def cause_of(note: str) -> str:
    """What is wrong with a checkpoint, in a few words: `data/41 fails its checksum: bytes 1 to 9 are not ...`."""
    archive, found, rest = note.partition("/data")  # what a zip calls its own top directory says nothing
    note = f"data{rest}" if found and archive.replace("_", "").replace(".", "").replace("-", "").isalnum() else note
    return safe_text(note, 300).replace(": its checksum differs", " fails its checksum", 1)


def alert_news(state: RunState, alerts: Sequence[Alert], key: str) -> list[News]:
    """The newest of `alerts`, and how to see them all."""
    # That it is over, or stalled, is said by the sentences about that.
    told = [alert for alert in alerts if not alert.is_over and not alert.key.startswith(f"{state.phase.value}-")]
    if not told:
        return []
    newest = max(told, key=lambda alert: (alert.ts, alert.severity == "error"))
    role = "error" if newest.severity == "error" else "warning"
    title, detail = safe_text(newest.title, 120), safe_text(newest.detail, 200)
    more: tuple[Part, ...] = ((f"  + {len(told) - 1} more", "dim"),) if len(told) > 1 else ()
    hint: tuple[Part, ...] = (("   ", ""), (key, "accent"), (" alerts", "dim")) if key else ()
    whole: tuple[Part, ...] = ((f"▲ {title}: {detail}" if detail else f"▲ {title}", role),)
    return [News(((*whole, *more, *hint), ((f"▲ {title}", role), *more, *hint), ((f"▲ {title}", role), *hint)), 3)]


def log_news(state: RunState, key: str) -> list[News]:
    """What is wrong with the log: that it was replaced or cut, bad lines and the key that shows them, missing lines."""
    news: list[News] = []
    sentences = wording.log_sentences(state)
    notices, others = sentences[: len(state.notices)], sentences[len(state.notices) :]
    if notices:
        words, role = notices[-1]
        more: tuple[Part, ...] = ((f"  + {len(notices) - 1} more", "dim"),) if len(notices) > 1 else ()
        said: tuple[Part, ...] = ((f"▲ {words}", facts.role_of(role)),)
        news.append(News(((*said, *more), said), 4))
    bad = state.bad_lines
    missing = f"{plural(state.missing_lines, 'line')} missing (gaps in seq)" if state.missing_lines else ""
    if bad.count:
        at = f", first at byte {bad.first_offset:,}" if bad.first_offset is not None else ""
        few, reason = f"▲ {plural(bad.count, 'bad line')}", safe_text(bad.first_reason, 100)
        press: tuple[Part, ...] = ((": press ", "warning"), (key, "accent")) if key else ()
        tail: tuple[Part, ...] = ((f"   {missing}", "dim"),) if missing else ()
        news.append(News((
            ((f"{few}{at} ({reason})", "warning"), *press, *tail), ((f"{few}{at} ({reason})", "warning"), *press),
            ((f"{few}{at}", "warning"), *press), ((few, "warning"), *press),
        ), 4))  # fmt: skip
    elif missing:
        news.append(News((((f"▲ {missing}", facts.role_of(others[-1][1])),),), 5))
    return news


def keys_news(keys: Sequence[tuple[str, str, str]]) -> News:
    """The next keys: (key, what it does, the same shorter)."""
    full: list[Part] = []
    close: list[Part] = []
    short: list[Part] = []
    for key, what, brief in keys:
        full += [("   " if full else "  ", ""), (key, "accent"), (f" {what} ", "")]
        close += [("  " if close else "", ""), (key, "accent"), (f" {what}", "")]
        short += [("  " if short else "", ""), (key, "accent"), (f" {brief}", "")]
    return News((tuple(full), tuple(close), tuple(short)), 0)


def failure_news(error: CkptError) -> News:
    """The log or the directory cannot be read."""
    title, message = safe_text(error.title, 100), safe_text(error.message, 300)
    return News((((f"▲ {title}{':' if message else ''}", "error"), (f" {message}", "")),), 0)


def damages_of(catalog: Catalog | None) -> list[News]:
    """What is damaged or missing of the checkpoints, as far as they were checked, in the order of a resume."""
    if catalog is None:
        return []
    from ckpt_tui.services.damage import damage_in  # with the first catalog, not with the first picture

    found = [(damage.path, damage.message, damage.instead) for damage in damage_in(catalog.entries)]
    for name, backups in (catalog.missing or {}).items():
        good = next((one for one in backups if (entry := catalog.entry(one)) and entry.validity == "valid"), None)
        found.append((name, "is missing", good))
    news = [damage_news(*one) for one in found[:MAX_DAMAGES]]
    if len(found) > MAX_DAMAGES:
        more = plural(len(found) - MAX_DAMAGES, "more checkpoint")
        news.append(News((((f"{more} damaged or missing.", "error"),),), 2))
    return news


def next_keys(
    state: RunState,
    catalog: Catalog | None,
    key_of: Callable[[str], str],
    *,
    readonly: bool,
    row_acts: Mapping[str, RowAct] | None = None,
    is_supervised: bool = False,
) -> News:
    """What to press after an end: resume, restore or roll back, the last events. key_of: the key of an id. row_acts:
    what the keys of acts do at the row under the cursor, where that is known."""
    acts = row_acts or {}
    if is_supervised and not readonly:
        stop = (key_of("act.stop"), "stop the supervisor, and act yourself", "stop it")
        return keys_news([stop, (key_of("view.events"), "last events", "events")])
    keys: list[tuple[str, str, str]] = []
    if not readonly:
        risk = state.at_risk
        takes = catalog.resume_would_take if catalog is not None else risk.checkpoint if risk is not None else None
        if takes:
            entry = catalog.entry(takes) if catalog is not None else None
            if catalog is not None and (resume := acts.get("act.resume")) is not None and resume.target != "auto":
                takes, entry = resume.target, catalog.entry(resume.target)
            told = facts.checkpoint_words(takes, state.saves)
            if entry is not None and entry.step is not None:  # what the file itself says counts
                told = f"{safe_text(entry.kind, 40)}{' backup' if entry.is_backup else ''} {count(entry.step)}"
            brief = acts["act.resume"].labels[-1] if acts else "resume"
            keys.append((key_of("act.resume"), f"resume from {told}{_validity_words(entry)}", brief))
        restore = acts.get("act.restore")
        if restore is not None and restore.labels:
            keys.append((key_of("act.restore"), restore.words, restore.labels[-1]))
        elif takes and restore is None:
            keys.append((key_of("act.restore"), "roll back", "roll back"))
    keys.append((key_of("view.events"), "last events", "events"))
    return keys_news(keys)


def _validity_words(entry: CatalogEntry | None) -> str:
    """` (valid)`: how far it was checked, so that nobody trusts more than is known."""
    if entry is None or entry.validity == "unchecked":
        return ""
    is_whole = entry.validity == "valid" and entry.level in ("numbers", "resume")
    return f" ({'valid' if is_whole else entry.level or entry.validity})"
