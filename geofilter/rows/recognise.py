"""From the keys of a record to its turns: which is prompt, history and answer; `keys` says which make what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from geofilter.rows.bounded import MAX_TEXT_BYTES
from geofilter.rows.content import read_content, text_of, without_nulls
from geofilter.rows.fields import columns, listed, lookup
from geofilter.rows.keys import (
    ANSWERS,
    CHAT,
    CHOSEN,
    INPUT,
    KEYS,
    KNOWN_KEYS,
    MAY_BE_READ,
    PROMPTS,
    QUESTIONS,
    REJECTED,
    SYSTEM,
    TOOLS,
)
from geofilter.rows.reading import Reading
from geofilter.rows.row_error import RowError
from geofilter.rows.turns import (
    Turn,
    are_messages,
    as_context,
    from_json,
    is_same,
    messages_in,
    read_messages,
    read_transcript,
    refuse_long,
)

LABEL_CHARS = 20
"""text up to this long is a name or a number, not a part of a prompt"""


def is_there(record: Mapping[str, Any], key: str) -> bool:
    """Whether a record has a key whose value is neither null nor empty."""
    value = record.get(key)
    return bool(value.strip()) if isinstance(value, str) else value is not None and value != [] and value != {}


class Record:
    """A record while it is read: notes the keys that are used, and the pictures that are left out."""

    def __init__(self, record: Mapping[str, Any], by_name: bool = True) -> None:
        """Take a record; keys of known shapes count in any case unless `by_name` is False."""
        folded = ((key.lower(), key) for key in record if by_name and not key.islower())
        self.names = {low: key for low, key in folded if low in KEYS and low not in record}
        """known keys that the record writes otherwise -> as it writes them"""
        self.record = {**record, **{key: record[name] for key, name in self.names.items()}} if self.names else record
        self.taken: list[str] = [*self.names.values()]
        self.used: list[str] = []
        self.media = 0
        self.left_out = False
        """whether the row itself leaves turns out of the loss"""
        self._tools: Any = None

    def has(self, key: str) -> bool:
        """Whether the key has a value, see `is_there`."""
        return is_there(self.record, key)

    def take(self, key: str) -> Any:
        """Its value; the key is noted."""
        self.taken.append(key)
        self.used.append(self.names.get(key, key))
        return self.record[key]

    def first(self, keys: Iterable[str]) -> str | None:
        """The first of these keys that is there."""
        return next((key for key in keys if self.has(key)), None)

    def recognised(self) -> tuple[str, list[Turn]]:
        """Shape and turns of a record of a known shape, without its system text.

        Raises:
            RowError: no known shape, several answers, or what is no text where text is wanted.
        """
        if chosen := self.first(CHOSEN):
            return "preference", self.preference(chosen)
        if chat := self.first(CHAT):
            return self.chat(chat)
        for shape, prompt, answers in PROMPTS:
            if self.has(prompt) and (answer := self.one_of(answers)):
                turns = self.context(prompt) + self.answer(answer)
                self.refuse_unread(turns)
                return shape, turns
        if self.has("segments"):
            return "segments", self.segments()
        if self.has("text"):
            turns = [Turn("text", text_of(self.take("text"), "text"))]
            self.refuse_unread(turns, "code")
            return "text", turns
        if answer := self.one_of(ANSWERS):
            turns = self.context(None) + self.answer(answer)
            self.refuse_unread(turns, "code", others=True)
            return "completion", turns
        raise RowError(self._why_unknown())

    def chat(self, key: str) -> tuple[str, list[Turn]]:
        """Shape and turns of a row with a list of messages, which may lack its answer, or have another, worse one."""
        turns = self.messages(key)
        weight = self.record.get("weight")
        if isinstance(weight, int | float) and weight <= 0:
            raise RowError(f"the row has a weight of {weight}: it is not trained")
        if other := self.first(REJECTED):
            self.take(other)
            asked = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
            return "preference", [*as_context(turns[: asked + 1]), *turns[asked + 1 :]]
        answer = self.one_of(ANSWERS) if turns[-1].role in ("user", "tool") else None
        if answer:
            turns = as_context(turns) + self.answer(answer)
        return ("conversations" if key == "conversations" else "messages"), turns

    def refuse_unread(self, turns: Sequence[Turn], *more: str, others: bool = False) -> None:
        """Refuse a row with text under a key of `MAY_BE_READ` that is not read: it may be part of prompt or answer.

        Text that is read elsewhere in the row, or holds all that is read, is not meant.

        Args:
            more: further keys.
            others: longer text under any key counts.

        Raises:
            RowError: it has such text.
        """
        refuse_long(turns)
        read = [" ".join(turn.content.split()) for turn in turns]
        for key, value in self.record.items():
            if key in self.taken or not self.has(key) or key in SYSTEM:
                continue
            other = others and isinstance(value, str) and len(value.split(None, 1)) > 1 and len(value) > LABEL_CHARS
            if (key in MAY_BE_READ or key in more or other) and not _again(value, read):
                raise RowError(f"`{self.names.get(key, key)}` is not read beside {', '.join(self.used)}; say with "
                               "--fields what the row is made of")  # fmt: skip

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
        """The turns of a list of messages."""
        return self._turns(self.take(key), key)

    def text_or_messages(self, key: str, role: str) -> list[Turn]:
        """The turns of a value that is text, a transcript, messages, or an object that holds messages."""
        value = self.take(key)
        if isinstance(value, str):
            whole = role == "user" or key in (*CHOSEN, *CHOSEN.values())
            inside = messages_in(value)
            # An answer may be JSON itself, or a dialogue.
            if not are_messages(inside) or not (whole or inside[0].get("role") == "assistant"):
                text = text_of(value, key)
                return (read_transcript(text) if whole else None) or [Turn(role, text)]
            value = inside
        if isinstance(value, dict) and "messages" in value:  # OpenAI's preference rows
            self._tools = value.get("tools")
            value = value["messages"]
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            if len(value) > 1:
                raise RowError(f"`{key}` holds {len(value)} texts; keep the one that is trained on")
            return [Turn(role, text_of(value[0], key))]
        if not isinstance(value, list | dict):
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
        """The turns of an answer."""
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
        other = self._rejected(CHOSEN[key])
        if not (chat or asked) and len(answer) == len(other) == 1 and (same := _beginning(answer[0], other[0])):
            text = answer[0].content
            return [Turn("text", text[:same], trained=False), Turn("text", text[same:])]
        before = as_context(self.messages(chat)) if chat else self.context(asked) if asked or not own else []
        common = next((i for i, (a, b) in enumerate(zip(answer, other, strict=False)) if not is_same(a, b)),
                      min(len(answer), len(other)))  # fmt: skip
        common = min(common, len(answer) - 1)
        answer = [*as_context(answer[:common]), *answer[common:]]
        turns = _joined(before, answer, f"`{chat or 'the prompt'}`", key)
        self.refuse_unread([*turns, *other])
        return turns

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
            if not isinstance(part, dict) or not isinstance(part.get("label"), bool):
                raise RowError(f"`segments[{i}]` must be an object with `text` and a `label` of true or false")
            out.append(Turn("text", text_of(part.get("text"), f"segments[{i}].text"), trained=part["label"]))
        return out

    def with_system(self, turns: list[Turn]) -> list[Turn]:
        """The turns behind the row's own system text; messages that begin with one keep theirs."""
        key = self.first(SYSTEM)
        if key is None or turns[0].role in ("system", "text"):
            return turns
        value = self.take(key)
        if isinstance(value, dict):  # Gemini's
            value = value.get("parts", value)
        return [Turn("system", read_content(value, key).text), *turns]

    def tools(self) -> tuple[Any, ...]:
        """Descriptions of tools in the form that chat templates know."""
        key = self.first(TOOLS)
        found = from_json(self.take(key) if key else self._tools)
        found = [from_json(tool) for tool in without_nulls(found)] if isinstance(found, list) else []
        declared = [tool.get("functionDeclarations") for tool in found if isinstance(tool, dict)]
        found = [tool for each in declared if isinstance(each, list) for tool in each] or found  # Gemini's
        bare = (isinstance(tool, dict) and "name" in tool and "function" not in tool for tool in found)
        return tuple({"type": "function", "function": t} if b else t for t, b in zip(found, bare, strict=True))

    def of_columns(self, reading: Reading) -> tuple[str, list[Turn]]:
        """Shape and turns of a row whose columns are named; a row without a system text has no system turn."""
        fields = reading.fields
        values = {name: lookup(self.record, column) for name, column in fields.items()}
        for name, column in fields.items():
            if values[name] is None and name != "system":
                raise RowError(f"no column `{column}`, or null in it (--fields {name}={column}); there are "
                               f"{listed(columns(self.record))}")  # fmt: skip
        named = Record({column: values[name] for name, column in fields.items()}, by_name=False)
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


def _again(value: Any, read: Sequence[str]) -> bool:
    """Whether a value says no more than is read, in single spaces, elsewhere in the row, or holds all of it."""
    if isinstance(value, str) and len(value) > MAX_TEXT_BYTES:
        return False
    texts = (" ".join(str(one).split()) for one in (value if isinstance(value, list) else [value]))
    return all(any(text in one for one in read) or (all(read) and all(one in text for one in read)) for text in texts)


def _beginning(one: Turn, other: Turn) -> int:
    """Characters that two answers without a prompt begin with: their prompt, as TRL's `extract_prompt` has it."""
    pairs = zip(one.content, other.content, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
    return same - 1 if one.content[same - 1 : same] == " " else same


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
