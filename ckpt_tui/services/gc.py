"""Free the space of what lies aside, only when asked: the one act that deletes.

First a plan (`gc_plan.py`). A deed is marked `collected` in its journal, durably, before its first file goes: a kill at
any moment leaves it either as it was or plainly said to be gone, and the next gc frees the rest. Runs beside a live
training: nothing that it uses is freed.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence

from ckpt_tui.errors import Cancelled, CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.services import journal
from ckpt_tui.services.deed_record import Freed
from ckpt_tui.services.durable import sync_directory
from ckpt_tui.services.gc_items import GcFile as GcFile
from ckpt_tui.services.gc_items import GcItem as GcItem
from ckpt_tui.services.gc_plan import GcPlan as GcPlan
from ckpt_tui.services.gc_plan import plan_gc as plan_gc
from ckpt_tui.services.journal import FOLDER_NAME
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.since_planned import has_changed, is_as_planned, require_place
from ckpt_tui.services.unlinking import remove, remove_empty_parents
from ckpt_tui.text import plural, run_word, safe_text, size

_NOTHING = "nothing was freed"


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc did. num_freed: of the things that the plan chose; is_whole: all of them."""

    directory: str
    freed_bytes: int
    num_freed: int
    sentences: tuple[str, ...]
    is_whole: bool = True


def collect(
    plan: GcPlan,
    *,
    force: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Collected:
    """Free what `plan` chose. Raises CkptError, with nothing freed when it does not fit any more; Cancelled before the
    first thing. Cancelled later it ends between two things, and says what is freed by then."""
    if plan.is_empty:
        raise CkptError("Nothing to free", " ".join(plan.sentences))
    directory = plan.directory
    if plan.refusals and not force:
        raise CkptError("Not freed", f"{directory}: {' '.join(plan.refusals)}", "Say --force if you know better.")
    require_place(directory, _NOTHING)
    done: list[GcItem] = []
    # A live training is no reason to wait: it does not use what lies aside, and the rest is asked of below.
    with journal.locked(directory, force=True):
        chosen = [item for item in plan.items if item.is_chosen]
        _expect_as_planned(plan, chosen)
        for item in chosen:
            if is_cancelled is not None and is_cancelled():
                if not done:
                    raise Cancelled
                break
            try:
                _free(directory, item)
            except OSError as error:
                raise _stopped(error, item, len(done), directory) from error
            done.append(item)
            if on_bytes is not None:
                on_bytes(item.freed_bytes)
    if len(done) == len(chosen):
        afterwards = (sentence.replace("Then ", "Now ", 1) for sentence in plan.afterwards)
        return Collected(directory, plan.freed_bytes, len(done), (f"Freed {size(plan.freed_bytes)}.", *afterwards))
    freed_bytes = sum(item.freed_bytes for item in done)  # alone: what shares its bytes with the rest is not free yet
    said = f"Freed {size(freed_bytes)}, then ended; not begun: {', '.join(item.name for item in chosen[len(done) :])}."
    return Collected(directory, freed_bytes, len(done), (said,), is_whole=False)


def _expect_as_planned(plan: GcPlan, chosen: Sequence[GcItem]) -> None:
    """Raise CkptError when anything that is freed, or that is the reason why it may be, is not what it was."""
    for path, content in plan.found:
        if not is_as_planned(os.path.join(plan.directory, path), content):
            raise has_changed([path], _NOTHING)
    # What has a copy in the run directory may go while nothing trains there, and so removes that copy later.
    if plan.trusts_run or any(item.kind in ("quarantine", "temporary") for item in chosen):
        _refuse_beside_a_training(plan.directory)
    for item in chosen:
        deed = journal.read_deed(plan.directory, item.number) if item.number is not None else None
        if item.number is not None and (
            deed is None or deed.state not in (journal.DONE, journal.CONFLICT, journal.COLLECTED)
        ):
            raise has_changed([item.name], _NOTHING)


def _refuse_beside_a_training(directory: str) -> None:
    if owner_of(directory, run_state(directory)) is not None:
        raise CkptError(
            "A training is running here",
            f"it was started in {directory} since this was planned; nothing was freed",
            "Plan it again: what the training does not use can be freed beside it.",
        )


def _free(directory: str, item: GcItem) -> None:
    if item.files:
        assert item.number is not None
        deed = journal.read_deed(directory, item.number)
        assert deed is not None
        # From here on they cannot be had back, whatever becomes of them.
        if _tell(deed, item):
            _mark(directory, deed, item.paths)
    for path in item.paths:
        remove(directory, path)
    parents = {os.path.dirname(path) for path in item.paths}
    for parent in parents:
        sync_directory(os.path.join(directory, parent))
    if item.number is not None:
        # The directories of names that had some, made for them by the deed.
        for parent in sorted(parents, key=len, reverse=True):
            remove_empty_parents(directory, parent, f"{FOLDER_NAME}/{item.number}")


def _tell(deed: journal.Deed, item: GcItem) -> bool:
    """Write into `deed` what goes; whether that is more than it says already, from a gc that was interrupted."""
    now = time.time()
    known = {one.name for one in deed.freed}
    going = [file for file in item.files if file.is_chosen]
    deed.freed += [Freed(file.name, now, file.why, file.copy) for file in going if file.name not in known]
    is_all = len(going) == len(item.files)
    is_told = known.issuperset(file.name for file in going) and (deed.state == journal.COLLECTED or not is_all)
    deed.collected_at = now
    if is_all:
        deed.state = journal.COLLECTED
    return not is_told


def _mark(directory: str, deed: journal.Deed, paths: Sequence[str]) -> None:
    """Write the journal of a deed whose `paths` go. On a disk without room for that, the first of them go before: who
    is killed then leaves a deed of which the history says that they are no longer there."""
    waiting = list(paths)
    while True:
        try:
            journal.write_deed(directory, deed)
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not waiting:
                raise
        remove(directory, waiting.pop(0))


def _stopped(error: OSError, item: GcItem, num_freed: int, directory: str) -> CkptError:
    said = from_os_error(error, error.filename or os.path.join(directory, item.name), "remove")
    before = f"{plural(num_freed, 'thing')} before it {'is' if num_freed == 1 else 'are'} freed" if num_freed else ""
    return CkptError(
        said.title,
        f"{said.message}; {safe_text(item.name)} is perhaps freed in part{', ' + before if before else ''}",
        f"`ckpt-tui gc {run_word(directory)}` frees the rest; `ckpt-tui undo {run_word(directory)} --list` says "
        "what can still be taken back.",
    )
