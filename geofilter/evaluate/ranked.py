"""A way of ranking labelled rows."""

from __future__ import annotations

from dataclasses import dataclass

from geofilter.arrays import F64


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """One way of ranking the labelled rows; higher is worse."""

    name: str
    kind: str
    """score: the run's own; bank: one bank of it alone; scorer: another score of the same features; control"""
    score: F64
    """(m,)"""
    fitted: bool = False
    """a control fitted on labels: it has seen what the score has not"""
