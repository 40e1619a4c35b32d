"""Data files of other formats than JSON, made of tables and rows."""

from collections.abc import Callable, Mapping, Sequence
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


def write_files(folder: Path, files: Mapping[str, bytes | Callable[[Path], object]]) -> list[str]:
    """Write data files of a test, the last one to be read from a store; return what a scan is told of them."""
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            content(folder / name)
    *here, last = files
    return [*here, f"file://{folder}/{last}"]


def saved(rows: Sequence[dict]) -> Callable[[Path], None]:
    """What saves rows as a data set of `datasets`."""

    def write(path: Path) -> None:
        import datasets

        datasets.Dataset.from_list(list(rows)).save_to_disk(str(path))

    return write
