"""Does a bank mean anything on this data? What can be said without labels, said first in every report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np

from geofilter.arrays import F32, F64, Bools
from geofilter.bank.bank import Bank
from geofilter.rows.style import SHOWN, STYLE
from geofilter.stats import spearman, spread

TAIL = 0.10
"""share of the rows whose mean standard score is the tail"""
SURE = 0.8
"""chance from which on a bank is said to react, and, the other way round, to have no power"""
CONSTANT = -0.56
WEIGHTS = (1.66, 1.80, 2.09, -1.83)
"""of `signs`; logistic regression on the cases of `benchmarks.score.verdicts`, see `chance`"""
LEAST_WIDTH = 0.01
"""a width below it counts as this one"""
FOLLOWS = 0.5
"""a rank correlation with length, format or loss from this size on counts as following it"""
LOSSES = ("loss per token", "loss per token, no prompt")
"""what the columns of `Shard.loss` are called"""
FEW = 50
"""rows below which nothing is said of a bank"""
TOO_FEW = "too few rows"
VERDICTS = ("reacts", "unclear", TOO_FEW, "no power")
"""best first"""
SAMPLE = 20_000
"""rows at most that the random banks are scored on; evenly spaced over the run"""
REMEDY = "label some of these rows: geofilter label"
OTHER_ROWS = "A verdict needs other rows: scan other data with this bank."
MORE_ROWS = f"A verdict needs more rows: scan at least {FEW}."
_LOUD = {"unclear": "POWER UNCLEAR", TOO_FEW: "TOO FEW ROWS", "no power": "NO DEMONSTRATED POWER"}


def tail(standard: F64) -> float:
    """Mean of the highest `TAIL` share of standard scores (one row at least)."""
    n = max(1, round(TAIL * len(standard)))
    return float(np.partition(standard, len(standard) - n)[-n:].mean())


def standing_out(own: float, others: Sequence[float]) -> float:
    """How far the bank's tail lies above those of random banks, in their standard deviations."""
    sd = float(spread(np.array(others)))
    return (own - float(np.mean(others))) / sd if sd > 0 else 0.0


def bimodality(standard: F64) -> float:
    """Sarle's coefficient, (skewness^2 + 1) / kurtosis: 1/3 for a normal distribution, 1 for two points.

    Pfister et al., Frontiers in Psychology 4 (2013), 700, eq. 1, without the correction for few rows. Scores that are
    all equal give 0.
    """
    if not spread(standard):
        return 0.0
    off = standard - standard.mean()  # scipy.stats has both; importing it takes longer than scoring thousands of rows
    square = off**2
    variance = square.mean()
    skewness, kurtosis = (square * off).mean() / variance**1.5, (square**2).mean() / variance**2
    return float((skewness**2 + 1) / kurtosis)


def signs(out: float, shape: float, width: float, weak: bool) -> F64:
    """What `chance` goes by (4,), see there for the arguments.

    sign(out) * log(1 + |out|), shape, log(width), and 1 for a weak bank.
    """
    return np.array([np.sign(out) * np.log1p(abs(out)), shape, np.log(max(width, LEAST_WIDTH)), float(weak)])


def chance(out: float, shape: float, width: float, weak: bool) -> float:
    """Chance that a bank ranks the rows with an AUROC above 0.6, from what can be seen without labels.

    1 / (1 + exp(-x)), x = -0.56 + `signs` @ (1.66, 1.80, 2.09, -1.83). Fitted to cases with known labels: banks of
    six kinds, and such that had learnt from shuffled labels, on sets of six kinds with a tenth to a half of bad rows
    (docs/results.md has how often it is wrong on others).

    Args:
        out: see `standing_out`.
        shape: see `bimodality`.
        width: standard deviation of the standard scores: 1 in ordinary chat.
        weak: the bank's own check on held-out rows failed.
    """
    x = CONSTANT + signs(out, shape, width, weak) @ WEIGHTS
    # No number of cases makes it certain.
    return float(np.clip(1 / (1 + np.exp(-x)), 0.01, 0.99))


def in_words(likely: float) -> str:
    """The verdict that a chance comes to."""
    return "reacts" if likely >= SURE else "no power" if likely <= 1 - SURE else "unclear"


class PowerVerdict(TypedDict):
    """Whether a bank's scores on a run mean anything."""

    bank: str
    verdict: str
    """one of `VERDICTS`"""
    demonstrated: bool
    """True where it reacts"""
    chance: float
    """that the bank ranks these rows, see `chance`"""
    tail: float
    random_tails: list[float]
    """of the 20 random banks, ascending; none where these rows cannot tell"""
    standing_out: float
    bimodality: float
    width: NotRequired[float]
    """standard deviation of its scores, 1 in ordinary chat; earlier versions do not say"""
    follows: dict[str, float]
    """rank correlation with each of `style.SHOWN`, and with each of `LOSSES` where the run has it"""
    weak: bool
    """its own held-out check did not beat random banks"""
    text: str


def loss_known(loss: F32 | F64) -> Bools:
    """Which losses are known; -1 stands for the others."""
    return loss >= 0


def assess(bank: Bank, standard: F64, null: F64, style: F32, loss: F32 | None = None) -> PowerVerdict:
    """Whether a bank's scores on a run mean anything, from what can be seen without labels.

    The verdict is "reacts" when `chance` is 0.8 or more, "no power" when it is 0.2 or less, else "unclear"; "unclear"
    too in place of "reacts" when a correlation with length, format or the loss per token reaches 0.5. On fewer than 50
    rows it is "too few rows", whatever the chance.

    Args:
        standard: (n,) the bank's standard scores, of rows that it was not learnt from.
        null: (n, 20) those of its null on the same rows, see `Scorer.null_scores`.
        style: (n, 9), see `style.STYLE`.
        loss: (n, 2), see `Shard.loss`; None, or (n, 0), where the run has none.
    """
    if not len(standard):
        return _nothing_to_see(bank, 0, "it was learnt from every row")
    if len(standard) > 1 and not spread(standard):
        return _nothing_to_see(bank, len(standard), f"it gives all {len(standard):,} rows the same score")
    own, others = tail(standard), [tail(null[:, j]) for j in range(null.shape[1])]
    follows = {name: spearman(standard, style[:, STYLE.index(name)]) for name in SHOWN}
    for name, column in zip(LOSSES, () if loss is None else loss.T, strict=False):
        if (known := loss_known(column)).any():
            follows[name] = spearman(standard[known], column[known])
    out, shape, width = standing_out(own, others), bimodality(standard), float(spread(standard))
    likely = chance(out, shape, width, bank.weak)
    verdict, caveats = _with_caveats(in_words(likely), bank, follows, len(standard))
    text = _said(bank, verdict, len(standard))
    if verdict != TOO_FEW:
        text += f" (chance {likely:.2f} that its ranking means something here)"
    text += (
        f": its highest scores (tail {own:.2f}; of 20 random banks up to {max(others):.2f}) stand out by {out:.1f} "
        f"standard deviations, its scores have a bimodality of {shape:.2f} (0.33: one bell curve, 1: two separate "
        f"groups) and spread {width:.1f} times as far as those of ordinary chat"
    )
    text += "".join(f"; {caveat}" for caveat in caveats)
    evaluation = bank.meta.get("evaluation")
    if evaluation:
        low, high = evaluation["interval"]
        text += (
            f". On its own seed rows, held out: AUROC {evaluation['auroc']:.2f} ({low:.2f} to {high:.2f}), "
            f"bag of words {evaluation['bag_of_words']:.2f}"
        )
    return {
        "bank": bank.name,
        "verdict": verdict,
        "demonstrated": verdict == "reacts",
        "chance": round(likely, 4),
        "tail": round(own, 4),
        "random_tails": [round(t, 4) for t in sorted(others)],
        "standing_out": round(out, 4),
        "bimodality": round(shape, 4),
        "width": round(width, 4),
        "follows": {name: round(value, 4) for name, value in follows.items()},
        "weak": bank.weak,
        "text": text + ".",
    }


def _with_caveats(verdict: str, bank: Bank, follows: dict[str, float], n: int) -> tuple[str, list[str]]:
    """The verdict on n rows after what speaks against being sure of it, and that in words."""
    caveats = []
    if bank.weak:
        caveats.append("its own held-out check did not beat random banks")
    for names, what in ((SHOWN, "scores follow {}"), (LOSSES, "ranking follows how ordinary the wording is")):
        most = max((name for name in names if name in follows), key=lambda name: abs(follows[name]), default=None)
        if most is not None and abs(follows[most]) >= FOLLOWS:
            of = "" if names is SHOWN else f" with the {most}"
            caveats.append(f"its {what.format(most)} (rank correlation {follows[most]:+.2f}{of})")
            verdict = "unclear" if verdict == "reacts" else verdict
    if n < FEW:
        verdict = TOO_FEW
    return verdict, caveats


def _said(bank: Bank, verdict: str, n: int) -> str:
    if verdict == "reacts":
        return f"{bank.name} reacts to this data"
    if verdict == "no power":
        return f"{bank.name} has no demonstrated power on this data"
    if verdict == TOO_FEW:
        return f"{bank.name}: too few rows to say whether it has power on this data ({n} of at least {FEW})"
    return f"{bank.name}: unclear whether it has power on this data"


def _nothing_to_see(bank: Bank, n: int, why: str) -> PowerVerdict:
    """The verdict where n rows cannot tell."""
    verdict = TOO_FEW if n < FEW else "unclear"
    return {
        "bank": bank.name, "verdict": verdict, "demonstrated": False, "chance": 0.5, "tail": 0.0, "random_tails": [],
        "standing_out": 0.0, "bimodality": 0.0, "width": 0.0, "follows": {}, "weak": bank.weak,
        "text": f"{_said(bank, verdict, n)}: {why}.",
    }  # fmt: skip


def headline(verdicts: Sequence[PowerVerdict]) -> str:
    """The first line of every report: what the banks showed, and how to learn more."""
    said = " ".join(v["text"] for v in sorted(verdicts, key=lambda v: VERDICTS.index(v["verdict"])))
    best = min((v["verdict"] for v in verdicts), key=VERDICTS.index)
    if not any(v["random_tails"] for v in verdicts):
        return f"{_LOUD[best]}. {said} {OTHER_ROWS}"
    if best == "reacts":
        return f"{said} A reaction is no proof: read the removed rows, or {REMEDY}."
    if best == TOO_FEW:
        return f"{_LOUD[best]}. {said} {MORE_ROWS}"
    return f"{_LOUD[best]}. {said} To get power, {REMEDY}."
