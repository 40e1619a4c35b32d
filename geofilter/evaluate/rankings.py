"""What a run's score is set beside: each bank alone, the other scorers, and controls. Stored features, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import N_FOLDS, bag_of_words, group_folds, style_model
from geofilter.config import BANK_SCORERS
from geofilter.evaluate.ranked import Ranked
from geofilter.evaluate.result import RandomBanks
from geofilter.evaluate.wording import bank_word_lines, followed, loss_lines
from geofilter.files import Notify
from geofilter.labels.labelled_rows import Labelled, check_sides
from geofilter.labels.source import Labeller
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.records import Row, read_rows, reading_for
from geofilter.run.banks import changed, find_banks
from geofilter.run.handicap import ROW_SHAPE, bare, largest
from geofilter.run.score_arrays import has_pairs
from geofilter.run.store import Run
from geofilter.stats import auroc

SAME = 1e-3
"""standard deviations that a recomputed score may differ by: rounding of another processor, not another bank"""


def stored(run: Run, rows: Labelled) -> tuple[list[Ranked], list[RandomBanks], list[str]]:
    """The run's score and everything its stored features give.

    Returns:
        lines, the run's own first; a summary of each bank's random banks; notes.

    Raises:
        RunError, BankError: see `find_banks`; a bank that no longer gives the run's scores.
    """
    manifest, arrays = run.manifest, run.arrays()
    scorer, names = manifest["scorer"], [b["name"] for b in manifest["banks"]]
    several = len(names) > 1
    own = f"{scorer}, highest of {len(names)} banks" if several else f"{scorer}, {names[0]}"
    score = arrays["score"][rows.position]
    lines = [Ranked(own, "score", score)]
    if has_pairs(manifest):
        by_difference = arrays["difference"][rows.position]
        lines = [
            Ranked(f"{own}: chosen less rejected", "score", by_difference),
            Ranked(f"{own}: chosen answers alone", "scorer", score),
            Ranked(f"{own}: rejected answers alone, lowest first", "scorer", by_difference - score),
        ]
    details = dict(run.score_lines(rows.position))
    alone = {name: np.array([details[i]["banks"][name]["score"] for i in rows.position.tolist()]) for name in names}
    if several:
        lines += [Ranked(f"{scorer}, {name} alone", "bank", score) for name, score in alone.items()]
    length = arrays["n_tokens"][rows.position].astype(np.float64)
    lengths = [
        Ranked("shorter responses first", "control", -length),
        Ranked("longer responses first", "control", length),
    ]
    wording = loss_lines(run, rows.position)
    lengths += wording
    banks, gone = find_banks(run)
    notes = [f"{text}: other scorers and its random banks are left out." for text in gone]
    if not banks:
        return lines + lengths, [], [*notes, *followed(lines[0], wording)]
    pooled, shas = run.features(rows.position)
    own_scorers = [Scorer(bank, scorer) for bank in banks]
    for s in own_scorers:
        if np.abs(s.standard(pooled, shas) - alone[s.bank.name]).max() > SAME:
            raise changed(s.bank.name)
    if len(banks) == len(names):
        for other in BANK_SCORERS:
            if other != scorer:
                standard = np.stack([Scorer(bank, other).standard(pooled, shas) for bank in banks])
                best = largest(banks, standard, bare(*(arrays[a][rows.position] for a in ROW_SHAPE)))
                lines.append(Ranked(f"{other}, highest of {len(names)} banks" if several else other, "scorer", best))
    lines += lengths
    summary: list[RandomBanks] = []
    for bank, s in zip(banks, own_scorers, strict=True):
        null = s.null_scores(pooled)
        each = np.array([auroc(null[:, j], rows.bad) for j in range(null.shape[1])])
        # The best one is chosen on the very rows it is tested on: a control that is hard on the score.
        name = f"best of {len(each)} random banks" + (f", for {bank.name}" if several else "")
        lines.append(Ranked(name, "control", null[:, int(each.argmax())]))
        low, mean, high = (round(float(v), 4) for v in (each.min(), each.mean(), each.max()))
        summary.append({"bank": bank.name, "n": len(each), "min": low, "mean": mean, "max": high})
    about = {b["name"]: b for b in manifest["banks"]}
    words = bank_word_lines([(bank, about[bank.name]) for bank in banks], rows.texts)
    return lines + words, summary, [*notes, *followed(lines[0], [*wording, *words])]


Fit = Callable[[Sequence[str], Bools], Callable[[Sequence[str]], F64]]
FITTED: dict[str, Fit] = {"length and format": style_model, "bag of words": bag_of_words}


def _of_file(path: Path, labeller: Labeller, without: frozenset[str], reading: Reading) -> tuple[list[str], Bools, int]:
    """Labelled responses of another file, to fit a control on; lines that are no rows are passed over.

    Args:
        without: `Row.content_sha256` of the rows that are tested on; they are left out.
        reading: of the run; the file's rows have its columns, or a known shape.

    Returns:
        responses, their labels (n,), and how many rows were left out because they are tested on.

    Raises:
        InputError: the file cannot be read, or has fewer than five rows on a side.
    """
    texts, bad, shared = [], [], 0
    for row in read_rows(path, reading=reading_for(path, reading)):
        if not isinstance(row, Row) or (label := labeller.of(row)) is None:
            continue
        if row.content_sha256 in without:
            shared += 1
            continue
        texts.append(row.response)
        bad.append(label)
    n_bad = sum(bad)
    seen = f"{shared} of its rows are tested on and left out" if shared else "its rows need the same label field"
    check_sides(f"--across {path}", n_bad, len(bad) - n_bad, seen)
    return texts, np.array(bad), shared


def fitted(
    rows: Labelled,
    labeller: Labeller,
    across: Sequence[Path],
    seed: int,
    notify: Notify,
    reading: Reading = AS_THEY_ARE,
) -> tuple[list[Ranked], list[str]]:
    """Controls that are fitted on labels: within these rows on held-out folds, and on other files' rows.

    Raises:
        InputError: a file of `across` cannot be read or has too few labelled rows.
    """
    lines, notes = [], []
    n = len(rows.bad)
    folds = group_folds(rows.groups, rows.bad, N_FOLDS, seed)
    if sum(len(test) for _, test in folds) < n:
        folds = group_folds([str(i) for i in range(n)], rows.bad, N_FOLDS, seed)
        notes.append(
            "The groups leave a fold without rows to fit on, so the cross-validated controls are split by row: they "
            "are flattered where rows of one group are alike."
        )
    others = []
    for path in across:
        texts, bad, shared = _of_file(path, labeller, rows.contents, reading)
        others.append((path.name, texts, bad))
        if shared:
            notes.append(f"{shared} rows of {path.name} are also in the run: no control is fitted on them.")
    for name, fit in FITTED.items():
        notify(f"fitting a control: {name} ...")
        held = np.full(n, np.nan)
        for train, test in folds:
            held[test] = fit([rows.texts[i] for i in train], rows.bad[train])([rows.texts[i] for i in test])
        lines.append(Ranked(f"{name}, cross-validated", "control", held, fitted=True))
        for file, texts, bad in others:
            lines.append(Ranked(f"{name}, fitted on {file}", "control", fit(texts, bad)(rows.texts), fitted=True))
    return lines, notes
