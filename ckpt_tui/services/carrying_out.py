"""Do what the plan of a restore, a rollback, an undo or a redo says, or refuse with nothing changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.services import journal
from ckpt_tui.services.deed_words import done_words
from ckpt_tui.services.journal import FOLDER_NAME, Deed
from ckpt_tui.services.owner import held_by_another, owner_of, run_state
from ckpt_tui.services.plans import SPARE_BYTES, Outcome, Plan
from ckpt_tui.services.registry import REGISTRY_NAME
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.services.since_planned import require_place
from ckpt_tui.text import plural, run_word, safe_text, size


def carry_out(
    plan: Plan,
    *,
    force: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Outcome:
    """Do what `plan` says, or raise CkptError with nothing changed.

    force: even while a live trainer owns the directory. on_bytes is told of bytes copied and read back as they go by.
    is_cancelled: asked between them; from the first rename on, the deed goes through. Raises Cancelled with everything
    as it was.
    """
    if plan.is_empty:
        raise CkptError("Nothing to do", " ".join(plan.sentences))
    _require_place(plan)
    owner = owner_of(plan.directory, run_state(plan.directory))
    if owner is not None and not force:
        raise held_by_another(plan.directory, owner) or CkptError(
            "A training is running here",
            f"{owner.words} {'supervises' if owner.is_supervisor else 'is training in'} {plan.directory}"
            f" ({owner.told_by} says so)",
            f"Stop it first (`ckpt-tui stop {run_word(plan.directory)}`), or say --force if you know better.",
        )
    deed = Deed(
        number=0, act=plan.act, state=journal.INTENT, moves=list(plan.moves), log=list(plan.log),
        sentences=list(plan.sentences), undoes=plan.undoes, takes_back=list(plan.takes_back),
    )  # fmt: skip
    deed = journal.perform(
        plan.directory, deed, force=force, on_bytes=on_bytes, is_cancelled=is_cancelled,
        finish=lambda done: log_restored(plan.directory, done),
    )  # fmt: skip
    aside = tuple(
        f"{FOLDER_NAME}/{deed.number}/{move.target}"
        for move in deed.moves
        if move.before is not None and move.target != REGISTRY_NAME
    )
    sentences = list(done_words(plan.sentences, just_now=True))
    if aside:
        what = "checkpoint" if any(m.before is not None and m.before.is_directory for m in deed.moves) else "file"
        sentences.append(f"Set aside in {FOLDER_NAME}/{deed.number}/: {plural(len(aside), what)}.")
    way = f"ckpt-tui undo {run_word(plan.directory)}"
    sentences.append(f"`{way} --redo` does it again." if plan.act == "undo" else f"`{way}` takes it back.")
    return Outcome(plan.act, plan.directory, deed.number, tuple(sentences), aside, plan.resume_takes)


def _require_place(plan: Plan) -> None:
    """Permission, one file system, and space for the copies, found out before anything is written."""
    directory = plan.directory
    require_place(directory)
    try:
        _require_one_device(plan, os.path.join(directory, FOLDER_NAME))
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        raise from_os_error(error, error.filename or directory, "look at the free space of") from error
    if plan.bytes_needed and plan.bytes_needed + SPARE_BYTES > free_bytes:
        raise CkptError(
            "Not enough space",
            f"the copies need {size(plan.bytes_needed)}, and {size(SPARE_BYTES)} to spare; {size(free_bytes)} are free "
            f"in {directory}; nothing was changed",
            "Free some space first.",
        )


def _require_one_device(plan: Plan, folder: str) -> None:
    """Every name that changes is really in the run directory, and on one file system with the folder that it goes to:
    only then it goes there whole and at once."""
    device = os.stat(plan.directory).st_dev
    names = [name for move in plan.moves for name in _names_of(move)]
    for name in names:
        parts = name.split("/")
        parents = [os.path.join(plan.directory, *parts[:depth]) for depth in range(1, len(parts))]
        link = next((parent for parent in parents if os.path.islink(parent)), None)
        if link is not None:
            raise CkptError(
                "Behind a link",
                f"{safe_text(name, 200)} lies behind {safe_text(link, 1000)}, which leads to "
                f"{safe_text(os.path.realpath(link), 1000)}; nothing was changed",
                "Give that directory instead.",
            )
    paths = [folder, *(os.path.join(plan.directory, name) for name in names)]
    for path in paths:
        if os.path.lexists(path) and os.lstat(path).st_dev != device:
            raise CkptError(
                "On another file system",
                f"{safe_text(path, 1000)} is not on that of {plan.directory}: it cannot change hands at once; nothing "
                "was changed",
                "Copy what you need with `cp`, or move the run directory there as a whole.",
            )


def _names_of(move: journal.Move) -> list[str]:
    return [move.target, *([move.source] if move.how in ("rename", "link") else [])]
