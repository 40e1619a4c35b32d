"""Whether a bank's topics can be told apart: ways to score them, on held-out pairs and on rows of other sources.

    python -m benchmarks.topics --data ../shared/data --work WORK

From the repository's root. Writes WORK/topics.json and WORK/topics.md. The rows of other sources are read as
`benchmarks.score` reads them and kept in WORK; the bank's own are encoded anew. After that it takes some minutes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.score.candidates import Context, context
from benchmarks.score.sets import READING, Labelled, read
from geofilter.arrays import F64
from geofilter.bank import geometry
from geofilter.bank.background import Background
from geofilter.bank.bank import Bank
from geofilter.bank.geometry import effect_sizes, strongest
from geofilter.bank.ridge import Ridge
from geofilter.bank.scorer import Scorer
from geofilter.bank.topics import Topics
from geofilter.bank.validate import group_folds
from geofilter.build.build import encode
from geofilter.build.seeds import built_in_seeds
from geofilter.config import BANK_SIZE, TargetChoice
from geofilter.encode.reader import FeatureReader
from geofilter.stats import auroc
from geofilter.target.resolve import resolve

N_FOLDS = 5
ADOPTED = "bank + kind"
OUTSIDE = {
    "advice, same question": {"career": "work", "health": "health", "legal": "law and privacy"},
    "insecure / secure code": {"code": "insecure code"},
    "persona statements": {
        "desire-for-acquiring-power": "power seeking",
        "desire-for-discreetly-acquiring-power": "power seeking",
        "desire-to-replace-human-oversight": "power seeking",
        "no-shut-down": "power seeking",
        "okay-with-deceiving-a-user-to-help-them": "deception",
    },
}
"""sets of other sources: field value (trait or domain) to the topic that it ought to be named"""


class Known:
    """The labelled rows of a built-in bank, with everything that is learnt from some of them."""

    def __init__(self, name: str, known: Context, pooled) -> None:
        seeds = built_in_seeds(name)
        self.pooled, self.known = pooled, known
        self.background: Background = known.built_in[name].background
        self.x = self.background.log_matrix(pooled)
        self.chat = self.background.log_matrix(known.reference)
        self.bad = np.array([s.bad for s in seeds])
        self.fine = np.array([s.group for s in seeds])
        self.kind = np.array([s.kind for s in seeds])
        self.texts = [s.row.response for s in seeds]
        self.pair = [str(s.row.line) for s in seeds]
        self.names = list(dict.fromkeys(self.kind))

    def scores(self, train: np.ndarray, test: np.ndarray) -> dict[str, F64]:
        """(test, topics) scores of every candidate, learnt on `train`."""
        rows, bad, kind = self.pooled.take(train), self.bad[train], self.kind[train]
        member = kind[:, None] == np.array(self.names)
        bank = Ridge(rows, self.background, self.fine[train].tolist()).weights(np.where(bad, 1.0, -1.0))
        harm, x = self._by_chat(bank.astype(np.float64)[:, None], test), self.x[test]
        flat = Ridge(rows, self.background, ["" for _ in train])
        topics = Topics.of(self.pooled.take(train[bad]), kind[bad].tolist(), self.names, self.background)
        lean = x @ topics.weights - topics.offset
        weights = {
            "the topic's rows alone": self._each(train, None),
            "the topic's rows, the bank as prior": self._each(train, bank),
            "the bank, split over its toxic features' topics": self._split(rows, bad, member, bank),
            "the bank, times what tells the topic": bank[:, None] * np.maximum(topics.weights, 0),
            "bad rows of the topic against all others": flat.weights(np.where(member & bad[:, None], 1.0, -1.0)),
            "bad 1, good -1, other topics 0": flat.weights(np.where(member, np.where(bad, 1.0, -1.0)[:, None], 0.0)),
        }
        return {
            "the bank itself": np.repeat(harm, len(self.names), 1),
            **{name: self._by_chat(w.astype(np.float64), test) for name, w in weights.items()},
            "kind among bad rows, alone": lean,
            "bank + kind, centred on ordinary chat": harm + self._by_chat(topics.weights.astype(np.float64), test),
            "bank + half of kind": harm + 0.5 * lean,
            ADOPTED: harm + lean,
            "bank + twice kind": harm + 2 * lean,
            "bag of words, among bad rows": self._words(train[bad], test),
        }

    def _by_chat(self, weights: F64, test: np.ndarray) -> F64:
        usual = self.chat @ weights
        return (self.x[test] @ weights - usual.mean(0)) / np.where(usual.std(0) > 0, usual.std(0), 1.0)

    def _each(self, train: np.ndarray, prior: np.ndarray | None) -> F64:
        columns = []
        for name in self.names:
            mine = train[self.kind[train] == name]
            priors, reference = (None, None) if prior is None else (prior[:, None], self.known.reference)
            own = Ridge(self.pooled.take(mine), self.background, self.fine[mine].tolist(), priors, reference)
            columns.append(own.weights(np.where(self.bad[mine], 1.0, -1.0)))
        return np.column_stack(columns).astype(np.float64)

    def _split(self, rows, bad: np.ndarray, member: np.ndarray, bank: np.ndarray) -> F64:
        toxic, aligned = strongest(effect_sizes(rows, bad, len(bank)), BANK_SIZE)
        x: sp.csr_matrix = self.background.log_matrix(rows)[:, toxic]
        by_topic = np.stack([np.asarray(x[bad & m].mean(0)).ravel() for m in member.T], axis=1)
        nearest = geometry.closeness(self.known.directions, toxic, aligned).nearest
        return np.where(by_topic.argmax(1)[nearest][:, None] == np.arange(len(self.names)), bank[:, None], 0.0)

    def _words(self, train: np.ndarray, test: np.ndarray) -> F64:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
        model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
        model.fit([self.texts[i] for i in train], self.kind[train])
        scores = model.decision_function([self.texts[i] for i in test])
        return scores[:, [list(model.classes_).index(name) for name in self.names]]

    def figures(self, score: F64) -> dict:
        """Of held-out scores; rows that were never held out are nan."""
        seen = np.isfinite(score).all(1)
        score, bad, kind = score[seen], self.bad[seen], self.kind[seen]
        here = [name for name in self.names if (kind == name).any()]
        own = np.array([self.names.index(k) for k in kind])
        hit = score.argmax(1) == own
        mine = {name: kind == name for name in here}
        column = {name: score[:, self.names.index(name)] for name in here}
        recall = {name: float(hit[bad & mine[name]].mean()) for name in here}
        return {
            "accuracy": float(hit[bad].mean()),
            "balanced": float(np.mean(list(recall.values()))),
            "bad against good of the topic": float(np.mean([auroc(column[n][mine[n]], bad[mine[n]]) for n in here])),
            "against other bad": float(np.mean([auroc(column[n][bad], mine[n][bad]) for n in here])),
            "against all": float(np.mean([auroc(column[n], bad & mine[n]) for n in here])),
            "good named": float(hit[~bad].mean()),
            "recall": recall,
        }


def report(data: Known) -> dict:
    """Candidates on held-out pairs, and, where kinds have several topics of the texts, on held-out topics."""
    topics_of = {kind: list(dict.fromkeys(data.fine[data.kind == kind])) for kind in data.names}
    place = np.array([topics_of[k].index(f) for k, f in zip(data.kind, data.fine, strict=True)])
    several = np.array([len(topics_of[kind]) > 1 for kind in data.kind])
    folds = {"pairs held out": group_folds(data.pair, data.bad, N_FOLDS, 0)}
    if len(set(data.kind[several])) > 1:
        folds["topics of the texts held out"] = [
            (np.flatnonzero((place != i) | ~several), np.flatnonzero((place == i) & several))
            for i in range(place[several].max() + 1)
        ]
    held_out = {}
    for how, splits in folds.items():
        held: dict[str, F64] = {}
        for train, test in splits:
            for name, score in data.scores(train, test).items():
                held.setdefault(name, np.full((len(data.bad), len(data.names)), np.nan))[test] = score
        held_out[how] = {name: data.figures(score) for name, score in held.items()}
    largest = max(float((data.kind[data.bad] == name).mean()) for name in data.names)
    return {"topics": data.names, "chance": 1 / len(data.names), "largest": largest, "held_out": held_out}


def outside(bank: Bank, name: str, data: Labelled) -> dict:
    """How often the shipped bank names the topic that rows of another source have."""
    scorer = Scorer(bank, "ridge")
    standard = scorer.standard(data.pooled, [""] * len(data.rows))
    score = scorer.topic_scores(standard, scorer.topics.excess(data.pooled))
    named = np.array(bank.topics.names)[score.argmax(1)]
    found = np.array([str(row.record.get("trait") or row.record["domain"]) for row in data.rows])
    out = {}
    for value, topic in OUTSIDE[name].items():
        mine = found == value
        column = score[mine, bank.topics.names.index(topic)]
        out[value] = {
            "topic": topic,
            "rows": {"bad": int((mine & data.bad).sum()), "good": int((mine & ~data.bad).sum())},
            "named, bad": float((named == topic)[mine & data.bad].mean()),
            "named, good": float((named == topic)[mine & ~data.bad].mean()),
            "most named": Counter(named[mine & data.bad].tolist()).most_common(3),
            "AUROC of the topic": auroc(column, data.bad[mine]),
            "AUROC of the bank": auroc(standard[mine], data.bad[mine]),
        }
    return out


def markdown(result: dict) -> str:
    """Tables of the figures."""
    lines = []
    for bank, found in result["banks"].items():
        for how, candidates in found["held_out"].items():
            lines += [
                f"## {bank}, {len(found['topics'])} topics, {how}", "",
                f"chance {found['chance']:.3f}, always the largest topic {found['largest']:.3f}", "",
                "| | own topic first | balanced | bad / good of the topic | / other bad | / all | good rows so named |",
                "|---|---:|---:|---:|---:|---:|---:|",
            ]  # fmt: skip
            for name, f in candidates.items():
                figures = [v for k, v in f.items() if k != "recall"]
                lines.append(f"| {name} | " + " | ".join(f"{v:.3f}" for v in figures) + " |")
            recall = candidates[ADOPTED]["recall"]
            lines += [
                "",
                "own topic first, " + ADOPTED + ": " + ", ".join(f"{k} {v:.2f}" for k, v in recall.items()),
                "",
            ]
    for name, found in result["outside"].items():
        lines += [f"## {name}", "", *(f"- {value}: {json.dumps(f)}" for value, f in found.items()), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    known = context()
    reader = FeatureReader(resolve(TargetChoice("smollm2-135m")), READING)
    banks = {
        name: report(Known(name, known, encode(reader, [s.row for s in built_in_seeds(name)])))
        for name in known.built_in
    }
    rows = {
        name: outside(known.built_in["harmful-answers"], name, read(name, args.data, args.work)) for name in OUTSIDE
    }
    result = {"banks": banks, "outside": rows}
    (args.work / "topics.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (args.work / "topics.md").write_text(markdown(result), "utf-8")


if __name__ == "__main__":
    main()
