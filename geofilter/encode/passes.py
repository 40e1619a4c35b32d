"""Which windows the model reads together, and how their tokens are laid out for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from geofilter.arrays import I64
from geofilter.encode.forest import SHARED, Forest, common, grow, sort_key
from geofilter.encode.tokens import Tokens


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
    response: torch.Tensor
    """(n,) int64 response tokens in the B x T ones, window by window"""
    counts: torch.Tensor
    """(windows,) int64 response tokens of each"""
    n_tokens: int
    """tokens of the windows"""


class Passes:
    """Divides windows into passes of about `budget` tokens; what lies behind a window's last response token is left
    out, since nothing of the response depends on it.

    As forests, windows that begin alike come together; else those of like length. The division depends on windows and
    budget alone.

    Args:
        forests: lay out passes as forests.
    """

    def __init__(self, windows: Sequence[Tokens], budget: int, pad_id: int, *, forests: bool) -> None:
        self._mask = [np.fromiter(window.mask, bool, len(window.mask)) for window in windows]
        ends = [len(mask) - int(mask[::-1].argmax()) for mask in self._mask]
        self._ids = [np.fromiter(window.ids[:end], np.int64, end) for window, end in zip(windows, ends, strict=True)]
        self._sizes = [len(window.ids) for window in windows]
        self.budget, self._pad_id, self._forests = budget, pad_id, forests
        if forests:
            self._left = sorted(range(len(windows)), key=lambda i: (sort_key(self._ids[i]), i))
        else:
            self._left = sorted(range(len(windows)), key=lambda i: (len(self._ids[i]), i))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.take, None)

    def take(self) -> Pass | None:
        """The next pass; None after the last."""
        if not self._left:
            return None
        n = self._fitting()
        group, self._left = self._left[:n], self._left[n:]
        return self._forest(group) if self._forests else self._padded(group)

    def halve(self, failed: Pass) -> bool:
        """Divide the windows of a pass that needs too much memory, and all that are left, into passes of half its size;
        False where it is of one window.
        """
        if len(failed.windows) == 1:
            return False
        self._left = [*failed.windows, *self._left]
        self.budget = max(1, min(self.budget, failed.input_ids.numel()) // 2)
        return True

    def _fitting(self) -> int:
        """How many of the windows that are left make the next pass; one at least."""
        tokens = 0
        before: I64 | None = None
        for n, i in enumerate(self._left):
            ids = self._ids[i]
            if self._forests:
                alike = 0 if before is None else common(before, ids)
                tokens += len(ids) - (alike if alike >= SHARED else 0)
            else:
                tokens = (n + 1) * len(ids)
            if n and tokens > self.budget:
                return n
            before = ids
        return len(self._left)

    def _forest(self, group: Sequence[int]) -> Pass:
        forest = grow([self._ids[i] for i in group])
        response = [at[self._mask[i][: len(at)]] for i, at in zip(group, forest.places, strict=True)]
        return self._made(group, torch.from_numpy(forest.ids).unsqueeze(0), None, forest, response)

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
        return self._made(group, ids, attention, None, response)

    def _made(
        self, group: Sequence[int], ids: torch.Tensor, attention: torch.Tensor | None, forest: Forest | None,
        response: Sequence[I64],
    ) -> Pass:  # fmt: skip
        counts = torch.tensor([len(each) for each in response])
        at = torch.from_numpy(np.concatenate(response))
        return Pass(tuple(group), ids, attention, forest, at, counts, sum(self._sizes[i] for i in group))
