"""Relaunch a training: from which checkpoint, with which command, and what it skips, redoes and trains anew."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches

from ckpt_tui.checkpoints.hparams import Effect, HparamChange, compare_hparams
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.run.timeline import seconds_above
from ckpt_tui.services import command_line, journal, names, validity
from ckpt_tui.services.catalog import Catalog, CatalogEntry, read_catalog, resume_order
from ckpt_tui.services.damage import found_checkpoints
from ckpt_tui.services.owner import owner_of, run_monitor
from ckpt_tui.services.plans import safe_name
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.text import duration, plural, safe_text

# Settings of a start, not of the training: never compared.
_NOT_SETTINGS = frozenset({"resume", "out", "list_checkpoints"})


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What a resume would start, for a person to read before it is started.

    command: argv, the interpreter first; command_line: the same, quoted for a shell. cwd: where it runs.
    changes: hyperparameters that differ from those the checkpoint was trained with, each with its effect.
    steps_skipped: trained already and in the checkpoint; steps_redone: trained before, lost, trained again;
    steps_new: the rest up to total_steps. *_s: estimates in seconds at the run's own pace, 0 when it is not known.
    hyperparameters: as recorded, before the changes. session: the number that the new session will have.
    source: what was asked for, as `plan_resume` takes it.
    refusals: why it cannot be started; `launch` refuses as long as there is one. warnings: read these first.
    """

    directory: str
    checkpoint_name: str
    checkpoint_path: str
    step: int
    validation: Validation
    command: tuple[str, ...]
    command_line: str
    cwd: str
    changes: tuple[HparamChange, ...] = ()
    steps_skipped: int = 0
    steps_redone: int = 0
    steps_new: int = 0
    redone_s: float = 0.0
    new_s: float = 0.0
    total_steps: int = 0
    hyperparameters: Mapping[str, object] | None = None
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    session: int = 1
    source: str = "auto"


def plan_resume(
    directory: str,
    source: str = "auto",
    changes: Mapping[str, str] | None = None,
    *,
    on_bytes: Callable[[int], None] | None = None,
) -> ResumePlan:
    """Plan a resume from `source`: auto (newest valid), latest, best, a name in the directory, or a path.

    changes: hyperparameters to set, as typed by a person (`{"lr": "3e-4"}`).
    Raises CkptError when there is nothing to resume from, when no command is known, or for a setting that the run
    does not have.
    """
    directory = os.path.abspath(directory)
    try:
        os.listdir(directory)
    except OSError as error:
        raise from_os_error(error, directory, "list") from error
    monitor = run_monitor(directory)
    state = monitor.state() if monitor is not None else None
    owner = owner_of(directory, state)
    warnings = [] if owner else journal.recover(directory, lambda deed: log_restored(directory, deed))
    catalog = read_catalog(directory)
    entry, validation, passed_over = _choose(directory, catalog, source, on_bytes)
    hyperparameters = _hyperparameters(entry)
    recorded = {**hyperparameters, **(dict(state.config) if state is not None else {})}
    refusals = []
    if owner is not None:
        refusals.append(f"A training is running here already (process {owner.pid}, {owner.told_by} says so).")
    if validation.verdict != "valid":
        refusals.append(f"{safe_name(entry.name)} is {validation.verdict}: nothing can be resumed from it.")

    command, cwd, notes, refusal = _command(directory, state, entry, hyperparameters)
    warnings += notes
    if refusal is not None:
        refusals.append(refusal)
    is_own = command_line.is_own_trainer(command)
    wanted, said = _typed(changes or {}, recorded, is_own)
    warnings += said
    differences = _differences(hyperparameters or recorded, recorded, wanted)
    for change in differences:
        if change.effect is Effect.IMPOSSIBLE:
            values = f"{_value(change.a)} -> {_value(change.b)}"
            refusals.append(f"{safe_name(change.key)}: {values} is impossible. {change.effect.explanation}")
    # Only as `auto` our trainer sets aside what is damaged; as a person's choice it would leave it behind, for good.
    is_auto = bool(passed_over) and is_own and all(verdict == "damaged" for _, verdict in passed_over)
    argument = "auto" if is_auto else _resume_argument(directory, entry)
    command = command_line.set_option(command, "resume", argument, recorded="")
    for key, value in wanted.items():
        command = command_line.set_option(command, key, value, recorded=recorded.get(key))
    if not is_own and state is not None and "resume" not in state.config:
        warnings.append("Whether this training script understands `--resume` is not known.")

    step = entry.step or 0
    reached = max(state.step if state is not None else 0, step, *(other.step or 0 for other, _ in passed_over))
    total_steps = _total_steps(state, recorded, wanted)
    redone = max(min(reached, total_steps or reached) - step, 0)
    new = max(total_steps - max(reached, step), 0)
    redone_s = new_s = 0.0
    if monitor is not None and state is not None:
        # Judged as the header judges it, so that both say the same times.
        monitor.invalid_checkpoints = frozenset(other.name for other, _ in passed_over)
        monitor.found_checkpoints = found_checkpoints(catalog.entries)
        judged = monitor.state()
        pace = judged.seconds_per_step or 0.0
        redone_s = (seconds_above(judged, step) or 0.0) + (redone - max(judged.step - step, 0)) * pace
        redone_s, new_s = max(redone_s, 0.0), new * pace
    plan = ResumePlan(
        directory=directory, checkpoint_name=entry.name, checkpoint_path=entry.path, step=step, validation=validation,
        command=tuple(command), command_line=command_line.quoted(command), cwd=cwd, changes=tuple(differences),
        steps_skipped=step, steps_redone=redone, steps_new=new, redone_s=redone_s, new_s=new_s,
        total_steps=total_steps, hyperparameters=recorded, refusals=tuple(refusals),
        session=(state.session if state is not None else 0) + 1,
    )  # fmt: skip
    warnings += _branch_warning(catalog, entry)
    if total_steps and step >= total_steps:
        warnings.append(
            f"Step {step:,} is the end of the training ({total_steps:,} steps): there is nothing left to do."
        )
    sentences = _sentences(plan, entry, passed_over, wanted)
    return replace(plan, source=source, sentences=tuple(sentences), warnings=tuple(warnings))


def _choose(
    directory: str, catalog: Catalog, source: str, on_bytes: Callable[[int], None] | None
) -> tuple[CatalogEntry, Validation, list[tuple[CatalogEntry, str]]]:
    """The checkpoint, its validation, and the newer ones that were passed over, each with its verdict."""
    if source != "auto":
        entry = _named(directory, catalog, source)
        return entry, validity.check(entry.path, on_bytes=on_bytes), []
    passed_over: list[tuple[CatalogEntry, str]] = []
    # Damaged ones of which nobody knows the step come first: they may be the newest, and are told either way.
    for entry in sorted(resume_order(catalog.entries), key=lambda e: not (e.is_bad and e.step is None)):
        if entry.name.endswith(".safetensors") or (entry.step is None and not entry.is_bad) or entry.is_abandoned:
            continue
        validation = validity.check(entry.path, on_bytes=on_bytes)
        if validation.verdict == "valid" and entry.step is not None:
            return entry, validation, passed_over
        passed_over.append((entry, validation.verdict))
    reasons = "; ".join(map(_passed_over_words, passed_over[:6])) or "there is no checkpoint"
    raise CkptError(
        "Nothing to resume from",
        f"{catalog.directory}: {reasons}",
        "Look: `ckpt-tui list DIR`, `ckpt-tui validate DIR`.",
    )


def _passed_over_words(row: tuple[CatalogEntry, str]) -> str:
    entry, verdict = row
    step = f" (step {entry.step:,})" if entry.step is not None else ""
    return f"{safe_name(entry.name)}{step} is {verdict}"


def _named(directory: str, catalog: Catalog, source: str) -> CatalogEntry:
    name = {"latest": names.LATEST_NAME, "best": names.BEST_NAME}.get(source, source)
    entry = catalog.entry(name)
    if entry is None and source in ("latest", "best"):
        entry = next((e for e in catalog.entries if e.kind == source and not e.is_backup), None)
    if entry is None and os.sep in name and os.path.realpath(os.path.dirname(name)) == os.path.realpath(directory):
        entry = catalog.entry(os.path.basename(name))
    if entry is not None:
        return entry
    path = os.path.abspath(name)
    if os.path.exists(path) and os.sep in name:
        checkpoint = open_checkpoint(path)
        step = checkpoint.progress.get("step")
        return CatalogEntry(
            name=path, path=path, kind="other", step=step if isinstance(step, int) else None, epoch=None,
            val_loss=None, size_bytes=checkpoint.size_bytes, saved_at=None,
        )  # fmt: skip
    there = ", ".join(safe_name(entry.name) for entry in catalog.entries[:12])
    raise CkptError(
        "No such checkpoint", f"{safe_name(name)} is not in {directory}", f"There are: {there}." if there else ""
    )


def _hyperparameters(entry: CatalogEntry) -> Mapping[str, object]:
    try:
        return open_checkpoint(entry.path).hyperparameters
    except CkptError:
        return {}  # its validation says what is wrong with it


def _command(
    directory: str, state: RunState | None, entry: CatalogEntry, hyperparameters: Mapping[str, object]
) -> tuple[list[str], str, list[str], str | None]:
    """The command without the resume and the changes, where it runs, notes, and why it cannot run (or None)."""
    notes: list[str] = []
    cwd = os.path.dirname(directory)
    if state is not None and state.argv:
        command, notes, missing = command_line.runnable(command_line.without_once(state.argv))
        if state.cwd and os.path.isdir(state.cwd):
            cwd = state.cwd
        elif state.cwd:
            notes.append(f"The recorded working directory {safe_name(state.cwd)} is gone: it runs in {cwd}.")
        out = command_line.option_value(command, "out")
        if out is not None and os.path.realpath(os.path.join(cwd, out)) != os.path.realpath(directory):
            command = command_line.set_option(command, "out", directory, recorded="")
            notes.append(f"The run directory was moved since: --out is now {safe_name(directory)}.")
        return command, cwd, notes, f"It cannot be started: {missing}." if missing else None
    facts = names.read_name(os.path.basename(entry.name))
    if facts is not None and facts.is_own and hyperparameters:
        notes.append("There is no log: the command is made from the settings in the checkpoint.")
        return command_line.own_trainer_command(directory, hyperparameters), cwd, notes, None
    raise CkptError(
        "No command is known",
        f"no log in {directory} records how this training was started, and {safe_name(entry.name)} was not written by "
        "the bundled trainer: its script, its launcher and its arguments are not known",
        f"Start it yourself from {entry.path} (step {entry.step if entry.step is not None else 'not known'}).",
    )


def _typed(
    changes: Mapping[str, str], recorded: Mapping[str, object], is_own: bool
) -> tuple[dict[str, object], list[str]]:
    """The changes with values of the recorded kind, under the recorded spelling; what is not known of the others."""
    spelling = {key.replace("-", "_").lower(): key for key in recorded}
    wanted: dict[str, object] = {}
    said: list[str] = []
    for given, text in changes.items():
        key = spelling.get(given.lstrip("-").replace("-", "_").lower())
        if key is None:
            if is_own and recorded:
                near = get_close_matches(given, list(recorded), n=3)
                raise CkptError(
                    "No such setting",
                    f"this run has no setting {safe_text(given, 60)}",
                    f"Did you mean {' or '.join(near)}?"
                    if near
                    else "`ckpt-tui inspect CHECKPOINT` lists its settings.",
                )
            key = given.lstrip("-")
            said.append(f"{safe_name(key)} is not among the recorded settings: it is added as --{safe_name(key)}.")
        if key in _NOT_SETTINGS:
            raise CkptError("Not a setting", f"--{key} is set by the resume itself", "Use --from for the checkpoint.")
        wanted[key] = command_line.typed_value(text, recorded.get(key))
    return wanted, said


def _differences(
    trained_with: Mapping[str, object], recorded: Mapping[str, object], wanted: Mapping[str, object]
) -> list[HparamChange]:
    """What the new session does differently from the one that wrote the checkpoint; harmless ones only if asked for."""
    before = {key: value for key, value in trained_with.items() if key not in _NOT_SETTINGS}
    after = {**before, **{key: value for key, value in recorded.items() if key in before}, **wanted}
    return [
        change for change in compare_hparams(before, after) if change.key in wanted or change.effect is not Effect.SAFE
    ]


def _resume_argument(directory: str, entry: CatalogEntry) -> str:
    """The bare name of a file in the run directory, else its path."""
    return entry.name if os.path.dirname(entry.path) == directory else entry.path


def _total_steps(state: RunState | None, recorded: Mapping[str, object], wanted: Mapping[str, object]) -> int:
    for value in (wanted.get("max_steps"), state.total_steps if state is not None else None, recorded.get("max_steps")):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _branch_warning(catalog: Catalog, entry: CatalogEntry) -> list[str]:
    """What becomes of newer checkpoints: our trainer leaves them behind, others take the highest step again."""
    if entry.step is None:
        return []
    newer = [e for e in resume_order(catalog.entries) if e.step is not None and e.step > entry.step and e.is_candidate]
    newer = [e for e in newer if (known := validity.recall(e.path)) is None or known.verdict == "valid"]
    if not newer:
        return []
    if entry.session_id:
        return [
            f"Newer checkpoints stay here ({len(newer)}), left behind: from now on `auto` takes none of them. To go on "
            f"from one later, name it: --resume {safe_name(newer[0].name)}."
        ]
    return [
        f"Newer checkpoints stay here ({len(newer)}): until step {newer[0].step:,} is passed, `auto` takes "
        f"{safe_name(newer[0].name)}. `ckpt-tui rollback` sets them aside first."
    ]


def _sentences(
    plan: ResumePlan, entry: CatalogEntry, passed_over: list[tuple[CatalogEntry, str]], wanted: Mapping[str, object]
) -> list[str]:
    levels = [level for level, word in plan.validation.levels.items() if word == "pass"]
    checked = f"{plan.validation.verdict}: {', '.join(levels)}" if levels else plan.validation.verdict
    step = f"step {entry.step:,}" if entry.step is not None else "step not known"
    sentences = [f"Resumes from {safe_name(entry.name)} ({step}; {checked})."]
    sentences += [f"Passed over: {_passed_over_words(row)}." for row in passed_over]
    newest = max((other.step or 0 for other, _ in passed_over), default=0)
    if newest > plan.step:
        sentences.append(f"With the newest one whole, it would be {plural(newest - plan.step, 'step')} less to redo.")
    parts = [f"Skips {plural(plan.steps_skipped, 'step')}"]
    if plan.steps_redone:
        time_words = f" ({duration(plan.redone_s)})" if plan.redone_s else ""
        parts.append(f"redoes {plural(plan.steps_redone, 'step')}{time_words}")
    if plan.total_steps:
        parts.append(f"then trains {plan.steps_new:,} new")
    total = f": about {duration(plan.redone_s + plan.new_s)}" if plan.redone_s + plan.new_s else ""
    sentences.append(", ".join(parts) + total + ".")
    differing = {change.key for change in plan.changes}
    for change in plan.changes:
        if change.effect is Effect.IMPOSSIBLE:
            continue  # among the refusals
        sentences.append(f"{safe_name(change.key)}: {_value(change.a)} -> {_value(change.b)}, {change.effect.words}.")
    for key in wanted:
        if key not in differing:
            sentences.append(f"{safe_name(key)} is {_value(wanted[key])} already.")
    sentences.append(f"Starts detached, outlives this connection; output in session_{plan.session}.log.")
    return sentences


def _value(value: object) -> str:
    return safe_text(value if value is not None else "not set", 60)
