"""Weights in a directory: shards with an index, or one file beside its `config.json` or `adapter_config.json`.

`weights_of` and `add_weights` serve the other layouts that hold weights like these (hf_trainer, accelerate).
"""

from __future__ import annotations

import os

from ckpt_tui.checkpoints.limits import ReadLimits
from ckpt_tui.checkpoints.model import Checkpoint, Severity
from ckpt_tui.checkpoints.readers.directory import Listing, Parts, is_inside
from ckpt_tui.errors import CkptError
from ckpt_tui.text import count, plural, safe_text

# Stems of the weights that Hugging Face's libraries write; what comes first is read, another copy is only judged.
_STEMS = ("model", "pytorch_model", "adapter_model", "diffusion_pytorch_model")
_SUFFIXES = (".safetensors", ".bin")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONFIGS = ("adapter_config.json", "config.json")
_MAX_NAMED = 3  # tensors or files in one message
_MAX_JUDGED = 1000
_HINT = "Copy or download it again; the other shards are sound as far as nothing else is said."


class ShardedReader:
    """A model's directory: weights, whole or in shards, and what its `config.json` says."""

    formats: tuple[str, ...] = ("sharded",)

    def sniff(self, listing: Listing) -> str | None:
        found = weights_of(listing)
        if found and (is_index(found[0]) or _shard_number(found[0]) is not None):
            return "sharded"
        if "adapter_config.json" in listing.files or (found and "config.json" in listing.files):
            return "sharded"
        others = [name for name in listing.names if name.endswith((*_PICKLED, ".safetensors")) and name not in found]
        return "sharded" if found and not others else None

    def read(self, listing: Listing, limits: ReadLimits) -> Checkpoint:
        parts = Parts(listing, "sharded", limits)
        if not add_weights(parts):
            parts.missing("weights", "there is no file of weights, nor an index of shards")
        add_configs(parts)
        judge_rest(parts)
        count_bytes(parts)
        return parts.checkpoint


def read_index_file(path: str, limits: ReadLimits) -> Checkpoint:
    """The shards that the index file at `path` names. The checkpoint's path is the directory: there its files lie."""
    folder, name = os.path.split(path)
    listing = Listing(folder or ".")
    parts = Parts(listing, "sharded", limits)
    _add_shards(parts, name)
    add_configs(parts)
    count_bytes(parts)
    return parts.checkpoint


def is_index(file: str) -> bool:
    """Whether a file's name is that of an index of shards: `model.safetensors.index.json`, `x.index.fp16.json`."""
    return file.endswith(".json") and ".index." in file


def weights_of(listing: Listing, stems: tuple[str, ...] = _STEMS) -> list[str]:
    """Indexes, single files or shards without an index, directly in the directory: the first is what a loader takes.

    safetensors come before pickles, as transformers prefers them.
    """
    here = [file for file in listing.files if "/" not in file]
    found: list[str] = []
    for suffix in _SUFFIXES:
        for stem in stems:
            if stem + suffix in listing.files:
                found.append(stem + suffix)
            found += [file for file in here if is_index(file) and file.startswith(f"{stem}{suffix}.index.")]
    known = tuple(stem + suffix for stem in stems for suffix in _SUFFIXES)
    if stems is _STEMS:
        found += [file for file in here if is_index(file) and not file.startswith(known)]
    if not found:
        shards = [file for file in here if _shard_number(file) is not None and file.endswith(_SUFFIXES)]
        found = [file for file in shards if stems is _STEMS or file.startswith(tuple(f"{stem}-" for stem in stems))]
    return found


def add_weights(parts: Parts, stems: tuple[str, ...] = _STEMS) -> bool:
    """Add the model's weights to the parts. Gives whether there are any, or should be by their index."""
    found = weights_of(parts.listing, stems)
    if not found:
        return False
    first = found[0]
    if is_index(first):
        _add_shards(parts, first)
    elif _shard_number(first) is not None:
        _add_shards_without_index(parts, found)
    else:
        parts.add(first, "model")
    return True


def add_configs(parts: Parts) -> None:
    """Take the settings that stand beside the weights."""
    for file in _CONFIGS:
        if file in parts.listing.files:
            add_json(parts, file, "settings")


def add_json(parts: Parts, file: str, role: str) -> dict[object, object] | None:
    """Take a JSON object; None, and a finding, when the file is none."""
    try:
        value = parts.listing.read_json(file)
    except CkptError as error:
        message = error.message.removeprefix(f"{parts.listing.path_of(file)} is ")
        parts.note("unreadable-part", Severity.ERROR, file, message, error.hint)
        return None
    except OSError as error:
        parts.note("unreadable-part", Severity.ERROR, file, error.strerror or str(error))
        return None
    if not isinstance(value, dict):
        parts.note("unreadable-part", Severity.ERROR, file, "it is no JSON object", "Copy it again.")
        return None
    parts.add_data(file, value, role)
    return value


def judge_rest(parts: Parts) -> None:
    """Judge what the pickles that were not read as a part would call: whoever loads the directory may load them."""
    from ckpt_tui.checkpoints.registry import open_file

    # PEFT keeps further adapters in directories of their names, and loads them from there.
    rest = [
        file
        for file in parts.listing.files
        if file.endswith("/adapter_model.bin") or ("/" not in file and file.endswith(_PICKLED))
    ]
    for file in [file for file in rest if file not in parts.state][:_MAX_JUDGED]:
        try:
            found = open_file(parts.listing.path_of(file), parts.limits, as_part=True)
        except CkptError as error:
            if error.title != "Not a checkpoint":  # a vocabulary, perhaps
                parts.not_judged(file, error)
            continue
        except OSError:
            continue
        parts.take_globals(file, found)
        if found.tensors:
            message = (
                f"it holds {plural(len(found.tensors), 'tensor')} that are not shown: the layout has no place for it"
            )
            parts.note("not-read", Severity.INFO, file, message, "Name the file itself to see it.")


def count_bytes(parts: Parts) -> None:
    """Let the checkpoint be as large as its files: what lies deeper and is no part of it is something else's."""
    files = parts.listing.files.items()
    parts.checkpoint.size_bytes = sum(size for file, size in files if "/" not in file or file in parts.state)


def _add_shards(parts: Parts, index_file: str) -> None:
    """The shards that an index names, held against what the index says of them."""
    index = add_json(parts, index_file, "")
    weight_map = index.get("weight_map") if index is not None else None
    if not isinstance(weight_map, dict):
        if index is not None:
            parts.note("unreadable-part", Severity.ERROR, index_file, "it has no weight_map that names shards", _HINT)
        stem = index_file.partition(".")[0]
        left = [file for file in parts.listing.files if "/" not in file and file.startswith(f"{stem}-")]
        _add_shards_without_index(parts, [file for file in left if _shard_number(file) is not None], said=True)
        return
    expected: dict[str, list[str]] = {}
    num_odd = 0
    for name, file in weight_map.items():
        if isinstance(file, str):
            expected.setdefault(file, []).append(name)
        else:
            num_odd += 1
    if num_odd:
        what = f"{plural(num_odd, 'tensor')} in its weight_map have no file's name"
        parts.note("unreadable-part", Severity.ERROR, index_file, what, _HINT)
    is_whole = not num_odd
    held: dict[str, str] = {}  # tensor -> the shard that it lies in
    for file in sorted(expected):
        is_whole &= _add_shard(parts, file, expected[file], held)
    _compare_with_index(parts, index_file, expected, held)
    extra = [
        file
        for file in parts.listing.files
        if "/" not in file and file not in expected and _is_sibling(file, expected) and _shard_number(file) is not None
    ]
    for file in extra[:_MAX_JUDGED]:
        what = f"{index_file} does not name it: no loader reads it, perhaps it is left over from another save"
        parts.note("extra-shard", Severity.WARNING, file, what, "Remove it if nothing else uses it.")
    metadata = index.get("metadata") if index is not None else None
    if isinstance(metadata, dict):
        for key, value in list(metadata.items())[:100]:
            if isinstance(value, (str, int, float, bool)):
                parts.checkpoint.metadata.setdefault(key, value)
        if is_whole:
            _check_total(parts, index_file, metadata.get("total_size"))


def _add_shard(parts: Parts, file: str, names: list[str], held: dict[str, str]) -> bool:
    """Add a shard that the index names. False when it could not be read."""
    shown = safe_text(file, 120)
    lost = f"{_named(names)} cannot be read"
    if not is_inside(file) or _leads_out(parts.listing, file):
        what = f"the index puts {_named(names)} into a file outside the directory: it is not looked at"
        parts.note("outside", Severity.ERROR, shown, what, "It may have been made to harm, or to read other files.")
        return False
    if file not in parts.listing.files:
        parts.missing(shown, f"a shard that the index names is not there: {lost}", _HINT)
        return False
    found = parts.add(file, "model")
    if found is None:
        return False
    for tensor in found.tensors:
        if tensor.name in held:
            what = f"{safe_text(tensor.name, 120)} lies in {safe_text(held[tensor.name], 80)} too"
            parts.note("tensor-twice", Severity.WARNING, shown, what, "Which one a loader takes is a matter of chance.")
        held[tensor.name] = file
    return True


def _compare_with_index(parts: Parts, index_file: str, expected: dict[str, list[str]], held: dict[str, str]) -> None:
    """Name the tensors that lie elsewhere than the index says, nowhere, or in a shard without being named."""
    for file, names in expected.items():
        if file not in parts.state:
            continue  # it has been said that the shard cannot be read
        absent = [name for name in names if name not in held]
        if absent:
            what = f"the index puts {_named(absent)} into it, and no shard holds {'them' if len(absent) > 1 else 'it'}"
            parts.note("tensor-missing", Severity.ERROR, file, what, _HINT)
        moved = [name for name in names if held.get(name, file) != file]
        if moved:
            where = safe_text(held[moved[0]], 80)
            what = f"the index puts {_named(moved)} into it, {where} holds {'the first' if len(moved) > 1 else 'it'}"
            parts.note("tensor-elsewhere", Severity.ERROR, file, what, "Index and shards are of different saves.")
    named = {name for names in expected.values() for name in names}
    unnamed: dict[str, list[str]] = {}
    for name, file in held.items():
        if name not in named:
            unnamed.setdefault(file, []).append(name)
    for file, names in unnamed.items():
        what = f"it holds {_named(names)}, which {index_file} does not name"
        parts.note("not-in-index", Severity.WARNING, file, what, "Index and shards may be of different saves.")


def _check_total(parts: Parts, index_file: str, claimed: object) -> None:
    """Hold the index's total_size against the tensors; shared storages counted once or each time, as writers differ."""
    tensors = [tensor for tensor in parts.checkpoint.tensors if tensor.file in parts.state]
    each = sum(tensor.size_bytes for tensor in tensors)
    once = sum({(tensor.storage, tensor.offset, tensor.shape): tensor.size_bytes for tensor in tensors}.values())
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)) or claimed in (each, once):
        return
    what = f"its total_size is {count(claimed)} bytes, the shards' tensors have {count(each)}"
    parts.note("total-size", Severity.WARNING, index_file, what, "Index and shards may be of different saves.")


def _add_shards_without_index(parts: Parts, files: list[str], said: bool = False) -> None:
    """Shards by their names alone, which say how many there should be."""
    if not files:
        return
    stem, _, suffix = files[0].rpartition("-of-")[0].rpartition("-")[0], "", files[0].rpartition(".")[2]
    family = sorted(file for file in files if file.startswith(f"{stem}-") and file.endswith(suffix))
    numbers = {_shard_number(file) for file in family}
    if not said:
        what = f"there is no index of the {plural(len(family), 'shard')}: what they should hold is not known"
        parts.note("missing-part", Severity.ERROR, f"{stem}.{suffix}.index.json", what, "Copy it again.")
    for file in family:
        parts.add(file, "model")
    totals = {total for found in numbers if found for total in (found[1],)}
    if len(totals) == 1:
        total = totals.pop()
        there = {found[0] for found in numbers if found}
        first = 0 if 0 in there else 1
        num_missing = total - len(there)
        missing = [number for number in range(first, min(total, 100_000) + first) if number not in there]
        if missing and num_missing > 0:
            listed = ", ".join(str(number) for number in missing[:10]) + (" ..." if num_missing > 10 else "")
            what = f"{count(num_missing)} of {count(total)} shards are not there: {listed}"
            parts.note("missing-part", Severity.ERROR, f"{stem}-*.{suffix}", what, _HINT)


def _shard_number(file: str) -> tuple[int, int] | None:
    """(3, 7) of `model-00003-of-00007.safetensors`; None for other names."""
    head, middle, tail = file.rpartition("-of-")
    number, total = head.rpartition("-")[2], tail.partition(".")[0]
    if middle and number.isdecimal() and total.isdecimal() and len(number) <= 9 and len(total) <= 9:
        return int(number), int(total)
    return None


def _is_sibling(file: str, expected: dict[str, list[str]]) -> bool:
    suffix = file.rpartition(".")[2]
    return any(other.rpartition(".")[2] == suffix for other in expected)


def _leads_out(listing: Listing, file: str) -> bool:
    """Whether a directory in the name is a link: what is behind it is not the checkpoint's."""
    folders = file.split("/")[:-1]
    return any(os.path.islink(listing.path_of("/".join(folders[: at + 1]))) for at in range(len(folders)))


def _named(names: list[str]) -> str:
    """`3 tensors (a, b, c)`, the first few by name."""
    listed = ", ".join(safe_text(name, 80) for name in names[:_MAX_NAMED])
    more = ", ..." if len(names) > _MAX_NAMED else ""
    return listed if len(names) == 1 else f"{plural(len(names), 'tensor')} ({listed}{more})"


READER = ShardedReader()
