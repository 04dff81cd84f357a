"""The level `resume`: is everything there that an exact resume needs, and does it agree?

It passes when an exact resume is possible, and fails when something is missing that should be there, or contradicts
something else. Weights alone have nothing to resume: not applicable. An exact resume does not apply either to what its
writer never keeps (Lightning saves no random number states, most scripts neither those nor a data position): it is
said that a resume works and what will not repeat, which is no fault of the file. Who keeps one of the two means to
resume exactly, so that the other one is missed; but for loops of people's own that the bundled `Checkpointer` saves
for: what it was given is what they go on from.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ckpt_tui.checkpoints.facts import keeps_order, optimizers_of
from ckpt_tui.checkpoints.model import Checkpoint, Finding, Severity, TensorInfo, TensorRef
from ckpt_tui.checkpoints.parts import ROLE_KEYS
from ckpt_tui.checkpoints.plain import entries_of
from ckpt_tui.records import dataclass
from ckpt_tui.text import count, plural, safe_text

# Moments that have the shape of their parameter in torch's own optimizers.
_MOMENTS = frozenset(
    {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta",
     "sum", "ax", "prev"}
)  # fmt: skip
_STEP_IN_NAME = re.compile(
    r"(?:^|[^a-z])(?:global_?step|step|iter|iteration|checkpoint)[_=-]?0*(\d{1,12})(?=$|[^\d])", re.I
)
# By the part: the code, and the words.
_EXPECTED = {
    "rng": ("rng-missing", "no random number states: dropout and shuffling will not repeat what would have come"),
    "dataloader": ("data-position-missing", "no data position: batches will be repeated or left out"),
}
_MISSING_PARTS = frozenset({"optimizer-missing", *(code for code, _ in _EXPECTED.values())})
# What these never keep, or only when a program sees to it. (A trainer of Hugging Face finds its place by the step.)
_NEVER_KEPT = {
    "lightning": ("rng",),
    "accelerate": ("dataloader",),
    "deepspeed": ("rng", "dataloader"),
    "checkpoint-dir": ("rng",),
}
# Of the bundled trainer's saves. Its training keeps everything; in other people's loops the state is theirs.
_OWN_KEYS = frozenset({"format_version", "checkpoint_type"})
_OWN_TRAINING = frozenset({"args", "loss_history"})  # by these two: it resumes from nothing that lacks a part


@dataclass(frozen=True, slots=True)
class Resumability:
    """outcome: pass, fail or not-applicable. findings: why."""

    outcome: str
    findings: tuple[Finding, ...]


def check_resume(checkpoint: Checkpoint, expected_step: int | None = None) -> Resumability:
    """Judge whether a training can be resumed exactly from `checkpoint`. expected_step: as the log or registry says."""
    has = set(checkpoint.has)
    if not has & {"optimizer", "scheduler", "scaler", "rng", "dataloader"}:
        return Resumability("not-applicable", ())
    # Readers of directories know which files a resume needs.
    findings = [f for f in checkpoint.findings if f.level == "resume" and f.severity != Severity.INFO]
    known = len(findings)
    if "model" not in has:
        findings.append(_missing("model-missing", "no model weights: there is nothing to resume"))
    lacks = [part for part in ("rng", "dataloader") if part not in has]
    if not known:
        if "optimizer" not in has:
            findings.append(_missing("optimizer-missing", "no optimizer state: its moments start at zero again"))
        if "scheduler" not in has and not any(key in _entries(checkpoint) for key in ROLE_KEYS["scheduler"]):
            message = "no scheduler state; fine when the learning rate is constant or follows from the step"
            findings.append(Finding("scheduler-missing", Severity.INFO, "scheduler", message, level="resume"))
    never_kept = [part for part in lacks if _never_keeps(checkpoint, part, lacks)]
    if not known:
        findings += [_missing(*_EXPECTED[part]) for part in lacks if part not in never_kept]
    if _is_of_own_training(checkpoint):
        hint = "The trainer that wrote it resumes only from what is complete."
        findings = [replace(f, severity=Severity.ERROR, hint=hint) if f.code in _MISSING_PARTS else f for f in findings]
    is_without_step = step_of(checkpoint) is None
    if is_without_step and not never_kept:
        message = "no step: a resume cannot know which batch comes next"
        findings.append(Finding("step-missing", Severity.WARNING, "step", message, level="resume"))
    findings += _check_step(checkpoint, expected_step)
    findings += _check_moments(checkpoint)
    failed = any(finding.severity != Severity.INFO and finding.code != "moment-order" for finding in findings)
    if never_kept:
        findings.append(_not_exact(checkpoint, never_kept, is_without_step))
    outcome = "fail" if failed else "not-applicable" if never_kept else "pass"
    return Resumability(outcome, tuple(findings[known:]))


def _never_keeps(checkpoint: Checkpoint, part: str, lacks: list[str]) -> bool:
    """Whether what wrote the checkpoint is no one to keep that part."""
    entries = _entries(checkpoint)
    if not _OWN_KEYS.isdisjoint(entries):
        return "args" not in entries
    if checkpoint.format in _NEVER_KEPT:
        return part in _NEVER_KEPT[checkpoint.format]
    return checkpoint.format != "hf-trainer" and len(lacks) == len(_EXPECTED)


def _is_of_own_training(checkpoint: Checkpoint) -> bool:
    entries = _entries(checkpoint)
    return not _OWN_KEYS.isdisjoint(entries) and entries.keys() >= _OWN_TRAINING


def _not_exact(checkpoint: Checkpoint, never_kept: list[str], is_without_step: bool) -> Finding:
    """What a resume from it does not repeat, in one sentence."""
    reasons = [_EXPECTED[part][1] for part in never_kept]
    if is_without_step:
        epoch = checkpoint.progress.get("epoch")
        known = (
            f"only the epoch is known, {epoch:g}" if isinstance(epoch, (int, float)) else "not even an epoch is said"
        )
        reasons.append(f"no step, {known}")
    message = f"it can be resumed from, but not exactly: {'; '.join(reasons)}"
    if never_kept == ["dataloader"] and not _OWN_KEYS.isdisjoint(_entries(checkpoint)):
        message = "no data position: exact only where the data follow from the step or from the random numbers"
    return Finding("not-exact", Severity.WARNING, "resume", message, level="resume")


def _entries(checkpoint: Checkpoint) -> Mapping[object, object]:
    return checkpoint.state if isinstance(checkpoint.state, Mapping) else {}


def _missing(code: str, message: str) -> Finding:
    hint = "It can be resumed from, but not exactly." if code not in ("model-missing", "optimizer-missing") else ""
    severity = Severity.ERROR if code == "model-missing" else Severity.WARNING
    return Finding(code, severity, code.removesuffix("-missing"), message, hint, "resume")


def step_of(checkpoint: Checkpoint) -> int | None:
    """The step that the checkpoint says it was saved at."""
    return _count(checkpoint.progress.get("step"))


def _count(value: object) -> int | None:
    """A whole number that can be a count; a file may hold integers of a million digits."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64 else None


def step_in_name(path: str) -> int | None:
    """The step in a file's name: `rolling_step_000500.pt`, `checkpoint-500`, `epoch=3-step=500.ckpt`."""
    matches = _STEP_IN_NAME.findall(os.path.basename(path.rstrip("/")))
    return int(matches[-1]) if matches else None


def _check_step(checkpoint: Checkpoint, expected: int | None) -> Iterator[Finding]:
    step = step_of(checkpoint)
    if step is None:
        return
    # Accelerate numbers its saves, not their steps.
    named = step_in_name(checkpoint.path) if checkpoint.format != "accelerate" else None
    hint = "The file may have been renamed, or copied from another run."
    for other, who in ((named, "its name says"), (expected, "the run's records say")):
        if other is not None and other != step:
            message = f"the state says step {count(step)}, {who} {count(other)}"
            yield Finding("step-mismatch", Severity.ERROR, "step", message, hint, "resume")
    scheduled = _scheduler_step(checkpoint)
    epoch = checkpoint.progress.get("epoch")
    epochs = {int(epoch) + i for i in (-1, 0, 1)} if isinstance(epoch, (int, float)) and abs(epoch) < 10**12 else set()
    if scheduled is not None and scheduled != step and scheduled not in epochs:
        message = f"the scheduler is at {count(scheduled)}, the state at step {count(step)}"
        meaning = "; fine when it counts something else than steps, such as evaluations or micro-batches"
        yield Finding("scheduler-step", Severity.INFO, "scheduler", message + meaning, level="resume")


def _scheduler_step(checkpoint: Checkpoint) -> int | None:
    scheduler = next((part.value for part in checkpoint.parts if part.role == "scheduler"), None)
    if isinstance(scheduler, (list, tuple)) and len(scheduler) == 1:
        scheduler = scheduler[0]
    return _count(scheduler.get("last_epoch")) if isinstance(scheduler, Mapping) else None


def _check_moments(checkpoint: Checkpoint) -> Iterator[Finding]:
    """Moments have the shapes of their parameters: by order where there is one group, as a set where there are more."""
    shapes = _model_shapes(checkpoint)
    if not shapes:
        return
    for found in optimizers_of(checkpoint):
        where, optimizer = found.where, found.value
        per_parameter, groups = optimizer.get("state"), optimizer.get("param_groups")
        if not isinstance(per_parameter, Mapping) or not isinstance(groups, (list, tuple)):
            continue
        order = [p for group in groups for p in _members(group)]
        if len(order) > len(shapes):
            message = f"it has {plural(len(order), 'parameter')}, the model has {plural(len(shapes), 'tensor')}"
            yield Finding("optimizer-shape", Severity.ERROR, where, message, "They are of different models.", "resume")
            continue
        moments = [(p, ref.info) for p in order for ref in _moments_of(per_parameter.get(p))]
        of_parameter: dict[object, TensorInfo] = {}
        for parameter, info in moments:
            of_parameter.setdefault(parameter, info)
        wrong = _first_unmatched(of_parameter.values(), shapes)
        odd = [info for parameter, info in moments if info.shape != of_parameter[parameter].shape]
        if wrong is not None or odd:
            info = wrong or odd[0]
            message = f"{safe_text(info.name)} has shape {list(info.shape)}, no parameter is left that fits"
            hint = "Model and optimizer are not of the same training."
            yield Finding("optimizer-shape", Severity.ERROR, where, message, hint, "resume")
        elif (
            len(groups) == 1
            and keeps_order(checkpoint)
            and not _is_in_order([info.shape for info in of_parameter.values()], shapes)
        ):
            message = "its moments come in another order than the model's parameters"
            yield Finding("moment-order", Severity.WARNING, where, message, level="resume")
        adam = any(isinstance(group, Mapping) and "betas" in group for group in groups)
        step = step_of(checkpoint)
        if adam and not per_parameter and step is not None and step > 0:
            message = f"no moments at step {count(step)}, though this optimizer keeps them"
            yield Finding("moments-missing", Severity.WARNING, where, message, level="resume")


def _model_shapes(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    return [
        value.info.shape
        for part in checkpoint.parts
        if part.role == "model"
        for value in (entries_of(part.value) or {}).values()
        if isinstance(value, TensorRef)
    ]


def _members(group: object) -> list[int | str]:
    """The parameters of an optimizer's group: numbers, or names in some frameworks."""
    params = group.get("params") if isinstance(group, Mapping) else None
    return [p for p in params if isinstance(p, (int, str))] if isinstance(params, (list, tuple)) else []


def _moments_of(entry: object) -> list[TensorRef]:
    if not isinstance(entry, Mapping):
        return []
    return [value for key, value in entry.items() if key in _MOMENTS and isinstance(value, TensorRef)]


def _first_unmatched(moments: Iterable[TensorInfo], shapes: list[tuple[int, ...]]) -> TensorInfo | None:
    """The first moment for which no parameter of its shape is left."""
    left = Counter(shapes)
    for info in moments:
        if not left[info.shape]:
            return info
        left[info.shape] -= 1
    return None


def _is_in_order(moments: list[tuple[int, ...]], shapes: list[tuple[int, ...]]) -> bool:
    """Whether the moments' shapes are the parameters' in their order; some (buffers, tied, frozen) may be left out."""
    remaining = iter(shapes)
    return all(any(shape == other for other in remaining) for shape in moments)
