"""Columns of rows whose shape is not one of the known ones, as `--fields prompt=q,response=meta.answer` names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from geofilter.errors import InputError

Fields = Mapping[str, str]
"""what a row is made of -> the row's own column, `meta.answer` for one inside another; empty for known shapes"""
NO_FIELDS: Fields = MappingProxyType({})
_SHAPES = ({"prompt", "response"}, {"prompt", "response", "system"}, {"messages"}, {"messages", "system"}, {"text"})
EXAMPLE = "prompt=question,response=answer"
DEPTH = 4
"""columns inside columns that `columns` looks into"""
SHOWN_COLUMNS = 12


def parse(text: str | None) -> dict[str, str]:
    """The option `NAME=COLUMN[,NAME=COLUMN...]`; nothing for None.

    Raises:
        InputError: no such list, or one that names no row, see `check`.
    """
    found: dict[str, str] = {}
    for part in [] if text is None else text.split(","):
        name, sign, column = (x.strip() for x in part.partition("="))
        if not (sign and name and column):
            raise InputError(f"--fields {text}: {part.strip()!r} is not NAME=COLUMN; write {EXAMPLE} for instance")
        if name in found:
            raise InputError(f"--fields {text}: {name} stands twice; name one column for it")
        found[name] = column
    if text is not None:
        check(found)
    return found


def check(fields: Fields) -> None:
    """Refuse names that make no row together.

    Raises:
        InputError: they do not.
    """
    if fields and set(fields) not in _SHAPES:
        raise InputError(
            f"--fields {written(fields)}: a row is made of prompt and response, of messages, or of text, the first two "
            f"also with system; write {EXAMPLE} for instance"
        )


def written(fields: Fields) -> str:
    """As the option has it."""
    return ",".join(f"{name}={column}" for name, column in fields.items())


def lookup(record: Mapping[str, Any], path: str) -> Any:
    """A column of a record, `meta.label` for one inside another; None where it is absent or null."""
    found = record.get(path)
    for i, character in enumerate(path):  # names may hold dots themselves
        if found is None and character == "." and isinstance(inner := record.get(path[:i]), Mapping):
            found = lookup(inner, path[i + 1 :])
    return found


def columns(record: Mapping[str, Any], depth: int = DEPTH) -> Iterator[str]:
    """The names by which `lookup` finds the values of a record."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value and depth > 1:
            yield from (f"{name}.{inner}" for inner in columns(value, depth - 1))
        else:
            yield name


def listed(names: Iterable[str]) -> str:
    """The first names of columns, for a message."""
    names = list(names)
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return ", ".join(names[:SHOWN_COLUMNS]) + more if names else "none"


def topic_of(record: Mapping[str, Any]) -> str:
    """What a record says it is about, its field `topic`; empty where it says nothing."""
    topic = record.get("topic")
    return "" if topic is None else str(topic)
