"""Text as byte tokens in shards, in an order that is a function of (seed, epoch): a position is an integer.

So resuming needs no replay and no worker state: (epoch, number of sequences consumed) says it all.
"""

from __future__ import annotations

import os
import sysconfig
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import UsageError

SHARD_TOKENS = 256 * 1024
# Every 16th shard is for evaluation; a corpus of fewer than 16 shards gives the last tenth of its tokens.
VAL_EVERY = 16
# Left out of the standard library: not ours, tests, or there on some machines only.
_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3", "idlelib", "ensurepip"}
)


def corpus_files(data: Sequence[str]) -> list[str]:
    """The files of `--data` in the order given, or the sources of this Python's standard library in sorted order."""
    if data:
        return list(data)
    root = sysconfig.get_paths()["stdlib"]
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(
            name for name in subfolders if name not in _SKIPPED and not name.startswith(("config-", "lib-dynload"))
        )
        found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
    return found


class Corpus:
    """The tokens, their shards (begin, end), and what identifies them. Raises UsageError when there is too little."""

    def __init__(self, paths: Sequence[str], block_size: int, batch_size: int) -> None:
        parts = []
        for path in paths:
            try:
                with open(path, "rb") as file:
                    parts.append(file.read())
            except OSError as error:
                raise UsageError(f"Cannot read the training data {path}: {error.strerror}") from error
        text = b"\n".join(parts)
        self.num_tokens = len(text)
        self.identity = f"crc32:{zlib.crc32(text):08x}"
        self.tokens: Tensor = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0)
        shards = [(at, min(at + SHARD_TOKENS, len(text))) for at in range(0, len(text), SHARD_TOKENS)]
        if len(shards) >= VAL_EVERY:
            self.val_shards = shards[VAL_EVERY - 1 :: VAL_EVERY]
            self.train_shards = [shard for shard in shards if shard not in self.val_shards]
        else:
            cut = len(text) * 9 // 10
            self.train_shards = [(begin, min(end, cut)) for begin, end in shards if begin < cut]
            self.val_shards = [(cut, len(text))]
        self.block_size = block_size
        num_train = sum(self._num_windows(shard) for shard in self.train_shards)
        num_val = sum(self._num_windows(shard) for shard in self.val_shards)
        if num_train < batch_size or num_val < 1:
            raise UsageError(
                f"The training data are too short: {len(text):,} bytes give {num_train} sequences for training and"
                f" {num_val} for evaluation, one batch needs {batch_size}. Give more --data, or a smaller --block_size"
                " or --batch_size."
            )

    def _num_windows(self, shard: tuple[int, int]) -> int:
        """Sequences of block_size tokens, each with the one token after it."""
        return max(shard[1] - shard[0] - 1, 0) // self.block_size

    def train_order(self, seed: int, epoch: int) -> Tensor:
        """Where each training sequence of `epoch` begins, in order: shuffled over the whole corpus.

        Over all of it, not shard by shard: neighbouring sources are alike, and a training that stays among them for
        a thousand steps forgets the others (val_loss rose from 2.4 to 3.0). By a generator of its own: the global
        one that dropout draws from is not touched.
        """
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        starts = torch.cat(
            [
                begin + torch.arange(self._num_windows((begin, end))) * self.block_size
                for begin, end in self.train_shards
            ]
        )
        return starts[torch.randperm(len(starts), generator=generator)]

    def val_batches(self, batch_size: int, num_batches: int) -> list[tuple[Tensor, Tensor]]:
        """The same sequences at every evaluation, spread evenly over all of them."""
        starts = torch.cat(
            [begin + torch.arange(self._num_windows((begin, end))) * self.block_size for begin, end in self.val_shards]
        )
        wanted = min(batch_size * num_batches, len(starts))
        chosen = starts[torch.arange(wanted) * len(starts) // wanted]
        return [self.batch(part) for part in chosen.split(batch_size)]

    def batch(self, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets, both (sequences, block_size), int64."""
        windows = self.tokens[starts[:, None] + torch.arange(self.block_size + 1)].long()
        return windows[:, :-1], windows[:, 1:]


class TrainData:
    """The batches of a training, one after the other through the epochs. An epoch drops its incomplete last batch."""

    def __init__(self, corpus: Corpus, batch_size: int, seed: int) -> None:
        self._corpus = corpus
        self._batch_size = batch_size
        self._seed = seed
        self.epoch = 0
        self.position = 0  # sequences of this epoch that were consumed
        self._order = corpus.train_order(seed, 0)

    @property
    def steps_per_epoch(self) -> int:
        return len(self._order) // self._batch_size

    @property
    def epochs_done(self) -> float:
        """Epochs consumed, with the fraction of this one."""
        return self.epoch + self.position / (self.steps_per_epoch * self._batch_size)

    @property
    def is_at_epoch_end(self) -> bool:
        return self.position + self._batch_size > len(self._order)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        if self.is_at_epoch_end:
            self.begin_epoch(self.epoch + 1)
        starts = self._order[self.position : self.position + self._batch_size]
        self.position += self._batch_size
        return self._corpus.batch(starts)

    def begin_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self._order = self._corpus.train_order(self._seed, epoch)
        self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """`train.position` (sequences of the epoch) is what counts; shard and shard_offset say where the next lies."""
        next_token = int(self._order[self.position]) if self.position < len(self._order) else 0
        return {
            "train": {
                "epoch": self.epoch, "position": self.position,
                "shard": next_token // SHARD_TOKENS, "shard_offset": next_token % SHARD_TOKENS,
            },
            "val": {"shard": 0, "position": 0},
            "seed": self._seed, "micro_step": 0,
            "corpus": self._corpus.identity, "num_tokens": self._corpus.num_tokens,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begin_epoch(int(state["train"]["epoch"]))
        self.position = int(state["train"]["position"])
