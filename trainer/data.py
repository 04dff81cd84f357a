"""Text as byte tokens in shards, in an order that is a function of seed and epoch, at a position that is an integer.

The corpus by default is the source of this machine's own Python standard library: real text, no download. Batches
are counted when they are consumed, so a resume goes on with the very next one.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SHARD_BYTES = 1 << 20
# Tests and vendored trees would be most of the text and the dullest of it.
_SKIPPED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib", "lib2to3", "ensurepip"}
)
# One file in this many is for validation.
_VAL_EVERY = 20


@dataclass(frozen=True, slots=True)
class Corpus:
    """train and val: uint8, one dimension. digest: sha256 of both, which says what was trained on."""

    train: Tensor
    val: Tensor
    digest: str


def load_corpus(paths: Sequence[str] = ()) -> Corpus:
    """Read the text files, the standard library's by default. OSError when one cannot be read, ValueError when it is
    too little text to train on."""
    train, val = bytearray(), bytearray()
    if paths:
        for name in paths:
            text = Path(name).read_bytes()
            cut = len(text) - max(len(text) // _VAL_EVERY, 1)
            train += text[:cut]
            val += text[cut:]
    else:
        for index, path in enumerate(_standard_library()):
            (val if index % _VAL_EVERY == 0 else train).extend(path.read_bytes())
    digest = hashlib.sha256(train)
    digest.update(val)
    if len(train) < 2 or len(val) < 2:
        raise ValueError(f"too little text to train on: {len(train) + len(val)} bytes")
    return Corpus(
        torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(val, dtype=torch.uint8), digest.hexdigest()
    )


def _standard_library() -> Iterator[Path]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if not _SKIPPED.intersection(path.relative_to(root).parts[:-1]):
            yield path


class Batches:
    """Training batches: every block of the corpus once an epoch, in an order that (seed, epoch) decides.

    `position` counts the sequences consumed in `epoch`; it is all that a resume needs.
    """

    def __init__(self, tokens: Tensor, block_size: int, batch_size: int, seed: int) -> None:
        self.tokens = tokens
        self.block_size = block_size
        self.batch_size = batch_size
        self.seed = seed
        self.num_sequences = (len(tokens) - 1) // block_size
        self.steps_per_epoch = self.num_sequences // batch_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"the text holds {self.num_sequences} sequences of {block_size} bytes, a batch takes {batch_size}"
            )
        self.epoch = 0
        self.position = 0
        self._order = self._permutation()

    def _permutation(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.num_sequences, generator=generator)

    def take(self) -> tuple[Tensor, Tensor]:
        """The next batch: inputs and targets, (batch, time) of int64. Begins the next epoch when this one is over."""
        if self.position + self.batch_size > self.steps_per_epoch * self.batch_size:
            self.epoch, self.position = self.epoch + 1, 0
            self._order = self._permutation()
        indices = self._order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        return gather(self.tokens, indices, self.block_size)

    @property
    def is_epoch_over(self) -> bool:
        return self.position >= self.steps_per_epoch * self.batch_size

    def state(self) -> dict[str, int]:
        shard, offset = divmod(self.position * self.block_size, SHARD_BYTES)
        return {
            "epoch": self.epoch, "position": self.position, "shard": shard, "shard_offset": offset,
            "permutation_seed": self.seed * 1_000_003 + self.epoch, "num_sequences": self.num_sequences,
        }  # fmt: skip

    def load_state(self, state: dict[str, int]) -> None:
        """Go to where a checkpoint was. ValueError when it counted other sequences: other text, or other blocks."""
        if state["num_sequences"] != self.num_sequences:
            raise ValueError(
                f"the data has {self.num_sequences} sequences, the checkpoint's had {state['num_sequences']}"
            )
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._permutation()


def gather(tokens: Tensor, indices: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Sequences number `indices` of the corpus, and the same one byte later."""
    offsets = indices[:, None] * block_size + torch.arange(block_size + 1)
    block = tokens[offsets].long()
    return block[:, :-1], block[:, 1:]


def validation_batches(
    tokens: Tensor, block_size: int, batch_size: int, num_batches: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same sequences every time, spread over the validation text."""
    num_sequences = (len(tokens) - 1) // block_size
    if num_sequences < 1:
        return
    wanted = min(num_batches * batch_size, num_sequences)
    chosen = torch.linspace(0, num_sequences - 1, wanted).long()
    for start in range(0, wanted, batch_size):
        yield gather(tokens, chosen[start : start + batch_size], block_size)
