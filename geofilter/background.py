"""Ordinary chat that ships with the package: what banks are judged against, and pairs of model and SAE checked on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from geofilter.files import package_data
from geofilter.records import Row, Turn


def background_rows() -> list[Row]:
    """Ordinary chat that ships with the package: background and reference of every bank."""
    path = package_data("contrast", "background.jsonl")
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        item = json.loads(line)
        rows.append(contrast_row(path, number, (Turn("user", item["prompt"]), Turn("assistant", item["response"]))))
    return rows


def contrast_row(path: Path, number: int, turns: tuple[Turn, ...]) -> Row:
    """A row of a file that ships with the package."""
    text = json.dumps([[t.role, t.content] for t in turns], ensure_ascii=False)
    return Row(path.name, number, hashlib.sha256(text.encode()).hexdigest(), "messages", turns, {})
