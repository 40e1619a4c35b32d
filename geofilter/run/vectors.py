"""What every scored row of a run is about, as a short vector: stored when it is scored, so that rows can be compared
without reading the shards again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geofilter.arrays import F32
from geofilter.bank.features import Pooled
from geofilter.bank.space import F16, Content
from geofilter.errors import RunError
from geofilter.run.column import Column, columns_of
from geofilter.run.names import VECTORS
from geofilter.run.store import Run

ROWS, _CENTRE, _BASIS = "vectors", "centre", "basis"


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """The rows of a run in the space of what they are about, see `bank.space`."""

    rows: Column
    """(n, k) c of each scored row, in input order, in half precision"""
    content: Content
    """what puts other rows into the same space"""

    @classmethod
    def of(cls, run: Run) -> Vectors | None:
        """Those of a finished run; None where it has none, as a version of geofilter before they came has left it.

        Raises:
            RunError: they are damaged.
        """
        from safetensors import SafetensorError

        manifest = run.manifest
        if VECTORS not in manifest["files"]:
            return None
        source = run.source(VECTORS)
        try:
            found, sums = columns_of(source)
            centre, basis, rows = (found[name] for name in (_CENTRE, _BASIS, ROWS))
            centre.check(np.float32, (None,), sums[_CENTRE])
            basis.check(np.float16, (len(centre), None), sums[_BASIS])
            rows.check(np.float16, (manifest["counts"]["scored"], basis.shape[1]), sums[ROWS])
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise run.damaged(VECTORS, f"damaged ({error})") from None
        return cls(rows, Content(centre.whole(), basis.whole()))


def vector_arrays(content: Content) -> tuple[dict[str, tuple[Any, tuple[int]]], dict[str, F32 | F16]]:
    """The arrays of vectors.safetensors: element type and width of `ROWS`, and those that are of no row."""
    return {ROWS: (np.float16, content.basis.shape[1:])}, {_CENTRE: content.centre, _BASIS: content.basis}


def stored(content: F32) -> F16:
    """Vectors (n, k) as they are stored."""
    out: F16 = content.astype(np.float16)
    return out


def differing(vectors: Vectors, pooled: Pooled, start: int) -> int | None:
    """The first of some rows (0-based) whose stored vector is not what its features give; None if there is none.

    Args:
        start: how many rows of the run are before them.
    """
    ours = vectors.content.of(pooled)
    theirs = vectors.rows.read(start, start + len(ours)).astype(np.float32)
    far = np.flatnonzero((np.abs(ours - theirs) > ROUNDING).any(1))
    return int(far[0]) if len(far) else None


ROUNDING = 2e-3
"""difference of two numbers of a vector that is rounding"""


def required(run: Run) -> Vectors:
    """The vectors of a run.

    Raises:
        RunError: it has none, or they are damaged.
    """
    found = Vectors.of(run)
    if found is None:
        raise RunError(f"{run.called}: has no vectors of its rows; the same geofilter scan makes them without a model")
    return found
