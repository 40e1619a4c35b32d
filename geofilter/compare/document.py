"""What `geofilter compare` says: compare.json."""

from __future__ import annotations

from typing import TypedDict

FORMAT = 1


class Side(TypedDict):
    """One of the two runs."""

    run: str
    data: list[str]
    rows: int
    """that are scored"""
    shared: int
    """of them, rows whose bytes the other run has too"""
    flagged: int
    """from the 99th percentile of ordinary chat on"""
    score: float
    """mean"""


class Example(TypedDict):
    """A row, of the run that has more of what it is an example of."""

    file: str
    line: int
    text: str
    """beginning of its response"""


class Change(TypedDict):
    """A part of the rows in either run."""

    name: str
    before: float
    """share of the first run's rows"""
    after: float
    difference: float
    interval: list[float]
    """95 % for all that are compared of this kind together, see `figures.changes`"""
    clear: bool
    """it does not reach 0"""
    examples: list[Example]


class FeatureChange(Change):
    """A feature; its shares are those of the rows in which it fires."""

    feature: int
    strength: float
    """difference of the mean log activations, in standard deviations over rows"""
    strength_interval: list[float]
    toxic: list[str]
    """banks of whose toxic features it is one"""


class Comparison(TypedDict):
    """compare.json."""

    format: int
    sentence: str
    before: Side
    after: Side
    flagged: Change | None
    """None where the runs were scored under other banks"""
    topics: list[Change]
    """all, the largest difference first; empty where the banks are others or know none"""
    groups: list[Change]
    """of rows that are about the same, those that differ clearly, the largest difference first; ten at most"""
    groups_clear: int
    features: list[FeatureChange]
    """those that differ clearly, the largest difference of strength first"""
    features_clear: int
    """how many do, of those that say what a row is about"""
    common_clear: int
    """and of tone and punctuation, which are not listed"""
    notes: list[str]
