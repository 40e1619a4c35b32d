"""A row with another answer to its prompt, in the shape that it has.

Nothing is taken for granted: every way to put an answer in is tried on the row's record and kept only where the record
that comes out reads as the row's own prompt followed by that answer, and nothing else that a loss falls on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from geofilter.rows.keys import ANSWERS, CHAT, CHOSEN, MAY_BE_FLAGS, THINKING
from geofilter.rows.loss import FLAGS
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import PAIR_KEYS, ROLE_KEYS, Turn, content_key, from_json, written_as
from geofilter.rows.unread import is_prose

NOTE = "geofilter"
"""field of a removed row, see `cut.notes`, and of a prompt that is to be answered again"""
_TRIED = "an answer to be told apart"

Put = Callable[[str], dict[str, Any]]
"""from an answer to a record"""


def answered(row: Row, text: str, reading: Reading) -> dict[str, Any]:
    """The record of a row with another answer.

    Of a conversation whose earlier answers are scored too, the first of them is answered and what followed it is left
    out: it followed from an answer that went.

    Args:
        text: the answer; empty for one that is to be filled in.
        reading: how the row was read.

    Raises:
        RowError: the row has no prompt, or its shape has no place for another answer.
    """
    first = next(i for i, turn in enumerate(row.turns) if turn.scored)
    prompt = row.turns[:first]
    if not any(turn.role == "user" for turn in prompt):
        raise RowError("has no prompt that could be answered again")
    # Thinking belonged to the answer that went.
    thought = {key for key in row.used if key.lower() in (*THINKING, *MAY_BE_FLAGS)}
    record = {key: value for key, value in row.record.items() if key != NOTE and key not in thought}
    was = row.turns[first]
    old = {was.content.strip(), *(was.text(span).strip() for span in was.scored)}
    for put in _ways(record, reading, first):
        # A row may repeat its answer, and says the same twice afterwards too; what else it says stays where it can.
        for mended in (partial(_mended, put, old, False), put, partial(_mended, put, old, True)):
            if _reads_as(mended(_TRIED), prompt, _TRIED, reading):
                return mended(text)
    raise RowError("is in a shape that another answer cannot be put into")


def _reads_as(record: Mapping[str, Any], prompt: Sequence[Turn], answer: str, reading: Reading) -> bool:
    """Whether a record is the prompt and the answer, and no more."""
    try:
        turns = parse_record(record, reading).turns
    except RowError:
        return False
    rest = turns[len(prompt) :]
    said = [turn.text(span) for turn in rest for span in turn.scored]
    return turns[: len(prompt)] == tuple(prompt) and len(rest) == 1 and said == [answer]


def _ways(record: Mapping[str, Any], reading: Reading, first: int) -> Iterator[Put]:
    """Ways to put an answer into a record, the likeliest first; a few, however long it is.

    Args:
        first: number of the row's turns before the answer.
    """
    named = set(reading.fields.values())
    for key, value in record.items():
        if key.lower() in (*CHAT, *CHOSEN) or key in named:
            yield from _in_messages(record, key, value, first)
    for key, value in record.items():
        if isinstance(value, str) and (key.lower() in (*ANSWERS, *CHOSEN) or key in named):
            yield partial(_with, record, key)


def _mended(put: Put, old: Collection[str], everywhere: bool, new: str) -> dict[str, Any]:
    """The record with the new answer in the place of the old one's copies too, where answers stand.

    Args:
        everywhere: and long ones, which are no mere labels, wherever they stand.
    """
    long = [text for text in old if is_prose(text)] if everywhere else []
    return {
        key: _with_copies(value, old if key.lower() in (*ANSWERS, *CHAT, *CHOSEN) else long, new)
        for key, value in put(new).items()
    }


def _with_copies(value: Any, old: Collection[str], new: str) -> Any:
    """A value in which copies of an old answer, at any depth, are the new one; long ones inside other text too."""
    if isinstance(value, dict):
        return {key: _with_copies(one, old, new) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_copies(one, old, new) for one in value]
    if not isinstance(value, str):
        return value
    if value.strip() in old:
        return new
    inside = max((text for text in old if is_prose(text) and text in value), key=len, default=None)
    return value if inside is None else value.replace(inside, new)


def _with(record: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**record, key: value}


def _in_messages(record: Mapping[str, Any], key: str, value: Any, first: int) -> Iterator[Put]:
    """The list cut behind the message that the answer is likely to be, that one with another text."""
    try:
        messages = from_json(value)
    except RowError:
        return
    if not isinstance(messages, list):
        return
    # A system prompt may stand beside the list or be put before it; a round of a history is two turns.
    for i in dict.fromkeys((first, first - 1, first - 2, first // 2, (first - 1) // 2, len(messages) - 1)):
        if not 0 <= i < len(messages) or (said := _said(messages[i])) is None:
            continue

        def put(text: str, i: int = i, said: Callable[[str], Any] = said) -> dict[str, Any]:
            new = [*messages[:i], said(text)]
            return {**record, key: written_as(value, new)}

        yield put


def _said(message: Any) -> Callable[[str], Any] | None:
    """A message, or a round of question and answer, with another answer; None for what is neither."""
    if isinstance(message, str):
        return lambda text: text
    if isinstance(message, list) and len(message) == 2:
        return lambda text: [message[0], text]
    if not isinstance(message, dict):
        return None
    if any(key in message for key in ROLE_KEYS):
        content = content_key(message)
        # Thinking and calls to tools belonged to the answer that went; how the turn is trained stays.
        stays = {key: of for key, of in message.items() if key in (*ROLE_KEYS, *FLAGS)}
        return lambda text: {**stays, content: text}
    pair = next((answer for question, answer in PAIR_KEYS if question in message and answer in message), None)
    return None if pair is None else lambda text: {**message, pair: text}
