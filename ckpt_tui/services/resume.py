"""Relaunch a training: from which checkpoint, with which command, and what it skips, redoes and trains anew.

the checkpoint (resume_choice.py) -> the settings (overrides.py) -> the command: a person's own (template.py), the
recorded one (recorded.py, sbatch.py), or what a foreign checkpoint tells (foreign.py) -> what it costs
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING

from ckpt_tui.checkpoints.hparams import Effect, HparamChange, flat_settings
from ckpt_tui.checkpoints.registry import open_checkpoint
from ckpt_tui.checkpoints.validate import Validation
from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import RunState
from ckpt_tui.services import command_line, files, journal, overrides
from ckpt_tui.services.catalog import Catalog, read_catalog
from ckpt_tui.services.catalog_entries import CatalogEntry
from ckpt_tui.services.files import Content, content_of
from ckpt_tui.services.launchers import split_command
from ckpt_tui.services.launchers.base import Built, PlannedFile, Resume
from ckpt_tui.services.launchers.recorded import RecordedStart, build_recorded
from ckpt_tui.services.launchers.template import (
    Template,
    build_template,
    keep_template,
    parse_template,
    read_template,
)
from ckpt_tui.services.names import read_name
from ckpt_tui.services.newest_rules import why_nothing_beside
from ckpt_tui.services.owner import forced_words, keep_monitor, owners_of, read_monitor, unsure_words
from ckpt_tui.services.plans import safe_name
from ckpt_tui.services.restored_event import log_restored
from ckpt_tui.services.resume_choice import Choice, choose
from ckpt_tui.services.resume_cost import resume_cost
from ckpt_tui.services.resume_words import branch_warning, resume_sentences
from ckpt_tui.services.since_planned import has_changed
from ckpt_tui.text import run_word, safe_text

if TYPE_CHECKING:
    from ckpt_tui.checkpoints.model import Checkpoint


@dataclass(frozen=True, slots=True)
class ResumePlan:
    """What a resume would start, for a person to read before it is started.

    command: argv, the interpreter first, () when none is known; command_line: the same, quoted for a shell. cwd: where
    it runs. launcher: python, torchrun, accelerate, deepspeed, program, sbatch, template, or the framework that wrote
    the checkpoint. environment: variables that the command sets (`env` stands first in it). not_known: what nobody
    recorded; it is among the warnings, too. known_by: what tells that the script goes on from the checkpoint so.
    hints: how to do it by hand.
    changes: hyperparameters that differ from those the checkpoint was trained with, each with its effect.
    steps_skipped: trained already and in the checkpoint; steps_redone: trained before, lost, trained again;
    steps_new: the rest up to total_steps. *_s: estimates in seconds at the run's own pace, 0 when it is not known.
    hyperparameters: as recorded, before the changes. session: the number that the new session will have.
    source: what was asked for, as `plan_resume` takes it. template: a command of a person's own that it is made of.
    files: to be written into the directory before it starts. found: the checkpoints that were there, by their paths.
    is_forced: a person knows that what may train on another host does not.
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
    launcher: str = "python"
    environment: Mapping[str, str] = field(default_factory=dict)
    not_known: tuple[str, ...] = ()
    known_by: str = ""
    hints: tuple[str, ...] = ()
    files: tuple[PlannedFile, ...] = ()
    template: Template | None = None
    found: Mapping[str, Content | None] = field(default_factory=dict, repr=False)
    is_forced: bool = False


def plan_resume(
    directory: str,
    source: str = "auto",
    changes: Mapping[str, str] | None = None,
    *,
    command: str | None = None,
    force: bool = False,
    on_bytes: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> ResumePlan:
    """Plan a resume from `source`: auto (newest valid), latest, best, a name in the directory, or a path.

    changes: hyperparameters to set, as typed by a person (`{"lr": "3e-4"}`). command: a command of the person's own,
    with `{checkpoint}` and other places; without it the one that is kept for the directory, then the recorded one.
    force: also where a training may run on another host, which nobody can tell; never beside one that is seen to live.
    Raises CkptError when there is nothing to resume from, and for a setting or a place in the command that cannot be.
    """
    directory = os.path.abspath(directory)
    try:
        os.listdir(directory)
    except OSError as error:
        raise from_os_error(error, directory, "list") from error
    template = parse_template(command, os.getcwd()) if command is not None else read_template(directory)
    monitor = read_monitor(directory)
    state = monitor.state() if monitor is not None else None
    owners = owners_of(directory, state)
    owner = next((owner for owner in owners if owner.is_sure), None)
    unsure = next((owner for owner in owners if not owner.is_sure), None)
    warnings = (
        []
        if owner or (unsure and not force)
        else journal.recover(directory, lambda deed: log_restored(directory, deed))
    )
    catalog = read_catalog(directory)
    found = _contents(catalog)
    start = _recorded_start(state)
    choice = choose(catalog, source, is_live=owner is not None, on_bytes=on_bytes, is_cancelled=is_cancelled)
    entry, validation = choice.entry, choice.validation
    found.setdefault(entry.path, content_of(os.path.realpath(entry.path)))
    checkpoint = _opened(entry)
    trained_with = flat_settings(checkpoint.hyperparameters) if checkpoint is not None else {}
    told = flat_settings(state.config) if state is not None else {}
    # Another program's log tells what files beside it say: of a setting that both have, the checkpoint knows better.
    is_foreign = state is not None and bool(state.source)
    recorded = {**told, **trained_with} if is_foreign else {**trained_with, **told}
    refusals = []
    if owner is not None:
        refusals.append(
            f"A training is running here already ({owner.words}, {owner.told_by} says so): `ckpt-tui stop "
            f"{run_word(directory)}` asks it to save and end."
        )
    elif unsure is not None and not force:
        refusals.append(unsure_words(directory, unsure))
    elif unsure is not None:
        warnings.append(forced_words(unsure))
    if why := why_nothing_beside(directory):  # its output and the record of the start would lie there
        refusals.append(f"{why} Give the directory above.")
    if validation.lacks:
        lacks = "; ".join(validation.lacks[:4])
        warnings.append(f"The resume is not exact: {safe_name(entry.name)} is incomplete: {safe_text(lacks, 500)}.")
    elif choice.can_resume and not entry.can_resume:
        warnings.append(
            f"{safe_name(entry.name)} holds weights only: optimizer, schedule and random numbers would begin anew."
        )
    elif not choice.can_resume:
        refusals.append(f"{safe_name(entry.name)} is {validation.verdict}: nothing can be resumed from it.")

    is_own = _is_own(template, start, entry, trained_with)
    wanted, said = overrides.typed(changes or {}, recorded, is_own=is_own)
    warnings += said
    differences = overrides.differences(trained_with or recorded, recorded, wanted)
    refusals += [overrides.impossible_words(change) for change in differences if change.effect is Effect.IMPOSSIBLE]
    warnings += overrides.shape_warnings(checkpoint, [change for change in differences if change.key in wanted])
    session = (state.session if state is not None else 0) + 1
    request = Resume(
        directory, entry.name, entry.path, entry.step, _own_argument(directory, choice, is_own), source == "auto",
        wanted, recorded, session,
    )  # fmt: skip
    built = _build(template, start, request, entry, checkpoint, trained_with)
    warnings += built.notes
    refusals += [f"It cannot be started: {missing}." for missing in built.missing]
    if built.is_own and wanted and built.launcher != "sbatch" and not built.missing:
        overrides.ask_trainer(split_command(built.command), built.cwd)

    cost = resume_cost(choice, monitor, state, catalog.entries, {**recorded, **wanted}, wanted)
    if monitor is not None:
        keep_monitor(directory, monitor)  # the start asks again who trains
    plan = ResumePlan(
        directory=directory, checkpoint_name=entry.name, checkpoint_path=entry.path, step=entry.step or 0,
        validation=validation, command=built.command, command_line=command_line.quoted(built.command), cwd=built.cwd,
        changes=tuple(differences), steps_skipped=cost.skipped, steps_redone=cost.redone, steps_new=cost.new,
        redone_s=cost.redone_s, new_s=cost.new_s, total_steps=cost.total_steps, hyperparameters=recorded,
        refusals=tuple(refusals), session=session, source=source, launcher=built.launcher,
        environment=built.environment, not_known=built.not_known, known_by=built.known_by, hints=built.hints,
        files=built.files, template=template, found=found, is_forced=force,
    )  # fmt: skip
    warnings += branch_warning(catalog, entry)
    if plan.total_steps and plan.step >= plan.total_steps:
        warnings.append(
            f"Step {plan.step:,} is the end of the training ({plan.total_steps:,} steps): there is nothing left to do."
        )
    warnings += [f"Not known: {words}" for words in built.not_known]
    sentences = resume_sentences(plan, choice, wanted)
    return replace(plan, sentences=tuple(sentences), warnings=tuple(warnings))


def prepare(plan: ResumePlan) -> None:
    """Write what the plan's command needs; before it is started. Raises CkptError, also where what a person has read
    does not hold any more: a rollback, another session or damage since then has changed what would be resumed from."""
    now = _contents(read_catalog(plan.directory), plan.checkpoint_path)
    if plan.found and now != plan.found:
        other = sorted(path for path in {*now, *plan.found} if now.get(path) != plan.found.get(path))
        raise has_changed([os.path.relpath(path, plan.directory) for path in other], "nothing was started")
    for planned in plan.files:
        path = os.path.join(plan.directory, planned.name)
        try:
            files.write_file(path, planned.content.encode(), files.mode_as_log(plan.directory))
        except OSError as error:
            raise from_os_error(error, path, "write to") from error


def _contents(catalog: Catalog, *others: str) -> dict[str, Content | None]:
    return {path: content_of(os.path.realpath(path)) for path in [*(entry.path for entry in catalog.entries), *others]}


def keep_command(plan: ResumePlan) -> None:
    """Keep a command of a person's own for the next resumes; once it has started. Raises CkptError."""
    if plan.template is not None and not plan.template.is_kept:
        keep_template(plan.directory, replace(plan.template, cwd=plan.cwd))


def _build(
    template: Template | None,
    start: RecordedStart | None,
    request: Resume,
    entry: CatalogEntry,
    checkpoint: Checkpoint | None,
    trained_with: Mapping[str, object],
) -> Built:
    if template is not None:
        recorded_cwd = start.cwd if start is not None else ""
        return build_template(template, request, [recorded_cwd, os.path.dirname(request.directory)])
    if start is not None:
        return build_recorded(start, request)
    if _is_own_name(entry) and trained_with:
        command = command_line.own_trainer_command(request.directory, trained_with)
        built = build_recorded(RecordedStart(tuple(command), os.path.dirname(request.directory)), request)
        note = "There is no log: the command is made from the settings in the checkpoint."
        return replace(built, notes=(note, *built.notes))
    from ckpt_tui.services.launchers.foreign import build_foreign

    return build_foreign(request, checkpoint)


def _recorded_start(state: RunState | None) -> RecordedStart | None:
    if state is None or not state.argv:
        return None
    last = state.sessions[-1] if state.sessions else None
    has_resumed = last is not None and (bool(last.resumed_from) or last.start_step > 0)
    resumed_from = (last.resumed_from or "") if last is not None else ""
    return RecordedStart(state.argv, state.cwd, state.host, state.launcher, has_resumed, resumed_from)


def _is_own(
    template: Template | None, start: RecordedStart | None, entry: CatalogEntry, trained_with: Mapping[str, object]
) -> bool:
    """Whether the bundled trainer will run: it knows all of its settings, and `auto`."""
    if template is not None:
        return command_line.is_own_trainer(template.words)
    if start is not None:
        return command_line.is_own_trainer(start.argv) or start.argv[0].endswith(os.path.join("trainer", "__main__.py"))
    return _is_own_name(entry) and bool(trained_with)


def _is_own_name(entry: CatalogEntry) -> bool:
    facts = read_name(os.path.basename(entry.name))
    return facts is not None and facts.is_own


def _own_argument(directory: str, choice: Choice, is_own: bool) -> str:
    """What our trainer is told. Only as `auto` it sets aside what is damaged; as a person's choice it would leave it
    behind, for good."""
    verdicts = [verdict for _, verdict in choice.passed_over]
    if is_own and verdicts and all(verdict == "damaged" for verdict in verdicts):
        return "auto"
    entry = choice.entry
    return entry.name if os.path.dirname(entry.path) == directory else entry.path


def _opened(entry: CatalogEntry) -> Checkpoint | None:
    try:
        return open_checkpoint(entry.path)
    except CkptError:
        return None  # its validation says what is wrong with it
