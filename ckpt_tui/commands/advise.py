"""How often should it save? What each interval puts at risk, and the interval that costs the least.

The optimum is Daly's (2006), from the measured cost of a save and the time between failures that was seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.output import Column, CommandResult, Output, Style, table

if TYPE_CHECKING:
    from ckpt_tui.run.advice import Advice

EXAMPLES = ("ckpt-tui advise runs/gpt", "ckpt-tui advise runs/gpt --json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="run directory or log file")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.run.advice import advise
    from ckpt_tui.services.monitor import read_run

    advice = advise(read_run(args.path))
    data = asdict(advice)
    data["what_if"] = [asdict(row) for row in advice.what_if]
    return CommandResult(data=data, view=lambda style: _lines(advice, style))


def _lines(advice: Advice, style: Style) -> Iterator[str]:
    if advice.recommended_steps is not None:
        yield style.paint(
            f"Save every {text.plural(advice.recommended_steps, 'step')} ({text.duration(advice.recommended_s)}).",
            "good",
        )
    else:
        yield style.paint("No interval can be recommended yet.", "warn")
    yield (
        f"One step takes {text.duration(advice.seconds_per_step)}, one save stops it for "
        f"{text.duration(advice.save_cost_s)} ({text.plural(advice.num_saves_measured, 'save')} measured), "
        f"{text.plural(advice.num_failures, 'failure')} in {text.duration(advice.observed_s)}."
    )
    if advice.what_if:
        yield ""
        rows = [(row.label, text.plural(row.steps, "step"), text.duration(row.seconds)) for row in advice.what_if]
        yield from table([Column("saving"), Column("at risk at most", "right"), Column("time", "right")], rows, style)
        yield ""
    for assumption in advice.assumptions:
        yield style.paint(f"- {assumption}", "dim")
