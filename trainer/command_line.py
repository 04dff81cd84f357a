"""How the trainer's command line reads: help by groups with defaults, and an unknown flag answered in one line."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Sequence
from typing import NoReturn

from trainer.errors import UsageError

EXAMPLES = """\
examples:
  python -m trainer --out runs/gpt --max_steps 2000 --resume auto
      starts, or goes on from the newest valid checkpoint
  python -m trainer --out runs/gpt --list_checkpoints
  python -m trainer hash runs/gpt
      fingerprint of the newest valid checkpoint, free of times and paths
  python -m trainer retention runs/gpt
      what the next save removes, and why the rest stays
  torchrun --nproc_per_node 2 -m trainer --out runs/gpt --resume auto

SIGINT, SIGTERM, SIGHUP save and stop, the second ends at once; SIGUSR1 saves.
Exit codes: 0 at the end, 1 failed or diverged, 2 cannot be done as asked,
128 + signal after a signal."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Flags and their defaults in two columns, as wide as the terminal is and no wider than is read with ease."""

    def __init__(self, prog: str) -> None:
        try:
            columns = int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(1).columns
        except (OSError, ValueError):
            columns = 100
        super().__init__(prog, max_help_position=32, width=max(min(columns, 120) - 2, 40))

    def _get_help_string(self, action: argparse.Action) -> str:
        """With the default, where there is one that says something."""
        text = action.help or ""
        value = action.default
        if value is None or value is False or value in ("", (), argparse.SUPPRESS) or "default" in text:
            return text
        return f"{text} (%(default)s)"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`--compile`, not `--compile, --no-compile`: the negation is said once for all."""
        options = [option for option in action.option_strings if not option.startswith("--no-")]
        if not options:
            return super()._format_action_invocation(action)
        if action.nargs == 0:
            return ", ".join(options)
        return f"{', '.join(options)} {self._format_args(action, self._get_default_metavar_for_optional(action))}"


class Parser(argparse.ArgumentParser):
    """Usage errors are UsageErrors: one line that says what is wrong and, of an unknown flag, which one is meant."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}{'' if message.endswith('?') else '.'} `{self.prog} --help` lists the flags.")

    def parse_args(self, args: Sequence[str], namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        given, unknown = self.parse_known_args(args)
        if not unknown:
            return given
        word = unknown[0].partition("=")[0]
        known = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(word.replace("-", "_").replace("__", "--", 1), known, n=1)
        if not word.startswith("-"):
            raise self.error(f"{word!r} belongs to no flag")
        raise self.error(f"unknown flag {word}" + (f", did you mean {near[0]}?" if near else ""))
