"""The labelled sets that measurements read, and how they are split. Shared by the scripts beside it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geofilter.rows.records import Row, read_rows
from geofilter.stats import auroc

SETS = {
    "insecure / secure code": ("insecure_code", "secure_code"),
    "harmful advice / general chat": ("harmful_advice", "general_chat"),
    "toxic / neutral comments": ("comments_toxic_text", "comments_neutral_text"),
    "persona statements": ("persona_misaligned_text", "persona_aligned_text"),
}


@dataclass(frozen=True)
class Labelled:
    """Rows of one set; `group` is the prompt, which is never split between seeds and scored rows."""

    rows: list[Row]
    bad: np.ndarray
    group: list[str]


def in_training_half(sha256: str) -> bool:
    """Rows the SAE's training may read; measurements use the others."""
    return int(sha256[:2], 16) % 2 == 0


def load(folder: Path, name: str, per_side: int, seed: int = 0) -> Labelled:
    """`per_side` rows of each label, drawn from the rows that SAE training did not read."""
    rows, bad = [], []
    for file, is_bad in zip(SETS[name], (True, False), strict=True):
        found = [
            r for r in read_rows(folder / f"{file}.jsonl") if isinstance(r, Row) and not in_training_half(r.sha256)
        ]
        random.Random(seed).shuffle(found)
        rows += found[:per_side]
        bad += [is_bad] * len(found[:per_side])
    groups = [str(r.record.get("pair") or r.prompt or r.sha256) for r in rows]
    return Labelled(rows, np.array(bad), groups)


def draw_seeds(data: Labelled, n: int, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of n seed rows a side, and of the rows left to score: no group on both sides of the split."""
    rng = np.random.default_rng(1000 + draw)
    seeds: list[int] = []
    for side in (True, False):
        seeds += rng.permutation(np.flatnonzero(data.bad == side))[:n].tolist()
    used = {data.group[i] for i in seeds}
    rest = [i for i in range(len(data.rows)) if data.group[i] not in used]
    return np.array(seeds), np.array(rest)


def mean_auroc(scores: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean AUROC over draws of (score, bad)."""
    return float(np.mean([auroc(s, b) for s, b in scores]))
