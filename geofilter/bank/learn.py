"""A bank from labelled rows whose features are known: learnt, and checked on held-out rows. No model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from geofilter.arrays import F32, Bools
from geofilter.bank import geometry, ridge
from geofilter.bank.background import Background
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import N_RANDOM_BANKS, SIZE, effect_sizes, random_weights, strongest
from geofilter.bank.ridge import Ridge
from geofilter.bank.topics import Topics, usable
from geofilter.bank.validate import validate
from geofilter.version import __version__


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
    toxic, aligned = strongest(effect, min(size, d_sae // 8))
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


def learn(
    name: str,
    target: dict[str, Any],
    directions: F32,
    seeds: Pooled,
    bad: Bools,
    groups: Sequence[str],
    texts: Sequence[str],
    reference: Pooled,
    *,
    size: int = SIZE,
    labels: Sequence[str],
    centred: bool = False,
    priors: Sequence[Bank] = (),
    kinds: Sequence[str] | None = None,
    meta: dict[str, Any],
) -> Bank:
    """Cross-validate a bank, then learn it from all of the rows.

    Args:
        target: what the bank says it belongs to, see `Bank.target`.
        groups: (n,) rows of one group are never split between learning and checking.
        texts: responses, for the controls.
        labels: (d_sae,) words for every feature.
        centred: rows are compared within their group only.
        priors: banks of the same target whose weights this one may build on.
        kinds: (n,) topics of the rows, see `fit`.
        meta: what else the bank says of itself.

    Raises:
        BankError: the two sides do not differ.
    """
    known = np.column_stack([p.weights for p in priors]) if priors else None
    evaluation = validate(
        directions, seeds, bad, groups, texts, reference, min(size, len(directions) // 8), centred=centred, priors=known
    )
    made = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "geofilter": __version__,
        "priors": [p.name for p in priors],
        "evaluation": evaluation,
    }
    return fit(
        name, target, directions, seeds, bad, reference, size, labels, meta | made,
        groups=groups if centred else None, priors=known, kinds=kinds,
    )  # fmt: skip
