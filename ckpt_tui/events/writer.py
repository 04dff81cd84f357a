"""Append events to a run's log, from any training loop, in three lines:

    log = EventWriter("runs/mine"); log.start(config={"lr": 3e-4}, total_steps=1000)
    log.step(step, loss=loss.item(), lr=lr)
    log.end("finished")

It can neither fail nor slow a training: nothing here raises, a line that cannot be written is counted in `dropped`
(`last_error` says why) and the next one is tried again.

Each line is one `os.write` on a file opened for appending, so lines of several processes never mix. Nothing is
flushed to the device per line: what `os.write` took is safe from a crash or kill of the process, only a power cut can
take the last seconds, and an fsync would make the loop wait for the disk (milliseconds against microseconds) to save
lines that no resume depends on.
"""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from ckpt_tui import __version__
from ckpt_tui.events.codec import MAX_LINE_BYTES, decode, encode
from ckpt_tui.events.launcher import recorded_launcher, start_argv
from ckpt_tui.events.schema import LOG_NAME, BadLine, Eval, Event, RunEnd, RunStart, Step
from ckpt_tui.process_identity import ProcessIdentity

TAIL_BYTES = 64 * 1024
# A tail without any event is searched backwards no further than this: a reader gives up on longer lines, too.
MAX_TAIL_BYTES = 4 * MAX_LINE_BYTES
# Numbers of a log that no run reaches are not continued.
MAX_SEQ = 2**53
MAX_SESSION = 1_000_000
# How often a log that could not be opened is tried again, and a renamed or replaced one is looked for.
LOOK_SECONDS = 1.0


class EventWriter:
    """The writer of `events.jsonl` in `directory`, which is made if it is missing.

    session: the number of this session; None is one more than the last in the log.
    clock: gives Unix seconds for `ts`.
    dropped: lines that could not be written so far. last_error: why the newest of them could not, "" for none.
    seq: the sequence number of the newest line.
    on_event: told of each event after it was written or dropped, on the thread that emits it; what it raises is lost.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        session: int | None = None,
        clock: Callable[[], float] = time.time,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.directory = os.fspath(directory)
        self.path = os.path.join(self.directory, LOG_NAME)
        self.dropped = 0
        self.last_error = ""
        self.seq = 0
        self.session = 1 if session is None else session
        self.on_event = on_event
        self._wants_next_session = session is None
        self._clock = clock
        self._last_step = 0
        # Reentrant: a signal handler may emit while the loop does.
        self._lock = threading.RLock()
        self._fd = -1
        self._size = 0
        self._needs_newline = False
        self._look_at = 0.0
        with self._lock:
            self._look()

    def emit(self, event: Event) -> bool:
        """Append `event`; its seq, ts and session are filled in. False when it could not be written. Never raises."""
        with self._lock:
            try:
                is_written = self._append(event)
            except Exception as error:  # noqa: BLE001  a training must not end because its log cannot be written
                is_written = self._drop(error)
        if self.on_event is not None:
            with contextlib.suppress(Exception):  # nor because somebody cannot bear what it tells
                self.on_event(event)
        return is_written

    def start(
        self,
        *,
        config: Mapping[str, Any] | None = None,
        total_steps: int = 0,
        run_name: str = "",
        argv: list[str] | None = None,
        start_step: int = 0,
        steps_per_epoch: int = 0,
        resumed_from: dict[str, Any] | None = None,
        rejected: list[dict[str, Any]] | None = None,
        lineage: list[dict[str, Any]] | None = None,
        versions: Mapping[str, str] | None = None,
        world_size: int = 1,
        **extra: Any,
    ) -> bool:
        """`run_start`, with what is known of this process and of what launched it. argv: the command that starts the
        same again, where that is known better."""
        try:
            launcher, me = recorded_launcher(), ProcessIdentity.of()
            event = RunStart(
                step=start_step,
                run_name=run_name or os.path.basename(os.path.abspath(self.directory)),
                config=dict(config or {}),
                argv=argv if argv is not None else start_argv(launcher),
                cwd=_cwd(),
                pid=me.pid,
                pid_started=me.pid_started,
                pid_birth=me.birth,
                host=me.host,
                world_size=world_size,
                versions={"python": platform.python_version(), "ckpt-tui": __version__, **(versions or {})},
                total_steps=total_steps,
                steps_per_epoch=steps_per_epoch,
                start_step=start_step,
                resumed_from=resumed_from,
                rejected=rejected or [],
                lineage=lineage or [],
                launcher={**launcher, "directory": os.path.realpath(self.directory)},
                extra=extra,
            )
        except Exception as error:  # noqa: BLE001  as in emit
            return self._drop(error)
        self._last_step = start_step
        return self.emit(event)

    def step(self, step: int, *, epoch: float | None = None, **metrics: Any) -> bool:
        """`step`: `step` optimizer steps are completed. Every number in `metrics` can be plotted."""
        self._last_step = step
        return self.emit(Step(step=step, epoch=epoch, metrics=metrics))

    def eval(self, step: int, *, epoch: float | None = None, seconds: float | None = None, **metrics: Any) -> bool:
        """`eval`: val_loss and other metrics after `step` steps; seconds: what the evaluation took."""
        self._last_step = step
        return self.emit(Eval(step=step, epoch=epoch, seconds=seconds, metrics=metrics))

    def end(self, status: str = "finished", reason: str = "", *, step: int | None = None) -> bool:
        """`run_end`; status: finished, interrupted, preempted, failed, diverged. The writer can still be used."""
        return self.emit(RunEnd(step=self._last_step if step is None else step, status=status, reason=reason))

    def close(self) -> None:
        """Let go of the file. A later `emit` opens it again."""
        with self._lock:
            fd, self._fd, self._look_at = self._fd, -1, 0.0
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, event: Event) -> bool:
        now = time.monotonic()
        if now >= self._look_at:
            self._look()
        if self._fd < 0:
            return self._drop(None)
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size != self._size:
            # Somebody else wrote, or cut the file: go on after their number.
            self._read_tail(size, self._size if size > self._size else 0)
        numbered = replace(event, seq=self.seq + 1, ts=self._clock(), session=self.session)
        try:
            line = encode(numbered)
        except (TypeError, ValueError):
            line = encode(_plain_event(numbered))
        if self._needs_newline:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._size = size + written
        if written != len(line):
            self._needs_newline = written > 0 or self._needs_newline
            return self._drop(OSError(f"{written} of {len(line)} bytes were written: the disk is full"))
        self._needs_newline = False
        self.seq += 1
        return True

    def _drop(self, error: Exception | None) -> bool:
        self.dropped += 1
        if error is not None:
            self.last_error = f"{type(error).__name__}: {error}"
        return False

    def _look(self) -> None:
        """Open the log if it is not open, or if its name now belongs to another file or to none."""
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            if self._fd >= 0:
                ours = os.fstat(self._fd)
                try:
                    named = os.stat(self.path)
                except FileNotFoundError:
                    named = None
                if named is not None and (named.st_ino, named.st_dev) == (ours.st_ino, ours.st_dev):
                    return
                os.close(self._fd)
                self._fd = -1
            os.makedirs(self.directory, exist_ok=True)
            # Not blocking: a name that is a FIFO must not stop a training.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(self.path, flags, 0o644)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(f"{self.path} is not a regular file")
            self._fd = fd
            self._read_tail(os.lseek(fd, 0, os.SEEK_END), 0)
        except OSError as error:
            self.last_error = f"{type(error).__name__}: {error}"

    def _read_tail(self, size: int, known: int) -> None:
        """Take seq (and the first time the session) from the newest events of the `size` bytes, `known` of them read.

        Only the end is read; further back only while there is no event in it.
        """
        self._size, self._needs_newline = size, False
        window, end = TAIL_BYTES, size
        while end > known:
            begin = max(size - window, known)
            data = os.pread(self._fd, size - begin, begin)
            if end == size:
                self._needs_newline = not data.endswith(b"\n")
            lines = data.split(b"\n")
            if begin > known:
                lines = lines[1:]  # its beginning is further back
            events = [event for line in lines if line and not isinstance(event := decode(line), BadLine)]
            numbered = [event for event in events if 0 < event.seq < MAX_SEQ]
            if events:
                self.seq = max(self.seq, *(event.seq for event in numbered), 0)
                last_session = max((event.session for event in events if event.session <= MAX_SESSION), default=0)
                if self._wants_next_session and last_session >= 0:
                    self.session = last_session + 1
                break
            if begin == known or window >= MAX_TAIL_BYTES:
                break
            end, window = begin, window * 4
        self._wants_next_session = False


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _plain_event(event: Event) -> Event:
    fields = {name: _plain(getattr(event, name), 0) for name in event.__struct_fields__}
    return type(event)(**fields)


def _plain(value: Any, depth: int) -> Any:
    """Something that JSON holds: numbers of numpy and torch as numbers, anything else that it does not know as text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if depth > 20:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    try:
        number = value.item()
    except Exception:  # noqa: BLE001  an object of somebody else: whatever it raises, it is not a number
        number = None
    if isinstance(number, (bool, int, float)):
        return number
    return str(value)
