"""Asking before something changes: the safe answer is the default, and nobody is asked where nobody can answer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ckpt_tui.errors import CkptError
from ckpt_tui.output import Output
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
    for sentence in (*sentences, *(f"Note: {warning}" for warning in warnings)):
        out.note(f"  {safe_text(sentence, 2000)}")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except UnicodeDecodeError:
        answer = ""
    return answer.strip().lower() in ("y", "yes")
