"""The content of a message: text, or parts of which some are text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from geofilter.rows.loss import refuse_flags
from geofilter.rows.row_error import RowError

MEDIA = ("image", "image_url", "input_image", "image_file", "audio", "input_audio", "audio_url", "video", "video_url",
         "file", "input_file", "document", "inlineData", "inline_data", "fileData", "file_data")  # fmt: skip
"""types of parts, or fields in them, that hold pictures, sounds or files: left out and counted"""
_TEXTS = ("text", "input_text", "output_text")
_THOUGHTS = ("thinking", "reasoning")


@dataclass(slots=True)
class Content:
    """What a content is made of."""

    text: str = ""
    thinking: str = ""
    calls: list[Any] = field(default_factory=list)
    """calls to tools, in the form of `tool_calls`"""
    media: int = 0
    """pictures, sounds and files that were left out"""


def read_content(value: Any, where: str) -> Content:
    """Take a content apart; none at all is empty text.

    Parts are strings or objects. Text is joined; thinking and calls to tools are kept apart; pictures, sounds and files
    are left out and counted.

    Raises:
        RowError: it is neither text nor parts, or a part is of an unknown type.
    """
    out = Content()
    for part in value if isinstance(value, list) else [] if value is None else [value]:
        _add(out, part, where)
    return out


def _add(out: Content, part: Any, where: str) -> None:
    if isinstance(part, str):
        out.text += text_of(part, where)
        return
    if not isinstance(part, dict):
        raise RowError(f"`{where}` must be text, not {type(part).__name__}")
    fields = without_nulls(part)
    kind = fields.get("type")
    refuse_flags(fields, where)
    if kind in MEDIA or any(key in fields for key in MEDIA if key != kind):
        out.media += 1
    elif kind in _THOUGHTS or fields.get("thought") is True:
        out.thinking += next((read_content(fields[k], where).text for k in (*_THOUGHTS, "text") if k in fields), "")
    elif "reasoningContent" in fields:  # Bedrock's
        said = fields["reasoningContent"]
        for key in ("reasoningText", "text"):
            if not isinstance(said, dict):
                raise RowError(f"`{where}` has a `reasoningContent` that is not read; it holds `reasoningText.text`")
            said = said.get(key, {} if key == "reasoningText" else None)
        out.thinking += read_content(said, where).text
    elif kind in (*_TEXTS, None) and "text" in fields:
        out.text += text_of(fields["text"], where)
    elif kind in _TEXTS or kind == "redacted_thinking":
        pass  # without a text
    elif isinstance(fields.get("refusal"), str):
        out.text += text_of(fields["refusal"], where)
    elif found := _call_in(fields):
        out.calls.append(found)
    elif (result := _result_in(fields)) is not None:
        out.text += read_content(result, where).text
    else:
        what = f"of the unknown type {kind!r}" if kind else f"with the unknown fields {', '.join(map(str, fields))}"
        raise RowError(f"`{where}` has a part {what}; parts are text, thinking, calls to tools, "
                       "pictures, sounds and files")  # fmt: skip


def thinking_in(value: Any) -> str:
    """The thinking that a field of a message holds: text, or parts with a text each; empty where it is neither."""
    parts = value if isinstance(value, list) else [value]
    said = (
        next((part[key] for key in (*_THOUGHTS, "text", "summary") if part.get(key)), "")
        if isinstance(part, dict)
        else part
        for part in parts
    )
    return "".join(text for text in said if isinstance(text, str))


def _call_in(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """The call to a tool that a part is, as Anthropic, Bedrock or Gemini write it."""
    if part.get("type") in ("tool_use", "server_tool_use"):
        name, given, known = part.get("name", ""), part.get("input"), part.get("id")
    elif isinstance(use := part.get("toolUse"), dict):
        name, given, known = use.get("name", ""), use.get("input"), use.get("toolUseId")
    elif isinstance(use := part.get("functionCall"), dict):
        name, given, known = use.get("name", ""), use.get("args"), use.get("id")
    else:
        return None
    named = {} if known is None else {"id": known}
    return {"type": "function", **named, "function": {"name": name, "arguments": given or {}}}


def _result_in(part: Mapping[str, Any]) -> Any:
    """What a tool has answered, where a part is that; else None."""
    if part.get("type") == "tool_result":
        return part.get("content", "")
    if isinstance(given := part.get("toolResult"), dict):
        return json.dumps(given.get("content"), ensure_ascii=False)
    if isinstance(given := part.get("functionResponse"), dict):
        return json.dumps(given, ensure_ascii=False)
    return None


def text_of(value: Any, where: str = "text") -> str:
    """The value, which has to be text.

    Raises:
        RowError: it is not, or cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise RowError(f"`{where}` must be text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"`{where}` has half a surrogate pair at character {error.start}; mend the text") from None
    return value


def without_nulls(value: Any) -> Any:
    """The value less the fields, at any depth, that are null: tables fill absent fields with it."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [without_nulls(v) for v in value]
    return value
