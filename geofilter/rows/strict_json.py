"""JSON as it is read: no deeper, longer or laxer than every reader of the data takes it, wherever it is read from."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import numpy as np

from geofilter.rows.row_error import RowError
from geofilter.text import shorten

MOST_LEVELS = 100
"""lists and objects inside each other"""
MOST_VALUES = 1 << 21
"""in one text; as objects in memory they take up to fifty times as much as written"""
DIGITS = 4300
"""of a whole number, as Python has it"""
OWN = "geofilter"
"""a key that may stand twice: what an earlier removal has noted stands behind a row's own"""
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]++")
_NAME_CHARS = 60


def loads(text: str) -> Any:
    """The value that a text is.

    Raises:
        RowError: it is nested too deeply or holds too many values, has a key twice in one object, or a number that is
            none (NaN), or that Python has no number for.
        json.JSONDecodeError: no JSON.
    """
    refuse_large(text)
    try:
        return _STRICT.decode(text)
    except _NoNumber as error:
        raise _refused(text, str(error)) from None
    except (RowError, json.JSONDecodeError):
        raise
    except ValueError:  # of a whole number of too many digits
        raise _refused(text, "") from None


def refuse_large(text: str) -> None:
    """Refuse JSON that is nested too deeply, or would be too much in memory; told from its characters alone.

    Raises:
        RowError: it is.
    """
    brackets = text.count("[") + text.count("{")
    values = brackets + text.count(",")
    if brackets <= MOST_LEVELS and values <= MOST_VALUES:
        return
    bare = _STRING.sub("", text) if '"' in text else text
    if bare.count("[") + bare.count("{") + bare.count(",") > MOST_VALUES:
        raise RowError(f"holds over {MOST_VALUES:,} values; remove those that are no text")
    marks = np.frombuffer(_NO_BRACKET.sub("", bare).encode("ascii"), np.uint8)
    opening = (marks == ord("[")) | (marks == ord("{"))
    if len(marks) and int(np.where(opening, 1, -1).cumsum(dtype=np.int64).max()) > MOST_LEVELS:
        raise RowError(f"JSON nested too deeply, over {MOST_LEVELS} levels; flatten it")


class _NoNumber(ValueError):
    """A number as it is written, that is none."""


class _Marked:
    """Stands for such a number."""

    def __init__(self, text: str) -> None:
        self.text = text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next((key for key, n in Counter(key for key, _ in pairs).items() if n > 1 and key != OWN), None)
        if twice is not None:
            raise RowError(f"the key {_shown(twice)} stands twice in one object, and readers differ in which they "
                           "take; remove one")  # fmt: skip
    return found


def _constant(text: str) -> NoReturn:
    raise _NoNumber(text)


def _float(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        raise _NoNumber(text)
    return found


def _marked(text: str) -> Any:
    try:
        found = float(text) if any(c in text for c in ".eE") else int(text)
    except ValueError:
        return _Marked(text)
    return _Marked(text) if found in (math.inf, -math.inf) else found


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
_LAX = json.JSONDecoder(parse_constant=_Marked, parse_float=_marked, parse_int=_marked)


def _refused(text: str, number: str) -> RowError:
    """Why a text with a number that is none is refused; names the number's key."""
    try:
        path, found = _find(_LAX.decode(text))
    except (ValueError, RecursionError):
        path, found = "", None
    where = f"{_shown(path)} is" if path else "holds"
    number = number if found is None else found.text
    if number.lstrip("-")[:1] in ("N", "I"):
        return RowError(f"{where} {number}, which is no JSON; write null or a number")
    if number.lstrip("-").isdigit() or not number:
        return RowError(f"{where} a whole number of over {DIGITS:,} digits; write it as text")
    return RowError(f"{where} {shorten(number, _NAME_CHARS)}, too large a number for most readers; write it as text")


def _find(value: Any) -> tuple[str, _Marked | None]:
    """The first number that is none, and its path."""
    todo: list[tuple[str, Any]] = [("", value)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, _Marked):
            return path, value
        if isinstance(value, dict):
            todo += [(f"{path}.{key}" if path else key, inner) for key, inner in reversed(value.items())]
        elif isinstance(value, list):
            todo += [(f"{path}[{i}]", inner) for i, inner in reversed([*enumerate(value)])]
    return "", None


def _shown(name: str) -> str:
    return f"`{shorten(name.encode('utf-8', 'backslashreplace').decode(), _NAME_CHARS)}`"
