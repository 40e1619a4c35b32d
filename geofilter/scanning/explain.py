"""Why one row scores as it does: features, the tokens that carry them, and what would remain without each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from geofilter.bank.about import ExcludedFeature
from geofilter.bank.features import Pooled
from geofilter.bank.known import KnownRow
from geofilter.bank.linear import FeatureShare, Shares
from geofilter.bank.scorer import Scorer
from geofilter.config import BUILT_IN, DEFAULT_SCORER
from geofilter.encode.reader import FeatureReader
from geofilter.encode.shares import signed_bytes
from geofilter.encode.tokens import encode_row
from geofilter.errors import RunError
from geofilter.files import Notify
from geofilter.rows.records import Row
from geofilter.run.banks import exclude
from geofilter.run.manifest import RowScore, ScoreLine
from geofilter.run.marks import Mark, RowMarks
from geofilter.run.named import Namer
from geofilter.run.rows import reread
from geofilter.run.store import Run
from geofilter.scanning.reopen import banks_of, same_score, target_of
from geofilter.text import shown_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


N_FEATURES = 10
TOKENS_PER_FEATURE = 5
MOST_TOKENS = 4
"""of one character: UTF-8 has at most four bytes"""


class Piece(NamedTuple):
    """A token of a response, or a few that only together make a character."""

    text: str
    share: float
    """sum of its parts of all features' shares"""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A row taken apart under the bank that gave its score."""

    detail: RowScore
    """its line of scores.jsonl"""
    score: float
    """recomputed now"""
    features: list[dict[str, Any]]
    """the largest shares either way of features that are not common: what `manifest.NamedFeature` says, standard score,
    tokens, score without"""
    common: float
    """share of the features of tone and punctuation, see `Bank.common`"""
    rest: float
    """share of all other active features"""
    absent: float
    """share of the features that are silent in this row"""
    tokens: list[Piece]
    """the scored tokens of the response, in order"""
    marks: RowMarks
    """where they stand, and their shares rounded as a scan stores them"""
    percentile: float
    """recomputed now"""
    topics: dict[str, float]
    """scores of the bank's topics, highest first"""
    excluded: list[ExcludedFeature]
    """features that count nothing, with their labels"""
    examples: dict[str, KnownRow] = field(default_factory=dict)
    """the labelled rows of the bank that the row is most like, by side; none under a bank that did not give its score
    """
    stored: float | None = None
    """the scan's score under this bank, where the one that is recomputed is another; the model, the SAE or the bank
    does not do what it did"""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.detail,
            "score_recomputed": round(self.score, 6),
            "as_stored": self.stored is None,
            "percentile_recomputed": round(self.percentile, 6),
            "topics_recomputed": self.topics,
            "excluded_features": self.excluded,
            "examples": self.examples,
            "features": self.features,
            "common": round(self.common, 6),
            "other_active_features": round(self.rest, 6),
            "silent_features": round(self.absent, 6),
            "tokens": [{"token": piece.text, "share": round(piece.share, 6)} for piece in self.tokens],
        }


class Explainer:
    """Takes rows of a run apart; model, SAE and banks are loaded once.

    Args:
        excluded: features that are to count nothing besides those of the run, see `run.banks.exclude`.

    Raises:
        RunError: the run's scorer has no feature shares, or model or SAE has changed.
        TargetError: files that are gone.
    """

    def __init__(self, run: Run, notify: Notify, excluded: Sequence[str] = ()) -> None:
        self.run, self._notify, self._excluded = run, notify, excluded
        self._manifest = run.manifest
        self._scorer: str = self._manifest["scorer"]
        self._target, self._loading = target_of(run, notify)
        self._reader = FeatureReader(self._target, self._loading)
        self._scorers: dict[str, tuple[Scorer, Shares]] = {}

    def _scorer_of(self, name: str) -> tuple[Scorer, Shares]:
        if name not in self._scorers:
            found = banks_of(self.run, self._target, self._loading, lambda: self._reader, self._notify, [name])
            used = [*self._manifest["banks"], *self._manifest.get("scanned_banks", ())]
            (bank,) = exclude(found, self._excluded, [*(about["name"] for about in used), *BUILT_IN])
            scorer = Scorer(bank, self._scorer)
            if scorer.shares is None:
                raise RunError(
                    f"{self.run.path}: scored with {self._scorer}, which has no feature shares; scan with "
                    f"{DEFAULT_SCORER}"
                )
            self._scorers[name] = scorer, scorer.shares
        return self._scorers[name]

    def explain(self, detail: RowScore, row: Row, bank_name: str | None = None) -> Explanation:
        """Run the model on one row and split its score.

        Args:
            detail: its line of scores.jsonl.
            bank_name: explain the score under this bank; by default the one that gave the row's score.

        Raises:
            InputError: no such bank or feature.
        """
        scorer, shares = self._scorer_of(bank_name or detail["bank"])
        bank = scorer.bank
        encoding, reader = self._manifest["encoding"], self._reader
        encoded = encode_row(row, reader.tokenizer, encoding["max_tokens"], encoding["system"])
        row_features, found = reader.read_tokens(encoded)
        pooled = Pooled.of([row_features], reader.encoder.d_in)
        _, share = shares.active(shares.linear.excess(pooled))
        z = bank.background.z(pooled.values, pooled.indices)
        raw = scorer.raw(pooled, [""])
        standard = scorer.scale.standard(raw)
        score = float(standard[0])
        by_topic = np.round(scorer.topic_scores(standard, scorer.topics.excess(pooled))[0], 4).tolist()
        per_feature = np.zeros(bank.d_sae)
        np.add.at(per_feature, found.feature, found.value)
        share_of = np.zeros(bank.d_sae)
        share_of[pooled.indices] = share
        # A feature's share is divided among its tokens in proportion to its activation on them.
        part = share_of[found.feature] * found.value / per_feature[found.feature]
        by_token = np.bincount(found.token, part, len(found.position))
        words = [str(reader.tokenizer.decode([encoded.ids[p]])) for p in found.position]
        features: list[dict[str, Any]] = []
        common = bank.common[pooled.indices]
        order = np.argsort(-np.where(common, 0, np.abs(share)), kind="stable")[:N_FEATURES]
        order, namer = order[~common[order]], Namer(bank)
        for i in order:
            f = int(pooled.indices[i])
            on = np.flatnonzero(found.feature == f)
            strongest = on[np.argsort(-found.value[on], kind="stable")[:TOKENS_PER_FEATURE]]
            features.append(
                {
                    **namer.feature(FeatureShare(f, float(share[i])), float(pooled.values[i])),
                    "z": round(float(z[i]), 4),
                    "tokens": [words[found.token[t]] for t in strongest],
                    "score_without": round(score - float(share[i]), 6),
                }
            )
        shown, of_common = sum(float(share[i]) for i in order), float(share[common].sum())
        in_steps, step = signed_bytes(by_token.astype(np.float64)[:, None])
        at = encoded.spans[np.searchsorted(np.flatnonzero(encoded.mask), found.position)]
        marks = RowMarks(at[:, 0], at[:, 1], in_steps[0] * step[0])
        pieces = pieces_of(encoded.ids, found.position.tolist(), by_token.tolist(), reader.tokenizer)
        return Explanation(
            detail, score, features, of_common, float(share.sum()) - shown - of_common,
            shares.absent(pooled.indices), pieces, marks,
            percentile=float(scorer.scale.percentile(raw)[0]),
            topics=dict(sorted(zip(bank.topics.names, by_topic, strict=True), key=lambda of: -of[1])),
            excluded=bank.excluded_features,
            examples=bank.rows.named(detail.get("like", {})) if bank.rows and bank.name == detail["bank"] else {},
        )  # fmt: skip


def explain(
    run: Run,
    detail: ScoreLine,
    row: Row,
    bank_name: str | None,
    notify: Notify,
    excluded: Sequence[str] = (),
) -> Explanation:
    """Run the model again on a row of a run and split its score.

    Args:
        detail: its line of scores.jsonl.
        bank_name: explain the score under this bank; by default the one that gave the row's score.
        excluded: features that are to count nothing besides those of the run, see `run.banks.exclude`.

    Raises:
        InputError: no such bank or feature.
        RunError: model or SAE has changed, or the run's scorer has no feature shares.
    """
    found = Explainer(run, notify, excluded).explain(detail, row, bank_name)
    of_bank = detail["banks"].get(bank_name or detail["bank"])
    if not excluded and of_bank and not same_score(found.score, of_bank["score"], run.manifest["encoding"]):
        return replace(found, stored=of_bank["score"])
    return found


def pieces_of(
    ids: Sequence[int], positions: Sequence[int], shares: Sequence[float], tokenizer: PreTrainedTokenizerBase
) -> list[Piece]:
    """The text of the scored tokens; those that only together make a character are one piece."""
    out: list[Piece] = []
    start = 0
    for end in range(1, len(positions) + 1):
        # With the token before it: alone, some tokenizers take the space off.
        before = ids[positions[start] - 1]
        ahead = str(tokenizer.decode([before]))
        text = str(tokenizer.decode([before, *(ids[p] for p in positions[start:end])]))
        if text.startswith(ahead):
            text = text[len(ahead) :]
        else:
            text = str(tokenizer.decode([ids[p] for p in positions[start:end]]))
        whole = end == len(positions) or end - start == MOST_TOKENS or positions[end] != positions[end - 1] + 1
        if "\N{REPLACEMENT CHARACTER}" in text and not whole:
            continue
        out.append(Piece(text, sum(shares[start:end])))
        start = end
    return out


def shade(run: Run, rows: Sequence[RowScore], notify: Notify) -> list[list[Mark]]:
    """Run the model on some rows of a run; of each the marks of what is shown of its response.

    Raises:
        RunError: the scorer has no feature shares, or data, model or SAE has changed since the scan.
        TargetError: model or SAE is gone.
    """
    texts = reread(rows, run.reading)
    explainer = Explainer(run, notify)
    out = []
    for row in rows:
        text = texts[row["file"], row["line"]]
        out.append(explainer.explain(row, text).marks.spans(shown_length(text.response)))
    return out
