"""Batches of Arrow columns as rows: their JSON lines, and some of their rows."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.errors import InputError, first_line
from geofilter.rows.bounded import MOST_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000
"""rows held at once, at most"""
BATCH_BYTES = 1 << 26
"""of the rows held at once, where a row is smaller"""


def rows_at_once(rows: int, size: int) -> int:
    """How many rows of a table to hold at once, so that images in them do not fill the memory.

    Args:
        size: bytes of all its rows.
    """
    return max(1, min(BATCH, rows * BATCH_BYTES // max(size, 1)))


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Around whatever reads the file.

    Args:
        kind: the format's name.

    Raises:
        InputError: not of this format, damaged, or with something in it that pyarrow cannot read.
    """
    import pyarrow as pa

    try:
        yield
    except pa.ArrowMemoryError:
        raise InputError(
            f"{path}: cannot be read as {kind} (a piece of it takes more memory than it may); get a complete copy, or "
            "write it again with smaller pages and values"
        ) from None
    except (pa.ArrowException, OSError) as error:
        # ArrowException covers damaged pages too, which show when they are read.
        remedy = "write it again without encryption"
        if "crypt" not in str(error):
            remedy = f"get a complete copy, or write it again as {kind}"
        raise InputError(f"{path}: cannot be read as {kind} ({first_line(error)}); {remedy}") from None


def refuse_twins(path: Path, schema: pa.Schema) -> None:
    """Refuse two columns of one name, and more columns than rows have.

    Raises:
        InputError: there are.
    """
    names = schema.names
    if len(names) > MOST_COLUMNS:
        raise InputError(f"{path}: has over {MOST_COLUMNS:,} columns; leave out those that are no text")
    if twice := next((name for name, n in Counter(names).items() if n > 1), None):
        raise InputError(f"{path}: has two columns named {twice}; rename one of them")


def json_lines(path: Path, batch: pa.RecordBatch) -> Iterator[bytes]:
    """Every row as a JSON line; columns that are null in it are left out.

    What JSON has no form for is written as text: times in ISO 8601, decimals in digits, bytes in base64, numbers that
    are none as NaN or Infinity. A map is an object where its keys are texts and differ, else a list of pairs. What is
    JSON in the file (`datasets` writes messages with calls to tools so) is read as what it says.

    Raises:
        InputError: a column of a type that has no form in JSON.
    """
    columns = [_texts(path, *named) for named in zip(batch.schema.names, batch.columns, strict=True)]
    for row in zip(*columns, strict=True):
        yield f"{{{', '.join(text for text in row if text)}}}\n".encode("utf-8", "surrogatepass")


def _texts(path: Path, name: str, column: pa.Array) -> list[str]:
    """A column's values as `"name": value` in JSON; empty where it is null."""
    import pyarrow as pa

    try:
        # A time of the day in Python has no nanoseconds.
        key, shown = _json(name), _retyped(column.type, {pa.time64("ns"): pa.string()})
        values = (column if shown == column.type else column.cast(shown)).to_pylist()
        if (decoded := _decoder(column.type)) is not None:
            values = map(decoded, values)
        return ["" if value is None else f"{key}: {_json(value)}" for value in values]
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        OverflowError,
        NotImplementedError,
        RecursionError,
    ) as error:
        raise InputError(f"{path}: the column {name} ({column.type}) {_why(error)}") from None


def _why(error: Exception) -> str:
    """What of a column could not be made into JSON, and what to do."""
    if isinstance(error, UnicodeDecodeError):
        return "holds text that is not UTF-8; mend it, or make it a column of bytes"
    if isinstance(error, OverflowError):
        return "holds a time outside the years 1 to 9999, or a duration as long; mend it or leave the column out"
    if "zoneinfo" in str(error):  # of pyarrow, for any name that it does not find
        return "has a time zone that is not known here; convert it to UTC, or install tzdata with pip"
    return f"has no form in JSON ({first_line(error)}); convert it or leave it out"


_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=lambda value: _plain(value)).encode


def _json(value: Any) -> str:
    try:
        return _strict(value)
    except ValueError:  # a number that is none, most likely
        return _strict(_finite(value))


def _finite(value: Any) -> Any:
    """A value with text in place of numbers that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _decoder(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What makes of a value of this type the one that JSON is to have; None where that is the value itself."""
    import pyarrow as pa

    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_struct(kind):
        inside = [kind.field(i) for i in range(kind.num_fields)]
        parts = {field.name: part for field in inside if (part := _decoder(field.type))}
        return (
            (lambda value: value and {**value, **{k: part(value[k]) for k, part in parts.items()}}) if parts else None
        )
    if pa.types.is_map(kind):
        part = _decoder(kind.item_type) or (lambda value: value)
        return lambda value: None if value is None else _of_pairs([(k, part(v)) for k, v in value])
    lists = ("list", "large_list", "fixed_size_list", "list_view", "large_list_view")
    each = _decoder(kind.value_type) if any(getattr(pa.types, f"is_{name}")(kind) for name in lists) else None
    return (lambda value: value and [each(v) for v in value]) if each else None


def _of_pairs(pairs: list[tuple[Any, Any]]) -> Any:
    found = dict(pairs) if all(isinstance(key, str) for key, _ in pairs) else {}
    return found if len(found) == len(pairs) else [list(pair) for pair in pairs]


def without_views(schema: pa.Schema) -> pa.Schema:
    """The schema with strings and bytes in place of views of these, which pyarrow can read but not select from."""
    import pyarrow as pa

    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return pa.schema([f.with_type(_retyped(f.type, plain)) for f in schema], metadata=schema.metadata)


def converted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with another schema; only columns of another type are touched, for pyarrow cannot cast them all."""
    import pyarrow as pa

    pairs = zip(batch.columns, schema, strict=True)
    columns = [column if column.type == field.type else column.cast(field.type) for column, field in pairs]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _retyped(kind: pa.DataType, others: dict[pa.DataType, pa.DataType]) -> pa.DataType:
    """The type with others in place of some inside it; not inside of list views, which pyarrow converts wrongly."""
    import pyarrow as pa

    def inside(field: pa.Field) -> pa.Field:
        return field.with_type(_retyped(field.type, others))

    types = pa.types
    if kind in others:
        return others[kind]
    if types.is_struct(kind):
        return pa.struct([inside(kind.field(i)) for i in range(kind.num_fields)])
    if types.is_map(kind):
        return pa.map_(inside(kind.key_field), inside(kind.item_field), kind.keys_sorted)
    if types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _retyped(kind.value_type, others), kind.ordered)
    if types.is_fixed_size_list(kind):
        return pa.list_(inside(kind.value_field), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(inside(kind.value_field))
    return pa.list_(inside(kind.value_field)) if types.is_list(kind) else kind


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, timedelta):
        return _iso_duration(value)
    if type(value).__name__ in ("Decimal", "UUID"):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def _iso_duration(value: timedelta) -> str:
    """As pandas has it, of which durations in nanoseconds are: only the days can be negative."""
    minutes, seconds = divmod(value.seconds, 60)
    exact = f"{seconds}.{value.microseconds:06d}".rstrip("0").rstrip(".") if value.microseconds else f"{seconds}"
    return f"P{value.days}DT{minutes // 60}H{minutes % 60}M{exact}S"


def some_rows(batch: pa.RecordBatch, keep: npt.NDArray[np.bool_]) -> list[pa.RecordBatch]:
    """The rows of a batch where `keep` (n,) says so, in order."""
    import pyarrow as pa

    if keep.all():
        return [batch]
    try:
        return [batch.filter(pa.array(keep))]
    except pa.ArrowNotImplementedError:  # of views: their runs of rows can be had, not a selection
        edges = np.flatnonzero(np.diff(keep, prepend=False, append=False)).tolist()
        return [batch.slice(start, end - start) for start, end in zip(edges[::2], edges[1::2], strict=True)]
