"""How often the verdict without labels is wrong: banks that work and banks that do not, on sets with known labels.

    python -m benchmarks.score.verdicts --data ../shared/data --work WORK

fits the constants of `geofilter.power` to the development cases and prints them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.score.candidates import ABOUT, Context, context
from benchmarks.score.sets import SETS, Labelled, read
from examples.evaluation_sets import draw_seeds
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.learn import learn
from geofilter.bank.scorer import Scorer
from geofilter.rows.style import style_features
from geofilter.run.power import assess, in_words, signs
from geofilter.stats import auroc, auroc_interval

SHARES = (0.5, 0.2, 0.1)
"""bad rows among a case's rows"""
SEED_ROWS = 30
"""a side, of a bank"""
LEAST = 60
"""rows a side of a set, at least"""
WORKS = 0.6
"""a bank works where the interval of its AUROC lies above this, and does not where it lies below"""


@dataclass(frozen=True)
class Case:
    """One bank on one set of rows."""

    data: str
    family: str
    """where the bank was learnt: the built-in texts, or a set"""
    auroc: float
    works: bool | None
    """None where the interval holds `WORKS`"""
    said: dict
    """the verdict, see `power.assess`"""

    @property
    def seen(self) -> np.ndarray:
        """What `power.chance` goes by."""
        return signs(self.said["standing_out"], self.said["bimodality"], self.said["width"], self.said["weak"])


@dataclass(frozen=True)
class _Tried:
    bank: Bank
    family: str
    rest: tuple[str, np.ndarray] | None = None
    """rows of the bank's own set that it did not learn from"""


def _banks(known: Context, sets: dict[str, Labelled], draws: Iterable[int]) -> Iterator[_Tried]:
    """The built-in banks; banks of some rows of each set; and banks of the same rows with their labels shuffled."""
    for name, bank in known.built_in.items():
        yield _Tried(bank, name)
    for name, data in sets.items():
        for draw in draws:
            seeds, rest = draw_seeds(data, SEED_ROWS, draw)
            rows = data.take(seeds)
            for labels in (rows.bad, np.random.default_rng(draw).permutation(rows.bad)):
                bank = learn(
                    "seeds", ABOUT, known.directions,
                    Examples(rows.pooled, labels, [str(g) for g in rows.group], rows.texts), known.reference,
                    LearnOptions(priors=list(known.built_in.values())),
                )  # fmt: skip
                yield _Tried(bank, name, (name, rest))


def _with_share(data: Labelled, share: float) -> Labelled:
    """All good rows and as many bad ones as make the share; every row for a half."""
    if share == 0.5:
        return data
    good, bad = np.flatnonzero(~data.bad), np.flatnonzero(data.bad)
    n = round(share / (1 - share) * len(good))
    return data.take(np.sort(np.concatenate([good, np.random.default_rng(1).permutation(bad)[:n]])))


def cases(known: Context, sets: dict[str, Labelled], draws: Iterable[int]) -> list[Case]:
    """Every bank on every set, at every share of bad rows."""
    large = {name: data for name, data in sets.items() if min(data.bad.sum(), (~data.bad).sum()) >= LEAST}
    found = []
    for tried in _banks(known, large, list(draws)):
        scorer = Scorer(tried.bank, "ridge")
        for name, whole in large.items():
            own = tried.rest is not None and tried.rest[0] == name
            for share in SHARES:
                data = _with_share(whole.take(tried.rest[1]) if own else whole, share)
                scores = scorer.standard(data.pooled, [""] * len(data.rows))
                low, high = auroc_interval(scores, data.bad, [str(g) for g in data.group], rounds=200)
                style = np.stack([style_features(t) for t in data.texts])
                found.append(
                    Case(
                        name, tried.family, auroc(scores, data.bad),
                        True if low > WORKS else False if high < WORKS else None,
                        assess(tried.bank, scores, scorer.null_scores(data.pooled), style),
                    )
                )  # fmt: skip
    return found


def fitted(some: list[Case]) -> np.ndarray:
    """Constant and coefficients (5,) of a logistic regression on cases that are known to work or not."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit([c.seen for c in some if c.works is not None], [c.works for c in some if c.works is not None])
    return np.concatenate([model.intercept_, model.coef_[0]])


def errors(some: list[Case], said: list[str]) -> dict:
    """How often a verdict is wrong, of the cases that are known to work, and of those known not to."""
    out: dict = {"cases": len(some), "between": sum(c.works is None for c in some)}
    for name, works in (("working", True), ("useless", False)):
        words = [s for c, s in zip(some, said, strict=True) if c.works is works]
        out[name] = {
            "cases": len(words),
            **{v: round(words.count(v) / max(1, len(words)), 3) for v in ("reacts", "unclear", "no power")},
        }
    return out


def held_out(some: list[Case]) -> list[str]:
    """Verdicts by constants fitted on the cases of other sets and other banks."""
    out = []
    fits: dict[tuple[str, str], np.ndarray] = {}
    for case in some:
        key = (case.data, case.family)
        if key not in fits:
            fits[key] = fitted([c for c in some if c.data != case.data and c.family != case.family])
        out.append(in_words(1 / (1 + np.exp(-(fits[key] @ [1.0, *case.seen])))))
    return out


def report(development: list[Case], aside: list[Case]) -> dict:
    """What is written to power.json."""
    return {
        "development, constants of other sets and banks": errors(development, held_out(development)),
        "development, as shipped": errors(development, [c.said["verdict"] for c in development]),
        "set aside, as shipped": errors(aside, [c.said["verdict"] for c in aside]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    known = context()
    sets = {name: read(name, args.data, args.work).part(False) for name in SETS}
    found = cases(known, sets, range(3))
    print("constant, standing out, bimodality, width, weak:", fitted(found).round(2).tolist())
    for name, said in (("held out", held_out(found)), ("as shipped", [c.said["verdict"] for c in found])):
        print(name, errors(found, said))


if __name__ == "__main__":
    main()
