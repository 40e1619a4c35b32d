"""Ways to score rows that the benchmark compares: each is fitted on some labelled rows and scores others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.score.sets import MODEL, Labelled
from geofilter.arrays import F32, F64
from geofilter.bank.bank import Bank
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.learn import fit
from geofilter.bank.linear import Linear
from geofilter.bank.ridge import Ridge
from geofilter.bank.scorer import Scorer
from geofilter.bank.validate import bag_of_words, style_model
from geofilter.build.banks import bank_folder_for
from geofilter.build.build import BUILT_IN
from geofilter.config import TargetChoice
from geofilter.target.resolve import resolve
from geofilter.target.sae_folder import unit_decoder

LOSS = ("loss per token", "loss per token, no question")
ABOUT = {"name": "smollm2-135m", "fingerprint": "", "hook": "", "d_sae": 0}


@dataclass(frozen=True)
class Context:
    """What does not depend on the labelled rows."""

    directions: F32
    built_in: dict[str, Bank]
    hook: str

    @property
    def priors(self) -> F32:
        """(d_sae, 2) weights of the built-in banks."""
        return np.column_stack([bank.weights for bank in self.built_in.values()])

    @property
    def reference(self):
        """Ordinary rows."""
        return next(iter(self.built_in.values())).reference


def context() -> Context:
    """Of the embedded target."""
    target = resolve(TargetChoice(MODEL))
    built_in = {name: Bank.load(bank_folder_for(name, target, "float32"), target.fingerprint) for name in BUILT_IN}
    return Context(unit_decoder(target.sae_dir), built_in, str(target.hook))


Scores = dict[str, F64]


def bank_of(known: Context, seeds: Labelled, draw: int, priors: bool = True) -> Bank:
    """A seed bank, as `geofilter bank build` makes it."""
    return fit(
        "seeds", ABOUT, known.directions, Examples(seeds.pooled, seeds.bad), known.reference,
        LearnOptions(priors=list(known.built_in.values()) if priors else (), seed=draw),
    )  # fmt: skip


def ridge(known: Context, seeds: Labelled, labels: np.ndarray, rows: Labelled) -> F64:
    """The default score of rows under a bank of seed rows with these labels; only what it needs is computed."""
    background = next(iter(known.built_in.values())).background
    learner = Ridge(seeds.pooled, background, None, known.priors, known.reference)
    weights = learner.weights(np.where(labels, 1.0, -1.0))
    return Linear(background, weights.astype(np.float64), "log").scores(rows.pooled)


def by_seeds(known: Context, seeds: Labelled, rest: Labelled, draw: int) -> Scores:
    """Every candidate and control fitted on the same seed rows; scores of the rest."""
    bank = bank_of(known, seeds, draw)
    alone = bank_of(known, seeds, draw, priors=False)
    nothing = [""] * len(rest.rows)
    scores = {
        "ridge": Scorer(bank, "ridge").raw(rest.pooled, nothing),
        "ridge, no prior": Scorer(alone, "ridge").raw(rest.pooled, nothing),
        **{s: Scorer(bank, s).raw(rest.pooled, nothing) for s in ("contrast", "activation", "nearest", "dense")},
        "residuals, ridge": residual_ridge(seeds, rest),
    }
    fits: dict[str, Callable] = {"bag of words": bag_of_words, "style": style_model}
    return scores | {name: f(seeds.texts, seeds.bad)(rest.texts) for name, f in fits.items()} | without(rest)


def without(rest: Labelled) -> Scores:
    """Controls that are fitted on nothing; a higher loss, of less ordinary wording, stands for worse."""
    scores = {"shorter is worse": -rest.pooled.n_tokens.astype(np.float64)}
    if rest.loss is not None:
        scores |= dict(zip(LOSS, rest.loss.T.astype(np.float64), strict=True))
    return scores


def residual_ridge(seeds: Labelled, rest: Labelled) -> F64:
    """Ridge regression on the mean residuals themselves, the penalty chosen by leaving one row out: no SAE."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 13)))
    model.fit(seeds.pooled.residual.astype(np.float64), np.where(seeds.bad, 1.0, -1.0))
    return np.asarray(model.predict(rest.pooled.residual.astype(np.float64)), np.float64)
