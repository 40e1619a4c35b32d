"""Turns: who says what in a row, which of it a fine-tuning loss falls on, and messages as people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from geofilter.rows.bounded import MAX_TEXT_BYTES
from geofilter.rows.content import read_content, text_of, thinking_in, without_nulls
from geofilter.rows.loss import FLAGS, is_trained, refuse_trained
from geofilter.rows.row_error import RowError
from geofilter.rows.strict_json import loads, refuse_large
from geofilter.rows.thinking import thinking_span

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "customer": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "environment": "tool",
    "function_call": "call",
    "tool_call": "call",
    "tool_calls": "call",
}
"""what data sets call a role, in lower case and with _ for a space or -; a `call` is an assistant's turn whose text
is a call to a tool"""
ROLE_KEYS = ("role", "from", "sender", "speaker")
CONTENT_KEYS = ("content", "value", "parts", "text")
"""what messages call their role and their text, first found first"""
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
"""fields of a message that hold its thinking, as chat templates know them"""
OTHER_THOUGHTS = ("thoughts", "think", "thinking_content", "cot", "reasoning_details", "thinking_blocks")
"""further ones, of text or of parts"""
_THOUGHTS, _OTHER_THOUGHTS = frozenset(THOUGHTS), frozenset(OTHER_THOUGHTS)
_SAYS = frozenset((*CONTENT_KEYS, "refusal", *THOUGHTS, *OTHER_THOUGHTS))
_NOT_SHOWN = frozenset(("refusal", "function_call", *FLAGS, *OTHER_THOUGHTS))
"""fields of a message that a chat template is not shown as they are"""
_SPACE = re.compile(r"[\s-]")
SPOKEN = (*THOUGHTS, "tool_calls")
"""fields of a message that hold what is said besides its text"""
KNOWN_EXTRA = (*SPOKEN, "name", "id", "tool_call_id", "type")
"""fields of a message that chat templates know, or nobody means"""
PAIR_KEYS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("query", "response"),
             ("prompt", "completion"), ("prompt", "response"), ("question", "answer"))  # fmt: skip
"""what a history of pairs calls question and answer"""
_NAMED = re.compile(r"[\W_]*(" + "|".join(ROLES) + r")[\W_]*:", re.IGNORECASE)


class Scored(NamedTuple):
    """Characters of a turn that a loss falls on."""

    where: str
    """`content`, or the field of `Turn.extra` that holds thinking"""
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `role` is system, user, assistant, tool, or `text` for text that is no message."""

    role: str
    content: str
    """as the chat template is shown it"""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """other fields of the message (calls to tools, thinking): shown to the chat template"""
    trained: bool = True
    """False for a turn of an assistant, or a text, that is left out of the loss"""
    thinking: bool = False
    """True when the loss falls on thinking too"""

    @property
    def answer(self) -> Scored:
        """The content behind the thinking that it may begin with."""
        return Scored("content", thinking_span(self.content)[2] if self.role == "assistant" else 0, len(self.content))

    @property
    def scored(self) -> tuple[Scored, ...]:
        """What a loss falls on, thinking first; spans without text are left out."""
        if self.role not in ("assistant", "text") or not self.trained:
            return ()
        spans = [self.answer]
        if self.thinking and self.role == "assistant":
            start, end, _ = thinking_span(self.content)
            said = self.content[start:end].strip()
            texts = {self.extra[key]: key for key in reversed(THOUGHTS) if isinstance(self.extra.get(key), str)}
            inside = (Scored(texts[text], 0, len(text)) for text in reversed(texts) if text.strip() != said)
            spans = [*inside, Scored("content", start, end), *spans]
        return tuple(span for span in spans if self.text(span).strip())

    def text(self, span: Scored) -> str:
        """The characters of a span."""
        whole = self.content if span.where == "content" else str(self.extra[span.where])
        return whole[span.start : span.end]

    @property
    def thinks(self) -> bool:
        """Whether an assistant's turn holds thinking."""
        if self.role != "assistant":
            return False
        start, end, _ = thinking_span(self.content)
        return bool(self.content[start:end].strip()) or any(self.extra.get(key) for key in THOUGHTS)


def read_messages(found: Any, key: str) -> tuple[list[Turn], int]:
    """Turns of a list of messages, and how many pictures or sounds were left out of them.

    The list may be JSON text, a table of columns (`{"role": [...], "content": [...]}`), a list of question and answer
    pairs, or one message on its own.

    Args:
        key: what errors call it.

    Raises:
        RowError: no messages, an unknown role, or a content that is no text.
    """
    found = from_json(found)
    alone = isinstance(found, dict)
    if isinstance(found, dict):
        found = _rows_of(found) or [dict(found)]
    if not isinstance(found, list) or not found:
        raise RowError(f"`{key}` must be a list of messages that is not empty")
    if len(found) > 1 and key != "contents" and all(isinstance(one, str) and one.lstrip()[:1] != "{" for one in found):
        return _by_turns(found, key), 0
    turns: list[Turn] = []
    media = 0
    for i, message in enumerate(found):
        where = key if alone and len(found) == 1 else f"{key}[{i}]"
        if (pair := _pair_of(message, where)) is not None:
            turns += pair
            continue
        turn, left_out = _read_message(from_json(message), where)
        turns.append(turn)
        media += left_out
    return turns, media


def role_of(message: Mapping[str, Any]) -> str | None:
    """Who says a message, as `ROLES` has it; None where it does not say, or by a name that is not known."""
    key = _role_key(message)
    return None if key is None else _role(message[key])


def _role_key(message: Mapping[str, Any]) -> str | None:
    return next((key for key in ROLE_KEYS if message.get(key) is not None), None)


def _role(said: Any) -> str | None:
    return ROLES.get(_SPACE.sub("_", said.strip().lower())) if isinstance(said, str) else None


def from_json(value: Any) -> Any:
    """What a list or an object written as JSON text stands for; any other value as it is.

    Raises:
        RowError: JSON that `strict_json.loads` refuses.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return loads(value)
        except RowError:
            raise
        except ValueError:
            return value
    return value


def written_as(was: Any, value: Any) -> Any:
    """The other way round: a value in the place of another one, as JSON text where that is text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(was, str) else value


def content_key(message: Mapping[str, Any]) -> str:
    """What a message calls its text; one that has none yet would call it so."""
    return next((key for key in CONTENT_KEYS if key in message), CONTENT_KEYS[0])


def are_messages(value: Any) -> bool:
    """Whether a value is a list of messages that say their role."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(one, dict) and any(key in one for key in ROLE_KEYS) for one in value
    )  # fmt: skip


def messages_in(text: str) -> Any:
    """The JSON that a text is; the text where it is none, or none that is certain to be messages.

    Raises:
        RowError: messages that `strict_json.loads` refuses.
    """
    try:
        return from_json(text)
    except RowError:
        try:
            refuse_large(text)
        except RowError:
            return text
        if are_messages(json.loads(text)):
            raise
        return text


def _rows_of(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a table of columns of one length; none where it is no table."""
    columns = {k: v for k, v in table.items() if isinstance(v, list)}
    if not set(columns) & set(ROLE_KEYS) or len({len(v) for v in columns.values()}) != 1:
        return []
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _pair_of(found: Any, where: str) -> list[Turn] | None:
    """Turns of a round of a history: `["question", "answer"]`, or an object with such a pair of fields."""
    system: list[Turn] = []
    trained = True
    if isinstance(found, dict):
        keys = next(((q, a) for q, a in PAIR_KEYS if q in found and a in found), None)
        if keys is None or any(key in found for key in ROLE_KEYS):
            return None
        trained = is_trained(found, where)
        if found.get("system"):
            system = [Turn("system", text_of(found["system"], f"{where}.system"))]
        found = [found[key] for key in keys]
    if isinstance(found, list) and len(found) == 2 and all(isinstance(part, str) for part in found):
        question, answer = (text_of(part, where) for part in found)
        return [*system, Turn("user", question), Turn("assistant", answer, trained=trained)]
    return None


def _by_turns(texts: Sequence[str], key: str) -> list[Turn]:
    """Turns of a list of texts that a user and an assistant say in turn."""
    if len(texts) % 2 or any(map(_NAMED.match, texts)):
        why = f"{len(texts)} texts" if len(texts) % 2 else "texts that begin with a name"
        raise RowError(f"`{key}` holds {why}, so it is not known who says which; write messages with `role` and "
                       "`content`")  # fmt: skip
    return [Turn("assistant" if i % 2 else "user", text_of(text, f"{key}[{i}]")) for i, text in enumerate(texts)]


def _read_message(message: Any, where: str) -> tuple[Turn, int]:
    if isinstance(message, dict) and not any(key in message for key in ROLE_KEYS):
        message = {key.lower(): value for key, value in message.items()}
    role_key = _role_key(message) if isinstance(message, dict) else None
    if role_key is None:
        wrong = "has no `role`; messages have" if isinstance(message, dict) else "must be an object with"
        raise RowError(f"`{where}` {wrong} `role` and `content`")
    role = _role(message[role_key])
    if role is None:
        raise RowError(f"`{where}` has the unknown role {message[role_key]!r}")
    fields = without_nulls(message)
    content_key = next((k for k in CONTENT_KEYS if k in fields), None)
    content = read_content(fields.get(content_key or "", None), f"{where}.{content_key or 'content'}")
    trained = is_trained(fields, where) if role in ("assistant", "call") else refuse_trained(fields, role, where)
    # What says how it is trained is for no template's eyes, nor is what an absent field is filled with.
    extra = {k: v for k, v in fields.items() if k not in _NOT_SHOWN and k not in (role_key, content_key)}
    calls = _calls(fields) + content.calls
    text = content.text or (fields["refusal"] if isinstance(fields.get("refusal"), str) else "")
    if role == "call":
        calls, role = calls + _as_calls(text), "assistant"
        text, trained = ("", trained) if calls else (text, False)
    thinking = content.thinking
    if not thinking and not _OTHER_THOUGHTS.isdisjoint(fields):
        thinking = next(filter(None, (thinking_in(fields.get(key)) for key in OTHER_THOUGHTS)), "")
    if thinking and not any(extra.get(key) for key in THOUGHTS):
        extra["reasoning_content"] = thinking
    if text and not _THOUGHTS.isdisjoint(extra):  # some agents write their words twice
        extra = {k: v for k, v in extra.items() if k not in THOUGHTS or v not in (text, text.strip())}
    extra.pop("tool_calls", None)
    if calls:
        extra["tool_calls"] = calls
    if not (calls or not _SAYS.isdisjoint(message)) or (role == "user" and content_key is None):
        raise RowError(f"`{where}` has no `content`")
    return Turn(role, text_of(text, f"{where}.{content_key or 'content'}"), extra, trained), content.media


def _calls(message: Mapping[str, Any]) -> list[Any]:
    """The calls to tools of a message, those of the older `function_call` too."""
    calls = from_json(message.get("tool_calls", []))
    older = from_json(message.get("function_call"))
    calls = [calls] if isinstance(calls, dict) else list(calls) if isinstance(calls, list) else []
    return [*calls, _call(older)] if isinstance(older, dict) else calls


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    """A call to a tool in the form of `tool_calls`; templates show its arguments, so there are some."""
    return {"type": "function", "function": {"arguments": {}, **function}}


def _as_calls(text: str) -> list[Any]:
    """The calls that a turn's text consists of; none where it is no JSON."""
    found = from_json(text)
    calls = [found] if isinstance(found, dict) else found if isinstance(found, list) else []
    if not all(isinstance(call, dict) for call in calls):
        return []
    return [call if "function" in call else _call(call) for call in calls]


def described(value: Any) -> tuple[Any, ...]:
    """Descriptions of tools, as rows have them, in the form that chat templates know."""
    found = from_json(value)
    found = [from_json(tool) for tool in without_nulls(found)] if isinstance(found, list) else []
    declared = [tool.get("functionDeclarations") for tool in found if isinstance(tool, dict)]
    found = [tool for each in declared if isinstance(each, list) for tool in each] or found  # Gemini's
    bare = (isinstance(tool, dict) and "name" in tool and "function" not in tool for tool in found)
    return tuple({"type": "function", "function": t} if b else t for t, b in zip(found, bare, strict=True))


def refuse_long(turns: Sequence[Turn]) -> None:
    """Refuse turns of more text than a row may have.

    Raises:
        RowError: they have.
    """
    if sum(len(turn.content) for turn in turns) * 4 > MAX_TEXT_BYTES:
        n = sum(len(turn.content.encode()) for turn in turns)
        if n > MAX_TEXT_BYTES:
            raise RowError(f"the text has {n:,} bytes, over the limit of {MAX_TEXT_BYTES:,}; shorten it")
