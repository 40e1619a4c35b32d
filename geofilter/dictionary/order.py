"""In which order windows and tokens are trained on: known beforehand from the seed, so that a stopped training goes on
exactly where it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CHUNK_TOKENS = 1 << 18
CHUNK_BYTES = 1 << 30
"""activations held at once, at most; of small models more than `CHUNK_TOKENS`, so that several passes over a small set
of data read the model once"""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Windows whose activations are held at once, shuffled and trained on."""

    number: int
    windows: npt.NDArray[np.int64]
    """numbers of the windows"""
    tokens: int
    """of the windows that may be trained on"""
    take: int
    """how many of them are, in this chunk"""
    steps: int
    same: bool
    """whether all chunks are of the same windows"""

    def left(self, n: int) -> int:
        """How many of n tokens are trained on: of `tokens` some may turn out to be outliers."""
        return max(1, round(n * self.take / self.tokens))


def chunk_tokens(bytes_each: int) -> int:
    """Tokens of a chunk, given the bytes of a token's activations."""
    return max(1024, min(CHUNK_BYTES // bytes_each, 4 * CHUNK_TOKENS))


def chunks(counts: npt.NDArray[np.int64], asked: int, most: int, batch: int, seed: int) -> Iterator[Chunk]:
    """The chunks of a training, in their order.

    Args:
        counts: (n_windows,) tokens of each window.
        asked: tokens to train on in all; several passes where it is more than there are.
        most: tokens of a chunk.
        batch: tokens in a step.
    """
    there = int(counts.sum())
    same = there <= most
    even = -(-there // -(-there // most))
    number = done = 0
    for each_pass in range(1 << 62):
        order = np.random.default_rng([seed, 0 if same else each_pass]).permutation(len(counts)).astype(np.int64)
        ends = np.cumsum(counts[order])
        start = 0
        while start < len(order) and done < asked:
            before = int(ends[start - 1]) if start else 0
            wanted = there if same else min(even, asked - done)
            end = min(len(order), int(np.searchsorted(ends, before + wanted)) + 1)
            tokens = int(ends[end - 1]) - before
            if tokens:
                take = min(tokens, asked - done)
                yield Chunk(number, order[start:end], tokens, take, max(1, round(take / batch)), same)
                number, done = number + 1, done + take
            start = end
        if done >= asked:
            return
