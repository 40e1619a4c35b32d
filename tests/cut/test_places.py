"""Where a cut puts its files: names that are told apart, fit the content, and can be written."""

import gzip
import io
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.cut.places import planned
from geofilter.errors import InputError
from geofilter.rows.formats import format_of
from geofilter.rows.lines import read_lines

ROWS = [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 3)) for i in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scan(tiny, bank: Path, *data: str) -> None:
    done = geofilter("scan", *data, "--model", tiny[0], "--sae", tiny[1], "--bank", bank, "-q")
    assert done.returncode == 0, done.stderr


def cut(*args: str) -> dict:
    done = geofilter("filter", "--drop", "2", *args, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(*args: str) -> str:
    done = geofilter("filter", "--drop", "1", *args)
    assert done.returncode == 2
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


def kept(inputs: list[str], out: Path | None = None) -> list[str]:
    return [str(place.kept) for place in planned([Path(name) for name in inputs], out, None)]


def test_inputs_of_one_stem_are_cut_together(tiny, tiny_bank: Path, here: Path):
    (here / "a.jsonl").write_bytes(LINES)
    (here / "a.json").write_text(json.dumps(ROWS))
    (here / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    write_rows(here / "b.jsonl", ROWS)
    names = ["a.jsonl", "a.json", "a.jsonl.gz", "b.jsonl"]
    scan(tiny, tiny_bank, *names)
    report = cut()
    assert (report["counts"]["kept"], report["counts"]["removed"]) == (14, 2)
    found = ["a.jsonl.filtered.jsonl", "a.json.filtered.json", "a.jsonl.gz.filtered.jsonl.gz", "b.filtered.jsonl"]
    assert [file["outputs"]["kept"] for file in report["files"]] == found
    assert sum(len(list(read_lines(Path(name)))) for name in found) == 14
    stems = ["a.json", "a.jsonl", "a.jsonl.gz", "b"]
    for kind in ("removed.jsonl", "quarantined.jsonl", "report.html", "report.md"):
        assert {path.name for path in here.glob(f"*.{kind}")} == {f"{stem}.{kind}" for stem in stems}


def test_inputs_of_one_name_in_several_folders_are_told_apart_in_one(here: Path):
    inputs = ["x/a.jsonl", "y/a.jsonl", "z/x/a.jsonl", "b.jsonl"]
    for name in inputs:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(LINES)
    (out := here / "out").mkdir()
    assert kept(inputs) == ["x/a.filtered.jsonl", "y/a.filtered.jsonl", "z/x/a.filtered.jsonl", "b.filtered.jsonl"]
    assert kept(inputs[:2], out) == [f"{out}/x-a.jsonl.filtered.jsonl", f"{out}/y-a.jsonl.filtered.jsonl"]
    top = here.name
    assert [Path(name).name.removesuffix(".jsonl.filtered.jsonl") for name in kept(inputs[:3], out)] == [
        f"{top}-x-a", f"{top}-y-a", "z-x-a"
    ]  # fmt: skip
    assert kept(inputs, out)[-1] == f"{out}/b.filtered.jsonl"
    (here / "b.filtered.jsonl").write_bytes(LINES)
    with pytest.raises(InputError, match=r"b\.filtered\.jsonl: would overwrite an input or another output"):
        kept(["b.jsonl", "b.filtered.jsonl"])


def test_a_file_without_an_ending_gets_the_one_that_fits(here: Path):
    pq.write_table(pa.Table.from_pylist(ROWS), "pq")
    with pa.ipc.new_file("ipc", (rows := pa.Table.from_pylist(ROWS)).schema) as writer:
        writer.write_table(rows)
    (here / "lines").write_bytes(LINES)
    (here / "packed").write_bytes(lzma.compress(LINES))
    (here / "array").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    (here / "named.jsonl").write_bytes(gzip.compress(LINES))  # what a name says stays
    for name, ending in [
        ("pq", ".parquet"), ("ipc", ".arrow"), ("lines", ".jsonl"), ("packed", ".jsonl.xz"), ("array", ".json.gz"),
    ]:  # fmt: skip
        assert kept([name]) == [f"{name}.filtered{ending}"]
    assert kept(["named.jsonl"]) == ["named.filtered.jsonl"]


def test_a_place_that_cannot_be_written_is_refused(tiny, tiny_bank: Path, here: Path):
    name = "x" * 240 + ".jsonl"
    (here / name).write_bytes(LINES)
    scan(tiny, tiny_bank, name)
    before = sorted(here.iterdir())
    said = refused()
    assert "x" * 240 in said
    assert said.endswith(": cannot be written (File name too long); give another name with --out")
    assert refused("--out", "new/").startswith("--out new/: no such folder; make it first: mkdir -p new/")
    assert refused("--out", "k.jsonl", "--removed", "-") == (
        "--removed -: removed rows are written to a file only; name one"
    )
    for ending in (".lz4", ".zip", ".7Z", ".tar"):
        said = f"k.jsonl{ending}: {ending} is not written; name it .jsonl, or one of .gz, .zst, .bz2, .xz"
        assert refused("--out", f"k.jsonl{ending}") == f"--out {said}"
        assert refused("--out", "k.jsonl", "--removed", f"k.jsonl{ending}") == f"--removed {said}"
    assert sorted(here.iterdir()) == before
    (here / "new").mkdir()
    cut("--out", "k.jsonl")
    (here / name).rename("short.jsonl")
    scan(tiny, tiny_bank, "short.jsonl")
    assert cut("--out", "new/")["files"][0]["outputs"]["kept"] == "new/short.filtered.jsonl"


def test_a_file_given_twice_is_refused_by_a_check_too(here: Path):
    (here / "a.jsonl").write_bytes(LINES)
    done = geofilter("scan", "--check", "a.jsonl", "./a.jsonl")
    assert (done.returncode, "./a.jsonl: is given twice (also as a.jsonl), by name" in done.stderr) == (2, True)


def test_a_table_through_a_pipe_comes_out_of_one_as_it_went_in(tiny, tiny_bank: Path, here: Path, monkeypatch):
    records = [b"q %d;answer %d\n" % (i, i) for i in range(6)]
    table = b"prompt;completion\n" + b"".join(records)
    monkeypatch.setattr("sys.stdin", type("Pipe", (), {"buffer": io.BytesIO(table)})())
    scan(tiny, tiny_bank, "-")
    report = cut()
    found = (here / report["files"][0]["outputs"]["kept"]).read_bytes()
    assert format_of(here / report["files"][0]["outputs"]["kept"]).endings == (".csv",)
    header, *left = found.splitlines(keepends=True)
    assert header == b"prompt;completion\n"
    assert left == [record for record in records if record in left]
    assert len(left) == 4
