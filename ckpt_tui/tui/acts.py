"""Restore, roll back, undo, resume and stop from the screen: plan in a thread, dialog, deed in a thread.

What goes wrong in our own words becomes a dialog; nothing is done before a person has read the plan.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ckpt_tui.errors import Cancelled, CkptError
from ckpt_tui.text import safe_text
from ckpt_tui.tui.base_app import app_of

if TYPE_CHECKING:
    from textual.app import App

    from ckpt_tui.services.restore import Plan
    from ckpt_tui.services.stopping import Stopped
    from ckpt_tui.tui.long_work import LongWork, Stages

W = TypeVar("W", "LongWork", "Stages")
T = TypeVar("T")
# What is over sooner is not worth a dialog that comes and goes.
SHOWN_AFTER_S = 0.3
FOR_LONG_S = 7 * 86400.0  # a person leaves when they like
DONE = {"restore": "Restored", "rollback": "Rolled back", "undo": "Undone", "redo": "Done again"}


class Acts:
    """The acts on one run directory. `done` is called after each deed, for the screens to look again."""

    def __init__(self, app: App[object], directory: str, done: Callable[[], object]) -> None:
        self._app = app
        self._directory = directory
        self._done = done

    def start(self, act: Callable[[], object]) -> None:
        """Run one of the coroutines below; a second one at the same time is not started, and that is said."""
        if getattr(self._app, "readonly", False):
            return  # no way leads here; this is the last door
        if any(worker.group == "act" and worker.is_running for worker in self._app.workers):
            self._say("The last act is still at work: try again when it has ended.")
            return
        app_of(self._app).expect_screen()
        self._app.run_worker(self._guard(act), group="act", exclusive=False, exit_on_error=False)

    async def _guard(self, act: Callable[[], object]) -> None:
        from ckpt_tui.tui.dialogs.error import ErrorDialog
        from ckpt_tui.tui.screens.work import as_ckpt_error

        try:
            await act()  # type: ignore[misc]
        except Cancelled:
            self._say("Ended before anything was changed: everything is as it was.")
        except Exception as error:  # noqa: BLE001 - a deed's failure is said, and never ends the viewer
            log_path = str(getattr(error, "log_path", ""))
            last_lines = getattr(error, "lines", ())
            dialog = ErrorDialog(as_ckpt_error(error), has_output=bool(log_path), last_lines=last_lines)
            wanted = await self._app.push_screen_wait(dialog)
            if wanted == "output":
                self._app.open_screen("log", log_path)  # type: ignore[attr-defined]
        finally:
            app_of(self._app).came_up()
            self._done()

    async def _refuse_while_running(self) -> None:
        """Said before gigabytes are read for a plan that could not be carried out."""
        from ckpt_tui.services.owner import owners_of

        state = getattr(self._app, "state", None)
        owners = await _in_daemon_thread(lambda: owners_of(self._directory, state))
        if not owners:
            return
        owner = next((one for one in owners if one.is_supervisor), owners[0])
        if owner.is_supervisor:
            raise CkptError(
                "A supervisor is in charge here",
                f"process {owner.pid} starts the training again by itself",
                "S asks it and the training to end; then this can be done.",
            )
        raise CkptError(
            "A training is running here",
            f"{owner.words} is training in this directory ({owner.told_by} says so)",
            "S asks it to save and end; then this can be done.",
        )

    async def restore(self, names: tuple[str, ...]) -> None:
        """Put backups in place of damaged files: of `names`, of all where none is named."""
        await self._refuse_while_running()
        from ckpt_tui.services.restore import plan_restore

        title = f"Restore {safe_text(names[0], 60)}" if names else "Restore what is damaged"
        await self._planned_and_carried_out(title, partial(plan_restore, self._directory, names))

    async def rollback(self, to: str, *, words: str = "") -> None:
        """Make the checkpoint `to` the one that a resume starts from. words: what that is, for the title."""
        await self._refuse_while_running()
        from ckpt_tui.services.restore import plan_rollback

        title = words or f"Roll back to {safe_text(to, 60)}"
        plan = await self._planned(
            title, lambda work: plan_rollback(self._directory, to, on_bytes=work.add, is_cancelled=work.is_cancelled)
        )
        await self._carry_out(plan, title)

    async def redo(self) -> None:
        """Do again what was taken back last."""
        await self._refuse_while_running()
        from ckpt_tui.services.undo import plan_redo

        await self._planned_and_carried_out("Redo", partial(plan_redo, self._directory))

    async def history(self) -> None:
        """What was done here; what a person chooses of it is taken back, or done again."""
        import time

        from ckpt_tui.services.deeds import read_history
        from ckpt_tui.tui.dialogs.history import HistoryDialog

        history = await self._planned("Deeds", lambda _: read_history(self._directory))
        chosen = await self._app.push_screen_wait(HistoryDialog(history, time.time()))
        if chosen is None:
            return
        what, number = chosen
        if what == "redo":
            await self.redo()
        elif what == "gc":
            await self.gc()
        else:
            await self.undo(None if number == history.next_undo else number)

    async def gc(self) -> None:
        """Free what lies aside, after a person has read what, and why the rest stays. Beside a running training too:
        it does not use what lies aside."""
        from ckpt_tui.services.gc import collect, plan_gc
        from ckpt_tui.tui.dialogs.gc import GcDialog
        from ckpt_tui.tui.long_work import LongWork

        plan = await self._planned(
            "Free space", lambda work: plan_gc(self._directory, on_bytes=work.add, is_cancelled=work.is_cancelled)
        )
        dialog = GcDialog(plan, lambda picked: plan_gc(self._directory, picked=picked))
        if not await self._app.push_screen_wait(dialog):
            return
        plan = dialog.plan
        work = LongWork("Free space", "Removing what the plan named.", plan.freed_bytes, can_leave=False)
        work.hint = "Esc ends it: what is gone by then stays gone"
        collected = await self._work(
            work, lambda work: collect(plan, on_bytes=work.add, is_cancelled=work.is_cancelled)
        )
        self._say(" ".join(collected.sentences))

    async def undo(self, to: int | None = None) -> None:
        """Take the newest deed back, or all of them down to number `to`."""
        await self._refuse_while_running()
        from ckpt_tui.services.undo import plan_undo

        await self._planned_and_carried_out("Undo", partial(plan_undo, self._directory, to=to))

    async def _planned(self, title: str, plan: Callable[[LongWork], T]) -> T:
        from ckpt_tui.tui.long_work import LongWork

        return await self._work(LongWork(title, "Planning: the checkpoints that it needs are read and checked."), plan)

    async def _planned_and_carried_out(self, title: str, plan_it: Callable[..., Plan]) -> None:
        """Of what a plan has only remembered, or not read, a person may want all read, and then sees a new plan."""
        wants_all: bool = False
        while True:
            plan = await self._planned(
                title,
                lambda work, recheck=wants_all: plan_it(  # type: ignore[misc]
                    recheck=recheck, on_bytes=work.add, is_cancelled=work.is_cancelled
                ),
            )
            wants_all = await self._carry_out(plan)
            if not wants_all:
                return

    async def _carry_out(self, plan: Plan, title: str = "") -> bool:
        """True when nothing was done, because a person wants it planned again with all read."""
        from ckpt_tui.services.restore import carry_out
        from ckpt_tui.tui.dialogs.plan import PlanDialog, folder_words, title_of
        from ckpt_tui.tui.long_work import LongWork

        title = title or title_of(plan)
        folder = folder_words(self._directory)
        dialog = PlanDialog(plan, title=title, folder=folder)
        if not await self._app.push_screen_wait(dialog):
            return dialog.wants_all
        await self._refuse_while_running()  # it was read for long, perhaps
        work = LongWork(title, "Copying, and reading back what was written.", 2 * plan.bytes_needed, can_leave=False)
        outcome = await self._work(
            work, lambda work: carry_out(plan, on_bytes=work.add, is_cancelled=work.is_cancelled)
        )
        # What was done was read in the plan; what counts now is where that leaves the run, and the way back.
        takes = f" A resume takes {outcome.resume_would_take}." if outcome.resume_would_take else ""
        back = {"undo": " R does it again."}.get(outcome.act, " u takes it back.")
        self._say(f"{DONE.get(outcome.act, outcome.act)}.{back}{takes}")
        return False

    async def _work(self, work: W, do: Callable[[W], T]) -> T:
        """Do something in a thread; what takes longer than a moment is shown, and can be ended. Raises Cancelled."""
        running = asyncio.ensure_future((_in_daemon_thread if work.can_leave else _in_thread)(lambda: do(work)))
        try:
            await asyncio.wait({running}, timeout=SHOWN_AFTER_S)
            was_left = not running.done() and await self._show_work(work, running)
        except asyncio.CancelledError:
            work.cancel()  # the viewer is left: what is being copied is taken back before it ends
            raise
        if was_left:  # what it came to in that moment is no more than what comes of one that goes on
            running.add_done_callback(_forget)
            raise Cancelled
        return running.result()

    async def _show_work(self, work: LongWork | Stages, running: asyncio.Future[T]) -> bool:
        """Until it has ended, or was left where that may be: True then."""
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
        return work.can_leave and dialog.left.is_set()

    async def resume(self, source: str = "auto", *, row: str = "") -> None:
        """source: as `plan_resume` takes it. row: the checkpoint that a person was at, to be chosen in the dialog."""
        await self._refuse_while_running()
        from ckpt_tui.services.launch import launch
        from ckpt_tui.services.resume import plan_resume
        from ckpt_tui.tui.dialogs.resume import ResumeDialog
        from ckpt_tui.tui.long_work import Stages

        plan = await self._planned(
            "Resume",
            lambda work: plan_resume(self._directory, source, on_bytes=work.add_or_end, is_cancelled=work.is_cancelled),
        )
        chosen = await self._app.push_screen_wait(ResumeDialog(self._directory, plan, row=row))
        if chosen is None:
            return
        stages = Stages(
            f"Resume from {safe_text(chosen.checkpoint_name, 60)}",
            "Esc leaves: the training goes on",
            patience_s=120.0,
            late="It has not trained a step yet. It may be loading much: leave, and o shows its output.",
        )
        try:
            launched = await self._work(
                stages,
                lambda stages: launch(
                    chosen, wait_s=FOR_LONG_S, on_progress=stages.tell, is_cancelled=stages.is_cancelled
                ),
            )
        except Cancelled:
            self._say(f"It goes on starting, session {chosen.session}; o shows its output.")
            return
        words = " ".join((*launched.sentences, *launched.warnings))
        self._say(f"Session {chosen.session} runs. {words} o shows its output.")

    async def stop(self) -> None:
        from ckpt_tui.services.stop_plan import plan_stop
        from ckpt_tui.services.stopping import stop
        from ckpt_tui.tui.dialogs.confirm import ConfirmDialog
        from ckpt_tui.tui.dialogs.stop import StopDialog
        from ckpt_tui.tui.long_work import Stages

        plan = await self._planned("Stop the training", lambda _: plan_stop(self._directory))
        if not await self._app.push_screen_wait(StopDialog(plan)):
            return
        # What it does with the signal is only said where it is known.
        left = "it saves and ends by itself" if plan.saves else "what was asked stays asked"
        stages = Stages(
            "Stop the training",
            f"Esc leaves: {left}",
            late="Still at work: it may be saving something big, or not hear. Wait on, or leave: it was asked.",
        )
        try:
            # Never asked twice: a second signal tells a trainer to leave at once, unsaved.
            stopped = await self._work(
                stages,
                lambda stages: stop(
                    self._directory, FOR_LONG_S, plan=plan, on_progress=stages.tell, is_cancelled=stages.is_cancelled
                ),
            )
        except Cancelled:
            does = "It was asked to save and end, and goes on ending by itself."
            self._say(does if plan.saves else "It was asked to end; S tells whether it does.")
            return
        if stopped.lost_steps == 0 or stopped.saved:
            self._say(stopped_words(stopped))
            return
        hint = (stopped.hint,) if stopped.hint else ()
        await self._app.push_screen_wait(ConfirmDialog("Stopped", (*stopped.sentences, *hint), no_label="Close"))

    def _say(self, words: str) -> None:
        # On a last line: a toast would lie over the list that shows what was done.
        overview = getattr(self._app, "overview", None)
        if overview is not None:
            overview.say(words)
        if overview is not self._app.screen:
            app_of(self._app.screen).say(safe_text(words, 500))


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


def stopped_words(stopped: Stopped) -> str:
    """What came of a stop, on one line."""
    from ckpt_tui.text import count, duration

    took = f"ended in {duration(stopped.seconds)}"
    if stopped.saved:
        return f"Saved {safe_text(stopped.saved, 80)}, step {count(stopped.saved_step)}; {took}."
    if not stopped.checkpoint or stopped.checkpoint_step != stopped.step:
        return " ".join(stopped.sentences)  # of a job in a queue, or a supervisor between two sessions
    return f"It {took}, nothing is lost: {safe_text(stopped.checkpoint, 80)} holds its last step."


def _forget(future: asyncio.Future[Any]) -> None:
    """Nobody waits any more for what it came to."""
    if not future.cancelled():
        future.exception()


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, work)
