"""What files beside a foreign log tell of the run: its settings, and how many steps it is to have."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from ckpt_tui.sources.rows import Facts
from ckpt_tui.sources.trainer_state import newest_state
from ckpt_tui.sources.values import whole

MAX_BYTES = 256 * 1024
MAX_SETTINGS = 500
_YAML_NAMES = (
    "hparams.yaml",
    "args.yaml",
    "params.yaml",
    "config.yaml",
    "hyperparameters.yaml",
    "training_config.yaml",
)
_JSON_NAMES = ("args.json", "params.json", "train_config.json", "hparams.json")
_STATE_BYTES = 4 << 20


def facts_beside(log: str, directory: str) -> Facts:
    """For a log, a file or a directory, of the run in `directory`."""
    facts = Facts(run_name=_run_name(log, directory), log_path=log)
    beside = log if os.path.isdir(log) else os.path.dirname(os.path.abspath(log))
    for place in dict.fromkeys((beside, os.path.abspath(directory))):
        settings = _settings_in(place)
        if settings:
            facts.config = settings
            break
    _totals(facts, os.path.basename(log), directory)
    return facts


def _run_name(log: str, directory: str) -> str:
    name = os.path.basename(os.path.abspath(directory))
    version = os.path.basename(os.path.dirname(os.path.abspath(log)))
    return f"{name} {version}" if version.startswith("version_") and version != name else name


def _settings_in(place: str) -> Mapping[str, object]:
    for name in (*_YAML_NAMES, *_JSON_NAMES):
        text = _read(os.path.join(place, name))
        if text is None:
            continue
        if name in _YAML_NAMES:
            from ckpt_tui.checkpoints.simple_yaml import SimpleYaml

            settings: object = SimpleYaml(text.decode("utf-8", "replace")).entries
        else:
            try:
                settings = json.loads(text)
            except (ValueError, RecursionError):
                continue
        if isinstance(settings, dict) and settings:
            return {str(key): value for key, value in list(settings.items())[:MAX_SETTINGS]}
    return {}


def _totals(facts: Facts, log_name: str, directory: str) -> None:
    if log_name == "results.csv" and (epochs := whole(facts.config.get("epochs"))) is not None:
        facts.total_steps = max(epochs, 0)  # Ultralytics: its steps are epochs
        return
    state = newest_state(directory) if os.path.isdir(directory) else None
    text = _read(state, _STATE_BYTES) if state is not None else None
    if text is not None:
        # `max_steps` follows the history, which may be long: it is looked for, not decoded.
        _, _, behind = text.rpartition(b'"max_steps"')
        said = behind[:40].lstrip(b": ").partition(b",")[0].strip()
        facts.total_steps = max(whole(said.decode("ascii", "replace")) or 0, 0)


def _read(path: str, max_bytes: int = MAX_BYTES) -> bytes | None:
    """The end of a file, all of it where it is not longer than that; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size > max_bytes and max_bytes == MAX_BYTES:
                return None
            file.seek(max(size - max_bytes, 0))
            return file.read(max_bytes)
    except OSError:
        return None
