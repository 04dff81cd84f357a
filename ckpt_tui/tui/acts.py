"""Restore, roll back, undo, resume and stop from the screen: plan in a thread, dialog, deed in a thread.

What goes wrong in our own words becomes a dialog; nothing is done before a person has read the plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.text import safe_text

if TYPE_CHECKING:
    from textual.app import App

    from ckpt_tui.services.restore import Plan
    from ckpt_tui.tui.long_work import LongWork

T = TypeVar("T")
# What is over sooner is not worth a dialog that comes and goes.
SHOWN_AFTER_S = 0.3
DONE = {"restore": "Restored", "rollback": "Rolled back", "undo": "Undone"}


class Acts:
    """The acts on one run directory. `done` is called after each deed, for the screens to look again."""

    def __init__(self, app: App[object], directory: str, done: Callable[[], object]) -> None:
        self._app = app
        self._directory = directory
        self._done = done

    def start(self, act: Callable[[], object]) -> None:
        """Run one of the coroutines below; a second one at the same time is not started, and that is said."""
        if any(worker.group == "act" and worker.is_running for worker in self._app.workers):
            self._say("The last act is still at work: try again when it has ended.")
            return
        self._app.run_worker(self._guard(act), group="act", exclusive=False, exit_on_error=False)

    async def _guard(self, act: Callable[[], object]) -> None:
        from ckpt_tui.tui.dialogs.error import ErrorDialog
        from ckpt_tui.tui.screens.work import as_ckpt_error

        try:
            await act()  # type: ignore[misc]
        except Cancelled:
            self._say("Ended before anything was changed: everything is as it was.")
        except Exception as error:  # noqa: BLE001 - a deed's failure is said, and never ends the viewer
            await self._app.push_screen_wait(ErrorDialog(as_ckpt_error(error)))
        finally:
            self._done()

    async def restore(self, names: tuple[str, ...]) -> None:
        """Put backups in place of damaged files: of `names`, of all where none is named."""
        from ckpt_tui.services.restore import plan_restore

        title = f"Restore {safe_text(names[0], 60)}" if names else "Restore what is damaged"
        await self._carry_out(
            await self._planned(
                title,
                lambda work: plan_restore(self._directory, names, on_bytes=work.add, is_cancelled=work.is_cancelled),
            )
        )

    async def rollback(self, to: str, *, words: str = "") -> None:
        """Make the checkpoint `to` the one that a resume starts from. words: what that is, for the title."""
        from ckpt_tui.services.restore import plan_rollback

        title = words or f"Roll back to {safe_text(to, 60)}"
        plan = await self._planned(
            title, lambda work: plan_rollback(self._directory, to, on_bytes=work.add, is_cancelled=work.is_cancelled)
        )
        await self._carry_out(plan, title)

    async def undo(self) -> None:
        from ckpt_tui.services.undo import plan_undo

        await self._carry_out(
            await self._planned(
                "Undo", lambda work: plan_undo(self._directory, on_bytes=work.add, is_cancelled=work.is_cancelled)
            )
        )

    async def _planned(self, title: str, plan: Callable[[LongWork], T]) -> T:
        from ckpt_tui.tui.long_work import LongWork

        return await self._work(LongWork(title, "Planning: the checkpoints that it needs are read and checked."), plan)

    async def _carry_out(self, plan: Plan, title: str = "") -> None:
        from ckpt_tui.services.restore import carry_out
        from ckpt_tui.tui.dialogs.plan import PlanDialog, folder_words, title_of
        from ckpt_tui.tui.long_work import LongWork

        title = title or title_of(plan)
        folder = folder_words(self._directory)
        if not await self._app.push_screen_wait(PlanDialog(plan, title=title, folder=folder)):
            return
        work = LongWork(title, "Copying, and reading back what was written.", 2 * plan.bytes_needed, can_leave=False)
        outcome = await self._work(
            work, lambda work: carry_out(plan, on_bytes=work.add, is_cancelled=work.is_cancelled)
        )
        # What was done was read in the plan; what counts now is where that leaves the run, and the way back.
        takes = f" A resume takes {outcome.resume_would_take}." if outcome.resume_would_take else ""
        back = "" if outcome.act == "undo" else " u takes it back."
        self._say(f"{DONE.get(outcome.act, outcome.act)}.{back}{takes}")

    async def _work(self, work: LongWork, do: Callable[[LongWork], T]) -> T:
        """Do something in a thread; what takes longer than a moment is shown, and can be ended. Raises Cancelled."""
        running = asyncio.ensure_future((_in_daemon_thread if work.can_leave else _in_thread)(lambda: do(work)))
        try:
            await asyncio.wait({running}, timeout=SHOWN_AFTER_S)
            if not running.done():
                await self._show_work(work, running)
        except asyncio.CancelledError:
            work.cancel()  # the viewer is left: what is being copied is taken back before it ends
            raise
        if not running.done():
            running.add_done_callback(_forget)
            raise Cancelled
        return running.result()

    async def _show_work(self, work: LongWork, running: asyncio.Future[T]) -> None:
        """Until it has ended, or was left where that may be."""
        from ckpt_tui.tui.dialogs.working import WorkingDialog

        dialog = WorkingDialog(work)
        self._app.push_screen(dialog)
        left = asyncio.ensure_future(dialog.left.wait())
        try:
            both: set[asyncio.Future[Any]] = {running, left}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.can_leave:
                await asyncio.wait({running})
        finally:
            left.cancel()
            dialog.finish()
        await dialog.closed.wait()

    async def resume(self, source: str = "auto", *, row: str = "") -> None:
        """source: as `plan_resume` takes it. row: the checkpoint that a person was at, to be chosen in the dialog."""
        from ckpt_tui.services.launch import launch
        from ckpt_tui.services.resume import plan_resume
        from ckpt_tui.tui.dialogs.resume import ResumeDialog

        plan = await self._planned(
            "Resume", lambda work: plan_resume(self._directory, source, on_bytes=work.add_or_end)
        )
        chosen = await self._app.push_screen_wait(ResumeDialog(self._directory, plan))
        if chosen is None:
            return
        launched = await _in_thread(lambda: launch(chosen))
        self._say(f"Started process {launched.pid}; o shows its output ({Path(launched.log_path).name}).")

    async def stop(self, pid: int) -> None:
        from ckpt_tui.services.launch import stop
        from ckpt_tui.tui.dialogs.confirm import ConfirmDialog

        sentences = (f"Process {pid} saves an emergency checkpoint and ends.",) if pid else ("It saves and ends.",)
        if not await self._app.push_screen_wait(ConfirmDialog("Stop the training", sentences, yes_label="Stop")):
            return
        self._say("Asked it to save and end, waiting for it.")
        stopped = await _in_daemon_thread(lambda: stop(self._directory))
        if not stopped.has_ended:
            raise CkptError(
                "Still running",
                f"process {stopped.pid} has not ended after {stopped.seconds:.0f} s",
                "It may be saving something big. Look at its output (o), or wait.",
            )
        self._say("It has saved and ended.")

    def _say(self, words: str) -> None:
        # On the overview's last line: a toast would lie over the list that shows what was done.
        say = getattr(self._app.screen_stack[0], "say", None)
        if say is not None:
            say(words)
            return
        self._app.clear_notifications()  # only the newest word is true
        self._app.notify(safe_text(words, 500), markup=False, timeout=5)


async def _in_daemon_thread(work: Callable[[], T]) -> T:
    """For waiting that changes nothing here: quitting does not wait for it, as it would for the executor's threads."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast("T", result))

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            failed = error
        with contextlib.suppress(RuntimeError):  # the app has gone meanwhile
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, daemon=True).start()
    return await outcome


def _forget(future: asyncio.Future[Any]) -> None:
    """Nobody waits any more for what it came to."""
    if not future.cancelled():
        future.exception()


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
