"""Files that end too early, or go on behind their end: never fewer rows without a word."""

import bz2
import io
import json
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from geofilter.errors import InputError
from geofilter.rows.arrow import Arrow
from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines

SCHEMA = pa.schema([("text", pa.dictionary(pa.int8(), pa.string())), ("n", pa.int32())])
DAMAGED = "an Arrow stream that is cut off or damaged: "


def batch(start: int) -> pa.RecordBatch:
    texts = pa.array([f"row {i}" for i in range(start, start + 4)]).dictionary_encode()
    return pa.record_batch([texts.cast(SCHEMA.field("text").type), pa.array([-1, 0] * 2, pa.int32())], schema=SCHEMA)


def stream(start: int = 0, **options: object) -> tuple[bytes, list[int]]:
    """A stream of two batches, and where its schema and each batch end."""
    out, ends = io.BytesIO(), list[int]()
    with pa.ipc.new_stream(out, SCHEMA, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for i in (start, start + 4):
            writer.write_batch(batch(i))
            ends.append(out.tell())
    return out.getvalue(), ends


def texts(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in read_lines(path)]


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_lines(path))
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("options", [{}, {"use_legacy_format": True}, {"compression": "zstd"}])
def test_an_arrow_stream_is_whole_or_refused(options: dict, tmp_path: Path):
    path, (data, ends) = tmp_path / "d.arrow", stream(**options)
    path.write_bytes(data)
    assert texts(path) == [f"row {i}" for i in range(8)]
    for end in (*ends, ends[-1] + 2):
        path.write_bytes(data[:end])
        said = refused(path)
        assert said.startswith(
            (f"{DAMAGED}it has no mark of its end, so rows may be missing", "cannot be read as Arrow")
        )
        assert "get a complete copy, or write it again" in said


def test_arrow_streams_one_behind_the_other_are_read_and_written_as_one(tmp_path: Path):
    path = tmp_path / "d.arrow"
    path.write_bytes(stream()[0] + stream(8)[0])
    assert texts(path) == [f"row {i}" for i in range(16)]
    out = io.BytesIO()
    Arrow(path).write(np.arange(16) % 5 == 0, out)
    assert pa.ipc.open_stream(out.getvalue()).read_all()["text"].to_pylist() == ["row 0", "row 5", "row 10", "row 15"]
    with pa.ipc.new_stream(other := io.BytesIO(), pa.schema([("b", pa.int8())])):
        pass
    path.write_bytes(stream()[0] + other.getvalue())
    assert refused(path).startswith(f"{DAMAGED}it holds streams of different columns one behind the other; get")
    path.write_bytes(stream()[0] + b"junk")
    assert refused(path).startswith(f"{DAMAGED}there is something behind its end, at byte {len(stream()[0]):,}; get")


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_what_stands_behind_a_packed_stream_is_read_or_refused(pack, tmp_path: Path):
    lines = [b'{"text": "%d"}\n' % i for i in range(30_000)]
    parts = [pack(b"".join(lines[:10_000])), pack(b"".join(lines[10_000:])), pack(b"")]
    path = tmp_path / "d.jsonl"
    for between in (b"", bytes(4), bytes(200_000)):
        path.write_bytes(between.join([*parts, b""]))
        assert list(read_lines(path)) == lines
        assert format_of(path).packed
    for behind in (b"g", b"garbage" * 9, bytes(4) + b"garbage" * 9, parts[0][:-5], parts[0][:4]):
        path.write_bytes(parts[0] + behind)
        assert refused(path).startswith("cannot be read to its end (")
