"""Hugging Face's `trainer_state.json`: the whole history of a training, written again with every checkpoint.

The newest of `checkpoint-N/trainer_state.json` and the one beside them is read whenever another one is there or it was
written again; only what it adds is told. (transformers 4.x and 5.x, `TrainerState` in trainer_callback.py)
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, ClassVar

from ckpt_tui.events.schema import BadLine, Event
from ckpt_tui.sources.base import CHUNK_BYTES, Batch
from ckpt_tui.sources.rows import Facts, Row, Teller
from ckpt_tui.sources.values import number, whole

STATE_NAME = "trainer_state.json"
MAX_BYTES = 256 << 20
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})")
_SETTINGS = ("num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps")
_BYTES_AN_ENTRY = 200  # about


class TrainerStateSource:
    """Follows the `trainer_state.json` at `path`, or the newest one in a directory of checkpoints."""

    kind: ClassVar[str] = "Hugging Face trainer state"
    is_foreign: ClassVar[bool] = True

    def __init__(self, path: str, facts: Facts | None = None) -> None:
        self._path = path
        self._given = facts
        self._read_of: tuple[str, int, int, int] | None = None  # path, inode, time and size of what was read
        self._history: list[dict[str, Any]] = []
        self._num_told = 0
        self._bad: BadLine | None = None
        self._trouble = ""
        self._teller = Teller(self.kind, facts or Facts())

    @staticmethod
    def accepts(path: str, head: bytes) -> bool:
        """Whether a file that begins with `head` is one of ours: by its fields, which are written in their order."""
        text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        return text[:1] == b"{" and any(
            name in head for name in (b'"best_metric"', b'"best_model_checkpoint"', b'"log_history"')
        )

    @property
    def path(self) -> str:
        return self._path

    @property
    def unfinished(self) -> BadLine | None:
        """A file that is not whole: who wrote it died, or is at it."""
        return self._bad

    def skip_to_last(self, num_lines: int) -> None:
        """Nothing: the file is read as a whole."""

    def poll(self, max_bytes: int = CHUNK_BYTES) -> Batch:
        notices: list[str] = []
        restarted = self._look(notices)
        events: list[Event | BadLine] = []
        most = max(max_bytes // _BYTES_AN_ENTRY, 1)
        for entry in self._history[self._num_told : self._num_told + most]:
            self._tell(entry, events)
        self._num_told = min(self._num_told + most, len(self._history))
        is_caught_up = self._num_told == len(self._history)
        progress = self._num_told / len(self._history) if self._history else 1.0
        return Batch(events, tuple(notices), restarted and bool(events), is_caught_up, progress)

    def _look(self, notices: list[str]) -> bool:
        """Read the newest file if it is not what was read. Whether it tells another training than before."""
        path = newest_state(self._path)
        try:
            if path is None:
                raise FileNotFoundError
            facts = os.stat(path)
            stamp = (path, facts.st_ino, facts.st_mtime_ns, facts.st_size)
            if stamp == self._read_of:
                return False
            if facts.st_size > MAX_BYTES:
                raise OSError(f"{os.path.basename(path)} is larger than {MAX_BYTES >> 20} MiB")
            with open(path, "rb") as file:
                text = file.read(MAX_BYTES)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError)
            trouble = "the log is gone: it was deleted or moved" if is_gone else f"the log cannot be read: {error}"
            if trouble != self._trouble and (self._read_of is not None or not is_gone):
                notices.append(trouble)
                self._trouble = trouble
            return False
        self._trouble = ""
        self._read_of = stamp
        return self._take(text)

    def _take(self, text: bytes) -> bool:
        try:
            state = json.loads(text.decode("utf-8", "replace").strip("\x00\ufeff \r\n"))
        except (ValueError, RecursionError):
            self._bad = BadLine(reason="not whole: it is no JSON", start=text[:200], num_bytes=len(text))
            return False
        history = state.get("log_history") if isinstance(state, dict) else None
        if not isinstance(history, list):
            self._bad = BadLine(reason="no log_history in it", start=text[:200], num_bytes=len(text))
            return False
        self._bad = None
        entries = [entry for entry in history if isinstance(entry, dict)]
        told = self._history[: self._num_told]
        same = next((at for at, (old, new) in enumerate(zip(told, entries, strict=False)) if old != new), None)
        if same is None:
            same = min(len(told), len(entries))
        is_another = same == 0 and bool(told)
        if is_another:
            self._teller = Teller(self.kind, self._given or Facts())
        if len(entries) > same or same == len(told):
            # What an earlier checkpoint tells less is not taken back: a resume from there tells it again, or else.
            self._history, self._num_told = entries, same
        self._take_facts(state)
        return is_another

    def _take_facts(self, state: dict[str, Any]) -> None:
        facts = self._teller.facts
        facts.total_steps = max(whole(state.get("max_steps")) or 0, 0)
        settings = {name: state[name] for name in _SETTINGS if number(state.get(name)) is not None}
        facts.config = {**facts.config, **settings}

    def _tell(self, entry: dict[str, Any], events: list[Event | BadLine]) -> None:
        step = whole(entry.get("step"))
        row = Row(step=step, epoch=number(entry.get("epoch")))
        row.metrics = {
            str(name): value
            for name, item in entry.items()
            if name not in ("step", "epoch") and (value := number(item)) is not None
        }
        if "train_runtime" in row.metrics:
            row.end = "finished"
        if row.metrics or step is not None:
            events += self._teller.events(row)


def newest_state(path: str) -> str | None:
    """The file of the highest step at `path`: itself, beside the checkpoints or in one; None where there is none."""
    if os.path.isfile(path):
        return path
    found: list[tuple[float, int, str]] = []
    try:
        with os.scandir(path) as listing:
            for item in listing:
                match = _CHECKPOINT.fullmatch(item.name)
                place = os.path.join(item.path, STATE_NAME) if match else item.path if item.name == STATE_NAME else ""
                if not place:
                    continue
                try:
                    # By time, for a resume from an earlier checkpoint counts less than what it left behind.
                    found.append((os.stat(place).st_mtime, int(match[1]) if match else 0, place))
                except OSError:
                    continue
    except OSError:
        return None
    return max(found)[2] if found else None
