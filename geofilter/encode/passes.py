"""Which windows the model reads together, and how their tokens are laid out for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geofilter.arrays import I64
from geofilter.encode.forest import NOTHING, SHARED, Forest, common, grow, sort_key
from geofilter.encode.tokens import Tokens

HELD = 1024
"""tokens at most whose keys and values the model keeps from one pass to the next"""


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Windows for one forward pass: as a forest, or one below the other, padded on the right."""

    windows: tuple[int, ...]
    """positions of the windows in the list that was divided"""
    input_ids: torch.Tensor
    """(B, T) int64; of a forest B is 1"""
    attention_mask: torch.Tensor | None
    """(B, T) int64, 0 on padding; None of a forest"""
    forest: Forest | None
    keep: torch.Tensor
    """(k,) int64 places in the forest of the tokens with which the next pass begins"""
    response: torch.Tensor
    """(n,) int64 response tokens in the B x T ones, window by window"""
    counts: torch.Tensor
    """(windows,) int64 response tokens of each"""
    n_tokens: int
    """tokens of the windows"""


class Passes:
    """Divides windows into passes of about `budget` tokens; what lies behind a window's last response token is left
    out, since nothing of the response depends on it.

    As forests, windows that begin alike come together, and what a pass ends with and the next one begins with is
    computed in the first one alone; else those of like length come together. The division depends on windows and budget
    alone.

    Args:
        forests: lay out passes as forests.
        steady: what the model computes of a longer window depends on the window's length: see
            `decoder.steady_length`. Such ones come together with those of the same length alone.
    """

    def __init__(
        self, windows: Sequence[Tokens], budget: int, pad_id: int, *, forests: bool, steady: float = math.inf
    ) -> None:
        self._mask = [np.fromiter(window.mask, bool, len(window.mask)) for window in windows]
        ends = [len(mask) - int(mask[::-1].argmax()) for mask in self._mask]
        self._ids = [np.fromiter(window.ids[:end], np.int64, end) for window, end in zip(windows, ends, strict=True)]
        self._held = NOTHING
        """tokens that the model knows when it is given the next pass"""
        self._sizes = [len(window.ids) for window in windows]
        self.budget, self._pad_id, self._steady = budget, pad_id, steady
        self._forests = forests and max(map(len, self._ids), default=0) <= steady
        if self._forests:
            self._left = sorted(range(len(windows)), key=lambda i: (sort_key(self._ids[i]), i))
        else:
            self._left = sorted(range(len(windows)), key=lambda i: (len(self._ids[i]), i))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.take, None)

    def take(self) -> Pass | None:
        """The next pass; None after the last."""
        if not self._left:
            return None
        return self._next_forest() if self._forests else self._padded(self._taken(self._fitting()))

    def _taken(self, n: int) -> list[int]:
        group, self._left = self._left[:n], self._left[n:]
        return group

    def halve(self, failed: Pass) -> bool:
        """Divide the windows of a pass that needs too much memory, and all that are left, into passes of half its size;
        False where it is of one window.
        """
        if len(failed.windows) == 1:
            return False
        self._left = [*failed.windows, *self._left]
        self._held = NOTHING  # the model has gone on perhaps, and holds what this pass was to keep
        self.budget = max(1, min(self.budget, failed.input_ids.numel()) // 2)
        return True

    def _fitting(self) -> int:
        """How many of the windows left make the next pass, one at least; of a forest perhaps a few too many."""
        tokens = 0
        before = self._held
        for n, i in enumerate(self._left):
            ids = self._ids[i]
            if self._forests:
                alike = common(before, ids)
                tokens += len(ids) - (alike if alike >= SHARED else 0)
            else:
                tokens = (n + 1) * len(ids)
            unlike = len(ids) > self._steady and len(ids) != len(before)
            if n and (tokens > self.budget or unlike):
                return n
            before = ids
        return len(self._left)

    def _next_forest(self) -> Pass:
        n, tokens = self._fitting(), self.budget + 1
        while tokens > self.budget and n:
            group = self._left[:n]
            ids = [self._ids[i] for i in group]
            forest = grow(ids, self._usable(group))
            tokens = len(forest.ids)
            n = min(n - 1, max(1, n * self.budget // max(1, tokens)))
        self._taken(len(group))
        places = zip(group, forest.places, strict=True)
        response = [at[self._mask[i][: len(at)]] - len(forest.held) for i, at in places]
        alike = min(common(ids[-1], self._ids[self._left[0]]), HELD) if self._left else 0
        self._held = ids[-1][: alike if alike >= SHARED else 0]
        keep = torch.from_numpy(forest.places[-1][: len(self._held)])
        return self._made(group, torch.from_numpy(forest.ids).unsqueeze(0), None, forest, keep, response)

    def _usable(self, group: Sequence[int]) -> I64:
        """The held tokens up to the first one that is a response token of a window: its vector is asked for again."""
        usable, alike = len(self._held), len(self._held)
        for i in group:
            alike = min(alike, common(self._held, self._ids[i]))
            if (first := int(self._mask[i].argmax())) < alike:
                usable = min(usable, first)
        return self._held[: usable if usable >= SHARED else 0]

    def _padded(self, group: Sequence[int]) -> Pass:
        width = max(len(self._ids[i]) for i in group)
        ids = torch.full((len(group), width), self._pad_id, dtype=torch.int64)
        attention = torch.zeros((len(group), width), dtype=torch.int64)
        response = []
        for b, i in enumerate(group):
            n = len(self._ids[i])
            ids[b, :n] = torch.from_numpy(self._ids[i])
            attention[b, :n] = 1
            response.append(np.flatnonzero(self._mask[i]) + b * width)
        return self._made(group, ids, attention, None, torch.zeros(0, dtype=torch.int64), response)

    def _made(
        self, group: Sequence[int], ids: torch.Tensor, attention: torch.Tensor | None, forest: Forest | None,
        keep: torch.Tensor, response: Sequence[I64],
    ) -> Pass:  # fmt: skip
        counts = torch.tensor([len(each) for each in response])
        at = torch.from_numpy(np.concatenate(response))
        return Pass(tuple(group), ids, attention, forest, keep, at, counts, sum(self._sizes[i] for i in group))
