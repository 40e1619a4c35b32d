"""A bank from labelled rows whose features are known: learnt, and checked on held-out rows. No model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from geofilter.arrays import F32, Bools
from geofilter.bank import Bank
from geofilter.fitting import SIZE, fit
from geofilter.pooled import Pooled
from geofilter.validate import validate
from geofilter.version import __version__


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
        kinds: (n,) topics of the rows, see `fitting.fit`.
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
