"""What a supervisor writes down: its record at each change, and between two sessions an event in the run's log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from ckpt_tui.events.schema import LOG_NAME, Supervised
from ckpt_tui.events.writer import EventWriter
from ckpt_tui.process_identity import NOBODY, ProcessIdentity
from ckpt_tui.services import files
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME
from ckpt_tui.services.supervision import Action, Decision, Ended, Point, Standing, exit_words
from ckpt_tui.services.supervisor_record import SupervisorState, write_record

EVENT_ACTIONS = {
    Action.RESTART: "restart", Action.FINISHED: "finished", Action.STOPPED: "stopped", Action.GIVE_UP: "gave_up",
}  # fmt: skip


class Book:
    """Of one supervisor. fixed: what its record holds from the beginning. say: tells a person. on_change: gets the
    record at each change.

    write_error: why the newest record is not on the disk, None when it is.
    """

    def __init__(
        self,
        directory: str,
        fixed: dict[str, object],
        say: Callable[[str], None],
        on_change: Callable[[Mapping[str, object]], None] | None = None,
    ) -> None:
        self.directory = directory
        self.fields: dict[str, object] = {}
        self.write_error: OSError | None = None
        self._fixed = {
            **ProcessIdentity.of().fields(), "started_at": time.time(), **fixed,
        }  # fmt: skip
        self._say = say
        self._on_change = on_change

    def keep(self, state: SupervisorState, told: str, standing: Standing, **more: object) -> None:
        """Write the record. A disk that takes nothing must not end the supervisor: it is said once."""
        before = self.fields
        self.fields = {
            **self._fixed, "state": str(state), "since": time.time(), "told": told, "restarts": standing.restarts,
            "next_try_at": None, "last_exit": before.get("last_exit", ""), "last_exit_at": before.get("last_exit_at"),
            **NOBODY.fields("child_"), "session": before.get("session", 0), "log": before.get("log", ""),
            "mark": before.get("mark", ""), "standing": asdict(standing), **more,
        }  # fmt: skip
        try:
            write_record(self.directory, self.fields)
        except OSError as error:
            if self.write_error is None or error.errno != self.write_error.errno:
                self._say(f"supervisor.json cannot be written: {error.strerror or error}")
            self.write_error = error
        else:
            self.write_error = None
        if self._on_change is not None:
            self._on_change(self.fields)

    def decided(self, decision: Decision, standing: Standing, ended: Ended | None, point: Point) -> None:
        """To record and log, when nobody trains. A run without a log stays without."""
        states = {
            Action.RESTART: SupervisorState.WAITING, Action.FINISHED: SupervisorState.FINISHED,
            Action.STOPPED: SupervisorState.STOPPED, Action.GIVE_UP: SupervisorState.GAVE_UP,
        }  # fmt: skip
        is_restart = decision.action is Action.RESTART
        if os.path.exists(os.path.join(self.directory, LOG_NAME)):
            with EventWriter(self.directory) as writer:
                writer.session = max(writer.session - 1, 1)  # the one that has ended: no new one begins with this
                writer.emit(
                    Supervised(
                        step=(ended.step or 0) if ended is not None else 0, action=EVENT_ACTIONS[decision.action],
                        told=decision.told, restarts=standing.restarts,
                        pause_seconds=decision.pause_s if is_restart else None,
                        checkpoint=point.name if is_restart else "",
                        exit_code=ended.exit_code if ended is not None else None,
                    )
                )  # fmt: skip
        more: dict[str, object] = {}
        if ended is not None:
            more = {"last_exit": exit_words(ended.exit_code), "last_exit_at": ended.at}
        if is_restart:
            more["next_try_at"] = time.time() + decision.pause_s
        self.keep(states[decision.action], decision.told, standing, **more)

    def write_launch(
        self, process: ProcessIdentity, *, session: int, command: Sequence[str], cwd: str, log: str, point: Point
    ) -> None:
        """`launch.json`, as for any training that was started from here. Raises OSError."""
        fields = {
            **process.fields(), "command": list(command), "cwd": cwd, "log": log, "session": session,
            "ts": time.time(), "checkpoint": point.name, "step": point.step, "by": "supervise",
            "directory": os.path.realpath(self.directory),
        }  # fmt: skip
        path = os.path.join(self.directory, LAUNCH_FILE_NAME)
        files.write_file(path, json.dumps(fields, indent=1).encode() + b"\n", files.mode_as_log(self.directory))
