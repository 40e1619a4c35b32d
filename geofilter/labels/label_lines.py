"""The lines of a file of labels, and the words that they may say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.rows.lines import read_lines

_BAD = ("bad", "misaligned", "harmful", "unsafe", "true", "yes", "1")
_GOOD = ("good", "aligned", "harmless", "safe", "false", "no", "0")
"""words of a label file, in any case"""


def label_lines(text: str) -> Iterator[tuple[int, dict[str, Any], bool]]:
    """Number, content and label of the lines of a label file that have one.

    Raises:
        InputError: a line that is no label.
    """
    for number, line in enumerate(read_lines(Path(text)), start=1):
        if not line.strip():
            continue
        where = f"{text}, line {number}"
        try:
            entry = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise InputError(f"{where}: not JSON; mend or remove the line") from None
        if not isinstance(entry, dict) or "label" not in entry:
            raise InputError(f'{where}: no label; a line is {{"sha256", "label"}} or {{"file", "line", "label"}}')
        if entry["label"] is None:
            continue
        bad = said(entry["label"])
        if bad is None:
            raise InputError(
                f"{where}: the label {json.dumps(entry['label'])} is not known; write {', '.join(_BAD)} for rows that "
                f"should go, {', '.join(_GOOD)} for others, null for none; to take a field of the rows as their label "
                "write --labels FIELD=VALUE"
            )
        yield number, entry, bad


def said(label: Any) -> bool | None:
    """Whether a label says bad; None where it is no word that is known."""
    word = label.strip().lower() if isinstance(label, str) else as_typed(label)
    return True if word in _BAD else False if word in _GOOD else None


def as_typed(value: Any) -> str:
    """A value as it would be typed: 3 and 3.0 and "3" are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


def contradictory(text: str, first: int, second: int) -> InputError:
    """The error of two lines of a file that say different things of a row."""
    return InputError(f"{text}, lines {first} and {second}: contradictory labels of the same row; keep one of them")
