"""What a check finds: what was checked, and what is in doubt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict

from geofilter.errors import GeofilterError


class Doubt(TypedDict):
    """Something that is not as it should be."""

    file: str
    place: str
    """line, row, array or field in it; empty where the whole file is meant"""
    text: str


@dataclass(slots=True)
class Findings:
    """Doubts, and sentences on what was found right."""

    doubts: list[Doubt] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    def doubt(self, file: object, place: str, text: str) -> None:
        """Note something that is not right."""
        self.doubts.append({"file": str(file), "place": place, "text": text})

    def said(self, error: GeofilterError, file: object = "") -> None:
        """Note an error, which names its file itself where none is given."""
        named, _, text = str(error).partition(": ")
        if file and named != str(file):
            self.doubt(file, "", str(error))
            return
        named, _, line = named.partition(", line ")
        self.doubt(named, line and f"line {line}", text)

    @contextmanager
    def part(self, text: str) -> Iterator[None]:
        """Check something; the sentence is told where no doubt came up. An error is a doubt."""
        before = len(self.doubts)
        try:
            yield
        except GeofilterError as error:
            self.said(error)
        if len(self.doubts) == before:
            self.checked.append(text)
