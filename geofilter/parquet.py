"""Parquet files as rows: read as JSON lines, and written again with their own schema."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geofilter.errors import InputError

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
        raise InputError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def lines(path: Path) -> Iterator[bytes]:
    """Every row as a JSON line; columns that are null in it are left out.

    What JSON has no form for is written as text: times in ISO 8601, decimals in digits, bytes in base64.

    Raises:
        InputError: see `_reading`; a column of a type that has no form in JSON.
    """
    import pyarrow.parquet as pq

    with _reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            named = zip(batch.schema.names, batch.columns, strict=True)
            columns = {name: _values(path, name, column) for name, column in named}
            for i in range(batch.num_rows):
                record = {name: column[i] for name, column in columns.items() if column[i] is not None}
                yield (json.dumps(record, ensure_ascii=False, default=_plain) + "\n").encode("utf-8", "surrogatepass")


def _values(path: Path, name: str, column: Any) -> list[Any]:
    import pyarrow as pa

    try:
        values: list[Any] = column.to_pylist()
        for value in values:
            if value is not None:
                json.dumps(value, default=_plain)
                break
    except (pa.ArrowException, TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"{path}: the column {name} ({column.type}) has no form in JSON ({str(error).splitlines()[0]}); convert it "
            "or leave it out"
        ) from None
    return values


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
