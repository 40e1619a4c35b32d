"""Text of a record that is not read: what may be its prompt or be trained on is not passed over without a word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from geofilter.rows.bounded import MAX_TEXT_BYTES
from geofilter.rows.keys import MAY_BE_FLAGS, MAY_BE_READ, THINKING
from geofilter.rows.turns import Turn

LABEL_CHARS = 20
"""text up to this long is a name or a number, not a part of a prompt"""
LONG_CHARS = 200
"""text over this long is told of wherever it is not read"""
_GENERATED = re.compile(
    r"(^|_)(generations?|attempts?|trajector(y|ies)|completions|responses|outputs|candidates"
    r"|generated_(text|solution|answer|response|output|code|summary)|model_(answer|response|output|solution|completion)"
    r"|(\w+_)?(reasoning|thinking|thoughts?|cot)(_(content|text|trace|steps|process|path))?|chain_of_thought|scratchpad"
    r"|contexts|schema|body)$"
)
"""what a model wrote or thought, or is asked about, in other words than `keys` has; other things too, so only
long text counts"""
_OPTION = re.compile(r"([a-e]|(opt|option|choice|op|ending|answer|alternative|distractor)_?([a-h]|[0-9])|endings)$")
"""one of the options of a multiple choice"""


def is_there(record: Mapping[str, Any], key: str) -> bool:
    """Whether a record has a key whose value is neither null nor empty."""
    value = record.get(key)
    return bool(value.strip()) if isinstance(value, str) else value is not None and value != [] and value != {}


def is_prose(value: Any) -> bool:
    """Whether a value is, or as a list holds, text of several words that is no mere label."""
    if isinstance(value, list | dict):
        return any(map(is_prose, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and len(value) > LABEL_CHARS and len(value.split(None, 1)) > 1


def is_flag(value: Any) -> bool:
    """Whether a value is a word or a number, such as says of what kind a row is."""
    return isinstance(value, bool | int | float) or (
        isinstance(value, str) and len(value) <= LABEL_CHARS and len(value.split()) == 1
    )


def single_spaced(turns: Iterable[Turn]) -> list[str]:
    """The contents of turns, each space in them a single one."""
    return [" ".join(turn.content.split()) for turn in turns]


def _may_be_answer(key: str, value: Any, read: Sequence[str]) -> bool:
    """Whether a value is text that a model may have written, or been asked about, by what its key says.

    Several texts of which one is read are what that one was chosen from.
    """
    if _GENERATED.search(key.lower()) is None or not is_prose(value):
        return False
    return not (isinstance(value, list) and any(is_again(one, read) for one in value))


def _options_in(record: Mapping[str, Any]) -> list[str]:
    """Keys of the options of a multiple choice; none where there are not two of them."""
    found = [key for key in record if _OPTION.match(key.lower()) and is_there(record, key)]
    return found if len(found) > 1 else []


def is_again(value: Any, read: Sequence[str]) -> bool:
    """Whether a value says no more than is read elsewhere in the row, or holds all of it.

    Args:
        read: what is read, in single spaces.
    """
    if isinstance(value, str) and len(value) > MAX_TEXT_BYTES:
        return False
    texts = (" ".join(str(one).split()) for one in (value if isinstance(value, list) else [value]))
    return all(any(text in one for one in read) or (all(read) and all(one in text for one in read)) for text in texts)


def first_unread(
    record: Mapping[str, Any],
    but: Sequence[str],
    read: Sequence[str],
    more: Sequence[str] = (),
    *,
    others: bool = False,
    candidates: bool = False,
) -> str | None:
    """The first key of text that may be part of the prompt or the answer; None where there is none.

    Text that is read elsewhere in the row, or holds all that is read, is not meant.

    Args:
        but: keys that are read, or known to be no such text.
        read: see `is_again`.
        more: further keys of such text.
        others: long text under any key counts.
        candidates: what a model wrote besides is known to be another answer, and does not count.
    """
    options = _options_in(record)
    for key, value in record.items():
        if key in but or not is_there(record, key):
            continue
        named = key in MAY_BE_READ and not (key in (*MAY_BE_FLAGS, *THINKING) and is_flag(value))
        further = key in more or key in options or (not candidates and _may_be_answer(key, value, read))
        if (named or further or (others and isinstance(value, str) and is_prose(value))) and not is_again(value, read):
            return key
    return None


def long_unread(record: Mapping[str, Any], but: Sequence[str], read: Sequence[str]) -> bool:
    """Whether a record has long text that is not read.

    Args:
        but: keys that are read, or known to be no part of the row's text.
        read: see `is_again`.
    """
    return any(
        isinstance(value, str) and len(value) > LONG_CHARS and key not in but
        and value.lstrip()[:1] not in ("{", "[") and is_prose(value) and not is_again(value, read)
        for key, value in record.items()
    )  # fmt: skip
