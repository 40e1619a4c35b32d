"""Text of a record that is not read: what may be its prompt or be trained on is not passed over without a word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

from geofilter.rows.bounded import MAX_TEXT_BYTES
from geofilter.rows.keys import ANSWERS, MAY_BE_FLAGS, MAY_BE_READ, THINKING
from geofilter.rows.row_error import RowError
from geofilter.rows.thinking import thinking_span
from geofilter.rows.turns import Turn, are_messages, from_json

LABEL_CHARS = 20
"""text up to this long is a name or a number, not a part of a prompt"""
LONG_CHARS = 200
"""text over this long is told of wherever it is not read"""
MOST_TEXTS = 1000
"""texts of one value that are looked for in what is read; what stands behind them counts as another text"""
LONGEST_KEY = 64
"""characters of a key that is looked at; what is known of keys is kept"""
_GENERATED = re.compile(
    r"((\w+_)?(generations?|attempts?|trajectory|trajectories)|completions|responses|outputs|candidates"
    r"|generated_(text|solution|answer|response|output|code|summary)|model_(answer|response|output|solution|completion)"
    r"|((model|assistant|teacher|student|generated|deepseek|r1|gpt\w*|claude|gemini|qwen\w*|llama\w*)_)?"
    r"(reasoning|thinking|thoughts?|cot)(_(content|text|trace|steps|process|path))?|chain_of_thought|scratchpad"
    r"|contexts|schema|body|endings)"
)
"""what a model wrote or thought, or is asked about, in other words than `keys` has; other things too, so only
long text counts"""
_OPTION = re.compile(r"[a-e]|(opt|option|choice|op|ending|alternative|distractor)_?([a-h]|[0-9])")
"""one of the options of a multiple choice"""
_SPECIAL = re.compile(r"<\|\w+\|>|</?s>|<(?:eos|bos|start_of_turn|end_of_turn)>")


def is_there(record: Mapping[str, Any], key: str) -> bool:
    """Whether a record has a key whose value is neither null nor empty."""
    value = record.get(key)
    return bool(value.strip()) if isinstance(value, str) else value is not None and value != [] and value != {}


def is_prose(value: Any) -> bool:
    """Whether a value is, or anywhere holds, text of several words that is no mere label."""
    if isinstance(value, list | dict):
        return any(map(is_prose, _texts(value)))
    return isinstance(value, str) and len(value) > LABEL_CHARS and len(value.split(None, 1)) > 1


def is_flag(value: Any) -> bool:
    """Whether a value is a word or a number, such as says of what kind a row is."""
    return isinstance(value, bool | int | float) or (
        isinstance(value, str) and len(value) <= LABEL_CHARS and len(value.split()) == 1
    )


def longest(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The key of a long text of which the others are a short form, a word or a piece; None of any others."""
    prose = [key for key in keys if isinstance(record[key], str) and is_prose(record[key])]
    found = max(prose, key=lambda key: len(record[key]), default=None)
    if found is None:
        return None
    others = [record[key] for key in keys if key != found]
    short = all(is_flag(one) or (isinstance(one, str) and one.strip() in record[found]) for one in others)
    return found if short else None


class ReadText:
    """What is read of a row, to see whether another text of it says the same."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns

    @cached_property
    def _wholes(self) -> list[str]:
        return [_spaced(turn.content) for turn in self._turns]

    @cached_property
    def _parts(self) -> list[str]:
        """Paragraphs: between those of a prompt a template may have put words of its own."""
        return [part for turn in self._turns for text in turn.content.split("\n\n") if (part := _spaced(text))]

    @cached_property
    def answer(self) -> str:
        """The last turn's content, in single spaces."""
        return self._wholes[-1]

    @property
    def is_long(self) -> bool:
        """Whether an answer is more than a label."""
        return any(turn.role in ("assistant", "text") and is_prose(turn.content) for turn in self._turns)

    def has(self, value: Any) -> bool:
        """Whether a value says no more than what is read, or holds all of it.

        A list of texts does where each of them does; an object, or a list of other things, where one text in it does
        that is no label. Special tokens and thinking do not count.
        """
        value = _parsed(value)
        if isinstance(value, str):
            return self._says(value)
        if not isinstance(value, list | dict):
            return any(str(value) in whole for whole in self._wholes)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return all(map(self._says, value))
        if self._says_one_of(value):
            return True
        tight = "".join(json.dumps(value, ensure_ascii=False).split())
        return any(tight in whole.replace(" ", "") for whole in self._wholes)

    def is_one_of(self, value: Any) -> bool:
        """Whether the answer is among several texts, or in one that says more."""
        value = _parsed(value)
        if isinstance(value, list | dict):
            return self._says_one_of(value)
        return is_prose(self.answer) and isinstance(value, str) and self.answer in _spaced(value)

    def holds(self, text: str) -> bool:
        """Whether a text, as it is, says no more than what is read, or holds all of it."""
        text = _spaced(_SPECIAL.sub(" ", text))
        if any(text in whole for whole in self._wholes):
            return True
        return all(self._wholes) and all(part in text for part in self._parts)

    def _says_one_of(self, value: list[Any] | dict[str, Any]) -> bool:
        return any(is_prose(text) and self._says(text) for text in islice(_texts(value), MOST_TEXTS))

    def _says(self, text: str) -> bool:
        return len(text) <= MAX_TEXT_BYTES and (self.holds(text) or self.holds(text[thinking_span(text)[2] :]))


def first_unread(
    record: Mapping[str, Any],
    but: Sequence[str],
    read: ReadText,
    more: Sequence[str] = (),
    *,
    others: bool = False,
    candidates: bool = False,
) -> str | None:
    """The first key of text that may be part of the prompt or the answer; None where there is none.

    Text that is read elsewhere in the row, or holds all that is read, is not meant.

    Args:
        but: keys that are read, or known to be no such text.
        more: further keys of such text.
        others: long text under any key counts.
        candidates: what a model wrote besides is known to be another answer, and does not count.
    """
    options: list[str] | None = None
    for key, value in record.items():
        if key in but or not is_there(record, key):
            continue
        named, generated, option = _kind(key[:LONGEST_KEY])
        if not (named or generated or option or others or key in more):
            continue
        options = _options_in(record) if options is None and option else options
        if (
            (named and not _is_label(key, value, read))
            or key in more
            or (option and key in (options or ()))
            or (generated and not candidates and is_prose(value) and not read.is_one_of(value))
            or (others and isinstance(value, str) and is_prose(value))
        ) and _has_text(value) and not read.has(value):  # fmt: skip
            return key
    return None


def long_unread(record: Mapping[str, Any], but: Sequence[str], read: ReadText) -> bool:
    """Whether a record has long text that is not read.

    Args:
        but: keys that are read, or known to be no part of the row's text.
    """
    return any(
        LONG_CHARS < len(text) <= MAX_TEXT_BYTES and is_prose(text) and not read.holds(text)
        for key, value in record.items() if isinstance(value, str | list) and key not in but
        for text in _said(value)
    )  # fmt: skip


def _said(value: str | list[Any]) -> Iterator[str]:
    """Text that is no JSON, and what messages say."""
    if isinstance(value, list):
        return islice(_texts(value), MOST_TEXTS) if are_messages(value) else iter(())
    return iter(() if value.lstrip()[:1] in ("{", "[") else (value,))


@lru_cache(4096)
def _kind(key: str) -> tuple[bool, bool, bool]:
    """Whether a key is one of `MAY_BE_READ`, one of what a model wrote, and one of an option."""
    low = key.lower()
    return key in MAY_BE_READ, _GENERATED.fullmatch(low) is not None, _OPTION.fullmatch(low) is not None


def _options_in(record: Mapping[str, Any]) -> list[str]:
    """Keys of the options of a multiple choice; none where there are not two of them."""
    found = [
        key for key, value in record.items()
        if isinstance(value, str) and value.strip() and _kind(key[:LONGEST_KEY])[2]
    ]  # fmt: skip
    return found if len(found) > 1 else []


def _is_label(key: str, value: Any, read: ReadText) -> bool:
    """Whether a value under a key of text says what kind of row this is, or is the short form of a long answer."""
    return is_flag(value) and (key in (*MAY_BE_FLAGS, *THINKING) or (key in ANSWERS and read.is_long))


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | dict) and next(_texts(value), None) is not None)


def _texts(value: Any) -> Iterator[str]:
    """The texts that a value holds, at any depth."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list | dict):
            stack += reversed(list(one.values() if isinstance(one, dict) else one))


def _parsed(value: Any) -> Any:
    """What JSON text stands for, any other value as it is."""
    try:
        return from_json(value)
    except RowError:
        return value


def _spaced(text: str) -> str:
    """The text, each space in it a single one."""
    return " ".join(text.split())
