"""What every scored row of a run is about, as a short vector: stored when it is scored, so that rows can be compared
without reading the shards again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from geofilter.arrays import F32, check_array
from geofilter.bank.features import Pooled
from geofilter.bank.space import F16, Content
from geofilter.errors import RunError
from geofilter.run.names import VECTORS
from geofilter.run.store import Run
from geofilter.run.tensors import unpacked

ROWS, _CENTRE, _BASIS = "vectors", "centre", "basis"


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """The rows of a run in the space of what they are about, see `bank.space`."""

    rows: F16
    """(n, k) c of each scored row, in input order"""
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
        path = run.believed(VECTORS, manifest["files"])
        try:
            a = unpacked(path)[1]
            check_array(_CENTRE, a[_CENTRE], np.float32)
            check_array(_BASIS, a[_BASIS], np.float16, (len(a[_CENTRE]), None))
            check_array(ROWS, a[ROWS], np.float16, (manifest["counts"]["scored"], a[_BASIS].shape[1]))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise run.damaged(VECTORS, f"damaged ({error})") from None
        return cls(a[ROWS], Content(a[_CENTRE], a[_BASIS]))


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
    theirs = vectors.rows[start : start + len(ours)].astype(np.float32)
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
