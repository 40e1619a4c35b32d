"""tests/cases: rows of every kind beside the exact text that is scored of them, rendered and masked."""

import itertools
import json
from pathlib import Path
from typing import Any

from geofilter.encode.rendering import render
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.rows.lines import read_lines
from geofilter.rows.reading import Reading
from geofilter.rows.records import Unusable, parse_line
from geofilter.rows.row_error import RowError
from helpers.families import template
from helpers.tiny import CHATML, make_tokenizer

CASES = Path(__file__).parents[1] / "cases"
NAMES = sorted(path.name.removesuffix(".expected.json") for path in CASES.glob("*.expected.json"))


def expected(name: str) -> dict[str, Any]:
    """Title, options and what is expected of each row."""
    return json.loads((CASES / f"{name}.expected.json").read_text("utf-8"))


FILES = sorted((CASES / "files").iterdir())
"""the same rows in files of every format, see files.expected.json"""


def outcomes(path: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """What becomes of each row of a file: its rendered text and what is scored of it, or why it is not scored."""
    only = tuple((column, value) for column, value in about.get("only", ()))
    reading = Reading(train=about.get("train", "all"), thinking=about.get("thinking", False), only=only)
    tokenizer = make_tokenizer(template(about["template"]) if "template" in about else CHATML)
    out: list[dict[str, Any]] = []
    for number, line in enumerate(read_lines(path), start=1):
        row = parse_line(line, path.name, number, reading)
        if row is None:
            out.append({"passed_over": True})
            continue
        if isinstance(row, Unusable):
            out.append({"error": row.error})
            continue
        found = encode_rows([row], tokenizer, about.get("max_tokens", 1024))[0]
        if isinstance(found, RowError):
            out.append({"error": str(found)})
            continue
        told = [*row.remarks, *(["special"] if found.marked else [])]
        outcome = {"rendered": render(row, tokenizer)[0], "scored": masked(tokenizer, found)}
        if len(found.windows) > 1:
            outcome["windows"] = ["".join(masked(tokenizer, window)) for window in found.windows]
        out.append({**outcome, **({"told": told} if told else {})})
    return out


def masked(tokenizer: Any, tokens: Encoded | Any) -> list[str]:
    """The runs of response tokens, as text."""
    pairs = zip(tokens.ids, tokens.mask, strict=True)
    runs = itertools.groupby(pairs, key=lambda pair: pair[1])
    return [tokenizer.decode([token for token, _ in run]) for scored, run in runs if scored]
