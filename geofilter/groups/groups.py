"""The removed rows of a cut, and the highest of the kept ones, in groups of what they are about.

Groups are those of the amount that was cut, whatever groups are kept or removed besides: so a group has the same number
before and after. Removed ones are numbered first, the largest first, then those of the kept rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, Bools, Positions
from geofilter.cut.cut import Selection
from geofilter.errors import InputError
from geofilter.groups.cluster import (
    COMPARED,
    SAMPLE,
    Keys,
    centroids,
    duplicates,
    keys_of,
    lowest,
    lowest_of,
    nearest,
)
from geofilter.run.column import Column
from geofilter.run.vectors import Vectors

MOST_KEPT = 1_000
"""kept rows that are put into groups: as many as were removed, at most so many"""
EXAMPLES = 3
"""rows shown of each group, those nearest to its centroid"""
READ = 60
"""rows of each group that its words are taken from"""
OTHERS = 400
"""kept rows that its words are held against"""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows that are about the same."""

    number: int
    """from 1"""
    removed: bool
    """by the amount that was cut"""
    positions: Positions
    """scored rows (0-based), the highest score first"""
    examples: Positions
    """of them, the nearest to the centroid first"""
    sample: Positions
    """of them, those whose words name it"""
    duplicates: int
    """of them, near-duplicates of a higher one"""


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The groups of a cut."""

    groups: Sequence[Group]
    of: npt.NDArray[np.uint8]
    """(n,) the number of each scored row's group; 0 for none"""
    others: Positions
    """kept rows whose words the groups are held against"""

    @classmethod
    def none(cls, n: int) -> Groups:
        """No groups, of n scored rows."""
        return cls([], np.zeros(n, np.uint8), np.zeros(0, np.int64))

    @classmethod
    def find(cls, selection: Selection) -> Groups:
        """Those of a cut; none where the run has no vectors of its rows.

        Raises:
            RunError: the vectors are damaged.
        """
        run, order, hashes = selection.run, selection.order(), selection.columns["sha256"]
        stored = Vectors.of(run)
        if stored is None or not len(order):
            return cls.none(len(order))
        removed = selection.cut.base.removed_of(selection.columns, order)
        gone = order[removed[order]]
        most = min(len(gone), MOST_KEPT)
        found = _groups_of(gone, True, stored.rows, hashes, 0)
        found += _groups_of(order[~removed[order]][:most], False, stored.rows, hashes, len(found))
        of = np.zeros(len(order), np.uint8)
        for group in found:
            of[group.positions] = group.number
        others = ~removed & (of == 0)
        pieces = ((np.flatnonzero(others[here]) + here.start, rows[others[here]]) for here, rows in hashes.pieces())
        return cls(found, of, lowest_of(pieces, OTHERS))

    @property
    def shown(self) -> Positions:
        """Rows that stand for the groups."""
        return np.concatenate([np.zeros(0, np.int64), *(group.examples for group in self.groups)])

    @property
    def watched(self) -> Positions:
        """Rows whose words name the groups, ascending, and those that they are held against."""
        return np.unique(np.concatenate([self.others, *(group.sample for group in self.groups)]))

    def moved(self, keep: Sequence[int], drop: Sequence[int]) -> Positions:
        """The rows of groups that are to be kept and of groups that are to be removed.

        Raises:
            InputError: there is no such group, or it is kept, or removed, anyway.
        """
        by_number = {group.number: group for group in self.groups}
        wanted = []
        for option, numbers, removed in (("--keep-group", keep, True), ("--drop-group", drop, False)):
            for number in dict.fromkeys(numbers):
                group = by_number.get(number)
                if group is None:
                    there = f"1 to {len(by_number)}" if by_number else "none"
                    raise InputError(f"{option} {number}: no such group; the groups of the last report are {there}")
                if group.removed is not removed:
                    state = "kept" if removed else "removed"
                    raise InputError(f"{option} {number}: the rows of this group are {state} by the cut anyway")
                wanted.append(group.positions)
        return np.sort(np.concatenate([np.zeros(0, np.int64), *wanted]))


def _groups_of(positions: Positions, removed: bool, vectors: Column, hashes: Column, before: int) -> list[Group]:
    """Groups of some rows, given the highest score first; numbered from `before` + 1 on."""
    if not len(positions):
        return []
    by_place = np.argsort(positions)
    keys = np.empty(len(positions), np.uint64)
    for which in _batches(by_place):
        keys[which] = keys_of(hashes.take(positions[which]))
    found = centroids(vectors.take(positions[lowest(keys, SAMPLE)]), len(positions))
    of, cosine = np.empty(len(positions), np.uint8), np.empty(len(positions), np.float32)
    for which in _batches(by_place):
        of[which], cosine[which] = nearest(vectors.take(positions[which]), found)
    del by_place
    again: Bools = np.zeros(len(positions), bool)
    again[:COMPARED] = duplicates(vectors.take(positions[:COMPARED]), of[:COMPARED])
    sizes = [np.count_nonzero(of == c) for c in range(len(found))]
    # Of equal size the one with the highest row comes first.
    first = [int((of == c).argmax()) for c in range(len(found))]
    out: list[Group] = []
    for c in sorted(range(len(found)), key=lambda c: (-sizes[c], first[c])):
        if not sizes[c]:
            continue
        mine = np.flatnonzero(of == c)
        out.append(
            Group(
                number=before + len(out) + 1,
                removed=removed,
                positions=positions[mine],
                examples=positions[mine[_nearest_first(cosine[mine], keys[mine], again[mine])]],
                sample=positions[mine[lowest(keys[mine], READ)]],
                duplicates=int(again[mine].sum()),
            )
        )
    return out


def _batches(rows: Positions) -> Iterator[Positions]:
    return (rows[start : start + SAMPLE] for start in range(0, len(rows), SAMPLE))


def _nearest_first(cosine: F32, keys: Keys, again: Bools) -> Positions:
    """The rows of a group that are shown, by their cosines with its centroid.

    Near-duplicates show nothing new; among equals the hash decides, not the place.
    """
    few = np.arange(len(cosine))
    if len(few) > EXAMPLES:  # few are sorted: those that are as near as the last one that is shown
        near = np.where(again, -np.inf, cosine)
        few = np.flatnonzero(near >= np.partition(near, -EXAMPLES)[-EXAMPLES])
    return few[np.lexsort((keys[few] >> 56, -cosine[few], again[few]))][:EXAMPLES]
