"""Pieces of text in which features fire, and pieces in which they are silent: by these features are named and tried.

Response tokens are cut into pieces of `PIECE` tokens. Half of the rows are for naming, the others for trying a name, so
that no row is in both. After Bills et al. (2023) and the detection score of Paulo et al. (2024, arXiv 2410.13928).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F64
from geofilter.encode.tokens import Encoded
from geofilter.rows.records import Row

I64 = npt.NDArray[np.int64]

PIECE = 32
"""tokens"""
STRONG = 1 / 3
"""of a feature's highest activation, from which on it counts as firing in a piece"""
STRONGEST, MIDDLING = 8, 8
"""pieces that a feature is named by at most"""
FEWEST = 6
"""pieces without which a feature is not named"""
TRIED, FEWEST_TRIED = 12, 10
"""pieces of either kind that a name is tried on, and without which it is not"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some response tokens of a row, one after the other."""

    row: int
    """position of its row"""
    source: str
    """file of its row"""
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A piece, and where the feature fires in it."""

    text: str
    strong: list[tuple[int, int]]
    """[start, end) in characters of the tokens with half of the piece's highest activation or more"""
    peak: float
    """highest activation in it over the feature's highest anywhere"""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one feature is named by and tried on."""

    named_by: list[Shown]
    """the strongest ones first, then middling ones, each of another row"""
    on: list[str]
    """pieces of other rows in which it fires, strong and middling ones"""
    off: list[str]
    """pieces of such rows in which it does not fire at all, of the same files as `on` as far as there are some"""


@dataclass
class ContextCollector:
    """Keeps where some features fire while texts are read.

    Args:
        features: that are to be named.
        d_sae: features of the SAE.
    """

    features: Sequence[int]
    d_sae: int
    pieces: list[Piece] = field(default_factory=list)
    _place: I64 = field(init=False)
    _piece: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """the piece of each response token of the rows that are read now"""
    _span: I64 = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """(n, 2) of each of them, in characters of the piece"""
    _found: list[tuple[I64, I64, F64, I64]] = field(default_factory=list)
    """place of the feature, piece, activation, span (n, 2) of every activation"""
    _rows: int = 0

    def __post_init__(self) -> None:
        self._place = np.full(self.d_sae, -1, np.int64)
        self._place[np.asarray(self.features, np.int64)] = np.arange(len(self.features))

    def start(self, rows: Sequence[Row], encoded: Sequence[Encoded]) -> None:
        """Say which rows are read next."""
        pieces, spans = [], []
        for row, tokens in zip(rows, encoded, strict=True):
            for low in range(0, len(tokens.spans), PIECE):
                part = tokens.spans[low : low + PIECE].astype(np.int64)
                first = int(part[:, 0].min())
                pieces.append(np.full(len(part), len(self.pieces)))
                spans.append(part - first)
                self.pieces.append(Piece(self._rows, row.file, row.response[first : int(part[:, 1].max())]))
            self._rows += 1
        self._piece = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
        self._span = np.concatenate(spans) if spans else np.zeros((0, 2), np.int64)

    def observe(self, tokens: I64, features: I64, values: npt.NDArray[np.float32]) -> None:
        """Take in activations, see `reader.Observer`."""
        place = self._place[features]
        mine = (place >= 0) & (values > 0)
        at = tokens[mine]
        self._found.append((place[mine], self._piece[at], values[mine].astype(np.float64), self._span[at]))

    def contexts(self) -> Contexts:
        """What has been found."""
        found = self._found or [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 2), np.int64))]
        place, piece, value, span = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.argsort(place, kind="stable")
        bounds = np.searchsorted(place[order], np.arange(len(self.features) + 1))
        return Contexts(tuple(self.features), self.pieces, bounds, piece[order], value[order], span[order], self._rows)


@dataclass(frozen=True, slots=True, eq=False)
class Contexts:
    """Where some features fire in some texts."""

    features: tuple[int, ...]
    pieces: Sequence[Piece]
    bounds: I64
    """(features + 1,) of each feature's activations in the arrays below"""
    piece: I64
    value: F64
    span: I64
    """(n, 2)"""
    rows: int

    def drawn(self, feature: int, seed: int = 0) -> Drawn | None:
        """What a feature is named by and tried on; None if it fires in too few of the texts.

        Args:
            seed: of the draws; the same seed puts the same rows on the naming side, for every feature.
        """
        at = slice(*self.bounds[self.features.index(feature) :][:2].tolist())
        piece, value, span = self.piece[at], self.value[at], self.span[at]
        if not len(piece):
            return None
        highest = float(value.max())
        for_naming = np.random.default_rng(seed).permutation(self.rows) % 2 == 0
        peak = np.zeros(len(self.pieces))
        np.maximum.at(peak, piece, value)
        strong = np.flatnonzero(peak >= STRONG * highest)
        strong = strong[np.argsort(-peak[strong], kind="stable")]
        naming = self._of_rows(strong, for_naming)
        tried = self._of_rows(strong, ~for_naming)
        rng = np.random.default_rng([seed, feature])
        on = tried[_spread(len(tried), TRIED)]
        off = self._off(on, np.flatnonzero(peak == 0), ~for_naming, rng)
        if len(naming) < FEWEST or min(len(on), len(off)) < FEWEST_TRIED:
            return None
        rest = naming[STRONGEST:]
        shown = [*naming[:STRONGEST].tolist(), *rest[_spread(len(rest), MIDDLING)].tolist()]
        return Drawn(
            [self._shown(i, piece == i, value, span, highest) for i in shown],
            [self.pieces[i].text for i in on.tolist()],
            [self.pieces[i].text for i in off],
        )

    def _of_rows(self, pieces: I64, wanted: npt.NDArray[np.bool_]) -> I64:
        """Those of some rows, the first one of each row, and of like texts the first."""
        rows, texts, out = set(), set(), []
        for i in pieces.tolist():
            piece = self.pieces[i]
            if wanted[piece.row] and piece.row not in rows and piece.text not in texts:
                rows.add(piece.row)
                texts.add(piece.text)
                out.append(i)
        return np.array(out, np.int64)

    def _off(self, on: I64, silent: I64, wanted: npt.NDArray[np.bool_], rng: np.random.Generator) -> list[int]:
        """As many silent pieces, each of the file of another of `on` if there is one left."""
        free = self._of_rows(rng.permutation(silent), wanted).tolist()
        out: list[int] = []
        for i in on.tolist():
            same = (k for k, j in enumerate(free) if self.pieces[j].source == self.pieces[i].source)
            if free:
                out.append(free.pop(next(same, 0)))
        return out

    def _shown(self, number: int, mine: npt.NDArray[np.bool_], value: F64, span: I64, highest: float) -> Shown:
        values = value[mine]
        most = float(values.max())
        strong = sorted(set(map(tuple, span[mine][values >= most / 2].tolist())))
        return Shown(self.pieces[number].text, strong, most / highest)


def _spread(n: int, most: int) -> I64:
    """Up to so many of n places, evenly from the first to the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)) if n else np.zeros(0, np.int64)
