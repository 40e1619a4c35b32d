"""Does a model compute of a forest of windows what it computes of each window? Tried on a few tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from geofilter.encode.forest import SHARED
from geofilter.encode.passes import Pass, Passes
from geofilter.encode.tokens import Window

FULL, HALF = 1e-3, 0.1
"""largest relative difference of a vector in float32, and the median one in half precision, which alone would let a
model pass that mixes tokens a little by other means: so there no window may change with the tokens of another
"""
OWN = 4
"""tokens at the end of each window that is tried which are its own"""


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
    off = _differences(forest, plain)
    if plain.dtype == torch.float32:
        return bool(off.max() <= FULL)
    return bool(off.median() <= HALF and _leak(read, windows, size).median() <= FULL)


def _differences(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """(n,) relative ones of vectors (n, d)."""
    off: torch.Tensor = (found - expected).float().norm(dim=1) / expected.float().norm(dim=1)
    return off


def _leak(read: Callable[[Pass], torch.Tensor], windows: list[Window], size: int) -> torch.Tensor:
    """(n,) how much the vectors of the windows' own tokens change when those of the first window do.

    Not at all where no window sees another: what is computed of each is the same to the bit, but for experts that get
    more or fewer tokens at once.
    """
    (each,) = Passes(windows, sum(len(window.ids) for window in windows), 0, forests=True)
    assert each.forest is not None
    ids, own = each.input_ids.clone(), torch.from_numpy(each.forest.places[0][-OWN:])
    ids[0, own] = (ids[0, own] + 1) % size
    parts = zip(*(read(one).split(each.counts.tolist()) for one in (replace(each, input_ids=ids), each)), strict=True)
    return torch.cat([_differences(found[-OWN:], expected[-OWN:]) for found, expected in list(parts)[1:]])


def _windows(size: int) -> list[Window]:
    """Short ones, so that most tokens stand near others of another window; some begin alike."""
    rng = np.random.default_rng(0)
    start = rng.integers(size, size=SHARED + 2).tolist()
    ends = [rng.integers(size, size=OWN).tolist() for _ in range(6)]
    rows = [[*start, *end] for end in ends[:4]] + ends[4:]
    return [Window(tuple(ids), (False, *(True,) * (len(ids) - 1))) for ids in rows]


def _vectors(read: Callable[[Pass], torch.Tensor], windows: list[Window], *, forests: bool) -> torch.Tensor:
    """(tokens, d_in) at the highest hook, window by window."""
    found: dict[int, torch.Tensor] = {}
    for each in Passes(windows, 30, 0, forests=forests):  # several, so that they begin with what the last one held
        parts = read(each).split(each.counts.tolist())
        found.update(zip(each.windows, parts, strict=True))
    return torch.cat([found[i] for i in range(len(windows))])
