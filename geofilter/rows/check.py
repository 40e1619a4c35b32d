"""What a scan would make of rows: prompt, scored text and what is left out, by shape; without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from geofilter.rows.lines import read_lines
from geofilter.rows.pairs import is_preference, rejected_side
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, Unusable, parse_line, reason_of
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import REMARKS
from geofilter.rows.turns import KNOWN_EXTRA, THOUGHTS, Turn
from geofilter.rows.unread import is_there

EXAMPLES = 2
"""rows shown of each shape"""


@dataclass(slots=True)
class Example:
    """A row as a scan would read it."""

    file: str
    line: int
    prompt: str
    scored: list[str]
    left_out: list[str]
    """what of the row no loss falls on, besides its prompt"""
    rejected: list[str]
    """what is scored of its rejected answer; empty unless both sides of preferences are"""


@dataclass(slots=True)
class Kind:
    """Rows of one shape that are made of the same keys."""

    shape: str
    """one of `keys.SHAPES`"""
    keys: tuple[str, ...]
    """what is read of them"""
    rows: int = 0
    examples: list[Example] = field(default_factory=list)
    not_read: Counter[str] = field(default_factory=Counter)
    """rows that have a key which is not read"""


class Reasons(Counter[str]):
    """Why something cannot be, and for how many rows each reason holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, tuple[str, int]] = {}
        """reason -> file and line of the first row that it holds for"""

    def note(self, reason: str, row: Row | Unusable) -> None:
        """A reason holds for a row."""
        self[reason] += 1
        self.first.setdefault(reason, (row.file, row.line))

    def to_json(self) -> list[dict[str, Any]]:
        """For `--json`, the commonest first."""
        return [
            {"reason": reason, "rows": n, "file": self.first[reason][0], "line": self.first[reason][1]}
            for reason, n in self.most_common()
        ]


@dataclass(slots=True)
class Checked:
    """What a scan would make of some files."""

    rows: int = 0
    passed_over: int = 0
    kinds: dict[tuple[str, tuple[str, ...]], Kind] = field(default_factory=dict)
    remarks: Counter[str] = field(default_factory=Counter)
    """of `shapes.REMARKS`"""
    reasons: Reasons = field(default_factory=Reasons)
    """why rows cannot be scored"""
    one_sided: Reasons = field(default_factory=Reasons)
    """why rejected answers of preferences cannot be scored"""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "rows": self.rows,
            "passed_over": self.passed_over,
            "shapes": [{**asdict(kind), "not_read": dict(kind.not_read)} for kind in self.kinds.values()],
            "remarks": {name: {"rows": n, "told": REMARKS[name]} for name, n in self.remarks.items()},
            "cannot_be_scored": self.reasons.to_json(),
            "one_sided": self.one_sided.to_json(),
        }


def check_rows(
    paths: Sequence[Path], reading: Reading, limit: int | None = None, *, both_sides: bool = False
) -> Checked:
    """Read every row and say what would be scored of it. What a chat template makes of it is not looked at.

    Args:
        limit: only the first rows of each file.
        both_sides: of preferences the rejected answers are to be scored too.

    Raises:
        InputError: a file cannot be read.
    """
    out = Checked()
    for path in paths:
        for number, line in enumerate(islice(read_lines(path), limit), start=1):
            row = parse_line(line, str(path), number, reading)
            out.rows += 1
            if row is None:
                out.passed_over += 1
            elif isinstance(row, Unusable):
                out.reasons.note(row.error, row)
            else:
                _add(out, row, _rejected(out, row, reading) if both_sides and is_preference(row) else None)
    return out


def _rejected(out: Checked, row: Row, reading: Reading) -> Row | None:
    """The row with its rejected answer; None where that cannot be scored, which is told of."""
    try:
        found = rejected_side(row, reading)
    except RowError as error:
        out.remarks.update(["one_sided"])
        out.one_sided.note(reason_of(error), row)
        return None
    out.remarks.update(["paired"])
    return found


def _add(out: Checked, row: Row, rejected: Row | None) -> None:
    kind = out.kinds.setdefault((row.format, row.used), Kind(row.format, row.used))
    kind.rows += 1
    out.remarks.update(row.remarks)
    # A column that is named as `meta.answer` is read inside `meta`.
    read = {name for used in row.used for name in (used, used.partition(".")[0])}
    kind.not_read.update(key for key in row.record if key not in read and is_there(row.record, key))
    kind.not_read.update({f"{key} of a message" for turn in row.turns for key in turn.extra if key not in KNOWN_EXTRA})
    if len(kind.examples) < EXAMPLES:
        left_out = [text for turn in row.turns for text in _left_out(turn)]
        other = [] if rejected is None else _scored(rejected)
        kind.examples.append(Example(row.file, row.line, row.prompt, _scored(row), left_out, other))


def _scored(row: Row) -> list[str]:
    return [turn.text(span) for turn in row.turns for span in turn.scored]


def _left_out(turn: Turn) -> Iterator[str]:
    if turn.role not in ("assistant", "text"):
        return
    if not turn.trained and turn.content.strip():
        yield turn.content
        return
    before = turn.content[: turn.answer.start]
    if not turn.thinking:
        yield from (text for text in (before, *(turn.extra.get(key) for key in THOUGHTS)) if text and text.strip())
    for call in turn.extra.get("tool_calls", ()):
        yield f"call to a tool: {call.get('function', call) if isinstance(call, dict) else call}"
