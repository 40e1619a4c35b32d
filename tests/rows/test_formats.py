"""What a data file is, told by its content: which rows it gives, what is refused, and what is written of it."""

import bz2
import gzip
import io
import json
import lzma
import random
import shlex
import subprocess
import tarfile
import zipfile
from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from geofilter.errors import InputError
from geofilter.rows import json_array, packing
from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Row, Unusable, read_rows
from geofilter.rows.row_error import RE_ENCODE

ROWS = [{"prompt": f"q {i}?", "completion": f'it is "{i}" ] }} é \\ \n end'} for i in range(5)]
LINES = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
BOM = b"\xef\xbb\xbf"


def put(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def kept(path: Path, keep: list[bool]) -> bytes:
    out = io.BytesIO()
    format_of(path).write(np.array(keep), out)
    return out.getvalue()


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_lines(path))
    return str(caught.value).removeprefix(f"{path}: ")


# Arrays


ARRAYS = {
    "one line": b"[" + b", ".join(LINES) + b"]",
    "no blanks": b"[" + b",".join(LINES) + b"]\n",
    "a line each": b"[\n  " + b",\n  ".join(LINES) + b"\n]\n",
    "comma first": BOM + b"\r\n[ " + b"\r\n, ".join(LINES) + b" ]\r\n\r\n",
    "pretty": json.dumps(ROWS, indent=4).encode(),
}


@pytest.mark.parametrize("text", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d"])
def test_an_array_is_read_element_by_element_and_written_as_an_array(text: bytes, name: str, tmp_path: Path):
    path = put(tmp_path / name, text)
    rows = list(read_rows(path))
    assert [row.record for row in rows if isinstance(row, Row)] == ROWS
    assert [row.line for row in rows] == [1, 2, 3, 4, 5]
    elements = list(read_lines(path))
    assert all(element in text for element in elements)
    assert kept(path, [True] * 5) == text
    for keep in ([False] * 5, [True] + [False] * 4, [False] * 4 + [True], [False, True, False, True, False]):
        left = kept(path, keep)
        assert json.loads(left.decode("utf-8-sig")) == list(compress(ROWS, keep))
        assert all((element in left) == wanted for element, wanted in zip(elements, keep, strict=True))
    # With --limit the rows past it are in no output.
    assert json.loads(kept(path, [True, False]).decode("utf-8-sig")) == ROWS[:1]


def odd(rng: random.Random, depth: int = 0) -> object:
    kind = rng.random()
    if kind < 0.5 or depth > 3:
        return "".join(rng.choice('ab"\\{}[],: é\n\U0001f600') for _ in range(rng.randrange(12)))
    if kind < 0.6:
        return rng.choice([1, -2.5, None, True, 1e300])
    inner = [odd(rng, depth + 1) for _ in range(rng.randrange(4))]
    return inner if kind < 0.8 else {str(i): value for i, value in enumerate(inner)}


@pytest.mark.parametrize("chunk", [1, 2, 3, 50, 1 << 20])
def test_elements_are_found_wherever_a_chunk_ends(chunk: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(json_array, "CHUNK", chunk)
    rng = random.Random(chunk)
    for _ in range(60):
        rows = [{"row": odd(rng)} for _ in range(rng.randrange(1, 6))]
        text = json.dumps(rows, indent=rng.choice([None, 2]), ensure_ascii=rng.random() < 0.5)
        path = put(tmp_path / "d.json", text)
        assert [json.loads(element) for element in read_lines(path)] == rows
        keep = [rng.random() < 0.5 for _ in rows]
        assert json.loads(kept(path, keep)) == list(compress(rows, keep))


def test_elements_that_are_no_rows_are_set_aside(tmp_path: Path):
    path = put(tmp_path / "d.json", b'[{"text": "a"}, 3, "b, c", {"x" 1}, {"text": "d"} {"text": "e"}]')
    rows = list(read_rows(path))
    assert [row.error.split(";")[0] if isinstance(row, Unusable) else row.response for row in rows] == [
        "a", "a row must be a JSON object, not int", "a row must be a JSON object, not str",
        "broken JSON at column 6: Expecting ':' delimiter", "broken JSON at column 15: Extra data",
    ]  # fmt: skip
    assert [row.raw for row in rows if isinstance(row, Unusable)] == [
        b"3", b'"b, c"', b'{"x" 1}', b'{"text": "d"} {"text": "e"}'
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'[{"a": 1}, {"b": 2', "the file ends in row 2, which begins at byte 10"),
        (b'[{"a": 1}, {"b": 2}', "its closing bracket is missing behind row 2, at byte 19"),
        (b'[\n{"a": 1},\n{"b": 2}\n', "its closing bracket is missing behind row 2, at byte 20"),
        (b'[{"a": 1}, {"b": "2', "the file ends in row 2, which begins at byte 10"),
        (b'[{"a": 1},', "the file ends in row 2, which begins at byte 10"),
        (b'[{"a": 1},, {"b": 2}]', "row 2 is missing between two commas at byte 10"),
        (b'[{"a": 1}, {"b": 2}, ]', "a comma too much at byte 21"),
        (b'[{"a": 1}] garbage', "text after its closing bracket at byte 10"),
        (b'[{"a": 1}]\n]\n', "text after its closing bracket at byte 10"),
    ],
)
def test_a_damaged_array_stops_the_command_with_the_place(text: bytes, what: str, tmp_path: Path):
    said = refused(put(tmp_path / "d.json", text))
    assert said == f"a JSON array that is cut off or damaged: {what}; get a complete copy, or mend it there"


def test_an_array_without_rows_has_none(tmp_path: Path):
    for text in (b"[]", b"[\n]\n", b" [ ] "):
        assert refused(put(tmp_path / "d.json", text)) == "has no rows; nothing to read"


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        (b'[{"text": "broken\n{"text": "a"}\n{"text": "b"}\n', 2),
        (b'[oops\n{"text": "a"}\n', 1),
        (b'[1, 2\n{"text": "a"}\n', 1),
        (b'[1, 2]\n{"text": "a"}\n', 1),
        (b'[\n{"text": "a"}\n{"text": "b"}\n]\n', 2),
        (b'{"broken": \n{"text": "a"}\n{"text": "b"}\n', 2),
        (b'{"text": "a\n', 0),
        (b"{'text': 'a'}\n{\"text\": \"a\"}\n", 1),
        (b'{"text": "a"}, \n{"text": "b"}', 1),
    ],
)
def test_lines_of_which_the_first_is_broken_are_lines(text: bytes, usable: int, tmp_path: Path):
    path = put(tmp_path / "d.json", text)
    assert list(read_lines(path)) == text.splitlines(keepends=True)
    assert sum(isinstance(row, Row) for row in read_rows(path)) == usable


@pytest.mark.parametrize("size", [100, 2 << 20, 17 << 20])
def test_lines_are_lines_however_long_the_first_is(size: int, tmp_path: Path):
    lines = [b'{"text": "' + b"a" * size + b'"}\n', b'{"text": "b"}\n']
    assert list(read_lines(put(tmp_path / "d.jsonl", b"".join(lines)))) == lines
    assert list(read_lines(put(tmp_path / "d.jsonl", lines[0]))) == lines[:1]
    assert list(read_lines(put(tmp_path / "d.json", b"[" + b",".join(lines) + b"]"))) == [x.strip() for x in lines]


def test_lines_that_end_in_a_comma_say_how_to_mend_the_file(tmp_path: Path):
    path = put(tmp_path / "d.jsonl", b",\n".join(LINES))
    *bad, last = read_rows(path)
    assert {row.error for row in bad if isinstance(row, Unusable)} == {
        "the line ends in a comma, as in an array without its brackets; remove the comma, or put [ before the first "
        "line and ] behind the last"
    }
    assert (len(bad), type(last)) == (4, Row)
    put(path, b"[" + path.read_bytes() + b"]")
    assert len([row for row in read_rows(path) if isinstance(row, Row)]) == 5


# What is refused, with a remedy that works


def mended(said: str, folder: Path) -> list[Row | Unusable]:
    """The rows of what the command in an error writes."""
    command = said.split("convert it: ", 1)[1]
    subprocess.run(["sh", "-c", command], check=True, cwd=folder)
    return list(read_rows(folder / shlex.split(command)[-1]))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_text_in_another_encoding_is_named(encoding: str, packed: str, tmp_path: Path):
    data = (b"\n".join(LINES) + b"\n").decode().encode(encoding)
    path = put(tmp_path / f"d.jsonl{packed}", gzip.compress(data) if packed else data)
    said = refused(path)
    assert said.startswith(f"is {encoding.upper().replace('-LE', 'LE').replace('-BE', 'BE')} text; convert it: ")
    assert [row.record for row in mended(said, tmp_path) if isinstance(row, Row)] == ROWS


def test_lines_that_end_in_cr_only_are_named(tmp_path: Path):
    said = refused(put(tmp_path / "my data.jsonl", b"\r".join(LINES) + b"\r"))
    assert said.startswith("its lines end in CR only, as on old Macs; convert it: tr ")
    assert [row.record for row in mended(said, tmp_path) if isinstance(row, Row)] == ROWS
    said = refused(put(tmp_path / "d.csv", b"prompt,completion\rq,a\rp,b\r"))
    assert [row.response for row in mended(said, tmp_path) if isinstance(row, Row)] == ["a", "b"]


def test_objects_over_several_lines_and_around_the_rows_are_named(tmp_path: Path):
    pretty = "\n".join(json.dumps(row, indent=2) for row in ROWS)
    big = {"version": 1, "rows": [{"text": "a" * 1000, "n": n} for n in range(1500)]}
    around = {"is one JSON object around the list of rows, its `data`": {"data": ROWS},
              "is one JSON object around the list of rows, its `rows`": big}  # fmt: skip
    said = refused(put(tmp_path / "d.json", pretty))
    assert said == (
        "holds a JSON object over several lines, and a row is one line; convert it: jq -c . < "
        f"{tmp_path}/d.json > {tmp_path}/d.rows.jsonl"
    )
    for what, value in around.items():
        assert refused(put(tmp_path / "d.json", json.dumps(value, indent=1))).startswith(what)
    del big["version"]
    for what, value in around.items():
        (name,) = value
        remedy = f"; convert it: jq -c '.[\"{name}\"][]' < {tmp_path}/d.json > {tmp_path}/d.rows.jsonl"
        for indent in (None, 1):
            assert refused(put(tmp_path / "d.json", json.dumps(value, indent=indent))) == what + remedy
    # A row's own lists are none of rows.
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (only,) = read_rows(put(tmp_path / "d.json", json.dumps(row)))
    assert isinstance(only, Row)
    (only,) = read_rows(put(tmp_path / "d.json", json.dumps({"text": "a", "notes": [{"by": "me"}]})))
    assert isinstance(only, Row)


def test_archives_and_other_programs_files_are_named(tmp_path: Path):
    plain = put(tmp_path / "d.jsonl", b"\n".join(LINES))
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.write(plain, "d.jsonl")
    with tarfile.open(tmp_path / "d.tar.gz", "w:gz") as tar:
        tar.add(plain, "d.jsonl")
    assert refused(tmp_path / "d.zip") == (
        "is a zip archive, or a spreadsheet; unzip it and give the data files in it, or save it as CSV"
    )
    assert refused(tmp_path / "d.tar.gz") == "is a tar archive; unpack it (tar -xf) and give the data files in it"
    for data, what in [
        (gzip.compress(gzip.compress(plain.read_bytes())), "is packed twice; unpack it once"),
        (gzip.compress(b"PAR1..."), "is a Parquet or Arrow file packed as .gz; unpack it once"),
        (b"SQLite format 3\0", "is an SQLite database; write its rows to a CSV file"),
    ]:
        assert refused(put(tmp_path / "d.jsonl", data)).startswith(what)


# Packing


def test_packing_is_told_by_content_whatever_the_name(tmp_path: Path):
    text = b"\n".join(LINES) + b"\n"
    half = len(text) // 2
    zstd = packing._zstd()
    skipped = b"\x57\x2a\x4d\x18\x03\x00\x00\x00abc"
    packed = {
        "": text,
        ".gz": gzip.compress(text[:half]) + gzip.compress(text[half:]),
        ".zst": skipped + zstd.compress(text[:half]) + skipped + zstd.compress(text[half:]),
        ".bz2": bz2.compress(text[:half]) + bz2.compress(text[half:]),
        ".xz": lzma.compress(text[:half]) + lzma.compress(text[half:]),
    }
    for by, data in packed.items():
        for name in ("d", "d.jsonl", "D.JSONL.GZ", "d.jsonl.zst", "d.jsonl.bz2", "d.jsonl.xz"):
            path = put(tmp_path / name, data)
            assert b"".join(read_lines(path)) == text
            assert format_of(path).packed == by
        if by:
            assert "cannot be read to its end" in refused(put(tmp_path / "d.jsonl", data[:-6]))


def test_a_byte_order_mark_before_any_line_is_passed_over(tmp_path: Path):
    text = BOM + LINES[0] + b"\n" + LINES[1] + b"\r\n" + BOM + LINES[2] + b"\n" + BOM + BOM + LINES[3] + b"\n" + BOM
    path = put(tmp_path / "d.jsonl", text)
    *rows, last = read_rows(path)
    assert [row.record for row in rows if isinstance(row, Row)] == ROWS[:4]
    assert isinstance(last, Unusable)
    assert last.error == "empty line; remove it"
    assert b"".join(read_lines(path)) == text


# Tables


def test_a_table_gives_rows_of_texts_and_is_written_record_by_record(tmp_path: Path):
    header = BOM + b'prompt,"completion",note\r\n'
    records = [
        b'hi,"says ""yes"", and\r\n\r\nmore, too",\r\n',
        b'5" pipe,ok,"a"b\n',
        b"one,two\n",
        b"\n",
        b"p,caf\xe9,n\n",
        'p,"é\n",'.encode(),
    ]
    path = put(tmp_path / "d.csv", header + b"".join(records))
    rows = list(read_rows(path))
    assert [row.record for row in rows if isinstance(row, Row)] == [
        {"prompt": "hi", "completion": 'says "yes", and\r\n\r\nmore, too'},
        {"prompt": '5" pipe', "completion": "ok", "note": "ab"},
        {"prompt": "p", "completion": "é\n"},
    ]
    assert [(row.line, row.error, row.raw) for row in rows if isinstance(row, Unusable)] == [
        (3, "2 fields, and the header has 3; mend or remove the row", b"one,two"),
        (4, "empty row; remove it", b""),
        (5, f"not UTF-8; {RE_ENCODE}", b"p,caf\xe9,n"),
    ]
    keep = [True, False, True, False, True, True]
    assert kept(path, keep) == header + b"".join(compress(records, keep))


@pytest.mark.parametrize(
    ("name", "mark"), [("d.csv", ","), ("d.csv", ";"), ("d.CSV.gz", "\t"), ("d.tsv", "\t"), ("d.csv", "|")]
)
def test_what_sets_fields_apart_is_found(name: str, mark: str, tmp_path: Path):
    text = f"prompt{mark}completion\nq, r{mark}a\n".replace("q, r", "q, r" if mark != "," else "q r")
    path = put(tmp_path / name, text)
    assert [row.response for row in read_rows(path) if isinstance(row, Row)] == ["a"]


def test_a_table_that_cannot_be_taken_apart_is_refused(tmp_path: Path):
    for text, what in [
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: a quote that opens a field is never closed; close it, or double it where"),
        (b"a,a\n1,2\n", "has two columns named a; rename one of them"),
        (b"caf\xe9,b\n1,2\n", f"its first line is not UTF-8; {RE_ENCODE}"),
        (b"a,b\n", "has no rows; nothing to read"),
    ]:
        assert what in refused(put(tmp_path / "d.csv", text))
    assert len(list(read_rows(put(tmp_path / "d.csv", b"\n".join(LINES))))) == 5  # lines, whatever the name says


# Arrow


@pytest.mark.parametrize("indexed", [False, True])
def test_an_arrow_file_is_read_and_written_as_what_it_is(indexed: bool, tmp_path: Path):
    schema = pa.schema([("text", pa.string_view()), ("n", pa.int64())], metadata={"made": "for a test"})
    parts = [pa.record_batch([pa.array([f"row {i}", f"row {i + 1}"], pa.string_view()), pa.array([i, i + 1])],
                             schema=schema) for i in (0, 2, 4)]  # fmt: skip
    make = pa.ipc.new_file if indexed else pa.ipc.new_stream
    path = tmp_path / "d.arrow"
    with make(str(path), schema) as writer:
        for part in parts:
            writer.write_batch(part)
    assert [json.loads(line) for line in read_lines(path)] == [{"text": f"row {i}", "n": i} for i in range(6)]
    out = kept(path, [True, False, False, False, True])
    found = (pa.ipc.open_file if indexed else pa.ipc.open_stream)(out).read_all()
    assert found.schema.equals(schema, check_metadata=True)
    assert found["n"].to_pylist() == [0, 4]
    put(path, path.read_bytes()[:200])
    assert "cannot be read as Arrow" in refused(path)
