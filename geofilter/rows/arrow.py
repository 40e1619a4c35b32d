"""Arrow files (streams and files with an index, as `datasets` and Feather write them): read as JSON lines, and written
again with their own schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from geofilter.errors import InputError, first_line
from geofilter.rows.changed_columns import with_changes
from geofilter.rows.changes import AS_LINES, Changes
from geofilter.rows.columns import json_lines, reading, refuse_twins, rows_at_once, some_rows
from geofilter.rows.isolated import isolated, refuse_more_rows

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS = (".arrow", ".feather")
FILE, STREAM = MAGIC = b"ARROW1", b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Arrow:
    """An Arrow file."""

    path: Path
    packed: ClassVar = ""
    endings: ClassVar = ENDINGS

    def rows(self) -> Iterator[bytes]:
        """Every row as a JSON line, see `decoded`, in a process of its own."""
        return isolated(self.path, "Arrow")

    def decoded(self) -> Iterator[bytes]:
        """Every row as a JSON line, see `columns.json_lines`.

        Raises:
            InputError: no Arrow file, a damaged one, or one with a column that JSON has no form for.
        """
        rows = 0
        for batch in self._batches():
            rows += len(batch)
            refuse_more_rows(self.path, rows)
            yield from json_lines(self.path, batch)

    def write(self, keep: npt.NDArray[np.bool_], out: IO[bytes], changes: Changes | None = None) -> None:
        """Write some rows as an Arrow file of the same kind and schema.

        Args:
            keep: (n,) of the first n rows; those past them are left out.
            changes: of some of them.

        Raises:
            InputError: no Arrow file, or a damaged one; columns that cannot hold a change.
            OSError: `out` cannot be written.
        """
        import pyarrow as pa

        changes = changes or Changes()
        with reading(self.path, "Arrow"), self._opened() as file:
            schema = file.schema
        make = pa.ipc.new_file if self._has_index() else pa.ipc.new_stream
        with make(out, schema) as writer:
            start = 0
            for batch in self._batches():
                chosen = np.zeros(len(batch), bool)
                chosen[: max(len(keep) - start, 0)] = keep[start : start + len(batch)]
                batch = with_changes(self.path, batch, changes.within(start, start + len(batch)))
                start += len(batch)
                for part in some_rows(batch, chosen) if chosen.any() else ():
                    try:
                        writer.write_batch(part)
                    except pa.ArrowInvalid as error:  # one dictionary a column, where the file has an index
                        raise InputError(
                            f"{self.path}: cannot hold answers ({first_line(error)}); {AS_LINES}"
                        ) from None

    def _has_index(self) -> bool:
        with self.path.open("rb") as handle:
            return handle.read(len(FILE)) == FILE

    @contextmanager
    def _opened(self) -> Iterator[pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader]:
        import pyarrow as pa

        opened = pa.ipc.open_file if self._has_index() else pa.ipc.open_stream
        with pa.memory_map(str(self.path)) as source, opened(source) as file:
            yield file

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with reading(self.path, "Arrow"):
            for batch in self._indexed() if self._has_index() else self._streamed():
                at_once = rows_at_once(len(batch), batch.nbytes)
                for start in range(0, len(batch), at_once):
                    yield batch.slice(start, at_once)

    def _indexed(self) -> Iterator[pa.RecordBatch]:
        with self._opened() as file:
            refuse_twins(self.path, file.schema)
            for i in range(file.num_record_batches):
                yield file.get_batch(i)

    def _streamed(self) -> Iterator[pa.RecordBatch]:
        """The batches of a stream, and of those behind it.

        pyarrow takes the end of a file for that of its stream, and does not look behind one.
        """
        import pyarrow as pa

        with pa.memory_map(str(self.path)) as source:
            schema = None
            while source.tell() < source.size():
                if schema is not None and source.read_at(len(STREAM), source.tell()) != STREAM:
                    raise self._damaged(f"there is something behind its end, at byte {source.tell():,}")
                with pa.ipc.open_stream(source) as file:
                    schema = schema or file.schema
                    refuse_twins(self.path, schema)
                    if not file.schema.equals(schema):
                        raise self._damaged("it holds streams of different columns one behind the other")
                    at = source.tell()
                    while (batch := next(file, None)) is not None:
                        yield batch
                        at = source.tell()
                if source.tell() == at:
                    raise self._damaged("it has no mark of its end, so rows may be missing")

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: an Arrow stream that is cut off or damaged: {what}; get a complete copy, or write it again"
        )
