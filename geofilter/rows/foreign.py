"""Files of other programs, told by their first bytes: what they are, and what to do instead of reading them."""

from __future__ import annotations

import re

_UNPACK = "unpack it and give the data files in it"
_PARQUET, _JSONL = "write its rows to a Parquet file", "write its rows to a JSONL file"
_NO_ROWS = "give the file that holds the rows"
_STARTS = (
    (b"PK\x03\x04", "a zip archive, or a spreadsheet", "unzip it and give the data files in it, or save it as CSV"),
    (b"PK\x05\x06", "an empty zip archive", "give the data files themselves"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "packed with LZ4", "unpack it (lz4 -d), or pack it with zstd"),
    (b"\xff\x06\x00\x00sNaPpY", "packed with Snappy", "unpack it, or pack it with zstd"),
    (b"\x5d\x00\x00", "packed with the old LZMA", "unpack it (xz -dc), or pack it with xz"),
    (b"SQLite format 3\0", "an SQLite database", "write its rows to a CSV file (sqlite3 -csv -header)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _PARQUET),
    (b"Obj\x01", "an Avro file", _PARQUET),
    (b"ORC", "an ORC file", _PARQUET),
    (b"PARE", "an encrypted Parquet file", "write it again without encryption"),
    (b"FEA1", "a Feather file of the old version 1", "write it again as version 2, or as Parquet"),
    (b"\x93NUMPY", "an array of NumPy", _JSONL),
    *((b"\x80" + bytes([n]), "a Python pickle", _JSONL) for n in (2, 3, 4, 5)),
    (b"%PDF-", "a PDF document", _NO_ROWS),
    (b"\x89PNG\r\n", "a PNG picture", _NO_ROWS),
    (b"\xff\xd8\xff", "a JPEG picture", _NO_ROWS),
    (b"GIF8", "a GIF picture", _NO_ROWS),
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of Git LFS and not the data",
        "fetch them with: git lfs pull",
    ),
)
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)


def foreign(start: bytes) -> tuple[str, str] | None:
    """What another program's file is that begins with these bytes, and what to do; None where it is not known as one.

    Args:
        start: 512 bytes or more, unless the file is shorter.
    """
    for magic, what, remedy in _STARTS:
        if start.startswith(magic):
            return what, remedy
    if start[257:262] == b"ustar":
        return "a tar archive", "unpack it (tar -xf) and give the data files in it"
    if _PAGE.match(start):
        return "a web page (HTML)", "download the data file itself; where a login is asked for, log in first"
    return None
