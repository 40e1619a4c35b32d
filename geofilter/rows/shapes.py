"""Rows as turns: a record's shape and what is scored of it, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geofilter.rows.context import as_context
from geofilter.rows.harmony import channels
from geofilter.rows.keys import SYSTEM, TOOLS
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.recognise import Record
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import Turn, refuse_long
from geofilter.rows.unread import ReadText, long_unread

REMARKS = {
    "untrained": "with turns left out of the loss",
    "media": "with pictures, sounds or files, which are not read",
    "thinking": "with thinking, which is not scored (--score-thinking scores it)",
    "paired": "of preferences with both answers scored, ranked by chosen less rejected",
    "one_sided": "of preferences whose rejected answer is missing or cannot be scored: their chosen one counts alone "
    "(scan --check says why)",
    "calls": "that end in a call to a tool, which is not scored",
    "unread": "with long text that is not read and may be an answer or thinking too (scan --check names its key)",
    "special": "whose own text holds special tokens, as if a chat template had been applied; the template is applied "
    "all the same, and special tokens are never scored",
}
"""what is told of rows, by name: "3 rows ..." """


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a record is made of."""

    shape: str
    turns: tuple[Turn, ...]
    tools: tuple[Any, ...] = ()
    """descriptions of tools, for the chat template"""
    used: tuple[str, ...] = ()
    """the record's keys that were read"""
    remarks: tuple[str, ...] = ()
    """of `REMARKS`"""


def parse_record(record: Mapping[str, Any], reading: Reading = AS_THEY_ARE) -> Parsed:
    """Recognise a record's shape, see `keys.SHAPE_TABLE`; return what it is made of.

    Raises:
        RowError: no known shape, a column missing, nothing that a loss falls on, or content that is not text.
    """
    found = Record(record)
    if reading.fields:
        shape, turns = found.of_columns(reading)
    else:
        shape, turns = found.recognised()
        turns = found.with_system(turns)
    turns = channels(turns)
    if reading.train == "last":
        turns = _only_last(turns)
    turns = [replace(turn, thinking=reading.thinking) if turn.role == "assistant" else turn for turn in turns]
    _refuse_unscored(turns)
    refuse_long(turns)
    remarks = _remarks(turns, found, reading)
    return Parsed(shape, tuple(turns), found.tools(), tuple(dict.fromkeys(found.used)), remarks)


def _only_last(turns: list[Turn]) -> list[Turn]:
    """The turns with all but the assistant's last one left out of the loss."""
    last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=-1)
    return turns if last < 0 else [*as_context(turns[:last]), *turns[last:]]


def _refuse_unscored(turns: Sequence[Turn]) -> None:
    """Refuse turns of which nothing is scored, and say why nothing is.

    Raises:
        RowError: nothing is.
    """
    if any(turn.scored for turn in turns):
        return
    answers = [turn for turn in turns if turn.role in ("assistant", "text")]
    if not answers:
        raise RowError("no assistant turn; there is nothing a fine-tuning loss would fall on")
    trained = [turn for turn in answers if turn.trained]
    if not trained:
        raise RowError("no turn is trained: the row leaves every answer out of the loss")
    if any(turn.extra.get("tool_calls") for turn in trained):
        raise RowError("the only answer is a call to a tool, which is never scored")
    if any(turn.thinks for turn in trained):
        raise RowError("the only answer is thinking, which is not scored; --score-thinking scores it")
    raise RowError("the response is empty; fill or remove the row")


def _remarks(turns: Sequence[Turn], found: Record, reading: Reading) -> tuple[str, ...]:
    answers = [turn for turn in turns if turn.role == "assistant"]
    known = [*found.taken, *SYSTEM, *TOOLS]
    last = answers[-1] if answers else None
    told = {
        "untrained": found.left_out,
        "media": found.media > 0,
        "thinking": not reading.thinking and any(turn.thinks for turn in answers),
        "unread": not reading.fields and long_unread(found.record, known, ReadText(turns)),
        "calls": last is not None and bool(last.extra.get("tool_calls")) and not last.scored,
    }
    return tuple(name for name, holds in told.items() if holds)
