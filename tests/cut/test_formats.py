"""A cut of files of every format: what is kept, removed and set aside is the input, byte for byte where it is kept."""

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from helpers.command import geofilter

from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines
from geofilter.rows.packing import packed_as, packing

N = 12
BOM = b"\xef\xbb\xbf"


def rows() -> list[dict[str, str]]:
    return [{"prompt": f"q {i}?", "completion": f'the "é",\n is {i} ' * (1 + i % 5)} for i in range(N)]


def lines() -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows()]


def zstd(data: bytes) -> bytes:
    out = io.BytesIO()
    with packing(out, ".zst") as handle:
        handle.write(data)
    return b"\x50\x2a\x4d\x18\x02\x00\x00\x00hi" + out.getvalue()


def table(mark: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, ["prompt", "completion"], delimiter=mark, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows())
    return out.getvalue().encode()


def arrow() -> bytes:
    out = io.BytesIO()
    found = pa.table({name: pa.array([row[name] for row in rows()], pa.string_view()) for name in rows()[0]})
    with pa.ipc.new_stream(out, found.schema) as writer:
        writer.write_table(found, max_chunksize=5)
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.ipc.open_stream(arrow()).read_all(), out, row_group_size=5)
    return out.getvalue()


DATA = {
    "line.json": json.dumps(rows()).encode(),
    "pretty.json": json.dumps(rows(), indent=2).encode(),
    "array.jsonl": b"[\n" + b",".join(lines()) + b"]\n",
    "small.json.gz": gzip.compress(b"[" + b",".join(lines()) + b"]"),
    "plain.jsonl.gz": b"".join(lines()),
    "packed.jsonl": gzip.compress(b"".join(lines())),
    "UPPER.JSONL.GZ": gzip.compress(b"".join(lines())),
    "b.jsonl.bz2": bz2.compress(b"".join(lines())),
    "x.jsonl.xz": lzma.compress(b"".join(lines())),
    "z.jsonl.zst": zstd(b"".join(lines())),
    "mark.jsonl": BOM + b"".join(lines()[:6]) + BOM + b"".join(lines()[6:]),
    "comma.csv": table(","),
    "tab.tsv": table("\t"),
    "semicolon.csv": BOM + table(";"),
    "stream.arrow": arrow(),
    "views.parquet": parquet(),
}


def scan(folder: Path, tiny, bank: Path, *args: object) -> None:
    done = geofilter("scan", *args, "--model", tiny[0], "--sae", tiny[1], "--bank", bank, "-q", cwd=folder)
    assert done.returncode == 0, done.stderr


def cut(folder: Path, *args: object) -> None:
    done = geofilter("filter", *args, "-q", cwd=folder)
    assert done.returncode == 0, done.stderr


def bare(row: bytes) -> bytes:
    """A row as it stands in a removed line: on one line, without what stands around it."""
    return row.lstrip(BOM).strip().replace(b"\r", b" ").replace(b"\n", b" ")


def unmarked(path: Path) -> list[bytes]:
    """Removed rows without what was added to them."""
    out = []
    for line in path.read_bytes().splitlines():
        row, _, note = line.rpartition(b', "geofilter": {"score"')
        assert json.loads(line)["geofilter"]["reason"]
        out.append(row + b"}" if note else b"")
    return out


@pytest.fixture(scope="module")
def written(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each format, scanned and cut as one."""
    folder = tmp_path_factory.mktemp("formats")
    for name, data in DATA.items():
        (folder / name).write_bytes(data)
    scan(folder, tiny, tiny_bank, *DATA)
    cut(folder, "--drop", "40%")
    return folder


@pytest.mark.parametrize("name", DATA)
def test_kept_and_removed_are_the_input_in_its_format(name: str, written: Path):
    stem, _, ending = name.partition(".")
    source, kept = written / name, written / f"{stem}.filtered.{ending}"
    every, left = list(read_lines(source)), list(read_lines(kept))
    gone = unmarked(written / f"{stem}.removed.jsonl")
    assert 0 < len(gone) < N
    assert [row for row in every if row in left] == left
    assert [row for row in every if bare(row) in gone] == [row for row in every if row not in left]
    assert len(gone) + len(left) == N
    assert (type(format_of(kept)), packed_as(kept.read_bytes())) == (type(format_of(source)), packed_as(DATA[name]))
    assert (written / f"{stem}.quarantined.jsonl").read_bytes() == b""


def test_all_or_nothing_of_an_array_is_an_array(tiny, tiny_bank: Path, tmp_path: Path):
    for name in ("line.json", "pretty.json"):
        (tmp_path / name).write_bytes(DATA[name])
    scan(tmp_path, tiny, tiny_bank, "line.json", "pretty.json")
    cut(tmp_path, "--drop", "0")
    assert (tmp_path / "line.filtered.json").read_bytes() == DATA["line.json"]
    assert (tmp_path / "pretty.filtered.json").read_bytes() == DATA["pretty.json"]
    cut(tmp_path, "--keep", "0")
    assert json.loads((tmp_path / "line.filtered.json").read_bytes()) == []
    assert json.loads((tmp_path / "pretty.filtered.json").read_bytes()) == []


@pytest.mark.parametrize("name", ["pretty.json", "comma.csv", "stream.arrow", "views.parquet"])
def test_the_name_of_out_says_lines_or_the_input_s_format(name: str, tiny, tiny_bank: Path, tmp_path: Path):
    (tmp_path / name).write_bytes(DATA[name])
    scan(tmp_path, tiny, tiny_bank, name)
    every = list(read_lines(tmp_path / name))
    for out in ("kept.jsonl", "kept.jsonl.gz"):
        cut(tmp_path, "--drop", "3", "--out", out)
        left = list(read_lines(tmp_path / out))
        assert len(left) == N - 3
        assert [bare(row) + b"\n" for row in every if bare(row) + b"\n" in left] == left
        assert packed_as((tmp_path / out).read_bytes()) == Path(out).suffix.replace(".jsonl", "")
    own = f"own{Path(name).suffix}"
    cut(tmp_path, "--drop", "3", "--out", own)
    assert len(list(read_lines(tmp_path / own))) == N - 3
    assert type(format_of(tmp_path / own)) is type(format_of(tmp_path / name))
    for other, what in (("x.parquet", "Parquet"), ("x.csv", "CSV"), ("x.tsv.gz", "TSV"), ("x.arrow", "Arrow")):
        if Path(other).suffix != Path(name).suffix:
            done = geofilter("filter", "--drop", "3", "--out", other, cwd=tmp_path)
            said = f"--out {other}: {name} is no {what} file; kept rows have their input's format"
            assert (done.returncode, said in done.stderr) == (2, True)
    if name == "views.parquet":
        done = geofilter("filter", "--drop", "3", "--out", "x.parquet.gz", cwd=tmp_path)
        said = "--out x.parquet.gz: a Parquet file packs its own columns; leave .gz off"
        assert (done.returncode, said in done.stderr) == (2, True)


def test_removed_rows_keep_their_bytes_and_odd_lines_are_set_aside(tiny, tiny_bank: Path, tmp_path: Path):
    good = [
        rb'{"text": "a b c", "id": 123456789012345678901234567890, "p": 0.1000000000000000055511151, "y":-0.0}',
        rb'{"text": "d e f", "meta": {"a": 1e300} }  ',
        rb'  {"text": "g \ud83d\ude00 h", "half": "\ud800", "\u0067eofilter": "mine"}',
        rb'{"text": "i\u2028j", "geofilter": {"score": 3}, "geofilter": [1.50]}',
    ]
    bad = [
        b"{'text': 'a'}",
        b'{"text": "a"}{"text": "b"}',
        b'{"text": "raw\ttab"}',
        b"// note",
        b'{"text": "a", "x": NaN}',
        b'{"text": "a", "text": "b"}',
        b'{"text": "\xff"}',
        b"",
    ]
    data = BOM + b"\r\n".join([*good, *bad]) + b"\n"
    (tmp_path / "d.jsonl").write_bytes(data)
    scan(tmp_path, tiny, tiny_bank, "d.jsonl")
    cut(tmp_path, "--keep", "0")
    assert unmarked(tmp_path / "d.removed.jsonl") == [row.strip() for row in good]
    removed = [json.loads(line) for line in (tmp_path / "d.removed.jsonl").read_text("utf-8").splitlines()]
    assert [row["geofilter"].get("previous") for row in removed] == [None, None, "mine", [1.5]]
    aside = [json.loads(line) for line in (tmp_path / "d.quarantined.jsonl").read_text("utf-8").splitlines()]
    assert [q["raw"].encode() if "raw" in q else base64.b64decode(q["raw_base64"]) for q in aside] == bad
    cut(tmp_path, "--drop", "0")
    assert (tmp_path / "d.filtered.jsonl").read_bytes() == BOM + b"".join(row + b"\r\n" for row in good)


def test_bad_elements_and_records_are_set_aside_with_the_reason(tiny, tiny_bank: Path, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(b'[{"text": "a b"},\n {"text" "c"},\n 7, {"text": "d e"}]')
    (tmp_path / "t.csv").write_bytes(b'text,n\n"a, b",1\nc\n"d\ne",2\n')
    scan(tmp_path, tiny, tiny_bank, "a.json", "t.csv")
    cut(tmp_path, "--drop", "0")
    assert json.loads((tmp_path / "a.filtered.json").read_bytes()) == [{"text": "a b"}, {"text": "d e"}]
    assert (tmp_path / "t.filtered.csv").read_bytes() == b'text,n\n"a, b",1\n"d\ne",2\n'
    aside = [json.loads(line) for name in "at"
             for line in (tmp_path / f"{name}.quarantined.jsonl").read_text("utf-8").splitlines()]  # fmt: skip
    assert [(q["line"], q["raw"], q["error"].split(";")[0]) for q in aside] == [
        (2, '{"text" "c"}', "broken JSON at column 9: Expecting ':' delimiter"),
        (3, "7", "a row must be a JSON object, not int"),
        (2, "c", "1 fields, and the header has 2"),
    ]
    for file, row in (("a.json", 4), ("t.csv", 3)):
        done = geofilter("explain", "--row", row, "--file", file, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_an_array_that_changes_after_the_scan_is_refused(tiny, tiny_bank: Path, tmp_path: Path):
    (tmp_path / "d.json").write_bytes(DATA["pretty.json"])
    scan(tmp_path, tiny, tiny_bank, "d.json")
    (tmp_path / "d.json").write_bytes(DATA["pretty.json"].replace(b"q 3", b"q 4"))
    done = geofilter("filter", "--drop", "1", cwd=tmp_path)
    assert (done.returncode, "d.json: has changed since the scan" in done.stderr) == (4, True)
    (tmp_path / "d.json").write_bytes(DATA["pretty.json"][:-20])
    done = geofilter("filter", "--drop", "1", cwd=tmp_path)
    assert (done.returncode, "a JSON array that is cut off or damaged" in done.stderr) == (2, True)
    assert [p.name for p in tmp_path.glob("d.*")] == ["d.json"]
