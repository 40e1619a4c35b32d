"""What a shard keeps of its rows token by token: where each token stands, and its share in the row's score.

Rows are packed some at a time, so that a few can be read without the others: of each block, deflated, the gaps before
the tokens' spans and their widths as int32, their bytes shuffled, and then the shares' bytes, bank by bank.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, I32, Positions, check_array
from geofilter.bank.features import FURTHER, Pooled, RowTokens

BLOCK = 32
"""rows that are packed together"""
PREFIX = "tokens."
READ = tuple(PREFIX + name for name in ("blocks", "ends", "steps"))
"""the arrays that `rows_of` needs"""

Spans = tuple[I32, I32]
"""(n,) starts and (n,) ends of tokens in the characters of `Row.response`"""


@dataclass(frozen=True, slots=True, eq=False)
class ShardTokens:
    """The tokens of a shard's rows that were pooled, one row after the other."""

    first: npt.NDArray[np.int64]
    """(rows + 1,) the first token of each row, and how many there are"""
    start: I32
    """(n,) in the characters of `Row.response`"""
    end: I32
    """(n,)"""
    peak: npt.NDArray[np.uint16]
    """(nnz,) of each activation of `Shard.pooled` the token of its row with the largest one; or `FURTHER`"""
    keys: tuple[str, ...]
    """of each bank, what its shares are computed with, see `Shares.key`; none under a scorer without shares"""
    shares: npt.NDArray[np.int8]
    """(banks, n) in steps"""
    steps: F32
    """(banks, rows)"""

    @classmethod
    def of(cls, rows: Sequence[RowTokens], spans: Sequence[I32], keys: Sequence[str]) -> ShardTokens:
        """Of rows as they are read.

        Args:
            spans: (n_response, 2) of each row's response tokens.
            keys: of the banks.
        """
        banks, kept = len(keys), [of[row.kept] for row, of in zip(rows, spans, strict=True)]
        start, end = np.concatenate([np.zeros((0, 2), np.int32), *kept]).T
        return cls(
            np.cumsum([0, *map(len, kept)], dtype=np.int64),
            start,
            end,
            np.concatenate([np.zeros(0, np.uint16), *(row.peak for row in rows)]),
            tuple(keys),
            np.concatenate([np.zeros((banks, 0), np.int8), *(row.shares for row in rows)], axis=1),
            np.array([row.step for row in rows], np.float32).reshape(len(rows), banks).T,
        )

    def peak_spans(self, row: int | Positions, at: Positions) -> list[tuple[int, int] | None]:
        """Start and end of the tokens on which features are strongest in a row; None where that is not known.

        Args:
            row: for all of them, or of each.
            at: places of the row's activations in `Shard.pooled`.
        """
        peak = self.peak[at]
        token = self.first[row] + np.where(peak == FURTHER, 0, peak)
        found = zip(self.start[token].tolist(), self.end[token].tolist(), (peak != FURTHER).tolist(), strict=True)
        return [(start, end) if known else None for start, end, known in found]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, for a safetensors file; `keys` are not among them."""
        blocks = [self._block(low, high) for low, high in _blocks(len(self.first) - 1)]
        return {
            PREFIX + "blocks": np.frombuffer(b"".join(blocks), np.uint8),
            PREFIX + "ends": np.cumsum([len(block) for block in blocks], dtype=np.int64),
            PREFIX + "peak": np.frombuffer(zlib.compress(_shuffled(self.peak)), np.uint8),
            PREFIX + "steps": self.steps,
        }

    def _block(self, low: int, high: int) -> bytes:
        """Rows packed."""
        first = self.first[low : high + 1]
        here = slice(first[0], first[-1])
        start, end = self.start[here], self.end[here]
        before = np.concatenate([[0], end[:-1]])[: len(end)].astype(np.int32)
        starting = first[:-1] - first[0]
        before[starting[np.diff(first) > 0]] = 0
        gap_width = np.concatenate([start - before, end - start])
        return zlib.compress(_shuffled(gap_width) + self.shares[:, here].tobytes())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], keys: Sequence[str], pooled: Pooled) -> ShardTokens:
        """Inverse of `arrays`.

        Args:
            pooled: of the shard, checked.

        Raises:
            KeyError, ValueError: an array is missing, or nothing may be done with it.
        """
        n = len(pooled)
        first = np.concatenate([[0], np.cumsum(pooled.n_tokens, dtype=np.int64)])
        found = list(_unpacked(arrays, keys, pooled.n_tokens, [low for low, _ in _blocks(n)]))
        packed = arrays[PREFIX + "peak"]
        check_array(PREFIX + "peak", packed, np.uint8)
        peak = _unshuffled(_inflated(packed.tobytes(), 2 * len(pooled.indices), "peak"), np.uint16)
        of_row = np.repeat(pooled.n_tokens, np.diff(pooled.indptr))
        if ((peak >= of_row) & (peak != FURTHER)).any():
            raise ValueError(f"{PREFIX}peak has a token that its row has not")
        none = np.zeros(0, np.int32)
        return cls(
            first,
            np.concatenate([none, *(start for start, _, _ in found)]),
            np.concatenate([none, *(end for _, end, _ in found)]),
            peak,
            tuple(keys),
            np.concatenate([np.zeros((len(keys), 0), np.int8), *(shares for _, _, shares in found)], axis=1),
            arrays[PREFIX + "steps"],
        )


def rows_of(
    arrays: Mapping[str, npt.NDArray[Any]], keys: Sequence[str], n_tokens: I32, rows: Sequence[int]
) -> Iterator[tuple[int, I32, I32, npt.NDArray[np.float32]]]:
    """Of some rows of a shard start and end (n,) of each token, and its share (banks, n) under each bank.

    Args:
        arrays: those named `READ`.
        n_tokens: (all rows of the shard,) tokens of each.
        rows: ascending.

    Yields:
        row, start, end, shares.

    Raises:
        KeyError, ValueError: see `ShardTokens.from_arrays`.
    """
    steps = arrays[PREFIX + "steps"]
    lows = sorted({row // BLOCK * BLOCK for row in rows})
    for low, (start, end, shares) in zip(lows, _unpacked(arrays, keys, n_tokens, lows), strict=True):
        first = np.concatenate([[0], np.cumsum(n_tokens[low : low + BLOCK], dtype=np.int64)])
        for row in rows:
            if low <= row < low + BLOCK:
                here = slice(first[row - low], first[row - low + 1])
                yield row, start[here], end[here], shares[:, here] * steps[:, row, None]


def _unpacked(
    arrays: Mapping[str, npt.NDArray[Any]], keys: Sequence[str], n_tokens: I32, lows: Sequence[int]
) -> Iterator[tuple[I32, I32, npt.NDArray[np.int8]]]:
    """Starts, ends and bytes of the blocks that begin with the rows `lows`."""
    n, banks = len(n_tokens), len(keys)
    blocks, ends, steps = (arrays[name] for name in READ)
    check_array(READ[0], blocks, np.uint8)
    check_array(READ[1], ends, np.int64, (len(_blocks(n)),))
    check_array(READ[2], steps, np.float32, (banks, n))
    bounds = np.concatenate([[0], ends])
    if bounds[-1] != len(blocks) or (np.diff(bounds) < 0).any():
        raise ValueError(f"{READ[1]} does not ascend to {len(blocks)}")
    if steps.size and steps.min() < 0:
        raise ValueError(f"{READ[2]} has a step below 0")
    for low in lows:
        here = n_tokens[low : low + BLOCK].astype(np.int64)
        total = int(here.sum())
        data = blocks[bounds[low // BLOCK] : bounds[low // BLOCK + 1]].tobytes()
        raw = _inflated(data, (8 + banks) * total, "blocks")
        gap, width = _unshuffled(raw[: 8 * total], np.int32).reshape(2, total).astype(np.int64)
        end = np.cumsum(gap + width)
        before = np.concatenate([[0], end])[np.cumsum(here) - here]
        end -= np.repeat(before, here)
        start = end - width
        if total and (width.min() < 0 or start.min() < 0 or end.max() > np.iinfo(np.int32).max):
            raise ValueError(f"{READ[0]} has a token that ends before it begins, or begins before the response")
        shares = np.frombuffer(raw, np.int8, offset=8 * total).reshape(banks, total)
        if shares.size and shares.min() == -128:
            raise ValueError(f"{READ[0]} has a share of more steps than there are")
        yield start.astype(np.int32), end.astype(np.int32), shares


def _blocks(n: int) -> list[tuple[int, int]]:
    """First rows of the blocks of n rows, and first rows behind them."""
    return list(pairwise([*range(0, n, BLOCK), n])) if n else []


def _shuffled(array: npt.NDArray[Any]) -> bytes:
    """An array's bytes, the first of all elements first: most of those of small numbers are then the same."""
    return array.view(np.uint8).reshape(len(array), array.itemsize).T.tobytes()


def _unshuffled(data: bytes, kind: type) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(size, -1).T).view(kind).reshape(-1)


def _inflated(data: bytes, size: int, name: str) -> bytes:
    """What was deflated, of a known size."""
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"{PREFIX}{name} cannot be unpacked ({error})") from None
    if len(raw) != size or not stream.eof:
        raise ValueError(f"{PREFIX}{name} is not of {size} bytes")
    return raw
