"""Checkpoints of other trainers, without a log that tells their command: the best that can be known, and what cannot.

A command only where somebody recorded one (wandb, Hydra) or where the framework has one way to resume that its files
tell whole (Ultralytics, nanoGPT). Else the line that this framework resumes with, with the exact path: its script is
a person's own, and nobody knows it here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace

from ckpt_tui.checkpoints.hparams import flat_settings
from ckpt_tui.checkpoints.model import Checkpoint
from ckpt_tui.checkpoints.simple_yaml import SimpleYaml
from ckpt_tui.checkpoints.weights_only import weights_only
from ckpt_tui.services import command_line
from ckpt_tui.services.launchers.base import Built, Resume
from ckpt_tui.services.launchers.recorded import RecordedStart, build_recorded
from ckpt_tui.text import safe_text

_MAX_BYTES = 1 << 20
_NO_COMMAND = "the command that started this training is not recorded: say it once: --command 'python TRAIN.py {}'"


def build_foreign(wanted: Resume, checkpoint: Checkpoint | None) -> Built:
    """The command of a resume from another trainer's checkpoint, or how to do it by hand and why it is not known."""
    name, hints = _hints(wanted, checkpoint)
    for told in (_wandb, _hydra, _ultralytics, _nanogpt):
        built = told(wanted, checkpoint)
        if built is not None:
            return replace(built, hints=hints if built.missing else ())
    not_known = (
        "The script, its launcher and its arguments: no log records how this training was started.",
        "Its working directory and the Python that ran it.",
    )
    # Not `{settings}` alone: which option names the checkpoint is the script's own affair.
    missing = _NO_COMMAND.format("--OPTION {checkpoint} {settings}")
    return Built(name, (), os.path.dirname(wanted.directory), not_known=not_known, missing=(missing,), hints=hints)


# -- commands that are recorded somewhere --------------------------------------------------------------------------


def _wandb(wanted: Resume, checkpoint: Checkpoint | None) -> Built | None:
    """Weights & Biases writes down program, arguments and interpreter of each run."""
    path = os.path.join(wanted.directory, "wandb", "latest-run", "files", "wandb-metadata.json")
    told = _json(path)
    program, arguments = told.get("program"), told.get("args")
    if not isinstance(program, str) or not program or not isinstance(arguments, list):
        return None
    executable = told.get("executable")
    argv = [executable if isinstance(executable, str) and executable else sys.executable, program, *map(str, arguments)]
    root, host = told.get("root"), told.get("host")
    start = RecordedStart(tuple(argv), root if isinstance(root, str) else "", host if isinstance(host, str) else "")
    built = build_recorded(start, wanted)
    note = "The command is what wandb recorded of its newest run here (wandb/latest-run)."
    unknown = (
        "Whether a launcher (torchrun, accelerate) started it: wandb records the script alone.",
        "Whether wandb's newest run here wrote this checkpoint.",
    )
    return replace(built, notes=(note, *built.notes), not_known=(*built.not_known, *unknown))


def _hydra(wanted: Resume, checkpoint: Checkpoint | None) -> Built | None:
    """Hydra writes `.hydra/` into each run's directory: the overrides as they were typed, where, and the job's name."""
    place = os.path.join(wanted.directory, ".hydra")
    overrides, hydra = _text(os.path.join(place, "overrides.yaml")), _text(os.path.join(place, "hydra.yaml"))
    if overrides is None or hydra is None:
        return None
    typed = [line[2:].strip().strip("'\"") for line in overrides.splitlines() if line.startswith("- ")]
    settings = flat_settings(SimpleYaml(hydra).entries)
    job, cwd = settings.get("hydra.job.name"), settings.get("hydra.runtime.cwd")
    if not isinstance(job, str) or not isinstance(cwd, str) or not job:
        return None
    start = RecordedStart((sys.executable, f"{job}.py", *typed), cwd)
    built = build_recorded(start, wanted)
    note = f"The overrides and the working directory are what Hydra recorded in {safe_text(place, 300)}."
    unknown = (
        f"The script: {safe_text(job, 100)}.py is Hydra's name of the job, which is the script's unless it was set.",
        "The Python that ran it, and whether a launcher (torchrun, accelerate) started it.",
    )
    return replace(built, notes=(note, *built.notes), not_known=(*built.not_known, *unknown))


def _ultralytics(wanted: Resume, checkpoint: Checkpoint | None) -> Built | None:
    """`yolo train resume model=.../last.pt` reads everything else from the checkpoint."""
    runs = {os.path.dirname(os.path.dirname(wanted.path)), os.path.dirname(wanted.path)}
    settings: Mapping[str, object] = {}
    for place in runs:
        text = _text(os.path.join(place, "args.yaml"))
        found = SimpleYaml(text).entries if text is not None else {}
        if {"task", "mode", "imgsz"} <= found.keys():
            settings = found
    if not settings:
        return None
    command = ["yolo", "train", "resume=True", f"model={wanted.path}"]
    command += [f"{key}={command_line.word(value)}" for key, value in wanted.settings.items()]
    built = build_recorded(
        RecordedStart(tuple(command), os.path.dirname(wanted.directory)), replace(wanted, settings={})
    )
    unknown = ["Which environment has the `yolo` command that trained it."]
    if os.path.basename(wanted.path) != "last.pt":
        unknown.append("Ultralytics resumes from last.pt: others may be stripped of what a resume needs.")
    if wanted.settings:
        unknown.append("Ultralytics takes most settings from the checkpoint when it resumes, whatever is given.")
    return replace(
        built, launcher="ultralytics", command=tuple(built.command), known_by="Ultralytics' way to resume",
        not_known=tuple(unknown),
    )  # fmt: skip


def _nanogpt(wanted: Resume, checkpoint: Checkpoint | None) -> Built | None:
    """nanoGPT's `ckpt.pt` holds every setting of its `train.py`, under the names of its options."""
    settings = wanted.recorded
    if not {"init_from", "out_dir", "always_save_checkpoint", "eval_interval"} <= settings.keys():
        return None
    prefix = "" if "config.init_from" not in settings else "config."
    options = [
        f"--{key.removeprefix(prefix)}={value if isinstance(value, bool) else command_line.word(value)}"
        for key, value in settings.items()
        if isinstance(value, (bool, int, float, str)) and key not in ("init_from", "out_dir") and "." not in key
    ]
    out_dir = os.path.dirname(wanted.path)
    argv = (sys.executable, "train.py", f"--out_dir={out_dir}", "--init_from=resume", *options)
    places = [os.path.dirname(wanted.directory), os.getcwd()]
    cwd = next((place for place in places if os.path.isfile(os.path.join(place, "train.py"))), places[0])
    built = build_recorded(RecordedStart(argv, cwd), wanted)
    unknown = (
        "The launcher (torchrun?) and the Python: the checkpoint holds nanoGPT's settings, not how it was started.",
        f"Whether {safe_text(os.path.join(cwd, 'train.py'), 300)} is the script that wrote it.",
    )
    note = "The command is made from the settings in the checkpoint (nanoGPT)."
    return replace(built, notes=(note, *built.notes), not_known=(*built.not_known, *unknown))


# -- how each framework resumes ------------------------------------------------------------------------------------


def _hints(wanted: Resume, checkpoint: Checkpoint | None) -> tuple[str, tuple[str, ...]]:
    """The framework that wrote it, and the line that it resumes with."""
    path = os.path.abspath(wanted.path)
    form = checkpoint.format if checkpoint is not None else ""
    words = _LINES.get(form)
    if words is not None:
        return form, tuple(line.format(path=json.dumps(path), bare=path, **_parts(path)) for line in words)
    if form == "lightning" or path.endswith(".ckpt"):
        return "lightning", _lightning(path)
    if form in ("safetensors", "sharded") or (checkpoint is not None and not _keys(checkpoint)):
        return form, (f"It holds weights alone: a training can begin from {path}, not resume.",)
    if checkpoint is None:
        return "unknown", ()
    keys = _keys(checkpoint)
    is_plain = weights_only(checkpoint).loads is not False
    trust = "" if is_plain else "  # runs what the file says: only one that you trust"
    lines = [f"state = torch.load({json.dumps(path)}, weights_only={is_plain}){trust}"]
    lines += [f"{one}.load_state_dict(state[{json.dumps(key)}])" for key, one in _loaded(keys)]
    return form, tuple(lines)


_LINES: Mapping[str, tuple[str, ...]] = {
    "hf-trainer": (
        "trainer.train(resume_from_checkpoint={path})",
        "Hugging Face's example scripts take: --resume_from_checkpoint {bare}",
    ),
    "accelerate": ("accelerator.load_state({path})  # after accelerator.prepare(...)",),
    "deepspeed": ("engine.load_checkpoint({parent}, tag={name})",),
    "dcp": ("torch.distributed.checkpoint.load(state, checkpoint_id={path})  # state: of the same keys",),
}


def _parts(path: str) -> dict[str, str]:
    return {"parent": json.dumps(os.path.dirname(path)), "name": json.dumps(os.path.basename(path))}


def _lightning(path: str) -> tuple[str, ...]:
    lines = [f"trainer.fit(model, ckpt_path={json.dumps(path)})"]
    version = os.path.dirname(os.path.dirname(path))
    config = os.path.join(version, "config.yaml")
    if os.path.isfile(config):  # LightningCLI keeps it beside the log
        lines.append(f"With Lightning's command line: fit --config {config} --ckpt_path {path}")
    return tuple(lines)


_NAMES_IN_CODE = (
    ("model", ("model", "model_state_dict", "state_dict", "model_state", "net", "module")),
    ("optimizer", ("optimizer", "optimizer_state_dict", "optim", "optimizer_state")),
    ("scheduler", ("scheduler", "lr_scheduler", "scheduler_state_dict", "lr_scheduler_state_dict")),
    ("scaler", ("scaler", "grad_scaler", "amp_scaler", "scaler_state_dict")),
)


def _loaded(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for name, spelt in _NAMES_IN_CODE:
        key = next((one for one in spelt if one in keys), None)
        if key is not None:
            found.append((key, name))
    return found


def _keys(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The keys of the state's first level."""
    state = checkpoint.state
    return tuple(str(key) for key in state) if isinstance(state, Mapping) else ()


def _json(path: str) -> Mapping[str, object]:
    text = _text(path)
    try:
        told = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _text(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
