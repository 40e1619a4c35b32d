"""Does a bank mean anything on this data? What can be said without labels, said first in every report."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.bank import Bank
from geofilter.metrics import spearman
from geofilter.style import SHOWN, STYLE

F64 = npt.NDArray[np.float64]
TAIL = 0.10
"""share of the rows whose mean standard score is the tail"""
FOLLOWS = 0.5
"""a rank correlation with length or format from this size on counts as following it"""
SAMPLE = 20_000
"""rows at most that the random banks are scored on; evenly spaced over the run"""
REMEDY = "label 20 rows of the same kind a side and run: geofilter bank build --bad BAD --good GOOD"


def tail(standard: F64) -> float:
    """Mean of the highest `TAIL` share of standard scores (one row at least)."""
    n = max(1, round(TAIL * len(standard)))
    return float(np.partition(standard, len(standard) - n)[-n:].mean())


def assess(bank: Bank, standard: F64, null: F64, style: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Compare a bank's scores on a run with those of banks that know nothing, and with length and format.

    Args:
        standard: (n,) the bank's standard scores.
        null: (n, 20) those of its null on the same rows, see `Bank.null`.
        style: (n, 9), see `style.STYLE`.

    Returns:
        A JSON-able verdict; `demonstrated` is True when the tail exceeds that of every random bank, no
        correlation with length or format reaches 0.5, and the bank is not marked weak by its own check.
    """
    own, others = tail(standard), [tail(null[:, j]) for j in range(null.shape[1])]
    follows = {name: spearman(standard, style[:, STYLE.index(name)]) for name in SHOWN}
    most = max(follows, key=lambda name: abs(follows[name]))
    stands_out = own > max(others)
    reasons = []
    if bank.weak:
        reasons.append("its own held-out check did not beat random banks")
    if not stands_out:
        reasons.append(
            f"its highest scores (tail {own:.2f}) do not stand out from 20 random banks (up to {max(others):.2f})"
        )
    if abs(follows[most]) >= FOLLOWS:
        reasons.append(f"its scores follow {most} (rank correlation {follows[most]:+.2f})")
    if reasons:
        text = f"{bank.name} has no demonstrated power on this data: {'; '.join(reasons)}"
    else:
        text = (
            f"{bank.name} reacts to this data: its highest scores (tail {own:.2f}) stand out from 20 random banks (up "
            f"to {max(others):.2f}) and do not follow length or format (most: {most} {follows[most]:+.2f})"
        )
    evaluation = bank.meta.get("evaluation")
    if evaluation:
        low, high = evaluation["interval"]
        text += (
            f". On its own seed rows, held out: AUROC {evaluation['auroc']:.2f} ({low:.2f} to {high:.2f}), "
            f"bag of words {evaluation['bag_of_words']:.2f}"
        )
    return {
        "bank": bank.name,
        "demonstrated": not reasons,
        "tail": round(own, 4),
        "random_tails": [round(t, 4) for t in sorted(others)],
        "stands_out": stands_out,
        "follows": {name: round(value, 4) for name, value in follows.items()},
        "weak": bank.weak,
        "text": text + ".",
    }


def headline(verdicts: list[dict[str, Any]]) -> str:
    """The first line of every report: what the banks showed, and how to learn more."""
    said = " ".join(v["text"] for v in sorted(verdicts, key=lambda v: not v["demonstrated"]))
    if any(v["demonstrated"] for v in verdicts):
        return f"{said} A reaction is no proof: read the removed rows, or {REMEDY}"
    return f"NO DEMONSTRATED POWER. {said} To get power, {REMEDY}"
