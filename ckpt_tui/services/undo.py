"""Take deeds back: the plan of an undo, in plain words."""

from __future__ import annotations

import os

from ckpt_tui.services import journal
from ckpt_tui.services.catalog import read_catalog
from ckpt_tui.services.files import content_of
from ckpt_tui.services.interrupted import begin
from ckpt_tui.services.journal import FOLDER_NAME, Move
from ckpt_tui.services.plans import Plan, assemble, safe_name
from ckpt_tui.services.registry import REGISTRY_NAME


def plan_undo(directory: str) -> Plan:
    """Plan to take the newest deed back that was not taken back yet; again and again, as deep as there are deeds."""
    directory, notices = begin(directory)
    catalog = read_catalog(directory)
    every = journal.read_deeds(directory)
    taken_back = {number for deed in every for number in (*deed.takes_back, deed.undoes)}
    deeds = [
        deed
        for deed in every
        if deed.act != "undo" and deed.number not in taken_back and deed.state in (journal.DONE, journal.CONFLICT)
    ]
    if not deeds:
        return Plan("undo", directory, (), ("There is nothing to undo.",), warnings=tuple(notices))
    deed = deeds[-1]
    moves, warnings = [], list(notices)
    put_back: list[str] = []
    sentences = [f"Takes back the {deed.act} of {journal.when(deed)} (set_aside/{deed.number}/)."]
    for move in reversed(deed.moves):
        if move.target == REGISTRY_NAME:
            continue
        now = content_of(os.path.join(directory, move.target))
        source = f"{FOLDER_NAME}/{deed.number}/{move.target}"
        kept = content_of(os.path.join(directory, source))
        if now is not None and (move.after is None or not move.after.is_same(now)):
            warnings.append(f"{safe_name(move.target)} was written since; that file is set aside, not deleted.")
        if move.before is None:
            if now is not None:
                moves.append(Move(move.target, "remove", before=now))
                sentences.append(f"{safe_name(move.target)} was not there before: it is set aside.")
        elif kept is None:
            warnings.append(f"{safe_name(source)} is no longer there: {safe_name(move.target)} stays as it is.")
        else:
            moves.append(Move(move.target, "rename", before=now, source=source, after=kept))
            put_back.append(safe_name(move.target))
    if put_back:
        sentences.append(f"Put back as {'it was' if len(put_back) == 1 else 'they were'}: {', '.join(put_back)}.")
    return assemble("undo", directory, catalog, moves, sentences, warnings, why=f"undo of a {deed.act}", undone=deed)
