"""Batches of Arrow columns with other values in some rows; what does not change stays as it is, whatever its type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geofilter.errors import InputError, first_line
from geofilter.files import from_json
from geofilter.rows.changes import AS_LINES
from geofilter.rows.columns import json_lines

if TYPE_CHECKING:
    import pyarrow as pa


def with_changes(path: Path, batch: pa.RecordBatch, changes: Sequence[tuple[int, bytes]]) -> pa.RecordBatch:
    """A batch with new records in place of some rows.

    Each row that comes out is read again and held against the record.

    Args:
        path: the file, for errors.
        changes: number of each row in the batch, and its new record as JSON.

    Raises:
        InputError: a record has something that the columns cannot hold.
    """
    import pyarrow as pa

    if not changes:
        return batch
    records = {at: from_json(line) for at, line in changes}
    altered: dict[str, dict[int, Any]] = {}
    for at, new in records.items():
        old = _row(path, batch, at)
        if extra := new.keys() - set(batch.schema.names):
            raise InputError(f"{path}: has no column {min(extra)}, which an answer's line has; {AS_LINES}")
        for name in batch.schema.names:
            if new.get(name) != old.get(name):
                altered.setdefault(name, {})[at] = new.get(name)
    columns = [
        _altered(path, name, column, altered.get(name, {}))
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    made = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    for at, new in records.items():
        if _bare(_row(path, made, at)) != _bare(new):
            raise InputError(f"{path}: its columns do not hold all that an answer's line has; {AS_LINES}")
    return made


def _row(path: Path, batch: pa.RecordBatch, at: int) -> dict[str, Any]:
    found: dict[str, Any] = from_json(next(json_lines(path, batch.slice(at, 1))))
    return found


def _bare(value: Any) -> Any:
    """A value without what is null: a struct has all of its fields, and a record only those that say something."""
    if isinstance(value, dict):
        return {key: _bare(one) for key, one in value.items() if one is not None}
    return [_bare(one) for one in value] if isinstance(value, list) else value


def _altered(path: Path, name: str, column: pa.Array, values: dict[int, Any]) -> pa.Array:
    import pyarrow as pa

    if not values:
        return column
    try:
        if isinstance(column.type, pa.BaseExtensionType):
            if column.type.extension_name == "arrow.json":
                values = {at: None if value is None else json.dumps(value) for at, value in values.items()}
            return pa.ExtensionArray.from_storage(column.type, _spliced(column.storage, values))
        return _spliced(column, values)
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path}: the column {name} ({column.type}) cannot hold an answer ({first_line(error)}); {AS_LINES}"
        ) from None


def _spliced(column: pa.Array, values: dict[int, Any]) -> pa.Array:
    """The column with some values in place of its own."""
    import pyarrow as pa

    pieces, start = [], 0
    for at, value in sorted(values.items()):
        pieces += [column.slice(start, at - start), pa.array([value], column.type)]
        start = at + 1
    return pa.concat_arrays([piece for piece in (*pieces, column.slice(start)) if len(piece)])
