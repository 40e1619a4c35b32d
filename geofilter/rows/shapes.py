"""The shapes of a row: which of its keys are prompt, history and answer, and the turns that they make.

`keys.SHAPE_TABLE` says which keys make which shape; the first one that a row has the keys of is taken. A key that is
null or empty counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from geofilter.rows.content import RowError, read_content, text_of, without_nulls
from geofilter.rows.fields import columns, listed, lookup
from geofilter.rows.keys import ANSWERS, CHAT, CHOSEN, INPUT, KNOWN_KEYS, PROMPTS, QUESTIONS, SYSTEM, TOOLS
from geofilter.rows.reading import AS_THEY_ARE, Reading
from geofilter.rows.turns import (
    ROLE_KEYS,
    Turn,
    as_context,
    from_json,
    is_same,
    read_messages,
    read_transcript,
)

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""Tokenising a longer text would stall the scan, and no fine-tuning row is that long."""
REMARKS = {
    "untrained": "with turns left out of the loss",
    "media": "with pictures, sounds or files, which are not read",
    "thinking": "with thinking, which is not scored (--score-thinking scores it)",
    "calls": "that end in a call to a tool, which is not scored",
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
    found = _Record(record)
    if reading.fields:
        shape, turns = found.of_columns(reading)
    else:
        shape, turns = found.recognised()
        turns = found.with_system(turns)
    if reading.train == "last":
        turns = _only_last(turns)
    turns = [replace(turn, thinking=reading.thinking) if turn.role == "assistant" else turn for turn in turns]
    _refuse_unscored(turns)
    if sum(len(turn.content) for turn in turns) * 4 > MAX_TEXT_BYTES:
        _refuse_long(turns)
    remarks = _remarks(turns, found, reading)
    return Parsed(shape, tuple(turns), found.tools(), tuple(dict.fromkeys(found.used)), remarks)


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(one, Mapping) and any(key in one for key in ROLE_KEYS) for one in value
    )  # fmt: skip


def is_there(record: Mapping[str, Any], key: str) -> bool:
    """Whether a record has a key whose value is neither null nor empty."""
    value = record.get(key)
    return bool(value.strip()) if isinstance(value, str) else value is not None and value != [] and value != {}


class _Record:
    """A record while it is read: notes the keys that are used, and the pictures that are left out."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record
        self.used: list[str] = []
        self.media = 0
        self.left_out = False
        """whether the row itself leaves turns out of the loss"""
        self._tools: Any = None

    def has(self, key: str) -> bool:
        return is_there(self.record, key)

    def take(self, key: str) -> Any:
        self.used.append(key)
        return self.record[key]

    def first(self, keys: Iterable[str]) -> str | None:
        return next((key for key in keys if self.has(key)), None)

    def recognised(self) -> tuple[str, list[Turn]]:
        if chosen := self.first(CHOSEN):
            return "preference", self.preference(chosen)
        if chat := self.first(CHAT):
            turns = self.messages(chat)
            answer = self.one_of(ANSWERS) if turns[-1].role in ("user", "tool") else None
            if answer:
                turns = as_context(turns) + self.answer(answer)
            return ("conversations" if chat == "conversations" else "messages"), turns
        for shape, prompt, answers in PROMPTS:
            if self.has(prompt) and (answer := self.one_of(answers)):
                return shape, self.context(prompt) + self.answer(answer)
        if self.has("segments"):
            return "segments", self.segments()
        if self.has("text"):
            return "text", [Turn("text", text_of(self.take("text"), "text"))]
        if answer := self.one_of(ANSWERS):
            return "completion", self.context(None) + self.answer(answer)
        raise RowError(self._why_unknown())

    def one_of(self, keys: Sequence[str]) -> str | None:
        """The one key of these that is there.

        Raises:
            RowError: there are several, and they differ.
        """
        there = [key for key in keys if self.has(key)]
        if len(there) > 1 and any(self.record[key] != self.record[there[0]] for key in there):
            names = " and ".join(f"`{key}`" for key in there)
            raise RowError(f"{names} are both there; say with --fields which is the answer")
        return there[0] if there else None

    def _why_unknown(self) -> str:
        keys = (*CHOSEN, *CHAT, *ANSWERS, "segments", "text")
        if empty := next((k for k in keys if k in self.record and not self.has(k)), None):
            if empty in CHAT:
                return f"`{empty}` must be a list of messages that is not empty"
            return "the response is empty; fill or remove the row"
        return f"no known fields; a row needs one of: {KNOWN_KEYS}"

    def messages(self, key: str) -> list[Turn]:
        return self._turns(self.take(key), key)

    def text_or_messages(self, key: str, role: str) -> list[Turn]:
        """The turns of a value that is text, a transcript, messages, or an object that holds messages."""
        value = self.take(key)
        if isinstance(value, str):
            inside = from_json(value)
            if not _are_messages(inside):  # an answer may be JSON itself
                text = text_of(value, key)
                return read_transcript(text) or [Turn(role, text)]
            value = inside
        if isinstance(value, Mapping) and "messages" in value:  # OpenAI's preference rows
            self._tools = value.get("tools")
            value = value["messages"]
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            if len(value) > 1:
                raise RowError(f"`{key}` holds {len(value)} texts; keep the one that is trained on")
            return [Turn(role, text_of(value[0], key))]
        if not isinstance(value, list | Mapping):
            raise RowError(f"`{key}` must be text, not {type(value).__name__}")
        return self._turns(value, key)

    def _turns(self, value: Any, key: str) -> list[Turn]:
        turns, media = read_messages(value, key)
        self.media += media
        self.left_out |= not all(turn.trained for turn in turns)
        return turns

    def context(self, key: str | None) -> list[Turn]:
        """Everything before an answer, none of it in the loss; without any, a user's turn that is empty.

        Args:
            key: of the prompt; what an instruction or question is about follows it.
        """
        turns = self._turns(self.take("history"), "history") if self.has("history") else []
        asked = self.text_or_messages(key, "user") if key else []
        about = self.first(INPUT) if key not in ("prompt", *INPUT) else None
        if about and len(asked) < 2:
            more = self.text_or_messages(about, "user")
            if asked and len(more) == 1:
                more = [replace(asked[0], content=f"{asked[0].content}\n\n{more[0].content}")]
            asked = more
        return as_context([*turns, *(asked or [Turn("user", "")])])

    def answer(self, key: str) -> list[Turn]:
        turns = self.text_or_messages(key, "assistant")
        if len(turns) == 1 and turns[0].role != "assistant":
            raise RowError(f"`{key}` is a {turns[0].role}'s turn; an answer is an assistant's")
        return turns

    def preference(self, key: str) -> list[Turn]:
        """Context and the chosen answer; what it has in common with the rejected one is context too."""
        chat = self.first(CHAT)
        answer = self.answer(key)
        own = any(turn.role == "user" for turn in answer)
        asked = self.first(("prompt", "instruction", *QUESTIONS))
        before = as_context(self.messages(chat)) if chat else self.context(asked) if asked or not own else []
        other = self._rejected(CHOSEN[key])
        common = next((i for i, (a, b) in enumerate(zip(answer, other, strict=False)) if not is_same(a, b)),
                      min(len(answer), len(other)))  # fmt: skip
        common = min(common, len(answer) - 1)
        answer = [*as_context(answer[:common]), *answer[common:]]
        return _joined(before, answer, f"`{chat or 'the prompt'}`", key)

    def _rejected(self, key: str) -> list[Turn]:
        if not self.has(key):
            return []
        try:
            return self.text_or_messages(key, "assistant")
        except RowError:  # it is never scored
            return []

    def segments(self) -> list[Turn]:
        """Texts that stand one behind the other; those with a label of false are context."""
        found = from_json(self.take("segments"))
        out = []
        for i, part in enumerate(found if isinstance(found, list) else [found]):
            if not isinstance(part, Mapping) or not isinstance(part.get("label"), bool):
                raise RowError(f"`segments[{i}]` must be an object with `text` and a `label` of true or false")
            out.append(Turn("text", text_of(part.get("text"), f"segments[{i}].text"), trained=part["label"]))
        return out

    def with_system(self, turns: list[Turn]) -> list[Turn]:
        """The turns behind the row's own system text; messages that begin with one keep theirs."""
        key = self.first(SYSTEM)
        if key is None or turns[0].role in ("system", "text"):
            return turns
        value = self.take(key)
        if isinstance(value, Mapping):  # Gemini's
            value = value.get("parts", value)
        return [Turn("system", read_content(value, key).text), *turns]

    def tools(self) -> tuple[Any, ...]:
        """Descriptions of tools in the form that chat templates know."""
        key = self.first(TOOLS)
        found = from_json(self.take(key) if key else self._tools)
        found = without_nulls(found) if isinstance(found, list) else []
        bare = (isinstance(tool, Mapping) and "name" in tool and "function" not in tool for tool in found)
        return tuple({"type": "function", "function": t} if b else t for t, b in zip(found, bare, strict=True))

    def of_columns(self, reading: Reading) -> tuple[str, list[Turn]]:
        """Shape and turns of a row whose columns are named; a row without a system text has no system turn."""
        fields = reading.fields
        values = {name: lookup(self.record, column) for name, column in fields.items()}
        for name, column in fields.items():
            if values[name] is None and name != "system":
                raise RowError(f"no column `{column}`, or null in it (--fields {name}={column}); there are "
                               f"{listed(columns(self.record))}")  # fmt: skip
        named = _Record({column: values[name] for name, column in fields.items()})
        if "messages" in fields:
            shape, turns = "messages", named.messages(fields["messages"])
        elif "text" in fields:
            shape, turns = "text", [Turn("text", text_of(values["text"], fields["text"]))]
        else:
            asked = as_context(named.text_or_messages(fields["prompt"], "user"))
            shape, turns = "completion", asked + named.answer(fields["response"])
        self.media, self.left_out, self.used = named.media, named.left_out, list(fields.values())
        if values.get("system") not in (None, ""):
            turns = [Turn("system", text_of(values["system"], fields["system"])), *turns]
        return shape, turns


def _joined(before: list[Turn], answer: list[Turn], where: str, key: str) -> list[Turn]:
    """Context and an answer that may begin with some or all of it."""
    most = min(len(before), len(answer))
    overlap = next((n for n in range(most, 0, -1) if all(map(is_same, before[-n:], answer[:n]))), 0)
    asked = [turn for turn in before if turn.role == "user"]
    there = [max((i for i, other in enumerate(answer) if is_same(turn, other)), default=-1) for turn in asked]
    if not overlap and there and min(there) >= 0:  # the answer holds the whole conversation
        before = [turn for turn in before if turn.role == "system"]
        answer = [*as_context(answer[: there[-1]]), *answer[there[-1] :]]
    if not overlap and before and before[-1].role == "assistant" and answer[0].role == "assistant":
        raise RowError(f"{where} ends in an answer, and `{key}` is another one; say with --fields which is scored")
    return [*before[: len(before) - overlap], *answer]


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


def _refuse_long(turns: Sequence[Turn]) -> None:
    n = sum(len(turn.content.encode()) for turn in turns)
    if n > MAX_TEXT_BYTES:
        raise RowError(f"the text has {n:,} bytes, over the limit of {MAX_TEXT_BYTES:,}; shorten it")


def _remarks(turns: Sequence[Turn], found: _Record, reading: Reading) -> tuple[str, ...]:
    answers = [turn for turn in turns if turn.role == "assistant"]
    last = answers[-1] if answers else None
    told = {
        "untrained": found.left_out,
        "media": found.media > 0,
        "thinking": not reading.thinking and any(turn.thinks for turn in answers),
        "calls": last is not None and bool(last.extra.get("tool_calls")) and not last.scored,
    }
    return tuple(name for name, holds in told.items() if holds)
