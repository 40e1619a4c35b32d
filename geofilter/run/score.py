"""From stored features to scores: every row under every bank, the power verdicts, the quarantine. No model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Linear, Share
from geofilter.bank.scorer import Scorer
from geofilter.errors import InputError
from geofilter.files import atomic, dumps
from geofilter.run.power import SAMPLE, assess, headline
from geofilter.run.store import SCORES, Run

if TYPE_CHECKING:
    import scipy.sparse as sp


TOP_FEATURES = 5
"""features named for each row"""
MAX_SOURCES = 200
OTHER_SOURCES = "(other sources)"
"""stands for all sources past the first `MAX_SOURCES`"""


class _Excess:
    """`Linear.excess` of a shard's rows, computed once for all scores and banks that see them the same way."""

    def __init__(self, pooled: Pooled) -> None:
        self._pooled = pooled
        self._known: dict[tuple[str, bytes, bytes], sp.csr_matrix] = {}

    def of(self, linear: Linear) -> sp.csr_matrix:
        key = (linear.of, linear.background.mean.tobytes(), linear.background.sd.tobytes())
        if key not in self._known:
            self._known[key] = linear.excess(self._pooled)
        return self._known[key]


def score(
    run: Run, banks: Sequence[Bank], scorer: str, paths: Sequence[str], learnt: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Score every shard under every bank; write scores and quarantine; return counts and verdicts.

    A row's score is its largest standard score over the banks; its topics are those of that bank.

    Args:
        learnt: hashes of the rows that the banks were learnt from; the verdicts are on the others.

    Raises:
        InputError: no row could be scored.
    """
    from safetensors.numpy import save

    scorers = [Scorer(bank, scorer) for bank in banks]
    shares = [s.shares for s in scorers]
    closeness = [bank.closeness.contrast for bank in banks]  # made anew at each call
    total = sum(len(shard.pooled) for shard in run.shards())
    quarantine = run.quarantine()
    with atomic(run.path / "quarantine.jsonl") as handle:
        handle.writelines(dumps(q) for q in quarantine)
    if not total:
        first = quarantine[0]
        raise InputError(
            f"{first['file']}: no row can be scored; line {first['line']}: {first['error']} "
            f"(all {len(quarantine)} reasons: {run.path / 'quarantine.jsonl'})"
        )
    stride = math.ceil(total / SAMPLE)
    topics = list(dict.fromkeys(name for bank in banks for name in bank.topics.names))
    parts: list[dict[str, npt.NDArray[Any]]] = []
    sources: dict[str, int] = {}
    sampled: list[list[Any]] = [[] for _ in banks]
    style: list[Any] = []
    n_truncated, seen = 0, 0
    with atomic(run.path / "scores.jsonl") as out:
        for shard in run.shards():
            shas = shard.shas()
            excess = _Excess(shard.pooled)
            own = [None if split is None else excess.of(split.linear) for split in shares]
            raw = [s.raw(shard.pooled, shas, x) for s, x in zip(scorers, own, strict=True)]
            standard = np.stack([s.scale.standard(r) for s, r in zip(scorers, raw, strict=True)])
            percentile = np.stack([s.scale.percentile(r) for s, r in zip(scorers, raw, strict=True)])
            best = standard.argmax(0)
            each = np.arange(len(best))
            others = np.array([sha not in learnt for sha in shas], bool)
            picked = np.flatnonzero(((each + seen) % stride == 0) & others)
            style.append(shard.style[picked])
            top: list[list[Share]] = [[] for _ in each]
            by_topic: list[dict[str, float]] = [{} for _ in each]
            for b, bank in enumerate(banks):
                null = scorers[b].null
                sampled[b].append((standard[b, picked], null.standard(excess.of(null.linear)[picked])))
                mine, split = np.flatnonzero(best == b), shares[b]
                if split is not None:
                    named = split.top(excess.of(split.linear)[mine], TOP_FEATURES)
                    for row, shared in zip(mine.tolist(), named, strict=True):
                        top[row] = shared
                if bank.topics.names:
                    of_topics = scorers[b].topic_scores(standard[b, mine], excess.of(scorers[b].topics)[mine])
                    for row, values in zip(mine.tolist(), np.round(of_topics, 4).tolist(), strict=True):
                        by_topic[row] = dict(zip(bank.topics.names, values, strict=True))
            topic = [max(of, key=of.__getitem__) if of else None for of in by_topic]
            for i, b in enumerate(best.tolist()):
                record = {
                    "file": paths[shard.file[i]],
                    "line": int(shard.line[i]),
                    "sha256": shas[i],
                    **_rounded(standard[b, i], percentile[b, i]),
                    "bank": banks[b].name,
                    "banks": {o.name: _rounded(standard[j, i], percentile[j, i]) for j, o in enumerate(banks)},
                    "topic": topic[i],
                    "topics": by_topic[i],
                    "n_tokens": int(shard.pooled.n_tokens[i]),
                    "truncated": bool(shard.truncated[i]),
                    "top_features": [_named(s, banks[b], closeness[b]) for s in top[i]],
                }
                out.write(dumps(record))
            parts.append(
                {
                    "file": shard.file,
                    "line": shard.line,
                    "score": np.round(standard[best, each], 6),
                    "percentile": np.round(percentile[best, each], 6),
                    "bank": best.astype(np.int32),
                    "topic": np.array([-1 if t is None else topics.index(t) for t in topic], np.int32),
                    "style": shard.style,
                    "n_tokens": shard.pooled.n_tokens,
                    "n_turns": shard.n_turns,
                    "shape": shard.shape,
                    "source": _numbered(shard.source, sources),
                }
            )
            n_truncated += int(shard.truncated.sum())
            seen += len(best)
    arrays = {k: np.ascontiguousarray(np.concatenate([part[k] for part in parts])) for k in parts[0]}
    with atomic(run.path / SCORES) as handle:
        handle.write(save(arrays))
    verdicts = [
        assess(
            bank,
            np.concatenate([s for s, _ in sampled[b]]),
            np.concatenate([n for _, n in sampled[b]]),
            np.concatenate(style),
        )
        for b, bank in enumerate(banks)
    ]
    return {
        "scorer": scorer,
        "topics": topics,
        "counts": {
            "rows": total + len(quarantine),
            "scored": total,
            "quarantined": len(quarantine),
            "truncated": n_truncated,
            "tokens": int(arrays["n_tokens"].sum()),
        },
        "sources": list(sources),
        "reference_scores": _reference(scorers),
        "power": verdicts,
        "headline": headline(verdicts),
    }


def _rounded(score: float, percentile: float) -> dict[str, float]:
    return {"score": round(float(score), 6), "percentile": round(float(percentile), 6)}


def _named(share: Share, bank: Bank, closeness: F32) -> dict[str, Any]:
    """What is said of a feature that a row scores by."""
    near = int(bank.toxic[bank.closeness.nearest[share.feature]])
    return {
        "feature": share.feature,
        "label": bank.labels[share.feature],
        "share": round(share.share, 6),
        "closeness": round(float(closeness[share.feature]), 4),
        "nearest_toxic": near,
        "nearest_label": bank.labels[near],
    }


def _numbered(names: Sequence[str], numbers: dict[str, int]) -> npt.NDArray[np.int32]:
    """The number (n,) of each name; new names are entered into `numbers`."""
    return np.array(
        [
            numbers.setdefault(name if name in numbers or len(numbers) < MAX_SOURCES else OTHER_SOURCES, len(numbers))
            for name in names
        ],
        np.int32,
    )


def _reference(scorers: Sequence[Scorer]) -> list[float]:
    """Scores of ordinary rows, ascending: the largest standard score over the banks, as for any row."""
    rows = scorers[0].bank.reference
    shas = [f"reference-{i}" for i in range(len(rows))]
    scores = np.max([scorer.standard(rows, shas) for scorer in scorers], axis=0)
    return [round(float(s), 3) for s in np.sort(scores)]
