"""How often should it save? What each interval puts at risk, and the interval that costs the least.

The optimum is Daly's (2006), from the measured cost of a save and the time between failures that was seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ckpt_tui import text
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
    if advice.recommended_steps is not None:
        yield style.paint(
            f"Save every {text.plural(advice.recommended_steps, 'step')} ({text.duration(advice.recommended_s)}).",
            "good",
        )
    else:
        yield style.paint("No interval can be recommended yet.", "warn")
    lines = [f"One step takes {text.duration(advice.seconds_per_step)}."] if advice.seconds_per_step else []
    usual = f"(the usual of {text.plural(advice.num_saves_measured, 'save')})"
    if advice.save_cost_s is not None and advice.slowdown is not None:
        lines.append(
            f"A save costs {text.duration(advice.save_cost_s)} of training {usual}: it is written for "
            f"{text.duration(advice.background_s)} meanwhile, which slows the steps by {max(advice.slowdown, 0):.0%}."
        )
    elif advice.save_cost_s is not None:
        lines.append(f"A save stops training for {text.duration(advice.save_cost_s)} {usual}.")
    if advice.num_failures:
        seen = text.plural(advice.num_failures, "failure")
        lines.append(f"{seen} in {text.duration(advice.observed_s)} of training.")
    else:
        lines.append(f"No failure so far, in {text.duration(advice.observed_s)} of training.")
    if advice.restart_s is not None:
        lines.append(
            f"From the end of a session to the next one's first step: {text.duration(advice.restart_s)} "
            f"(the usual of {advice.num_restarts})."
        )
    known = [failure for failure in advice.failures if failure.seconds is not None]
    if known:
        lost_s = sum(failure.seconds or 0.0 for failure in known) / len(known)
        predicted = [failure.predicted_s for failure in known if failure.predicted_s is not None]
        said = f"; {text.duration(sum(predicted) / len(predicted))} was predicted" if predicted else ""
        lines.append(f"A failure cost {text.duration(lost_s)} of training (mean of {len(known)}){said}.")
    if advice.lost_per_failure_s is not None:
        lines.append(f"A failure is predicted to lose {text.duration(advice.lost_per_failure_s)} of training.")
    if advice.bytes_per_day is not None:
        lines.append(f"Saves at that interval write {text.size(advice.bytes_per_day)} a day.")
    for line in lines:
        yield from wrapped(line, style)
    if advice.what_if:
        yield ""
        rows = [
            (row.label, text.plural(row.steps, "step"), text.duration(row.seconds), _percent(row.overhead))
            for row in advice.what_if
        ]
        columns = [Column("saving"), Column("at risk at most", "right"), Column("time", "right")]
        yield from table([*columns, Column("costs in all", "right")], rows, style)
        yield ""
    for assumption in advice.assumptions:
        for number, line in enumerate(wrapped(assumption, style, indent=2)):
            yield style.paint(f"{'  ' if number else '- '}{line}", "dim")


def _percent(fraction: float | None) -> str:
    """Of the training time: `0.07 %`."""
    return "-" if fraction is None else f"{100 * fraction:.2g} %" if fraction < 1 else f"{100 * fraction:,.0f} %"
