"""A checkpoint as a directory with a file for each part, so that each can be used alone (`--checkpoint_format dir`):

    model.pt  optimizer.pt  scheduler.pt  dataloader.pt      what `torch.load(weights_only=True)` gives
    rng_state.pt  scaler.pt  ema.pt                          where the training has them
    config.yaml  train_state.json  metrics.csv               to be read without torch
    rest.pt                                                  what is exact in neither JSON nor YAML
    manifest.json                                            bytes and digest of every file, step and losses

Taken apart and put together again, a state is the same to the bit; what JSON or YAML would change goes to `rest.pt`.
`metrics.csv` says again what `train_state.json` holds, for a spreadsheet.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.checkpoint.publish_directory import MANIFEST_NAME
from trainer.checkpoint.sealed import proven_manifest, reading
from trainer.checkpoint.state import BadCheckpointError

FORMAT_NAME = "dir"
# The key of the state and the file that holds it.
PART_FILES = {
    "model": "model.pt", "optimizer": "optimizer.pt", "scheduler": "scheduler.pt", "dataloader_state": "dataloader.pt",
    "rng_state": "rng_state.pt", "scaler": "scaler.pt", "ema": "ema.pt",
}  # fmt: skip
SETTINGS_FILE, PROGRESS_FILE, METRICS_FILE, REST_FILE = "config.yaml", "train_state.json", "metrics.csv", "rest.pt"
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w.-]*")
# YAML 1.1 takes 1e-05 for a text, and these words for something else than a key.
_POINTLESS = re.compile(r"(?<![\w.])(-?\d+)(e[+-]?\d+)(?![\w.])")
_YAML_WORDS = frozenset({"y", "yes", "n", "no", "true", "false", "on", "off", "null"})


@dataclass(frozen=True)
class Parts:
    """A state taken apart. saved: what torch.save writes, by file. texts: the other files."""

    saved: dict[str, Any]
    texts: dict[str, bytes]


def take_apart(state: Mapping[str, Any]) -> Parts:
    """What belongs in which file; tensors are not copied."""
    parts = Parts({}, {})
    progress: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in state.items():
        if key in PART_FILES and value is not None:
            parts.saved[PART_FILES[key]] = value
        elif key == "args" and isinstance(value, Mapping) and _is_same(_settings(_as_yaml(value)), value):
            parts.texts[SETTINGS_FILE] = _as_yaml(value).encode()
        elif isinstance(key, str) and _is_exact(value):
            progress[key] = value
        else:
            rest[key] = value
    parts.texts[PROGRESS_FILE] = _as_json(progress).encode() + b"\n"
    parts.texts[METRICS_FILE] = _as_csv(state).encode()
    if rest:
        parts.saved[REST_FILE] = rest
    return parts


def about(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest tells besides its files: `registry.facts_of`, so that a list needs no torch."""
    return {"format": FORMAT_NAME, "facts": dict(facts)}


def is_directory_checkpoint(path: str) -> bool:
    """Whether `path` is a directory of this format, by its names."""
    names = (MANIFEST_NAME, PROGRESS_FILE, *PART_FILES.values())
    return os.path.isdir(path) and any(os.path.exists(os.path.join(path, name)) for name in names)


def load_directory(path: str, expected_digest: str = "") -> tuple[dict[str, Any], str]:
    """The state, and the digest that vouches for it, after every byte was held against the manifest.

    Raises BadCheckpointError, OSError.
    """
    manifest, digest = proven_manifest(path, expected_digest)
    files = {facts.path for facts in manifest["files"]}
    if PROGRESS_FILE not in files:
        raise BadCheckpointError(f"it has no {PROGRESS_FILE}: it is not a checkpoint directory of this trainer")
    with reading():
        state: dict[str, Any] = json.loads(_read(path, PROGRESS_FILE))
        for key, file in PART_FILES.items():
            if file in files:
                state[key] = _load(os.path.join(path, file))
        if SETTINGS_FILE in files:
            state["args"] = _settings(_read(path, SETTINGS_FILE))
        if REST_FILE in files:
            state.update(_load(os.path.join(path, REST_FILE)))
    return state, digest


def _load(path: str) -> Any:
    import torch

    with open(path, "rb") as file:  # torch cannot open a name that is not UTF-8 by itself
        return torch.load(file, map_location="cpu", weights_only=True)


def _read(path: str, file: str) -> str:
    with open(os.path.join(path, file), encoding="utf-8") as opened:
        return opened.read()


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1)


def _is_exact(value: Any) -> bool:
    """Whether JSON gives the same value back: types, NaN and the sign of zero included."""
    try:
        return _is_same(json.loads(json.dumps(value)), value)
    except (TypeError, ValueError, RecursionError):
        return False


def _is_same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_is_same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_is_same, a, b))
    return repr(a) == repr(b)


def _as_yaml(settings: Mapping[Any, Any]) -> str:
    """One line a setting, its value as JSON has it, which is YAML too."""
    lines = []
    for key, value in settings.items():
        is_plain = isinstance(key, str) and _PLAIN_KEY.fullmatch(key) and key.lower() not in _YAML_WORDS
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):
            text = "null"  # the caller compares, and finds that it is not the same
        if not isinstance(value, (str, list, dict)):
            text = _POINTLESS.sub(r"\1.0\2", text)
        lines.append(f"{key if is_plain else json.dumps(str(key))}: {text}\n")
    return "".join(lines)


def _settings(text: str) -> dict[str, Any]:
    """What `_as_yaml` wrote."""
    settings = {}
    decoder = json.JSONDecoder()
    for line in text.splitlines():
        if line.startswith('"'):
            key, end = decoder.raw_decode(line)
        else:
            end = line.index(":")
            key = line[:end]
        settings[key] = decoder.decode(line[end + 1 :].strip())
    return settings


def _as_csv(state: Mapping[str, Any]) -> str:
    """Steps and losses as a table; val_loss is known of the last row alone."""
    history = state.get("loss_history")
    rows = [row for row in history if isinstance(row, list) and len(row) == 2] if isinstance(history, list) else []
    lines = [f"{step},{loss}," for step, loss in rows]
    train_loss, val_loss = (state.get(key) for key in ("train_loss", "val_loss"))
    cells = ["" if value is None else value for value in (train_loss, val_loss)]
    lines.append(f"{state.get('step')},{cells[0]},{cells[1]}")
    return "step,train_loss,val_loss\n" + "".join(f"{line}\n" for line in lines)
