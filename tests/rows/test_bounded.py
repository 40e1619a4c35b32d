"""What is read is limited while it is read: bombs, long rows, deep and lax JSON."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import geofilter

from geofilter.errors import InputError
from geofilter.rows import bounded, packing
from geofilter.rows.bounded import Overlong, bounded_lines
from geofilter.rows.lines import read_blocks, read_lines
from geofilter.rows.records import Row, Unusable, parse_line, read_rows
from geofilter.rows.strict_json import MOST_LEVELS

MIB = 1 << 20
MEASURED = """
import json, resource, sys
from pathlib import Path
from geofilter.errors import GeofilterError
from geofilter.rows.records import Unusable, read_rows

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024

before, said = peak(), {}
for name in sys.argv[1:]:
    try:
        rows = list(read_rows(Path(name)))
        said[Path(name).name] = [len(rows), *(row.error for row in rows if isinstance(row, Unusable))]
    except GeofilterError as error:
        said[Path(name).name] = str(error)
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
print(json.dumps({"said": said, "own": peak() - before, "children": children}))
"""


def long_line(n: int) -> list[bytes]:
    """Pieces of two rows, the first one of n MiB."""
    return [b'{"text": "', *[b"a" * MIB] * n, b'"}\n{"text": "b"}\n']


@pytest.fixture
def small(monkeypatch) -> int:
    """Rows of over 300 bytes are too long."""
    for module in ("bounded", "records", "json_array", "table"):
        monkeypatch.setattr(f"geofilter.rows.{module}.MOST_BYTES", 300)
    monkeypatch.setattr("geofilter.rows.json_array.CHUNK", 7)
    return 300


def bombs(folder: Path) -> dict[str, str]:
    """Files that are small, or of one row, and what is said of each."""
    over = "over the limit of 33,554,432"
    for name, opened, pieces in (
        ("long.jsonl.zst", packing._zstd().open, long_line(1100)),
        ("long.jsonl.gz", gzip.open, long_line(150)),
        ("long.jsonl.bz2", bz2.open, long_line(50)),
        ("long.jsonl.xz", lzma.open, long_line(100)),
        ("long.jsonl", open, long_line(100)),
        ("long.json.zst", packing._zstd().open, [b'[{"text": "b"},', *long_line(200)[:-1], b'"}]']),
        ("long.csv.zst", packing._zstd().open, [b'a,text\n1,"', *[b"a" * MIB] * 200, b'"\n']),
        ("lines.jsonl.zst", packing._zstd().open, [b'{"text": "b"}\n', *[b"\n" * MIB] * 20]),
        ("values.jsonl", open, [b'{"text": "b", "x": [', b"[]," * (8 * MIB), b"1]}\n"]),
        ("words.jsonl", open, [b'{"completion": "\xf0\x9f\x98\x80 b', b"ab " * (10 * MIB), b'"}\n']),
        ("controls.csv", open, [b"prompt,completion\n1,\xf0\x9f\x98\x80", b"\x01" * (30 * MIB), b"\n"]),
    ):
        with opened(folder / name, "wb") as handle:
            handle.writelines(pieces)
    large = pa.DictionaryArray.from_arrays(np.zeros(2000, np.int32), ["a" * (30 * MIB)])
    pq.write_table(pa.table({"text": large}), folder / "dictionary.parquet", compression="zstd")
    with pa.ipc.new_stream(str(folder / "dictionary.arrow"), pa.schema({"text": large.type})) as writer:
        writer.write_table(pa.table({"text": large}))
    pq.write_table(pa.table({"n": pa.nulls(20_000_000, pa.int8())}), folder / "nulls.parquet")
    return {
        "long.jsonl.zst": "unpacks to over 1,000 times its size",
        "long.jsonl.gz": over,
        "long.jsonl.bz2": over,
        "long.jsonl.xz": over,
        "long.jsonl": over,
        "long.json.zst": over,
        "long.csv.zst": "line 2: a record of over 33,554,432 bytes",
        "lines.jsonl.zst": "has over 100 lines a byte of its size",
        "values.jsonl": "holds over 2,097,152 values",
        "words.jsonl": "the text has",
        "controls.csv": over,
        "dictionary.parquet": "memory",
        "dictionary.arrow": "memory",
        "nulls.parquet": "has 20,000,000 rows in",
    }


def test_no_file_fills_the_memory(tmp_path: Path):
    told = bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *(str(tmp_path / name) for name in told)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, what in told.items():
        assert what in str(found["said"][name]), (name, found["said"][name])
    assert found["own"] < 500
    assert found["own"] + found["children"] < 1500


def test_rows_that_are_long_are_known_by_position_and_hash(small: int, tmp_path: Path):
    rows = [b'{"text": "a"}', b'{"text": "' + b"b" * 400 + b'"}', b"\xff" * 5000, b'{"text": "c"}']
    data = b"\r\n".join(rows)
    found = list(bounded_lines(io.BytesIO(data)))
    assert [len(found), found[0], found[3]] == [4, rows[0] + b"\r\n", rows[3]]
    for row, there in zip(found[1:3], rows[1:3], strict=True):
        assert isinstance(row, Overlong)
        size, sha256, offset = row.extent
        assert data[offset : offset + size] == there
        assert sha256 == hashlib.sha256(there).hexdigest()
    # What stands for two of a size differs, so that an input that has changed is told.
    (one,), (other,) = (list(bounded_lines(io.BytesIO(x * 400))) for x in (b"a", b"b"))
    assert one != other
    rejected = parse_line(found[1], "d.jsonl", 2)
    assert isinstance(rejected, Unusable)
    assert rejected.to_json() == {
        "file": "d.jsonl",
        "line": 2,
        "error": "the row has 412 bytes, over the limit of 300; shorten or remove it",
        "bytes": 412,
        "sha256": hashlib.sha256(rows[1]).hexdigest(),
        "offset": 15,
    }


def test_of_a_row_over_a_mebibyte_that_cannot_be_scored_no_copy_is_kept():
    raw = b'{"nothing": "' + b"a" * MIB + b'"}'
    record = Unusable("d.jsonl", 1, "why", raw).to_json()
    assert {**record, "error": ""} == {"file": "d.jsonl", "line": 1, "error": "", "bytes": len(raw),
                                       "sha256": hashlib.sha256(raw).hexdigest()}  # fmt: skip


def test_long_elements_of_an_array_are_found_whatever_is_in_them(small: int, tmp_path: Path):
    chance = random.Random(1)
    for _ in range(60):
        texts = ["".join(chance.choices('ab"\\ [{,', k=chance.choice((3, 3, 400, 900)))) for _ in range(3)]
        elements = [json.dumps({"text": text, "n": [1, {"a": 2}]}).encode() for text in texts]
        blanks = [chance.choice((b"", b" ", b"\n  ")) for _ in range(6)]
        data = b"[" + b",".join(blanks[i] + e + blanks[i + 3] for i, e in enumerate(elements)) + b" ]\n"
        (tmp_path / "a.json").write_bytes(data)
        for row, element in zip(read_lines(tmp_path / "a.json"), elements, strict=True):
            if isinstance(row, Overlong):
                size, sha256, offset = row.extent
                row = data[offset : offset + size]
                assert sha256 == hashlib.sha256(element).hexdigest()
            assert row == element
    for data, what in ((b'[{"text": "' + b"a" * 900, "the file ends in row 1"),
                       (b'[{"a": 1},' + b" " * 900 + b"{}]", "too many blanks before row 2"),
                       (b'[{"a": 1}]' + b" " * 90000, "too many blanks behind")):  # fmt: skip
        (tmp_path / "a.json").write_bytes(data)
        with pytest.raises(InputError, match=what):
            list(read_lines(tmp_path / "a.json"))


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_filter_accounts_for_long_rows(name: str, small: int, tiny, tiny_bank: Path, tmp_path: Path):
    rows = [json.dumps({"text": text}).encode() for text in ("a b", "c " * 200, "d e", "f g")]
    whole = b"\n".join(rows) + b"\n" if name == "d.jsonl" else b"[" + b",\n".join(rows) + b"]"
    (tmp_path / name).write_bytes(whole)
    target = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)
    assert geofilter("scan", name, *target, "--run", "run", "-q", cwd=tmp_path).returncode == 0
    done = geofilter("filter", "run", "--keep", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = [row.record for row in read_rows(tmp_path / f"d.filtered{Path(name).suffix}") if isinstance(row, Row)]
    removed = (tmp_path / "d.removed.jsonl").read_text("utf-8").splitlines()
    (aside,) = map(json.loads, (tmp_path / "d.quarantined.jsonl").read_text("utf-8").splitlines())
    assert (len(kept), len(removed)) == (2, 1)
    assert (aside["line"], "raw" in aside) == (2, False)
    assert whole[aside["offset"] :][: aside["bytes"]] == rows[1]
    assert aside["sha256"] == hashlib.sha256(rows[1]).hexdigest()


def test_a_table_ends_at_a_record_that_is_too_long(small: int, tmp_path: Path):
    for record in (b"a" * 400, b'"' + b"a\n" * 200 + b'"'):
        (tmp_path / "d.csv").write_bytes(b"prompt,completion\nq,a\np," + record + b"\n")
        with pytest.raises(InputError, match=r"line 3: a record of over 300 bytes"):
            list(read_lines(tmp_path / "d.csv"))


def test_a_file_of_more_columns_than_rows_have_is_refused(tmp_path: Path):
    (tmp_path / "d.csv").write_bytes(b",".join(b"c%d" % i for i in range(10_001)) + b"\n1\n")
    pq.write_table(pa.table({f"c{i}": ["a"] for i in range(10_001)}), tmp_path / "d.parquet")
    for name in ("d.csv", "d.parquet"):
        with pytest.raises(InputError, match="has over 10,000 columns"):
            list(read_lines(tmp_path / name))


def test_a_file_that_is_left_early_leaves_no_process(tmp_path: Path):
    pq.write_table(pa.table({"text": [f"a {i}" for i in range(200_000)]}), tmp_path / "d.parquet")
    rows = read_lines(tmp_path / "d.parquet")
    assert json.loads(next(rows)) == {"text": "a 0"}
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    during = set(children.read_text().split())
    rows.close()
    assert len(during - set(children.read_text().split())) == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"text": "a", "x": NaN}', "`x` is NaN, which is no JSON; write null or a number"),
        (b'{"text": "a", "x": {"y": [1, -Infinity]}}',
         "`x.y[1]` is -Infinity, which is no JSON; write null or a number"),
        (b'{"text": "a", "x": 1e400}', "`x` is 1e400, too large a number for most readers; write it as text"),
        (b'{"text": "a", "x": -' + b"9" * 4301 + b"}", "`x` is a whole number of over 4,300 digits; write it as text"),
        (b'{"text": "a", "text": "a"}', "the key `text` stands twice in one object, and readers differ in which they "
                                        "take; remove one"),
        (b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0, '
         b'"weight": 1}]}', "the key `weight` stands twice in one object, and readers differ in which they take; "
                            "remove one"),
        (json.dumps({"messages": '[{"role": "assistant", "content": "a", "content": "b"}]'}).encode(),
         "the key `content` stands twice in one object, and readers differ in which they take; remove one"),
        (b'{"\\ud800\\u001b": 1, "\\ud800\\u001b": 2}', "the key `\\ud800\N{REPLACEMENT CHARACTER}` stands twice in "
         "one object, and readers differ in which they take; remove one"),
    ],
)  # fmt: skip
def test_what_json_cannot_carry_back_is_set_aside(line: bytes, error: str):
    found = parse_line(line, "d.jsonl", 1)
    assert isinstance(found, Unusable)
    assert found.error == error


@pytest.mark.parametrize(
    ("line", "response"),
    [
        (b'{"text": "a", "x": 0.1000000000000000055511151231257827, "y": 9007199254740993.0, "z": 1e-400}', "a"),
        (b'{"text": "a", "geofilter": 1, "geofilter": 2}', "a"),  # of an earlier removal
        (rb'{"prompt": "q", "completion": "{\"a\": 1, \"a\": NaN}"}', '{"a": 1, "a": NaN}'),  # a text
        (rb'{"text": "\"a\": NaN, \"a\": NaN"}', '"a": NaN, "a": NaN'),
    ],
)
def test_what_it_can_carry_back_is_not(line: bytes, response: str):
    found = parse_line(line, "d.jsonl", 1)
    assert isinstance(found, Row)
    assert found.response == response


@pytest.mark.parametrize("said", [1, [], {"reasoningText": 1}, {"reasoningText": "a"}])
def test_thinking_in_another_form_than_it_has_sets_its_row_aside(said):
    parts = [{"reasoningContent": said}, {"text": "a"}]
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": parts}]
    found = parse_line(json.dumps({"messages": messages}).encode(), "d.jsonl", 1)
    assert isinstance(found, Unusable)
    assert "`messages[1].content` has a `reasoningContent` that is not read" in found.error


def test_why_a_row_is_set_aside_is_one_short_line():
    role = "a\n\x1b[31m\ud800" + "b" * 5000
    found = parse_line(json.dumps({"messages": [{"role": role, "content": "a"}]}).encode(), "d.jsonl", 1)
    assert isinstance(found, Unusable)
    assert found.error.isprintable()
    assert len(found.error) <= 1000


def test_how_deep_json_may_be_depends_on_no_stack():
    def at_depth(frames: int, line: bytes):
        return parse_line(line, "d.jsonl", 1) if not frames else at_depth(frames - 1, line)

    fits, deeper = (b'{"text": "a", "x": ' + b"[" * n + b"]" * n + b"}" for n in (MOST_LEVELS - 1, MOST_LEVELS))
    free = sys.getrecursionlimit() - len(__import__("inspect").stack())
    for frames in (0, free // 2, free - 60):
        assert isinstance(at_depth(frames, fits), Row)
        refused = at_depth(frames, deeper)
        assert isinstance(refused, Unusable)
        assert refused.error == "JSON nested too deeply, over 100 levels; flatten it"
    # Brackets in a text are none.
    assert isinstance(parse_line(json.dumps({"text": "[" * 1000 + '\\"{'}).encode(), "d.jsonl", 1), Row)
    assert bounded.MOST_BYTES > bounded.MAX_TEXT_BYTES


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
def test_many_rows_at_once_are_the_same_rows(block: int, small: int, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("geofilter.rows.bounded.BLOCK", block)
    long = json.dumps({"text": "a" * 2 * small}).encode()
    lines = [
        b'{"text": "b"}\n',
        b"\n",
        b'{"text": "c"}\r\n',
        long + b"\n",
        b'{"text": "d"}\n',
        long + b"\r\n\n",
        b"e\n",
    ]
    for ending in (b"", b'{"text": "f"}', long, b"a" * (small + 1)):
        path = tmp_path / "d.jsonl"
        path.write_bytes(b"".join(lines) + ending)
        (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        for file in (path, tmp_path / "d.jsonl.gz"):
            rows = [found.rows(i, i + 1) for found in read_blocks(file) for i in range(len(found.ends))]
            assert rows == list(read_lines(file))
            assert sum(b"a row of" in row for row in rows) == 2 + (len(ending) > small)
    (tmp_path / "d.csv").write_text('text,n\n"a\nb",1\nc,2\n')
    assert [found.data for found in read_blocks(tmp_path / "d.csv")] == list(read_lines(tmp_path / "d.csv"))
