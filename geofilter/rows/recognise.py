"""From the keys of a record to its turns: which is prompt, history and answer; `keys` says which make what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from geofilter.rows.content import read_content, text_of
from geofilter.rows.context import as_context, beginning, is_same, joined
from geofilter.rows.fields import columns, listed, lookup
from geofilter.rows.keys import (
    ANSWERS,
    BESIDE_TEXT,
    CHAT,
    CHOSEN,
    HISTORY_ANSWERS,
    INPUT,
    JUDGED,
    KEYS,
    KNOWN_KEYS,
    KTO,
    OTHER_ANSWERS,
    PROMPTS,
    QUESTIONS,
    SYSTEM,
    THINKING,
    TOOLS,
    WHOLE_ANSWERS,
)
from geofilter.rows.reading import Reading
from geofilter.rows.row_error import RowError
from geofilter.rows.transcript import read_transcript
from geofilter.rows.turns import (
    Turn,
    are_messages,
    described,
    from_json,
    messages_in,
    read_messages,
    refuse_long,
    role_of,
)
from geofilter.rows.unread import ReadText, first_unread, is_flag, is_prose, is_there, longest


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
        self._held: Mapping[str, Any] = {}
        """what stands beside messages in an object that holds them"""

    def has(self, key: str) -> bool:
        """Whether the key has a value, see `is_there`."""
        return key in self.record and is_there(self.record, key)

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
        if chat := self.chat_key():
            return self.chat(chat)
        if found := self.asked_and_answered():
            shape, prompt, key = found
            turns = self.context(prompt) + self.answer(key)
            if other := self.second_answer():
                self.take(other)
                shape = "preference"
            turns = self.thought(turns)
            self.refuse_unread(turns, judged=shape == "preference")
            return shape, turns
        if self.has("segments"):
            return "segments", self.segments()
        if (role := role_of(self.record)) not in (None, "assistant") and self.first(("text", *ANSWERS)):
            raise RowError(f"the row is a turn of role {role}; join the turns of a conversation into `messages`")
        if self.has("text"):
            turns = [Turn("text", text_of(self.take("text"), "text"))]
            self.refuse_unread(turns, "code", *BESIDE_TEXT)
            return "text", turns
        if answer := self.one_of(ANSWERS):
            turns = self.thought(self.context(None) + self.answer(answer))
            self.refuse_unread(turns, "code", others=True)
            return "completion", turns
        raise RowError(self._why_unknown())

    def chat(self, key: str) -> tuple[str, list[Turn]]:
        """Shape and turns of a row with a list of messages, which may lack its answer, or have another, worse one."""
        turns = self.messages(key)
        weight = self.record.get("weight")
        if isinstance(weight, int | float) and weight <= 0:
            raise RowError(f"the row has a weight of {weight}: it is not trained")
        if other := self.second_answer() or self.first((KTO,)):
            self.take(other)
            asked = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
            return "preference", [*as_context(turns[: asked + 1]), *turns[asked + 1 :]]
        if self.record.get("unmask") is True:
            raise RowError("`unmask` trains users' turns too; only the assistant's are scored")
        shape = "conversations" if key == "conversations" else "messages"
        if turns[-1].role in ("user", "tool"):
            if beside := self.one_of(HISTORY_ANSWERS):
                turns = self.thought(as_context(turns) + self.answer(beside), "reasoning")
                self.refuse_unread(turns)
            return shape, turns
        second = next((one for one in WHOLE_ANSWERS if is_prose(self.record.get(one))), None)
        if second is not None:
            refuse_long(turns)
            if not ReadText(turns).has(self.record[second]):
                raise RowError(f"`{key}` ends in an answer, and `{second}` is another one; say with --fields which is "
                               "scored")  # fmt: skip
        return shape, turns

    def refuse_unread(self, turns: Sequence[Turn], *more: str, others: bool = False, judged: bool = False) -> None:
        """Refuse a row with text that is not read and may be part of prompt or answer, see `unread.first_unread`.

        Args:
            judged: the row has two answers; what was thought and said of them, and a reference, is no part of either.

        Raises:
            RowError: it has such text.
        """
        refuse_long(turns)
        passed = [*self.taken, *SYSTEM, *((*JUDGED, *THINKING) if judged else ())]
        if key := first_unread(self.record, passed, ReadText(turns), more, others=others, candidates=judged):
            raise RowError(f"`{self.names.get(key, key)}` is not read beside {', '.join(self.used)}; say with "
                           "--fields what the row is made of")  # fmt: skip

    def thought(self, turns: list[Turn], *more: str) -> list[Turn]:
        """The turns, the answer with the thinking that stands in a column of its own; `more` are keys of such."""
        last, key = turns[-1], self.first((*THINKING, *more))
        if key is None or last.role != "assistant" or last.thinks:
            return turns
        text = self.record[key]
        if not isinstance(text, str) or is_flag(text) or text.strip() in last.content:
            return turns
        return [*turns[:-1], replace(last, extra={**last.extra, "reasoning_content": text_of(self.take(key), key)})]

    def chat_key(self) -> str | None:
        """The key of the list of messages; `trajectory` may hold other things."""
        return self.first(key for key in CHAT if key != "trajectory" or are_messages(self.record.get(key)))

    def asked_and_answered(self) -> tuple[str, str, str] | None:
        """Shape, key of the prompt and key of its answer.

        Raises:
            RowError: there are several answers, and they differ.
        """
        for shape, prompt, answers in PROMPTS:
            if self.has(prompt) and (answer := self.one_of(answers)):
                return shape, prompt, answer
        return None

    def second_answer(self) -> str | None:
        """The key of a worse answer beside an answer."""
        return self.first(key for key in OTHER_ANSWERS if not isinstance(self.record.get(key), bool | int | float))

    def one_of(self, keys: Sequence[str]) -> str | None:
        """The one key of these that is there; of a long answer and its short form that of the long one.

        Raises:
            RowError: there are several, and they differ.
        """
        there = [key for key in keys if self.has(key)]
        if len(there) < 2 or all(self.record[key] == self.record[there[0]] for key in there):
            return there[0] if there else None
        if found := longest(self.record, there):
            return found
        names = " and ".join(f"`{key}`" for key in there)
        raise RowError(f"{names} are both there; say with --fields which is the answer")

    def _why_unknown(self) -> str:
        keys = (*CHOSEN, *CHAT, *ANSWERS, "segments", "text")
        if empty := next((k for k in keys if k in self.record and not self.has(k)), None):
            if empty in CHAT:
                return f"`{empty}` must be a list of messages that is not empty"
            return "the response is empty; fill or remove the row"
        return f"no known fields; a row needs one of: {KNOWN_KEYS}; or say with --fields what it is made of"

    def messages(self, key: str) -> list[Turn]:
        """The turns of a list of messages, or of an object that holds one."""
        return self._turns(self._inside(self.take(key)), key)

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
        value = self._inside(value)
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            if len(value) > 1:
                raise RowError(f"`{key}` holds {len(value)} texts; keep the one that is trained on")
            return [Turn(role, text_of(value[0], key))]
        if not isinstance(value, list | dict):
            raise RowError(f"`{key}` must be text, not {type(value).__name__}")
        return self._turns(value, key)

    def _inside(self, value: Any) -> Any:
        """The messages that an object holds, as OpenAI's preference rows have them; any other value as it is."""
        if not isinstance(value, dict) or "messages" not in value:
            return value
        self._held = value
        return value["messages"]

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
        chat = self.chat_key()
        answer = self.answer(key)
        own = any(turn.role == "user" for turn in answer)
        asked = self.first(("prompt", "instruction", *QUESTIONS))
        other = self._rejected(CHOSEN[key])
        if not (chat or asked) and len(answer) == len(other) == 1 and (same := beginning(answer[0], other[0])):
            text = answer[0].content
            return [Turn("text", text[:same], trained=False), Turn("text", text[same:])]
        before = as_context(self.messages(chat)) if chat else self.context(asked) if asked or not own else []
        common = next((i for i, (a, b) in enumerate(zip(answer, other, strict=False)) if not is_same(a, b)),
                      min(len(answer), len(other)))  # fmt: skip
        common = min(common, len(answer) - 1)
        answer = [*as_context(answer[:common]), *answer[common:]]
        turns = joined(before, answer, f"`{chat or 'the prompt'}`", key)
        self.refuse_unread([*turns, *other], judged=True)
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
        if (key is None and not self._held.get("system")) or turns[0].role in ("system", "text"):
            return turns
        value = self.take(key) if key else self._held["system"]
        if isinstance(value, dict):  # Gemini's
            value = value.get("parts", value)
        return [Turn("system", read_content(value, key or "system").text), *turns]

    def tools(self) -> tuple[Any, ...]:
        """Descriptions of tools in the form that chat templates know."""
        key = self.first(TOOLS)
        return described(self.take(key) if key else self._held.get("tools"))

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
