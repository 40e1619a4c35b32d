"""How near a few labels come to labelling everything: rows chosen or drawn, labels right or partly wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.score import pool
from benchmarks.score.candidates import Context, ridge
from benchmarks.score.sets import Labelled
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.ridge import Ridge
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import bag_of_words, group_folds, validate
from geofilter.labels.asking import BATCH
from geofilter.labels.compare import compare
from geofilter.labels.pick import pick_rows
from geofilter.run.labelled import MIN_SIDE
from geofilter.stats import auroc

LABELS = 60
DRAWS = 5
FLIPPED = (0.0, 0.1, 0.2)


def _standard(known: Context, data: Labelled) -> np.ndarray:
    """Scores (n, banks) of a scan."""
    nothing = [""] * len(data.rows)
    return np.column_stack([Scorer(b, "ridge").standard(data.pooled, nothing) for b in known.built_in.values()])


def _chosen(known: Context, data: Labelled, said: np.ndarray, seed: int) -> np.ndarray:
    """Rows that `geofilter label` would show, learning again after each ten."""
    banks = list(known.built_in.values())
    x = banks[0].background.log_matrix(data.pooled)
    names, standard = [bank.name for bank in banks], _standard(known, data)
    taken: list[int] = []
    while len(taken) < LABELS:
        picks = pick_rows(min(BATCH, LABELS - len(taken)), standard, names, lambda rows: x[rows], taken, seed=seed)
        taken += [pick.position for pick in picks]
        labels = said[taken]
        if min(labels.sum(), (~labels).sum()) >= MIN_SIDE:
            own = ridge(known, data.take(np.array(taken)), labels, data)
            names, standard = ["own"], own[:, None]
    return np.array(taken)


def _found(known: Context, data: Labelled, rows: np.ndarray, said: np.ndarray) -> dict[str, float] | None:
    """AUROC over all other rows of what is learnt from the given ones; None with too few labels of a kind."""
    rest = np.setdiff1d(np.arange(len(data.rows)), rows)
    seen, others, labels = data.take(rows), data.take(rest), said[rows]
    if min(labels.sum(), (~labels).sum()) < MIN_SIDE:
        return None
    words = bag_of_words(seen.texts, labels)(others.texts)
    examples = Examples(seen.pooled, labels, [str(g) for g in seen.group], seen.texts)
    options = LearnOptions(priors=list(known.built_in.values()))
    weak = validate(known.directions, examples, known.reference, options)["weak"]
    background = options.priors[0].background
    learner = Ridge(seen.pooled, background, None, options.prior_weights, known.reference)
    compared = compare(learner, labels, examples.groups, _standard(known, seen).max(1))
    scanned = auroc(_standard(known, others).max(1), others.bad)
    learnt = auroc(ridge(known, seen, labels, others), others.bad)
    return {
        "ridge": learnt,
        "scan": scanned,
        "applied": learnt if compared.better and not weak else scanned,
        "bag of words": auroc(words, others.bad),
        "cross-validated": compared.learnt,
        "scan, held out": compared.scan,
        "bad": float(labels.sum()),
    }


def _everything(known: Context, data: Labelled) -> dict[str, float]:
    """Every row labelled: five folds by prompt."""
    held = {name: np.zeros(len(data.rows)) for name in ("ridge", "bag of words")}
    for train, test in group_folds([str(g) for g in data.group], data.bad, 5, 0):
        seen, others = data.take(train), data.take(test)
        held["ridge"][test] = ridge(known, seen, seen.bad, others)
        held["bag of words"][test] = bag_of_words(seen.texts, seen.bad)(others.texts)
    return {name: auroc(score, data.bad) for name, score in held.items()}


def _mean(found: list[dict[str, float] | None]) -> dict:
    usable = [f for f in found if f is not None]
    return {
        "draws": len(usable),
        **{k: round(float(np.mean([f[k] for f in usable])), 3) for k in usable[0]},
        "sd": round(float(np.std([f["ridge"] for f in usable])), 3),
    }


def report(known: Context, data: Path, work: Path) -> dict:
    """What is written to power.json: each kind of row alone, and all of them together."""
    everything, kind = pool.read(data, work)
    out = {}
    for name in (*pool.KINDS, "all kinds together"):
        rows = everything.take(np.flatnonzero(kind == name)) if name in pool.KINDS else everything
        flips = {}
        for share in FLIPPED:
            by_choice, by_chance = [], []
            for draw in range(DRAWS):
                rng = np.random.default_rng([draw, int(100 * share)])
                said = rows.bad ^ (rng.random(len(rows.bad)) < share)
                by_choice.append(_found(known, rows, _chosen(known, rows, said, draw), said))
                drawn = rng.permutation(len(rows.bad))[:LABELS]
                by_chance.append(_found(known, rows, drawn, said))
            flips[str(share)] = {"chosen": _mean(by_choice), "at random": _mean(by_chance)}
        out[name] = {"rows": len(rows.rows), "bad": int(rows.bad.sum()), "all": _everything(known, rows), **flips}
        print(name, out[name], flush=True)
    return out
