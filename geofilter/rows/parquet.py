"""Parquet files as rows: read as JSON lines, and written again with their own schema."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geofilter.errors import InputError, first_line

ENDING = ".parquet"
BATCH = 1000
"""rows held at once"""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Around whatever reads the file.

    Raises:
        InputError: no Parquet file, a damaged one, or one that holds what pyarrow cannot read.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # ArrowException covers damaged pages too, which show when they are read.
        raise InputError(f"{path}: cannot be read as Parquet ({first_line(error)})") from None


def lines(path: Path) -> Iterator[bytes]:
    """Every row as a JSON line; columns that are null in it are left out.

    What JSON has no form for is written as text: times in ISO 8601, decimals in digits, bytes in base64. What is JSON
    in the file (`datasets` writes messages with calls to tools so) is read as what it says.

    Raises:
        InputError: see `_reading`; two columns of one name; a column of a type that has no form in JSON.
    """
    import pyarrow.parquet as pq

    with _reading(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{path}: has two columns named {twice}; rename one of them")
        for batch in file.iter_batches(BATCH):
            columns = [_texts(path, *named) for named in zip(names, batch.columns, strict=True)]
            for row in zip(*columns, strict=True):
                yield f"{{{', '.join(text for text in row if text)}}}\n".encode("utf-8", "surrogatepass")


def _texts(path: Path, name: str, column: Any) -> list[str]:
    """A column's values as `"name": value` in JSON; empty where it is null."""
    import pyarrow as pa

    try:
        encode = json.JSONEncoder(ensure_ascii=False, default=_plain).encode
        key, values, decoded = encode(name), column.to_pylist(), _decoder(column.type)
        if decoded is not None:
            values = map(decoded, values)
        return ["" if value is None else f"{key}: {encode(value)}" for value in values]
    except (
        pa.ArrowException,
        TypeError,
        ValueError,
        OverflowError,
        NotImplementedError,
        RecursionError,
    ) as error:
        raise InputError(
            f"{path}: the column {name} ({column.type}) has no form in JSON ({first_line(error)}); convert it or leave "
            "it out"
        ) from None


def _decoder(kind: Any) -> Callable[[Any], Any] | None:
    """What makes of a value of this type the one that the JSON texts in it stand for; None where it holds none."""
    import pyarrow as pa

    if getattr(kind, "extension_name", "") == "arrow.json":
        return lambda value: None if value is None else json.loads(value)
    if pa.types.is_struct(kind):
        inside = [kind.field(i) for i in range(kind.num_fields)]
        parts = {field.name: part for field in inside if (part := _decoder(field.type))}
        return (
            (lambda value: value and {**value, **{k: part(value[k]) for k, part in parts.items()}}) if parts else None
        )
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        each = _decoder(kind.value_type)
        return (lambda value: value and [each(inner) for inner in value]) if each else None
    return None


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if type(value).__name__ in ("Decimal", "UUID", "timedelta", "Timedelta"):
        return str(value)
    raise TypeError(f"a {type(value).__name__}")


def write_rows(source: Path, keep: npt.NDArray[np.bool_], out: IO[bytes]) -> None:
    """Write some rows of a Parquet file as one: schema, metadata, order and compression are the source's.

    Args:
        keep: (n,) of the first n rows; those past them are left out.

    Raises:
        InputError: see `_reading`.
        OSError: `out` cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        with _reading(source):
            file = stack.enter_context(pq.ParquetFile(source))
            schema, meta = file.schema_arrow, file.metadata
        packed = {c.path_in_schema: _packing(c.compression) for c in _columns(meta)} or "snappy"
        start = 0
        with pq.ParquetWriter(out, schema, compression=packed) as writer:
            for group in range(meta.num_row_groups):
                rows = keep[start : start + meta.row_group(group).num_rows]
                start += meta.row_group(group).num_rows
                if not rows.any():
                    continue
                with _reading(source):
                    table = file.read_row_group(group)
                mask = np.zeros(table.num_rows, bool)
                mask[: len(rows)] = rows
                writer.write_table(table.filter(pa.array(mask)))


def _packing(name: str) -> str:
    """A compression as a writer is told it; the metadata have another word for none."""
    return "NONE" if name == "UNCOMPRESSED" else name


def _columns(meta: Any) -> list[Any]:
    if not meta.num_row_groups:
        return []
    group = meta.row_group(0)
    return [group.column(i) for i in range(group.num_columns)]
