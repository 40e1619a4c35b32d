"""The labelled rows that a bank is made from: two files, or the contrast texts of the package."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from geofilter.bank.topics import MIN_ROWS
from geofilter.errors import InputError
from geofilter.files import package_data
from geofilter.rows.fields import NO_FIELDS, Fields
from geofilter.rows.records import Row, check_fields, usable_rows
from geofilter.rows.shapes import Turn
from geofilter.rows.shipped import contrast_row


@dataclass(frozen=True, slots=True)
class Seed:
    """One labelled row of a bank's source."""

    row: Row
    bad: bool
    group: str
    """rows with the same prompt or pair share one, rows of a built-in bank those of the same topic; they are never
    split between fitting and checking"""
    kind: str = ""
    """the topic that scores are given for, where its source says so"""


def built_in_seeds(name: str) -> list[Seed]:
    """The contrast pairs of a built-in bank, as rows."""
    path = package_data("contrast", f"{name}.jsonl")
    table = tomllib.loads(package_data("contrast", "topics.toml").read_text("utf-8"))[name]
    kind_of = {topic: kind for kind, topics in table.items() for topic in topics}
    seeds = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        pair = json.loads(line)
        for side in ("bad", "good"):
            turns: tuple[Turn, ...] = (Turn("text", pair[side]),)
            if "prompt" in pair:
                turns = (Turn("user", pair["prompt"]), Turn("assistant", pair[side]))
            seeds.append(Seed(contrast_row(path, number, turns), side == "bad", pair["topic"], kind_of[pair["topic"]]))
    return seeds


def file_seeds(bad: Path, good: Path, limit: int | None = None, fields: Fields = NO_FIELDS) -> list[Seed]:
    """Labelled rows of two files, at most `limit` usable ones of each.

    Raises:
        InputError: a file cannot be read, holds a row that cannot be used, or has too few rows.
    """
    check_fields((bad, good), fields)
    seeds = []
    for path, is_bad in ((bad, True), (good, False)):
        n = 0
        for row in usable_rows(path, fields):
            # The pair's name, the prompt, or the row itself decides what must stay together.
            group = str(row.record.get("pair") or row.prompt or row.sha256)
            topic = row.record.get("topic")
            seeds.append(Seed(row, is_bad, group, "" if topic is None else str(topic)))
            n += 1
            if n == limit:
                break
        if n < MIN_ROWS:
            raise InputError(f"{path}: {n} rows; a bank needs at least {MIN_ROWS} on each side")
    return seeds
