"""What scores find: one protocol for every scorer and control; docs/benchmark.md says how to read it and to add one.

    python -m benchmarks.score --work WORK                            the package's own paired texts; own.json, own.md
    python -m benchmarks.score --work WORK --data ../shared/data      and the third-party sets; power.json, power.md

From the repository's root. Rows are encoded once, by ordinary scans that are kept in WORK (20 minutes on two cores for
the third-party sets); after that a run takes a few minutes. Development rows and rows set aside are reported in tables
of their own. --quick takes a few of the package's own texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.score import labels, own, tables, verdicts
from benchmarks.score.candidates import Context, by_seeds, context, without
from benchmarks.score.intervals import Scored, figures
from benchmarks.score.own import WORDS
from benchmarks.score.sets import MODEL, SETS, Labelled, read
from examples.evaluation_sets import draw_seeds
from geofilter.bank.built_in import built_in_sources
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import bag_of_words
from geofilter.build.build import BUILT_IN
from geofilter.rows.shipped import contrast_answers
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
        texts, bad = zip(*contrast_answers(name), strict=True)
        scores[WORDS] = bag_of_words(texts, np.array(bad))(data.texts)
        out[name] = {
            **figures([Scored(rows, scores)], data.bad, data.group, {}),
            "random banks": [round(float(f(each)), 3) for f in (min, np.mean, max)],
            "said": assess(bank, scores["ridge"], null, style)["verdict"],
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the third-party sets")
    parser.add_argument("--quick", action="store_true", help="a few pairs of each topic")
    parser.add_argument("--no-loss", action="store_true", help="leave out the controls that need the whole model")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    known = context()
    found = own.results(known, *own.read(known, args.work, own.FEW if args.quick else None, not args.no_loss))
    (args.work / "own.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.work / "own.md").write_text("\n".join(own.markdown(found)) + "\n", "utf-8")
    print("\n".join(own.markdown(found)), flush=True)
    if args.data is not None:
        third_party(known, args.data, args.work, found, not args.no_loss)


def third_party(known: Context, folder: Path, work: Path, own_texts: dict, loss: bool) -> None:
    """The sets of a folder of third-party rows; writes power.json and power.md."""
    results: dict[str, dict] = {"development": {}, "set aside": {}}
    parts: dict[str, dict[str, Labelled]] = {part: {} for part in results}
    for name in SETS:
        whole = read(name, folder, work, loss)
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
        "labels": labels.report(known, folder, work),
        "own": own_texts,
    }
    (work / "power.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (work / "power.md").write_text(tables.markdown(report), "utf-8")


if __name__ == "__main__":
    main()
