"""The labelled rows that a bank is made from: two files, or the contrast texts of the package."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from geofilter.bank.about import Source
from geofilter.bank.topics import MIN_ROWS
from geofilter.errors import InputError
from geofilter.files import file_sha256, package_data
from geofilter.rows.fields import NO_FIELDS, Fields, topic_of
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, check_fields, usable_rows
from geofilter.rows.shipped import contrast_row
from geofilter.rows.turns import Turn


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


@dataclass(frozen=True, slots=True)
class SeedFiles:
    """Two files of labelled rows."""

    bad: Path
    good: Path
    limit: int | None = None
    """usable rows taken of each, the first ones"""
    fields: Fields = field(default_factory=lambda: NO_FIELDS, hash=False)
    """columns of the rows"""

    def read(self) -> list[Seed]:
        """Read the rows of both.

        Raises:
            InputError: a file cannot be read, holds a row that cannot be used, or has too few rows.
        """
        check_fields((self.bad, self.good), self.fields)
        seeds = []
        for path, is_bad in ((self.bad, True), (self.good, False)):
            n = 0
            for row in usable_rows(path, Reading(self.fields)):
                # The pair's name, the prompt, or the row itself decides what must stay together.
                group = str(row.record.get("pair") or row.prompt or row.sha256)
                seeds.append(Seed(row, is_bad, group, topic_of(row.record)))
                n += 1
                if n == self.limit:
                    break
            if n < MIN_ROWS:
                raise InputError(f"{path}: {n} rows; a bank needs at least {MIN_ROWS} on each side")
        return seeds

    def sources(self, seeds: Sequence[Seed]) -> dict[str, Source]:
        """For the record: where the seeds that were read come from."""
        out: dict[str, Source] = {}
        for side, path, is_bad in (("bad", self.bad, True), ("good", self.good, False)):
            out[side] = {
                "file": path.name, "sha256": file_sha256(path), "rows": sum(s.bad is is_bad for s in seeds)
            }  # fmt: skip
            if self.fields:
                out[side]["fields"] = dict(self.fields)
        return out
