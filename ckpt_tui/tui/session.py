"""Follows one run in threads and tells the screens: one message a tick, none when nothing that is shown changed.

The log is read and folded in a worker thread that looks at `is_cancelled` between short polls, so that quitting is
immediate even in the middle of a long log. Checkpoints are looked at in a daemon thread: a slow disk or a big file
must never keep the process alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.run.state import RunState, Save
from ckpt_tui.tui.messages import CatalogChanged, SessionFailed, StateChanged

if TYPE_CHECKING:
    from ckpt_tui.services.catalog import Catalog

POLL_BUDGET_S = 0.1  # the longest that quitting may wait for the reader
LOOK_SLICE_S = 0.2
CATALOG_INTERVAL_S = 2.0
LOOK_AGAIN_S = 5.0  # logs that tell of no checkpoint: is there another name in the directory?
UNSETTLED_S = 120.0
# Reading every byte of more than this unasked would be felt by the training; `v` does it when asked.
FULL_CHECK_LIMIT_BYTES = 4_000_000_000

Post = Callable[[StateChanged | CatalogChanged | SessionFailed], object]


class Monitor(Protocol):
    """What `services/monitor.py` gives: the run at a path, a little further at each poll."""

    @property
    def directory(self) -> str: ...
    @property
    def is_caught_up(self) -> bool: ...
    @property
    def progress(self) -> float: ...

    invalid_checkpoints: Collection[str]
    found_checkpoints: tuple[Save, ...]

    def poll(self, budget_s: float = ...) -> RunState: ...


def what_shows(state: RunState, progress: float | None) -> tuple[object, ...]:
    """Equal for two states that look the same: what the clock alone changes counts once a second while a run is
    alive, once a minute when it is over."""
    tick = int(state.now // 60) if state.phase.is_over else int(state.now)
    return (
        state.num_events, state.phase, state.reason, state.bad_lines, state.missing_lines, state.notices,
        state.alerts, state.step, state.at_risk and state.at_risk.checkpoint, progress, tick,
    )  # fmt: skip


def follow(
    monitor: Monitor,
    post: Post,
    *,
    interval_s: float,
    first: Callable[[], RunState | None] = lambda: None,
    wait_for_picture: Callable[[], object] = lambda: None,
    is_cancelled: Callable[[], bool],
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Poll `monitor` until cancelled. A log that cannot be read is told of once and tried again every tick.

    first: gives what a poll gave that was made already (tui/first_look.py). wait_for_picture: returns when it is
    shown, or soon: the rest of a long log, read beside it, would take half of the time from it.
    """
    shown: object = None
    failed = ""
    while not is_cancelled():
        ends = clock() + interval_s
        waits = True
        try:
            state = first() or monitor.poll(POLL_BUDGET_S)
            while not monitor.is_caught_up and clock() < ends and not is_cancelled() and shown is not None:
                state = monitor.poll(POLL_BUDGET_S)
        except (CkptError, OSError) as error:
            said = error if isinstance(error, CkptError) else from_os_error(error, monitor.directory)
            if str(said) != failed:
                failed = str(said)
                post(SessionFailed(said))
        else:
            waits = monitor.is_caught_up  # else there is more to read
            progress = None if monitor.is_caught_up else monitor.progress
            looks = what_shows(state, progress)
            if looks != shown or failed:
                is_first, shown, failed = shown is None, looks, ""
                post(StateChanged(state, progress))
                if is_first:
                    wait_for_picture()
        while waits and (left_s := ends - clock()) > 0 and not is_cancelled():
            sleep(min(left_s, LOOK_SLICE_S))


class CatalogReader:
    """Reads the checkpoints of `directory` whenever `ask()` was called or its names have changed, at most once in two
    seconds."""

    def __init__(self, directory: str, post: Post) -> None:
        self._directory = directory
        self._post = post
        self._asked = threading.Event()
        self._hurry = threading.Event()
        self._stopped = False
        self.is_at_work = False  # it was asked, or looks
        self._is_full = False
        self._is_unsettled = False
        self._stamp: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def ask(self, *, full: bool = False) -> None:
        """Look again soon. full: every level of validation, where that is not too much to read unasked."""
        self._is_full = self._is_full or full
        self._asked.set()
        self.is_at_work = True  # said last: who has looked since takes it back only where nobody asked
        if full:
            self._hurry.set()
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._asked.set()
        self._hurry.set()

    def _run(self) -> None:
        from ckpt_tui.services.catalog import read_catalog

        while True:
            while not self._asked.wait(LOOK_AGAIN_S) and not self._has_changed():
                pass
            if self._stopped:
                return
            self._asked.clear()
            full, self._is_full = self._is_full, False
            try:
                self._stamp = _stamp_of(self._directory)  # before it is read: what comes meanwhile is a change
                catalog = read_catalog(self._directory, check="structure")
                self._show(catalog)
                if full and not self._stopped:
                    self._check_whole(catalog)
            except (CkptError, OSError) as error:
                self._tell(
                    SessionFailed(error if isinstance(error, CkptError) else from_os_error(error, self._directory))
                )
            except Exception as error:  # noqa: BLE001 - a bug in reading a file is said, and never ends the watch
                self._tell(SessionFailed(CkptError("A bug in ckpt-tui", f"{type(error).__name__}: {error}")))
            self.is_at_work = self._asked.is_set()
            self._hurry.wait(CATALOG_INTERVAL_S)
            self._hurry.clear()

    def _check_whole(self, catalog: Catalog) -> None:
        """First what a resume would take, as `status` does, whatever it costs: it is the answer; then the rest."""
        from ckpt_tui.services.catalog import read_catalog
        from ckpt_tui.services.damage import judge_candidates

        judge_candidates(self._directory)
        self._show(read_catalog(self._directory, check="structure"))  # with what is remembered now
        if catalog.total_bytes <= FULL_CHECK_LIMIT_BYTES and not self._stopped:
            self._show(read_catalog(self._directory, check="full"))

    def _show(self, catalog: Catalog) -> None:
        # Others write a checkpoint where it will stay: until it is whole it is looked at again.
        newest = time.time() - UNSETTLED_S
        self._is_unsettled = any(
            (entry.saved_at or 0.0) > newest and entry.validity not in ("valid", "unchecked")
            for entry in catalog.entries
        )
        self._tell(CatalogChanged(catalog))

    def _has_changed(self) -> bool:
        """Whether names came or went that no log told of, or a checkpoint may have been finished since."""
        return self._is_unsettled or _stamp_of(self._directory) != self._stamp

    def _tell(self, message: CatalogChanged | SessionFailed) -> None:
        if not self._stopped:
            self._post(message)


def _stamp_of(directory: str) -> tuple[int, int] | None:
    """What changes when a name comes or goes."""
    try:
        status = Path(directory).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
