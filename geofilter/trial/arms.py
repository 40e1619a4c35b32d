"""The arms of a trial: which rows each of them trains on. Every arm of one drop removes the same number of rows."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.cut.cut import Cut
from geofilter.errors import InputError
from geofilter.run.score_arrays import rank_array
from geofilter.run.store import Run
from geofilter.trial.config import KINDS


@dataclass(frozen=True, slots=True)
class Arm:
    """One fine-tuning run."""

    kind: str
    """one of `config.KINDS`, or the name of another tool's scores"""
    seed: int
    """of LoRA, of the order of rows, and of what a random removal takes"""
    drop: str = ""
    """as `filter --drop` takes it; empty for full and good. Of early the part of the training that is left out"""

    @property
    def name(self) -> str:
        """Of its file: `score-50%-seed0`."""
        return f"{self.kind}{f'-{self.drop}' if self.drop else ''}-seed{self.seed}"


def planned(kinds: Sequence[str], drops: Sequence[str], seeds: int, others: Collection[str] = ()) -> list[Arm]:
    """All arms, seed by seed, so that a trial that is stopped early has whole seeds.

    Args:
        others: names of other tools' scores.

    Raises:
        InputError: an arm that does not exist, a drop that is no amount, or no seed.
    """
    known = (*KINDS[2:], *others)
    for kind in kinds:
        if kind not in known:
            raise InputError(f"--arm {kind}: unknown; use {', '.join(known)} (full and good are always there)")
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: at least 1 is needed, 3 for an interval")
    for drop in drops:
        Cut.parse(drop)
    arms = []
    for seed in range(seeds):
        arms += [Arm("full", seed), Arm("good", seed)]
        arms += [Arm(kind, seed, drop) for drop in drops for kind in kinds]
    return arms


@dataclass(frozen=True, slots=True, eq=False)
class Removals:
    """What each arm ranks by; the highest go first."""

    run: Run
    by: dict[str, F64]
    """kind -> (n,), for the arms whose removal does not depend on the seed"""
    bad: Bools | None
    """(n,) labels, where they are known"""

    def of(self, arm: Arm) -> Bools:
        """(n,) the rows an arm leaves out; of swap those whose answers it looks for others to."""
        name = rank_array(self.run.manifest)
        arrays = self.run.arrays([name, "percentile"])
        if arm.kind in ("full", "good", "early"):
            return np.zeros(len(arrays[name]), bool)
        score = Cut.parse(arm.drop).removed(arrays[name], arrays["percentile"])
        if arm.kind in ("score", "swap"):
            return score
        # Drawn from the seed and the kind, so that no two arms share their luck.
        luck = np.random.default_rng([arm.seed, zlib.crc32(arm.kind.encode())]).random(len(score))
        by = self.by.get(arm.kind)
        # lexsort: the last key first; luck only decides among equals.
        order = np.lexsort((luck, -by)) if by is not None else np.argsort(luck)
        removed = np.zeros(len(score), bool)
        removed[order[: int(score.sum())]] = True
        return removed

    def left_out(self, arm: Arm) -> float:
        """The part of the rows that a cut takes: what early takes of the training."""
        return float(self.of(replace(arm, kind="score")).mean())
