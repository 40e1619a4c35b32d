"""The scores of a run against its features and banks, and its lines against its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from geofilter.arrays import F64
from geofilter.bank.scorer import Scorer
from geofilter.run.banks import find_banks
from geofilter.run.manifest import Manifest, ScoreLine
from geofilter.run.score import score_shard
from geofilter.run.shard import Shard
from geofilter.run.store import LINES, SCORES, Run
from geofilter.verify.findings import Findings

ROUNDING = 1e-4
"""difference of two scores that is rounding: sums of single-precision activations, on another machine"""


def check_scores(run: Run, manifest: Manifest, found: Findings) -> None:
    """Compute every score anew.

    Raises:
        RunError, BankError: files that cannot be believed.
    """
    arrays = run.arrays()
    banks, gone = find_banks(run)
    for text in gone:
        found.doubt(run.path, "", f"{text}: scores cannot be computed anew")
    _check_lines(run, manifest, arrays, found)
    if gone:
        return
    scorers = [Scorer(bank, manifest["scorer"]) for bank in banks]
    start = 0
    for shard in run.shards():
        here = slice(start, start + len(shard.pooled))
        start = here.stop
        place = _differing(shard, scorers, {name: array[here] for name, array in arrays.items()})
        if place is not None:
            name, row = place
            found.doubt(run.path / SCORES, f"{name} of row {here.start + row + 1}", "is not what its features give")
            return
    if start != len(arrays["score"]):
        found.doubt(run.path / SCORES, "", f"has {len(arrays['score'])} rows, the shards {start}")


def _differing(shard: Shard, scorers: list[Scorer], stored: dict[str, Any]) -> tuple[str, int] | None:
    """The first array of a shard's scores that is not what is computed now, and the row (0-based) in it."""
    for name, ours in (
        ("file", shard.file), ("line", shard.line), ("sha256", shard.sha256), ("style", shard.style),
        ("n_tokens", shard.pooled.n_tokens), ("n_turns", shard.n_turns), ("shape", shard.shape),
    ):  # fmt: skip
        if ours.shape != stored[name].shape:
            return name, 0
        if len(differ := np.flatnonzero((ours != stored[name]).reshape(len(ours), -1).any(1))):
            return name, int(differ[0])
    scored = score_shard(shard, scorers)
    each = np.arange(len(scored.best))
    # Under the bank that the run names: two banks may be equal but for rounding.
    score, percentile = (of[stored["bank"], each] for of in (scored.standard, scored.percentile))
    best = scored.standard[scored.best, each]
    steps = np.array([1 / len(scorer.bank.reference) for scorer in scorers])[stored["bank"]]
    for name, far in (
        ("score", _far(score, stored["score"], ROUNDING)),
        ("bank", _far(score, best, ROUNDING)),
        ("percentile", _far(percentile, stored["percentile"], 1.5 * steps)),
        ("learnt", (scored.learnt != stored["learnt"]).any(1)),
    ):
        if far.any():
            return name, int(np.flatnonzero(far)[0])
    return None


def _far(a: F64, b: F64, limit: Any) -> Any:
    return ~(np.abs(a - b) <= limit * np.maximum(1, np.abs(a)))


def _check_lines(run: Run, manifest: Manifest, arrays: dict[str, Any], found: Findings) -> None:
    files, banks = [info["path"] for info in manifest["data"]], [bank["name"] for bank in manifest["banks"]]
    lines: Iterator[ScoreLine | None] = run.scores()
    for i, line in enumerate(zip_longest(lines, range(len(arrays["score"])))):
        got, position = line
        if got is None or position is None:
            found.doubt(run.path / LINES, f"line {i + 1}", f"the run has {len(arrays['score'])} scored rows")
            return
        bank = banks[arrays["bank"][i]]
        wanted = {
            "file": files[arrays["file"][i]], "line": int(arrays["line"][i]), "bank": bank,
            "sha256": arrays["sha256"][i].tobytes().hex(), "score": float(arrays["score"][i]),
            "percentile": float(arrays["percentile"][i]), "n_tokens": int(arrays["n_tokens"][i]),
        }  # fmt: skip
        for name, value in wanted.items():
            if got.get(name) != value:
                found.doubt(run.path / LINES, f"line {i + 1}", f"{name} is not that of {SCORES}")
                return
