"""Does the nearest labelled row share a row's label and topic? The built-in texts, in several spaces, held out.

    python -m benchmarks.neighbours --work WORK

Rows are encoded once (the embedded model, a quarter of an hour on two cores) and kept in WORK. Ten folds, by pair, and
by subject: weights and topics are learnt without the fold, and the nearest rows are looked for among the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from geofilter.arrays import F32, F64, Positions
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.ridge import Ridge
from geofilter.bank.space import HARM, TOPIC, Content, placed
from geofilter.bank.topics import Topics, usable
from geofilter.build.build import encode
from geofilter.build.seeds import Seed, built_in_seeds
from geofilter.config import BUILT_IN, Loading, TargetChoice
from geofilter.encode.reader import FeatureReader
from geofilter.files import package_data
from geofilter.target.resolve import resolve

MODEL, FOLDS = "smollm2-135m", 10


class Rows:
    """The labelled rows of a built-in bank."""

    def __init__(self, name: str, work: Path) -> None:
        self.bank, self.seeds = Bank.load(package_data("banks", MODEL, name)), built_in_seeds(name)
        self.pooled = _encoded(self.seeds, work / f"{name}.safetensors")
        self.bad = np.array([seed.bad for seed in self.seeds])
        self.kind = np.array([seed.kind for seed in self.seeds])
        self.logs = self.bank.background.log_matrix(self.pooled)
        self.content = Content.about(self.bank.reference)

    def learnt(self, rows: Positions) -> tuple[F64, F64]:
        """Standard scores of all rows, and leans, as learnt from some of them."""
        background = self.bank.background
        groups = [self.seeds[i].group for i in rows]
        weights = Ridge(self.pooled.take(rows), background, groups).weights(np.where(self.bad[rows], 1.0, -1.0))
        usual = background.log_matrix(self.bank.reference) @ weights.astype(np.float64)
        gone = rows[self.bad[rows]]
        names = usable(self.kind[rows].tolist(), self.bad[rows])[0]
        topics = Topics.of(self.pooled.take(gone), self.kind[gone].tolist(), names, background)
        score = np.asarray(self.logs @ weights.astype(np.float64))
        return (score - usual.mean()) / usual.std(), topics.sums(background).sums(self.logs) - topics.offset


def _encoded(seeds: Sequence[Seed], path: Path) -> Pooled:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        pooled = encode(FeatureReader(resolve(TargetChoice(MODEL)), Loading("cpu", "float32")), [s.row for s in seeds])
        save_file(pooled.arrays(), path)
    return Pooled.from_arrays(load_file(path))


def _logs(rows: Rows, weights: F32 | None) -> F32:
    usual = np.asarray(rows.bank.background.log_matrix(rows.bank.reference).mean(0)).ravel()
    x = sp.csr_matrix(rows.logs).toarray() - usual
    return np.asarray(x if weights is None else x * weights, np.float32)


def _spaces(rows: Rows) -> dict[str, Callable[[F64, F64], F32]]:
    """Each makes vectors of all rows from what was learnt: scores and leans."""
    c, none = rows.content.of(rows.pooled), np.zeros((len(rows.bad), 0))
    residual = rows.pooled.residual.astype(np.float32) - rows.content.centre
    plain = _logs(rows, None)
    return {
        "log activations": lambda score, lean: plain,
        "mean residual": lambda score, lean: residual,
        "c": lambda score, lean: c,
        "c and score": lambda score, lean: placed(c, score, none),
        "c and leans": lambda score, lean: placed(c, 0 * score, lean),
        f"c, {HARM} score, {TOPIC} leans": lambda score, lean: placed(c, score, lean),
    }


def measure(rows: Rows, keys: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Of each space: label right of bad rows and of good ones, topic right of bad ones.

    Args:
        keys: (n,) rows of one key are held out together.
    """
    names, of = np.unique(keys, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[of] % FOLDS
    spaces = _spaces(rows)
    label = {name: np.zeros(len(of), bool) for name in spaces}
    topic = {name: np.zeros(len(of), bool) for name in spaces}
    for k in range(FOLDS):
        held, others = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        score, lean = rows.learnt(others)
        for name, space in spaces.items():
            v = space(score, lean)
            v = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9)
            cosine = v[held] @ v[others].T
            label[name][held] = rows.bad[others][cosine.argmax(1)] == rows.bad[held]
            cosine[:, ~rows.bad[others]] = -2
            topic[name][held] = rows.kind[others][cosine.argmax(1)] == rows.kind[held]
    bad = rows.bad
    return {n: (label[n][bad].mean(), label[n][~bad].mean(), topic[n][bad].mean()) for n in spaces}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    for name in BUILT_IN:
        rows = Rows(name, work)
        pairs, subjects = [str(s.row.line) for s in rows.seeds], [s.group for s in rows.seeds]
        for by, keys in (("pair", pairs), ("subject", subjects)):
            for space, (bad, good, topic) in measure(rows, keys).items():
                print(f"{name}, held out by {by}, {space}: label {bad:.3f} / {good:.3f}, topic {topic:.3f}", flush=True)


if __name__ == "__main__":
    main()
