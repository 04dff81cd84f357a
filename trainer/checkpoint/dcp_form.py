"""Checkpoints of torch.distributed.checkpoint: a directory to which each process gives the part of the state it has.

`take` copies this process's tensors into memory that is reused; the rest runs in the thread of the save, on every rank
in the same order: all say whether their copy is whole and finite, all write, each flushes its own files, and main
publishes the directory with a manifest that holds the digest of every file. DCP's own mark of completion, `.metadata`,
is not durable (it is flushed before Python's buffer is) and vouches for nothing in the other files.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.dcp import DCP_FORMAT, empty_containers
from trainer.checkpoint.proven import Published
from trainer.checkpoint.publish import PublishError
from trainer.checkpoint.publish_directory import FileFacts, commit, new_directory, seal_files, write_file
from trainer.checkpoint.registry import facts_of
from trainer.checkpoint.state import FINITE, first_nonfinite

# Of one exchange between the threads that save. A rank that is dead closes its connection; one that hangs is found
# much sooner, by the training itself.
_PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class _Report:
    """What a rank tells before and after it wrote."""

    error: str = ""
    nonfinite: str | None = None
    files: tuple[FileFacts, ...] = ()


class Dcp:
    """One rank's part in the saves of a run directory. Made by all ranks at the same time."""

    suffix = ""
    is_waited = False

    def __init__(self, directory: str) -> None:
        import torch.distributed as dist

        self._directory = directory
        self._rank, self._size, self._group = 0, 1, None
        if dist.is_available() and dist.is_initialized():
            self._rank, self._size = dist.get_rank(), dist.get_world_size()
            # Of its own: exchanges of the training go on meanwhile.
            self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._buffers = _Buffers()
        self._state: dict[str, Any] = {}
        self._error = ""
        self._nonfinite: str | None = None
        self._files: tuple[FileFacts, ...] = ()
        self._last_size_bytes = 0
        self._temporary = self._published = ""

    @property
    def size_bytes(self) -> int:
        return sum(facts.bytes for facts in self._files)

    def take(self, state: Mapping[str, Any]) -> None:
        """Copy this rank's part of `state`. When this returns, its tensors may change."""
        try:
            self._error = ""
            self._state = self._buffers.copied(state)
        except (RuntimeError, MemoryError) as error:
            # The others save, too, and have to be told.
            self._error = f"{type(error).__name__}: {error}"

    def finish(self, make_room: Callable[[int], None] | None = None) -> None:
        """Write every rank's part into a temporary directory, if all have one. Raises PublishError on all ranks.

        make_room: for what all of them write; on main.
        """
        _discard(self._temporary)
        self._temporary = self._published = ""
        self._files, self._nonfinite = (), None
        bad = None if self._error else first_nonfinite(local({key: self._state.get(key) for key in FINITE}))
        reports = self._gathered(_Report(self._error, bad))
        self._raise_any(reports, "snapshot")
        self._nonfinite = next((report.nonfinite for report in reports if report.nonfinite is not None), None)
        if self._nonfinite is not None:
            return
        path = self._from_main(lambda: self._new_directory(make_room))
        reports = self._gathered(self._written(path))
        self._raise_any(reports, "write")
        self._files = tuple(facts for report in reports for facts in report.files)
        self._last_size_bytes = self.size_bytes

    def first_nonfinite(self, keys: Collection[str]) -> str | None:
        """The dotted path of the first tensor of any rank that is not finite."""
        return self._nonfinite

    def publish(self, directory: str, names: Sequence[str], previous: Mapping[str, str]) -> Published:
        """On main: what all wrote under every one of `names`; the second time bytes of their own."""
        if self._published:
            temporary, sealed = self._copied(os.path.join(directory, self._published), names[0])
        elif self._temporary:
            temporary, sealed = self._temporary, list(self._files)
        else:
            raise PublishError("write", "what was written is gone with the first attempt")
        self._temporary = ""
        about = {
            "format": DCP_FORMAT, "world_size": self._size, "facts": facts_of(self._state, ""),
            "empty": empty_containers(self._state),
        }  # fmt: skip
        published = commit(directory, temporary, names, sealed=sealed, about=about, previous=previous)
        self._published = names[0]
        return published

    def _new_directory(self, make_room: Callable[[int], None] | None) -> str:
        if make_room is not None:
            make_room(max(self._last_size_bytes, bytes_of(self._state)))
        self._temporary = new_directory(self._directory, f"step_{int(self._state['step']):06d}")
        return self._temporary

    def _written(self, path: str) -> _Report:
        """This rank's part, written and flushed."""
        import torch.distributed.checkpoint as dcp

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of one process: that it is one
                dcp.save(
                    self._state, storage_writer=dcp.FileSystemWriter(path, sync_files=False),
                    process_group=self._group, no_dist=self._group is None,
                )  # fmt: skip
            mine = [name for name in sorted(os.listdir(path)) if name.startswith(f"__{self._rank}_")]
            return _Report(files=tuple(seal_files(path, mine)))
        except (Exception, dcp.CheckpointException) as error:  # noqa: BLE001  all ranks have to hear of it
            return _Report(_reason(error))

    def _copied(self, source: str, name: str) -> tuple[str, list[FileFacts]]:
        """The published directory as bytes of its own."""
        temporary = new_directory(self._directory, name)
        try:
            sealed = []
            for facts in self._files:
                with open(os.path.join(source, facts.path), "rb") as file:
                    sealed.append(write_file(os.path.join(temporary, facts.path), file.read()))
            shutil.copyfile(os.path.join(source, ".metadata"), os.path.join(temporary, ".metadata"))
        except OSError as error:
            _discard(temporary)
            raise PublishError("write", error) from error
        except BaseException:
            _discard(temporary)
            raise
        return temporary, sealed

    def _gathered(self, report: _Report) -> list[_Report]:
        """Of all ranks, on all ranks."""
        if self._group is None:
            return [report]
        import torch.distributed as dist

        reports: list[Any] = [None] * self._size
        dist.all_gather_object(reports, report, group=self._group)
        return reports

    def _from_main(self, make: Callable[[], str]) -> str:
        """What `make` gives on main. Raises PublishError on all ranks when it does there."""
        made, failed = "", None
        if self._rank == 0:
            try:
                made = make()
            except PublishError as error:
                failed = error
        if self._group is not None:
            import torch.distributed as dist

            holder = [made]
            dist.broadcast_object_list(holder, src=0, group=self._group)
            made = holder[0]
        if failed is not None or not made:
            raise failed or PublishError("write", "main could not make the directory")
        return made

    def _raise_any(self, reports: Sequence[_Report], stage: str) -> None:
        for rank, report in enumerate(reports):
            if report.error:
                of_rank = f"rank {rank}: " if self._size > 1 else ""
                raise PublishError(stage, f"{of_rank}{report.error}")


class _Buffers:
    """Memory for copies of tensors, the same for one save after the other."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def copied(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state` with copies of this rank's tensors, which share memory where those do."""
        from trainer.parallel.sharded import map_tensors

        sources: list[Tensor] = []
        known: dict[tuple[Any, ...], int] = {}
        places: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            mine = local(tensor)
            key = (mine.data_ptr(), tuple(mine.shape), mine.stride(), mine.dtype)
            if mine.numel() == 0 or key not in known:
                known[key] = len(sources)
                sources.append(mine)
            places[id(tensor)] = known[key]
            return tensor

        noted = map_tensors(state, note)
        self._fit(sources)
        torch._foreach_copy_(self._buffers, sources, non_blocking=True)
        if any(source.is_cuda for source in sources):
            torch.cuda.synchronize()
        copied = map_tensors(noted, lambda tensor: _in_place_of(tensor, self._buffers[places[id(tensor)]]))
        assert isinstance(copied, dict)
        return copied

    def _fit(self, sources: list[Tensor]) -> None:
        del self._buffers[len(sources) :]
        for number, source in enumerate(sources):
            if number < len(self._buffers):
                buffer = self._buffers[number]
                if buffer.shape == source.shape and buffer.dtype == source.dtype:
                    continue
            made = torch.empty(source.shape, dtype=source.dtype, pin_memory=source.is_cuda)
            self._buffers[number : number + 1] = [made]


def local(state: Any) -> Any:
    """A state, or one tensor, with this rank's part in place of tensors that are spread."""
    from trainer.parallel.sharded import is_sharded, map_tensors

    return map_tensors(state, lambda tensor: tensor.to_local() if is_sharded(tensor) else tensor.detach())


def bytes_of(state: Any) -> int:
    """Of the tensors of all ranks."""
    from trainer.parallel.sharded import map_tensors

    sizes: list[int] = []
    map_tensors(state, lambda tensor: sizes.append(tensor.numel() * tensor.element_size()))
    return sum(sizes)


def _in_place_of(tensor: Tensor, part: Tensor) -> Tensor:
    """`part`, spread as `tensor` is."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return part
    mesh = tensor.device_mesh
    if mesh.device_type != "cpu":
        from torch.distributed.device_mesh import DeviceMesh

        mesh = DeviceMesh("cpu", mesh.mesh, _init_backend=False)
    return DTensor.from_local(
        part, mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def _discard(path: str) -> None:
    if path:
        shutil.rmtree(path, ignore_errors=True)


def _reason(error: BaseException) -> str:
    """In one line; of several ranks' errors the first."""
    failures = getattr(error, "failures", None)
    if failures:
        rank, (first, _) = next(iter(failures.items()))
        return f"(rank {rank}) {_reason(first)}"
    text = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error)
    return f"{type(error).__name__}: {text}".splitlines()[0][:300]
