"""Who is alive, and at which step: each rank tells it in the store that torchrun (or rank 0) serves.

When an exchange between ranks fails, the library says which connection broke, and that is often not the rank that is
to blame: its victims fail one after the other. So each rank notes here how it ended, and who did not note anything
and does not beat any more, or beats and does not come, is the one to name.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

BEAT_SECONDS = 0.5
# How long those that are left wait for what the others note before they name anybody.
SILENT_SECONDS = 6 * BEAT_SECONDS
# A rank that was not heard of for so long then is taken for dead; on a machine that is busy its thread may come late.
DEAD_SECONDS = 4 * SILENT_SECONDS
# How long the rank that serves the store stays for those that have not looked yet.
LEAVE_SECONDS = 10.0


class Store(Protocol):
    """What is used of torch's stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class LostRank:
    """A rank that is to blame. step: the last one that it was heard of at; None: it never was."""

    rank: int
    step: int | None
    why: str

    def __str__(self) -> str:
        at = f" at step {self.step}" if self.step is not None else ""
        return f"rank {self.rank} {self.why}{at}"


@dataclass(frozen=True)
class _Beat:
    """What a rank told last. number: rises with each beat."""

    number: int
    step: int
    pid: int
    host: str


class Heartbeat:
    """Beats in a thread until `stop`. step: to be kept up to date by the owner.

    limit_seconds: when the owner calls `progress` no more for so long, `on_stuck` is called, once, in the thread.
    """

    def __init__(
        self, store: Store, rank: int, size: int, *, limit_seconds: float, on_stuck: Callable[[], None]
    ) -> None:
        self.rank, self.size, self.step = rank, size, 0
        self._store = store
        self._limit_seconds, self._on_stuck = limit_seconds, on_stuck
        self._progress_at = time.monotonic()
        self._number = 0
        self._stopping = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def progress(self) -> None:
        """The owner is not stuck."""
        self._progress_at = time.monotonic()

    def note_failure(self, why: str, *, is_own: bool) -> None:
        """This rank ends. is_own: by an error of its own, and not because another one is missing."""
        with contextlib.suppress(Exception):  # the store may be what is gone
            self._store.set(f"failed/{self.rank}", json.dumps({"step": self.step, "why": why, "is_own": is_own}))

    def leave_words(self, words: bytes) -> None:
        """What this rank has that others need after its end. Before `note_failure`: then they look for it."""
        with contextlib.suppress(Exception):
            self._store.set(f"words/{self.rank}", base64.b64encode(words).decode())

    def last_words(self, seconds: float = SILENT_SECONDS) -> list[bytes] | None:
        """What every rank left, by rank, waited for; None when one did not."""
        deadline = time.monotonic() + seconds
        keys = [f"words/{rank}" for rank in range(self.size)]
        try:
            while not self._store.check(keys):
                if time.monotonic() >= deadline:
                    return None
                time.sleep(BEAT_SECONDS / 5)
            return [base64.b64decode(self._store.get(key)) for key in keys]
        except Exception:  # noqa: BLE001  the store is gone
            return None

    def find_lost(self, grace_seconds: float = SILENT_SECONDS) -> list[LostRank]:
        """The ranks that are to blame for a failed exchange, after waiting for what the others note; empty: unknown."""
        try:
            return self._find_lost(grace_seconds)
        except Exception:  # noqa: BLE001  the store is gone, too, with the rank that served it
            return []

    def note_looked(self) -> None:
        """This rank knows who is lost: nobody has to stay for it."""
        with contextlib.suppress(Exception):
            self._store.set(f"looked/{self.rank}", "1")

    def let_others_look(self, ranks: Iterable[int], seconds: float = LEAVE_SECONDS) -> None:
        """Until each of `ranks` knows who is lost or has ended: with the rank that serves it, the store goes."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(Exception):
            for rank in ranks:
                while not self._store.check([f"looked/{rank}"]) and not _process_state(self._read_beat(rank)):
                    if time.monotonic() >= deadline:
                        return
                    time.sleep(BEAT_SECONDS / 10)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _find_lost(self, grace_seconds: float) -> list[LostRank]:
        others = [rank for rank in range(self.size) if rank != self.rank]
        first = {rank: self._read_beat(rank) for rank in others}
        began = time.monotonic()
        while True:
            failures = {rank: found for rank in others if (found := self._read(f"failed/{rank}")) is not None}
            own = [
                LostRank(rank, found["step"], f"failed ({found['why']})")
                for rank, found in failures.items()
                if found["is_own"]
            ]
            gone = [
                LostRank(rank, self._step_of(beat), state)
                for rank, beat in first.items()
                if rank not in failures and (state := _process_state(beat))
            ]
            if own or gone:
                return sorted([*own, *gone], key=lambda lost: lost.rank)
            left = [rank for rank in others if rank not in failures]
            waited = time.monotonic() - began
            if not left or (waited >= grace_seconds and all(self._beats(rank, first[rank]) for rank in left)):
                break
            if waited >= grace_seconds * DEAD_SECONDS / SILENT_SECONDS:
                break
            time.sleep(BEAT_SECONDS / 5)
        return self._silent_or_absent(left, first)

    def _beats(self, rank: int, before: _Beat | None) -> bool:
        """Whether it was heard of since."""
        now = self._read_beat(rank)
        return now is not None and (before is None or now.number != before.number)

    def _silent_or_absent(self, ranks: Iterable[int], first: dict[int, _Beat | None]) -> list[LostRank]:
        """Of those that noted nothing: who does not beat any more, or, if all do, who beats and did not come."""
        silent, absent = [], []
        for rank in ranks:
            before, now = first[rank], self._read_beat(rank)
            if now is None:
                silent.append(LostRank(rank, None, "was never there"))
            elif before is not None and now.number == before.number:
                silent.append(LostRank(rank, self._step_of(now), f"was not heard of for {DEAD_SECONDS:g} s"))
            else:
                absent.append(LostRank(rank, now.step, "hangs (it is alive, and did not come)"))
        return silent or absent

    def _step_of(self, beat: _Beat | None) -> int | None:
        """The step of a rank that does not beat any more: it came to every exchange before this one."""
        return max(beat.step, self.step) if beat is not None else None

    def _run(self) -> None:
        is_told = is_store_gone = False
        while not self._stopping.wait(BEAT_SECONDS):
            try:
                if not is_store_gone:
                    self._beat()
            except Exception:  # noqa: BLE001  not again: torch prints a page for each call to a store that is gone
                is_store_gone = True
            if not is_told and time.monotonic() - self._progress_at > self._limit_seconds:
                is_told = True
                self._on_stuck()

    def _beat(self) -> None:
        self._number += 1
        beat = {"number": self._number, "step": self.step, "pid": os.getpid(), "host": socket.gethostname()}
        self._store.set(f"beat/{self.rank}", json.dumps(beat))

    def _read_beat(self, rank: int) -> _Beat | None:
        found = self._read(f"beat/{rank}")
        return _Beat(**found) if found is not None else None

    def _read(self, key: str) -> dict[str, Any] | None:
        # `get` waits for a key that nobody has set.
        return dict(json.loads(self._store.get(key))) if self._store.check([key]) else None


def _process_state(beat: _Beat | None) -> str:
    """What is wrong with a process of this machine, "" when it runs or lives elsewhere."""
    if beat is None or beat.host != socket.gethostname():
        return ""
    try:
        letter = Path(f"/proc/{beat.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except FileNotFoundError:
        return "is gone: its process ended" if os.path.exists("/proc/self/stat") else ""
    except (OSError, IndexError):
        return ""
    return {b"Z": "is gone: its process ended", b"X": "is gone: its process ended", b"T": "hangs: it is stopped"}.get(
        letter, ""
    )
