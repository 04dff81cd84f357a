"""The processes that train together, as torchrun starts them: who this one is, and what all of them agree on.

One process alone loads nothing of torch.distributed, and every call here gives back what it was given.

Each exchange ends in a bounded time. When it fails, `LostRanksError` names the rank that is to blame and its step,
not the one whose connection happened to break first. Ranks exchange on the CPU (gloo) whatever the model is on: a
decision must not wait for a GPU's queue.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from trainer.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainer.parallel.heartbeat import Heartbeat, LostRank

T = TypeVar("T")
_COMMUNICATION_WORDS = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe", "timed out", "c10d")


class LostRanksError(Exception):
    """An exchange failed. ranks: those to blame, empty when all of them still answer."""

    def __init__(self, step: int, ranks: Sequence[LostRank], cause: str) -> None:
        self.step = step
        self.ranks = [lost.rank for lost in ranks]
        named = "; ".join(map(str, ranks)) or "no rank can be named"
        super().__init__(f"lost at step {step}: {named} ({cause})")


class MainRefusedError(UsageError):
    """Main cannot do what was asked for, and tells why: this rank has nothing to tell."""


class World:
    """This process among `size` of them. rank 0 is main: the one that writes the log and what is one file.

    on_lost: called in a thread when nothing moves for longer than the time-out and no exchange reported it (a
    hanging kernel, a step of this rank's own that does not end); then the process ends with code 1.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, *, timeout_seconds: float = 300.0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.timeout_seconds = timeout_seconds
        self.on_lost: Callable[[LostRanksError], None] = self._print_lost
        self._heartbeat: Heartbeat | None = None
        self._numbers: dict[int, Tensor] = {}
        self._lost: LostRanksError | None = None
        self._finding = threading.Lock()

    @classmethod
    def join(cls, timeout_seconds: float, environment: Mapping[str, str] = os.environ) -> World:
        """The world that torchrun's environment describes. Raises UsageError for a bad one, LostRanksError."""
        try:
            rank, size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
            local_rank = int(environment.get("LOCAL_RANK", "0"))
        except ValueError as error:
            raise UsageError(f"RANK, WORLD_SIZE and LOCAL_RANK must be numbers: {error}") from error
        if not 0 <= rank < size:
            raise UsageError(f"RANK={rank} WORLD_SIZE={size}: a rank is below the number of processes")
        world = cls(rank, size, local_rank, timeout_seconds=timeout_seconds)
        if size > 1:
            world._connect()
        return world

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    @property
    def restart_count(self) -> int:
        """How often torchrun started this group anew."""
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) if not self.is_alone else 0

    def device(self) -> torch.device:
        """The GPU of this process where there are any, else the CPU."""
        import torch

        if not torch.cuda.is_available():
            return torch.device("cpu")
        device = torch.device("cuda", self.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device

    def at(self, step: int) -> None:
        """This process is at `step`, and moves."""
        if self._heartbeat is not None:
            self._heartbeat.step = step
            self._heartbeat.progress()

    def agree(self, values: Sequence[float]) -> list[float]:
        """The greatest of each value over the ranks: what one of them was asked, all do."""
        return self._reduced(values, "MAX")

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean of each value over the ranks; not finite where it is not on any rank."""
        return [value / self.size for value in self._reduced(values, "SUM")]

    def sum(self, values: Sequence[float]) -> list[float]:
        return self._reduced(values, "SUM")

    def rows(self, batch: Tensor) -> Tensor:
        """This rank's rows of a batch that every rank has: the data are the same on any number of processes."""
        each = len(batch) // self.size
        return batch[self.rank * each : (self.rank + 1) * each]

    def from_main(self, function: Callable[[], T]) -> T:
        """What `function` gives on main, on every rank. A UsageError of it ends all: MainRefusedError on the others."""
        if self.is_alone:
            return function()
        outcome: tuple[bool, Any] = (True, None)
        refusal: UsageError | None = None
        if self.is_main:
            try:
                outcome = (True, function())
            except UsageError as error:
                outcome, refusal = (False, str(error)), error
        is_done, value = self.broadcast(outcome)
        if refusal is not None:
            raise refusal
        if not is_done:
            raise MainRefusedError(value)
        return value

    def broadcast(self, value: T) -> T:
        """What main gives, on every rank."""
        if self.is_alone:
            return value
        import torch.distributed as dist

        holder = [value]
        with self._exchange():
            dist.broadcast_object_list(holder, src=0, device=_cpu())
        return holder[0]

    def gather(self, value: T) -> list[T]:
        """What each rank gives, by rank; on main alone, empty elsewhere."""
        if self.is_alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] | None = [None] * self.size if self.is_main else None
        with self._exchange():
            dist.gather_object(value, values, dst=0)
        return values or []

    def barrier(self) -> None:
        """Until every rank is here."""
        self._reduced([0.0], "SUM")

    def lost(self, error: BaseException) -> LostRanksError | None:
        """Who is to blame for `error` of this rank; None when it is its own, which the others are told then."""
        if self._heartbeat is None:
            return None
        if isinstance(error, LostRanksError):
            return error
        if not is_communication_error(error):
            self._heartbeat.note_failure(f"{type(error).__name__}: {str(error)[:200]}", is_own=True)
            return None
        return self._find_lost(error)

    def leave_words(self, words: bytes) -> None:
        """What this rank has that main needs once this one has ended. To be called before `lost`."""
        if self._heartbeat is not None:
            self._heartbeat.leave_words(words)

    def last_words(self) -> list[bytes] | None:
        """What every rank left, by rank; None when one did not, as one that was killed."""
        return self._heartbeat.last_words() if self._heartbeat is not None else None

    def let_others_look(self) -> None:
        """After a loss, before main ends: the others ask the store who is to blame, and main serves it unless torchrun
        does."""
        if self._heartbeat is None or self._lost is None or not self.is_main or _is_store_torchruns():
            return
        self._heartbeat.let_others_look([r for r in range(1, self.size) if r not in self._lost.ranks])

    def close(self) -> None:
        """Leave the group. After a loss there is none to leave in order."""
        self.let_others_look()
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is None:
            return
        heartbeat.stop()
        if self._lost is None:
            import torch.distributed as dist

            with contextlib.suppress(Exception):
                dist.destroy_process_group()

    def _connect(self) -> None:
        import torch
        import torch.distributed as dist

        from trainer.parallel.heartbeat import Heartbeat

        patience = timedelta(seconds=self.timeout_seconds)
        joined: list[int] = []
        try:
            store, _, _ = next(dist.rendezvous("env://", self.rank, self.size, timeout=patience))
            store.set_timeout(patience)
            store = dist.PrefixStore(f"trainer/{self.restart_count}", store)
            store.set(f"joined/{self.rank}", "1")
            for rank in range(self.size):
                store.wait([f"joined/{rank}"], patience)
                joined.append(rank)
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=patience)
        except (RuntimeError, ValueError) as error:
            missing = sorted(set(range(self.size)) - set(joined) - {self.rank})
            named = f"rank {missing[0]} did not come" if joined and missing else "not all of them came"
            raise UsageError(
                f"{self.size} processes were to meet at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                f" within {self.timeout_seconds:g} s, and {named} ({str(error).splitlines()[0][:200]})"
            ) from error
        # A connection of its own: the thread must not wait for the main one's calls.
        self._heartbeat = Heartbeat(
            store.clone(), self.rank, self.size, limit_seconds=self.timeout_seconds * 1.2 + 5, on_stuck=self._end_stuck
        )

    def _reduced(self, values: Sequence[float], operation: str) -> list[float]:
        if self.is_alone:
            return list(values)
        import torch
        import torch.distributed as dist

        numbers = torch.tensor(values, dtype=torch.float64)
        with self._exchange():
            dist.all_reduce(numbers, getattr(dist.ReduceOp, operation))
        return [float(number) for number in numbers]

    @contextlib.contextmanager
    def _exchange(self) -> Any:
        try:
            yield
        except RuntimeError as error:
            if not is_communication_error(error):
                raise
            raise self._find_lost(error) from error
        if self._heartbeat is not None:
            self._heartbeat.progress()

    def _find_lost(self, error: BaseException) -> LostRanksError:
        with self._finding:
            if self._lost is None:
                assert self._heartbeat is not None
                cause = str(error).splitlines()[0].rpartition("] ")[2][:120] if str(error) else type(error).__name__
                self._heartbeat.note_failure(cause, is_own=False)
                self._lost = LostRanksError(self._heartbeat.step, self._heartbeat.find_lost(), cause)
                self._heartbeat.note_looked()
                self._heartbeat.progress()  # it ends now, and that may take its time, too
            return self._lost

    def _print_lost(self, lost: LostRanksError) -> None:
        print(f"trainer: rank {self.rank}: {lost}", file=sys.stderr, flush=True)

    def _end_stuck(self) -> None:
        """In the heartbeat's thread: the main one does not move, and no exchange of it gave up."""
        from trainer.parallel.heartbeat import LostRank

        heartbeat = self._heartbeat
        if heartbeat is None or not self._finding.acquire(blocking=False):
            return  # it is finding out who is lost
        if self._lost is None:  # else that was told, and its end is what does not come
            why = f"did not move for {self.timeout_seconds:g} s"
            heartbeat.note_failure(why, is_own=True)
            ranks = heartbeat.find_lost(0.0) or [LostRank(self.rank, heartbeat.step, why)]
            lost = LostRanksError(heartbeat.step, ranks, f"told by rank {self.rank}")
            with contextlib.suppress(Exception):
                self.on_lost(lost)
        os._exit(1)


def is_communication_error(error: BaseException) -> bool:
    """Whether an error tells of a connection, and not of this rank's own work. gloo raises plain RuntimeErrors."""
    if type(error).__name__.startswith("Dist") and isinstance(error, RuntimeError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _COMMUNICATION_WORDS)


def _is_store_torchruns() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")
