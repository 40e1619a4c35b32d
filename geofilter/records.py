"""Rows in: one line of JSONL (plain, .gz, .zst) or row of Parquet becomes a `Row` or a `Rejected`, never nothing.

The shape of every row is recognised on its own (see `parse_record`). Raw bytes are kept so that a kept
row can be written back exactly as it came.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.fields import NO_FIELDS, Fields, columns, lookup
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
CHAT, SHAREGPT = ("role", "content"), ("from", "value")
"""what a message calls its role and its text"""
SHOWN_COLUMNS = 12
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


def read_rows(path: Path, limit: int | None = None, fields: Fields = NO_FIELDS) -> Iterator[Row | Rejected]:
    """The file's first `limit` lines (all when None), each as a `Row` or a `Rejected`.

    Raises:
        InputError: the file cannot be read.
    """
    for number, line in enumerate(islice(read_lines(path), limit), start=1):
        yield parse_line(line, str(path), number, fields)


def usable_rows(path: Path, fields: Fields = NO_FIELDS) -> Iterator[Row]:
    """The file's rows, all of which have to be usable.

    Raises:
        InputError: the file cannot be read, or a row of it cannot be used.
    """
    for row in read_rows(path, fields=fields):
        if isinstance(row, Rejected):
            raise InputError(f"{path}, line {row.line}: {row.error}")
        yield row


def check_fields(paths: Sequence[Path], fields: Fields, limit: int | None = None) -> None:
    """Refuse columns that are in no row of a file: they are misspelt, or the file is of another shape.

    Of `system` it is enough that one of the files has it. Reads until each column has been seen, most often one line.

    Args:
        limit: only the first rows of each file count.

    Raises:
        InputError: no row has a column, or a file cannot be read.
    """
    nowhere, known = dict(fields), dict[str, None]()
    for path in paths if fields else ():
        absent, seen = _absent(path, fields, limit)
        for name, column in absent.items():
            if name != "system" and seen:
                raise _no_such_column(path, name, column, seen)
        nowhere = {name: column for name, column in nowhere.items() if name in absent}
        known |= dict.fromkeys(seen)
    for name, column in nowhere.items():
        if known:
            raise _no_such_column(paths[0], name, column, known)


def fields_for(path: Path, fields: Fields) -> Fields:
    """The fields, where a file has them all; else none: its rows have a known shape then, or none.

    Raises:
        InputError: the file cannot be read.
    """
    return NO_FIELDS if set(_absent(path, fields, None)[0]) - {"system"} else fields


def _absent(path: Path, fields: Fields, limit: int | None) -> tuple[dict[str, str], list[str]]:
    """What of the fields no row of a file has, and some of the columns it has."""
    absent, seen = dict(fields), dict[str, None]()
    for number, line in enumerate(islice(read_lines(path), limit), start=1):
        if not absent:
            break
        try:
            record = _record(line.rstrip(b"\r\n"), number)
        except RowError:
            continue
        absent = {name: column for name, column in absent.items() if lookup(record, column) is None}
        if len(seen) < SHOWN_COLUMNS:
            seen |= dict.fromkeys(columns(record))
    return absent, list(seen)


def _no_such_column(path: Path, name: str, column: str, seen: Iterable[str]) -> InputError:
    return InputError(f"{path}: no row has the column {column} (--fields {name}={column}); there are {_listed(seen)}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return ", ".join(names[:SHOWN_COLUMNS]) + more if names else "none"


def parse_line(line: bytes, file: str, number: int, fields: Fields = NO_FIELDS) -> Row | Rejected:
    """One raw line (with or without its ending) as a `Row`, or a `Rejected` that says why not."""
    raw = line.rstrip(b"\r\n")
    try:
        record = _record(raw, number)
        shape, turns = parse_record(record, fields)
    except RowError as error:
        return Rejected(file, number, str(error), raw)
    return Row(file, number, hashlib.sha256(raw).hexdigest(), shape, turns, record)


def _record(raw: bytes, number: int) -> dict[str, Any]:
    """The object on a line without its ending."""
    if len(raw) > MAX_LINE_BYTES:
        raise RowError(f"line has {len(raw):,} bytes, over the limit of {MAX_LINE_BYTES:,}; shorten it")
    record = _load_json(raw, first=number == 1)
    if not isinstance(record, dict):
        raise RowError(f"a row must be a JSON object, not {type(record).__name__}; wrap it in {{...}}")
    return record


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
        shape, turns = _named(record, fields)
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


def source_of(record: Mapping[str, Any]) -> str:
    """What a record says of where it comes from, at most 60 characters; empty when it says nothing."""
    found = (record[name] for name in SOURCE_FIELDS if isinstance(record.get(name), str))
    return next(found, "")[:SOURCE_CHARS]


def _named(record: Mapping[str, Any], fields: Fields) -> tuple[str, tuple[Turn, ...]]:
    """Shape and turns of a row whose columns are named; a row without a system text has no system turn."""
    values = {name: lookup(record, column) for name, column in fields.items()}
    for name, column in fields.items():
        if values[name] is None and name != "system":
            raise RowError(f"no column `{column}`, or null in it (--fields {name}={column}); there are "
                           f"{_listed(columns(record))}")  # fmt: skip
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
