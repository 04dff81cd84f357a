"""What the keys of the groups `Checkpoint`, `Acts` and `View` do, for the screen that shows one run."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError

if TYPE_CHECKING:
    from ckpt_tui.run.state import RunState
    from ckpt_tui.tui.app import CkptTuiApp
    from ckpt_tui.tui.widgets.checkpoint_list import CheckpointList, CheckpointRow


class RunActions:
    """Mixed into the overview; it says which run, which list and which checkpoint is meant."""

    state: RunState | None
    marked: str | None

    @property
    def cockpit(self) -> CkptTuiApp:
        raise NotImplementedError

    @property
    def checkpoints(self) -> CheckpointList:
        raise NotImplementedError

    def say(self, words: str) -> None:
        raise NotImplementedError

    def _show_list(self) -> None:
        raise NotImplementedError

    def _row(self) -> CheckpointRow | None:
        return self.checkpoints.cursor_row

    def _present(self, *names: str) -> list[str] | None:
        """The paths of checkpoints that are there; None, and said, when one of them is gone: a training replaces and
        removes them while they are looked at."""
        for name in names:
            if not os.path.lexists(self._path(name)):
                self.say(f"{name} is gone: the training has removed or renamed it since.")
                self.cockpit.run_open.catalog_reader.ask()
                return None
        return [self._path(name) for name in names]

    def _path(self, name: str) -> str:
        return os.path.join(self.cockpit.directory, name)

    def action_inspect(self) -> None:
        if (row := self._row()) is not None and (paths := self._present(row.name)):
            self.cockpit.open_screen("inspect", paths[0])

    def action_validate(self) -> None:
        if (row := self._row()) is not None and (paths := self._present(row.name)):
            self.cockpit.open_screen("validate", paths)

    def action_validate_all(self) -> None:
        self.cockpit.open_screen("validate", [self.cockpit.directory])

    def action_mark(self) -> None:
        if (row := self._row()) is not None:
            self.marked = None if self.marked == row.name else row.name
            self._show_list()

    def action_diff(self) -> None:
        pair = diff_pair(self.checkpoints.rows, self._row(), self.marked)
        if pair is None:
            self.say("There is no earlier checkpoint to compare it with.")
            return
        if paths := self._present(*pair):
            self.cockpit.open_screen("diff", *paths)

    def action_resume(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.resume)

    def action_restore(self) -> None:
        row = self._row()
        names = (row.name,) if row is not None and row.validity == "damaged" else ()
        otherwise = row.name if row is not None else None
        self.cockpit.acts.start(lambda: self.cockpit.acts.restore(names, otherwise))

    def action_undo(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.undo)

    def action_stop(self) -> None:
        pid = self.state.pid if self.state is not None else 0
        self.cockpit.acts.start(lambda: self.cockpit.acts.stop(pid))

    def action_alerts(self) -> None:
        self.cockpit.open_screen("alerts")

    def action_advice(self) -> None:
        self.cockpit.open_screen("advice")

    def action_events(self) -> None:
        if self.state is not None and self.state.source:
            self._open_foreign_log(self.state.log_path)
            return
        self.cockpit.open_screen("events", self._log_path())

    def _open_foreign_log(self, path: str) -> None:
        """Another program's log as it is: its lines are no events of ours."""
        if not path or self.state is None or self.state.source == "TensorBoard" or not Path(path).is_file():
            self.cockpit.show_error(
                CkptError(
                    "Not a text",
                    f"this run is told by {self.state.source if self.state else 'another log'}, which has no lines",
                    "`ckpt-tui tail PATH` shows what it tells, event by event.",
                )
            )
            return
        self.cockpit.open_screen("log", path)

    def action_bad_lines(self) -> None:
        if self.state is not None and self.state.source:
            self._open_foreign_log(self.state.log_path)
            return
        self.cockpit.open_screen("events", self._log_path(), only_bad=True)

    def _log_path(self) -> str:
        return self.cockpit.path

    def action_log(self) -> None:
        session = self.state.session if self.state is not None else 0
        path = self._path(f"session_{session}.log")
        if not Path(path).is_file():
            self.cockpit.show_error(
                CkptError(
                    "No output",
                    f"there is no session_{session}.log in the run directory",
                    "Only sessions that ckpt-tui has started write one.",
                )
            )
            return
        self.cockpit.open_screen("log", path)


def diff_pair(rows: Sequence[CheckpointRow], row: CheckpointRow | None, marked: str | None) -> tuple[str, str] | None:
    """The two to compare, the earlier first: with the marked one, or with the next earlier step in the list."""
    if row is None:
        return None
    if marked is not None and marked != row.name:
        other = next((one for one in rows if one.name == marked), None)
        if other is not None:
            first, second = sorted((other, row), key=lambda one: one.step or 0)
            return first.name, second.name
    step = row.step or 0
    earlier = [one for one in rows if one.step is not None and one.step < step]
    if not earlier:
        return None
    return max(earlier, key=lambda one: one.step or 0).name, row.name
