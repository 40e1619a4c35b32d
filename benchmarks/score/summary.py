"""One table: what a scan ranks by now, what it ranked by before, and the controls.

    python -m benchmarks.score.summary --work WORK [--data ../shared/data] [--loss]

The paired sets of the package, and with --data the third-party ones, under both built-in banks without any label. WORK
is that of `python -m benchmarks.score`, whose scans are used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.score import own
from benchmarks.score.candidates import Context, context
from benchmarks.score.sets import SETS, Labelled, read
from geofilter.arrays import F64
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import bag_of_words, style_model
from geofilter.run.handicap import largest
from geofilter.stats import auroc
from geofilter.text import markdown_table

HEAD = (
    "set", "before: the largest of two banks", "now", "better single bank", "geometry (contrast)",
    "bag of words, bank's texts", "random banks, highest of 20", "length, the better way", "style, bank's texts",
    "loss per token",
)  # fmt: skip

Fitted = dict[str, Callable[..., F64]]
"""by the bank whose texts it was fitted on"""


def cells(known: Context, rows: Labelled, words: Fitted, style: Fitted) -> list[str]:
    """The figures of a set, in the order of `HEAD`."""
    banks, names = list(known.built_in.values()), [""] * len(rows.rows)
    bare = np.array([not row.prompt for row in rows.rows])
    ridge, contrast = (
        np.stack([Scorer(bank, scorer).standard(rows.pooled, names) for bank in banks])
        for scorer in ("ridge", "contrast")
    )
    of = own.of_shape(known, rows)
    null = Scorer(known.built_in[of], "ridge").null_scores(rows.pooled)
    length = np.array([float(len(text)) for text in rows.texts])
    found = [
        auroc(ridge.max(0), rows.bad),
        auroc(largest(banks, ridge, bare), rows.bad),
        max(auroc(one, rows.bad) for one in ridge),
        auroc(largest(banks, contrast, bare), rows.bad),
        auroc(words[of](rows.texts), rows.bad),
        max(auroc(one, rows.bad) for one in null.T),
        max(auroc(sign * length, rows.bad) for sign in (-1, 1)),
        auroc(style[of](rows.texts), rows.bad),
        *([] if rows.loss is None else [auroc(rows.loss[:, 0], rows.bad)]),
    ]
    return [f"{figure:.2f}" for figure in found] + ["-"] * (len(HEAD) - 1 - len(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the third-party sets")
    parser.add_argument("--loss", action="store_true", help="with loss per token, which reads the whole model")
    given = parser.parse_args()
    known = context()
    paired, texts = own.read(known, given.work, None, given.loss)
    sets = {name: read(name, given.data, given.work, given.loss) for name in SETS} if given.data else {}
    sets |= paired
    words: Fitted = {name: bag_of_words(of.texts, of.bad) for name, of in texts.items()}
    style: Fitted = {name: style_model(of.texts, of.bad) for name, of in texts.items()}
    for part, aside in (("development", False), ("set aside", True)):
        rows = [[name, *cells(known, of.part(aside), words, style)] for name, of in sets.items()]
        print(f"### {part}\n", *markdown_table(HEAD, rows), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
