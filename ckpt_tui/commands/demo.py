"""Start a small real training in the background and watch it.

A small GPT learns the source code of Python's own library. Started again, it opens the same training, or resumes it.
The training goes on when the watch is left; `ckpt-tui stop DIR` makes it save and end.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from ckpt_tui.output import CommandResult, Output, Style
from ckpt_tui.text import safe_text, shell_word
from ckpt_tui.tui.terminal import can_draw

EXAMPLES = ("ckpt-tui demo", "ckpt-tui demo --dir /tmp/demo --no-watch", "ckpt-tui stop demo-run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", metavar="DIR", default="demo-run", help="run directory (./demo-run)")
    parser.add_argument("--max-steps", metavar="N", type=int, default=None, help="how long it trains")
    parser.add_argument("--no-watch", action="store_true", help="start it and say so, without opening the watch")


def run(args: argparse.Namespace, out: Output) -> CommandResult | int:
    from ckpt_tui.services.demo import Demo, start_demo

    demo = start_demo(args.dir, max_steps=args.max_steps)

    def lines(style: Style) -> Iterator[str]:
        yield style.paint(_headline(demo), "good")
        if demo.log_path:
            yield f"Output: {safe_text(demo.log_path, 1000)}"
        yield f"Watch it: ckpt-tui watch {shell_word(demo.directory)}"
        if demo.pid is not None:
            yield f"Stop it:  ckpt-tui stop {shell_word(demo.directory)}"

    def _headline(demo: Demo) -> str:
        if demo.what == "finished":
            return "This training is finished. For a new one: ckpt-tui demo --dir ANOTHER"
        word = {"started": "started", "resumed": "resumed", "running": "running already"}[demo.what]
        return f"Training {word}, process {demo.pid}."

    can_watch = can_draw(os.environ)
    if args.no_watch or out.as_json or not can_watch:
        data: dict[str, object] = {
            "directory": demo.directory, "what": demo.what, "pid": demo.pid, "log": demo.log_path,
            "command": list(demo.command),
        }  # fmt: skip
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
