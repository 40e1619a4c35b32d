"""Rows of preferences with their answers exchanged: what was rejected is chosen, and the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from geofilter.rows.context import is_same
from geofilter.rows.keys import ANSWERS, CHAT, CHOSEN
from geofilter.rows.reading import Reading
from geofilter.rows.recognise import Record
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import (
    SPOKEN,
    Turn,
    are_messages,
    content_key,
    from_json,
    messages_in,
    read_messages,
    written_as,
)

PREFERENCE = "preference"
"""the shape of such rows, see `keys.SHAPES`"""
_MORE = (*SPOKEN, "function_call", "refusal")
"""fields of a message that say more than its text"""
_PART = {"type", "text"}
"""fields of a part of a content that is text alone"""
_SIDES = (
    ("non_preferred", "preferred"),
    ("preferred", "non_preferred"),
    ("chosen", "rejected"),
    ("rejected", "chosen"),
)
"""what names of fields call a side, and the other one; the first that a name has counts"""


def is_preference(row: Row) -> bool:
    """Whether a row is one of preferences; that it has a second answer, only `rejected_side` tells."""
    return row.format == PREFERENCE


def rejected_side(row: Row, reading: Reading) -> Row:
    """A row of preferences as if its rejected answer were the chosen one, read as the row is.

    Args:
        reading: how the row was read.

    Raises:
        RowError: it has no second answer, or none that can be scored beside the first.
    """
    record = exchanged(row.record)
    found = parse_record(record, reading)
    if found.shape != PREFERENCE:
        raise RowError("its rejected answer cannot be put in the place of the chosen one")
    if bool(_asked(row.turns)) != bool(_asked(found.turns)):
        raise RowError("only one of its answers comes with the prompt; put the prompt beside them, or into both")
    if row.turns[0].role != "text" and _begins(row.turns, found.turns):
        raise RowError("one of its answers is the beginning of the other, turn for turn")
    return replace(row, turns=found.turns, record=record, tools=found.tools, used=found.used, remarks=found.remarks)


def rejected_text(row: Row, reading: Reading) -> str | None:
    """What is scored of a row's rejected answer; None of a row that is no pair."""
    try:
        return rejected_side(row, reading).response
    except RowError:
        return None


def _asked(turns: Sequence[Turn]) -> list[str]:
    return [turn.content for turn in turns if turn.role == "user" and turn.content.strip()]


def _begins(one: Sequence[Turn], other: Sequence[Turn]) -> bool:
    """Whether one of two conversations is the other one, broken off."""
    return len(one) != len(other) and all(map(is_same, one, other))


def asks_the_same(row: Row, record: Mapping[str, Any], reading: Reading) -> bool:
    """Whether a record is a preference that asks what a row does and whose chosen answer is another one.

    Raises:
        RowError: it cannot be read.
    """
    found = parse_record(record, reading)
    ours, theirs = ([t for t in turns if t.role in ("system", "user")] for turns in (row.turns, found.turns))
    return found.shape == PREFERENCE and ours == theirs and replace(row, turns=found.turns).response != row.response


def exchanged(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a row of preferences with its answers exchanged, in the shape that it has.

    What else is said of the two sides, such as `score_chosen` and `score_rejected`, is exchanged with them, and so is a
    copy of an answer. Exchanged twice it is the record again.

    Raises:
        RowError: it has no second answer, or one that cannot stand in the place of the first.
    """
    found = Record(record)
    if chosen := found.first(CHOSEN):
        rejected = CHOSEN[chosen]
        if not found.has(rejected):
            raise RowError(f"has no second answer: `{rejected}` is missing or empty")
        return _of_keys(record, found.names.get(chosen, chosen), found.names.get(rejected, rejected))
    chat, other = found.chat_key(), found.second_answer()
    if other is None or not (key := chat or (found.asked_and_answered() or ("", "", ""))[2]):
        raise RowError("has no second answer")
    if chat is None:
        return _of_keys(record, found.names.get(key, key), found.names.get(other, other))
    chat, other = found.names.get(chat, chat), found.names.get(other, other)
    return {**_named_by_side(record, (chat, other)), **_of_messages(record, chat, other)}


def _named_by_side(record: Mapping[str, Any], but: Sequence[str]) -> dict[str, Any]:
    """The record, the values of all fields exchanged whose names differ in the side alone.

    Args:
        but: fields that stay.
    """
    known = {key.lower(): key for key in record if key not in but}
    of: dict[str, str] = {}
    for low, key in known.items():
        side = next((pair for pair in _SIDES if pair[0] in low), None)
        if side is not None and (twin := known.get(low.replace(*side))) is not None:
            of[key] = twin
    return {key: record[of.get(key, key)] for key in record}


def _of_keys(record: Mapping[str, Any], chosen: str, rejected: str) -> dict[str, Any]:
    """Exchange two answers that have a key each."""
    one, other = record[chosen], record[rejected]
    out = _named_by_side(record, (chosen, rejected))
    copies = {key: _exchanged_in(record[key], one, other) for key in record if key.lower() in (*CHAT, *ANSWERS)}
    return {**out, **copies, chosen: other, rejected: one}


def _exchanged_in(value: Any, one: Any, other: Any) -> Any:
    """A value that is a copy of an answer, or a conversation that ends in one, with the other answer; else itself."""
    for a, b in ((one, other), (other, one)):
        if value == a or (isinstance(value, str) and isinstance(a, str) and value.strip() == a.strip()):
            return b
        if not isinstance(value, list) or not value:
            continue
        if isinstance(a, list) and isinstance(b, list) and value[-len(a) :] == a:
            return [*value[: -len(a)], *b]
        if isinstance(a, dict) and isinstance(b, dict) and value[-1] == a:
            return [*value[:-1], b]
        if isinstance(a, str) and isinstance(b, str) and _text_of(value[-1:]) == a:
            return [*value[:-1], _with_text(value[-1], b)]
    return value


def _of_messages(record: Mapping[str, Any], chat: str, rejected: str) -> dict[str, Any]:
    """Exchange what follows the last user's turn of a list of messages, and the answer that is beside the list; two
    whole conversations as they are.
    """
    messages, other = from_json(record[chat]), record[rejected]
    other = messages_in(other) if isinstance(other, str) else other
    if not are_messages(messages):
        raise RowError(f"`{chat}` is no list of messages with roles, so its answer cannot be exchanged")
    beside = [other] if isinstance(other, dict) else other
    if not (isinstance(other, str) or are_messages(beside)):
        raise RowError(f"`{rejected}` is in no form that can stand in `{chat}`")
    asked = max((i for i, role in enumerate(_roles(messages, chat)) if role == "user"), default=-1) + 1
    if not isinstance(beside, str) and {"user", "system"} & set(_roles(beside, rejected)):
        if not asked or isinstance(other, dict):
            raise RowError(f"of `{chat}` and `{rejected}` only one is a whole conversation")
        return {chat: written_as(record[chat], other), rejected: written_as(record[rejected], messages)}
    before, own = messages[:asked], messages[asked:]
    ours, theirs = _text_of(own), other if isinstance(other, str) else _text_of(beside)
    if ours is not None and theirs is not None:  # each message keeps what it calls its role and its text
        own, beside = [_with_text(own[0], theirs)], ours if isinstance(other, str) else [_with_text(beside[0], ours)]
    elif isinstance(other, str) or (isinstance(other, dict) and len(own) != 1):
        raise RowError(f"the answer in `{chat}` is more than `{rejected}` can hold")
    else:
        own, beside = beside, own
    back = beside[0] if isinstance(other, dict) else beside
    back = back if isinstance(other, str) else written_as(record[rejected], back)
    return {chat: written_as(record[chat], [*before, *own]), rejected: back}


def _roles(messages: Sequence[Any], key: str) -> list[str]:
    return [turn.role for turn in read_messages(messages, key)[0]]


def _text_of(messages: Sequence[Any]) -> str | None:
    """The text of an answer that is one message of text alone; None of any other."""
    if len(messages) != 1 or not isinstance(messages[0], dict) or any(messages[0].get(key) for key in _MORE):
        return None
    content = messages[0].get(content_key(messages[0]))
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict) and set(content[0]) <= _PART:
        content = content[0].get("text")
    return content if isinstance(content, str) else None


def _with_text(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A message of text alone with another text."""
    key = content_key(message)
    parts = message[key]
    return {**message, key: [{**parts[0], "text": text}] if isinstance(parts, list) else text}
