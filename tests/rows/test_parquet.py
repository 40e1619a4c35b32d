"""Parquet in, Parquet out: the kept rows are the input's, schema and all."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import geofilter
from helpers.processes import loaded

from geofilter.errors import InputError
from geofilter.rows.parquet import Parquet
from geofilter.rows.records import read_rows

N = 25


def lines(path: Path):
    return Parquet(path).rows()


def test_reading_loads_nothing_that_takes_longer_than_a_small_file(tmp_path: Path):
    pq.write_table(pa.table({"text": ["the answer"]}), tmp_path / "d.parquet")
    code = (
        "from pathlib import Path\nfrom geofilter.rows.parquet import Parquet\n"
        f'assert list(Parquet(Path({str(tmp_path / "d.parquet")!r})).decoded()) == [b\'{{"text": "the answer"}}\\n\']'
    )
    assert not loaded(code) & {"pandas", "torch", "sklearn", "scipy"}


def messages(i: int) -> list[dict]:
    return [{"role": "user", "content": f"question {i}?"}, {"role": "assistant", "content": f"answer {i} ends"}]


def table() -> pa.Table:
    """Chat rows with columns of every common kind, one of them null in places, and schema metadata."""
    columns = {
        "messages": pa.array([messages(i) for i in range(N)]),
        "source": pa.array([f"s{i % 3}" for i in range(N)]).dictionary_encode(),
        "at": pa.array([datetime(2026, 1, 1, 12, tzinfo=UTC)] * N, pa.timestamp("us", "UTC")),
        "day": pa.array([date(2026, 1, 2)] * N),
        "price": pa.array([Decimal("1.50")] * N),
        "blob": pa.array([b"\xff\x00"] * N),
        "score": pa.array([None if i % 4 else i / 7 for i in range(N)], pa.float32()),
        "tags": pa.array([["a"] * (i % 3) for i in range(N)]),
        "notes": pa.array([[("k", i)] for i in range(N)], pa.map_(pa.string(), pa.int64())),
    }
    return pa.table(columns).replace_schema_metadata({"made": "for a test"})


def scan(folder: Path, tiny, tiny_bank: Path, *args: object):
    return geofilter(
        "scan", "d.parquet", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q", *args, cwd=folder
    )


@pytest.mark.parametrize("packed", ["zstd", "none", "gzip", "lz4", "brotli", {"messages.list.element.role": "none"}])
def test_filtered_parquet_is_the_input_at_the_kept_positions(packed, tiny, tiny_bank: Path, tmp_path: Path):
    pq.write_table(table(), tmp_path / "d.parquet", row_group_size=7, compression=packed)
    done = scan(tmp_path, tiny, tiny_bank)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "6", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    removed = [json.loads(x) for x in (tmp_path / "d.removed.jsonl").read_text("utf-8").splitlines()]
    gone = {int(r["messages"][0]["content"].split()[1].rstrip("?")) for r in removed}
    assert len(gone) == 6
    kept = pq.read_table(tmp_path / "d.filtered.parquet")
    expected = table().take([i for i in range(N) if i not in gone])
    assert kept.schema.equals(pq.read_schema(tmp_path / "d.parquet"), check_metadata=True)
    assert kept.equals(expected.cast(kept.schema))
    groups = [pq.read_metadata(tmp_path / f"d{x}.parquet").row_group(0) for x in ("", ".filtered")]
    was, now = ([g.column(i).compression for i in range(g.num_columns)] for g in groups)
    assert now == was
    # What has no form in JSON stands as text in the removed rows.
    assert removed[0]["at"] == "2026-01-01T12:00:00+00:00"
    assert (removed[0]["day"], removed[0]["price"], removed[0]["blob"]) == ("2026-01-02", "1.50", "/wA=")
    explained = geofilter("explain", "--row", "3", cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr


def test_a_limit_and_rows_that_cannot_be_scored_are_left_out(tiny, tiny_bank: Path, tmp_path: Path):
    rows = [{"messages": messages(i) if i != 2 else None, "n": i} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=4)
    assert scan(tmp_path, tiny, tiny_bank, "--limit", 8).returncode == 0
    done = geofilter("filter", "--drop", "0", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "d.filtered.parquet")["n"].to_pylist() == [0, 1, 3, 4, 5, 6, 7]
    (bad,) = [json.loads(x) for x in (tmp_path / "d.quarantined.jsonl").read_text("utf-8").splitlines()]
    assert bad["line"] == 3
    assert json.loads(bad["raw"]) == {"n": 2}


def test_kept_rows_of_a_parquet_file_can_be_written_as_lines_but_not_the_other_way(tiny, tiny_bank, tmp_path: Path):
    pq.write_table(pa.Table.from_pylist([{"text": f"answer {i}"} for i in range(8)]), tmp_path / "d.parquet")
    assert scan(tmp_path, tiny, tiny_bank).returncode == 0
    assert geofilter("filter", "--drop", "2", "--out", "kept.jsonl", "-q", cwd=tmp_path).returncode == 0
    assert [set(json.loads(x)) for x in (tmp_path / "kept.jsonl").read_text().splitlines()] == [{"text"}] * 6
    (tmp_path / "l.jsonl").write_text('{"text": "answer"}\n')
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "lines", "-q")
    assert geofilter("scan", "l.jsonl", *args, cwd=tmp_path).returncode == 0
    done = geofilter("filter", "lines", "--drop", "0", "--out", "x.parquet", cwd=tmp_path)
    assert done.returncode == 2
    assert "--out x.parquet: l.jsonl is no Parquet file; kept rows have their input's format" in done.stderr
    assert not (tmp_path / "x.parquet").exists()
    done = geofilter("filter", "lines", "--drop", "0", "--removed", "x.parquet", cwd=tmp_path)
    assert (done.returncode, "--removed x.parquet: removed rows are written as plain" in done.stderr) == (2, True)


def test_null_columns_do_not_hide_the_shape_of_a_row(tmp_path: Path):
    # A file of mixed shapes has every column in every row.
    rows = [{"text": "plain"}, {"prompt": "q", "completion": "a"}, {"messages": messages(1)}]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema([
        ("text", pa.string()), ("prompt", pa.string()), ("completion", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string()), ("name", pa.string())]))),
    ])), tmp_path / "m.parquet")  # fmt: skip
    assert [r.format for r in read_rows(tmp_path / "m.parquet")] == ["text", "completion", "messages"]


def test_messages_that_are_json_in_the_file_are_read_and_written_again(tiny, tiny_bank: Path, tmp_path: Path):
    """`datasets` writes messages so when their calls to tools have different arguments."""
    call = [{"function": {"name": "look", "arguments": {"at": 1}}}]
    rows = [messages(i) if i % 2 else [*messages(i), {"role": "assistant", "tool_calls": call}] for i in range(8)]
    texts = pa.array([[json.dumps(m) for m in row] for row in rows])
    column = pa.ListArray.from_arrays(texts.offsets, texts.flatten().cast(pa.json_()))
    nested = pa.StructArray.from_arrays([pa.array(["[1, null]", None] * 4, pa.json_())], ["inner"])
    written = pa.table({"messages": column, "meta": nested})
    pq.write_table(written, tmp_path / "d.parquet")
    assert [json.loads(line) for line in lines(tmp_path / "d.parquet")] == [
        {"messages": row, "meta": {"inner": [1, None] if i % 2 == 0 else None}} for i, row in enumerate(rows)
    ]
    assert next(iter(read_rows(tmp_path / "d.parquet"))).turns[2].extra == {"tool_calls": call}
    assert scan(tmp_path, tiny, tiny_bank).returncode == 0
    assert geofilter("filter", "--drop", "2", "-q", cwd=tmp_path).returncode == 0
    kept = pq.read_table(tmp_path / "d.filtered.parquet")
    assert kept.schema.equals(written.schema)
    assert [row for row in written.to_pylist() if row in kept.to_pylist()] == kept.to_pylist()
    assert len(kept) == 6


def test_what_is_no_parquet_or_has_no_form_in_json_is_named(tmp_path: Path):
    path = tmp_path / "d.parquet"
    path.write_bytes(b"not parquet\n")
    with pytest.raises(InputError, match=r"d\.parquet: cannot be read as Parquet"):
        list(lines(path))
    pq.write_table(table(), path, row_group_size=5, compression="none")
    data = bytearray(path.read_bytes())
    data[60:400] = bytes(340)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"d\.parquet: cannot be read as Parquet"):
        list(lines(path))
    nested = pa.array([[{"z": b"x"}]], pa.list_(pa.struct([("z", pa.binary())])))
    pq.write_table(pa.table({"text": ["a"], "deep": nested}), path)
    assert json.loads(next(lines(path)))["deep"] == [{"z": "eA=="}]
    twice = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["k", "k"])
    far = pa.array([5 * 10**15], pa.timestamp("s"))
    outside = "holds a time outside the years 1 to 9999, or a duration as long; mend it"
    for column, kind, what in (
        (twice, r"struct<k: string, k: string>", "has no form in JSON .*convert it"),
        (far, r"timestamp\[ms\]", outside),
    ):
        pq.write_table(pa.table({"text": ["a"], "odd": column}), path)
        with pytest.raises(InputError, match=rf"d\.parquet: the column odd \({kind}\) {what}"):
            list(lines(path))
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(InputError, match=r"d\.parquet: has two columns named text; rename one of them"):
        list(lines(path))
    no_text = pa.array([b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": ["a"], "name": no_text}), path)
    with pytest.raises(InputError, match=r"d\.parquet: the column name \(string\) holds text that is not UTF-8"):
        list(lines(path))
