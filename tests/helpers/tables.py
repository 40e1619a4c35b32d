"""Data files of other formats than JSON, made of tables and rows."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa


def arrow(make: Callable[..., Any], table: Callable[[], pa.Table]) -> Callable[[Path], None]:
    """What writes a table as an Arrow file or stream, several batches of it."""

    def write(path: Path) -> None:
        whole = table()
        with make(path, whole.schema) as writer:
            writer.write_table(whole, max_chunksize=4)

    return write


def saved(rows: Sequence[dict]) -> Callable[[Path], None]:
    """What saves rows as a data set of `datasets`."""

    def write(path: Path) -> None:
        import datasets

        datasets.Dataset.from_list(list(rows)).save_to_disk(str(path))

    return write
