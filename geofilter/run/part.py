"""A shard that has been scored: its lines, and what of it goes into the arrays and verdicts of the run."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, F64, I32
from geofilter.bank.bank import Bank
from geofilter.bank.neighbours import Neighbours, content_of
from geofilter.bank.scorer import Scorer
from geofilter.bank.space import F16
from geofilter.run.score_lines import LineWriter
from geofilter.run.shard import Shard
from geofilter.run.shard_scores import ShardScores, neighbours_of, score_shard
from geofilter.run.tensors import packed, unpacked
from geofilter.run.vectors import stored
from geofilter.together import scratch_in

_COLUMN, _LINES, _VECTORS, _STYLE, _STANDARD, _NULL = "column.", "lines", "vectors", "style", "standard", "null."
_LOSS = "loss"
LEVEL = 1
"""of packing lines: they are five times as short, and packing takes a twentieth of the time of scoring"""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What scoring has made of a shard of n rows."""

    lines: bytes
    """of scores.jsonl"""
    columns: dict[str, npt.NDArray[Any]]
    """(n, ...) the arrays of scores.safetensors; `source` are positions in `sources`"""
    vectors: F16
    """(n, k) see `run.vectors`"""
    sources: list[str]
    """where the rows say they come from, in the order in which they first do"""
    remarks: dict[str, int]
    """see `Shard.remarks`"""
    n_windowed: int
    """rows of more windows than one"""
    n_response_tokens: int
    style: F32
    """(p, 9) of the rows on which the verdicts are given"""
    standard: F64
    """(banks, p) their standard scores"""
    null: list[F64]
    """(banks,) of (p, 20): the same under scores that know nothing, see `Scorer.null`"""
    loss: F32
    """(p, 2) see `Shard.loss`; (p, 0) of a run without it"""

    def save(self, path: Path, key: str) -> None:
        """Write a file that is there whole or not at all; after a power cut it may be neither, which `load` sees.

        Args:
            key: of what the scores depend on.
        """
        arrays: dict[str, Any] = {_COLUMN + name: array for name, array in self.columns.items()}
        arrays |= {_NULL + str(b): null for b, null in enumerate(self.null)}
        arrays |= {_VECTORS: self.vectors, _STYLE: self.style, _STANDARD: self.standard, _LOSS: self.loss}
        arrays[_LINES] = np.frombuffer(zlib.compress(self.lines, LEVEL), np.uint8)
        counts = [self.n_windowed, self.n_response_tokens]
        # Escaped to ASCII: a name may be half a surrogate pair.
        about = json.dumps({"sources": self.sources, "remarks": self.remarks, "counts": counts})
        scratch = scratch_in(path.parent)
        try:
            scratch.write_bytes(packed(arrays, {"key": key, "part": about}))
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)

    @classmethod
    def is_of(cls, path: Path, key: str) -> bool:
        """Whether a file says it is of a key; that all of it is whole, only `load` sees."""
        from safetensors import SafetensorError

        try:
            return bool(unpacked(path, [])[0]["key"] == key)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError):
            return False

    @classmethod
    def load(cls, path: Path, key: str) -> Part | None:
        """Read one; None where there is none that can be believed and is of this key."""
        from safetensors import SafetensorError

        try:
            about, a = unpacked(path)
            if about["key"] != key:
                return None
            said = json.loads(about["part"])
            n_windowed, n_response_tokens = said["counts"]
            columns = {name.removeprefix(_COLUMN): of for name, of in a.items() if name.startswith(_COLUMN)}
            null = [a[_NULL + str(b)] for b in range(len(a[_STANDARD]))]
            lines = zlib.decompress(a[_LINES].tobytes())
            return cls(
                lines, columns, a[_VECTORS], said["sources"], said["remarks"], n_windowed, n_response_tokens,
                a[_STYLE], a[_STANDARD], null, a[_LOSS],
            )  # fmt: skip
        except (OSError, KeyError, TypeError, ValueError, zlib.error, SafetensorError):
            return None


class PartMaker:
    """Scores shards.

    Args:
        paths: of the run's inputs, as its lines are to name them.
        stride: every so manieth row of the run is one on which the verdicts are given, unless a bank was learnt from
            it.
    """

    def __init__(self, banks: Sequence[Bank], scorer: str, paths: Sequence[str], stride: int) -> None:
        self.name, self.paths, self.stride = scorer, paths, stride
        self.scorers = [Scorer(bank, scorer) for bank in banks]
        self.topics = list(dict.fromkeys(name for bank in banks for name in bank.topics.names))
        self.content = content_of(banks[0])

    @cached_property
    def _neighbours(self) -> list[Neighbours | None]:
        return neighbours_of(self.scorers)

    @cached_property
    def _lines(self) -> LineWriter:
        return LineWriter(self.scorers, self.paths)

    def of(self, shard: Shard, before: int) -> Part:
        """Score a shard.

        Args:
            before: scored rows of the run that are before it.

        Raises:
            BankError: a bank gives a score that is no number.
        """
        scored = score_shard(shard, self.scorers, self._neighbours)
        n = len(scored.best)
        picked = np.flatnonzero(((np.arange(n) + before) % self.stride == 0) & ~scored.learnt.any(1))
        sources, source = _numbered(shard.source)
        nulls = [scorer.null for scorer in self.scorers]
        return Part(
            self._lines.lines(scored),
            {**self._columns(scored), "source": source, "learnt": scored.learnt},
            stored(self.content.of(shard.pooled)),
            sources,
            dict(shard.remarks),
            int((shard.windows > 1).sum()),
            int(shard.response_tokens.sum()),
            shard.style[picked],
            scored.standard[:, picked],
            [null.standard(scored.excess.of(null.linear, picked)) for null in nulls],
            shard.style[picked, :0] if shard.loss is None else shard.loss[picked],
        )

    def _columns(self, scored: ShardScores) -> dict[str, npt.NDArray[Any]]:
        shard = scored.shard
        more: dict[str, npt.NDArray[Any]] = {} if shard.loss is None else {"loss": shard.loss}
        if shard.paired is not None and scored.rejected is not None:
            difference = np.round(scored.score, 6) - np.round(scored.rejected, 6)
            more |= {"difference": np.round(difference, 6), "paired": shard.paired}
        return {
            "file": shard.file,
            "line": shard.line,
            "sha256": shard.sha256,
            "score": np.round(scored.score, 6),
            "percentile": np.round(scored.place, 6),
            "bank": scored.best.astype(np.int32),
            "topic": scored.topic(self.scorers, self.topics),
            "style": shard.style,
            "n_tokens": shard.pooled.n_tokens,
            "n_turns": shard.n_turns,
            "shape": shard.shape,
            **more,
        }


def _numbered(names: Sequence[str]) -> tuple[list[str], I32]:
    """Different names in the order in which they come, and the position (n,) of each among them."""
    known: dict[str, int] = {}
    numbers = np.array([known.setdefault(name, len(known)) for name in names], np.int32)
    return list(known), numbers
