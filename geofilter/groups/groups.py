"""The removed rows of a cut, and the highest of the kept ones, in groups of what they are about.

Groups are those of the amount that was cut, whatever groups are kept or removed besides: so a group has the same number
before and after. Removed ones are numbered first, the largest first, then those of the kept rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geofilter.arrays import I32, Bools, Digests, Positions
from geofilter.cut.cut import Selection
from geofilter.errors import InputError
from geofilter.groups.cluster import assigned, by_hash, centroids, duplicates
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
    of: I32
    """(n,) the number of each scored row's group; 0 for none"""
    others: Positions
    """kept rows whose words the groups are held against"""

    @classmethod
    def none(cls, n: int) -> Groups:
        """No groups, of n scored rows."""
        return cls([], np.zeros(n, np.int32), np.zeros(0, np.int64))

    @classmethod
    def find(cls, selection: Selection) -> Groups:
        """Those of a cut; none where the run has no vectors of its rows.

        Raises:
            RunError: the vectors are damaged.
        """
        run, order, hashes = selection.run, selection.order(), selection.arrays["sha256"]
        stored = Vectors.of(run)
        if stored is None or not len(order):
            return cls.none(len(order))
        removed = selection.cut.base.removed(selection.arrays["score"], selection.arrays["percentile"], order)
        gone, stay = order[removed[order]], order[~removed[order]]
        found = _groups_of(gone, True, stored.rows, hashes, 0)
        found += _groups_of(stay[: min(len(gone), MOST_KEPT)], False, stored.rows, hashes, len(found))
        of = np.zeros(len(order), np.int32)
        for group in found:
            of[group.positions] = group.number
        others = stay[of[stay] == 0]
        return cls(found, of, np.sort(others[by_hash(hashes[others], OTHERS)]))

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


def _groups_of(
    positions: Positions, removed: bool, vectors: npt.NDArray[np.float16], hashes: Digests, before: int
) -> list[Group]:
    """Groups of some rows, given the highest score first; numbered from `before` + 1 on."""
    if not len(positions):
        return []
    x, own = vectors[positions], hashes[positions]
    found = centroids(x, own)
    of = assigned(x, found)
    again: Bools = duplicates(x, of)
    sizes = np.bincount(of, minlength=len(found))
    # Of equal size the one with the highest row comes first.
    first = np.array([int((of == c).argmax()) for c in range(len(found))])
    out: list[Group] = []
    for c in sorted(range(len(found)), key=lambda c: (-sizes[c], first[c])):
        if not sizes[c]:
            continue
        mine = np.flatnonzero(of == c)
        near = x[mine].astype(np.float32) @ found[c]
        # Near-duplicates show nothing new; among equals the hash decides, not the place.
        ranked = mine[np.lexsort((own[mine, 0], -near, again[mine]))]
        out.append(
            Group(
                number=before + len(out) + 1,
                removed=removed,
                positions=positions[mine],
                examples=positions[ranked[:EXAMPLES]],
                sample=positions[mine[by_hash(own[mine], READ)]],
                duplicates=int(again[mine].sum()),
            )
        )
    return out
