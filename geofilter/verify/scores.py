"""The scores of a run against its features and banks, and its lines against its arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, cast

import numpy as np

from geofilter.arrays import F64
from geofilter.bank.about import Like, Near
from geofilter.bank.neighbours import Neighbours
from geofilter.bank.scorer import Scorer
from geofilter.files import from_json, ordinary
from geofilter.run.banks import find_banks
from geofilter.run.manifest import Manifest
from geofilter.run.names import LINES, SCORES, VECTORS
from geofilter.run.score_lines import LineWriter
from geofilter.run.shard_scores import ShardScores, counted, neighbours_of, score_shard
from geofilter.run.store import Run
from geofilter.run.vectors import Vectors, differing
from geofilter.typed import check_typed
from geofilter.verify.findings import Findings

ROUNDING = 1e-4
"""difference of two scores that is rounding: sums of single-precision activations, on another machine"""
NEAR = 2e-3
"""the same of two similarities, which are rounded to three places"""


def check_scores(run: Run, manifest: Manifest, found: Findings) -> None:
    """Compute every score anew.

    Raises:
        RunError, BankError: files that cannot be believed.
    """
    arrays = run.arrays()
    banks, gone = find_banks(run)
    for text in gone:
        found.doubt(run.path, "", f"{text}, so that scores cannot be computed anew")
    with closing(_Lines(run, manifest, arrays, found)) as lines:
        if gone:
            lines.check(len(arrays["score"]))
            return
        scorers = [Scorer(bank, manifest["scorer"]) for bank in banks]
        neighbours, vectors = neighbours_of(scorers), Vectors.of(run)
        writer = LineWriter(scorers, [info["path"] for info in manifest["data"]])
        start, right = 0, True
        for shard in run.shards():
            here = slice(start, start + len(shard.pooled))
            start = here.stop
            scored = score_shard(shard, scorers, neighbours)
            step = max(1 / len(scorer.bank.reference) for scorer in scorers)
            wanted = [from_json(line) for line in writer.lines(scored).split(b"\n")[:-1]]
            lines.check(len(shard.pooled), wanted, step, partial(_similarity, scored, neighbours))
            if vectors is not None and (row := differing(vectors, shard.pooled, here.start)) is not None:
                found.doubt(run.path / VECTORS, f"row {here.start + row + 1}", "is not what its features give")
                vectors = None  # one is told
            place = _differing(scored, scorers, {name: array[here] for name, array in arrays.items()})
            if right and place is not None:
                name, row = place
                found.doubt(run.path / SCORES, f"{name} of row {here.start + row + 1}", "is not what its features give")
                right = False
    if right and start != len(arrays["score"]):
        found.doubt(run.path / SCORES, "", f"has {len(arrays['score'])} rows, the shards {start}")


def _differing(scored: ShardScores, scorers: list[Scorer], stored: dict[str, Any]) -> tuple[str, int] | None:
    """The first array of a shard's scores that is not what is computed now, and the row (0-based) in it."""
    shard = scored.shard
    for name, ours in (
        ("file", shard.file), ("line", shard.line), ("sha256", shard.sha256), ("style", shard.style),
        ("n_tokens", shard.pooled.n_tokens), ("n_turns", shard.n_turns), ("shape", shard.shape),
        *(() if shard.loss is None else (("loss", shard.loss),)),
        *(() if shard.paired is None else (("paired", shard.paired),)),
    ):  # fmt: skip
        if ours.shape != stored[name].shape:
            return name, 0
        if len(differ := np.flatnonzero((ours != stored[name]).reshape(len(ours), -1).any(1))):
            return name, int(differ[0])
    # Under the bank that the run names: two banks may be equal but for rounding.
    score, percentile = counted(scorers, scored.standard, scored.percentile, scored.handicap, stored["bank"])
    less = None if scored.rejected is None else score - scored.rejected
    steps = np.array([1 / len(scorer.bank.reference) for scorer in scorers])[stored["bank"]]
    for name, far in (
        ("score", _far(score, stored["score"], ROUNDING)),
        ("bank", _far(score, scored.score, ROUNDING)),
        ("percentile", _far(percentile, stored["percentile"], 1.5 * steps)),
        ("learnt", (scored.learnt != stored["learnt"]).any(1)),
        *(() if less is None else (("difference", _far(less, stored["difference"], 2 * ROUNDING)),)),
    ):
        if far.any():
            return name, int(np.flatnonzero(far)[0])
    return None


def _far(a: F64, b: F64, limit: Any) -> Any:
    return ~(np.abs(a - b) <= limit * np.maximum(1, np.abs(a)))


class _Lines:
    """The lines of scores.jsonl in step with the scored rows, whatever is known of the file's hash."""

    def __init__(self, run: Run, manifest: Manifest, arrays: dict[str, Any], found: Findings) -> None:
        self._path, self._arrays, self._found = run.path / LINES, arrays, found
        self._files = [info["path"] for info in manifest["data"]]
        self._banks = [bank["name"] for bank in manifest["banks"]]
        self._n, self._right, self._step = 0, True, 0.0
        self._lines = self._read()

    def _read(self) -> Iterator[bytes]:
        try:
            with ordinary(self._path).open("rb") as handle:
                yield from handle
        except OSError:
            self._right = False  # told as a file already

    def check(
        self, n: int, wanted: Sequence[Any] = (), step: float = 0, similarity: Callable[[int, int], float] | None = None
    ) -> None:
        """Hold the lines of the next n rows against the arrays and, where they can be, against what is computed now.

        Args:
            wanted: the lines that are computed now; none where the banks are gone.
            step: by which a percentile may be another for rounding.
            similarity: of one of the rows (0-based) and a labelled row of its bank.
        """
        self._step = step
        for i in range(n):
            line, similar = next(self._lines, b""), None if similarity is None else partial(similarity, i)
            self._n += 1
            if self._right and (why := self._wrong(line, self._n - 1, wanted[i] if wanted else None, similar)):
                self._found.doubt(self._path, f"line {self._n}", why)
                self._right = False  # what follows may be but shifted

    def close(self) -> None:
        """There is no other line."""
        total = len(self._arrays["score"])
        if self._right and self._n == total and next(self._lines, b""):
            self._found.doubt(self._path, f"line {total + 1}", f"the run has {total} scored rows")

    def _wrong(self, line: bytes, i: int, computed: Any, similarity: Callable[[int], float] | None) -> str:
        """What is wrong with the line of row i; empty if nothing is."""
        try:
            got = from_json(line)
        except ValueError as error:
            return f"cannot be read ({error})" if line else f"the run has {len(self._arrays['score'])} scored rows"
        a = self._arrays
        wanted = {
            "file": self._files[a["file"][i]], "line": int(a["line"][i]), "bank": self._banks[a["bank"][i]],
            "sha256": a["sha256"][i].tobytes().hex(), "score": float(a["score"][i]),
            "percentile": float(a["percentile"][i]), "n_tokens": int(a["n_tokens"][i]),
        }  # fmt: skip
        for name, value in wanted.items():
            if not isinstance(got, dict) or got.get(name) != value:
                return f"{name} is not that of {SCORES}"
        if computed is None or computed["bank"] != got["bank"]:  # which is told of where it is more than rounding
            return ""
        if not _same_like(computed.get("like"), got.get("like"), similarity):
            return "like is not what its features give"
        names = (name for name in {**computed, **got} if name not in {*wanted, "like"})
        name = next((name for name in names if not _alike(computed.get(name), got.get(name), self._step)), "")
        return name and f"{name} is not what its features give"


def _similarity(scored: ShardScores, neighbours: Sequence[Neighbours | None], i: int, known: int) -> float:
    """Of row i of a shard and a labelled row of the bank that gave its score."""
    near = neighbours[scored.best[i]]
    return math.nan if near is None else near.similarity(scored.shard.pooled.take(np.array([i])), known)


def _same_like(ours: Like | None, theirs: Any, similarity: Callable[[int], float] | None) -> bool:
    """Whether two `Like` of a row say the same, but for rounding, by which another labelled row may be as near."""
    if ours is None or theirs is None:
        return ours is theirs
    try:
        check_typed(theirs, Like)
    except ValueError:
        return False
    a, b = (cast("dict[str, Near]", of) for of in (ours, theirs))
    return a.keys() == b.keys() and all(
        abs(a[side]["similarity"] - b[side]["similarity"]) <= NEAR
        and (
            a[side]["row"] == b[side]["row"]
            or (similarity is not None and abs(similarity(b[side]["row"]) - a[side]["similarity"]) <= NEAR)
        )
        for side in a
    )


def _alike(a: Any, b: Any, step: float, limit: float = ROUNDING) -> bool:
    """Whether two values of JSON are the same but for rounding.

    Args:
        step: by which a percentile may be another.
    """
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= limit * max(1, abs(a))
    if isinstance(a, dict) and isinstance(b, dict):
        limits = {name: 1.5 * step if name == "percentile" else ROUNDING for name in a}
        return a.keys() == b.keys() and all(_alike(a[name], b[name], step, limit) for name, limit in limits.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_alike(x, y, step) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b
