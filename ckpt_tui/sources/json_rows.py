"""JSON lines of other programs: one object a line, whose numbers are metrics.

LLaMA-Factory's `trainer_log.jsonl`, ms-swift's `logging.jsonl`, verl's file logger, OpenMMLab's `scalars.json`,
detectron2's `metrics.json`, MAE's `log.txt`, and anybody's own. Nested objects are told by names with a slash.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from ckpt_tui.sources.lines import LineParser, LinesSource
from ckpt_tui.sources.rows import MAX_METRICS, Facts, Row
from ckpt_tui.sources.values import is_zoned, moment, number, span_s, whole

_STEP_NAMES = (
    "step", "global_step", "current_steps", "_step", "iteration", "iter", "train/global_step", "trainer/global_step",
    "update", "num_updates", "steps",
)  # fmt: skip
_TOTAL_NAMES = ("total_steps", "max_steps", "total_iters", "max_iters", "train_iters", "num_training_steps")
_EPOCH_NAMES = ("epoch", "train/epoch")
_MOMENT_NAMES = ("ts", "timestamp", "wall_time", "_timestamp", "time", "datetime", "date", "created_at")
_ELAPSED_NAMES = ("elapsed_time", "_runtime", "elapsed")
# Told besides, and no metric: what they say is in the progress.
_NOT_METRICS = frozenset({"percentage", "remaining_time", "eta", "eta_seconds", "seq", "session"})
_OF_STEP = "global_step/max_steps"  # ms-swift: "5/42"
_MAX_DEPTH = 4


class JsonRowParser:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._counts_steps = False
        self._num_rows = 0

    @property
    def needs_all(self) -> bool:
        return self._num_rows > 0

    def names(self) -> Iterable[str]:
        return ()

    def parse(self, line: bytes) -> Iterable[Row | str]:
        text = line.decode("utf-8", "replace").strip("\x00\ufeff \t\r\n")
        if not text:
            return ()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return ("not JSON",)
        if not isinstance(value, dict):
            return ("not a JSON object",)
        fields = dict(_flat(value))
        row = Row()
        self._place(fields, row)
        row.metrics = {
            name: found
            for name, item in fields.items()
            if name not in _NOT_METRICS and (found := number(item)) is not None
        }
        if "train_runtime" in row.metrics:
            row.end = "finished"  # transformers' last line, which ms-swift writes here
        if not row.metrics and row.step is None:
            return ()  # settings, or a text: nothing to plot, and nothing wrong
        if row.step is None and not self._counts_steps:
            self._count(row)
        return (row,)

    def _place(self, fields: dict[str, Any], row: Row) -> None:
        """Where and when the row is, taken out of its fields."""
        if isinstance(both := fields.pop(_OF_STEP, None), str):
            step, _, total = both.partition("/")
            row.step, self.facts.total_steps = whole(step), whole(total) or self.facts.total_steps
        for name in _STEP_NAMES:
            if row.step is None and name in fields and (step_ := whole(fields[name])) is not None:
                row.step = step_
                del fields[name]
        for name in _TOTAL_NAMES:
            if name in fields and (total_ := whole(fields.pop(name))) is not None and total_ > 0:
                self.facts.total_steps = total_
        self._counts_steps = self._counts_steps or row.step is not None
        for name in _EPOCH_NAMES:
            if row.epoch is None and name in fields:
                row.epoch = number(fields.pop(name))
        for name in _MOMENT_NAMES:
            if row.ts is None and name in fields and (ts := moment(fields[name])) is not None:
                row.ts, row.is_zoned = ts, is_zoned(fields[name])
                del fields[name]
        for name in _ELAPSED_NAMES:
            if row.elapsed_s is None and name in fields:
                said = fields.pop(name)
                row.elapsed_s = said if isinstance(said, float) else span_s(said)

    def _count(self, row: Row) -> None:
        """No line so far counts steps: the epochs are the steps, or the lines themselves."""
        self._num_rows += 1
        if row.epoch is not None and row.epoch.is_integer():
            self.facts.step_unit = "epoch"
            row.step = int(row.epoch)
        else:
            self.facts.step_unit = "row"
            row.step = self._num_rows


def _flat(value: dict[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Fields with those of nested objects, as `outer/inner`; verl's `data` is no part of a name."""
    for number_, (key, item) in enumerate(value.items()):
        if number_ > MAX_METRICS:
            return
        name = f"{before}{key}"
        if isinstance(item, dict):
            if depth < _MAX_DEPTH:
                yield from _flat(item, before if name == "data" else f"{name}/", depth + 1)
        else:
            yield name, item


class JsonRowsSource(LinesSource):
    """Any JSON lines that are not events of ours."""

    kind: ClassVar[str] = "JSON lines"

    def make_parser(self, facts: Facts) -> LineParser:
        return JsonRowParser(facts)

    @staticmethod
    def accepts(path: str, head: bytes) -> bool:
        """Whether whole lines of `head` are objects, none of them an event of ours, one with a number."""
        lines = head.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        whole_lines = lines[:-1] if len(lines) > 1 else lines
        has_number = False
        for line in whole_lines:
            text = line.strip(b"\x00 \t\r")
            if not text:
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if not isinstance(value, dict):
                continue
            if isinstance(value.get("event"), str):
                return False
            has_number = has_number or any(number(item) is not None for _, item in _flat(value))
        return has_number
