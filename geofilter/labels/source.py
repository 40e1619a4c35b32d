"""Where labels come from: a field of the rows themselves, or a file of labels."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from geofilter.errors import InputError
from geofilter.rows.fields import lookup
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Row

SHOWN_VALUES = 8
_BAD: dict[Any, bool] = {"bad": True, "good": False, 1: True, 0: False}  # True and False equal 1 and 0


class Labeller(Protocol):
    """Says whether a row is bad; None when it has no label."""

    text: str
    """the option as it was given"""

    def of(self, row: Row) -> bool | None:
        """The row's label."""

    def seen(self) -> str:
        """What was found instead, for an error when a side is empty."""

    def unused(self) -> int:
        """Labels that met no row."""


def parse(text: str, option: str = "--labels") -> Labeller:
    """`FIELD=VALUE[,VALUE...]`, or the path of a labels file; a file of that name wins.

    Args:
        option: what errors call it.

    Raises:
        InputError: neither, or a labels file that cannot be used.
    """
    if Path(text).is_file():
        return FileLabels(text)
    name, sign, values = text.partition("=")
    if not sign:
        raise InputError(
            f"{option} {text}: no such file, and not FIELD=VALUE; write label=misaligned for instance, or give a JSONL "
            'file of {"sha256", "label"} or {"file", "line", "label"}'
        )
    wanted = {v.strip() for v in values.split(",")} - {""}
    if not name.strip() or not wanted:
        raise InputError(f"{option} {text}: write FIELD=VALUE, label=misaligned for instance")
    return FieldLabels(text, name.strip(), frozenset(wanted))


@dataclass(slots=True)
class FieldLabels:
    """A row is bad when its field has one of the values; without the field (or with null) it has no label."""

    text: str
    name: str
    values: frozenset[str]
    _seen: Counter[str] = field(default_factory=Counter)
    _fields: set[str] = field(default_factory=set)

    def of(self, row: Row) -> bool | None:
        """The row's label.

        Raises:
            InputError: the field holds a list or an object.
        """
        value = lookup(row.record, self.name)
        self._fields.update(row.record)
        if value is None:
            return None
        if isinstance(value, list | dict):
            raise InputError(
                f"{row.file}, line {row.line}: the field {self.name} holds a {type(value).__name__}, not one value; "
                "name another field"
            )
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        written = value if isinstance(value, str) else json.dumps(value)
        self._seen[written] += 1
        return written in self.values

    def seen(self) -> str:
        """The values met, commonest first; the rows' fields when none has this one."""
        if not self._seen:
            return f"no scored row has the field {self.name}; the rows have {', '.join(sorted(self._fields))}"
        most = self._seen.most_common(SHOWN_VALUES)
        more = f" and {len(self._seen) - len(most)} more values" if len(self._seen) > len(most) else ""
        return f"the field {self.name} holds {', '.join(f'{v} ({n})' for v, n in most)}{more}"

    def unused(self) -> int:
        """Every label is a row's own."""
        return 0


class FileLabels:
    """Labels of a JSONL file: `{"sha256", "label"}`, or `{"file", "line", "label"}`; null is no label.

    A label with a sha256 is for every row of those bytes, wherever it stands, also when it names file and line.
    """

    def __init__(self, text: str) -> None:
        """Read the file.

        Raises:
            InputError: a line that is no label, or two that contradict each other.
        """
        self.text = text
        self._labels: dict[Any, tuple[bool, int]] = {}
        self._used: set[Any] = set()
        self._resolved: dict[str, str] = {}
        for number, line in enumerate(read_lines(Path(text)), start=1):
            if line.strip():
                self._add(line, number)

    def _add(self, line: bytes, number: int) -> None:
        where = f"{self.text}, line {number}"
        try:
            entry = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise InputError(f"{where}: not JSON; mend or remove the line") from None
        if not isinstance(entry, dict) or "label" not in entry:
            raise InputError(f'{where}: no label; a line is {{"sha256", "label"}} or {{"file", "line", "label"}}')
        label = entry["label"]
        if label is None:
            return
        if not isinstance(label, str | int | float) or label not in _BAD:
            raise InputError(
                f'{where}: the label {json.dumps(label)} is not true, false, 1, 0, "bad" or "good"; to take a field of '
                "the rows as their label write --labels FIELD=VALUE"
            )
        key: Any
        if isinstance(entry.get("sha256"), str):
            key = entry["sha256"].lower()
        elif isinstance(entry.get("file"), str) and type(entry.get("line")) is int:
            key = (self._path(entry["file"]), entry["line"])
        else:
            raise InputError(f"{where}: does not say which row; give its sha256, or its file and line")
        before = self._labels.setdefault(key, (_BAD[label], number))
        if before[0] != _BAD[label]:
            raise InputError(
                f"{self.text}, lines {before[1]} and {number}: contradictory labels of the same row; keep one of them"
            )

    def _path(self, file: str) -> str:
        if file not in self._resolved:
            self._resolved[file] = str(Path(file).resolve())
        return self._resolved[file]

    def of(self, row: Row) -> bool | None:
        """The row's label.

        Raises:
            InputError: one label for its bytes and another for its place.
        """
        keys = [k for k in (row.sha256, (self._path(row.file), row.line)) if k in self._labels]
        self._used.update(keys)
        found = [self._labels[k] for k in keys]
        if len({label for label, _ in found}) > 1:
            raise InputError(
                f"{self.text}, lines {found[0][1]} and {found[1][1]}: contradictory labels of {row.file}, line "
                f"{row.line}; keep one of them"
            )
        return found[0][0] if found else None

    def seen(self) -> str:
        """How many labels met a row."""
        return f"{len(self._used)} of its {len(self._labels)} labels belong to a scored row"

    def unused(self) -> int:
        """Labels whose row is not in the run, or was quarantined."""
        return len(self._labels) - len(self._used)
