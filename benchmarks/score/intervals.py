"""Intervals of a benchmark: over the rows' groups, with all draws of seeds in every bootstrap sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geofilter.stats import auroc, cluster_bootstrap

ROUNDS = 400


@dataclass(frozen=True)
class Scored:
    """Scores of one draw: of the rows at `position` of the set."""

    position: np.ndarray
    scores: dict[str, np.ndarray]


def interval(values: np.ndarray) -> list[float]:
    """95 % percentile interval, rounded."""
    return [round(float(x), 3) for x in np.nanpercentile(values, [2.5, 97.5])]


def figures(draws: list[Scored], bad: np.ndarray, groups: np.ndarray, against: dict[str, str]) -> dict[str, dict]:
    """Mean AUROC over draws of every candidate, with its interval; differences where asked for.

    A bootstrap sample draws groups of the whole set; every draw is scored on what of it the draw did not learn from.

    Args:
        against: candidate to the control whose AUROC is subtracted.
    """
    names = list(draws[0].scores)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for rows in cluster_bootstrap(groups, ROUNDS):
        times = np.bincount(rows, minlength=len(bad))
        for name in names:
            each = []
            for draw in draws:
                repeated = np.repeat(np.arange(len(draw.position)), times[draw.position])
                each.append(auroc(draw.scores[name][repeated], bad[draw.position[repeated]]))
            samples[name].append(float(np.nanmean(each)))
    out = {}
    for name in names:
        values = [auroc(d.scores[name], bad[d.position]) for d in draws]
        out[name] = {"auroc": round(float(np.mean(values)), 3), "interval": interval(np.array(samples[name]))}
    for name, control in against.items():
        gap = np.array(samples[name]) - np.array(samples[control])
        out[name][f"minus {control}"] = {
            "difference": round(out[name]["auroc"] - out[control]["auroc"], 3),
            "interval": interval(gap),
        }
    return out
