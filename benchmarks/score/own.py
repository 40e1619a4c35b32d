"""The project's own paired texts as a benchmark that needs nothing else, and the methods that it compares.

Two kinds of rows, and no method is ever given labels of rows that it scores:

    paired sets     examples/benchmark and the shipped answers on health, career and law, under the shipped banks, which
                    were not made from them
    BANK's texts    contrast texts under banks learnt from other topics: five folds of whole topics within the
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
from geofilter.run.handicap import largest

ADVICE = "advice, same question"
WORDS = "bag of words, bank's texts"
PAIRED = Path(__file__).parents[2] / "examples" / "benchmark"
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
Results = dict[str, tuple[dict[str, dict[str, dict]], dict[str, dict[str, dict]]]]
"""part -> figures of the paired sets and of the banks' texts: set -> method -> AUROC and interval"""


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
BOTH = "both banks, as a scan ranks"


def both(given: Given) -> F64:
    """The score that a scan under the built-in banks gives."""
    banks, rows = list(given.known.built_in.values()), given.rows
    standard = np.stack([Scorer(bank, "ridge").standard(rows.pooled, [""] * len(rows.rows)) for bank in banks])
    return largest(banks, standard, np.array([not row.prompt for row in rows.rows]))


CONTROLS: dict[str, Method] = {
    WORDS: lambda given: bag_of_words(given.texts.texts, given.texts.bad)(given.rows.texts),
    "style, bank's texts": lambda given: style_model(given.texts.texts, given.texts.bad)(given.rows.texts),
    "shorter is worse": lambda given: without(given.rows)["shorter is worse"],
    LOSS[0]: lambda given: without(given.rows)[LOSS[0]],
    LOSS[1]: lambda given: without(given.rows)[LOSS[1]],
}
"""the same, without features"""


def contrast_sources(name: str, most: int | None) -> Iterator[Source]:
    """The texts of a built-in bank as rows, grouped by topic; for `most` see `pairs`."""
    return pairs(package_data("contrast", f"{name}.jsonl"), most)


def pairs(path: Path, most: int | None, *, by_topic: bool = True) -> Iterator[Source]:
    """The two rows of each pair of a file.

    Args:
        most: pairs of each topic; all if None.
        by_topic: rows of one topic are of one group; else those of one pair.
    """
    taken: dict[str, int] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        pair = json.loads(line)
        taken[pair["topic"]] = taken.get(pair["topic"], 0) + 1
        if most is not None and taken[pair["topic"]] > most:
            continue
        for side in ("bad", "good"):
            record = {"prompt": pair["prompt"], "response": pair[side]} if "prompt" in pair else {"text": pair[side]}
            row = parse_line(json.dumps(record).encode(), path.name, number)
            assert isinstance(row, Row)
            yield Source(row, side == "bad", pair["topic"] if by_topic else f"{path.stem} {number}")


def read(known: Context, work: Path, most: int | None, loss: bool) -> tuple[dict[str, Labelled], dict[str, Labelled]]:
    """The paired sets, and the texts of each built-in bank; scanned if they have not been.

    Args:
        most: pairs of each topic; all if None.
        loss: with loss per token.
    """
    few = "" if most is None else f", {most} of a topic"
    sources = {ADVICE: list(islice(domains(), None if most is None else 30 * most))}
    sources |= {
        path.stem.replace("-", " "): list(pairs(path, most, by_topic=False)) for path in sorted(PAIRED.glob("*.jsonl"))
    }
    paired = {name: encoded(f"{name}{few}", rows, work, loss=loss) for name, rows in sources.items()}
    texts = {n: encoded(f"{n}, texts{few}", list(contrast_sources(n, most)), work, loss=loss) for n in known.built_in}
    return paired, texts


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


def results(known: Context, paired: dict[str, Labelled], texts: dict[str, Labelled]) -> Results:
    """The figures of every method, see `Results`."""
    out: Results = {}
    for part, aside in (("development", False), ("set aside", True)):
        of_sets, of_texts = out[part] = {}, {}
        for name, whole in paired.items():
            rows = whole.part(aside)
            bank = of_shape(known, rows)
            given = [(Given(known, known.built_in[bank], texts[bank], rows), np.arange(len(rows.rows)))]
            of_sets[f"{name} ({bank})"] = scored(given, rows, {BOTH: both, **_methods(whole)})
        for name, whole in texts.items():
            given = list(topics(known, name, whole, aside))
            of_texts[f"texts of {name}"] = scored(given, whole.part(aside), _methods(whole))
    return out


def _methods(rows: Labelled) -> dict[str, Method]:
    return METHODS | {n: m for n, m in CONTROLS.items() if rows.loss is not None or n not in LOSS}


def of_shape(known: Context, rows: Labelled) -> str:
    """The built-in bank that was learnt from rows of this shape; the first one where none says so."""
    answers = bool(rows.rows[0].prompt)
    return next((n for n, bank in known.built_in.items() if bank.of_answers == answers), next(iter(known.built_in)))


def markdown(found: Results) -> list[str]:
    """Two tables a part, of the paired sets and of the banks' texts: sets against methods and controls."""
    lines = []
    for part, tables in found.items():
        for said, sets in zip(("Paired texts that no bank was made from", "Topics a bank was not made from"), tables,
                              strict=True):  # fmt: skip
            names = list(next(iter(sets.values())))
            lines += [f"### {said}: {part}", "", f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
            for of, figures_of in sets.items():
                cells = [f"{f['auroc']:.2f} ({f['interval'][0]:.2f} to {f['interval'][1]:.2f})"
                         for f in figures_of.values()]  # fmt: skip
                lines.append(f"| {of} | {' | '.join(cells)} |")
            lines.append("")
    return lines[:-1]
