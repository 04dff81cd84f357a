"""Start a small real training in the background and watch it.

A small GPT learns the source code of Python's own library. Started again, it opens the same training, or resumes it.
The training goes on when the watch is left; `ckpt-tui stop DIR` makes it save and end.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from ckpt_tui.commands.starting import died_result, started_data, started_lines
from ckpt_tui.commands.waiting import Interrupted, seconds, teller
from ckpt_tui.output import CommandResult, Output, Style
from ckpt_tui.text import safe_text, shell_word
from ckpt_tui.tui.terminal import can_draw

EXAMPLES = ("ckpt-tui demo", "ckpt-tui demo --dir /tmp/demo --no-watch", "ckpt-tui stop demo-run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", metavar="DIR", default="demo-run", help="run directory (./demo-run)")
    parser.add_argument("--max-steps", metavar="N", type=int, default=None, help="how long it trains")
    parser.add_argument("--no-watch", action="store_true", help="start it and say so, without opening the watch")
    parser.add_argument(
        "--wait", metavar="S", type=seconds, help="seconds to wait for its first step (60 with --no-watch)"
    )


def run(args: argparse.Namespace, out: Output) -> CommandResult | int:
    from ckpt_tui.services.demo import Demo, start_demo
    from ckpt_tui.services.launch import WAIT_S, TrainingDiedError

    can_watch = not args.no_watch and not out.as_json and can_draw(os.environ)
    # The watch tells the rest.
    wait_s = args.wait if args.wait is not None else WAIT_S if can_watch else 60.0
    try:
        with Interrupted() as interrupted:
            demo = start_demo(
                args.dir, max_steps=args.max_steps, wait_s=wait_s, on_progress=teller(out),
                is_cancelled=interrupted.is_set,
            )  # fmt: skip
    except TrainingDiedError as error:
        return died_result(error, {"directory": args.dir})

    def lines(style: Style) -> Iterator[str]:
        yield style.paint(_headline(demo), "good")
        if demo.started is not None:
            yield from started_lines(demo.started, style)
        elif demo.log_path:
            yield f"Output: {safe_text(demo.log_path, 1000)}"
        yield f"Watch it: ckpt-tui watch {shell_word(demo.directory)}"
        if demo.pid is not None:
            yield f"Stop it:  ckpt-tui stop {shell_word(demo.directory)}"

    def _headline(demo: Demo) -> str:
        if demo.what == "finished":
            return "This training is finished. For a new one: ckpt-tui demo --dir ANOTHER"
        word = {"started": "started", "resumed": "resumed", "running": "running already"}[demo.what]
        return f"Training {word}, process {demo.pid}."

    if not can_watch:
        data: dict[str, object] = {
            "directory": demo.directory, "what": demo.what, "pid": demo.pid, "log": demo.log_path,
            "command": list(demo.command),
        }  # fmt: skip
        if demo.started is not None:
            data |= started_data(demo.started)
        return CommandResult(data=data, view=lines)
    import ckpt_tui.commands.watch as watch

    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    code = watch.run(parser.parse_args([demo.directory]), out)
    if demo.what != "finished":
        out.note("The training goes on in the background.")
        out.note(f"  watch it again: ckpt-tui watch {safe_text(args.dir, 1000)}")
        out.note(f"  stop it:        ckpt-tui stop {safe_text(args.dir, 1000)}")
    return code
