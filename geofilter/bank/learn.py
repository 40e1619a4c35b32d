"""A bank from labelled rows whose features are known: learnt, and checked on held-out rows. No model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from geofilter.arrays import F32
from geofilter.bank.about import BankMeta, BankTarget
from geofilter.bank.background import Background
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import N_RANDOM_BANKS, closeness, effect_sizes, random_weights, strongest
from geofilter.bank.ridge import Ridge, shuffled
from geofilter.bank.topics import Topics, usable
from geofilter.bank.validate import validate
from geofilter.version import __version__


def learn(
    name: str, target: BankTarget, directions: F32, examples: Examples, reference: Pooled, options: LearnOptions
) -> Bank:
    """Cross-validate a bank, then learn it from all of the rows.

    Args:
        directions: (d_sae, d_in) unit decoder directions.
        reference: ordinary rows, see `fit`.

    Raises:
        BankError: the two sides do not differ.
    """
    made: BankMeta = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "geofilter": __version__,
        "priors": [p.name for p in options.priors],
        "evaluation": validate(directions, examples, reference, options),
    }
    return fit(name, target, directions, examples, reference, replace(options, meta={**options.meta, **made}))


def fit(
    name: str, target: BankTarget, directions: F32, examples: Examples, reference: Pooled, options: LearnOptions
) -> Bank:
    """Learn a bank's weights and choose its features from labelled rows; compute everything that scoring needs.

    Args:
        directions: (d_sae, d_in) unit decoder directions.
        reference: ordinary rows; their mean and sd are the background.

    Raises:
        BankError: the two sides do not differ.
    """
    d_sae = len(directions)
    rows, bad = examples.pooled, examples.bad
    groups = examples.groups if options.centred else None
    effect = effect_sizes(rows, bad, d_sae)
    toxic, aligned = strongest(effect, min(options.size, d_sae // 8))
    live = np.unique(np.concatenate([rows.indices, reference.indices]))
    live = live[np.linalg.norm(directions[live], axis=1) > 0]
    residual = rows.residual.astype(np.float32)
    dense = residual[bad].mean(0) - residual[~bad].mean(0)
    background = Background.of(reference, d_sae)
    learner = Ridge(rows, background, groups, options.prior_weights, reference)
    kinds = examples.kinds or [""] * len(bad)
    of_bad = [kind for kind, is_bad in zip(kinds, bad, strict=True) if is_bad]
    return Bank(
        name=name,
        target=target,
        toxic=toxic,
        aligned=aligned,
        effect=effect,
        weights=learner.weights(np.where(bad, 1.0, -1.0)),
        shuffled=Ridge(rows, background, groups).weights(shuffled(bad, groups, N_RANDOM_BANKS, options.seed)),
        closeness=closeness(directions, toxic, aligned),
        random=random_weights(directions, live, len(toxic), len(aligned), options.seed),
        background=background,
        rate=np.zeros(d_sae, np.float32) if options.rate is None else options.rate,
        content=np.ones(d_sae, np.float32) if options.content is None else options.content,
        dense=(dense / max(float(np.linalg.norm(dense)), 1e-12)).astype(np.float32),
        reference=reference,
        topics=Topics.of(rows.take(np.flatnonzero(bad)), of_bad, usable(kinds, bad)[0], background),
        labels=options.labels,
        meta=options.meta,
    )
