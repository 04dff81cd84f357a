"""Is a checkpoint whole, finite, and good to resume from?

Checks every byte that has a checksum, looks for NaN and Inf in every tensor, and for what an exact resume needs.
A directory stands for every checkpoint in it. What cannot be checked is said, never passed.

exit codes: 0 all valid, 1 something is wrong, 2 something could not be judged
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckpt_tui import text
from ckpt_tui.errors import CkptError
from ckpt_tui.output import CommandResult, ExitCode, Output, Style

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.model import Finding
    from ckpt_tui.checkpoints.validate import Validation

EXAMPLES = (
    "ckpt-tui validate runs/gpt",
    "ckpt-tui validate latest.pt best_model.safetensors",
    "ckpt-tui validate big.pt --level structure",
    "ckpt-tui validate runs/gpt --json",
)
LEVEL_CHOICES = ("structure", "integrity", "numbers", "resume")
_UNJUDGED = ("not-a-checkpoint", "unreadable")
_MAX_FINDINGS_SHOWN = 12
_NARROW = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="checkpoint, or a directory of checkpoints")
    parser.add_argument(
        "--level",
        choices=LEVEL_CHOICES,
        default="resume",
        help="how far to go, each including those before it: structure (fast), integrity, numbers, resume (default)",
    )


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    if args.level != "structure":
        from ckpt_tui.checkpoints.read_ahead import start_reading

        start_reading(args.paths[0])
    from ckpt_tui.services.validation_run import bytes_of, find_checkpoints, validate_all

    levels = LEVEL_CHOICES[: LEVEL_CHOICES.index(args.level) + 1]
    paths = [path for given in args.paths for path in find_checkpoints(given)]
    total = sum(bytes_of(path) for path in paths) if args.level != "structure" else None
    judged: dict[int, Validation] = {}
    is_interrupted = False
    with out.progress("validate", total) as progress:
        try:
            for one in validate_all(paths, levels, on_bytes=progress.advance):
                judged[one.index] = one.validation
        except KeyboardInterrupt:
            is_interrupted = True
    results = [judged[index] for index in sorted(judged)]
    errors = [_as_error(validation) for validation in results if validation.verdict in _UNJUDGED]
    if is_interrupted:
        errors.append(_interrupted([path for index, path in enumerate(paths) if index not in judged], len(paths)))
    return CommandResult(
        data={"results": [_as_data(validation) for validation in results]},
        view=lambda style: _lines(results, style),
        exit_code=ExitCode.INTERRUPTED if is_interrupted else _exit_code(results),
        errors=errors,
    )


def _interrupted(left: list[str], num_paths: int) -> CkptError:
    names = ", ".join(text.safe_text(path, 200) for path in left[:3])
    more = f" and {len(left) - 3:,} more" if len(left) > 3 else ""
    message = f"{len(left):,} of {text.plural(num_paths, 'checkpoint')} not judged: {names}{more}"
    return CkptError("Interrupted", message, "Nothing was changed. `--level structure` takes a moment.")


def _as_data(validation: Validation) -> dict[str, object]:
    return {
        "path": validation.path,
        "verdict": validation.verdict,
        "levels": validation.levels,
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity.value,
                "level": finding.level,
                "where": finding.where,
                "message": finding.message,
                "hint": finding.hint,
            }
            for finding in validation.findings
        ],
        "bytes_checked": validation.bytes_checked,
        "seconds": validation.seconds,
        "format": validation.format,
        "step": validation.step,
        "bytes": validation.size_bytes,
    }


def _as_error(validation: Validation) -> CkptError:
    finding = validation.findings[-1]
    if validation.verdict == "unreadable" and ": " in finding.message:
        title, _, message = finding.message.partition(": ")
    else:
        title, message = "Not a checkpoint", finding.message
    path = text.safe_text(validation.path, 1000)
    return CkptError(title, message if path in message else f"{path}: {message}", finding.hint)


def _exit_code(results: list[Validation]) -> int:
    verdicts = {validation.verdict for validation in results}
    if verdicts & set(_UNJUDGED):
        return ExitCode.TROUBLE
    return ExitCode.OK if verdicts == {"valid"} else ExitCode.DIFFERENT


# --- text for eyes

_VERDICT_MARKS = {
    "valid": ("✓", "ok", "good"), "damaged": ("✖", "x", "bad"), "nonfinite": ("✖", "x", "bad"),
    "unsafe": ("✖", "x", "bad"), "incomplete": ("▲", "!", "warn"),
}  # fmt: skip
_OUTCOME_WORDS = {
    "fail": ("✖ fails:", "x fails:", "bad"), "pass": ("✓", "ok", "good"),
    "not-checked": ("? not checked:", "? not checked:", "warn"),
    "not-applicable": ("· does not apply:", "- does not apply:", "dim"),
}  # fmt: skip


def _lines(results: list[Validation], style: Style) -> Iterator[str]:
    judged = [validation for validation in results if validation.verdict not in _UNJUDGED]
    name_width = max((text.cell_width(text.safe_text(v.path, 1000)) for v in judged), default=0)
    name_width = min(name_width, max((style.width or _NARROW) - 38, 10))
    is_short = len(results) > 1
    for validation in judged:
        yield from _validation_lines(validation, style, name_width, is_short)
    if is_short:
        for line in textwrap.wrap(_summary(results), style.width or 10_000):
            yield style.paint(line, "dim")


def _validation_lines(validation: Validation, style: Style, name_width: int, is_short: bool) -> Iterator[str]:
    """Verdict first, then how far it goes, then why. is_short: one line when every level passes."""
    fancy, plain, role = _VERDICT_MARKS[validation.verdict]
    verdict = style.paint(text.fit(f"{style.glyph(fancy, plain)} {validation.verdict}", 12), role)
    path = text.safe_text(validation.path, 1000)
    name = text.fit(path, name_width, keep="end") if style.width is not None else path.ljust(name_width)
    facts = [text.size(validation.size_bytes)]
    if validation.step is not None:
        facts.append(f"step {text.safe_text(f'{validation.step:,}', 20)}")
    yield f"{verdict} {name}  {', '.join(facts)}".rstrip()
    if is_short and not validation.findings and set(validation.levels.values()) == {"pass"}:
        return
    line, width = " ", 1
    for outcome, (with_glyph, without, role) in _OUTCOME_WORDS.items():
        names = [level for level, found in validation.levels.items() if found == outcome]
        if outcome == "not-applicable" and any(finding.code == "not-exact" for finding in validation.findings):
            names = ["an exact resume" if level == "resume" else level for level in names]  # another one works
        if not names:
            continue
        group = f"{style.glyph(with_glyph, without)} {', '.join(names)}"
        if style.width is not None and width > 1 and width + 2 + text.cell_width(group) > style.width:
            yield line
            line, width = " ", 1
        line += (" " if width == 1 else "  ") + style.paint(group, role)
        width += (1 if width == 1 else 2) + text.cell_width(group)
    yield line
    order = {"error": 0, "warning": 1, "info": 2}
    findings = sorted(validation.findings, key=lambda finding: order[finding.severity.value])
    hints: list[str] = []
    for finding in findings[:_MAX_FINDINGS_SHOWN]:
        yield from _finding_lines(finding, style)
        if finding.hint and finding.hint not in hints:
            hints.append(finding.hint)
    if len(findings) > _MAX_FINDINGS_SHOWN:
        yield f"  and {text.plural(len(findings) - _MAX_FINDINGS_SHOWN, 'more finding')}: --json has all of them"
    for hint in hints:
        yield from _wrapped(hint, style.glyph("→ ", "> "), style)


def _finding_lines(finding: Finding, style: Style) -> Iterator[str]:
    role = {"error": "bad", "warning": "warn", "info": "dim"}[finding.severity.value]
    where = text.safe_text(finding.where, 120)
    sentence = f"{where}: {finding.message}" if where else finding.message
    for line in _wrapped(sentence, "", style):
        yield style.paint(line, role)


def _wrapped(sentence: str, mark: str, style: Style) -> Iterator[str]:
    sentence = text.safe_text(sentence, 2000)
    if style.width is None:
        yield f"  {mark}{sentence}"
        return
    yield from textwrap.wrap(
        sentence, style.width, initial_indent=f"  {mark}", subsequent_indent="    ", break_on_hyphens=False
    )


def _summary(results: list[Validation]) -> str:
    counts: dict[str, int] = {}
    for validation in results:
        counts[validation.verdict] = counts.get(validation.verdict, 0) + 1
    num_bytes = sum(validation.bytes_checked for validation in results)
    seconds = sum(validation.seconds for validation in results)
    read = f"; {text.size(num_bytes)} read in {text.duration(seconds)}" if num_bytes else ""
    verdicts = ", ".join(f"{number:,} {verdict}" for verdict, number in counts.items())
    if any(set(validation.levels.values()) == {"pass"} and not validation.findings for validation in results):
        read += "; no second line: every level passes"
    return f"{text.plural(len(results), 'checkpoint')}: {verdicts}{read}"
