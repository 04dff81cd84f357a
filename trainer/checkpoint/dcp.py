"""Reading what torch.distributed.checkpoint wrote: proven by the manifest's digests, and without running any code.

DCP's own reader unpickles `.metadata` and every value without a limit; here a pickle may name what a checkpoint
consists of, and nothing else.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Mapping
from typing import Any

from trainer.checkpoint.sealed import proven_manifest, reading

DCP_FORMAT = "dcp"
METADATA_NAME = ".metadata"
_METADATA_MODULE = "torch.distributed.checkpoint.metadata"
# Whole names: a dotted one would reach what a module has imported.
_METADATA_GLOBALS = frozenset(
    {
        *((_METADATA_MODULE, name) for name in (
            "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
            "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
        )),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"), ("torch.serialization", "_get_layout"),
        ("torch", "Size"), ("collections", "OrderedDict"), ("builtins", "set"), ("pathlib", "PosixPath"),
    }
)  # fmt: skip


def is_dcp(path: str) -> bool:
    """Whether `path` is a directory that DCP wrote, finished or not, by its names."""
    if not os.path.isdir(path):
        return False
    with os.scandir(path) as entries:
        return any(entry.name == METADATA_NAME or entry.name.endswith(".distcp") for entry in entries)


def load_dcp(path: str, expected_digest: str = "") -> tuple[dict[str, Any], str]:
    """The whole state, and the digest that vouches for it, after every byte was held against the manifest.

    Raises BadCheckpointError, OSError.
    """
    manifest, digest = proven_manifest(path, expected_digest)
    with reading():
        return _read(path, manifest), digest


def empty_containers(state: Any, path: tuple[str | int, ...] = ()) -> list[list[str | int]]:
    """The paths of empty dicts, which DCP leaves out."""
    if not isinstance(state, Mapping):
        return []
    if not state:
        return [list(path)]
    return [found for key, value in state.items() for found in empty_containers(value, (*path, key))]


def nested(flat: Mapping[str, Any], paths: Mapping[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """The state before DCP flattened it, by the keys that lead to each name."""
    root: dict[Any, Any] = {}
    numbered: list[tuple[dict[Any, Any], Any]] = []  # (container, key) of what was a list
    for name, value in flat.items():
        path = paths.get(name, (name,))
        node = root
        for depth, key in enumerate(path[:-1]):
            if key not in node:
                node[key] = {}
                if isinstance(path[depth + 1], int):
                    numbered.append((node, key))
            node = node[key]
        node[path[-1]] = value
    for node, key in reversed(numbered):
        node[key] = [node[key][number] for number in sorted(node[key])]
    return root


def _with_numbers(state: dict[str, Any]) -> dict[str, Any]:
    """The optimizer's state by the numbers of its parameters: DCP makes words of them."""
    optimizer = state.get("optimizer")
    if isinstance(optimizer, dict) and isinstance(optimizer.get("state"), dict):
        by_number = {int(key) if key.isdecimal() else key: value for key, value in optimizer["state"].items()}
        optimizer["state"] = by_number
    return state


def _read(path: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
    from torch.distributed.checkpoint.planner import LoadItemType, ReadItem

    class Reader(dcp.FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            with open(os.path.join(path, METADATA_NAME), "rb") as file:
                metadata = _MetadataUnpickler(io.BytesIO(file.read())).load()
            if not isinstance(metadata, Metadata):
                raise pickle.UnpicklingError(f"{METADATA_NAME} does not hold what DCP writes there")
            return metadata

    class Planner(dcp.DefaultLoadPlanner):
        def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
            assert read_item.type == LoadItemType.BYTE_IO
            values[read_item.dest_index.fqn] = torch.load(value, map_location="cpu", weights_only=True)

    values: dict[str, Any] = {}
    reader = Reader(path)
    metadata = reader.read_metadata()
    flat: dict[str, Any] = {
        name: torch.empty(item.size, dtype=item.properties.dtype) if isinstance(item, TensorStorageMetadata) else ""
        for name, item in metadata.state_dict_metadata.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one process: that it is one
        dcp.load(flat, storage_reader=reader, planner=Planner(flatten_state_dict=False), no_dist=True)
    state = nested({**flat, **values}, metadata.planner_data or {})
    for empty in manifest.get("empty", ()):
        node: Any = state
        for key in empty[:-1]:
            node = node.setdefault(key, {}) if isinstance(node, dict) else node[key]
        node.setdefault(empty[-1], {})
    return _with_numbers(state)


class _MetadataUnpickler(pickle.Unpickler):
    """Makes what `.metadata` consists of, and calls nothing else that it names."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if (module, name) in _METADATA_GLOBALS:
            return super().find_class(module, name)
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"{METADATA_NAME} names {module}.{name}, which is no part of a checkpoint")
