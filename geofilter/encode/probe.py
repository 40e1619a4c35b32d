"""Does a model compute of a forest of windows what it computes of each window? Tried on a few tokens."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from geofilter.encode.forest import SHARED
from geofilter.encode.passes import Pass, Passes
from geofilter.encode.tokens import Window

FULL, HALF = 1e-3, 0.1
"""largest relative difference of a vector in float32, and the median one in half precision; a model that mixes tokens
by other means than attention is off by tens of percent
"""


def reads_forests(read: Callable[[Pass], torch.Tensor], size: int) -> bool:
    """Whether the model's vectors of windows that stand in one forest are those of the windows alone.

    They are where tokens meet in attention alone, and that as `attention.attend` computes it: not in models with
    linear attention or convolutions.

    Args:
        read: gives the vectors (n, d_in) of a pass's response tokens, in the model's dtype.
        size: tokens that the model has an embedding for.
    """
    windows = _windows(size)
    try:
        forest = _vectors(read, windows, forests=True)
    except Exception:  # of a model that is called otherwise, or whose attention is another
        return False
    plain = _vectors(read, windows, forests=False)
    off = (forest - plain).float().norm(dim=1) / plain.float().norm(dim=1)
    return bool(off.max() <= FULL if plain.dtype == torch.float32 else off.median() <= HALF)


def _windows(size: int) -> list[Window]:
    """Short ones, so that most tokens stand near others of another window; some begin alike."""
    rng = np.random.default_rng(0)
    start = rng.integers(size, size=SHARED + 2).tolist()
    ends = [rng.integers(size, size=4).tolist() for _ in range(6)]
    rows = [[*start, *end] for end in ends[:4]] + ends[4:]
    return [Window(tuple(ids), (False, *(True,) * (len(ids) - 1))) for ids in rows]


def _vectors(read: Callable[[Pass], torch.Tensor], windows: list[Window], *, forests: bool) -> torch.Tensor:
    """(tokens, d_in) at the highest hook, window by window."""
    found: dict[int, torch.Tensor] = {}
    for each in Passes(windows, 30, 0, forests=forests):  # several, so that they begin with what the last one held
        parts = read(each).split(each.counts.tolist())
        found.update(zip(each.windows, parts, strict=True))
    return torch.cat([found[i] for i in range(len(windows))])
