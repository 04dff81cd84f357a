"""What a training printed: a log file or a redirected terminal, read line by line.

Known programs are read by their patterns (`text_patterns.py`), others by what looks like `key: number`. A Hugging Face
log shows dictionaries without a step over a progress bar: the step is that of the bar drawn next, which is drawn again
after every line, or the last one's where none follows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import ClassVar

from ckpt_tui.sources.lines import LineParser, LinesSource
from ckpt_tui.sources.rows import Facts, Row
from ckpt_tui.sources.text_patterns import PATTERNS, line_moment, pairs
from ckpt_tui.sources.values import number, span_s, whole

MAX_LINE = 20_000
MAX_MESSAGE = 500

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_RANK = re.compile(r"^\s*\[(?:rank|default)?\d+\]:?\s?")  # torchrun, srun --label
_NESTED = b"\x1b[A"  # a bar below another one goes back up
_BAR = re.compile(
    r"^(?P<what>[^|]*?)\s*\d+%\|[^|]*\|\s*(?P<n>\d+)/(?P<total>\d+) \[(?P<past>[\d:]+)<(?P<left>[^,\]]*)"
    r"(?P<more>[^\]]*)\]?"
)
_BAR_EPOCH = re.compile(r"epoch\D{0,3}(\d+)(?:\s*/\s*(\d+))?", re.IGNORECASE)
_DICT = re.compile(r"\{.*\}")
_NONFINITE_WORD = re.compile(r"(?<![\w'\"])([-+]?)(nan|inf)(?![\w'\"])")
_SAVED = re.compile(
    r"\b(?:sav(?:ed|ing)|wrote|writing)\b(?P<what>.*?)\b(?:to|at|in|as|under)\b:?\s+[`'\"]?(?P<path>[^\s'\"`,;]+)",
    re.IGNORECASE,
)
_SAVE_WORDS = re.compile(r"check ?point|ckpt|weights|model|state", re.IGNORECASE)
_PATH = re.compile(r"[/\\]|\.(?:pt|pth|ckpt|bin|safetensors)\b")
_PATH_STEP = re.compile(r"(?:step|iter|checkpoint|ckpt)[s=_-]*0*(\d{1,18})", re.IGNORECASE)
_MEGATRON_SAVED = re.compile(r"successfully saved checkpoint (?:from|at) iteration\s+(\d+) to (\S+)")
_TITAN_SAVED = re.compile(r"Finished saving the checkpoint|Saving the checkpoint", re.IGNORECASE)
_ENDS = (
    (re.compile(r"`?Trainer\.fit`? stopped: `?(max_\w+=\S+?)`? reached"), "finished"),
    (re.compile(r"^(?:.*\s)?Training completed\b"), "finished"),
    (re.compile(r"\[after training is done\]"), "finished"),
    (re.compile(r"^Training time: [\d.]+s$"), "finished"),
    (re.compile(r"\b\d+ epochs completed in [\d.]+ hours"), "finished"),
)
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"^([A-Za-z_][\w.]*)(?::\s?(.*))?$")
_LOOKS = re.compile(r"\d")
_MAY_SAVE = re.compile(r"[Ss]av(?:ed|ing)|SAV|[Ww]r(?:ote|iting) ")
_MAY_END = re.compile(r"reached|ompleted|is done\]|Training time")
_MAX_HEAD_LINES = 2000


class TextParser:
    """Remembers the bar, the dictionary that waits for its step, and a traceback that is not at its end."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.num_rows = 0
        self._pattern = 0  # which one matched last: tried first
        self._bar_step: int | None = None
        self._bar_total = 0
        self._bar_past_s: float | None = None
        self._waiting: Row | None = None
        self._is_hugging_face = False
        self._own_bar: tuple[int, int, int] | None = None  # steps before it, its newest, its total
        self._in_traceback = False
        self._was_save = False
        self._num_dicts = 0
        self._newest_step = -1  # that the bar told

    @property
    def needs_all(self) -> bool:
        return self._num_dicts > 0 or self._own_bar is not None

    @property
    def is_waiting(self) -> bool:
        """Whether a row is held back until its step is told."""
        return self._waiting is not None

    def names(self) -> Iterable[str]:
        return ()

    def parse(self, line: bytes) -> Iterable[Row | str]:
        if not line or len(line) > MAX_LINE:
            return
        is_nested = _NESTED in line
        text = line.decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        if "]" in text[:12]:
            text = _RANK.sub("", text, count=1)
        text = text.rstrip("\x00 \t")
        if not text.strip("\x00 \t"):
            return
        for row in self._rows(text, is_nested):
            self.num_rows += 1
            yield row

    def _rows(self, text: str, is_nested: bool) -> Iterator[Row]:
        if self._in_traceback or _TRACEBACK in text:
            yield from self._of_traceback(text)
            return
        bar = _BAR.match(text) if "%|" in text else None
        if bar is not None:
            told = [] if is_nested else list(self._of_bar(bar))
            # Printed while the bar stood there: the bar's line was not ended.
            after = list(self._rows_after(text[bar.end() :].strip()))
            steps = {row.step for row in after}
            yield from (row for row in told if row.metrics or row.step not in steps)
            yield from after
            return
        if "{'" in text and (found := _DICT.search(text)) is not None and (row := self._of_dict(found[0])) is not None:
            yield from self._let_go()
            self._waiting = row
            is_full = self._is_hugging_face and self._bar_step == self._bar_total
            # Nothing is drawn after the last one, nor after a full bar, nor where there are no bars.
            if row.end or row.step is not None or self._bar_step is None or is_full:
                yield from self._let_go()
            return
        row = (self._of_save(text) if _MAY_SAVE.search(text) else None) or (
            self._of_end(text) if _MAY_END.search(text) else None
        )
        if row is None and _LOOKS.search(text):
            row = self._of_patterns(text)
        if row is not None:
            row.ts = line_moment(text)
            yield from self._let_go()
            yield row

    def _rows_after(self, text: str) -> Iterator[Row]:
        if text:
            yield from self._rows(text, is_nested=False)
            yield from self._let_go()

    def _of_patterns(self, text: str) -> Row | None:
        order = (self._pattern, *(at for at in range(len(PATTERNS)) if at != self._pattern))
        # The fallback would take other programs' lines, too: it is never the first while another may match.
        for at in order if self._pattern != len(PATTERNS) - 1 else range(len(PATTERNS)):
            row = PATTERNS[at](text)
            if row is None or (row.step is None and not self.num_rows):
                continue
            if row.step_unit == "epoch" and self.num_rows and self.facts.step_unit != "epoch":
                return None  # where steps are counted, a line of an epoch is not one
            self._pattern = at
            if not self.num_rows:
                self.facts.step_unit = row.step_unit
            self.facts.total_steps = row.total_steps or self.facts.total_steps
            self.facts.steps_per_epoch = row.steps_per_epoch or self.facts.steps_per_epoch
            return row
        return None

    def _of_bar(self, bar: re.Match[str]) -> Iterator[Row]:
        step, total, past_s = int(bar["n"][:18]), int(bar["total"][:18]), span_s(bar["past"])
        postfix = {name.strip(): value for name, value in pairs(bar["more"].replace(",", " , ")).items()}
        if postfix:
            yield from self._of_own_bar(bar, step, total, postfix)
            return
        if bar["what"].strip():
            return  # data that is prepared, shards that are loaded
        if self._waiting is None and not self._is_hugging_face:
            self._bar_step, self._bar_total, self._bar_past_s = step, total, past_s
            return
        if self._is_hugging_face and self._bar_total and total != self._bar_total:
            return  # of an evaluation
        self._bar_step, self._bar_total, self._bar_past_s = step, total, past_s
        self.facts.total_steps = total
        told = list(self._let_go())
        yield from told
        if not told and step > self._newest_step:
            yield Row(step=step, elapsed_s=past_s)
        self._newest_step = step

    def _of_own_bar(self, bar: re.Match[str], step: int, total: int, postfix: dict[str, float]) -> Iterator[Row]:
        """A bar with metrics at its end, one for each epoch: Lightning's, and what many loops have."""
        epoch = _BAR_EPOCH.search(bar["what"])
        if bar["what"].strip() and epoch is None:
            return
        metrics = {name: value for name, value in postfix.items() if name not in ("v_num", "s/it", "it/s")}
        if not metrics:
            return
        before, newest, last_total = self._own_bar or (0, 0, total)
        if epoch is not None:
            before = int(epoch[1][:9]) * total
        elif step < newest:
            before += last_total
        self._own_bar = (before, step, total)
        self.facts.steps_per_epoch = total
        yield Row(metrics, before + step, float(epoch[1][:9]) if epoch is not None else None)

    def _let_go(self) -> Iterator[Row]:
        """Tell the dictionary that waited for its step."""
        row, self._waiting = self._waiting, None
        if row is None:
            return
        self._is_hugging_face = True
        if row.step is None and self._bar_step is not None:
            row.step, row.elapsed_s = self._bar_step, self._bar_past_s
            self.facts.total_steps = self._bar_total or self.facts.total_steps
        elif row.step is None and "loss" in row.metrics:
            self._num_dicts += 1
            row.step, self.facts.step_unit = self._num_dicts, "row"
        yield row

    def _of_dict(self, text: str) -> Row | None:
        """`{'loss': '0.693', 'epoch': '1.2'}` of transformers 5, numbers without quotes before; bare nan and inf."""
        if not text.startswith("{'") or len(text) < 8:
            return None
        if "loss" not in text and "runtime" not in text and "reward" not in text:
            return None
        try:
            value = ast.literal_eval(_NONFINITE_WORD.sub(r"'\1\2'", text))
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return None
        if not isinstance(value, dict):
            return None
        row = Row()
        for name, item in value.items():
            found = number(item)
            if name == "global_step/max_steps" and isinstance(item, str):  # ms-swift: "5/42"
                step, _, total = item.partition("/")
                row.step, self.facts.total_steps = whole(step), whole(total) or self.facts.total_steps
            elif name == "elapsed_time":
                row.elapsed_s = span_s(item)
            if not isinstance(name, str) or found is None:
                continue
            if name in ("step", "global_step"):
                row.step = whole(found)
            elif name == "epoch":
                row.epoch = found
            else:
                row.metrics[name] = found
        if "train_runtime" in row.metrics:
            row.end = "finished"
        return row if row.metrics else None

    def _of_save(self, text: str) -> Row | None:
        if match := _MEGATRON_SAVED.search(text):
            step = int(match[1])
            return Row(step=step, is_save=True, saved=f"{match[2].rstrip('/')}/iter_{step:07d}")
        if _TITAN_SAVED.search(text):
            is_end = "inished" in text
            was, self._was_save = self._was_save, not is_end
            return Row(is_save=True) if not (is_end and was) else None
        match = _SAVED.search(text)
        if match is None or not _SAVE_WORDS.search(match["what"] + match["path"]):
            return None
        path = match["path"].rstrip(".:)")
        if not _PATH.search(path) and "checkpoint" not in match["what"].lower():
            return None
        step_in = _PATH_STEP.findall(path)
        return Row(step=int(step_in[-1]) if step_in else None, is_save=True, saved=path)

    def _of_end(self, text: str) -> Row | None:
        for pattern, status in _ENDS:
            if match := pattern.search(text):
                return Row(end=status, reason=match[1] if match.groups() else "")
        return None

    def _of_traceback(self, text: str) -> Iterator[Row]:
        if _TRACEBACK in text:
            self._in_traceback = True
            return
        if text[:1] in (" ", "\t"):
            return
        self._in_traceback = False
        raised = _RAISED.match(text)
        if raised is not None:
            yield from self._let_go()
            yield Row(error=(raised[1][:100], (raised[2] or "")[:MAX_MESSAGE]))


class TextLogSource(LinesSource):
    """A text log of a training, known or not."""

    kind: ClassVar[str] = "text log"
    ends_at_return: ClassVar[bool] = True

    def make_parser(self, facts: Facts) -> LineParser:
        return TextParser(facts)

    @staticmethod
    def accepts(path: str, head: bytes) -> bool:
        """Whether a line of `head` says how a training stands."""
        if head.count(b"\x00") > len(head) // 2 or head.lstrip()[:2] == b'{"' or path.endswith((".jsonl", ".ndjson")):
            return False
        parser = TextParser(Facts())
        lines = head.replace(b"\r", b"\n").split(b"\n")[:_MAX_HEAD_LINES]
        return any(row.metrics or row.step is not None for line in lines for row in parser.parse(line)
                   if isinstance(row, Row)) or parser.is_waiting  # fmt: skip
