"""Columns of every type: what stands in the JSON line, and that the rows can be written again."""

import io
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geofilter.errors import InputError
from geofilter.rows import columns
from geofilter.rows.lines import read_lines
from geofilter.rows.parquet import Parquet

INF, NAN = float("inf"), float("nan")


def dictionary(values: list) -> pa.Array:
    return pa.array(values).dictionary_encode()


COLUMNS = {
    "string view": (pa.array(["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
    "binary view": (pa.array([b"a", None, b"c"], pa.binary_view()), ["YQ==", None, "Yw=="]),
    "views inside": (
        pa.array([[{"t": "a"}, {"t": "b"}], [], [{"t": None}]], pa.list_(pa.struct([("t", pa.string_view())]))),
        [[{"t": "a"}, {"t": "b"}], [], [{"t": None}]],
    ),
    "list views inside": (
        pa.array([[["a"], []], [], None], pa.list_view(pa.list_view(pa.binary()))),
        [[["YQ=="], []], [], None],
    ),
    "list view": (pa.array([["a"], [], ["b", "c"]], pa.list_view(pa.string())), [["a"], [], ["b", "c"]]),
    "list view of views": (
        pa.array([["a", "b"], [], ["c"]], pa.list_view(pa.string_view())),
        [["a", "b"], [], ["c"]],
    ),
    "large list view": (pa.array([[1], [], None], pa.large_list_view(pa.int8())), [[1], [], None]),
    "dictionary": (dictionary(["a", "b", "a"]), ["a", "b", "a"]),
    "dictionary of numbers": (dictionary([1, 2, 1]), [1, 2, 1]),
    "dictionary inside": (
        pa.ListArray.from_arrays([0, 1, 1, 3], pa.StructArray.from_arrays([dictionary(["x", "y", "x"])], ["r"])),
        [[{"r": "x"}], [], [{"r": "y"}, {"r": "x"}]],
    ),
    "map": (
        pa.array([[("k", 1), ("j", None)], [], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8())),
        [{"k": 1, "j": None}, {}, [["k", 1], ["k", 2]]],
    ),
    "map of numbers": (pa.array([[(1, "a")], None, []], pa.map_(pa.int8(), pa.string())), [[[1, "a"]], None, {}]),
    "maps inside": (
        pa.array([[{"m": [("k", [("l", 1)])]}], [], [{"m": None}]],
                 pa.list_(pa.struct([("m", pa.map_(pa.string(), pa.map_(pa.string(), pa.int8())))]))),
        [[{"m": {"k": {"l": 1}}}], [], [{"m": None}]],
    ),
    "large numbers": (pa.array([2**64 - 1, 0, None], pa.uint64()), [2**64 - 1, 0, None]),
    "decimals": (pa.array([Decimal("1.50"), None, Decimal("9" * 48)], pa.decimal256(50, 2)),
                 ["1.50", None, "9" * 48 + ".00"]),
    "half floats": (pa.array([1.5, NAN, -INF], pa.float16()), [1.5, "NaN", "-Infinity"]),
    "floats inside": (pa.array([[{"x": INF}], [{"x": 0.1}], []], pa.list_(pa.struct([("x", pa.float64())]))),
                      [[{"x": "Infinity"}], [{"x": 0.1}], []]),
    "nanoseconds": (pa.array([1, 3_600_000_000_001, None], pa.time64("ns")),
                    ["00:00:00.000000001", "01:00:00.000000001", None]),
    "nanoseconds inside": (
        pa.array([[{"t": 1, "n": 1}], [], None], pa.list_(pa.struct([("t", pa.time64("ns")), ("n", pa.int8())]))),
        [[{"t": "00:00:00.000000001", "n": 1}], [], None],
    ),
    "points in time": (pa.array([1, None, 10**9], pa.timestamp("ns", "UTC")),
                       ["1970-01-01T00:00:00.000000001+00:00", None, "1970-01-01T00:00:01+00:00"]),
    "durations": (pa.array([1, None, 0], pa.duration("ns")), ["P0DT0H0M0.000000001S", None, "P0DT0H0M0S"]),
    "durations in seconds": (pa.array([86_400 + 3_723, None, -1], pa.duration("s")),
                             ["P1DT1H2M3S", None, "P-1DT23H59M59S"]),
    "durations in microseconds": (pa.array([1_500_000, 1, 0], pa.duration("us")),
                                  ["P0DT0H0M1.5S", "P0DT0H0M0.000001S", "P0DT0H0M0S"]),
    "durations inside": (pa.array([[{"d": 1}], [], None], pa.list_(pa.struct([("d", pa.duration("ms"))]))),
                         [[{"d": "P0DT0H0M0.001S"}], [], None]),
    "fixed size list": (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)), [[1, 2], None, [3, 4]]),
    "fixed size bytes": (pa.array([b"ab", None, b"cd"], pa.binary(2)), ["YWI=", None, "Y2Q="]),
    "uuid": (pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()),
             ["30303030-3030-3030-3030-303030303030", None, "31313131-3131-3131-3131-313131313131"]),
    "nothing inside": (
        pa.array([[{"t": "a", "n": None}, {"t": "b", "n": None}], [{"t": "c", "n": None}], []],
                 pa.list_(pa.struct([("t", pa.string()), ("n", pa.null())]))),
        [[{"t": "a", "n": None}, {"t": "b", "n": None}], [{"t": "c", "n": None}], []],
    ),
    "nothing": (pa.nulls(3), [None] * 3),
}  # fmt: skip


def write(table: pa.Table, path: Path) -> None:
    """Write row groups of two rows; views as other programs do, for pyarrow cannot write all of them itself."""
    plain, about = columns.without_views(table.schema), io.BytesIO()
    pq.write_table(table[:1], about)
    with pq.ParquetWriter(path, plain, store_schema=False) as writer:
        batches = [columns.converted(batch, plain) for batch in table.to_batches()]
        writer.write_table(pa.Table.from_batches(batches), row_group_size=2)
        writer.add_key_value_metadata({k.decode(): v.decode() for k, v in pq.read_metadata(about).metadata.items()})
    assert pq.read_schema(path).field("c").type in (table.field("c").type, pa.int64())  # no dictionaries of numbers


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_read_as_json_and_written_again(name: str, tmp_path: Path):
    column, shown = COLUMNS[name]
    path = tmp_path / "d.parquet"
    write(pa.table({"text": ["x", "y", "z"], "c": column}).replace_schema_metadata({"made": "for a test"}), path)
    found = pq.read_table(path)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in read_lines(path)]
    assert rows == [{"text": text, **({} if value is None else {"c": value})}
                    for text, value in zip("xyz", shown, strict=True)]  # fmt: skip
    for keep in ([True, False, True], [False, True, False], [True, True], [False] * 3):
        out = io.BytesIO()
        Parquet(path).write(np.array(keep), out)
        left = pq.read_table(out)
        assert left.schema.equals(found.schema, check_metadata=True)
        # As text: NaN is not equal to itself.
        expected = [str(row) for row, wanted in zip(found.to_pylist(), keep, strict=False) if wanted]
        assert [str(row) for row in left.to_pylist()] == expected


def test_groups_without_rows_are_passed_over(tmp_path: Path):
    path, none = tmp_path / "d.parquet", pa.table({"text": pa.array([], pa.string())})
    with pq.ParquetWriter(path, none.schema) as writer:
        for part in (none, pa.table({"text": ["a", "b"]}), none, pa.table({"text": ["c"]}), none):
            writer.write_table(part)
    assert [json.loads(line)["text"] for line in read_lines(path)] == ["a", "b", "c"]
    out = io.BytesIO()
    Parquet(path).write(np.array([True, False, True]), out)
    assert pq.read_table(out)["text"].to_pylist() == ["a", "c"]
    pq.write_table(none, path)
    with pytest.raises(InputError, match=r"d\.parquet: has no rows; nothing to read"):
        list(read_lines(path))


def test_large_rows_are_held_a_few_at_a_time(tmp_path: Path, monkeypatch):
    assert columns.rows_at_once(5000, 5000 * 300) == columns.BATCH
    assert columns.rows_at_once(1000, 1000 * (5 << 20)) == 12
    assert columns.rows_at_once(10, 10 << 30) == 1
    assert columns.rows_at_once(0, 0) == 1
    monkeypatch.setattr(columns, "BATCH_BYTES", 1000)
    held = []

    def watched(path, batch, real=columns.json_lines):
        held.append(len(batch))
        return real(path, batch)

    monkeypatch.setattr("geofilter.rows.parquet.json_lines", watched)
    rows = [{"messages": [{"role": "user", "content": f"{i} " + "a" * 300}]} for i in range(20)]
    path = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, use_dictionary=False)
    assert [json.loads(line) for line in Parquet(path).decoded()] == rows
    assert max(held) <= 3
    monkeypatch.setattr("geofilter.rows.parquet.GROUP_BYTES", 1000)
    out = io.BytesIO()
    Parquet(path).write(np.arange(20) % 2 == 0, out)
    assert pq.read_table(out).to_pylist() == rows[::2]
    assert pq.read_metadata(out).num_row_groups > 2


@pytest.mark.parametrize("name", ["element", "item"])
def test_each_column_is_packed_as_it_was_whatever_a_lists_inside_is_called(name: str, tmp_path: Path):
    path = tmp_path / "d.parquet"
    packed = {"text": "gzip", f"tags.list.{name}": "brotli"}
    rows = pa.table({"text": ["a", "b"], "tags": [["x"], ["y"]]})
    pq.write_table(rows, path, compression=packed, use_compliant_nested_type=name == "element")
    out = io.BytesIO()
    Parquet(path).write(np.array([False, True]), out)
    group = pq.read_metadata(out).row_group(0)
    assert [group.column(i).compression for i in range(2)] == ["GZIP", "BROTLI"]


def test_what_could_not_be_written_is_refused_before_the_scan(tmp_path: Path, monkeypatch):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["a"], "odd": pa.array([1], pa.duration("s"))}), path)
    real = pq.write_table

    def older(table, *args, **kwargs):  # of a pyarrow that can read the type, but not write it
        if "odd" in table.column_names:
            raise pa.ArrowNotImplementedError("Unhandled type: duration")
        real(table, *args, **kwargs)

    monkeypatch.setattr(pq, "write_table", older)
    with pytest.raises(InputError) as caught:
        list(Parquet(path).decoded())
    assert str(caught.value) == (
        f"{path}: the column odd (duration[s]) could be read, but not be written to a filtered file (Unhandled type: "
        "duration); convert it or leave it out"
    )


@pytest.mark.parametrize(
    ("column", "what"),
    [
        (pa.array([3 * 10**7], pa.date32()), "(date32[day]) holds a time outside the years 1 to 9999"),
        (
            pa.array([2**62], pa.duration("ms")),
            "(duration[ms]) holds a time outside the years 1 to 9999, or a duration",
        ),
        (pa.array([0], pa.timestamp("us", "Nowhere/Land")), "(timestamp[us, tz=Nowhere/Land]) has a time zone that is"),
        (
            pa.Array.from_buffers(pa.string(), 1, pa.array([b"a\xff"]).buffers()),
            "(string) holds text that is not UTF-8",
        ),
    ],
)
def test_what_a_value_is_that_json_cannot_have_is_said(column: pa.Array, what: str, tmp_path: Path):
    pq.write_table(pa.table({"text": ["a"], "odd": column}), tmp_path / "d.parquet")
    with pytest.raises(InputError) as caught:
        list(read_lines(tmp_path / "d.parquet"))
    assert f"d.parquet: the column odd {what}" in str(caught.value)
