"""Learning what a bank holds from labelled rows: its features, its weights and what they are judged against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter import geometry, ridge
from geofilter.arrays import F32, I32, Bools
from geofilter.bank import Bank
from geofilter.errors import BankError
from geofilter.geometry import Background
from geofilter.pooled import Pooled
from geofilter.ridge import Ridge
from geofilter.topics import Topics, usable

SIZE = 100
"""features on each side by default"""
N_RANDOM_BANKS = 20


def effect_sizes(pooled: Pooled, bad: Bools, d_sae: int) -> F32:
    """Standardised mean difference (d_sae,) of each feature: (mean bad - mean good) / pooled sd.

    A feature that varies in neither side gets 0.
    """
    sides = [Background.of(pooled.take(np.flatnonzero(side)), d_sae) for side in (bad, ~bad)]
    sd = np.sqrt((sides[0].sd.astype(np.float64) ** 2 + sides[1].sd.astype(np.float64) ** 2) / 2)
    gap = sides[0].mean.astype(np.float64) - sides[1].mean
    return np.divide(gap, sd, out=np.zeros(d_sae), where=sd > 0).astype(np.float32)


def choose(effect: F32, size: int) -> tuple[I32, I32]:
    """The `size` features with the largest effect each way: toxic and aligned, strongest first.

    Raises:
        BankError: nothing differs between the two sides.
    """
    order = np.argsort(-effect, kind="stable")
    toxic = order[:size][effect[order[:size]] > 0]
    aligned = order[::-1][:size][effect[order[::-1][:size]] < 0]
    if not len(toxic) or not len(aligned):
        raise BankError("no feature differs between the bad and the good rows; check that the two files differ")
    return toxic.astype(np.int32), aligned.astype(np.int32)


def fit(
    name: str,
    target: dict[str, Any],
    directions: F32,
    seeds: Pooled,
    bad: Bools,
    reference: Pooled,
    size: int = SIZE,
    labels: Sequence[str] = (),
    meta: dict[str, Any] | None = None,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    priors: F32 | None = None,
    kinds: Sequence[str] | None = None,
) -> Bank:
    """Learn the bank's weights and choose its features from labelled rows; compute everything that scoring needs.

    Args:
        directions: (d_sae, d_in) unit decoder directions.
        seeds: pooled rows, `bad` (n,) True for the toxic side.
        reference: ordinary rows; their mean and sd are the background.
        groups: rows that are compared with each other only, such as the answers to one question; None for all.
        priors: (d_sae, m) weights of other banks that these may build on, see `ridge`.
        kinds: (n,) topics of the rows, "" for none; those with enough rows are told apart, see `topics`.
    """
    d_sae = len(directions)
    effect = effect_sizes(seeds, bad, d_sae)
    toxic, aligned = choose(effect, min(size, d_sae // 8))
    live = np.unique(np.concatenate([seeds.indices, reference.indices]))
    live = live[np.linalg.norm(directions[live], axis=1) > 0]
    residual = seeds.residual.astype(np.float32)
    dense = residual[bad].mean(0) - residual[~bad].mean(0)
    background = Background.of(reference, d_sae)
    learner = Ridge(seeds, background, groups, priors, reference)
    kinds = kinds or [""] * len(bad)
    of_bad = [kind for kind, is_bad in zip(kinds, bad, strict=True) if is_bad]
    return Bank(
        name=name,
        target=target,
        toxic=toxic,
        aligned=aligned,
        effect=effect,
        weights=learner.weights(np.where(bad, 1.0, -1.0)),
        shuffled=Ridge(seeds, background, groups).weights(ridge.shuffled(bad, groups, N_RANDOM_BANKS, seed)),
        closeness=geometry.closeness(directions, toxic, aligned),
        random=random_weights(directions, live, len(toxic), len(aligned), seed),
        background=background,
        dense=(dense / max(float(np.linalg.norm(dense)), 1e-12)).astype(np.float32),
        reference=reference,
        topics=Topics.of(seeds.take(np.flatnonzero(bad)), of_bad, usable(kinds, bad)[0], background),
        labels=labels,
        meta=meta or {},
    )


def random_weights(
    directions: F32, live: npt.NDArray[np.int32], n_toxic: int, n_aligned: int, seed: int, n: int = N_RANDOM_BANKS
) -> F32:
    """Contrast weights (d_sae, n) of banks drawn at random from the live features, sizes as given."""
    rng = np.random.default_rng(seed)
    tables = []
    for _ in range(n):
        drawn = rng.permutation(live)[: n_toxic + n_aligned].astype(np.int32)
        cut = min(n_toxic, len(drawn) // 2)
        tables.append(geometry.closeness(directions, drawn[:cut], drawn[cut:]).contrast)
    return np.stack(tables, axis=1)
