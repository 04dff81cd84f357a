"""What the keys of the groups `Checkpoint`, `Acts` and `View` do, for the screen that shows one run."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.tui.base_app import OfTheWatch
from ckpt_tui.tui.keys import OVERVIEW_KEYS, Key, key_words

if TYPE_CHECKING:
    from ckpt_tui.run.state import RunState
    from ckpt_tui.services.catalog import Catalog
    from ckpt_tui.tui.row_acts import RowAct
    from ckpt_tui.tui.supervised import Supervised
    from ckpt_tui.tui.widgets.checkpoint_list import CheckpointList, CheckpointRow
    from ckpt_tui.tui.widgets.key_line import KeyLine


class RunActions(OfTheWatch):
    """Mixed into the overview; it says which run, which list and which checkpoint is meant."""

    state: RunState | None
    catalog: Catalog | None
    marked: str | None
    supervised: Supervised | None
    _acts_told: Mapping[str, RowAct] = {}
    _key_labels: Mapping[str, tuple[str, ...]] = {}
    _row_acts: tuple[object, Mapping[str, RowAct]] | None = None

    @property
    def shows_checkpoints(self) -> bool:
        """Whether the list is to be seen."""
        raise NotImplementedError

    @property
    def is_supervised(self) -> bool:
        """Whether somebody is there who starts the training again."""
        return self.supervised is not None and self.supervised.is_in_charge

    @property
    def key_line(self) -> KeyLine:
        raise NotImplementedError

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
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

    def row_acts(self) -> Mapping[str, RowAct]:
        """What the keys of restore and resume do now, by their ids; empty as long as the files are not known."""
        catalog = self.catalog
        if catalog is None:
            return {}
        from ckpt_tui.tui.row_acts import restore_act, resume_act  # with the first catalog, not the first picture

        row = self._row() if self.shows_checkpoints else None
        name, is_chosen = (row.name if row is not None else None), self.checkpoints.cursor > 0
        asked = (catalog, name, is_chosen)
        if self._row_acts is None or self._row_acts[0] != asked:
            acts = {
                "act.restore": restore_act(catalog, name, is_chosen=is_chosen),
                "act.resume": resume_act(catalog, name, is_chosen=is_chosen),
            }
            self._row_acts = (asked, acts)
        return self._row_acts[1]

    @property
    def key_labels(self) -> Mapping[str, tuple[str, ...]]:
        """Of the acts' keys on the last line, by their ids."""
        return self._key_labels

    def label_keys(self) -> bool:
        """Say on the last line what the keys do now; False when they do what they did."""
        acts, state = self.row_acts(), self.state
        if acts:
            from ckpt_tui.tui.row_acts import labels

            told = labels(state, acts["act.restore"], acts["act.resume"], is_supervised=self.is_supervised)
        elif state is not None and state.num_events and not state.phase.is_over:
            told = {"act.resume": (), "act.restore": ()}
        else:
            told = {"act.stop": ()}
        if (acts, told) == (self._acts_told, self._key_labels):
            return False
        is_other, self._acts_told = told != self._key_labels, acts
        self._key_labels = told
        if is_other:
            self.key_line.labels_changed()
        return True

    def open_menu(self) -> None:
        """What can be done with the checkpoint under the cursor, to choose from."""
        from ckpt_tui.tui.dialogs.pick import PickDialog

        row = self._row()
        if row is None:
            return
        offered = self.offered_at_row()

        def chosen(index: int | None) -> None:
            if index is not None:
                self.cockpit.call_later(self.cockpit.run_action, offered[index][1], self)

        rows = [(words[:1].upper() + words[1:], key) for words, _, key in offered]
        self.cockpit.push_screen(PickDialog(row.name, rows), chosen)

    def offered_at_row(self) -> list[tuple[str, str, str]]:
        """What can be done with the checkpoint under the cursor: in words, the action, its key."""
        found = []
        acts = self.row_acts()
        for row in OVERVIEW_KEYS:
            if row.group == "Checkpoint" or row.id in acts:
                act = acts.get(row.id)
                if self.check_action(row.action, ()) is not False and (act is None or not act.why_not):
                    words = act.words if act is not None else row.tooltip
                    found.append((words, row.action, key_words(self._pressed(row))))
        return found

    def press_told(self, written: str) -> None:
        """A click on a key in the banner."""
        for row in OVERVIEW_KEYS:
            if key_words(self._pressed(row)) == written and self.check_action(row.action, ()) is not False:
                self.cockpit.call_later(self.cockpit.run_action, row.action, self)
                return

    def _pressed(self, row: Key) -> str:
        """The key of a row, as this person has it."""
        return self.cockpit.settings.keymap.get(row.id, row.key).split(",")[0]

    def action_resume(self) -> None:
        acts, resume = self.cockpit.acts, self.row_acts().get("act.resume")
        row = self._row() if self.shows_checkpoints else None
        source = resume.target if resume is not None else "auto"
        acts.start(lambda: acts.resume(source, row=row.name if row is not None else ""))

    def action_restore(self) -> None:
        acts, restore = self.cockpit.acts, self.row_acts().get("act.restore")
        if restore is None:
            acts.start(lambda: acts.restore(()))
        elif restore.why_not:
            self.say(restore.why_not)
        elif restore.what == "rollback":
            words = restore.words[:1].upper() + restore.words[1:]
            acts.start(lambda: acts.rollback(restore.target, words=words))
        else:
            acts.start(lambda: acts.restore((restore.target,) if restore.target else ()))

    def action_undo(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.undo)

    def action_redo(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.redo)

    def action_history(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.history)

    def action_gc(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.gc)

    def action_stop(self) -> None:
        self.cockpit.acts.start(self.cockpit.acts.stop)

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
        from ckpt_tui.services.outputs import newest_output

        path = newest_output(self.cockpit.directory, session)
        if path is None:
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
