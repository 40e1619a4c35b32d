"""How rows are read: their columns, which turns are trained, and which rows are looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geofilter.errors import InputError
from geofilter.rows.fields import NO_FIELDS, Fields, lookup

TRAIN = ("all", "last")
Only = tuple[tuple[str, str], ...]
"""(column, value) that a row must have"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What decides which text of a row is scored."""

    fields: Fields = field(default_factory=lambda: NO_FIELDS, hash=False)
    """the rows' own columns; none for rows of a known shape"""
    train: str = "all"
    """whether a loss falls on all turns of the assistant that the row does not leave out, or the last one only"""
    thinking: bool = False
    """whether it falls on thinking too"""
    only: Only = ()
    """rows that lack one of these are passed over: not scored, and kept as they are"""

    def wants(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has all the values of `only`."""
        return all(as_written(lookup(record, column)) == value for column, value in self.only)


AS_THEY_ARE = Reading()


def as_written(value: Any) -> str:
    """As `--only` has it: text as it stands, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parse_only(texts: tuple[str, ...]) -> Only:
    """The options `COLUMN=VALUE`.

    Raises:
        InputError: one is not of that form.
    """
    found = []
    for text in texts:
        column, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and column and value):
            raise InputError(f"--only {text}: is not COLUMN=VALUE; write label=true for instance")
        found.append((column, value))
    return tuple(found)
