"""Keep a training alive: start it, and after a crash start it again from the newest valid checkpoint.

Runs in the foreground with the training's output, which is kept in session_N.log as well; --detach leaves it at work
and comes back. Without COMMAND the one that was supervised here before is taken, with its options, or else the one
that the log recorded.
Our trainer gets `--resume auto`, any other command what is known of how it resumes; {checkpoint} in COMMAND stands for
the path of the newest valid checkpoint, and is left out with its option while there is none.

SIGTERM, SIGINT and SIGHUP are passed on, and the training is not started again. A supervisor that is killed leaves the
training at work; the same command again takes it over, with its counts.
Not restarted: what finished, what a person stopped, what diverged (but with --restart-diverged), and what torchrun,
slurm, kubernetes or systemd restarts itself. Given up: too many restarts within a day, the same step again and again
without a new checkpoint, nothing valid to resume from.
Exit code 0: the training finished; 1: given up; 2: it could not be begun; of a training that was stopped its own, as a
rule 128 + the signal. --json prints an object a line: one for each change ("done": false), at last one of the end.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckpt_tui.commands.confirm import sentence_lines
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.output import CommandResult, ExitCode, Output, Style, wrapped
from ckpt_tui.text import plural, safe_text, shell_word

if TYPE_CHECKING:
    from ckpt_tui.services.supervision import Policy
    from ckpt_tui.services.supervisor import Outcome
    from ckpt_tui.services.supervisor_record import Supervisor

EXAMPLES = (
    "ckpt-tui supervise runs/gpt -- python -m trainer --out runs/gpt --max_steps 20000",
    "ckpt-tui supervise runs/gpt --dry-run",
    "ckpt-tui supervise runs/gpt --detach --stall-after auto",
    "ckpt-tui supervise runs/gpt --max-restarts 3 --pause 1m -- torchrun --nproc_per_node 8 train.py",
    "ckpt-tui supervise runs/gpt --status",
)
JSON_OBJECTS = "a JSON object a line"

OUTPUT_NAME = "supervisor.log"
# Not by `-m`: it runs where the training does, and a `queue.py` that lies there would be taken for Python's.
_DETACHED = (
    f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); from ckpt_tui.cli import main; sys.exit(main())"
)
Settings = Mapping[str, str | int | bool | None]
# How it is kept alive: what was not said is as it was here before, where COMMAND is, too; else this.
_SETTINGS: Settings = {
    "pause": "5s", "max_pause": "10m", "max_restarts": 10, "within": "24h", "give_up_after": 3,
    "restart_diverged": False, "restarts_by": "auto", "stall_after": "", "stall_grace": "60s", "seed": None,
    "as_is": False,
}  # fmt: skip
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)", re.ASCII)
_MAX_SPAN_S = 365 * 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="run directory")
    parser.add_argument("--pause", metavar="TIME", help="before the first restart, then twice that (5s)")
    parser.add_argument("--max-pause", metavar="TIME", help="longest pause (10m)")
    parser.add_argument(
        "--max-restarts", metavar="N", type=int, help="at most so many --within a time; 0: no limit (10)"
    )
    parser.add_argument("--within", metavar="TIME", help="the time that --max-restarts is for (24h)")
    parser.add_argument(
        "--give-up-after", metavar="N", type=int,
        help="ends at the same step without a new checkpoint; 0: never (3)",
    )  # fmt: skip
    parser.add_argument("--restart-diverged", action="store_true", help="also after it has diverged")
    parser.add_argument(
        "--restarts-by", metavar="WHO",
        help="supervise, or who else is in charge of restarts (torchrun, slurm ...); auto: found out (auto)",
    )  # fmt: skip
    parser.add_argument(
        "--stall-after", metavar="TIME",
        help="end and restart it after such a silence (15m), or `auto`: by its own rhythm; twice, with auto four times"
        " that while it computes; never (never)",
    )  # fmt: skip
    parser.add_argument("--stall-grace", metavar="TIME", help="from SIGTERM to SIGKILL then (60s)")
    parser.add_argument("--seed", metavar="N", type=int, help="of what the pauses waver by, 20 %%")
    parser.add_argument("--as-is", action="store_true", help="COMMAND goes on from its newest checkpoint by itself")
    parser.add_argument("--detach", action="store_true", help="leave it at work, and come back")
    parser.add_argument("--quiet", action="store_true", help="the training's output goes to its file only")
    parser.add_argument("--dry-run", action="store_true", help="say what would be started, and do nothing")
    parser.add_argument("--yes", action="store_true", help="as with every act; supervise asks nothing anyway")
    parser.add_argument(
        "--force", action="store_true",
        help="even if a training may still run on another host that cannot be asked; never beside one seen to live",
    )  # fmt: skip
    parser.add_argument("--status", action="store_true", help="how it stands: `ckpt-tui status DIR`")
    _take_command(parser)


def _take_command(parser: argparse.ArgumentParser) -> None:
    """All behind `--` is the training's, whatever it looks like: argparse itself would look for options in it."""
    parse = parser.parse_known_args
    parser.usage = f"{parser.prog} [options] DIR [-- COMMAND ...]"

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        words = list(args)
        end = words.index("--") if "--" in words else len(words)
        parsed, rest = parse(words[:end], namespace)
        parsed.training = words[end + 1 :]
        return parsed, rest

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    if args.status:
        return _status(args, out)
    from ckpt_tui.services import command_line
    from ckpt_tui.services.newest_rules import require_room_beside
    from ckpt_tui.services.output_tail import Talk
    from ckpt_tui.services.restart_authority import OURS, in_charge, is_submission
    from ckpt_tui.services.supervisor import Request, supervise

    directory = str(Path(args.directory).absolute())
    require_room_beside(directory)  # its record and its output lie in the directory
    said = _said(args)
    _policy({**_SETTINGS, **said}, directory)  # what is wrong with it is said before anything is looked for
    command, cwd, before = _command(directory, args.training)
    settings = {**_SETTINGS, **(_remembered(before.settings) if before is not None else {}), **said}
    policy, stall_after_s, grace_s = _policy(settings, directory)
    kept = {name: value for name, value in settings.items() if value != _SETTINGS[name]}
    if not args.training:
        where = "As recorded" if before is None else "As supervised before"
        options = f", with {safe_text(' '.join(_options(kept)), 500)}" if kept else ""
        out.note(f"{where}: {safe_text(command_line.quoted(command), 2000)}{options}")
    if is_submission(command):
        raise CkptError(
            "Left to the scheduler",
            f"{safe_text(command[0], 60)} hands in a job and ends: there is no training to look after here",
            "Within the job: `#SBATCH --no-requeue`, and as its last line `exec ckpt-tui supervise DIR -- COMMAND`.",
        )
    _need_program(command[0], cwd)
    if not args.dry_run:
        _make_directory(directory)
        if args.detach:
            return _detach(args, directory, command, cwd, kept)
    restarts_by, as_is = str(settings["restarts_by"]), bool(settings["as_is"])
    if restarts_by == "auto":
        authority = in_charge(command, os.environ)
        if authority is not None:
            policy = replace(policy, restarts_by=authority.name)
            out.note(
                f"Restarts are left to {authority.name} ({safe_text(authority.why, 200)}): supervise starts it once,"
                " looks after it and records. --restarts-by supervise takes them over."
            )
    elif restarts_by != OURS:
        policy = replace(policy, restarts_by=safe_text(restarts_by, 40))
    if args.dry_run:
        return _planned(directory, command, cwd, policy, as_is=as_is, force=args.force)
    request = Request(
        directory=directory, command=tuple(command), cwd=cwd, policy=policy,
        as_is=as_is, show_on=-1 if args.quiet else 2 if out.as_json else 1,
        watches_stall=settings["stall_after"] not in ("", "never"), stall_after_s=stall_after_s, grace_s=grace_s,
        force=args.force, settings=kept,
    )  # fmt: skip

    talk, changes = Talk(2), Talk(1 if out.as_json else -1)

    def tell_change(record: Mapping[str, object]) -> None:
        changes.say(out.envelope(_change(directory, record)))

    try:
        outcome = supervise(request, talk.say, on_change=tell_change if out.as_json else None)
    finally:
        talk.close()
        changes.close()
    return CommandResult(
        data=_data(directory, outcome), view=lambda style: _lines(outcome, style), exit_code=outcome.exit_code
    )


def _planned(
    directory: str, command: Sequence[str], cwd: str, policy: Policy, *, as_is: bool, force: bool
) -> CommandResult:  # fmt: skip
    """What would be done: exit code 1 when it could not be begun."""
    from ckpt_tui.services.supervise_plan import plan_supervise

    plan = plan_supervise(directory, tuple(command), cwd=cwd, policy=policy, as_is=as_is, force=force)
    data: dict[str, object] = {
        "directory": directory, "command": list(plan.command), "command_line": plan.command_line, "cwd": cwd,
        "checkpoint": plan.checkpoint or None, "step": plan.step, "steps_redone": plan.steps_redone,
        "redone_s": plan.redone_s, "takes_over": plan.takes_over, "restarts_by": policy.restarts_by or "supervise",
        "sentences": list(plan.sentences), "warnings": list(plan.warnings), "refusals": list(plan.refusals),
        "done": False,
    }  # fmt: skip

    def lines(style: Style) -> Iterator[str]:
        yield from sentence_lines(plan.sentences, plan.warnings, style)
        for refusal in plan.refusals:
            for line in wrapped(f"Refused: {refusal}", style):
                yield style.paint(line, "bad")
        yield ""
        yield safe_text(plan.command_line, 100_000)  # whole, on one line: a person copies it
        yield ""
        yield style.paint("Nothing was started (--dry-run).", "dim")

    return CommandResult(data=data, view=lines, exit_code=ExitCode.DIFFERENT if plan.refusals else ExitCode.OK)


def _status(args: argparse.Namespace, out: Output) -> CommandResult:
    from ckpt_tui.commands import status

    args.path, args.fail_on, args.at = args.directory, "", ""
    out.command = "status"
    return status.run(args, out)


def _command(directory: str, given: Sequence[str]) -> tuple[list[str], str, Supervisor | None]:
    """The training's command and where it runs: as given, as the supervisor before had it (that one), or as
    recorded."""
    if given:
        return list(given), str(Path.cwd()), None
    from ckpt_tui.services import command_line
    from ckpt_tui.services.supervised_start import command_before, supervised_before

    before = supervised_before(directory)
    if before is not None and Path(before.cwd).is_dir():
        return *command_before(directory, before), before
    from ckpt_tui.services.resume import plan_resume

    plan = plan_resume(directory)
    command = list(plan.command)
    if command_line.is_own_trainer(command):
        command = command_line.set_option(command, "resume", "auto", recorded="")
    return command, plan.cwd, None


def _policy(settings: Settings, directory: str) -> tuple[Policy, float | None, float]:
    """Of `settings` what the rules go by, how long a silence may be (None: by its own rhythm, or it is not watched),
    and how long it may take to end then."""
    from ckpt_tui.services.supervision import Policy

    def seconds(name: str, at_least_s: float = 0.0) -> float:
        return _seconds(f"--{name.replace('_', '-')}", str(settings[name]), at_least_s)

    seed = settings["seed"]
    policy = Policy(
        pause_s=seconds("pause"), max_pause_s=seconds("max_pause"),
        max_restarts=_count("--max-restarts", settings["max_restarts"]), within_s=seconds("within", 1.0),
        same_step_limit=_count("--give-up-after", settings["give_up_after"]),
        restart_diverged=bool(settings["restart_diverged"]),
        seed=seed if isinstance(seed, int) else _own_seed(directory),
    )  # fmt: skip
    stall_after_s = seconds("stall_after", 1.0) if settings["stall_after"] not in ("", "auto", "never") else None
    return policy, stall_after_s, seconds("stall_grace")


def _said(args: argparse.Namespace) -> Settings:
    """What the command line says of how it is kept alive."""
    found = {name: getattr(args, name) for name in _SETTINGS}
    return {name: value for name, value in found.items() if value is not None and value is not False}


def _remembered(settings: Mapping[str, object]) -> Settings:
    """What the record of the supervisor before tells of it, as far as it is of the right kind."""
    kinds = {name: int if name == "seed" else type(usual) for name, usual in _SETTINGS.items()}
    return {name: value for name, kind in kinds.items() if type(value := settings.get(name)) is kind}


def _options(settings: Settings) -> list[str]:
    """As words of a command line."""
    flags = {name: f"--{name.replace('_', '-')}" for name in settings}
    return [flag if settings[name] is True else f"{flag}={settings[name]}" for name, flag in flags.items()]


def _need_program(program: str, cwd: str) -> None:
    """Before anything is made: a word that was mistyped leaves no directory behind."""
    found = shutil.which(str(Path(cwd, program)) if "/" in program else program)
    if found is None:
        raise CkptError(
            "Cannot start",
            f"{safe_text(program, 200)}: there is no such program, or it may not be executed",
            "Check its path; `command -v PROGRAM` tells which one is found.",
        )


def _make_directory(directory: str) -> None:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise from_os_error(NotADirectoryError(), directory) from error
    except OSError as error:
        raise from_os_error(error, directory, "make") from error


def _detach(
    args: argparse.Namespace,
    directory: str,
    command: Sequence[str],
    cwd: str,
    kept: Settings,
) -> CommandResult:
    """Start the same supervisor in a session of its own, and wait until it says that it is at work."""
    from ckpt_tui.services.supervisor_detached import start_detached

    words = [
        sys.executable, "-P", "-c", _DETACHED, "supervise", directory, "--quiet", *_options(kept),
        *(["--force"] if args.force else []), "--", *command,
    ]  # fmt: skip
    started = start_detached(directory, words, cwd=cwd, log_name=OUTPUT_NAME)
    data: dict[str, object] = {
        "directory": directory, "state": str(started.state), "pid": started.pid, "told": started.told,
        "child_pid": started.child_pid, "log": os.path.join(directory, OUTPUT_NAME), "command": list(command),
    }  # fmt: skip

    def lines(style: Style) -> Iterator[str]:
        yield style.paint(f"{style.glyph('✓', 'ok')} supervised by process {started.pid}", "good")
        told = safe_text(started.told, 500)
        yield from wrapped(f"{told[:1].upper()}{told[1:]}.", style)
        yield f"Watch it: ckpt-tui watch {shell_word(args.directory)}"
        yield f"Stop both: ckpt-tui stop {shell_word(args.directory)}"

    return CommandResult(data=data, view=lines)


def _data(directory: str, outcome: Outcome) -> dict[str, object]:
    return {
        "directory": directory,
        "state": str(outcome.state),
        "told": outcome.told,
        "restarts": outcome.restarts,
        "step": outcome.step,
        "exit_code": outcome.exit_code,
        "ends": list(outcome.ends),
        "log": outcome.log,
        "done": True,
    }


def _change(directory: str, record: Mapping[str, object]) -> dict[str, object]:
    """One change, while it is at work."""
    names = ("state", "since", "told", "restarts", "session", "child_pid", "next_try_at", "last_exit", "log")
    return {"directory": directory, **{name: record.get(name) for name in names}, "done": False}


def _lines(outcome: Outcome, style: Style) -> Iterator[str]:
    marks = {"finished": ("✓", "ok", "good"), "stopped": ("■", "#", "warn")}
    fancy, plain, role = marks.get(outcome.state.value, ("✖", "x", "bad"))
    restarts = f" after {plural(outcome.restarts, 'restart')}" if outcome.restarts else ""
    yield style.paint(f"{style.glyph(fancy, plain)} {outcome.state.value}{restarts}", role)


def _count(option: str, given: object) -> int:
    if not isinstance(given, int) or given < 0:
        raise CkptError("Usage", f"{option} {given} is no number of times", "0 is for no limit.")
    return given


def _seconds(option: str, given: str, at_least_s: float = 0.0) -> float:
    """`90`, `90s`, `15m`, `2h`, `1d` as seconds."""
    match = _SPAN.fullmatch(given.strip().lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not 0 <= seconds <= _MAX_SPAN_S:
        raise CkptError("Usage", f"{option} {safe_text(given, 40)} is no time", "For instance: 30s, 15m, 2h, 1d.")
    if seconds < at_least_s:
        raise CkptError("Usage", f"{option} {safe_text(given, 40)} is too short", f"At least {at_least_s:g}s.")
    return seconds


def _own_seed(directory: str) -> int:
    """The same for one directory on one host, another one elsewhere."""
    import socket
    import zlib

    return zlib.crc32(f"{socket.gethostname()} {directory}".encode())
