import gzip
import json
import os
from pathlib import Path

import pytest

from geofilter.errors import InputError
from geofilter.rows.formats import READ
from geofilter.rows.gather import expand
from geofilter.rows.packing import packing
from geofilter.rows.records import Row, Unusable, parse_line, read_rows
from geofilter.rows.row_error import RE_ENCODE, RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import Turn

U, A = Turn("user", "hi"), Turn("assistant", "hello")


@pytest.mark.parametrize(
    ("record", "shape", "turns"),
    [
        (
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
            "messages",
            (U, A),
        ),
        (
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
            "conversations",
            (U, A),
        ),
        ({"prompt": "hi", "completion": "hello"}, "completion", (U, A)),
        ({"prompt": "hi", "response": "hello"}, "completion", (U, A)),
        (
            {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "hello"}]},
            "completion",
            (U, A),
        ),
        ({"instruction": "hi", "input": "", "output": "hello"}, "alpaca", (U, A)),
        (
            {"instruction": "sum", "input": "1 2", "output": "3"},
            "alpaca",
            (Turn("user", "sum\n\n1 2"), Turn("assistant", "3")),
        ),
        ({"prompt": "hi", "chosen": "hello", "rejected": "go away"}, "preference", (U, A)),
        (
            {"chosen": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "rejected": []},
            "preference",
            (U, A),
        ),
        ({"text": "plain"}, "text", (Turn("text", "plain"),)),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "text", "text": "he"}, {"type": "text", "text": "llo"}]}
                ]
            },
            "messages",
            (A,),
        ),
    ],
)
def test_shapes(record, shape, turns):
    found = parse_record(record)
    assert (found.shape, found.turns) == (shape, turns)


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (
            {"a": 1},
            "no known fields; a row needs one of: messages, conversations, prompt + completion|response, "
            "instruction + output, question + answer, chosen, segments, text; or say with --fields what it is made of",
        ),
        ({"messages": []}, "`messages` must be a list of messages that is not empty"),
        ({"messages": ["x"]}, "`messages[0]` must be an object with `role` and `content`"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "`messages[0]` has the unknown role 'wizard'"),
        ({"messages": [{"role": "user", "content": 3}]}, "`messages[0].content` must be text, not int"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "no assistant turn; there is nothing a fine-tuning loss would fall on",
        ),
        ({"prompt": "x", "completion": " \n"}, "the response is empty; fill or remove the row"),
        ({"text": "a\ud800"}, "`text` has half a surrogate pair at character 1; mend the text"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "image"}]}]},
            "the response is empty; fill or remove the row",
        ),
    ],
)
def test_unusable_records(record, error):
    with pytest.raises(RowError) as caught:
        parse_record(record)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"text": "a"', "broken JSON at column 13: Expecting ',' delimiter; mend or remove the line"),
        (b"\xff\xfe", f"not UTF-8 at byte 0; {RE_ENCODE}"),
        (b"   ", "empty line; remove it"),
        (b"[1]", "a row must be a JSON object, not list; write its rows one a line"),
        (
            b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
            "`n` is a whole number of over 4,300 digits; write it as text",
        ),
        (b"[" * 100_000, "JSON nested too deeply, over 100 levels; flatten it"),
    ],
)
def test_unusable_lines(line, error):
    assert parse_line(line, "d.jsonl", 3) == Unusable("d.jsonl", 3, error, line)


def test_a_huge_text_is_rejected_and_a_huge_picture_beside_a_text_is_not():
    huge = b"a" * (17 << 20)
    row = parse_line(b'{"text": "' + huge + b'"}', "d.jsonl", 1)
    assert isinstance(row, Unusable)
    assert row.error == "the text has 17,825,792 bytes, over the limit of 16,777,216; shorten it"
    assert isinstance(parse_line(b'{"text": "a cat", "image": "' + huge + b'"}', "d.jsonl", 1), Row)


def test_line_endings_and_byte_order_mark(tmp_path: Path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}')
    rows = list(read_rows(path))
    assert [r.response for r in rows if isinstance(r, Row)] == ["a", "b"]
    same = tmp_path / "same.jsonl"
    same.write_bytes(b'{"text": "b"}\n')
    assert next(iter(read_rows(same))).sha256 == rows[1].sha256  # the ending is not part of the row


def test_quarantine_record_keeps_bytes_that_are_not_text():
    assert Unusable("f", 1, "e", b"\xff").to_json() == {"file": "f", "line": 1, "error": "e", "raw_base64": "/w=="}


def packed(path: Path, data: bytes) -> Path:
    """Write bytes packed as the ending says."""
    with path.open("wb") as raw, packing(raw, path.suffix) as handle:
        handle.write(data)
    return path


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_packed_files_and_limit(tmp_path: Path, ending: str):
    lines = b"".join(json.dumps({"text": str(i)}).encode() + b"\n" for i in range(5))
    path = packed(tmp_path / f"d.jsonl{ending}", lines)
    assert [r.response for r in read_rows(path, 2)] == ["0", "1"]
    whole = path.read_bytes()
    assert packed(tmp_path / f"again.jsonl{ending}", lines).read_bytes() == whole
    # Two packed files put one behind the other are a packed file, as cat makes them.
    path.write_bytes(whole + whole)
    assert len(list(read_rows(path))) == 10


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_packed_file_that_is_cut_off_is_no_data(tmp_path: Path, ending: str):
    path = packed(tmp_path / f"d.jsonl{ending}", b"".join(os.urandom(40).hex().encode() + b"\n" for _ in range(4000)))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_rows(path))


def test_patterns_name_files_in_order_and_must_match(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.jsonl", "c[1].jsonl"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "x.jsonl").mkdir()
    for part in ("filtered", "removed", "quarantined", "judge"):  # what commands leave is no input of the next
        (tmp_path / f"a.{part}.jsonl").write_text("{}\n")
    assert expand(["*.jsonl"]) == ("a.jsonl", "b.jsonl", "c[1].jsonl")
    assert expand(["c[1].jsonl", "b.jsonl"]) == ("c[1].jsonl", "b.jsonl")  # a file's own name is no pattern
    assert expand([f"{tmp_path}/?.jsonl"]) == (f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl")
    with pytest.raises(InputError, match=r"\*\.csv: matches no file"):
        expand(["a.jsonl", "*.csv"])


def test_files_that_cannot_be_read(tmp_path: Path):
    empty, cut = tmp_path / "empty.jsonl", tmp_path / "cut.jsonl.gz"
    empty.touch()
    cut.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:40])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, text in [
        (
            tmp_path / "no.jsonl",
            f"no such file; give the path of a data file ({READ})",
        ),
        (empty, "the file is empty; nothing to read"),
        (tmp_path, f"is a folder; give its files: '{tmp_path}/*.jsonl' '{tmp_path}/*.jsonl.gz'"),
        (pipe, "is a pipe, and the data are read more than once; write them to a file first"),
    ]:
        with pytest.raises(InputError) as caught:
            list(read_rows(path))
        assert str(caught.value) == f"{path}: {text}"
    with pytest.raises(InputError, match="cannot be read to its end"):
        list(read_rows(cut))
