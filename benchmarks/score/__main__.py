"""What scores find: one protocol for every scorer and control; writes WORK/power.json and WORK/power.md.

    python -m benchmarks.score --data ../shared/data --work WORK

From the repository's root. Rows are encoded once, by ordinary scans that are kept in WORK (20 minutes on two cores);
after that a run takes a few minutes. Development rows and rows set aside are reported in tables of their own.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.score import labels, tables, verdicts
from benchmarks.score.candidates import Context, by_seeds, context, without
from benchmarks.score.intervals import Scored, figures
from benchmarks.score.sets import MODEL, SETS, Labelled, read
from examples.evaluation_sets import draw_seeds
from geofilter.bank.bank import built_in_sources
from geofilter.bank.scorer import Scorer
from geofilter.build.build import BUILT_IN
from geofilter.rows.style import style_features
from geofilter.run.power import assess
from geofilter.stats import auroc
from geofilter.version import __version__

SEEDS = (10, 30, 100)
DRAWS = 5
MOST = 0.6
"""share of a set's rows that may be seeds; a larger number is left out"""


def seeded(known: Context, data: Labelled, n: int) -> dict:
    """Mean of the draws: every candidate fitted on the same n rows a side, scored on the rest."""
    draws = []
    for draw in range(DRAWS):
        seeds, rest = draw_seeds(data, n, draw)
        draws.append(Scored(rest, by_seeds(known, data.take(seeds), data.take(rest), draw)))
    against = {"ridge": "bag of words", "ridge, no prior": "bag of words", "contrast": "bag of words"}
    return figures(draws, data.bad, data.group, against)


def unlabelled(known: Context, data: Labelled) -> dict:
    """Every built-in bank on all rows; no label is used but to count."""
    rows = np.arange(len(data.rows))
    style = np.stack([style_features(t) for t in data.texts])
    out = {"controls": figures([Scored(rows, without(data))], data.bad, data.group, {})}
    for name, bank in known.built_in.items():
        scorers = {name: Scorer(bank, name) for name in ("ridge", "contrast")}
        scores = {name: s.standard(data.pooled, [""] * len(rows)) for name, s in scorers.items()}
        null = scorers["ridge"].null_scores(data.pooled)
        each = [auroc(null[:, j], data.bad) for j in range(null.shape[1])]
        out[name] = {
            **figures([Scored(rows, scores)], data.bad, data.group, {}),
            "random banks": [round(float(f(each)), 3) for f in (min, np.mean, max)],
            "said": assess(bank, scores["ridge"], null, style)["verdict"],
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    known = context()
    results: dict[str, dict] = {"development": {}, "set aside": {}}
    parts: dict[str, dict[str, Labelled]] = {part: {} for part in results}
    for name in SETS:
        whole = read(name, args.data, args.work)
        for part, aside in (("development", False), ("set aside", True)):
            data = parts[part][name] = whole.part(aside)
            results[part][name] = {
                "rows": {"bad": int(data.bad.sum()), "good": int((~data.bad).sum())},
                "unlabelled": unlabelled(known, data),
                "seeds": {
                    str(n): seeded(known, data, n) for n in SEEDS if n <= MOST * min(data.bad.sum(), (~data.bad).sum())
                },
            }
            print(name, part, json.dumps(results[part][name]["seeds"].get("30", {}).get("ridge")), flush=True)
    report = {
        "geofilter": __version__,
        "model": MODEL,
        "hook": known.hook,
        "banks": {name: bank.meta["evaluation"] for name, bank in known.built_in.items()},
        "sources": {name: built_in_sources(name) for name in BUILT_IN},
        "sets": results,
        "verdicts": verdicts.report(
            verdicts.cases(known, parts["development"], range(DRAWS - 2)),
            verdicts.cases(known, parts["set aside"], range(DRAWS - 2, DRAWS)),
        ),
        "labels": labels.report(known, args.data, args.work),
    }
    (args.work / "power.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (args.work / "power.md").write_text(tables.markdown(report), "utf-8")


if __name__ == "__main__":
    main()
