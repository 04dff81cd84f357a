"""Restore, roll back, undo, resume and stop from the screen: plan in a thread, dialog, deed in a thread.

What goes wrong in our own words becomes a dialog; nothing is done before a person has read the plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

if TYPE_CHECKING:
    from textual.app import App

    from ckpt_tui.services.restore import Plan

T = TypeVar("T")
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
        except Exception as error:  # noqa: BLE001 - a deed's failure is said, and never ends the viewer
            await self._app.push_screen_wait(ErrorDialog(as_ckpt_error(error)))
        finally:
            self._done()

    async def restore(self, names: tuple[str, ...], otherwise: str | None) -> None:
        """Put backups in place of damaged files; when none is damaged, go back to the checkpoint `otherwise`."""
        from ckpt_tui.services.restore import plan_restore, plan_rollback

        plan = await _in_thread(lambda: plan_restore(self._directory, names))
        if plan.is_empty and not names and otherwise is not None:
            plan = await _in_thread(lambda: plan_rollback(self._directory, otherwise))
        await self._carry_out(plan)

    async def undo(self) -> None:
        from ckpt_tui.services.restore import plan_undo

        await self._carry_out(await _in_thread(lambda: plan_undo(self._directory)))

    async def _carry_out(self, plan: Plan) -> None:
        from ckpt_tui.services.restore import carry_out
        from ckpt_tui.tui.dialogs.plan import PlanDialog

        if not await self._app.push_screen_wait(PlanDialog(plan)):
            return
        outcome = await _in_thread(lambda: carry_out(plan))
        # What was done was read in the plan; what counts now is where that leaves the run, and the way back.
        takes = f" A resume takes {outcome.resume_would_take}." if outcome.resume_would_take else ""
        back = "" if outcome.act == "undo" else " u takes it back."
        self._say(f"{DONE.get(outcome.act, outcome.act)}.{back}{takes}")

    async def resume(self, source: str = "auto") -> None:
        from ckpt_tui.services.launch import launch
        from ckpt_tui.services.resume import plan_resume
        from ckpt_tui.tui.dialogs.resume import ResumeDialog

        plan = await _in_thread(lambda: plan_resume(self._directory, source))
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


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
