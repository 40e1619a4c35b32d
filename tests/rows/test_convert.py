"""Files that hold rows in another way than as rows: what is said of them, and the command that converts them."""

import gzip
import json
import shlex
from pathlib import Path

import pytest

from geofilter.errors import InputError
from geofilter.rows.convert import convert
from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Unusable, read_rows
from geofilter.rows.table import Table

ROWS = [{"prompt": f"q {i}?", "completion": f"a {i}"} for i in range(3)]
CHATS = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * 2
AS_OBJECTS = 'write each row as one, such as {"prompt": "...", "response": "..."}'


def put(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(read_lines(path))
    return str(caught.value).removeprefix(f"{path}: ")


def jq(program: str) -> str:
    """What errors say of a `d.jsonl` in the working folder."""
    return f"convert it: jq -c {shlex.quote(program)} < d.jsonl > d.rows.jsonl"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Commands


def test_a_command_writes_a_new_file_beside_the_input(here: Path):
    assert convert("rows.jsonl", "", "jq -c .", "rows", ".jsonl") == (
        "convert it: jq -c . < rows.jsonl > rows.rows.jsonl"
    )
    put(here / "rows.rows.jsonl", "mine")
    (here / "rows.rows-2.jsonl").symlink_to("nowhere")
    assert convert("rows.jsonl", "", "jq -c .", "rows", ".jsonl").endswith(" > rows.rows-3.jsonl")
    assert convert("a/b.csv.gz", ".gz", "iconv -f X", "utf8") == (
        "convert it: gzip -dc < a/b.csv.gz | iconv -f X > a/b.utf8.csv"
    )
    assert convert("-w.json.zst", ".zst", "jq .", "rows", ".jsonl") == (
        "convert it: zstd -dc < ./-w.json.zst | jq . > ./-w.rows.jsonl"
    )
    assert shlex.split(convert("it's a $x.json", "", "jq .", "rows", ".jsonl"))[-3:] == [
        "it's a $x.json", ">", "it's a $x.rows.jsonl"
    ]  # fmt: skip
    assert convert("-", "", "jq -c .", "rows") == "pipe it through jq -c ."


def test_a_program_in_a_command_is_quoted(here: Path):
    put(here / "d.jsonl", json.dumps({'it\'s "x"': ROWS}))
    said = refused(Path("d.jsonl"))
    assert shlex.split(said.partition("convert it: ")[2]) == [
        "jq", "-c", '.["it\'s \\"x\\""][]', "<", "d.jsonl", ">", "d.rows.jsonl"
    ]  # fmt: skip


# Objects that hold the rows


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"train": ROWS, "test": ROWS[:1]},
         "is one JSON object around several lists of rows, `train`, `test`; choose one of them; "
         + jq('.["train"][]')),
        ({f"id-{i}": row for i, row in enumerate(ROWS)},
         f"is one JSON object that holds the rows by a key; {jq('.[]')}"),
        ({key: [row[key] for row in ROWS] for key in ROWS[0]}, "is one JSON object of columns, and a row is an"),
        ({key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]}, "is one JSON object of columns,"),
        ({"columns": ["prompt"], "index": [0], "data": [["a"]]}, "is one JSON object of columns,"),
    ],
)  # fmt: skip
def test_an_object_that_holds_the_rows_is_named(indent: int | None, value: dict, said: str, here: Path):
    put(here / "d.jsonl", json.dumps(value, indent=indent))
    assert refused(Path("d.jsonl")).startswith(said)


def test_rows_by_a_key_are_seen_in_a_file_of_any_length(here: Path):
    put(here / "d.jsonl", json.dumps({str(i): {"text": "a" * 1000, "n": i} for i in range(1500)}, indent=1))
    assert refused(Path("d.jsonl")) == f"is one JSON object that holds the rows by a key; {jq('.[]')}"


def test_objects_over_lines_with_commas_between_them_are_mended_as_is_said(here: Path):
    text = ",\n".join(json.dumps(row, indent=1) for row in ROWS)
    said = (
        "holds JSON objects over several lines with commas between them; put [ before the first and ] behind the last"
    )
    for end in ("", ",", ",\n"):
        assert refused(put(here / "d.json", text + end)).startswith(said)
    assert [json.loads(row) for row in read_lines(put(here / "d.json", f"[{text}]"))] == ROWS


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": {"role": "assistant", "content": "a"}, "rejected": {"role": "assistant", "content": "b"}},
        {"messages": CHATS[0], "tools": []},
        {"text": "a", "notes": [{"by": "me"}]},
        {"prompt": ["a"], "completion": ["b"]},
    ],
)
def test_a_lone_row_is_not_taken_for_an_object_around_rows(row: dict, here: Path):
    assert len(list(read_lines(put(here / "d.json", json.dumps(row))))) == 1


# Arrays


BEHIND = "holds a JSON array and more JSON behind it, at byte "
ARRAY = 'if type == "array" then .[] else . end'


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_more_json_behind_an_array_is_refused_however_it_is_laid_out(
    indent: int | None, between: str, packed: bool, here: Path
):
    array, line = json.dumps(ROWS, indent=indent), json.dumps(ROWS[0])
    for more in (array, f"{line}\n{line}\n"):
        text = f"{array}{between}{more}".encode()
        put(here / "d.jsonl", gzip.compress(text) if packed else text)
        command = jq(ARRAY) if not packed else jq(ARRAY).replace("jq", "gzip -dc < d.jsonl | jq", 1).replace(
            " < d.jsonl >", " >")  # fmt: skip
        assert refused(Path("d.jsonl")) == f"{BEHIND}{len(array):,}; {command}"


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "what", "remedy"),
    [
        ([["q", "a"], ["q", "b"]], "lists", AS_OBJECTS),
        (["q", "a"], "texts", AS_OBJECTS),
        ([1, 2.5], "numbers", AS_OBJECTS),
        (CHATS, "lists", jq(".[] | {messages: .}")),
        ([ROWS, ROWS], "lists", jq(".[][]")),
    ],
)
def test_an_array_of_what_is_no_row_is_refused(indent: int | None, value: list, what: str, remedy: str, here: Path):
    put(here / "d.jsonl", json.dumps(value, indent=indent))
    assert refused(Path("d.jsonl")) == f"is a JSON array of {what}, and a row is an object; {remedy}"


def test_lines_that_are_lists_are_refused(here: Path):
    for lists, remedy in (([["q", "a"], ["q", "b"]], AS_OBJECTS), (CHATS, jq("{messages: .}")), ([[], []], AS_OBJECTS)):
        put(here / "d.jsonl", "".join(f"{json.dumps(one)}\n" for one in lists))
        assert refused(Path("d.jsonl")) == f"its lines are lists, and a row is an object; {remedy}"


def test_rows_behind_something_else_in_an_array_are_read(here: Path):
    *rows, last = read_rows(put(here / "d.json", json.dumps([3, "x", *ROWS, ["y"]])))
    assert [isinstance(row, Unusable) for row in rows] == [True, True, False, False, False]
    assert isinstance(last, Unusable)
    assert last.error == "a row must be a JSON object, not list; write its rows one a line"


# Tables


@pytest.mark.parametrize("name", ["d", "d.txt", "d.tab", "d.csv.bak", "d.gz"])
def test_a_table_that_is_not_named_as_one_is_not_read_as_lines(name: str, here: Path):
    for mark in ",;\t|":
        text = f'prompt{mark}completion\n"q{mark}\n1"{mark}a\nq2{mark}a\n'
        said = "looks like a table; rename it so that its name ends in .csv, or .tsv"
        assert refused(put(here / name, text)) == said
    assert isinstance(format_of(put(here / "d.csv", text)), Table)


@pytest.mark.parametrize(
    "text",
    [
        "// note, made by me\n" + "".join(json.dumps(row) + "\n" for row in ROWS),
        "a text, with commas\nand lines, of, other numbers\n",
        "one\ntwo\n",
        "{'text': 'a', 'b': 1}\n{'text': 'a', 'b': 1}\n",
    ],
)
def test_other_text_is_not_taken_for_a_table(text: str, here: Path):
    assert list(read_lines(put(here / "d.txt", text))) == text.encode().splitlines(keepends=True)


# Other files


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
         "is a pointer of Git LFS and not the data; fetch them with: git lfs pull"),
        (b"%PDF-1.4\n...", "is a PDF document; give the file that holds the rows"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "is a PNG picture; give the file that holds the rows"),
        (b"\n<!DOCTYPE html>\n<title>Sign in</title>",
         "is a web page (HTML); download the data file itself; where a login is asked for, log in first"),
        (b"FEA1" + bytes(50), "is a Feather file of the old version 1; write it again as version 2, or as Parquet"),
        (b"PARE" + bytes(50) + b"PARE", "is an encrypted Parquet file; write it again without encryption"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.parquet", "d.feather"])
def test_what_holds_no_rows_is_refused_by_name(data: bytes, said: str, name: str, here: Path):
    assert refused(put(here / name, data)) == said


@pytest.mark.parametrize("name", ["d.parquet", "d.arrow", "d.feather"])
def test_json_is_read_whatever_the_name(name: str, here: Path):
    for text in ("".join(json.dumps(row) + "\n" for row in ROWS), json.dumps(ROWS)):
        assert [json.loads(row) for row in read_lines(put(here / name, text))] == ROWS
    text = "prompt,completion\nq,a\n"
    kind = "Parquet" if "parquet" in name else "Arrow"
    assert refused(put(here / name, text)).endswith(f"; get a complete copy, or write it again as {kind}")
