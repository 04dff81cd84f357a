"""The last events of a run, in a few words each; -f goes on as they come.

--json prints an object a line: `data` is the event as the log has it, of a line that is none what is wrong with it.
Steps are shown too, unlike in the feed of the screens.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterable

from ckpt_tui import text
from ckpt_tui.events.schema import BadLine, Event, System, event_name
from ckpt_tui.output import Output, Style

EXAMPLES = (
    "ckpt-tui tail runs/gpt",
    "ckpt-tui tail runs/gpt -n 50",
    "ckpt-tui tail runs/gpt -f --json",
    "ckpt-tui tail runs/gpt --bad -n 100",
)
JSON_OBJECTS = "a JSON object a line"

_POLL_S = 0.25
_ROLES = {"good": "good", "warning": "warn", "error": "bad", "info": "plain"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="run directory or log file")
    parser.add_argument("-n", "--lines", type=int, default=10, metavar="N", help="how many to begin with (10)")
    parser.add_argument("--bad", action="store_true", help="only the lines that are not events, of the whole log")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what comes; Ctrl-C ends it")


def run(args: argparse.Namespace, out: Output) -> int:
    from ckpt_tui.services.run_log import open_log
    from ckpt_tui.services.run_places import need_one_run

    need_one_run(args.path)
    source = open_log(args.path)
    style = out.style()
    num_lines = min(max(args.lines, 0), sys.maxsize)
    if not args.bad:  # they may lie anywhere
        source.skip_to_last(num_lines)
    newest: deque[Event | BadLine] = deque(maxlen=num_lines)
    notices: list[str] = []
    while True:
        batch = source.poll()
        newest.extend(_chosen(batch.events, args.bad))
        notices += batch.notices
        if batch.is_caught_up:
            break
    _show(newest, notices, out, style)
    while args.follow:
        batch = source.poll()
        _show(_chosen(batch.events, args.bad), batch.notices, out, style)
        if batch.is_caught_up:
            time.sleep(_POLL_S)
    return 0


def _chosen(told: Iterable[Event | BadLine], only_bad: bool) -> list[Event | BadLine]:
    return [one for one in told if not only_bad or isinstance(one, BadLine)]


def _show(events: Iterable[Event | BadLine], notices: Iterable[str], out: Output, style: Style) -> None:
    for notice in notices:
        out.note(text.safe_text(notice))
    for event in events:
        out.line(_json_line(event, out) if out.as_json else _words(event, style))


def _json_line(event: Event | BadLine, out: Output) -> str:
    import json

    from ckpt_tui.events.codec import encode

    if isinstance(event, BadLine):
        data = {"bad_line": event.reason, "offset": event.offset, "num_bytes": event.num_bytes}
        return out.envelope(data, is_ok=False)
    # In ASCII: C1 and bidi characters of a hostile log would speak to the terminal, and JSON lets them stand.
    return out.envelope(json.loads(encode(event)))


def _words(event: Event | BadLine, style: Style) -> str:
    from ckpt_tui.events.words import words_of
    from ckpt_tui.run.feed import feed_line
    from ckpt_tui.run.wording import clock_time

    if isinstance(event, BadLine):
        return style.paint(f"bad line at byte {event.offset:,}: {text.safe_text(event.reason)}", "warn")
    line = feed_line(event)
    if line is not None:
        words, role = line.text, _ROLES[line.severity]
    else:
        words = ", ".join(
            f"{text.safe_text(key, 40)} {text.metric(value)}"
            for key, value in list(getattr(event, "metrics", {}).items())[:6]
            if isinstance(value, float)
        ) or text.safe_text(words_of(event)[0], 300)
        role = "dim" if isinstance(event, System) else "plain"
    name = text.fit(text.safe_text(event_name(event), 20), 18)
    return style.paint(f"{clock_time(event.ts, seconds=True)}  {event.step:>9,}  {name}  {words}", role)
