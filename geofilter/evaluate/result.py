"""What an evaluation says: evaluate.json.

Intervals are 95 % percentile intervals of a bootstrap that draws whole groups of rows. The line of a random order
has none of it: it gives expectations, and as intervals where 95 % of random orders lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from geofilter.labels.labelled_rows import LabelsAbout

FORMAT = 1

Interval = list[float | None]
"""lower and upper end; null where no draw gives a value"""


class DropFigures(TypedDict):
    """The highest scores of the labelled rows dropped."""

    drop: str
    rows: int
    bad: float | None
    by_chance: float | None
    """bad rows that a random drop of as many rows removes in expectation"""
    extra: float | None
    """bad - by_chance"""
    extra_interval: Interval
    precision: float | None
    precision_interval: Interval
    recall: float | None
    recall_interval: Interval


class LineFigures(TypedDict):
    """One way of ranking the labelled rows."""

    name: str
    kind: str
    """score: the run's own; bank: one bank of it alone; scorer: another score of the same features; control"""
    fitted: bool
    """a control that is fitted on labels"""
    auroc: float | None
    auroc_interval: Interval
    auprc: float | None
    """average precision"""
    auprc_interval: Interval
    ahead: float | None
    """AUROC of the run's score less this one's, paired; null for its own"""
    ahead_interval: Interval | None
    drops: list[DropFigures]
    recall_curve: list[float]
    """at 0, 1, ..., 100 % of the labelled rows dropped"""


class RankingVerdict(TypedDict):
    """Does the score beat every control?"""

    text: str
    beats_every_control: bool
    hardest_control: str
    hardest_control_without_labels: str


class Bootstrap(TypedDict):
    """How intervals were drawn."""

    rounds: int
    seed: int
    level: float


class RandomBanks(TypedDict):
    """AUROC of a bank's random banks."""

    bank: str
    n: int
    min: float
    mean: float
    max: float


class WholeRun(TypedDict):
    """What `geofilter filter --drop` removes of the whole run."""

    drop: str
    rows: int
    learnt_from: int
    """rows that a bank was learnt from; the labels of these are left out"""
    labelled: int
    bad: int


class Evaluation(TypedDict):
    """evaluate.json."""

    format: int
    verdict: RankingVerdict
    run: str
    target: str
    scorer: str
    data: list[str]
    labels: LabelsAbout
    bootstrap: Bootstrap
    lines: list[LineFigures]
    """the run's own first"""
    random_banks: list[RandomBanks]
    filter: list[WholeRun]
    notes: list[str]
    geofilter: str
    """version"""


def with_interval(values: Mapping[str, Any], name: str, form: str = ".2f") -> str:
    """A figure that has an interval, as both are printed; a dash where there is none.

    Args:
        values: of a line or a drop; `name` and `{name}_interval` are in it.
    """
    if values[name] is None:
        return "-"
    low, high = values[f"{name}_interval"]
    return f"{values[name]:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")
