"""The demonstration: a small real training, started in the background with the bundled trainer."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Literal

from ckpt_tui.errors import CkptError, from_os_error
from ckpt_tui.events.schema import LOG_NAME
from ckpt_tui.records import dataclass
from ckpt_tui.run.state import Phase
from ckpt_tui.services import launch
from ckpt_tui.services.launch_record import LAUNCH_FILE_NAME
from ckpt_tui.services.owner import owner_of, run_state
from ckpt_tui.services.start_progress import OnProgress

DEFAULT_DIRECTORY = "demo-run"
# A GPT of 0.8 million parameters on the source of Python's own library: minutes on two cores, and it really learns.
SETTINGS: dict[str, int] = {
    "n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 8, "mini_batch_size": 8,
    "max_steps": 10_000, "eval_freq": 100, "checkpoint_freq": 200, "seed": 1,
}  # fmt: skip

What = Literal["started", "resumed", "running", "finished"]


@dataclass(frozen=True, slots=True)
class Demo:
    """The demonstration's training. what: whether it was started now, resumed, was running already, or is over."""

    directory: str
    what: What
    pid: int | None
    log_path: str | None
    command: tuple[str, ...]
    started: launch.Launched | None = None


def start_demo(
    directory: str = DEFAULT_DIRECTORY,
    *,
    max_steps: int | None = None,
    wait_s: float = launch.WAIT_S,
    on_progress: OnProgress | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> Demo:
    """Start the training in `directory`, or go on with the one that is there. The rest is as of `launch.start`.

    Raises CkptError when torch is not installed, or when the directory holds something else; TrainingDiedError when the
    training ends with a failure while it is waited for.
    """
    directory = os.path.abspath(directory)
    state = run_state(directory) if os.path.isdir(directory) else None
    owner = owner_of(directory, state) if os.path.isdir(directory) else None
    if owner is not None:
        return Demo(directory, "running", owner.pid or None, launch.launched_log(directory), ())
    if state is not None and state.phase is Phase.FINISHED:
        return Demo(directory, "finished", None, launch.launched_log(directory), ())
    trainer_home = _require_trainer()
    try:
        os.makedirs(directory, exist_ok=True)
        others = [name for name in os.listdir(directory) if not name.startswith(("session_", LAUNCH_FILE_NAME, "."))]
    except OSError as error:
        raise from_os_error(error, directory, "make") from error
    if others and LOG_NAME not in others:
        raise CkptError(
            "The directory is not empty",
            f"{directory} holds something that is not a training of ours",
            "Choose another one: `ckpt-tui demo --dir DIR`.",
        )
    command = [sys.executable, "-m", "trainer", "--out", directory, "--resume", "auto"]
    for key, value in {**SETTINGS, **({"max_steps": max_steps} if max_steps else {})}.items():
        command += [f"--{key}", str(value)]
    session = (state.session if state is not None else 0) + 1
    # Run where the trainer's package lies: a `trainer` of the person's own in their directory is not taken for ours.
    started = launch.start(
        directory, command, cwd=trainer_home, session=session, wait_s=wait_s, on_progress=on_progress,
        is_cancelled=is_cancelled, about={"by": "demo", "launcher": "python"},
    )  # fmt: skip
    what: What = "resumed" if state is not None else "started"
    return Demo(directory, what, started.pid, started.log_path, tuple(command), started)


def _require_trainer() -> str:
    """The directory that holds the trainer's package. Finds torch without importing it."""
    missing = [name for name in ("torch", "trainer") if importlib.util.find_spec(name) is None]
    if missing:
        raise CkptError(
            "PyTorch is not installed",
            f"the demo trains a real (small) model, and {sys.executable} has no {missing[0]}",
            "Install the trainer with it: pip install 'ckpt-tui[trainer]'",
        )
    spec = importlib.util.find_spec("trainer")
    assert spec is not None
    assert spec.submodule_search_locations
    return os.path.dirname(next(iter(spec.submodule_search_locations)))
