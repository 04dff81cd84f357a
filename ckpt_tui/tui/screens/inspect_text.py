"""The inspect screen's lines around its lists, as text: what the file is, and what is under the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from ckpt_tui.checkpoints.contents import PartFile, files_of
from ckpt_tui.checkpoints.model import Checkpoint, Finding, GlobalRef, Severity, TensorInfo
from ckpt_tui.checkpoints.weights_only import WeightsOnly, weights_only
from ckpt_tui.errors import CkptError
from ckpt_tui.records import dataclass
from ckpt_tui.text import cell_width, count, fit, metric, plural, short_count, size
from ckpt_tui.tui.screens.inspect_rows import Fact, optimizer_facts, progress_words, safety_words, when
from ckpt_tui.tui.state_tree import Node, StateTree
from ckpt_tui.tui.styled import Part, histogram_bars, line, lines, parts_width, spread
from ckpt_tui.tui.tensor_table import TensorTable, full_name
from ckpt_tui.tui.value_words import summary
from ckpt_tui.tui.weights import Weight, Weights
from ckpt_tui.tui.widgets.virtual_list import fit_cell

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.values import TensorStatistics


HISTOGRAM_LINES = 4  # where the terminal is high


@dataclass(frozen=True, slots=True, repr=False)
class Opened:
    """What the opening worker hands over: the checkpoint and what is slow to derive from it."""

    checkpoint: Checkpoint
    table: TensorTable
    tree: StateTree
    weights: Weights
    files: Sequence[PartFile]
    weights_only: WeightsOnly
    _optimizer: list[Fact] = field(default_factory=list)

    def prepare(self) -> None:
        """What a filter, a sort and the other views need: for a worker."""
        import gc

        from ckpt_tui.checkpoints.garbage import GarbageHeld

        with GarbageHeld():
            self.table.prepare()
            self.tree.prepare()
            self.optimizer_facts()
            gc.freeze()  # as in `open_for_inspection`: a collection of all of it stopped the screen for 50 ms

    def optimizer_facts(self) -> list[Fact]:
        """Made once: it joins every moment with its parameter."""
        if not self._optimizer:
            self._optimizer.extend(optimizer_facts(self.checkpoint))
        return self._optimizer


def open_for_inspection(path: str) -> Opened:
    """Read `path` and derive what the views need. Runs in a thread."""
    import gc

    from ckpt_tui.checkpoints.garbage import GarbageHeld
    from ckpt_tui.checkpoints.registry import open_checkpoint

    with GarbageHeld():
        opened = derive(open_checkpoint(path))
        # Half a million objects that stay: the collector, which stops the screen for 50 ms each time, need not see
        # them.
        gc.freeze()
    return opened


def derive(checkpoint: Checkpoint) -> Opened:
    weights = Weights(checkpoint.tensors)
    files = files_of(checkpoint)
    tree = StateTree(checkpoint.state, weights, files=files)
    tree.open_weights()
    return Opened(checkpoint, TensorTable(checkpoint), tree, weights, files, weights_only(checkpoint))


def unopened_content(path: str, words: str, width: int) -> Content:
    return lines(line((_fit(Path(path).name or path, width), "strong")), line(words))


def facts_content(path: str, opened: Opened, width: int) -> Content:
    """Two lines: name, format, size, when it was saved, whether it is safe; then how far training was, how big it is.

    In a narrow terminal the date goes first, then everything of the first line but the name and the verdict.
    """
    checkpoint = opened.checkpoint
    name = Path(path).name or path
    verdict = safety_words(checkpoint)
    is_damaged = any(finding.severity is Severity.ERROR for finding in checkpoint.findings)
    damage: list[Part] = [("✖ damaged (f says how)", "error"), "  "] if is_damaged else []
    saved_at = when(checkpoint.progress.get("saved_at"))
    for saved in (f" · saved {saved_at}", f" · saved {saved_at[11:]}", "") if saved_at else ("",):
        right: list[Part] = [(f"{checkpoint.format} · {size(checkpoint.size_bytes)}{saved} · ", "dim"), verdict]
        if opened.files:
            right[:0] = _files_words(opened.files)
        room = width - parts_width(right) - 2
        if room >= min(len(name), 24):
            top = spread([(_fit(name, room), "strong")], right, width)
            return lines(top, _progress_line(opened, damage, width))
    return lines(line((_fit(name, width), "strong")), _progress_line(opened, [verdict, "  ", *damage], width))


def _files_words(files: Sequence[PartFile]) -> list[Part]:
    num_missing = sum(file.is_missing for file in files)
    faults: list[Part] = []
    for number, what in ((num_missing, "missing"), (sum(file.is_unreadable for file in files), "unreadable")):
        faults += [(f"{number:,} {what}", "error"), (" · ", "dim")] if number else []
    return [(f"{plural(len(files) - num_missing, 'file')} · ", "dim"), *faults]


def _progress_line(opened: Opened, before: list[Part], width: int) -> Content:
    total = opened.weights.total
    models = [part for part in opened.checkpoint.parts if part.role == "model"]
    paths = [".".join(word for word in (part.file, part.prefix.removesuffix(".")) if word) for part in models]
    found = [weight for path in dict.fromkeys(paths) if path and (weight := opened.weights.of(path)).num_tensors]
    model = Weight(
        sum(weight.num_tensors for weight in found), sum(weight.num_elements for weight in found),
        sum(weight.size_bytes for weight in found),
    ) if found else None  # fmt: skip
    amount = f"{short_count(model.num_elements)} parameters" if model else f"{short_count(total.num_elements)} elements"
    right = f"{amount}, {plural(total.num_tensors, 'tensor')}"
    words = list(progress_words(opened.checkpoint)) or ["it tells of no step"]
    while len(words) > 1 and parts_width([*before, "  ".join(words)]) > width:
        words.pop()  # whole facts only: the first is the step
    return spread([*before, "  ".join(words)], [(right, "dim")], width)


def weights_only_words(found: WeightsOnly) -> str:
    """For the line above the globals: whether torch's own safe loader takes the file."""
    if found.loads:
        return "weights_only=True takes it"
    if found.loads is None:
        return ""
    return f"weights_only=True refuses it{': ' + plural(len(found.refuses), 'name') if found.refuses else ''}"


def count_words(view: str, shown: int, total: int) -> str:
    """`64 tensors`, `12 of 64 tensors`: how many rows of a view are shown."""
    of = "" if shown == total else f"{shown:,} of "
    return of + plural(total, {"tensors": "tensor", "pickle": "global", "findings": "finding"}.get(view, "line"))


def rule_content(filter_text: str, counts: str, width: int) -> Content:
    """The line above a list: its filter at the left, how many rows it shows at the right."""
    left = f"─ / filter: {filter_text} " if filter_text else "─"
    right = f" {counts} ─" if counts else "─"
    room = max(width - cell_width(right), 1)
    if cell_width(left) > room:
        left = fit(left, room)  # a long filter gives way: that nothing is found must be seen
    return line((fit(left + "─" * (room - cell_width(left)) + right, width), "dim"))


def row_content(row: object, tree: StateTree, width: int) -> Content:
    """What is under the cursor, when it is not a tensor, with everything that its row had no room for."""
    if isinstance(row, Node):
        facts = [] if row.is_module or row.file is not None else [summary(row.value, 1000)]
        if row.file is not None:
            roles = ", ".join(row.file.roles)
            faults = {"MISSING": "it is not there", "UNREADABLE": "nothing could be made of it: f says why"}
            facts = [faults.get(row.file.fault) or roles or summary(row.value)]
        weight = tree.weight(row)
        if weight.num_tensors:
            facts.append(f"{plural(weight.num_tensors, 'tensor')}, {count(weight.num_elements)} elements")
            facts.append(size(weight.size_bytes))
        return lines(line((_fit(row.path, width), "strong")), line(", ".join(facts)))
    if isinstance(row, Fact) and not row.is_heading:
        return lines(line((row.key, "strong")), line(row.full))
    if isinstance(row, GlobalRef):
        room = max(width - cell_width(row.reason) - len("  named in "), 16)
        where = f"  named in {fit(row.where, min(cell_width(row.where), room), keep='end')}" if row.where else ""
        return lines(line((_fit(row.name, width), "strong")), line(row.reason, (where, "dim")))
    if isinstance(row, Finding):
        hint = line(("-> ", "accent"), row.hint) if row.hint else line((f"level {row.level}, {row.code}", "dim"))
        return lines(line((_fit(row.where, width), "strong")), line(row.message), hint)
    return Content("")


def tensor_content(
    tensor: TensorInfo,
    table: TensorTable,
    known: TensorStatistics | CkptError | str | None,
    width: int,
    height: int = 1,
) -> Content:
    """A tensor's name, its facts and place, and its statistics: known, failed, being read (text), or not asked for."""
    name = line((_fit(full_name(tensor), width), "strong"))
    place = spread([table.facts(tensor)], [(table.place(tensor), "dim")], width)
    if known is None:
        return lines(name, place, line(("x  statistics and histogram", "dim")))
    if isinstance(known, str):
        return lines(name, place, line((known, "accent"), ("  Esc stops", "dim")))
    if isinstance(known, CkptError):
        return lines(name, line(("✖ ", "error"), (known.title, "error"), f": {known.message}"), line(known.hint))
    return lines(name, place, statistics_line(known, width), *histogram_lines(known, width, height))


def statistics_line(statistics: TensorStatistics, width: int) -> Content:
    """`min -0.213  max 0.207  mean 0.0001  std 0.051  zeros 0  nan 0  inf 0`; what must not be is loud."""
    numbers = [
        ("min", statistics.min),
        ("max", statistics.max),
        ("mean", statistics.mean),
        ("std", statistics.std),
        ("norm", statistics.norm),
    ]
    bad: list[Part] = [
        (f"✖ {word} {count(number)}  ", "error") if number else (f"{word} 0  ", "dim")
        for word, number in (("nan", statistics.nan), ("inf", statistics.inf))
    ]
    parts: list[Part] = []
    while numbers:
        parts = [part for word, value in numbers for part in ((f"{word} ", "dim"), f"{metric(value)}  ")]
        parts += [("zeros ", "dim"), f"{count(statistics.zeros)}  ", *bad]
        if parts_width(parts) <= width:
            break
        numbers.pop()  # the norm first: what is left is what a person looks for
    return line(*parts)


def histogram_lines(statistics: TensorStatistics, width: int, height: int = 1) -> list[Content]:
    """Bars between the least and the greatest finite value, and where the first one that is not finite stands."""
    drawn = histogram_bars(statistics.histogram, height)
    low, high = f"{metric(statistics.min)} ", f" {metric(statistics.max)}"
    if not drawn or len(low) + len(high) + len(drawn[0]) > width:
        low = high = ""
    upper = [line(" " * len(low), (bars, "accent")) for bars in drawn[:-1]]
    left: list[Part] = [("no finite values to draw", "dim")]
    if drawn:
        left = [(low, "dim"), (drawn[-1], "accent"), (high, "dim")]
    right: list[Part] = []
    if statistics.first_bad_index is not None:
        right = [(f"first at element {count(statistics.first_bad_index)}", "error")]
    elif statistics.is_magnitude:
        right = [("magnitudes of complex numbers", "dim")]
    return [*upper, spread(left, right, width)]


def _fit(text: str, width: int) -> str:
    """`text` in at most `width` cells, both ends kept."""
    return fit_cell(text, width, keep="middle").rstrip()
