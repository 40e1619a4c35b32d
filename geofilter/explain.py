"""Why one row scores as it does: features, the tokens that carry them, and what would remain without each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.config import DEFAULT_SCORER
from geofilter.errors import InputError, RunError
from geofilter.features import FeatureReader
from geofilter.inputs import read_lines
from geofilter.paths import Notify
from geofilter.pooled import Pooled
from geofilter.records import Row, parse_line
from geofilter.reopen import banks_of, target_of
from geofilter.run_banks import exclude
from geofilter.scorers import Shares, raw_scores
from geofilter.store import Run
from geofilter.tokens import encode_row

N_FEATURES = 10
TOKENS_PER_FEATURE = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """A row taken apart under the bank that gave its score."""

    detail: dict[str, Any]
    """its line of scores.jsonl"""
    score: float
    """recomputed now"""
    features: list[dict[str, Any]]
    """the largest shares either way: id, label, share, closeness, nearest toxic feature, tokens, score without"""
    rest: float
    """share of all other active features"""
    absent: float
    """share of the features that are silent in this row"""
    tokens: list[tuple[str, float]]
    """every response token with the sum of its parts of all shares"""
    percentile: float
    """recomputed now"""
    topics: dict[str, float]
    """scores of the bank's topics, highest first"""
    excluded: list[dict[str, Any]]
    """features that count nothing, with their labels"""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.detail,
            "score_recomputed": round(self.score, 6),
            "percentile_recomputed": round(self.percentile, 6),
            "topics_recomputed": self.topics,
            "excluded_features": self.excluded,
            "features": self.features,
            "other_active_features": round(self.rest, 6),
            "silent_features": round(self.absent, 6),
            "tokens": [{"token": t, "share": round(s, 6)} for t, s in self.tokens],
        }


def find_row(run: Run, line: int, file: str | None) -> dict[str, Any]:
    """The scores.jsonl record of a row.

    Raises:
        InputError: it was not scanned, was quarantined, or the line exists in several files.
    """
    hits = [r for r in run.scores() if r["line"] == line and file in (None, r["file"])]
    if len(hits) > 1:
        files = ", ".join(r["file"] for r in hits)
        raise InputError(f"--row {line}: the run has several inputs; add --file with one of {files}")
    if not hits:
        for q in run.quarantine():
            if q["line"] == line and file in (None, q["file"]):
                raise InputError(f"{q['file']}, line {line}: not scored: {q['error']}")
        raise InputError(f"--row {line}: no such row in the run {run.path}")
    return hits[0]


def explain(
    run: Run,
    line: int,
    file: str | None,
    bank_name: str | None,
    notify: Notify,
    excluded: Sequence[str] = (),
) -> Explanation:
    """Run the model again on one row and split its score.

    Args:
        bank_name: explain the score under this bank; by default the one that gave the row's score.
        excluded: features that are to count nothing besides those of the run, see `run_banks.exclude`.

    Raises:
        InputError: no such row, bank or feature.
        RunError: the data has changed, or the run's scorer has no feature shares.
    """
    detail = find_row(run, line, file)
    manifest = run.manifest
    encoding = manifest["encoding"]
    row = _reread(detail)
    target, loading = target_of(run, notify)
    reader = FeatureReader(target, loading)
    wanted = bank_name or detail["bank"]
    (bank,) = exclude(banks_of(run, target, loading, lambda: reader, notify, [wanted]), excluded, manifest["scorer"])
    shares = Shares.of(manifest["scorer"], bank)
    if shares is None:
        raise RunError(
            f"{run.path}: scored with {manifest['scorer']}, which has no feature shares; scan with {DEFAULT_SCORER}"
        )
    encoded = encode_row(row, reader.tokenizer, encoding["max_tokens"], encoding["system"])
    pooled = Pooled.of(reader.read([encoded]), reader.encoder.d_in)
    _, share = shares.active(shares.linear.excess(pooled))
    z = bank.background.z(pooled.values, pooled.indices)
    raw = raw_scores(manifest["scorer"], bank, pooled, [""])
    standard = bank.scale(manifest["scorer"]).standard(raw)
    score = float(standard[0])
    by_topic = np.round(bank.topic_scores(standard, bank.topic_sums.excess(pooled))[0], 4).tolist()
    found = reader.read_tokens(encoded)
    per_feature = np.zeros(bank.d_sae)
    np.add.at(per_feature, found.feature, found.value)
    share_of = np.zeros(bank.d_sae)
    share_of[pooled.indices] = share
    # A feature's share is divided among its tokens in proportion to its activation on them.
    part = share_of[found.feature] * found.value / per_feature[found.feature]
    by_token = np.bincount(found.token, part, len(found.position))
    words = [str(reader.tokenizer.decode([encoded.ids[p]])) for p in found.position]
    features: list[dict[str, Any]] = []
    order = np.argsort(-np.abs(share), kind="stable")[:N_FEATURES]
    for i in order:
        f = int(pooled.indices[i])
        on = np.flatnonzero(found.feature == f)
        strongest = on[np.argsort(-found.value[on], kind="stable")[:TOKENS_PER_FEATURE]]
        near = int(bank.toxic[bank.closeness.nearest[f]])
        features.append(
            {
                "feature": f,
                "label": bank.labels[f],
                "share": round(float(share[i]), 6),
                "z": round(float(z[i]), 4),
                "closeness": round(float(bank.closeness.contrast[f]), 4),
                "nearest_toxic": near,
                "nearest_label": bank.labels[near],
                "cosine_to_nearest": round(float(bank.closeness.toxic[f]), 4),
                "tokens": [words[found.token[t]] for t in strongest],
                "score_without": round(score - float(share[i]), 6),
            }
        )
    shown = sum(float(share[i]) for i in order)
    return Explanation(
        detail, score, features, float(share.sum()) - shown, shares.absent(pooled.indices),
        list(zip(words, by_token.tolist(), strict=True)), float(bank.scale(manifest["scorer"]).percentile(raw)[0]),
        dict(sorted(zip(bank.topics.names, by_topic, strict=True), key=lambda of: -of[1])),
        bank.excluded_features,
    )  # fmt: skip


def _reread(detail: dict[str, Any]) -> Row:
    path = Path(detail["file"])
    for number, line in enumerate(read_lines(path), start=1):
        if number == detail["line"]:
            row = parse_line(line, detail["file"], number)
            if isinstance(row, Row) and row.sha256 == detail["sha256"]:
                return row
            break
    raise RunError(f"{path}, line {detail['line']}: has changed since the scan; scan it again")
