"""What a data set is made of, and how much of each part a cut removes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, Bools
from geofilter.cut.cut import Selection
from geofilter.report.document import RowsPart
from geofilter.report.labelled import PARTS, LabelledParts
from geofilter.rows.keys import SHAPES
from geofilter.rows.style import STYLE
from geofilter.run.column import PIECE, Column

MOST = 12
"""categories of a dimension; the smaller ones are put together"""
ALWAYS = ("label", "source")
"""ways to divide the rows that are shown though another one says the same"""
LENGTHS = (32, 64, 128, 256, 512)
"""upper ends, in response tokens"""
TURNS = (1, 2, 4, 8)
CODE, NUMBERS, LISTS = 0.05, 0.05, 0.3
"""from this share of characters on (of lines for lists) a response looks like code, numbers or a list"""

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Dimension:
    """One way to divide the scored rows."""

    key: str
    title: str
    categories: list[str]
    of: npt.NDArray[np.uint8]
    """(n,) category of each scored row"""
    ordered: bool = False
    """the categories have an order of their own"""

    def information(self, removed: Bools) -> float:
        """How much the category of a row says of whether it is removed, in nats (mutual information)."""
        n, gone = self.counts(np.ones(len(removed), bool)), self.counts(removed)
        joint = np.array([gone, np.subtract(n, gone)], float) / max(1, len(removed))
        apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        seen = joint > 0
        return float((joint[seen] * np.log(joint[seen] / apart[seen])).sum())

    def same_as(self, other: Dimension) -> bool:
        """Whether another one divides the rows in the same way, under whatever names."""
        n, m = len(self.categories), len(other.categories)
        if n != m:
            return False
        pairs = zip(_pieces(self.of), _pieces(other.of), strict=True)
        together = sum((np.bincount(a.astype(np.int64) * m + b, minlength=n * m) for a, b in pairs), np.zeros(n * m))
        return int((together > 0).sum()) == n

    def counts(self, chosen: Bools) -> list[int]:
        """Chosen rows in each category."""
        counted: list[int] = _counted(self.of[chosen], len(self.categories)).tolist()
        return counted

    def table(self, removed: Bools) -> list[RowsPart]:
        """Rows and removed rows of each category."""
        total, gone = self.counts(np.ones(len(removed), bool)), self.counts(removed)
        return [
            {"name": name, "rows": rows, "removed": out}
            for name, rows, out in zip(self.categories, total, gone, strict=True)
        ]


def dimensions(selection: Selection, labelled: LabelledParts | None = None) -> list[Dimension]:
    """Label, source, input, shape, looks, length, turns, bank and topic: where the rows differ, each division once."""
    a, manifest = selection.columns, selection.run.manifest
    found = [
        *([] if labelled is None else [_present("label", "label", list(PARTS), labelled.of)]),
        _occurring("source", "source", [name or "(none given)" for name in manifest["sources"]], a["source"]),
        _occurring("input", "input file", [f["path"] for f in manifest["data"]], a["file"]),
        _occurring("shape", "row shape", list(SHAPES), a["shape"]),
        _looks(a["style"]),
        _binned("length", "response tokens", LENGTHS, a["n_tokens"]),
        _binned("turns", "messages", TURNS, a["n_turns"]),
        _occurring("bank", "scored by bank", [b["name"] for b in manifest["banks"]], a["bank"]),
        # -1 stands for a bank without topics, and -1 is the last name.
        _occurring("topic", "closest topic, if harmful", [*manifest["topics"], "(no topics)"], a["topic"]),
    ]
    told: list[Dimension] = []
    for dimension in found:
        again = dimension.key not in ALWAYS and any(dimension.same_as(other) for other in told)
        if len(dimension.categories) > 1 and not again:
            told.append(dimension)
    return told


def _pieces(of: Labels) -> Iterator[Labels]:
    """Some rows at a time: to count them all at once takes eight bytes of each."""
    return (of[start : start + PIECE] for start in range(0, len(of), PIECE))


def _counted(of: Labels, names: int) -> npt.NDArray[np.int64]:
    return sum((np.bincount(rows, minlength=names) for rows in _pieces(of)), np.zeros(names, np.int64))


def _occurring(key: str, title: str, names: list[str], of: Column) -> Dimension:
    """Categories that occur, most rows first."""
    last = len(names) - 1
    counts = np.zeros(len(names), np.int64)
    for _, rows in of.pieces():
        counts += np.bincount(np.where(rows < 0, last, rows), minlength=len(names))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    shown = order if len(order) <= MOST else order[: MOST - 1]
    number = np.full(len(names), len(shown), np.uint8)
    number[shown] = np.arange(len(shown))
    categories = [names[i] for i in shown]
    if len(order) > len(shown):
        categories.append(f"({len(order) - len(shown)} others)")
    # -1 takes the last one.
    return Dimension(key, title, categories, of.each(np.uint8, lambda rows: number[rows]))


def _binned(key: str, title: str, ends: tuple[int, ...], of: Column) -> Dimension:
    """Ranges that occur, in their order."""
    starts = [1, *(end + 1 for end in ends)]
    names = [str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=False)] + [f"over {ends[-1]}"]
    found = of.each(np.uint8, lambda rows: np.searchsorted(ends, rows))
    return replace(_present(key, title, names, found), ordered=True)


def _looks(style: Column) -> Dimension:
    return _present("looks", "looks like", ["prose", "code", "a list", "numbers"], style.each(np.uint8, _look))


def _look(style: F32) -> Labels:
    code, digits, bullets = (style[:, STYLE.index(name)] for name in ("code", "digits", "bullets"))
    return np.select([code >= CODE, bullets >= LISTS, digits >= NUMBERS], [1, 2, 3], 0)


def _present(key: str, title: str, names: list[str], of: Labels) -> Dimension:
    there = np.flatnonzero(_counted(of, len(names)))
    number = np.zeros(len(names), np.uint8)
    number[there] = np.arange(len(there))
    return Dimension(key, title, [names[i] for i in there], number[of])
