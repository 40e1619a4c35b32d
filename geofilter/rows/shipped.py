"""Files that ship with the package: contrast texts, ordinary chat, the demo's rows, paired answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from geofilter.files import package_data
from geofilter.rows.records import Row
from geofilter.rows.turns import Turn


def background_rows() -> list[Row]:
    """Ordinary chat that ships with the package: background and reference of every bank."""
    path = package_data("contrast", "background.jsonl")
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        item = json.loads(line)
        rows.append(contrast_row(path, number, (Turn("user", item["prompt"]), Turn("assistant", item["response"]))))
    return rows


def contrast_answers(name: str) -> Iterator[tuple[str, bool]]:
    """The whole texts that a built-in bank is made from, and whether each is of the bad side."""
    for line in package_data("contrast", f"{name}.jsonl").read_text("utf-8").splitlines():
        pair = json.loads(line)
        yield from ((pair[side], side == "bad") for side in ("bad", "good"))


def contrast_row(path: Path, number: int, turns: tuple[Turn, ...]) -> Row:
    """A row of a file that ships with the package."""
    text = json.dumps([[t.role, t.content] for t in turns], ensure_ascii=False)
    return Row(path.name, number, hashlib.sha256(text.encode()).hexdigest(), "messages", turns, {})


def _example(name: str) -> Path:
    """What lies in examples/ of a source checkout and travels in the installed package."""
    packaged = package_data(name)
    return packaged if packaged.exists() else Path(__file__).parents[2] / "examples" / name


def example_file() -> Path:
    """The demo's data."""
    return _example("mixed_advice.jsonl")


def domain_files() -> list[Path]:
    """The paired health, career and legal answers."""
    return sorted(_example("domains").glob("*.jsonl"))
