"""Rows in: one line of JSONL (plain, .gz, .zst) or row of Parquet becomes a `Row` or a `Rejected`, never nothing.

The shape of every row is recognised on its own (see `parse_record`). Raw bytes are kept so that a kept
row can be written back exactly as it came.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.inputs import read_lines

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is rejected: tokenising it would stall the scan, and no fine-tuning row is that long."""

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
SOURCE_FIELDS = ("source", "dataset")
"""fields that say where a row comes from, first found first"""
SOURCE_CHARS = 60
_KNOWN_KEYS = "messages, conversations, prompt + completion|response, instruction + output, chosen, text"


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; `role` is system, user, assistant, tool, or `text` for a plain-text row."""

    role: str
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """other fields of the message (tool calls, thinking): shown to the chat template, never scored"""


@dataclass(frozen=True, slots=True)
class Row:
    """A usable record."""

    file: str
    """path as given on the command line"""
    line: int
    """1-based line number"""
    sha256: str
    """of the line's bytes without its line ending"""
    format: str
    """its shape, one of `SHAPES`"""
    turns: tuple[Turn, ...]
    record: Mapping[str, Any]
    """the parsed object"""

    @property
    def response(self) -> str:
        """The text a fine-tuning loss falls on: all assistant turns, or the whole text."""
        return "\n".join(t.content for t in self.turns if t.role in ("assistant", "text"))

    @property
    def prompt(self) -> str:
        """Everything before the last response, as one string; empty for plain text."""
        last = max((i for i, t in enumerate(self.turns) if t.role == "assistant"), default=0)
        return "\n".join(t.content for t in self.turns[:last])


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that cannot be scored, with the reason; it goes to the quarantine file."""

    file: str
    line: int
    error: str
    raw: bytes
    """the line without its line ending"""

    def to_json(self) -> dict[str, Any]:
        """The quarantine record: `raw` as text, or `raw_base64` where the bytes are not UTF-8."""
        out: dict[str, Any] = {"file": self.file, "line": self.line, "error": self.error}
        try:
            out["raw"] = self.raw.decode("utf-8")
        except UnicodeDecodeError:
            out["raw_base64"] = base64.b64encode(self.raw).decode("ascii")
        return out


class RowError(ValueError):
    """Why one record cannot be used; becomes `Rejected.error`."""


def read_rows(path: Path, limit: int | None = None) -> Iterator[Row | Rejected]:
    """The file's first `limit` lines (all when None), each as a `Row` or a `Rejected`.

    Raises:
        InputError: the file cannot be read.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if limit is not None and number > limit:
            return
        yield parse_line(line, str(path), number)


def usable_rows(path: Path) -> Iterator[Row]:
    """The file's rows, all of which have to be usable.

    Raises:
        InputError: the file cannot be read, or a row of it cannot be used.
    """
    for row in read_rows(path):
        if isinstance(row, Rejected):
            raise InputError(f"{path}, line {row.line}: {row.error}")
        yield row


def parse_line(line: bytes, file: str, number: int) -> Row | Rejected:
    """One raw line (with or without its ending) as a `Row`, or a `Rejected` that says why not."""
    raw = line.rstrip(b"\r\n")
    try:
        if len(raw) > MAX_LINE_BYTES:
            raise RowError(f"line has {len(raw):,} bytes, over the limit of {MAX_LINE_BYTES:,}; shorten it")
        record = _load_json(raw, first=number == 1)
        shape, turns = parse_record(record)
    except RowError as error:
        return Rejected(file, number, str(error), raw)
    return Row(file, number, hashlib.sha256(raw).hexdigest(), shape, turns, record)


def _load_json(raw: bytes, first: bool) -> Any:
    if not raw.strip():
        raise RowError("empty line; remove it")
    try:
        # A byte order mark may stand before the first record only.
        return json.loads(raw.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 at byte {error.start}; re-encode the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise RowError(f"broken JSON at column {error.colno}: {error.msg}; mend or remove the line") from None
    except ValueError as error:  # a number too long to convert
        raise RowError(f"unreadable JSON: {str(error).split(':')[0]}; mend or remove the line") from None
    except RecursionError:
        raise RowError("JSON nested too deeply; flatten it") from None


def parse_record(record: Any) -> tuple[str, tuple[Turn, ...]]:
    """Recognise a record's shape; return its name and its turns.

    Shapes: chat `messages` (role/content), ShareGPT `conversations` (from/value), `prompt` with
    `completion` or `response`, Alpaca `instruction`/`input`/`output`, preference `chosen` (with or
    without `prompt`; the chosen side is used), and plain `text`.

    Raises:
        RowError: no known shape, no response, or content that is not text.
    """
    if not isinstance(record, dict):
        raise RowError(f"a row must be a JSON object, not {type(record).__name__}; wrap it in {{...}}")
    if "messages" in record:
        shape, turns = "messages", _turns(record["messages"], "messages", "role", "content")
    elif "conversations" in record:
        shape, turns = "conversations", _turns(record["conversations"], "conversations", "from", "value")
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


def source_of(record: Mapping[str, Any]) -> str:
    """What a record says of where it comes from, at most 60 characters; empty when it says nothing."""
    found = (record[name] for name in SOURCE_FIELDS if isinstance(record.get(name), str))
    return next(found, "")[:SOURCE_CHARS]


def _pair(prompt: Any, answer: Any, key: str) -> tuple[Turn, ...]:
    """Prompt and answer, each a string or a list of messages (TRL's conversational form)."""
    before: tuple[Turn, ...] = ()
    if isinstance(prompt, list):
        before = _turns(prompt, "prompt", "role", "content")
    elif prompt is not None:
        before = (Turn("user", _text(prompt, "prompt")),)
    if isinstance(answer, list):
        return before + _turns(answer, key, "role", "content")
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
