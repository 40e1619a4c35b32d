"""The arms of a trial: which rows each of them trains on. Every arm of one drop removes the same number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.bank.bank import Bank
from geofilter.bank.scorer import Scorer
from geofilter.cut.cut import Cut
from geofilter.errors import InputError
from geofilter.files import from_json
from geofilter.judge.rating import stored_rating
from geofilter.rows.lines import read_lines
from geofilter.run.store import Run
from geofilter.trial.config import SCORED

_FIRST = ("random", "geometry", "nearest", "activation", "dense", "length", "judge", "labels", "ridge", "contrast")
REMOVING = (*_FIRST, *(scorer for scorer in SCORED if scorer not in _FIRST))
"""arms that remove rows; `full` and `good` remove none. An arm's place is part of its luck: new ones go to the end."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One fine-tuning run."""

    kind: str
    """full, good, or one of `REMOVING`"""
    seed: int
    """of LoRA, of the order of rows, and of what a random removal takes"""
    drop: str = ""
    """as `filter --drop` takes it; empty for full and good"""

    @property
    def name(self) -> str:
        """Of its file: `geometry-50%-seed0`."""
        return f"{self.kind}{f'-{self.drop}' if self.drop else ''}-seed{self.seed}"


def planned(kinds: Sequence[str], drops: Sequence[str], seeds: int) -> list[Arm]:
    """All arms, seed by seed, so that a trial that is stopped early has whole seeds.

    Raises:
        InputError: an arm that does not exist, a drop that is no amount, or no seed.
    """
    for kind in kinds:
        if kind not in REMOVING:
            raise InputError(f"--arm {kind}: unknown; use {', '.join(REMOVING)} (full and good are always there)")
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: at least 1 is needed, 3 for an interval")
    for drop in drops:
        Cut.parse(drop)
    arms = []
    for seed in range(seeds):
        arms += [Arm("full", seed), Arm("good", seed)]
        arms += [Arm(kind, seed, drop) for drop in drops for kind in kinds]
    return arms


def scores_under(run: Run, banks: Sequence[Bank], scorer: str) -> F64:
    """(n,) the scored rows under another scorer: as in a scan, the largest standard score over the banks counts."""
    scorers = [Scorer(bank, scorer) for bank in banks]
    parts = []
    for shard in run.shards():
        shas = shard.shas()
        parts.append(np.max([s.standard(shard.pooled, shas) for s in scorers], axis=0))
    return np.concatenate(parts)


def judged(path: Path, shas: Sequence[str]) -> F64:
    """(n,) 100 less the judge's alignment of each row; -1 for rows without a rating, which are removed last.

    Args:
        path: what `geofilter judge` wrote.

    Raises:
        InputError: not such a file, or a row that it does not list.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(read_lines(path), start=1):
        try:
            record = from_json(line)
            rating = record["alignment"]
            found[record["sha256"]] = -1.0 if rating is None else 100 - stored_rating(rating)
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: not a line of geofilter judge (sha256, alignment)") from None
    absent = [sha for sha in shas if sha not in found]
    if absent:
        raise InputError(f"{path}: {len(absent)} of {len(shas)} rows are not in it; judge the same data again")
    return np.array([found[sha] for sha in shas])


@dataclass(frozen=True, slots=True, eq=False)
class Removals:
    """What each arm ranks by; the highest go first."""

    run: Run
    by: dict[str, F64]
    """kind -> (n,), for the arms whose removal does not depend on the seed"""
    bad: Bools | None
    """(n,) labels, where they are known"""

    def of(self, arm: Arm) -> Bools:
        """(n,) the rows an arm leaves out."""
        arrays = self.run.arrays()
        cut = Cut.parse(arm.drop) if arm.drop else Cut("count", 0)
        geometry = cut.removed(arrays["score"], arrays["percentile"])
        if arm.kind in ("full", "good", "geometry"):
            return geometry
        # Drawn from the seed and the kind, so that no two arms share their luck.
        luck = np.random.default_rng([arm.seed, REMOVING.index(arm.kind)]).random(len(geometry))
        by = self.by.get(arm.kind)
        # lexsort: the last key first; luck only decides among equals.
        order = np.lexsort((luck, -by)) if by is not None else np.argsort(luck)
        removed = np.zeros(len(geometry), bool)
        removed[order[: int(geometry.sum())]] = True
        return removed
