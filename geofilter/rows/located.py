"""Where in a row's record the text stands that is scored of it: in which field, from which character on.

Nothing is taken for granted: the text is marked where it may stand, and the place counts only where the record that
comes out reads as the row with that text marked, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from geofilter.rows.reading import Reading
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import Scored, Turn, from_json

Field = tuple[str | int, ...]
"""keys and positions that lead to a text, those in a text that is itself JSON included"""
TRIES = 40
"""places that are tried for a scored part"""
_MARK = "\ue000"
"""what a text is put between to be told apart; a text that has it is not found"""


@dataclass(frozen=True, slots=True)
class Located:
    """A piece of `Row.response` and where it stands in the record."""

    low: int
    high: int
    """in characters of the response"""
    field: Field
    start: int
    """character of the field's text that the piece begins with"""


def located(row: Row, reading: Reading, wanted: Sequence[tuple[int, int]] | None = None) -> list[Located]:
    """The pieces of a row's response that stand in its record as they are, ascending.

    What is between two scored parts is in no piece, nor is a text that the record spells otherwise.

    Args:
        reading: how the row was read.
        wanted: start and end of what of the response is looked for: scored parts without any are passed over.
    """
    out: list[Located] = []
    leaves = [leaf for leaf in _texts(row.record) if _is_used(leaf[0], row.used)]
    places = {field: n for n, (field, _) in enumerate(leaves)}
    at = first = 0
    for i, turn in enumerate(row.turns):
        for part in turn.scored:
            text = turn.text(part)
            end = at + len(text)
            if wanted is None or any(low < end and high > at for low, high in wanted):
                likely = [*leaves[first:], *leaves[:first]]  # what is said first most often stands first
                found = list(_whole(row, reading, i, part, likely)) or list(_pieces(row, reading, i, part, likely))
                out += [Located(at + low, at + high, field, start) for low, high, field, start in found]
                first = places[found[-1][2]] + 1 if found else first
            else:
                first = next((n + 1 for n in range(first, len(leaves)) if text in leaves[n][1]), first)
            at = end + 1  # and a line break
    return out


_Found = tuple[int, int, Field, int]
"""start and end in the part, field, start there"""


def _whole(row: Row, reading: Reading, i: int, part: Scored, leaves: Sequence[tuple[Field, str]]) -> Iterator[_Found]:
    """The field that holds all of a part."""
    text = row.turns[i].text(part)
    places = ((field, leaf, start) for field, leaf in leaves for start in _occurrences(leaf, text))
    for field, leaf, start in islice(places, TRIES):
        new = leaf[:start] + _marked(text) + leaf[start + len(text) :]
        if _moved(row, reading, i, part, field, new, text) == 0:
            yield 0, len(text), field, start
            return


def _pieces(row: Row, reading: Reading, i: int, part: Scored, leaves: Sequence[tuple[Field, str]]) -> Iterator[_Found]:
    """The fields that a part is put together of, as far as each is in it as a whole."""
    text, done = row.turns[i].text(part), 0
    inside = ((field, leaf) for field, leaf in leaves if leaf.strip() and leaf in text)
    for field, leaf in islice(inside, TRIES):
        at = _moved(row, reading, i, part, field, _marked(leaf), leaf)
        if at is not None and at >= done:
            done = at + len(leaf)
            yield at, done, field, 0


def _moved(row: Row, reading: Reading, i: int, part: Scored, field: Field, new: str, was: str) -> int | None:
    """Where in a part of a turn a text of the record stands, by what marking it changes; None where it is not there.

    Args:
        new: the field's text with `was` marked in it.
    """
    record: Mapping[str, Any] = {
        key: value.replace(was, _marked(was)) if isinstance(value, str) and key not in row.used else value
        for key, value in row.record.items()
    }  # a field that only repeats what is read must go on doing so
    try:
        turns = parse_record(_with(record, field, new), reading).turns
    except RowError:
        return None
    if [*turns[:i], *turns[i + 1 :]] != [*row.turns[:i], *row.turns[i + 1 :]] or len(turns) != len(row.turns):
        return None
    before, after = _said(row.turns[i], part), _said(turns[i], part)
    at, marked = after.find(_MARK), _marked(was)
    same = turns[i].trained == row.turns[i].trained and turns[i].role == row.turns[i].role
    if not same or at < part.start or after[:at] + was + after[at + len(marked) :] != before:
        return None
    return at - part.start if at + len(was) <= part.end else None


def _marked(text: str) -> str:
    return f"{_MARK}{text}{_MARK}"


def _said(turn: Turn, part: Scored) -> str:
    return turn.content if part.where == "content" else str(turn.extra.get(part.where, ""))


def _occurrences(leaf: str, text: str) -> Iterator[int]:
    at = leaf.find(text)
    while at >= 0:
        yield at
        at = leaf.find(text, at + 1)


def _texts(value: Any, field: Field = ()) -> Iterator[tuple[Field, str]]:
    """The texts of a record, those in a text that is JSON too, in their order."""
    inside = value
    if isinstance(value, str):
        with suppress(RowError):
            inside = from_json(value)
        if isinstance(inside, str):
            yield field, value
            return
    each = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, one in each:
        yield from _texts(one, (*field, key))
    if isinstance(value, str):  # an answer may be JSON itself
        yield field, value


def _is_used(field: Field, used: Sequence[str]) -> bool:
    """Whether a field is in a column that was read, which may be named by a path with dots."""
    path = ".".join(map(str, field))
    return any(path == key or path.startswith(f"{key}.") for key in used)


def _with(value: Any, field: Field, text: str) -> Any:
    """A record with another text in a field."""
    if not field:
        return text
    if isinstance(value, str):
        return json.dumps(_with(from_json(value), field, text), ensure_ascii=False)
    if isinstance(value, list):
        return [_with(one, field[1:], text) if i == field[0] else one for i, one in enumerate(value)]
    return {**value, field[0]: _with(value[field[0]], field[1:], text)}


def pointer(field: Field) -> str:
    """A field as a JSON pointer (RFC 6901), `/messages/1/content`."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in field)
