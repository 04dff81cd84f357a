"""Tables of comma-separated values: Lightning's `metrics.csv`, Ultralytics' `results.csv`, Keras, timm, litgpt.

A row need not fill all columns. Lightning writes the whole file again when a metric comes that its header does not
have: it is read again then, and told anew. Where a table counts no steps its epochs are the steps.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from typing import ClassVar

from ckpt_tui.sources.lines import LineParser, LinesSource
from ckpt_tui.sources.rows import Facts, Row
from ckpt_tui.sources.values import is_zoned, moment, number, span_s, whole

STEP_NAMES = ("step", "global_step", "train/global_step", "trainer/global_step", "iteration", "iter", "update", "batch")
_EPOCH_NAMES = ("epoch", "train/epoch")
_MOMENT_NAMES = ("timestamp", "wall_time", "_timestamp", "created_at", "datetime", "date")
_ELAPSED_NAMES = ("elapsed_time", "elapsed", "_runtime", "total_time")
MAX_COLUMNS = 2000
_MEASURE = re.compile(r"[\w/.()-]*(?:loss|acc)[\w/.()-]*")
_NAME = re.compile(r"(?=.*[A-Za-z])(?![\d.+-]+[eE]?[\d+-]*$)[\w./()@%#&|+* \[\]-]{1,100}")


class CsvParser:
    """The first line is the header; a later line that holds its first names is one, too."""

    def __init__(self, facts: Facts, *, counts_from_zero: bool = False) -> None:
        self.facts = facts
        self._counts_from_zero = counts_from_zero  # the step of a row is the batch, not the number that are done
        self._header: list[str] = []
        self._step = self._epoch = self._moment = self._elapsed = -1
        self._first_epoch: float | None = None
        self._num_rows = 0

    @property
    def needs_all(self) -> bool:
        return self._step < 0 and self._epoch < 0

    def names(self) -> Iterable[str]:
        return self._header

    def parse(self, line: bytes) -> Iterable[Row | str]:
        text = line.decode("utf-8", "replace").strip("\x00\ufeff \r\n")
        if not text:
            return ()
        if '"' in text:
            try:
                cells = next(csv.reader((text.replace("\x00", ""),)), [])
            except (csv.Error, StopIteration):
                return ("not a row of a table",)
        else:
            cells = text.split(",")
        if not self._header:
            return self._take_header([cell.strip() for cell in cells])
        if cells[0].strip() == self._header[0] and [cell.strip() for cell in cells] == self._header:
            return ()  # an appended table tells its header again
        if len(cells) != len(self._header):
            return (f"{len(cells)} values for {len(self._header)} columns",)
        return self._row(cells)

    def _take_header(self, names: list[str]) -> Iterable[Row | str]:
        if not is_header(names):
            return ("no names of columns",)
        self._header = names

        def place(wanted: Iterable[str]) -> int:
            lower = [name.lower() for name in names]
            return next((lower.index(name) for name in wanted if name in lower), -1)

        self._step, self._epoch = place(STEP_NAMES), place(_EPOCH_NAMES)
        self._moment, self._elapsed = place(_MOMENT_NAMES), place(_ELAPSED_NAMES)
        if self._elapsed < 0 and self._step < 0 and any(name.startswith("train/") for name in names):
            self._elapsed = place(("time",))  # Ultralytics: seconds since the start
        if self._step < 0:
            self.facts.step_unit = "epoch" if self._epoch >= 0 else "row"
        return ()

    def _row(self, cells: list[str]) -> Iterable[Row | str]:
        numbers = [number(cell) for cell in cells]
        step = epoch = None
        if self._epoch >= 0:
            epoch = numbers[self._epoch]
            if epoch is None and cells[self._epoch].strip():
                return (f"the epoch is no number: {cells[self._epoch][:40]}",)
            if self._first_epoch is None:
                self._first_epoch = epoch
        if self._step >= 0:
            step = whole(cells[self._step])
            if step is not None and self._counts_from_zero:
                step += 1
            if step is None and cells[self._step].strip():
                return (f"the step is no whole number: {cells[self._step][:40]}",)
        elif epoch is not None:
            # Keras and timm count from 0, Ultralytics from 1: what is told after the first is one done.
            step = whole(epoch + 1 if self._first_epoch == 0 else epoch)
            if step is None:
                return ("the epoch is no whole number",)
        elif self._epoch < 0:
            self._num_rows += 1
            step = self._num_rows
        else:
            return ("no epoch",)
        apart = {self._step, self._epoch, self._moment, self._elapsed}
        metrics = {
            name: value
            for at, (name, value) in enumerate(zip(self._header, numbers, strict=True))
            if value is not None and at not in apart
        }
        ts = moment(cells[self._moment]) if self._moment >= 0 else None
        if ts is None and self._moment >= 0:
            ts = moment(numbers[self._moment])
        elapsed_s = None
        if self._elapsed >= 0:
            elapsed_s = numbers[self._elapsed]
            elapsed_s = elapsed_s if elapsed_s is not None else span_s(cells[self._elapsed])
        is_sure = self._moment >= 0 and is_zoned(cells[self._moment])
        return (Row(metrics, step, epoch, ts, is_sure, elapsed_s),)


def is_header(names: list[str]) -> bool:
    """Whether the cells of a line can be the names of a training's columns."""
    if not 2 <= len(names) <= MAX_COLUMNS or not all(map(_NAME.fullmatch, names)):
        return False
    lower = {name.lower() for name in names}
    counts = bool(lower & {*STEP_NAMES, *_EPOCH_NAMES})
    return len(lower) == len(names) and (counts or any(map(_MEASURE.fullmatch, lower)))


class CsvSource(LinesSource):
    """A table that grows by rows, or is written again with more columns."""

    kind: ClassVar[str] = "CSV"

    def make_parser(self, facts: Facts) -> LineParser:
        return CsvParser(facts, counts_from_zero=self._is_lightning())

    def _is_lightning(self) -> bool:
        """Lightning's step is the number of the batch that was trained last (loggers/csv_logs.py, 2.6)."""
        if os.path.basename(self._path) != "metrics.csv":
            return False
        beside = os.path.dirname(os.path.abspath(self._path))
        return os.path.exists(os.path.join(beside, "hparams.yaml")) or os.path.basename(beside).startswith("version_")

    @staticmethod
    def accepts(path: str, head: bytes) -> bool:
        """Whether a file that begins with `head` is one of ours: its first line names a step, an epoch or a loss."""
        first = head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0].strip(b"\r ")
        if b"," not in first or b"\x00" in first or first[:1] in (b"{", b"["):
            return False
        try:
            names = next(csv.reader((first.decode("utf-8"),)), [])
        except (csv.Error, UnicodeDecodeError, StopIteration):
            return False
        return is_header([name.strip() for name in names])
