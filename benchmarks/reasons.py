"""How far the reasons of a run's removed rows can be read: names, what they explain, and what they are charged to.

    python -m benchmarks.reasons RUN --drop 25%

From the repository's root, for any run whose scorer has feature shares. No model is needed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from geofilter.bank.geometry import NEAR
from geofilter.bank.scorer import Scorer
from geofilter.bank.words import says_something, words_in
from geofilter.cut.cut import Cut
from geofilter.run.banks import find_banks
from geofilter.run.store import Run


def figures(run: Run, cut: Cut) -> dict[str, float | int]:
    """What the module's docstring says, of the rows that a cut removes."""
    arrays = run.arrays()
    removed = np.flatnonzero(cut.removed(arrays["score"], arrays["percentile"]))
    lines = [line for _, line in run.score_lines(removed)]
    named = [feature for line in lines for feature in line["top_features"]]
    words = np.array([sum(map(says_something, words_in(feature["label"]))) for feature in named])
    called = {bank.name: bank.names for bank in find_banks(run)[0]}
    tried = [feature["feature"] in called[line["bank"]] for line in lines for feature in line["top_features"]]
    explained = np.array([line["explained"] for line in lines])
    near = [feature["near"] for feature in named if feature["near"]]
    return {
        "removed rows": len(lines),
        "reasons": len(named),
        "reasons a row": round(len(named) / len(lines), 2),
        "reasons with a tried name": round(float(np.mean(tried)), 4),
        "reasons named by a word with content": round(float((words >= 1).mean()), 4),
        "reasons named by two or more": round(float((words >= 2).mean()), 4),
        "explained, median": round(float(np.median(explained)), 4),
        "rows of which half is explained": round(float((explained >= 0.5).mean()), 4),
        "tone and punctuation, part of the score, median": round(
            float(np.median([line["common"] / line["score"] for line in lines])), 4
        ),
        "named features, part of the score, median": round(
            float(np.median([sum(f["share"] for f in line["top_features"]) / line["score"] for line in lines])), 4
        ),
        "named features, part of all that speaks for the row, median": round(_of_positive(run, removed, lines), 4),
        "reasons that are a toxic feature of the bank": round(sum(f["toxic"] for f in named) / len(named), 4),
        "reasons near a toxic feature other than themselves": round(len(near) / len(named), 4),
        "of these under the floor": sum(of["cosine"] < NEAR for of in near),
    }


def _of_positive(run: Run, removed: np.ndarray, lines: list) -> float:
    """Median over rows of the named features' part of the sum of all positive shares."""
    scorers = {bank.name: Scorer(bank, run.manifest["scorer"]) for bank in find_banks(run)[0]}
    pooled = run.features(removed)[0]
    parts = []
    for i, line in enumerate(lines):
        shares = scorers[line["bank"]].shares
        if shares is None:
            raise SystemExit("the run's scorer has no feature shares")
        _, share = shares.active(shares.linear.excess(pooled.take(np.array([i]))))
        parts.append(sum(f["share"] for f in line["top_features"]) / share[share > 0].sum())
    return float(np.median(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--drop", default="25%")
    args = parser.parse_args()
    print(json.dumps(figures(Run.open(args.run), Cut.parse(args.drop)), indent=1))


if __name__ == "__main__":
    main()
