"""The shapes of a row, and the turns that each is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geofilter.rows.fields import NO_FIELDS, Fields, columns, listed, lookup

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
}
SHAPES = ("messages", "conversations", "completion", "alpaca", "preference", "text")
"""names that `parse_record` gives"""
CHAT, SHAREGPT = ("role", "content"), ("from", "value")
"""what a message calls its role and its text"""
_KNOWN_KEYS = "messages, conversations, prompt + completion|response, instruction + output, chosen, text"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `role` is system, user, assistant, tool, or `text` for a plain-text row."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """other fields of the message (tool calls, thinking): shown to the chat template, never scored"""


class RowError(ValueError):
    """Why one record cannot be used; becomes `Rejected.error`."""


def parse_record(record: Mapping[str, Any], fields: Fields = NO_FIELDS) -> tuple[str, tuple[Turn, ...]]:
    """Recognise a record's shape; return its name and its turns.

    Shapes: chat `messages` (role/content), ShareGPT `conversations` (from/value), `prompt` with
    `completion` or `response`, Alpaca `instruction`/`input`/`output`, preference `chosen` (with or
    without `prompt`; the chosen side is used), and plain `text`.

    Args:
        fields: the row's own columns, which then are all it is made of; messages may be of either kind.

    Raises:
        RowError: no known shape, a column missing, no response, or content that is not text.
    """
    if fields:
        shape, turns = _of_columns(record, fields)
    elif "messages" in record:
        shape, turns = "messages", _turns(record["messages"], "messages", *CHAT)
    elif "conversations" in record:
        shape, turns = "conversations", _turns(record["conversations"], "conversations", *SHAREGPT)
    elif "chosen" in record:
        shape, turns = "preference", _pair(record.get("prompt"), record["chosen"], "chosen")
    elif "prompt" in record and ("completion" in record or "response" in record):
        key = "completion" if "completion" in record else "response"
        shape, turns = "completion", _pair(record["prompt"], record[key], key)
    elif "instruction" in record and "output" in record:
        question = _text(record["instruction"], "instruction")
        extra = _text(record.get("input") or "", "input")
        user = f"{question}\n\n{extra}" if extra.strip() else question
        shape, turns = "alpaca", (Turn("user", user), Turn("assistant", _text(record["output"], "output")))
    elif "text" in record:
        shape, turns = "text", (Turn("text", _text(record["text"], "text")),)
    else:
        raise RowError(f"no known fields; a row needs one of: {_KNOWN_KEYS}")
    responses = [t for t in turns if t.role in ("assistant", "text")]
    if not responses:
        raise RowError("no assistant turn; there is nothing a fine-tuning loss would fall on")
    if not any(t.content.strip() for t in responses):
        raise RowError("the response is empty; fill or remove the row")
    return shape, turns


def _of_columns(record: Mapping[str, Any], fields: Fields) -> tuple[str, tuple[Turn, ...]]:
    """Shape and turns of a row whose columns are named; a row without a system text has no system turn."""
    values = {name: lookup(record, column) for name, column in fields.items()}
    for name, column in fields.items():
        if values[name] is None and name != "system":
            raise RowError(f"no column `{column}`, or null in it (--fields {name}={column}); there are "
                           f"{listed(columns(record))}")  # fmt: skip
    turns: tuple[Turn, ...]
    if "messages" in fields:
        found = values["messages"]
        sharegpt = isinstance(found, list) and found and isinstance(found[0], dict) and "from" in found[0]
        shape, turns = "messages", _turns(found, fields["messages"], *(SHAREGPT if sharegpt else CHAT))
    elif "text" in fields:
        shape, turns = "text", (Turn("text", _text(values["text"], fields["text"])),)
    else:
        shape = "completion"
        turns = _pair(values["prompt"], values["response"], fields["response"], fields["prompt"])
    if values.get("system") not in (None, ""):
        turns = (Turn("system", _text(values["system"], fields["system"])), *turns)
    return shape, turns


def _pair(prompt: Any, answer: Any, key: str, prompt_key: str = "prompt") -> tuple[Turn, ...]:
    """Prompt and answer, each a string or a list of messages (TRL's conversational form)."""
    before: tuple[Turn, ...] = ()
    if isinstance(prompt, list):
        before = _turns(prompt, prompt_key, *CHAT)
    elif prompt is not None:
        before = (Turn("user", _text(prompt, prompt_key)),)
    if isinstance(answer, list):
        return before + _turns(answer, key, *CHAT)
    return (*before, Turn("assistant", _text(answer, key)))


def _turns(messages: Any, key: str, role_key: str, content_key: str) -> tuple[Turn, ...]:
    if not isinstance(messages, list) or not messages:
        raise RowError(f"`{key}` must be a list of messages that is not empty")
    out = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or role_key not in message:
            raise RowError(f"`{key}[{i}]` must be an object with `{role_key}` and `{content_key}`")
        role = _ROLES.get(str(message[role_key]))
        if role is None:
            raise RowError(f"`{key}[{i}]` has the unknown role {message[role_key]!r}")
        content = message.get(content_key)
        if content is None and message.get("tool_calls"):
            content = ""  # a call to a tool carries no text to score
        # A field that is null is one the template should not see: data sets fill absent fields with it.
        extra = {k: v for k, v in message.items() if k not in (role_key, content_key) and v is not None}
        out.append(Turn(role, _text(content, f"{key}[{i}].{content_key}"), extra))
    return tuple(out)


def _text(value: Any, where: str) -> str:
    """A string, or a list of text parts joined."""
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        value = "".join(p["text"] for p in value)
    if not isinstance(value, str):
        raise RowError(f"`{where}` must be text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"`{where}` has half a surrogate pair at character {error.start}; mend the text") from None
    return value
