"""Asking before something changes: the safe answer is the default, and nobody is asked where nobody can answer."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from ckpt_tui.errors import CkptError
from ckpt_tui.output import Output, Style, terminal_width
from ckpt_tui.text import safe_text


def add_confirm_arguments(parser: argparse.ArgumentParser) -> None:
    """`--dry-run` and `--yes`, the same for every act."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--yes", action="store_true", help="do it without asking")


def confirm(question: str, sentences: Sequence[str], warnings: Sequence[str], *, yes: bool, out: Output) -> bool:
    """Whether to go on: `--yes`, or a person who read the plan and typed y.

    Raises CkptError when there is nobody to ask.
    """
    if yes:
        return True
    if out.as_json or not sys.stdin.isatty() or not sys.stderr.isatty():
        raise CkptError(
            "Not confirmed",
            "this changes something, and there is no terminal to ask on",
            "Add --yes to do it, or --dry-run to see the plan.",
        )
    for line in sentence_lines(sentences, warnings, Style(width=terminal_width(2), unicode=_speaks_unicode())):
        out.note(line)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except UnicodeDecodeError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")


def _speaks_unicode() -> bool:
    return "utf" in (getattr(sys.stderr, "encoding", None) or "ascii").lower()


def sentence_lines(sentences: Iterable[str], warnings: Iterable[str], style: Style) -> Iterator[str]:
    """One thought a line, broken at words where the terminal ends; warnings are marked."""
    for sentence in sentences:
        yield from _wrapped("", safe_text(sentence, 4000), style)
    for warning in warnings:
        lines = _wrapped(f"{style.glyph('▲', '!')} ", safe_text(warning, 4000), style)
        yield from (style.paint(line, "warn") for line in lines)


def _wrapped(mark: str, sentence: str, style: Style) -> list[str]:
    if style.width is None:
        return [mark + sentence]
    return textwrap.wrap(
        sentence, style.width, initial_indent=mark, subsequent_indent="  ", break_on_hyphens=False
    ) or [mark]
