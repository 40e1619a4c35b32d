"""The package's own paired texts as a benchmark that needs nothing else, and the methods that it compares.

Two kinds of rows, and no method is ever given labels of rows that it scores:

    advice, same question    the shipped answers on health, career and law, under the shipped banks, not made of them
    BANK's texts             contrast texts under banks learnt from other topics: five folds of whole topics within the
                             development topics; topics that are set aside, under a bank of all development topics
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.score.candidates import ABOUT, LOSS, Context, residual_ridge, without
from benchmarks.score.intervals import Scored, figures
from benchmarks.score.sets import Labelled, Source, domains, encoded
from geofilter.arrays import F64
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.learn import fit
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import N_FOLDS, bag_of_words, group_folds, style_model
from geofilter.files import package_data
from geofilter.rows.records import Row, parse_line

ADVICE = "advice, same question"
WORDS = "bag of words, bank's texts"
FEW = 4
"""pairs of each topic of a quick run"""


@dataclass(frozen=True)
class Given:
    """What a method is given to score rows with."""

    known: Context
    bank: Bank
    texts: Labelled
    """labelled rows that the bank was learnt from"""
    rows: Labelled
    """rows to score; their labels are not to be looked at"""


Method = Callable[[Given], F64]


def by(scorer: str) -> Method:
    """A scorer of the tool."""
    return lambda given: Scorer(given.bank, scorer).raw(given.rows.pooled, [""] * len(given.rows.rows))


METHODS: dict[str, Method] = {
    "ridge (default)": by("ridge"),
    "contrast": by("contrast"),
    "nearest": by("nearest"),
    "activation": by("activation"),
    "dense": by("dense"),
    "residuals, ridge": lambda given: residual_ridge(given.texts, given.rows),
}
"""name to (n,) scores of `Given.rows`, higher for worse"""
CONTROLS: dict[str, Method] = {
    WORDS: lambda given: bag_of_words(given.texts.texts, given.texts.bad)(given.rows.texts),
    "style, bank's texts": lambda given: style_model(given.texts.texts, given.texts.bad)(given.rows.texts),
    "shorter is worse": lambda given: without(given.rows)["shorter is worse"],
    LOSS[0]: lambda given: without(given.rows)[LOSS[0]],
    LOSS[1]: lambda given: without(given.rows)[LOSS[1]],
}
"""the same, without features"""


def contrast_sources(name: str, most: int | None) -> Iterator[Source]:
    """The texts of a built-in bank as rows, grouped by topic.

    Args:
        most: pairs of each topic; all if None.
    """
    path, taken = package_data("contrast", f"{name}.jsonl"), {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        pair = json.loads(line)
        taken[pair["topic"]] = taken.get(pair["topic"], 0) + 1
        if most is not None and taken[pair["topic"]] > most:
            continue
        for side in ("bad", "good"):
            record = {"prompt": pair["prompt"], "response": pair[side]} if "prompt" in pair else {"text": pair[side]}
            row = parse_line(json.dumps(record).encode(), path.name, number)
            assert isinstance(row, Row)
            yield Source(row, side == "bad", pair["topic"])


def read(known: Context, work: Path, most: int | None, loss: bool) -> tuple[Labelled, dict[str, Labelled]]:
    """The shipped advice, and the texts of each built-in bank; scanned if they have not been.

    Args:
        most: pairs of each topic of the texts; all if None.
        loss: with loss per token.
    """
    few = "" if most is None else f", {most} of a topic"
    advice = encoded(ADVICE, list(islice(domains(), None if most is None else 30 * most)), work, loss=loss)
    texts = {n: encoded(f"{n}, texts{few}", list(contrast_sources(n, most)), work, loss=loss) for n in known.built_in}
    return advice, texts


def learnt(known: Context, name: str, texts: Labelled) -> Bank:
    """A bank of some texts, as a built-in one is made."""
    examples = Examples(texts.pooled, texts.bad, [str(g) for g in texts.group], texts.texts)
    return fit(name, ABOUT, known.directions, examples, known.reference, LearnOptions(centred=True))


def topics(known: Context, name: str, texts: Labelled, aside: bool) -> Iterator[tuple[Given, np.ndarray]]:
    """What is scored of a bank's texts, and at which places of the part."""
    part, seen = texts.part(aside), texts.part(False)
    if aside:
        folds = [(np.arange(len(seen.rows)), np.arange(len(part.rows)))]
    else:
        folds = group_folds([str(g) for g in part.group], part.bad, N_FOLDS, 0)
    for train, test in folds:
        known_texts = seen.take(train)
        yield Given(known, learnt(known, name, known_texts), known_texts, part.take(test)), test


def scored(given: list[tuple[Given, np.ndarray]], rows: Labelled, methods: Mapping[str, Method]) -> dict[str, dict]:
    """AUROC of each method on the rows of a part, with its interval."""
    scores = {name: np.full(len(rows.rows), np.nan) for name in methods}
    for one, places in given:
        for name, method in methods.items():
            scores[name][places] = method(one)
    return figures([Scored(np.arange(len(rows.rows)), scores)], rows.bad, rows.group, {})


def results(known: Context, advice: Labelled, texts: dict[str, Labelled]) -> dict[str, dict[str, dict[str, dict]]]:
    """Part, set and bank, and method to its figures."""
    methods = METHODS | {n: m for n, m in CONTROLS.items() if advice.loss is not None or n not in LOSS}
    out: dict[str, dict[str, dict[str, dict]]] = {}
    for part, aside in (("development", False), ("set aside", True)):
        here = out[part] = {}
        rows = advice.part(aside)
        for name, bank in known.built_in.items():
            given = [(Given(known, bank, texts[name], rows), np.arange(len(rows.rows)))]
            here[f"{ADVICE}, under {name}"] = scored(given, rows, methods)
        for name, own in texts.items():
            given = list(topics(known, name, own, aside))
            here[f"texts of {name}, other topics"] = scored(given, own.part(aside), methods)
    return out


def markdown(found: dict[str, dict[str, dict[str, dict]]]) -> list[str]:
    """A table a part: methods and controls against sets."""
    lines = []
    for part, sets in found.items():
        lines += [f"### The package's own texts: {part}", ""]
        lines += [f"| | {' | '.join(sets)} |", "|---|" + "---:|" * len(sets)]
        names = list(next(iter(sets.values())))
        for heading, group in (("methods", METHODS), ("controls", CONTROLS)):
            lines.append(f"| **{heading}** |" + " |" * len(sets))
            for name in (n for n in names if n in group):
                cells = [f"{s[name]['auroc']:.2f} ({s[name]['interval'][0]:.2f} to {s[name]['interval'][1]:.2f})"
                         for s in sets.values()]  # fmt: skip
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]
