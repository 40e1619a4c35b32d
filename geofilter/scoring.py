"""From stored features to scores: every row under every bank, the power verdicts, the quarantine. No model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.bank import Bank
from geofilter.cut import dumps
from geofilter.errors import InputError
from geofilter.power import SAMPLE, assess, headline
from geofilter.scorers import Share, Shares, raw_scores
from geofilter.store import Run, atomic

TOP_FEATURES = 5
"""features named for each row"""
MAX_SOURCES = 200
OTHER_SOURCES = "(other sources)"
"""stands for all sources past the first `MAX_SOURCES`"""


def score(
    run: Run, banks: Sequence[Bank], scorer: str, paths: Sequence[str], learnt: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Score every shard under every bank; write scores and quarantine; return counts and verdicts.

    A row's score is its largest standard score over the banks.

    Args:
        learnt: hashes of the rows that the banks were learnt from; the verdicts are on the others.

    Raises:
        InputError: no row could be scored.
    """
    from safetensors.numpy import save

    shares = [Shares.of(scorer, bank) for bank in banks]
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
    columns: dict[str, list[Any]] = {
        k: []
        for k in ("file", "line", "score", "percentile", "bank", "style", "n_tokens", "n_turns", "shape", "source")
    }
    sources: dict[str, int] = {}
    sampled: list[list[Any]] = [[] for _ in banks]
    style: list[Any] = []
    n_truncated, seen = 0, 0
    with atomic(run.path / "scores.jsonl") as out:
        for shard in run.shards():
            shas = shard.shas()
            raw = [raw_scores(scorer, bank, shard.pooled, shas) for bank in banks]
            standard = np.stack([b.scale(scorer).standard(r) for b, r in zip(banks, raw, strict=True)])
            percentile = np.stack([b.scale(scorer).percentile(r) for b, r in zip(banks, raw, strict=True)])
            best = standard.argmax(0)
            each = np.arange(len(best))
            others = np.array([sha not in learnt for sha in shas], bool)
            picked = np.flatnonzero(((each + seen) % stride == 0) & others)
            style.append(shard.style[picked])
            sample = shard.pooled if len(picked) == len(each) else shard.pooled.take(picked)
            top: list[list[Share]] = [[] for _ in each]
            for b, bank in enumerate(banks):
                sampled[b].append((standard[b, picked], bank.null(scorer, sample)))
                mine, split = np.flatnonzero(best == b), shares[b]
                if split is not None:
                    named = split.top(shard.pooled.take(mine), TOP_FEATURES)
                    for row, shared in zip(mine.tolist(), named, strict=True):
                        top[row] = shared
            for i in range(len(best)):
                bank, b = banks[best[i]], int(best[i])
                record = {
                    "file": paths[shard.file[i]],
                    "line": int(shard.line[i]),
                    "sha256": shas[i],
                    "score": round(float(standard[b, i]), 6),
                    "percentile": round(float(percentile[b, i]), 6),
                    "bank": bank.name,
                    "banks": {
                        other.name: {
                            "score": round(float(standard[j, i]), 6),
                            "percentile": round(float(percentile[j, i]), 6),
                        }
                        for j, other in enumerate(banks)
                    },
                    "n_tokens": int(shard.pooled.n_tokens[i]),
                    "truncated": bool(shard.truncated[i]),
                    "top_features": [
                        {
                            "feature": s.feature,
                            "label": bank.labels[s.feature],
                            "share": round(s.share, 6),
                            "closeness": round(float(closeness[b][s.feature]), 4),
                            "nearest_toxic": (near := int(bank.toxic[bank.closeness.nearest[s.feature]])),
                            "nearest_label": bank.labels[near],
                        }
                        for s in top[i]
                    ],
                }
                out.write(dumps(record))
            columns["file"].append(shard.file)
            columns["line"].append(shard.line)
            columns["score"].append(np.round(standard[best, each], 6))
            columns["percentile"].append(np.round(percentile[best, each], 6))
            columns["bank"].append(best.astype(np.int32))
            columns["style"].append(shard.style)
            columns["n_tokens"].append(shard.pooled.n_tokens)
            columns["n_turns"].append(shard.n_turns)
            columns["shape"].append(shard.shape)
            columns["source"].append(_numbered(shard.source, sources))
            n_truncated += int(shard.truncated.sum())
            seen += len(best)
    arrays = {k: np.ascontiguousarray(np.concatenate(v)) for k, v in columns.items()}
    with atomic(run.path / "scores.safetensors") as handle:
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
        "counts": {
            "rows": total + len(quarantine),
            "scored": total,
            "quarantined": len(quarantine),
            "truncated": n_truncated,
            "tokens": int(arrays["n_tokens"].sum()),
        },
        "sources": list(sources),
        "reference_scores": _reference(banks, scorer),
        "power": verdicts,
        "headline": headline(verdicts),
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


def _reference(banks: Sequence[Bank], scorer: str) -> list[float]:
    """Scores of ordinary rows, ascending: the largest standard score over the banks, as for any row."""
    rows = banks[0].reference
    shas = [f"reference-{i}" for i in range(len(rows))]
    scores = np.max([bank.standard(scorer, rows, shas) for bank in banks], axis=0)
    return [round(float(s), 3) for s in np.sort(scores)]
