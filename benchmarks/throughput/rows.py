"""The rows that are read: a file of JSON lines, of which each row fits into one pass."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.build.seeds import built_in_seeds
from geofilter.config import BUILT_IN
from geofilter.encode.tokens import Encoded, encode_row
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Row, parse_line, usable_rows
from geofilter.rows.row_error import RowError
from geofilter.rows.shipped import background_rows

MAX_TOKENS = 1024


def made_up(n: int) -> Iterator[dict[str, Any]]:
    """Pieces of the chat that ships as conversations of about 100 to 400 tokens, log-normal around 220.

    A question is such a piece too, so that rows have no more than the template's first words in common.
    """
    text = "\n\n".join(row.response for row in background_rows())
    rng = np.random.default_rng(0)
    for size in np.clip(rng.lognormal(np.log(850), 0.4, n), 350, 1600).astype(int):
        asked = int(rng.integers(60, 240))
        start, other = (int(rng.integers(len(text) - length)) for length in (size, asked))
        yield {
            "messages": [
                {"role": "user", "content": text[other : other + asked]},
                {"role": "assistant", "content": text[start : start + size]},
            ]
        }


def shipped() -> list[dict[str, Any]]:
    """The ordinary chat and the contrast texts of the package."""
    rows = [*background_rows(), *(seed.row for name in BUILT_IN for seed in built_in_seeds(name))]
    return [
        {"text": row.turns[0].content} if row.turns[0].role == "text" else
        {"messages": [{"role": turn.role, "content": turn.content} for turn in row.turns]}
        for row in rows
    ]  # fmt: skip


def of_files(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of data files, of any format that a scan reads."""
    return [dict(row.record) for path in paths for row in usable_rows(path)]


def write(records: Sequence[dict[str, Any]], n: int, tokenizer: Any, path: Path) -> int:
    """Write n of the records, drawn at random and in the order drawn, so that the first ones are a sample of all.

    Returns:
        how many were left out, since no pass can hold them or they cannot be scored.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = left_out = 0
    with path.open("w", encoding="utf-8") as out:
        for i in np.random.default_rng(0).permutation(len(records)):
            line = json.dumps(records[i], ensure_ascii=False)
            row = parse_line(line.encode(), path.name, 1)
            if written == n:
                break
            try:
                fits = isinstance(row, Row) and len(encode_row(row, tokenizer, MAX_TOKENS).windows) == 1
            except RowError:
                fits = False
            if fits:
                out.write(line + "\n")
            written, left_out = written + fits, left_out + (not fits)
    return left_out


def parsed(path: Path) -> list[Row]:
    """The rows of the file, which all are usable."""
    rows = [parse_line(line, str(path), number) for number, line in enumerate(read_lines(path), start=1)]
    return [row for row in rows if isinstance(row, Row)]


def about(rows: Sequence[Encoded]) -> dict[str, Any]:
    """Numbers of tokens, and what part of them is in prefixes that an earlier row has too."""
    seen: set[int] = set()
    for row in rows:
        at = 0
        for token in row.ids:
            seen.add(at := hash((at, token)))
    lengths = np.array([len(row.ids) for row in rows])
    return {
        "rows": len(rows),
        "tokens": int(lengths.sum()),
        "response_tokens": sum(row.n_response for row in rows),
        "lengths": dict(zip(("p5", "p50", "p95"), np.percentile(lengths, [5, 50, 95]).round().tolist(), strict=True)),
        "in_prefixes_of_others": round(1 - len(seen) / int(lengths.sum()), 4),
    }
