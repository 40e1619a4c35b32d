"""Rows of preferences with their answers exchanged: what was rejected is chosen, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from geofilter.rows.keys import ANSWERS, CHAT, CHOSEN, REJECTED
from geofilter.rows.loss import FLAGS
from geofilter.rows.reading import Reading
from geofilter.rows.recognise import Record
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import CONTENT_KEYS, ROLE_KEYS, are_messages, from_json, is_same, messages_in, read_messages

PREFERENCE = "preference"
"""the shape of such rows, see `keys.SHAPES`"""
_NO_ANSWER = ("kto_tag",)
"""of `keys.REJECTED` what makes a row one of preferences and is no answer"""


def is_pair(row: Row) -> bool:
    """Whether a row is one of preferences; that it has a second answer, only `rejected_side` tells."""
    return row.format == PREFERENCE


def rejected_side(row: Row, reading: Reading) -> Row:
    """A row of preferences as if its rejected answer were the chosen one, read as the row is.

    Args:
        reading: how the row was read.

    Raises:
        RowError: it has no second answer, or none that can be scored.
    """
    record = exchanged(row.record)
    found = parse_record(record, reading)
    if found.shape != PREFERENCE:
        raise RowError("its rejected answer cannot be put in the place of the chosen one")
    return replace(
        row, turns=found.turns, record=record, tools=found.tools, used=found.used, remarks=found.remarks
    )  # fmt: skip


def exchanged(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a row of preferences with its answers exchanged, in the shape that it has.

    What else is said of the two sides, such as `score_chosen` and `score_rejected`, is exchanged with them. Exchanged
    twice it is the record again.

    Raises:
        RowError: it has no second answer, or one that cannot stand in the place of the first.
    """
    found = Record(record)
    if chosen := found.first(CHOSEN):
        rejected = CHOSEN[chosen]
        if not found.has(rejected):
            raise RowError(f"has no second answer: `{rejected}` is missing or empty")
        return _keys_exchanged(record, found.names.get(chosen, chosen), found.names.get(rejected, rejected))
    chat, other = found.first(CHAT), found.first(key for key in REJECTED if key not in _NO_ANSWER)
    if chat is None or other is None:
        raise RowError("has no second answer")
    return _in_messages(record, found.names.get(chat, chat), found.names.get(other, other))


def _keys_exchanged(record: Mapping[str, Any], chosen: str, rejected: str) -> dict[str, Any]:
    """The values of two keys, of all others whose names differ as these do, and of copies of either answer."""
    of = {chosen: rejected, rejected: chosen}
    for key, value in record.items():
        if key.lower() in (*CHAT, *ANSWERS) and value in (record[chosen], record[rejected]):
            of.setdefault(key, rejected if value == record[chosen] else chosen)
        for one, other in (("chosen", "rejected"), ("rejected", "chosen")):
            if (twin := key.replace(one, other)) != key and twin in record:
                of.setdefault(key, twin)
    return {key: record[of.get(key, key)] for key in record}


def _in_messages(record: Mapping[str, Any], chat: str, rejected: str) -> dict[str, Any]:
    """What follows the last user's turn of a list of messages, and the answer that is beside the list."""
    messages, other = from_json(record[chat]), record[rejected]
    if isinstance(other, str):
        other = messages_in(other)
    if not are_messages(messages):
        raise RowError(f"`{chat}` is no list of messages with roles, so its answer cannot be exchanged")
    roles = [turn.role for turn in read_messages(messages, chat)[0]]
    asked = max((i for i, role in enumerate(roles) if role == "user"), default=-1) + 1
    before, own = messages[:asked], messages[asked:]
    if not own:
        raise RowError(f"`{chat}` has no answer behind the last user's turn")
    if isinstance(other, str):
        message, key = _plain(own, chat)
        said, back = [{**message, key: other}], message[key]
    elif are_messages(other):
        whole = len(other) > asked > 0 and _same(other[:asked], before, rejected)
        said, back = (other[asked:], [*other[:asked], *own]) if whole else (other, own)
        before = [*before]
    elif isinstance(other, dict) and len(own) == 1 and are_messages([other]):
        said, back = [other], own[0]
    else:
        raise RowError(f"`{rejected}` is in no form that can stand in `{chat}`")
    return {
        **record,
        chat: _as(record[chat], [*before, *said]),
        rejected: back if isinstance(other, str) else _as(record[rejected], back),
    }


def _plain(own: list[dict[str, Any]], chat: str) -> tuple[dict[str, Any], str]:
    """The one message of an answer that is text alone, and its key of the text."""
    message = own[0]
    key = next((key for key in CONTENT_KEYS if isinstance(message.get(key), str)), "")
    more = {name for name, value in message.items() if value is not None} - {*ROLE_KEYS, *FLAGS, key}
    if len(own) > 1 or not key or more:
        raise RowError(f"the answer in `{chat}` is more than text, so a text cannot take its place")
    return message, key


def _same(messages: list[Any], before: list[Any], key: str) -> bool:
    """Whether two lists of messages say the same."""
    ours, theirs = read_messages(messages, key)[0], read_messages(before, key)[0]
    return len(ours) == len(theirs) and all(map(is_same, ours, theirs))


def _as(was: Any, value: Any) -> Any:
    """A value, as JSON text where it was text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(was, str) else value
