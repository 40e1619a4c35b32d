"""Parquet files as rows: read as JSON lines, and written again with their own schema."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from geofilter.errors import InputError, first_line
from geofilter.rows.changed_columns import with_changes
from geofilter.rows.changes import Changes
from geofilter.rows.columns import converted, json_lines, reading, refuse_twins, rows_at_once, some_rows, without_views
from geofilter.rows.isolated import isolated, refuse_more_rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ENDING = ".parquet"
MAGIC = b"PAR1"
GROUP_BYTES = 1 << 28
"""of the rows that are written as one row group"""


@dataclass(frozen=True, slots=True)
class Parquet:
    """A Parquet file."""

    path: Path
    packed: ClassVar = ""
    endings: ClassVar = (ENDING,)

    def rows(self, group: int = 0) -> Iterator[bytes]:
        """Every row as a JSON line, see `decoded`, in a process of its own.

        Args:
            group: the row group to begin with.
        """
        return isolated(self.path, "Parquet", group)

    def groups(self) -> list[int]:
        """How many rows stand before each row group; read in a process of its own.

        Raises:
            InputError: no Parquet file, or a damaged one.
        """
        rows, starts = 0, list[int]()
        for line in isolated(self.path, "Parquet groups"):
            starts.append(rows)
            rows += json.loads(line)
        return starts

    def counted(self) -> Iterator[bytes]:
        """The rows of each row group, a number a line.

        Raises:
            InputError: no Parquet file, or a damaged one.
        """
        with reading(self.path, "Parquet"), _opened(self.path) as file:
            for group in range(file.num_row_groups):
                yield b"%d\n" % file.metadata.row_group(group).num_rows

    def decoded(self, first: int = 0) -> Iterator[bytes]:
        """Every row as a JSON line, see `columns.json_lines`.

        Args:
            first: the row group to begin with.

        Raises:
            InputError: no Parquet file, or a damaged one; a column that cannot be read, or not be written again; two
                columns of one name.
        """
        with reading(self.path, "Parquet"), _opened(self.path) as file:
            refuse_twins(self.path, file.schema_arrow)
            refuse_more_rows(self.path, file.metadata.num_rows)
            rows = 0
            for group in range(first, file.num_row_groups):
                for i, batch in enumerate(_batches(file, group)):
                    if group == i == 0:
                        self._refuse_unwritable(converted(batch.slice(0, 1), without_views(batch.schema)))
                    rows += len(batch)
                    refuse_more_rows(self.path, rows)
                    yield from json_lines(self.path, batch)

    def _refuse_unwritable(self, row: pa.RecordBatch) -> None:
        """Refuse a file whose kept rows could not be written, before any work is done on it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        # Made of bytes: of a list pyarrow asks pandas, whose loading takes longer than a small file.
        kept = pa.BooleanArray.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(b"\x01")])
        for name, column in zip(row.schema.names, row.columns, strict=True):
            try:
                pq.write_table(pa.table({name: column}).filter(kept), io.BytesIO())
            except pa.ArrowException as error:
                raise InputError(
                    f"{self.path}: the column {name} ({column.type}) could be read, but not be written to a filtered "
                    f"file ({first_line(error)}); convert it or leave it out"
                ) from None

    def write(self, keep: npt.NDArray[np.bool_], out: IO[bytes], changes: Changes | None = None) -> None:
        """Write some rows as a Parquet file: schema, metadata, order and compression are the source's.

        Args:
            keep: (n,) of the first n rows; those past them are left out.
            changes: of some of them.

        Raises:
            InputError: no Parquet file, or a damaged one; columns that cannot hold a change.
            OSError: `out` cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        with ExitStack() as stack:
            with reading(self.path, "Parquet"):
                file = stack.enter_context(_opened(self.path))
            schema = without_views(file.schema_arrow)
            as_read = schema.equals(file.schema_arrow)
            with pq.ParquetWriter(out, schema, compression=_compression(file, schema), store_schema=as_read) as writer:
                held: list[pa.RecordBatch] = []
                for batches, last in self._kept(file, keep, changes or Changes()):
                    held += batches if as_read else [converted(batch, schema) for batch in batches]
                    if held and (last or sum(b.nbytes for b in held) > GROUP_BYTES):
                        table = pa.Table.from_batches(held)
                        writer.write_table(table, row_group_size=max(1, len(table)))
                        held = []
                if not as_read:  # the types as they were: only the schema says that these are views
                    about = file.metadata.metadata.items()
                    writer.add_key_value_metadata({key.decode(): value.decode() for key, value in about})

    def _kept(
        self, file: pq.ParquetFile, keep: npt.NDArray[np.bool_], changes: Changes
    ) -> Iterator[tuple[list[pa.RecordBatch], bool]]:
        """The kept rows of every batch, and whether that is the last one of its row group."""
        start = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            mask = np.zeros(rows, bool)
            mask[: max(len(keep) - start, 0)] = keep[start : start + rows]
            start, done = start + rows, 0
            if not mask.any():
                continue
            batches = _batches(file, group)
            while done < rows:
                with reading(self.path, "Parquet"):
                    batch = next(batches)
                chosen = mask[done : done + len(batch)]
                first = start - rows + done
                batch = with_changes(self.path, batch, changes.within(first, first + len(batch)))
                done += len(batch)
                yield some_rows(batch, chosen) if chosen.any() else [], done >= rows


def _opened(path: Path) -> pq.ParquetFile:
    """The file, opened so that of a row group no more is in memory than its batches need."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def _batches(file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
    about = file.metadata.row_group(group)
    at_once = rows_at_once(about.num_rows, about.total_byte_size)
    # In batches because pyarrow reads no nested column of over 2 GiB at once.
    return iter(file.iter_batches(at_once, row_groups=[group]))


def _compression(file: pq.ParquetFile, schema: pa.Schema) -> dict[str, str] | str:
    """The compression of each column, as a writer is told it."""
    import pyarrow.parquet as pq

    meta, empty = file.metadata, io.BytesIO()
    if not meta.num_row_groups:
        return "snappy"
    with pq.ParquetWriter(empty, schema):
        pass
    names = pq.ParquetFile(empty).schema  # a writer may name the inside of a list otherwise than the source does
    group = meta.row_group(0)
    used = [_packing(group.column(i).compression) for i in range(group.num_columns)]
    return {names.column(i).path: packing for i, packing in enumerate(used)}


def _packing(name: str) -> str:
    """A compression as a writer is told it; the metadata have another word for none."""
    return "NONE" if name == "UNCOMPRESSED" else name
