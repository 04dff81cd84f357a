"""A screen over something slow: works in a thread, says how far it is, and leaves at once when told to.

Rules that every screen here keeps: a worker looks at `is_cancelled` (a thread that does not keeps the process
alive after quit), progress is posted at most four times a second (each costs a line on the wire), and whatever
goes wrong is shown in place, in words; nothing in a file can end the viewer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import Worker, WorkerState, get_current_worker

from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text, size
from ckpt_tui.tui.styled import for_terminal

ScreenResult = TypeVar("ScreenResult")

PROGRESS_INTERVAL_S = 0.25


class WorkProgress(Message):
    """How far a worker is, in words. Only the newest matters."""

    def __init__(self, group: str, text: str) -> None:
        super().__init__()
        self.group = group
        self.text = text

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, WorkProgress) and message.group == self.group


class ByteProgress:
    """Counts bytes in a worker's thread and says so on the screen: `reading 41 %, 3.2 GB/s`."""

    def __init__(
        self,
        screen: WorkScreen[Any],
        group: str,
        doing: str,
        total_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._screen = screen
        self._group = group
        self._doing = doing
        self._total_bytes = total_bytes
        self._clock = clock
        self._started = self._last_told = self._clock()
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        now = self._clock()
        if now - self._last_told >= PROGRESS_INTERVAL_S:
            self._last_told = now
            self._screen.post_message(WorkProgress(self._group, self.text(now)))

    def text(self, now: float) -> str:
        elapsed_s = max(now - self._started, 1e-6)
        rate = f"{size(self.num_bytes / elapsed_s)}/s"
        if self._total_bytes <= 0:
            return f"{self._doing}, {size(self.num_bytes)}, {rate}"
        # What is read may exceed the file by a little: records are read once per level.
        percent = min(100 * self.num_bytes / self._total_bytes, 100)
        return f"{self._doing} {percent:.0f} % of {size(self._total_bytes)}, {rate}"


class WorkScreen(Screen[ScreenResult]):
    """Base of the file screens. Subclasses start work with `start_work` and override the `work_*` methods."""

    BINDINGS: ClassVar[list[BindingType]] = []
    AUTO_FOCUS = ""
    problem: CkptError | None = None  # why it has nothing to show
    _newest: Mapping[str, Worker[object]] = {}  # by its group

    def show(self, widget_id: str, content: Content) -> None:
        """Put `content` into a static of fixed height. Nothing is laid out anew, and nothing sent if it is the same."""
        static = self.query_one(f"#{widget_id}", Static)
        old, content = static.content, for_terminal(self.app, content)
        if isinstance(old, Content) and old.plain == content.plain and old.spans == content.spans:
            return
        static.update(content, layout=False)

    def start_work(self, group: str, work: Callable[[], object]) -> None:
        """Run `work` in a thread; newest wins within its group."""

        def run() -> object:  # Textual makes a repr() of what it is to run, and of a checkpoint that is 250 MB
            return work()

        newest = self.run_worker(run, name=group, group=group, thread=True, exclusive=True, exit_on_error=False)
        self._newest = {**self._newest, group: newest}

    def cancel_work(self, group: str) -> bool:
        """Stop the work of a group; False when none was running."""
        running = self._workers_of(group)
        for worker in running:
            worker.cancel()
        return bool(running)

    def is_working(self, group: str) -> bool:
        return bool(self._workers_of(group))

    def _workers_of(self, group: str) -> list[Worker[Any]]:
        return [
            worker
            for worker in self.workers
            if worker.node is self and worker.group == group and worker.is_running and not worker.is_cancelled
        ]

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        event.stop()
        worker = event.worker
        if worker.node is not self or not self.is_attached:
            return
        # What was found before it was told to stop, or to begin anew, is not what is asked for now.
        if worker.is_cancelled or self._newest.get(worker.group) is not worker:
            return
        if event.state is WorkerState.SUCCESS:
            self.work_done(worker.group, worker.result)
        elif event.state is WorkerState.ERROR and worker.error is not None:
            self.work_failed(worker.group, as_ckpt_error(worker.error))

    def on_work_progress(self, message: WorkProgress) -> None:
        message.stop()
        if self.is_working(message.group):  # else its last word would stay
            self.work_progress(message.group, message.text)

    def work_done(self, group: str, result: Any) -> None:
        raise NotImplementedError

    def work_failed(self, group: str, error: CkptError) -> None:
        raise NotImplementedError

    def work_progress(self, group: str, text: str) -> None:
        """Show how far the work of `group` is."""


def as_ckpt_error(error: BaseException) -> CkptError:
    """What a worker raised, in words for a person. Anything but a CkptError is a bug of ours and says so."""
    if isinstance(error, CkptError):
        return error
    if isinstance(error, MemoryError):
        return CkptError("Out of memory", "the machine has not enough memory for this", "Try the plain command.")
    return CkptError(
        "A bug in ckpt-tui",
        f"{type(error).__name__}: {safe_text(error, 300)}",
        "The file was not changed. Please report it, with the output of the plain command.",
    )


def worker_is_cancelled() -> Callable[[], bool]:
    """Whether the worker that calls this has been told to stop."""
    worker = get_current_worker()
    return lambda: worker.is_cancelled
