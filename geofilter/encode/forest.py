"""Windows laid out for one pass as a forest: tokens with which several of them begin stand there once.

Each segment of the forest goes on where its parent ends. A token attends to those before it in its own segment and to
all of its ancestors', so what a decoder computes of it is what it computes of it in any window that goes through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from geofilter.arrays import I64

SHARED = 8
"""tokens that several windows must share beyond what they share already, to stand there once; every segment costs
calls of its own
"""
Span = tuple[int, int]
NOTHING: I64 = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of tokens, each the next one in every window that goes through it."""

    start: int
    end: int
    before: tuple[Span, ...]
    """the tokens of its ancestors, from the root on"""

    @property
    def depth(self) -> int:
        """Tokens of the ancestors: the position of the segment's first one in its windows."""
        return sum(end - start for start, end in self.before)


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Where the tokens of some windows stand."""

    ids: I64
    """(T,) token ids of the segments"""
    position: I64
    """(T,) each token's place in its windows, from 0"""
    segments: tuple[Segment, ...]
    places: tuple[I64, ...]
    """for each window (n,) where its tokens stand"""
    held: I64
    """(h,) ids of the tokens that stand before all segments: they are known from the pass before"""


def sort_key(ids: I64) -> bytes:
    """What windows that begin alike stand side by side by, when they are sorted."""
    return ids.astype(">u4").tobytes()


def common(one: I64, other: I64) -> int:
    """How many tokens two windows begin with alike."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n


def grow(windows: Sequence[I64], held: I64 = NOTHING) -> Forest:
    """Lay out windows of token ids, sorted by `sort_key`.

    Args:
        held: tokens that are known and come before the windows in their order; windows may begin with them.
    """
    if not len(held):
        return _grown(windows, held)
    # As a window it is the first, so its tokens stand in front of all others.
    whole = _grown([held, *windows], held)
    segments = tuple(segment for segment in whole.segments if segment.start >= len(held))
    return Forest(whole.ids[len(held) :], whole.position[len(held) :], segments, whole.places[1:], held)


def _grown(windows: Sequence[I64], held: I64) -> Forest:
    shared = [0, *(common(one, other) for one, other in pairwise(windows))]
    segments: list[Segment] = []
    ids: list[I64] = []
    places: list[I64] = [NOTHING] * len(windows)
    size = 0
    # Windows first to last - 1, which have `depth` tokens in common that stand in `before`.
    branches: list[tuple[int, int, int, tuple[Span, ...]]] = [(0, len(windows), 0, ())] if windows else []
    while branches:
        first, last, depth, before = branches.pop()
        alike = min(shared[first + 1 : last], default=len(windows[first]))
        if alike >= depth + SHARED or (last - first == 1 and alike > depth):
            segments.append(Segment(size, size + alike - depth, before))
            ids.append(windows[first][depth:alike])
            before = _joined(before, (size, size + alike - depth))
            size, depth = size + alike - depth, alike
        if last - first == 1:
            places[first] = np.concatenate([np.arange(*span) for span in before])
            continue
        cuts = [i for i in range(first + 1, last) if shared[i] < depth + SHARED]
        parts = zip([first, *cuts], [*cuts, last], strict=True)
        branches += reversed([(start, end, depth, before) for start, end in parts])
    position = [np.arange(segment.end - segment.start) + segment.depth for segment in segments]
    return Forest(np.concatenate(ids), np.concatenate(position), tuple(segments), tuple(places), held)


def _joined(before: tuple[Span, ...], span: Span) -> tuple[Span, ...]:
    """One span more; where it begins where the last one ends, both are one."""
    if before and before[-1][1] == span[0]:
        return (*before[:-1], (before[-1][0], span[1]))
    return (*before, span)
