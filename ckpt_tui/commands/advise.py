"""How often should it save? What each interval puts at risk, and the interval that costs the least.

The optimum is Daly's (2006), from the measured cost of a save and the time between failures that was seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckpt_tui.errors import CkptError
from ckpt_tui.output import Column, CommandResult, Output, Style, table, wrapped

if TYPE_CHECKING:
    from ckpt_tui.run.advice import Advice

EXAMPLES = ("ckpt-tui advise runs/gpt", "ckpt-tui advise runs/gpt --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="run directory or log file")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.run.advice import advise
    from ckpt_tui.services.monitor import read_run
    from ckpt_tui.services.run_places import need_one_run

    need_one_run(args.path)
    state = read_run(args.path)
    if not state.num_events:
        raise CkptError(
            "Nothing to go by", f"{args.path} holds no event yet",
            "Advice comes from a run's own saves and failures: give a run directory, or train for a while.",
        )  # fmt: skip
    advice = advise(state)
    data = asdict(advice)
    data["what_if"] = [asdict(row) for row in advice.what_if]
    return CommandResult(data=data, view=lambda style: advise_lines(advice, style))


def advise_lines(advice: Advice, style: Style) -> Iterator[str]:
    """The advice as text: what to do, what was measured, the what-if table, what it rests on."""
    from ckpt_tui.run.advice import WHAT_IF_TITLES, measured_sentences, recommendation, what_if_cells

    words, is_known = recommendation(advice)
    yield style.paint(words, "good" if is_known else "warn")
    for line in measured_sentences(advice):
        yield from wrapped(line, style)
    if advice.what_if:
        yield ""
        first, *others = WHAT_IF_TITLES
        # Where there is no room for all, what it costs in all is what tells them apart.
        leave = (*range(1, len(others)), 0)
        columns = [Column(first), *(Column(title, "right", leaves=n) for title, n in zip(others, leave, strict=True))]
        yield from table(columns, [what_if_cells(row) for row in advice.what_if], style)
        yield ""
    for assumption in advice.assumptions:
        for number, line in enumerate(wrapped(assumption, style, indent=2)):
            yield style.paint(f"{'  ' if number else '- '}{line}", "dim")
