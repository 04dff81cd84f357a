"""Settings that a person changes for a resume: read as the recorded kind of value, held against what was trained with.

What cannot be is refused before anything starts: a value of the wrong kind, a model of another shape, and, where the
bundled trainer will run, whatever its own flags refuse.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from ckpt_tui.checkpoints.hparams import Effect, HparamChange, compare_hparams
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.errors import CkptError
from ckpt_tui.services import command_line
from ckpt_tui.services.launchers.base import PYTHON, Split
from ckpt_tui.text import safe_text

# Settings of a start, not of the training: never compared.
NOT_SETTINGS = frozenset({"resume", "out", "list_checkpoints"})
_CHECK_S = 20.0
_WORDS_OF_BOOL = ("true", "yes", "on", "false", "no", "off", "0", "1")
# Of these a negative number, or one that is not finite, is a slip of the fingers in any training.
_NOT_BELOW_ZERO = """
    lr learning_rate base_lr max_lr min_lr lr_min weight_decay max_steps total_steps max_iters num_epochs epochs
    max_epochs num_train_epochs batch_size warmup_steps warmup_iters dropout grad_clip max_grad_norm
"""
_NOT_NEGATIVE = frozenset(_NOT_BELOW_ZERO.split())


def parse_assignments(texts: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` as typed after `--set`. Raises CkptError, also for a key that is given twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key.strip("-"):
            raise CkptError("Usage", f"--set {safe_text(text, 60)} is not KEY=VALUE", "For instance: --set lr=3e-4")
        same = next((one for one in found if _plain(one) == _plain(key)), None)
        if same is not None:
            message = f"--set gives {safe_text(key, 60)} twice: {safe_text(found[same], 40)} and {safe_text(value, 40)}"
            raise CkptError("Usage", message, "Give each setting once.")
        found[key] = value
    return found


def typed(
    changes: Mapping[str, str], recorded: Mapping[str, object], *, is_own: bool
) -> tuple[dict[str, object], list[str]]:
    """The changes with values of the recorded kind, under the recorded names; what is not known of the others.

    recorded: flat. A nested setting may be named by its last part where that is the only one of that name.
    Raises CkptError for a key that cannot be, or a value that is none.
    """
    wanted: dict[str, object] = {}
    said: list[str] = []
    for given, text in changes.items():
        key = _recorded_key(given, recorded)
        if key is None:
            near = get_close_matches(given, list(recorded), n=3)
            meant = f"Did you mean {' or '.join(near)}?" if near else ""
            if is_own and recorded:
                raise CkptError(
                    "No such setting",
                    f"this run has no setting {safe_text(given, 60)}",
                    meant or "`ckpt-tui inspect CHECKPOINT` lists its settings.",
                )
            key = given.lstrip("-")
            said.append(f"{safe_text(key, 60)} is not among the recorded settings: it is added. {meant}".rstrip())
        if key in NOT_SETTINGS:
            raise CkptError("Not a setting", f"--{key} is set by the resume itself", "Use --from for the checkpoint.")
        wanted[key] = _value(key, text, recorded.get(key))
    return wanted, said


def differences(
    trained_with: Mapping[str, object], recorded: Mapping[str, object], wanted: Mapping[str, object]
) -> list[HparamChange]:
    """What the new session does differently from the one that wrote the checkpoint; harmless ones only if asked for."""
    before = {key: value for key, value in trained_with.items() if key not in NOT_SETTINGS}
    after = {**before, **{key: value for key, value in recorded.items() if key in before}, **wanted}
    return [
        change for change in compare_hparams(before, after) if change.key in wanted or change.effect is not Effect.SAFE
    ]


def impossible_words(change: HparamChange) -> str:
    """Why a change is refused."""
    values = f"{value_text(change.a)} -> {value_text(change.b)}"
    return f"{safe_text(change.key, 100)}: {values} is impossible. {change.effect.explanation}"


def value_text(value: object) -> str:
    return safe_text(value if value is not None else "not set", 60) or "empty"


def shape_warnings(checkpoint: Checkpoint | None, changes: Sequence[HparamChange]) -> list[str]:
    """Of a setting that nobody knows: whether its old value is a side of most of the checkpoint's matrices."""
    if checkpoint is None:
        return []
    matrices = [tensor.shape for tensor in checkpoint.tensors if len(tensor.shape) >= 2]
    warnings = []
    for change in changes:
        value = change.a
        if change.effect is not Effect.UNKNOWN or isinstance(value, bool) or not isinstance(value, int) or value < 4:
            continue
        num = sum(value in shape for shape in matrices)
        if matrices and num * 2 > len(matrices):
            warnings.append(
                f"{safe_text(change.key, 60)} was {value:,}, a side of {num} of the {len(matrices)} matrices in the"
                " checkpoint: if it is the model's width, the resume fails."
            )
    return warnings


def ask_trainer(split: Split, cwd: str) -> None:
    """Raise CkptError for settings that the bundled trainer's own check of its flags refuses.

    Where it cannot be asked (an older one, another machine's) nothing is said: it says so itself when it starts.
    """
    programs = [word for word in split.head if PYTHON.fullmatch(os.path.basename(word))]
    program = programs[0] if programs else sys.executable
    command = [program, "-m", command_line.TRAINER_MODULE, *split.options, "--check"]
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, timeout=_CHECK_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return
    said = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode == 2 and said.startswith("trainer: ") and "unknown flag --check" not in said:
        raise CkptError(
            "The trainer refuses it", safe_text(said.removeprefix("trainer: "), 400), "Give the setting another value."
        )


def _plain(key: str) -> str:
    return key.lstrip("-").replace("-", "_").lower()


def _recorded_key(given: str, recorded: Mapping[str, object]) -> str | None:
    words = _plain(given)
    same = [name for name in recorded if _plain(name) == words]
    ending = [name for name in recorded if _plain(name).endswith(f".{words}")]
    found = same or ending
    if len(found) > 1 and given.lstrip("-") not in found:
        raise CkptError(
            "Several settings have that name",
            f"{safe_text(given, 60)} could be {', '.join(safe_text(name, 60) for name in found[:6])}",
            "Give the whole name.",
        )
    return given.lstrip("-") if given.lstrip("-") in found else found[0] if found else None


def _value(key: str, text: str, recorded: object) -> object:
    if "\0" in text:
        raise CkptError("Not a value", f"{safe_text(key, 60)}: it holds a zero byte", "Give it without.")
    value = command_line.typed_value(text, recorded)
    said, was = value_text(text), f"it was {value_text(recorded)}"
    if isinstance(recorded, bool):
        if not isinstance(value, bool):
            raise CkptError("Not true or false", f"{safe_text(key, 60)} is {said}; {was}", "Give true or false.")
    elif isinstance(recorded, (int, float)) and not (value is None and text.strip()):  # `none` may mean something
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CkptError("Not a number", f"{safe_text(key, 60)} is {said}; {was}", "Write for instance 3e-4.")
        if isinstance(recorded, int) and isinstance(value, float) and value.is_integer():
            value = int(value)  # 1e3 steps
    last = key.rpartition(".")[2].lower()
    if last in _NOT_NEGATIVE and isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
        raise CkptError("Out of range", f"{safe_text(key, 60)} cannot be {said}; {was}", "Give a number from 0 on.")
    return value
