"""Where labels come from: a field of the rows themselves, or a file of labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from geofilter.errors import InputError
from geofilter.labels.label_lines import as_typed, contradictory, label_lines
from geofilter.rows.fields import columns, listed, lookup, topic_of
from geofilter.rows.records import Row
from geofilter.text import did_you_mean

SHOWN_VALUES = 8
WHY_CHARS = 200


class Labeller(Protocol):
    """Says whether a row is bad; None when it has no label."""

    text: str
    """the option as it was given"""

    def of(self, row: Row) -> bool | None:
        """The row's label."""

    def why(self, row: Row) -> str:
        """What the row was shown for to whom gave the label; empty where it is not said."""

    def topic(self, row: Row) -> str:
        """The kind of harm or subject that was given with the row's label; empty where none was."""

    def seen(self) -> str:
        """What was found instead, for an error when a side is empty."""

    def unused(self) -> int:
        """Labels that met no row."""

    def notes(self) -> list[str]:
        """What should be known of how the labels met the rows."""


def parse(text: str, option: str = "--labels", key: str | None = None) -> Labeller:
    """`FIELD=VALUE[,VALUE...]`, or the path of a labels file; a file of that name wins.

    Args:
        option: what errors call it.
        key: field that rows and lines of a labels file have in common, see `KeyedLabels`.

    Raises:
        InputError: neither, or a labels file that cannot be used.
    """
    if Path(text).is_file():
        return FileLabels(text) if key is None else KeyedLabels(text, key)
    name, sign, values = text.partition("=")
    if sign and key is not None:
        raise InputError(
            f"--key {key}: joins the rows with a file of labels, and {option} {text} is no file; leave --key out"
        )
    if not sign:
        raise InputError(
            f"{option} {text}: no such file, and not FIELD=VALUE; write label=misaligned for instance, or give a JSONL "
            'file of {"sha256", "label"} or {"file", "line", "label"}'
        )
    wanted = {v.strip() for v in values.split(",")} - {""}
    if not name.strip() or not wanted:
        raise InputError(f"{option} {text}: write FIELD=VALUE, label=misaligned for instance")
    return FieldLabels(text, name.strip(), frozenset(wanted))


def _refuse_several(where: str, name: str, value: Any) -> None:
    if isinstance(value, list | dict):
        raise InputError(f"{where}: the field {name} holds a {type(value).__name__}, not one value; name another field")


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
        _refuse_several(f"{row.file}, line {row.line}", self.name, value)
        written = as_typed(value)
        self._seen[written] += 1
        return written in self.values

    def why(self, row: Row) -> str:
        """Nothing: the label stands in the row."""
        return ""

    def topic(self, row: Row) -> str:
        """Nothing: a topic in the row is the row's own."""
        return ""

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

    def notes(self) -> list[str]:
        """Nothing."""
        return []


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
        self._whys: dict[Any, str] = {}
        self._topics: dict[Any, str] = {}
        for number, entry, bad in label_lines(text):
            key = self._key(entry, number)
            if topic := topic_of(entry):
                self._topics[key] = topic
            if isinstance(why := entry.get("why"), str):
                self._whys[key] = why[:WHY_CHARS]
            before = self._labels.setdefault(key, (bad, number))
            if before[0] != bad:
                raise contradictory(text, before[1], number)

    def _key(self, entry: dict[str, Any], number: int) -> Any:
        if isinstance(entry.get("sha256"), str):
            return entry["sha256"].lower()
        if isinstance(entry.get("file"), str) and type(entry.get("line")) is int:
            return self._path(entry["file"]), entry["line"]
        raise InputError(
            f"{self.text}, line {number}: does not say which row; give its sha256, or its file and line, or name a "
            "field that is in both with --key"
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

    def why(self, row: Row) -> str:
        """The field `why` of the line that names the row by its sha256."""
        return self._whys.get(row.sha256, "")

    def topic(self, row: Row) -> str:
        """The field `topic` of the line that names the row."""
        return self._topics.get(row.sha256) or self._topics.get((self._path(row.file), row.line), "")

    def seen(self) -> str:
        """How many labels met a row."""
        return f"{len(self._used)} of its {len(self._labels)} labels belong to a scored row"

    def unused(self) -> int:
        """Labels whose row is not in the run, or was quarantined."""
        return len(self._labels) - len(self._used)

    def notes(self) -> list[str]:
        """Nothing: each label names its row."""
        return []


class KeyedLabels:
    """Labels of a JSONL file that are joined with the rows by a field of both, `id` or `meta.id` for instance.

    A label is for every row that has its value; how many do, and what has no value, is told.
    """

    def __init__(self, text: str, key: str) -> None:
        """Read the file.

        Raises:
            InputError: a line that is no label, no line with the field, or two that contradict each other.
        """
        self.text, self._key = text, key
        self._labels: dict[str, tuple[bool, int]] = {}
        self._topics: dict[str, str] = {}
        self._without = self._repeated = self._rows_without = 0
        self._met: Counter[str] = Counter()
        """rows by label"""
        self._fields: dict[str, None] = {}
        """of the rows"""
        here: dict[str, None] = {}
        for number, entry, bad in label_lines(text):
            here |= dict.fromkeys(columns(entry))
            value = lookup(entry, key)
            _refuse_several(f"{text}, line {number}", key, value)
            if value is None:
                self._without += 1
                continue
            if topic := topic_of(entry):
                self._topics[as_typed(value)] = topic
            before = self._labels.setdefault(as_typed(value), (bad, number))
            if before[0] != bad:
                raise contradictory(text, before[1], number)
            self._repeated += before[1] != number
        if not self._labels:
            raise InputError(
                f"{text}: no label has the field {key} (--key {key}); there are {listed(here)}{did_you_mean(key, here)}"
            )

    def of(self, row: Row) -> bool | None:
        """The row's label.

        Raises:
            InputError: the field holds a list or an object.
        """
        value = lookup(row.record, self._key)
        _refuse_several(f"{row.file}, line {row.line}", self._key, value)
        if value is None:
            self._rows_without += 1
            self._fields |= dict.fromkeys(columns(row.record))
            return None
        written = as_typed(value)
        if written not in self._labels:
            return None
        self._met[written] += 1
        return self._labels[written][0]

    def why(self, row: Row) -> str:
        """Nothing: one label may be of several rows."""
        return ""

    def topic(self, row: Row) -> str:
        """The field `topic` of the label's line."""
        value = lookup(row.record, self._key)
        return "" if value is None else self._topics.get(as_typed(value), "")

    def seen(self) -> str:
        """How many labels met a row; the rows' fields when none has this one."""
        if not self._met and self._fields:
            near = did_you_mean(self._key, self._fields)
            return f"no label's {self._key} is one of a scored row; the rows have {listed(self._fields)}{near}"
        return f"{len(self._met)} of its {len(self._labels)} labels belong to a scored row by {self._key}"

    def unused(self) -> int:
        """Labels whose row is not in the run, or was quarantined."""
        return len(self._labels) - len(self._met)

    def notes(self) -> list[str]:
        """What repeats, and what has no such field."""
        shared = [n for n in self._met.values() if n > 1]
        found = (
            (self._without, f"labels of {self.text} have no {self._key} and are left out."),
            (self._repeated, f"labels of {self.text} repeat the {self._key} of another one, and say the same."),
            (self._rows_without, f"scored rows have no {self._key}, and so no label."),
            (sum(shared), f"rows share their {self._key} with others: {len(shared):,} labels stand for all of them."),
        )
        return [f"{n:,} {text}" for n, text in found if n]
