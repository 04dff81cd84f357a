"""A directory with a file for each part: model.pt, optimizer.pt, scheduler.pt, dataloader.pt, config.yaml,
train_state.json, metrics.csv. The bundled trainer's `dir` layout, and others that name their files alike (SpeechBrain,
torchtune's recipe_state.pt beside shards).
"""

from __future__ import annotations

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Part, Severity
from ckpt_tui.checkpoints.parts import find_parts
from ckpt_tui.checkpoints.readers.directory import Listing, Parts
from ckpt_tui.checkpoints.readers.sharded import add_json, add_weights, count_bytes, judge_rest, weights_of
from ckpt_tui.errors import CkptError
from ckpt_tui.text import plural

_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".safetensors", ".npz")
# Stems of files by what the whole file is; the first of a row is the layout's own.
_STEMS = {
    "model": ("model", "model_state", "weights", "adapter", "net"),
    "optimizer": ("optimizer", "optim", "optimizer_state"),
    "scheduler": ("scheduler", "lr_scheduler", "scheduler_state"),
    "scaler": ("scaler", "grad_scaler"),
    "ema": ("ema", "ema_model", "model_ema"),
    "rng": ("rng", "rng_state", "random_states"),
    "dataloader": ("dataloader", "dataloader_state", "sampler", "data_state"),
}
_PROGRESS = ("train_state.json", "training_state.json", "trainer_state.json", "state.json", "progress.json")
_SETTINGS = ("config.json", "args.json", "hparams.json", "params.json", "adapter_config.json")
_YAML = ("config.yaml", "config.yml", "hparams.yaml", "args.yaml")
_YAML_PROGRESS = "CKPT.yaml"  # SpeechBrain
_RECIPE_STATES = ("recipe_state/recipe_state.pt", "recipe_state.pt", "training_state.pt", "trainer_state.pt")
_METRICS = "metrics.csv"
_MAX_YAML_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10
_COSTS = {
    "model": "nothing can be loaded from it",
    "optimizer": "the optimizer's moments start at zero",
}


class CheckpointDirReader:
    """A directory that holds the parts of one training state under names that say which they are."""

    formats: tuple[str, ...] = ("checkpoint-dir",)

    def sniff(self, listing: Listing) -> str | None:
        roles = {role for role in _STEMS if _file_of(listing, role)}
        has_model = "model" in roles or bool(weights_of(listing))
        has_progress = any(file in listing.files for file in (*_PROGRESS, *_RECIPE_STATES, _YAML_PROGRESS))
        if "optimizer" in roles and (has_model or has_progress or len(roles) > 1):
            return "checkpoint-dir"
        has_others = "model" in roles and len(roles) > 1
        return "checkpoint-dir" if has_others or (has_model and has_progress) else None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        parts = Parts(listing, "checkpoint-dir", limits)
        for role in _STEMS:
            file = _file_of(listing, role)
            if file:
                _add_part(parts, file, role)
            elif role == "model" and not add_weights(parts):
                parts.missing("model.pt", f"it is not there: {_COSTS['model']}")
        _add_progress(parts)
        _add_settings(parts)
        if "optimizer" not in {part.role for part in parts.checkpoint.parts} and not _file_of(listing, "optimizer"):
            hint = "It can be resumed from, but not exactly."
            what = f"it is not there: {_COSTS['optimizer']}"
            parts.note("missing-part", Severity.WARNING, "optimizer.pt", what, hint, "resume")
        judge_rest(parts)
        count_bytes(parts)
        return parts.checkpoint


def _file_of(listing: Listing, role: str) -> str:
    """The file that is a role's, "" when there is none."""
    for stem in _STEMS[role]:
        for suffix in _SUFFIXES:
            if stem + suffix in listing.files:
                return stem + suffix
    return ""


def _add_part(parts: Parts, file: str, role: str) -> None:
    """The whole file is the part, unless it is a training state of its own that has that part and others."""
    found = parts.add(file, role)
    if found is None:
        return
    inner = find_parts(found, file)
    if any(part.role == role and part.prefix for part in inner):
        parts.checkpoint.parts.pop()
        parts.checkpoint.parts += inner
    else:
        parts.checkpoint.parts += [part for part in inner if part.role == "rng" and role != "rng"]


def _add_progress(parts: Parts) -> None:
    files = parts.listing.files
    found = False
    for file in _PROGRESS:
        if file in files:
            add_json(parts, file, "progress")
            found = True
    for file in _RECIPE_STATES:
        if file in files:
            parts.add(file)
            found = True
    if _YAML_PROGRESS in files:
        _add_yaml(parts, _YAML_PROGRESS, "progress")
        found = True
    if _METRICS in files:
        _add_metrics(parts)
    if not found:
        hint = "It can be resumed from, but not exactly."
        what = "it is not there: a resume does not know its step and starts at the first batch"
        parts.note("missing-part", Severity.WARNING, _PROGRESS[0], what, hint, "resume")


def _add_settings(parts: Parts) -> None:
    for file in _SETTINGS:
        if file in parts.listing.files:
            add_json(parts, file, "settings")
    for file in _YAML:
        if file in parts.listing.files:
            _add_yaml(parts, file, "settings")


def _add_yaml(parts: Parts, file: str, role: str) -> None:
    from ckpt_tui.checkpoints.simple_yaml import SimpleYaml

    text = _text(parts, file)
    if text is None:
        return
    settings = SimpleYaml(text)
    parts.add_data(file, settings.entries, role)
    if settings.num_unread:
        what = f"{plural(settings.num_unread, 'line')} of it are not read: only plain settings are"
        parts.note("not-read", Severity.INFO, file, what, f"Look at it: less {file}")


def _text(parts: Parts, file: str) -> str | None:
    try:
        raw = parts.listing.read_text(file, _MAX_YAML_BYTES)
    except (CkptError, OSError) as error:
        reason = error.message if isinstance(error, CkptError) else error.strerror or str(error)
        parts.note("unreadable-part", Severity.ERROR, file, reason, "Copy it again.")
        return None
    text = raw.decode("utf-8", "replace")
    if "\0" in text or (raw and not text.strip()):
        parts.note("unreadable-part", Severity.ERROR, file, "it is no text", "Copy it again.")
        return None
    return text


def _add_metrics(parts: Parts) -> None:
    """The last row of the metrics, without reading all of a long file."""
    from ckpt_tui.checkpoints.exact_read import read_exactly
    from ckpt_tui.checkpoints.opening import RegularFile

    try:
        with RegularFile(parts.listing.path_of(_METRICS)) as opened:
            size = opened.file_bytes
            head = read_exactly(opened.descriptor, min(_TAIL_BYTES, size), 0, _METRICS)
            tail = read_exactly(opened.descriptor, min(_TAIL_BYTES, size), max(size - _TAIL_BYTES, 0), _METRICS)
    except (CkptError, OSError) as error:
        reason = error.message if isinstance(error, CkptError) else error.strerror or str(error)
        parts.note("unreadable-part", Severity.WARNING, _METRICS, reason)
        return
    columns = [name.strip() for name in head.split(b"\n", 1)[0].decode("utf-8", "replace").split(",")][:1000]
    rows = tail.decode("utf-8", "replace").splitlines()
    last: dict[object, object] = {}
    for row in rows[1:][-100:]:
        cells = row.split(",")
        if len(cells) == len(columns):  # not the torn first line of the tail, nor a torn last one
            last.update({name: _number(cell) for name, cell in zip(columns, cells, strict=True) if cell.strip()})
    parts.add_data(_METRICS, {"columns": columns, "last": last})
    losses = {key: last[key] for key in ("train_loss", "loss", "val_loss", "valid_loss", "eval_loss") if key in last}
    if losses:
        parts.checkpoint.parts.append(Part("progress", _METRICS, "last.", losses))


def _number(cell: str) -> object:
    try:
        return float(cell)
    except ValueError:
        return cell


READER = CheckpointDirReader()
