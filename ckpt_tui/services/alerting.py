"""What is done about alerts: which are new, which a person has seen, and a command that is run for a new one.

Never writes in a run directory. What a person has acknowledged is kept in `$XDG_STATE_HOME/ckpt-tui/`; where that
cannot be written it holds for as long as the watch is open. A command gets the alert in its environment and as JSON on
stdin; it is run by a shell, detached from the screen, one at a time, and ended after `COMMAND_TIMEOUT_S`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict

from ckpt_tui.run.state import Alert
from ckpt_tui.text import safe_text

MAX_RUNS, MAX_ACKNOWLEDGED = 200, 1000
MAX_STATE_BYTES = 8 << 20
COMMAND_TIMEOUT_S = 30.0
MAX_WAITING_COMMANDS = 20
_VERSION = 1


class NewAlerts:
    """Tells which alerts came since the watch began: what the log held before is old, whatever it is."""

    def __init__(self, *, has_begun: bool = False) -> None:
        self._seen: dict[str, float] = {}  # by key: when it began
        self._has_begun = has_begun
        self._num_events = 0

    def take(
        self, alerts: Sequence[Alert], *, is_caught_up: bool = True, num_events: int = 0
    ) -> tuple[Alert, ...]:  # fmt: skip
        """The new ones among `alerts`. Nothing is new before the log was read to its end once. num_events: in it."""
        if is_caught_up:
            if num_events < self._num_events:
                # Begun anew in the same directory: what goes wrong at the same step of it has the same key.
                told_again = {alert.key for alert in alerts if self._seen.get(alert.key) == alert.ts}
                self._seen = {key: ts for key, ts in self._seen.items() if key in told_again}
            self._num_events = num_events
        new = tuple(alert for alert in alerts if alert.key not in self._seen)
        self._seen.update((alert.key, alert.ts) for alert in new)
        if self._has_begun:
            return new
        self._has_begun = is_caught_up
        return ()


def acknowledged_path(env: Mapping[str, str]) -> str:
    """Where acknowledgements are kept."""
    base = env.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative one counts as unset
        base = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "ckpt-tui", "acknowledged.json")


class Acknowledged:
    """Which alerts of the run in `directory` a person has acknowledged, in this watch or in one before."""

    def __init__(self, directory: str, env: Mapping[str, str]) -> None:
        self._path = acknowledged_path(env)
        self._run = os.path.realpath(directory)
        self._ids: dict[str, float] = dict(self._read().get(self._run, {}))
        self.is_kept = not os.path.realpath(self._path).startswith(self._run + os.sep)

    def holds(self, alert: Alert) -> bool:
        return _id(alert) in self._ids

    def set(self, alerts: Iterable[Alert], is_acknowledged: bool = True) -> None:
        """`is_kept` says afterwards whether it will be known the next time, too."""
        now = time.time()
        changed = {_id(alert): now for alert in alerts}
        for one in changed:
            self._ids.pop(one, None)
        if is_acknowledged:
            self._ids.update(changed)
        while len(self._ids) > MAX_ACKNOWLEDGED:
            del self._ids[min(self._ids, key=self._ids.__getitem__)]
        self.is_kept = self.is_kept and self._write(changed, is_acknowledged)

    def _read(self) -> dict[str, dict[str, float]]:
        """By run; what cannot be read holds nothing."""
        try:
            with open(self._path, "rb") as file:
                held = json.loads(file.read(MAX_STATE_BYTES))
            if not isinstance(held, dict) or held.get("version") != _VERSION or not isinstance(held.get("runs"), dict):
                return {}
            return {
                str(run): {str(key): float(at) for key, at in ids.items() if isinstance(at, (int, float))}
                for run, ids in held["runs"].items() if isinstance(ids, dict)
            }  # fmt: skip
        except (OSError, ValueError, OverflowError, RecursionError):
            return {}

    def _write(self, changed: Mapping[str, float], is_acknowledged: bool) -> bool:
        """What another watch of the same person wrote meanwhile stays."""
        runs = self._read()
        ids = {**runs.get(self._run, {}), **self._ids}
        if not is_acknowledged:
            ids = {key: at for key, at in ids.items() if key not in changed}
        runs[self._run] = ids
        newest = sorted(runs, key=lambda run: max(runs[run].values(), default=0.0))[-MAX_RUNS:]
        text = json.dumps({"version": _VERSION, "runs": {run: runs[run] for run in newest}})
        temporary = f"{self._path}.{os.getpid()}.tmp"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, self._path)
        except (OSError, ValueError):
            with suppress(OSError):
                os.unlink(temporary)
            return False
        return True


def _id(alert: Alert) -> str:
    """The key, and when it began: a run that is started anew in the same directory has the same keys."""
    return f"{alert.key}@{alert.ts:.0f}"


class AlertCommand:
    """Runs `command` for alerts, one at a time, in a thread of its own. `problem`: why the last one failed, or ""."""

    def __init__(self, command: str, *, directory: str = "", timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self.problem = ""
        self._command = command
        self._directory = directory
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[Alert, str, str]] = deque(maxlen=MAX_WAITING_COMMANDS)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, alerts: Iterable[Alert], run_name: str, directory: str = "") -> None:
        """Soon; where too many wait already, the oldest of them are left out. directory: of a run of several."""
        with self._lock:
            self._waiting.extend((alert, run_name, directory or self._directory) for alert in alerts)
            if self._waiting and self._thread is None:
                # A command that hangs shall not keep the watch from ending.
                self._thread = threading.Thread(target=self._work, name="on-alert", daemon=True)
                self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait for what was started, at most so long."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                alert, run_name, directory = self._waiting.popleft()
            self._run(alert, run_name, directory)

    def _run(self, alert: Alert, run_name: str, directory: str) -> None:
        directory = os.path.abspath(directory)
        run_name = run_name or os.path.basename(directory)
        told = {"schema": "ckpt-tui/alert/1", "run": run_name, "directory": directory, "alert": asdict(alert)}
        variables = {
            "KEY": alert.key, "KIND": alert.kind, "SEVERITY": alert.severity, "TITLE": alert.title,
            "DETAIL": alert.detail, "STEP": alert.step, "TS": alert.ts, "RUN": run_name,
            "DIRECTORY": directory,
        }  # fmt: skip
        env = {**os.environ, **{f"CKPT_TUI_ALERT_{name}": safe_text(value, 2000) for name, value in variables.items()}}
        try:
            process = subprocess.Popen(
                self._command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, env=env,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            self.problem = f"cannot be started: {safe_text(error, 200)}"
            return
        try:
            with suppress(BrokenPipeError):
                process.communicate(json.dumps(told).encode() + b"\n", timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.problem = f"took longer than {self._timeout_s:g} s and was ended"
            return
        code = process.wait()
        self.problem = f"ended with exit code {code}" if code else ""
