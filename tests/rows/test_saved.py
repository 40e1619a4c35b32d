"""Data sets that `save_to_disk` has written, folders of files, and pipes of other formats than lines."""

import gzip
import io
import json
import shlex
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.errors import InputError
from geofilter.rows.gather import gather
from geofilter.rows.lines import read_lines

ROWS = [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 5), n=i) for i in range(12)]


def gathered(*data: str, split: str | None = None) -> tuple[tuple[str, ...], dict]:
    return gather(data, split=split, config=None, offline=False, notify=lambda text: None)


def refused(*data: str, split: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        gathered(*data, split=split)
    return str(caught.value)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(folder: str, rows: list[dict], **columns: object) -> datasets.Dataset:
    found = datasets.Dataset.from_list(rows)
    for name, column in columns.items():
        found = found.add_column(name, [{"bytes": b"no picture", "path": None}] * len(rows), feature=column)
    found.save_to_disk(folder)
    return found


def test_a_saved_data_set_is_scanned_and_filtered_as_parquet(tiny, tiny_bank: Path, here: Path):
    saved = save("mine", ROWS, picture=datasets.Image())  # decoding it would fail
    done = geofilter("scan", "mine/", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--json")
    assert done.returncode == 0, done.stderr
    (info,) = json.loads(done.stdout)["data"]
    sha = info["origin"]["sha256"]
    assert info["origin"] == {"folder": "mine", "sha256": sha}
    assert (info["path"], info["rows"]) == (f".geofilter/mine-{sha[:12]}.parquet", 12)
    assert json.loads(geofilter("runs", "--json").stdout)[0]["data"] == ["mine"]
    done = geofilter("filter", "mine", "--drop", "4", "-q")
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(f".geofilter/mine-{sha[:12]}.filtered.parquet")
    assert len(kept) == 8
    assert kept.schema.equals(saved.features.arrow_schema)
    assert [row for row in saved.remove_columns("picture") if row["n"] in kept["n"].to_pylist()] == [
        {key: value for key, value in row.items() if key != "picture"} for row in kept.to_pylist()
    ]
    # The same folder is the same file, a changed one is another.
    assert gathered("mine")[0] == (info["path"],)
    save("mine2", ROWS[:5])
    for path in Path("mine").iterdir():
        path.unlink()
    for path in Path("mine2").iterdir():
        path.rename(Path("mine", path.name))
    (other,) = gathered("mine")[0]
    assert other != info["path"]
    assert len(list(read_lines(Path(other)))) == 5


def test_of_saved_splits_one_is_named(here: Path):
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:3])}
    datasets.DatasetDict(splits).save_to_disk("both")
    datasets.DatasetDict(dev=splits["test"]).save_to_disk("one")
    assert refused("both") == "both: has several splits; give one with --split: test, train"
    assert refused("both", split="dev") == "both: has no split dev; give one with --split: test, train"
    (path,), origins = gathered("both", split="test")
    assert origins[path]["split"] == "test"
    assert path.startswith(".geofilter/both-test-")
    assert len(list(read_lines(Path(path)))) == 3
    (path,), origins = gathered("one")
    assert origins[path]["split"] == "dev"
    save("plain", ROWS)
    assert refused("plain", split="train") == "--split train: no input is a data set that has splits; leave it out"
    (path,), _ = gathered("both/train")  # a split's own folder
    assert len(list(read_lines(Path(path)))) == 12


def test_what_is_left_of_a_saved_data_set_is_refused(here: Path):
    save("mine", ROWS)
    next(Path("mine").glob("*.arrow")).unlink()
    said = refused("mine")
    assert said.startswith("mine: cannot be read as a data set of save_to_disk (")
    assert said.endswith("); save it again, or write it with to_parquet and give that file")
    assert not list(here.glob(".geofilter/*"))


def test_a_saved_data_set_without_rows_is_refused(here: Path):
    datasets.Dataset.from_list(ROWS).select([]).save_to_disk("none")
    assert refused("none") == "none: has no rows; nothing to read"
    assert not list(here.glob(".geofilter/*"))


def test_a_saved_data_sets_own_files_are_read_as_they_are(here: Path):
    save("mine", ROWS)
    (file,) = Path("mine").glob("*.arrow")
    assert [json.loads(line) for line in read_lines(file)] == ROWS
    with pytest.raises(InputError) as caught:
        list(read_lines(Path("mine")))
    assert str(caught.value) == (
        "mine: is a folder; only scan reads what save_to_disk has written; give its .arrow files, or write it with "
        "to_parquet"
    )


@pytest.mark.parametrize(
    ("names", "instead"),
    [
        (["a.jsonl", "b.jsonl"], "give its files: 'd/*.jsonl'"),
        (["README.md", ".x/y.jsonl", "data/x.parquet"], "give its files: 'd/data/*.parquet'"),
        (["x.JSON.gz"], "give its files: 'd/*.JSON.gz'"),
        (
            ["a.csv", "b/c/d/e.jsonl.gz", "b/f.jsonl", "g/h.jsonl"],
            "give its files: 'd/*.csv' 'd/**/*.jsonl' 'd/b/c/d/*.jsonl.gz'",
        ),
        (["it's [1]/a.jsonl"], """give its files: 'd/it'"'"'s [[]1]/*.jsonl'"""),
        (["README.md"], "give a data file (.jsonl, .json, .csv, .tsv, .parquet or .arrow)"),
    ],
)
def test_of_a_folder_of_files_it_is_said_what_to_write(names: list[str], instead: str, here: Path):
    for name in names:
        Path("d", name).parent.mkdir(parents=True, exist_ok=True)
        write_rows(Path("d", name), ROWS)
    with pytest.raises(InputError) as caught:
        list(read_lines(Path(gathered("d")[0][0])))
    assert str(caught.value) == f"d: is a folder; {instead}"
    patterns = shlex.split(instead.partition("files: ")[2])
    if patterns:
        assert set(gathered(*patterns)[0]) == {
            f"d/{name}" for name in names if "README" not in name and ".x" not in name
        }


class Pipe:
    """Standard input that holds bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out)
    return out.getvalue()


def test_what_comes_through_a_pipe_is_kept_by_what_it_is(here: Path, monkeypatch):
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
    for data, ending in [
        (lines, "jsonl"), (gzip.compress(lines), "jsonl.gz"), (json.dumps(ROWS, indent=1).encode(), "json"),
        (gzip.compress(json.dumps(ROWS).encode()), "json.gz"), (parquet(), "parquet"),
    ]:  # fmt: skip
        monkeypatch.setattr("sys.stdin", Pipe(data))
        (path,), _ = gathered("-")
        assert Path(path).name.partition(".")[2] == ending
        assert Path(path).read_bytes() == data
        assert [json.loads(row) for row in read_lines(Path(path))] == ROWS
    table = b'prompt,completion\nq,"a, b"\nr,c\n'
    for data, ending in [
        (table, "csv"), (table.replace(b",", b"\t"), "tsv"), (gzip.compress(table.replace(b",", b";")), "csv.gz"),
    ]:  # fmt: skip
        monkeypatch.setattr("sys.stdin", Pipe(data))
        (path,), _ = gathered("-")
        assert Path(path).name.partition(".")[2] == ending
        assert [json.loads(row)["prompt"] for row in read_lines(Path(path))] == ["q", "r"]
    before = sorted(here.rglob("*"))
    for data, said in [
        (lines.decode().encode("utf-16"), "-: is UTF-16 text; pipe it through iconv -f UTF-16 -t UTF-8"),
        (json.dumps(ROWS[0], indent=1).encode(),
         "-: holds a JSON object over several lines, and a row is one line; pipe it through jq -c ."),
        (gzip.compress(lines)[:20], "-: cannot be read to its end (Compressed file ended before"),
    ]:  # fmt: skip
        monkeypatch.setattr("sys.stdin", Pipe(data))
        assert refused("-").startswith(said)
    assert sorted(here.rglob("*")) == before
    monkeypatch.setattr("sys.stdin", None)  # as a shell closes it: <&-
    assert refused("-") == "-: standard input is closed; pipe rows into it"
