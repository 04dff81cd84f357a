"""The command tree. Only the module of the command that was asked for is imported.

The one place where an error becomes an exit code: 0 it holds, 1 it does not, 2 it could not be judged,
130 interrupted.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Sequence

from ckpt_tui import __version__
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.output import CommandResult, ExitCode, Output, terminal_width
from ckpt_tui.records import dataclass

TYPE_CHECKING = False  # what `typing` says, without the 4 ms to import it
if TYPE_CHECKING:
    from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the tree. Its module has `add_arguments(parser)`, `run(args, out)` and `EXAMPLES`, and `JSON_OBJECTS`
    where --json is not one object."""

    name: str
    summary: str
    group: str

    @property
    def module(self) -> str:
        return f"ckpt_tui.commands.{self.name}"


COMMANDS: tuple[Command, ...] = (
    Command("demo", "start a small real training and watch it", "Watch"),
    Command("watch", "live view of a run, a directory of runs, or a log", "Watch"),
    Command("status", "is it fine? state, progress, what is at risk", "Watch"),
    Command("compare", "runs beside each other: curves, outcome, settings that differ", "Watch"),
    Command("tail", "print a run's events as they come", "Watch"),
    Command("advise", "how often to save, from what saving and failing cost", "Watch"),
    Command("list", "the checkpoints of a run, and which one a resume takes", "Checkpoints"),
    Command("inspect", "what is in a checkpoint, without running it", "Checkpoints"),
    Command("validate", "is a checkpoint whole, finite, and good to resume from", "Checkpoints"),
    Command("diff", "what differs between two checkpoints", "Checkpoints"),
    Command("restore", "put valid backups in place of damaged files", "Acts"),
    Command("rollback", "make an earlier checkpoint the one a resume starts from", "Acts"),
    Command("undo", "take the last restore or rollback back, and the one before", "Acts"),
    Command("gc", "free the space of what was set aside, when asked", "Acts"),
    Command("salvage", "get back what is whole in a damaged checkpoint", "Acts"),
    Command("resume", "relaunch the training from a checkpoint, detached", "Acts"),
    Command("supervise", "keep a training alive: restart it after a crash", "Acts"),
    Command("stop", "ask a running training to save and end", "Acts"),
    Command("config", "your settings and keys: what holds, and where from", "Settings"),
)


_SOURCE_WIDTH = 108  # a line of a description that has room for more than the next word was ended on purpose


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Knows the terminal's width without `shutil`, which argparse would import for every argument added: 3 ms."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=terminal_width() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """In the terminal's width, each line that was begun on purpose on a line of its own; examples stay whole."""
        if text.startswith("examples:"):
            return text
        import textwrap

        thoughts = [""]
        for line in text.splitlines():
            first_word = line.partition(" ")[0]
            has_room = len(thoughts[-1].rpartition("\n")[2]) + 1 + len(first_word) <= _SOURCE_WIDTH
            if not line or not thoughts[-1] or has_room:
                thoughts.append(line)
            else:
                thoughts[-1] += f"\n{line}"
        return "\n".join(
            textwrap.fill(thought.replace("\n", " "), width, break_on_hyphens=False) for thought in thoughts[1:]
        )


class Parser(argparse.ArgumentParser):
    """Says usage errors the way every other error is said, so that `--json` holds for them too.

    of_command: what is asked for; an option that no command knows is found by the parser of all of them.
    """

    of_command = ""

    def error(self, message: str) -> NoReturn:
        raise CkptError("Usage", message, f"`{self.of_command or self.prog} --help` has the options and examples.")


def build_parser(commands: Sequence[Command] = ()) -> Parser:
    """The parser of the whole tree, with the arguments of `commands` only filled in."""
    parser = Parser(
        prog="ckpt-tui",
        description="Flight recorder and cockpit of PyTorch training runs.",
        formatter_class=_Formatter,
        usage="%(prog)s [-h] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"ckpt-tui {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, prog="ckpt-tui")
    for command in commands:
        import importlib

        module = importlib.import_module(command.module)
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=(module.__doc__ or command.summary).strip(),
            epilog="examples:\n" + "\n".join(f"  {example}" for example in module.EXAMPLES),
            formatter_class=_Formatter,
        )
        module.add_arguments(subparser)
        how_many = getattr(module, "JSON_OBJECTS", "one JSON object")
        subparser.add_argument("--json", action="store_true", help=f"print {how_many}, for scripts")
        subparser.set_defaults(run=module.run)
    return parser


def overview() -> str:
    """What `ckpt-tui --help` prints: the commands by what they are for."""
    lines = ["usage: ckpt-tui COMMAND ...", "", "Flight recorder and cockpit of PyTorch training runs.", ""]
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines.append(f"{group}:")
        lines.extend(f"  {c.name:<10} {c.summary}" for c in COMMANDS if c.group == group)
        lines.append("")
    lines.append("`ckpt-tui COMMAND --help` has options and examples. Start here: ckpt-tui demo")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # What is loaded at the start is no garbage, and looking at all of it for some, 200 times, is 10 ms of the watch's.
    gc.set_threshold(20_000)
    # At its end the interpreter looks for garbage several times, in everything: 10 to 20 ms for nothing.
    atexit.register(gc.freeze)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`), who wants the exit code only
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the process's life
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of our output went away (`| head`): say nothing, and keep the interpreter from saying it.
        _abandon_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.filename is not None:
            raise
        _abandon_stdout()
        is_output = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF)
        title = "Cannot write the output" if is_output else "The system refused"
        return Output("").fail(CkptError(title, error.strerror or str(error)))


def _abandon_stdout() -> None:
    """Keep the interpreter from trying once more at its end, and failing with a traceback."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str]) -> int:
    if not arguments:
        sys.stderr.write(overview())
        return ExitCode.TROUBLE
    if arguments[0] == "help" and len(arguments) > 1:
        arguments = [arguments[1], "--help"]
    if arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        sys.stdout.flush()
        return ExitCode.OK
    chosen = [command for command in COMMANDS if command.name == arguments[0]]
    if not chosen and not arguments[0].startswith("-"):
        return Output("", as_json="--json" in arguments).fail(_unknown_command(arguments[0]))
    # Known before parsing, so that even a usage error answers in the form that was asked for.
    # What follows `--` is another program's command line.
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    out = Output(chosen[0].name if chosen else "", as_json="--json" in own)
    try:
        parser = build_parser(chosen)
        parser.of_command = f"{parser.prog} {chosen[0].name}" if chosen else ""
        args = parser.parse_args(arguments)
        result = args.run(args, out)
        return int(out.emit(result) if isinstance(result, CommandResult) else result)
    except CkptError as error:
        return out.fail(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise  # writing the output failed: `main` says so
        return out.fail(from_os_error(error, error.filename))


def _unknown_command(word: str) -> CkptError:
    from difflib import get_close_matches

    from ckpt_tui.text import safe_text

    near = get_close_matches(word, [command.name for command in COMMANDS], n=1)
    hint = f"Did you mean `ckpt-tui {near[0]}`?" if near else "`ckpt-tui --help` lists the commands."
    return CkptError("Unknown command", safe_text(word, 60), hint)


if __name__ == "__main__":
    sys.exit(main())
