"""What a bank's toxic features look like in its own rows: short pieces of text around where each is strongest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from geofilter.arrays import F64, I32
from geofilter.bank.about import Excerpt
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.build.seeds import Seed
from geofilter.encode.reader import FeatureReader
from geofilter.encode.tokens import Encoded
from geofilter.rows.records import Row
from geofilter.text import inert

PER_FEATURE = 2
"""pieces shown of each feature, each of another row"""
LENGTH = 160
"""characters of a piece at most"""
STRONG = 0.7
"""share of the row's highest activation from which on a token counts as strong"""
ENOUGH = 0.5
"""share of the strongest row's activation below which another row is no example"""


def excerpts(
    reader: FeatureReader,
    features: I32,
    seeds: Sequence[Seed],
    encode: Callable[[Row], Encoded],
    pooled: Pooled,
    background: Background,
) -> list[list[Excerpt]]:
    """For each feature up to two pieces of the seed rows that it is strongest in, strongest first.

    Args:
        encode: tokenises a row as it was when its features were pooled.
        pooled: features of the seed rows.
    """
    x = background.log_matrix(pooled).tocsc()
    wanted: dict[int, list[tuple[int, int]]] = {}
    for place, feature in enumerate(features.tolist()):
        span = slice(x.indptr[feature], x.indptr[feature + 1])
        rows, value = x.indices[span], x.data[span]
        for rank, i in enumerate(np.argsort(-value, kind="stable")[:PER_FEATURE].tolist()):
            if value[i] >= ENOUGH * value.max():
                wanted.setdefault(int(rows[i]), []).append((place, rank))
    found: list[dict[int, Excerpt]] = [{} for _ in features]
    for i, places in sorted(wanted.items()):
        seed, encoded = seeds[i], encode(seeds[i].row)
        _, tokens = reader.read_tokens(encoded)
        for place, rank in places:
            mine = tokens.feature == features[place]
            value = np.zeros(len(encoded.ids))
            value[tokens.position[tokens.token[mine]]] = tokens.value[mine]
            if value.any():
                text, strong = piece(reader.tokenizer, encoded, value)
                found[place][rank] = {"text": text, "strong": strong, "bad": seed.bad, "topic": seed.kind}
    return [[by_rank[rank] for rank in sorted(by_rank)] for by_rank in found]


def piece(tokenizer: Any, row: Encoded, value: F64) -> tuple[str, list[list[int]]]:
    """The text around the strongest token: whole tokens on one line, what is no character of a text replaced.

    Args:
        value: (tokens of the row,) activation, 0 outside the response.

    Returns:
        the text, and [start, end) of the strongest tokens in it.
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
    return whole, strong
