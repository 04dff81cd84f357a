"""Runs beside each other: what came of each, and the settings that differ.

Give two to eight runs, or a directory that holds them (its newest eight are taken). With --screen the same with their
curves on top of each other. `ckpt-tui diff` compares checkpoints.

exit codes: 0 compared, 2 could not be compared
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.output import Cell, Column, CommandResult, Output, Style, table
from ckpt_tui.run.comparison import LETTERS, MAX_RUNS, MISSING, Outcome, Setting

if TYPE_CHECKING:
    from ckpt_tui.run.metrics import Metric
    from ckpt_tui.run.state import RunState

EXAMPLES = (
    "ckpt-tui compare runs/lr-1e-4 runs/lr-3e-4",
    "ckpt-tui compare runs --screen",
    "ckpt-tui compare runs/* --metric val_loss --json",
)

WIDE = 110  # cells from which on all columns fit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directory, log, or a directory of runs")
    parser.add_argument("--metric", metavar="NAME", default=None, help="the metric to compare (the loss)")
    parser.add_argument("--screen", action="store_true", help="look at their curves on a screen")


def run(args: argparse.Namespace, out: Output) -> CommandResult | int:
    paths, names = _chosen(args.runs, out)
    if args.screen:
        return _on_screen(args, paths, names)
    from ckpt_tui.run.comparison import (
        differing,
        metric_of,
        metric_to_begin_with,
        metrics_to_compare,
        outcome_of,
        settings_of,
    )
    from ckpt_tui.services.damage import read_run_with_files

    read = [read_run_with_files(path) for path in paths]
    states = [state for state, _ in read]
    metrics = metrics_to_compare(states)
    metric = metric_of(metrics, args.metric) if args.metric else metric_to_begin_with(states)
    if metric is None and args.metric:
        known = ", ".join(text.safe_text(one.name, 40) for one in metrics[:20]) or "none at all"
        raise CkptError("No such metric", f"no run has {text.safe_text(args.metric, 60)}", f"There are: {known}.")
    outcomes = [outcome_of(state, metric) for state in states]
    settings = settings_of(states)
    found = differing(settings, states)
    untold = [index for index, state in enumerate(states) if not state.config]
    return CommandResult(
        data={
            "metric": metric.name if metric is not None else None,
            "runs": [
                {**_run_data(path, name, state, metrics), "damaged": list(files.bad)}
                for path, name, (state, files) in zip(paths, names, read, strict=True)
            ],
            "settings": [_setting_data(one) for one in found],
            "num_settings": len(settings),
        },
        view=lambda style: _lines(names, outcomes, metric, found, len(settings), untold, style),
    )  # fmt: skip


def _chosen(given: Sequence[str], out: Output) -> tuple[list[str], list[str]]:
    """The runs, and what they are called. A directory of runs stands for its newest ones."""
    from ckpt_tui.run.comparison import names_that_tell_apart
    from ckpt_tui.services.run_places import holds_runs

    paths: list[str] = []
    for path in given:
        if holds_runs(path):
            from ckpt_tui.services.runs import read_runs

            found = [one.path for one in read_runs(path).runs if one.phase is not None]
            room = MAX_RUNS - len(paths)
            if len(found) > room:
                out.note(
                    f"{text.safe_text(path, 200)} holds {len(found):,} runs: the newest {max(room, 0)} are compared"
                )
            paths += found[: max(room, 0)]
        else:
            paths.append(path)
    if not 2 <= len(paths) <= MAX_RUNS:
        raise CkptError(
            "Usage", f"{text.plural(len(paths), 'run')} cannot be compared", f"Give two to {MAX_RUNS} of them."
        )
    return paths, names_that_tell_apart(paths)


def _on_screen(args: argparse.Namespace, paths: list[str], names: list[str]) -> int:
    from ckpt_tui.commands.on_screen import check_before, run_app

    if args.json:
        raise CkptError("Usage", "--screen draws, --json prints: give one of them")
    settings = check_before(paths)
    from ckpt_tui.tui.compare_app import CompareApp

    return run_app(CompareApp(paths, names, metric=args.metric, settings=settings))


def _run_data(path: str, name: str, state: RunState, metrics: Sequence[Metric]) -> dict[str, object]:
    from dataclasses import asdict

    from ckpt_tui.run.comparison import outcome_of

    outcome = outcome_of(state, None)
    return {
        "path": path,
        "name": name,
        "title": state.name,
        "state": state.phase.value,
        "step": state.step,
        "total_steps": state.total_steps or None,
        "best": outcome.best,
        "best_step": outcome.best_step,
        "seconds": outcome.seconds,
        "sessions": outcome.num_sessions,
        "lost": asdict(state.lost),
        "metrics": {
            one.name: {"last": found.last, "lowest": found.lowest}
            for one in metrics
            if (found := outcome_of(state, one)).last is not None
        },
    }


def _setting_data(setting: Setting) -> dict[str, object]:
    """values: null where a run has no such setting; `is_set` tells that from a null that was set."""
    is_set = [value is not MISSING for value in setting.values]
    values = [value if there else None for value, there in zip(setting.values, is_set, strict=True)]
    return {"key": setting.key, "values": values, "is_set": is_set}


def _lines(
    names: Sequence[str],
    outcomes: Sequence[Outcome],
    metric: Metric | None,
    settings: Sequence[Setting],
    num_settings: int,
    untold: Sequence[int],
    style: Style,
) -> Iterator[str]:
    from ckpt_tui.run.comparison import setting_words, settings_title

    what = text.safe_text(metric.title, 30) if metric is not None else "loss"
    columns = (
        Column(""), Column("run", shrink=True, keep="end"), Column("state"),
        Column("step", "right", leaves=3), Column(what, "right"), Column("lowest", "right", leaves=4),
        Column("lost", "right", leaves=5), Column("best saved", "right", leaves=1),
        Column("trained for", "right", leaves=2),
    )  # fmt: skip
    rows = [_cells(*one, style) for one in zip(LETTERS, names, outcomes, strict=False)]
    num_shown = len(columns) if style.width is None or style.width >= WIDE else len(columns) - 2
    yield from table(columns[:num_shown], [row[:num_shown] for row in rows], style)
    yield ""
    yield settings_title(len(settings), num_settings, untold)
    if settings:
        heads = (
            Column("setting", shrink=True, keep="end"),
            *(Column(letter, shrink=True) for letter in LETTERS[: len(names)]),
        )
        body = [[text.safe_text(one.key, 60), *map(setting_words, one.values)] for one in settings]
        yield from table(heads, body, style)


def _cells(letter: str, name: str, one: Outcome, style: Style) -> list[Cell]:
    from ckpt_tui.run import wording

    step = f"{one.step:,}" + (f" / {one.total_steps:,}" if one.total_steps else "")
    lost = f"{one.lost_steps:,}, {text.duration(one.lost_s)}" if one.lost_steps else "-"
    if one.lost_steps and one.overhead is not None:
        lost += f", {100 * one.overhead:.0f} %"
    return [
        (letter, "bold"),
        text.safe_text(name, 400),
        (f"{wording.phase_glyph(one.phase, style.unicode)} {one.phase.value}", wording.phase_role(one.phase)),
        step,
        text.metric(one.last),
        text.metric(one.lowest),
        lost,
        text.metric(one.best),
        text.duration(one.seconds),
    ]
