"""What a bank's toxic features look like in its own rows: short pieces of text around where each is strongest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import I32
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded
from geofilter.text import inert

PER_FEATURE = 2
"""pieces shown of each feature, each of another row"""
LENGTH = 160
"""characters of a piece at most"""
STRONG = 0.7
"""share of the row's highest activation from which on a token counts as strong"""
ENOUGH = 0.5
"""share of the strongest row's activation below which another row is no example"""


def exhibits(
    reader: FeatureReader, features: I32, row: Callable[[int], Encoded], pooled: Pooled, background: Background
) -> list[list[dict[str, Any]]]:
    """For each feature up to two pieces of the rows that it is strongest in, strongest first.

    Args:
        row: gives a row, by its place in `pooled`.

    Returns:
        for each feature a list of `row` (its place), `text` and `strong`: [start, end) of the strongest tokens in it.
    """
    x = background.log_matrix(pooled).tocsc()
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, feature in enumerate(features.tolist()):
        span = slice(x.indptr[feature], x.indptr[feature + 1])
        rows, value = x.indices[span], x.data[span]
        for rank, i in enumerate(np.argsort(-value, kind="stable")[:PER_FEATURE].tolist()):
            if value[i] >= ENOUGH * value.max():
                wanted.setdefault(int(rows[i]), []).append((place, rank))
    found: list[dict[int, dict[str, Any]]] = [{} for _ in features]
    for i, places in sorted(wanted.items()):
        encoded = row(i)
        _, tokens = reader.read_tokens(encoded)
        for place, rank in places:
            mine = tokens.feature == features[place]
            value = np.zeros(len(encoded.ids))
            value[tokens.position[tokens.token[mine]]] = tokens.value[mine]
            if value.any():
                found[place][rank] = {"row": i, **piece(reader.tokenizer, encoded, value)}
    return [[by_rank[rank] for rank in sorted(by_rank)] for by_rank in found]


def piece(tokenizer: Any, row: Encoded, value: npt.NDArray[np.float64]) -> dict[str, Any]:
    """The text around the strongest token: whole tokens on one line, what is no character of a text replaced.

    Args:
        value: (tokens of the row,) activation, 0 outside the response.
    """

    def text(first: int, end: int) -> str:
        # A space for each: spans count characters.
        return inert(re.sub(r"\s", " ", str(tokenizer.decode(list(row.ids[first:end])))))

    peak = int(value.argmax())
    first, end = peak, peak + 1
    grows = {(1, 0): True, (0, 1): True}
    while any(grows.values()):
        for before, after in grows:
            a, b = first - before, end + after
            inside = a >= 0 and b <= len(row.ids) and all(row.mask[a:b])
            grows[before, after] = inside and len(text(a, b)) <= LENGTH
            if grows[before, after]:
                first, end = a, b
    whole = text(first, end)[:LENGTH]
    strong: list[list[int]] = []
    for i in np.flatnonzero(value >= STRONG * value[peak]).tolist():
        if first <= i < end:
            a, b = len(text(first, i)) if i > first else 0, min(len(text(first, i + 1)), LENGTH)
            a += len(whole[a:b]) - len(whole[a:b].lstrip())
            if strong and not whole[strong[-1][1] : a].strip():
                strong[-1][1] = b
            elif b:  # a token that is a part of a character has no width of its own
                strong.append([min(a, b - 1), b])
    return {"text": whole, "strong": strong}
